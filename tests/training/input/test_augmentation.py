"""Random crops, mirroring and colours of one image."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mobilenets_tf import RequestError
from mobilenets_tf.training.input.augmentation import augmented, crop_box, distorted, random_for
from mobilenets_tf.training.recipes import Augment

WHOLE = Augment(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=False)


@pytest.fixture(scope="module")
def picture():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((60, 60), Image.Resampling.BICUBIC)


def test_crops_are_inside_and_their_areas_aspects_and_places_are_spread_as_asked():
    augment = Augment(area=(0.1, 0.3), aspect=(3 / 4, 4 / 3))
    random = np.random.default_rng(0)
    boxes = np.array([crop_box(1000, 900, augment, random) for _ in range(4000)])
    left, top, right, bottom = boxes.T
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= 1000 and bottom.max() <= 900
    width, height = right - left, bottom - top
    area, aspect = width * height / 900_000, np.log(width / height)
    assert 0.0995 < area.min() < 0.102 and 0.298 < area.max() < 0.3005
    assert area.mean() == pytest.approx(0.2, abs=0.004)
    assert np.abs(aspect).max() < math.log(4 / 3) + 0.005
    assert aspect.mean() == pytest.approx(0, abs=0.012)
    assert aspect.std() == pytest.approx(2 * math.log(4 / 3) / math.sqrt(12), rel=0.04)
    for place in (left / (1000 - width), top / (900 - height)):
        assert place.mean() == pytest.approx(0.5, abs=0.02)
        assert place.min() < 0.01 and place.max() > 0.99


@pytest.mark.parametrize(
    ("size", "box"),
    [((1000, 12), (492, 0, 508, 12)), ((12, 1000), (0, 492, 12, 508)), ((100, 110), (0, 0, 100, 110))],
)
def test_where_no_crop_fits_the_middle_is_taken_with_an_aspect_in_range(size, box):
    augment = Augment(area=(1.2, 1.2), aspect=(3 / 4, 4 / 3))
    assert crop_box(*size, augment, np.random.default_rng(0)) == box


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_the_smallest_images_give_a_result_too(size):
    augment = Augment(area=(0.05, 1.0), aspect=(0.3, 3.0), colour=True, policy="autoaugment")
    image = Image.new("RGB", size, (200, 100, 50))
    for seed in range(50):
        assert augmented(image, 16, augment, 1.0, random_for(seed)).shape == (16, 16, 3)


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_the_whole_image_is_plainly_resized(picture, name):
    result = augmented(picture, 32, replace(WHOLE, interpolation=name), 1.0, random_for(0))
    assert result.dtype == np.uint8
    assert np.array_equal(result, picture.resize((32, 32), Image.Resampling[name.upper()]))


def test_a_large_photograph_is_resized_almost_as_without_the_reduction_before():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    large = Image.fromarray(pixels).resize((1500, 1500), Image.Resampling.BICUBIC)
    plain = np.asarray(large.resize((100, 100), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(augmented(large, 100, WHOLE, 1.0, random_for(0)) - plain).mean() < 1


def test_random_interpolation_is_either_one_half_the_time(picture):
    plain = {
        kind: picture.resize((32, 32), Image.Resampling[kind]).tobytes() for kind in ("BILINEAR", "BICUBIC")
    }  # fmt: skip
    augment = replace(WHOLE, interpolation="random")
    results = [augmented(picture, 32, augment, 1.0, random_for(0, index)).tobytes() for index in range(400)]
    assert set(results) == set(plain.values())
    assert 150 < results.count(plain["BICUBIC"]) < 250


def test_half_of_the_images_are_mirrored(picture):
    plain = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR))
    augment = replace(WHOLE, flip=True)
    results = [augmented(picture, 32, augment, 1.0, random_for(0, index)) for index in range(400)]
    mirrored = [np.array_equal(result, plain[:, ::-1]) for result in results]
    assert all(flipped or np.array_equal(result, plain) for result, flipped in zip(results, mirrored, strict=True))
    assert 150 < sum(mirrored) < 250


@pytest.mark.parametrize("policy", ["autoaugment", "randaugment"])
def test_a_seed_gives_the_same_bytes_in_any_thread_and_another_seed_others(picture, policy):
    augment = Augment(interpolation="random", colour=True, policy=policy)

    def result(index):
        return augmented(picture, 32, augment, 1.0, random_for(7, 3, index)).tobytes()

    alone = [result(index) for index in range(64)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(result, range(64))) == alone
    assert len(set(alone)) == 64


def test_strength_reaches_the_policy(picture):
    augment = replace(WHOLE, policy="randaugment", operations=1)
    plain = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR))
    changed = {
        strength: sum(
            not np.array_equal(augmented(picture, 32, augment, strength, random_for(1, index)), plain)
            for index in range(140)
        )
        for strength in (0.0, 1.0)
    }
    assert changed[0.0] < 40 < 100 < changed[1.0]  # two of 14 operations have no magnitude, 13 change something


def test_positions_have_random_numbers_of_their_own():
    positions = [(), *((i,) for i in range(50)), *((i, j) for i in range(20) for j in range(20)), (0, 0, 0), (0, 0, 1)]
    draws = {(seed, p): tuple(random_for(seed, *p).random(9)) for seed in (-1, 0, 1, 2**40) for p in positions}
    numbers = np.array(list(draws.values()))
    assert len(np.unique(numbers)) == numbers.size
    assert numbers.mean() == pytest.approx(0.5, abs=0.02)
    assert abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 0.1
    assert np.array_equal(random_for(5, 1, 2).random(9), random_for(5, 1, 2).random(9))


@pytest.mark.parametrize("order", range(4))
def test_colours_change_as_tensorflow_changes_them(order):
    import tensorflow as tf

    slim = (
        ("brightness", "saturation", "hue", "contrast"),
        ("saturation", "brightness", "contrast", "hue"),
        ("contrast", "hue", "brightness", "saturation"),
        ("hue", "saturation", "contrast", "brightness"),
    )
    random = np.random.default_rng(order)
    for trial in range(12):
        pixels = random.integers(0, 256, (17, 23, 3), dtype=np.uint8)
        if trial % 3 == 0:
            pixels = pixels // 85 * 85  # black, white, greys and equal greatest colours
        brightness, hue = random.uniform(-32, 32), random.uniform(-0.2, 0.2)
        saturation, contrast = random.uniform(0.5, 1.5, 2)
        expected = tf.constant(pixels, tf.float32) / 255
        for step in slim[order]:
            amount = {"brightness": brightness / 255, "saturation": saturation, "hue": hue, "contrast": contrast}[step]
            expected = getattr(tf.image, f"adjust_{step}")(expected, amount)
        expected = tf.clip_by_value(expected, 0, 1).numpy() * 255
        assert np.abs(distorted(pixels, order, brightness, saturation, hue, contrast) - expected).max() < 0.51


def test_brightness_is_drawn_from_both_sides(picture):
    grey = Image.new("RGB", (20, 20), (100, 100, 100))  # neither hue, saturation nor contrast can change it
    augment = replace(WHOLE, colour=True)
    levels = {int(augmented(grey, 8, augment, 1.0, random_for(0, index)).max()) for index in range(300)}
    assert 68 <= min(levels) < 72 and 128 < max(levels) <= 132


def test_unknown_names_are_refused(picture):
    with pytest.raises(RequestError, match="Unknown interpolation 'bilinar'. Did you mean 'bilinear'"):
        augmented(picture, 32, Augment(interpolation="bilinar"), 1.0, random_for(0))
    with pytest.raises(RequestError, match="Unknown augmentation policy 'autoaugmnt'. Did you mean 'autoaugment'"):
        augmented(picture, 32, Augment(policy="autoaugmnt"), 1.0, random_for(0))
