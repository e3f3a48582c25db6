"""Finding images and what classes they are of."""

import numpy as np
import pytest
from PIL import Image

from mobilenets_tf import RequestError
from mobilenets_tf.data import images
from mobilenets_tf.data.images import find_images


def test_a_class_without_images_is_named_before_it_shifts_the_others(image_folder):
    (image_folder / "aa").mkdir()
    with pytest.raises(RequestError, match="sub-folder 'aa' has no images"):
        find_images(image_folder)


def test_a_class_that_the_model_knows_may_be_without_images(image_folder):
    (image_folder / "aa").mkdir()
    found = find_images(image_folder, ["a", "aa", "b"])
    assert sorted(set(found.labels)) == [0, 2]


def test_a_hidden_folder_is_no_class(image_folder):
    (image_folder / ".thumbnails").mkdir()
    assert sorted(set(find_images(image_folder).labels)) == [0, 1]


def test_images_of_more_than_eight_bits(tmp_path):
    grey = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    Image.fromarray(grey.astype(np.uint16)).save(tmp_path / "sixteen.png")
    found = np.asarray(images.decode(tmp_path / "sixteen.png"))
    np.testing.assert_array_equal(found, np.repeat(grey.astype(np.uint16)[..., None] // 256, 3, -1))
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "real.tiff")
    with pytest.raises(RequestError, match="real.tiff is not a readable image .*32 bits a pixel"):
        images.decode(tmp_path / "real.tiff")
