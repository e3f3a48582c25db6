"""From a photograph to the network's input."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image

from mobilenets_tf import Preprocessing, RequestError


@pytest.mark.parametrize("size", [(640, 480), (30, 200), (1, 1)])
def test_stretching_squeezes_the_whole_picture_into_the_square(size):
    image = Image.effect_noise(size, 80).convert("RGB")
    stretched = Preprocessing(32, resampling="bicubic", crop="stretch").geometry(image)
    assert np.array_equal(stretched, image.resize((32, 32), Image.Resampling.BICUBIC))


def test_stretching_has_no_crop_to_speak_of():
    base = replace(Preprocessing(224, 256, mean=(1, 2, 3)), crop="stretch")
    assert (base.size, base.resize, base.mean) == (224, 224, (1, 2, 3))
    assert (base.at(321).size, base.at(321).resize) == (321, 321)
    assert Preprocessing.of({"preprocessing": asdict(base)}) == base


def test_unknown_crops_are_refused():
    with pytest.raises(RequestError, match="Unknown crop 'strech'. Did you mean 'stretch'"):
        Preprocessing(crop="strech")
