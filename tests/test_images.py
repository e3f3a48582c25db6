"""Finding images and what classes they are of."""

import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.images import find_images


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
