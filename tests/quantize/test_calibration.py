"""Calibration data: what is right goes through, what is wrong is refused or warned of, with the reason."""

import numpy as np
import pytest

from mobilenets_tf import Preprocessing, RequestError
from mobilenets_tf.data.images import find_images
from mobilenets_tf.quantize import Calibration
from tests.conftest import photographs

SHAPES = {"image": (1, 64, 64, 3)}


def consume(samples, value_range=(-1.0, 1.0), shapes=SHAPES):
    calibration = Calibration(samples, value_range)
    batches = list(calibration.batches(shapes))
    return calibration.findings, batches


def test_good_images_raise_no_warning(pictures):
    findings, batches = consume(pictures)
    assert findings.samples == 100 and not findings.warnings
    assert batches[0][0].shape == (1, 64, 64, 3)
    assert (findings.low, findings.high) == (pictures.min(), pictures.max())
    assert findings.mean == pytest.approx(pictures.mean(), abs=1e-4)


@pytest.mark.parametrize("form", ["samples", "batched", "pairs", "dicts", "generator"])
def test_every_form_of_samples_gives_the_same(pictures, form):
    forms = {
        "samples": list(pictures),
        "batched": [pictures[:64], pictures[64:]],
        "pairs": [(picture[None], 3) for picture in pictures],
        "dicts": [{"image": picture} for picture in pictures],
        "generator": (picture for picture in pictures),
    }
    _, batches = consume(forms[form])
    np.testing.assert_array_equal(np.concatenate([arrays[0] for arrays in batches]), pictures)


def noise(count):
    return np.random.default_rng(0).uniform(-1, 1, (count, 64, 64, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (noise(100), "100 of 100 calibration samples are noise"),
        (np.full((100, 64, 64, 3), 0.5, np.float32), "constant"),
        (np.repeat(photographs(1), 100, axis=0), "99 of 100 calibration samples are copies"),
        ((photographs(100) + 1) * 127.5, "look like pixels that were not normalised"),
        ((photographs(100) - 127.0) / 128, "gives -1 to 1"),
        (photographs(100) * 0.01, "normalised twice"),
        (np.where(np.arange(100)[:, None, None, None] == 40, np.nan, photographs(100)), "sample 41.*not finite"),
        (photographs(100, size=32), r"'image' has shape \(32, 32, 3\); the model takes \(64, 64, 3\)"),
        ([{"picture": photographs(1)[0]}], "no 'image'; it has 'picture'"),
        ([], "no calibration samples"),
    ],
)
def test_what_is_certainly_wrong_is_refused(samples, reason):
    with pytest.raises(RequestError, match=reason):
        consume(samples)


@pytest.mark.filterwarnings("ignore:Only 9")
@pytest.mark.parametrize(
    ("samples", "value_range", "warning"),
    [
        (noise(100), None, "100 of 100 calibration samples are noise"),
        (np.full((9, 64, 64, 3), 0.001, np.float32), (-1, 1), "they look normalised twice"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*(constant|copies)")
def test_those_who_know_have_a_switch(samples, value_range, warning):
    with pytest.raises(RequestError, match="--trust-calibration"):
        list(Calibration(samples, value_range).batches(SHAPES))
    with pytest.warns(UserWarning, match=warning):
        assert len(list(Calibration(samples, value_range, trusted=True).batches(SHAPES))) == len(samples)


@pytest.mark.parametrize(
    ("samples", "warning"),
    [
        (photographs(99), "Only 99 calibration samples"),
        (np.concatenate([photographs(100), noise(5)]), "5 of 105 calibration samples are noise"),
        (np.concatenate([photographs(100), photographs(3)]), "3 of 103 calibration samples are copies"),
        (np.concatenate([photographs(100), np.zeros((2, 64, 64, 3), np.float32)]), "2 of 102.*constant"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*copies of another")  # of the two constant ones
def test_what_is_doubtful_is_warned_of(samples, warning):
    with pytest.warns(UserWarning, match=warning):
        consume(samples)


def test_inputs_that_are_no_images_are_not_taken_for_noise():
    features = np.random.default_rng(0).normal(size=(120, 16)).astype(np.float32)
    findings, _ = consume(features, None, {"features": (1, 16)})
    assert findings.noise == 0 and not findings.warnings


def test_from_a_folder_streams_and_names_its_files(image_folder):
    preprocessing = Preprocessing(64, 64)
    calibration = Calibration.from_images(find_images(image_folder), preprocessing)
    with pytest.warns(UserWarning, match="Only 10"):
        assert len(list(calibration.batches(SHAPES))) == 10
    manifest = calibration.manifest()
    assert manifest["samples"] == 10
    assert [entry["file"] for entry in manifest["files"]][:2] == ["0.png", "2.png"]
    assert all(len(entry["sha256"]) == 64 for entry in manifest["files"])


def test_a_path_is_no_sample():
    with pytest.raises(RequestError, match="from_images"):
        Calibration("photos/")
