"""From a photograph to the network's input."""

from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from mobilenets_tf import Preprocessing, RequestError


@pytest.mark.parametrize("size", [(640, 480), (30, 200), (1, 1)])
def test_stretching_squeezes_the_whole_picture_into_the_square(size):
    image = Image.effect_noise(size, 80).convert("RGB")
    stretched = Preprocessing(32, interpolation="bicubic", crop="stretch").geometry(image)
    assert np.array_equal(stretched, image.resize((32, 32), Image.Resampling.BICUBIC))


def test_stretching_has_no_crop_to_speak_of():
    base = Preprocessing(224, 256, mean=(1, 2, 3), crop="resize_then_crop").whole()
    assert (base.size, base.resize, base.mean) == (224, 224, (1, 2, 3))
    assert (base.at(321).size, base.at(321).resize) == (321, 321)
    assert Preprocessing.of({"preprocessing": asdict(base)}) == base


def test_a_photograph_becomes_what_keras_own_loader_makes_of_it(tmp_path):
    """A model trained with ``keras.utils.image_dataset_from_directory`` gets the same pixels here: the whole
    photograph, bilinear without antialiasing. The loader keeps fractions; here pixels are whole."""
    import keras

    random = np.random.default_rng(0)
    for index, (width, height) in enumerate(((640, 480), (30, 200), (1, 1))):
        noise = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{index}.png")
    loaded = keras.utils.image_dataset_from_directory(
        tmp_path, labels=None, image_size=(96, 96), batch_size=None, shuffle=False, verbose=False
    )
    for path, expected in zip(sorted(tmp_path.iterdir()), loaded, strict=True):
        pixels = Preprocessing(96).geometry(Image.open(path)).astype(np.float32)
        assert np.abs(pixels - np.asarray(expected)).max() < 0.501


def test_a_crop_that_is_not_said_is_not_guessed():
    with pytest.raises(RequestError, match="resize=256 is for a crop, and the whole photograph is taken"):
        Preprocessing(224, 256)
    assert Preprocessing(96, crop="crop_then_resize").resize == 96
    with pytest.raises(RequestError, match="Unknown interpolation 'bicubc'. Did you mean 'bicubic'"):
        Preprocessing(interpolation="bicubc")


@pytest.mark.parametrize("crop", ["crop_then_resize", "resize_then_crop", "stretch"])
def test_keras_interpolation_works_with_every_crop(crop):
    image = Image.effect_noise((50, 40), 80).convert("RGB")
    resize = None if crop == "stretch" else 36
    pixels = Preprocessing(32, resize, crop=crop).geometry(image)
    smooth = Preprocessing(32, resize, "bilinear", crop=crop).geometry(image)
    assert pixels.shape == (32, 32, 3)
    assert np.abs(pixels.astype(float) - smooth).mean() < 20  # the same part of the image, in the same place


@pytest.mark.parametrize(
    "mean, std", [(np.nan, 1), (np.inf, 1), (127.5, np.nan), (127.5, np.inf), (127.5, 0), (127.5, -1), (0, 1e308),
                  (0, 1e-320), (1e300, 1)],
)  # fmt: skip
def test_a_normalisation_that_gives_no_picture_is_refused(mean, std):
    with pytest.raises(RequestError, match="expected values in pixels"):
        Preprocessing(mean=(127.5, mean, 127.5), std=(127.5, std, 127.5))


def test_unknown_crops_are_refused():
    with pytest.raises(RequestError, match="Unknown crop 'strech'. Did you mean 'stretch'"):
        Preprocessing(crop="strech")


@pytest.mark.parametrize("crop", ["stretch", "crop_then_resize", "resize_then_crop"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_image_need_be_neither_square_nor_rgb(crop, channels):
    """A gradient from left to right, and one from top to bottom: a crop cuts as much off as it should, of the right
    side, and keeps the aspect ratio."""
    rows, columns = np.mgrid[:120, :240]
    planes = np.stack([columns, 2 * rows, 0 * rows, 255 - columns], -1).astype(np.uint8)
    image = Image.fromarray(planes, "RGBA")
    resize = None if crop == "stretch" else 50
    preprocessing = Preprocessing((40, 60), resize, mean=(0,) * channels, std=(1,) * channels, crop=crop)
    pixels = preprocessing.geometry(image)
    assert pixels.shape == (40, 60, channels) and preprocessing.channels == channels
    # Of 240 columns the largest part of 60:40 has 180, of which 40/50 are 144; of 120 rows 96.
    left, right, top, bottom = (0, 239, 0, 238) if crop == "stretch" else (48, 191, 24, 214)
    if channels == 1:
        expected = np.asarray(image.convert("RGB").convert("L")).mean()
        assert abs(pixels.mean() - expected) < 1
        return
    edges = pixels[20, 0, 0], pixels[20, -1, 0], pixels[0, 30, 1], pixels[-1, 30, 1]
    assert np.abs(np.subtract(edges, (left, right, top, bottom), dtype=int)).max() <= 4
    assert channels == 3 or np.abs(pixels[..., 3].astype(int) + pixels[..., 0] - 255).max() <= 2


def test_a_preprocessing_of_an_image_has_its_sides_and_channels():
    base = Preprocessing(224, 256, mean=(127.5,) * 3, std=(127.5,) * 3, crop="resize_then_crop")
    grey = base.of_image((56, 112, 1))
    assert (grey.size, grey.resize, grey.mean) == ((56, 112), 64, (127.5,))
    assert Preprocessing.of({"preprocessing": asdict(grey)}) == grey
    assert Preprocessing.of({"preprocessing": {**asdict(grey), "size": [56, 112]}}) == grey
    assert Preprocessing((96, 96)) == Preprocessing(96)
    with pytest.raises(RequestError, match="for 3 channels, and the input has 4"):
        Preprocessing(mean=(1, 2, 3)).of_image((8, 8, 4))
    with pytest.raises(RequestError, match=r"one number of pixels, or \(height, width\)"):
        Preprocessing((1, 2, 3))
