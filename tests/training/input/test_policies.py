"""The policies' operations against formulas written out, and that the policies draw what is published."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from mobilenets_tf.training.input.policies import AUTOAUGMENT, OPERATIONS, RANDAUGMENT, autoaugment, randaugment

NEAREST = Image.Resampling.NEAREST


@pytest.fixture(scope="module")
def picture():
    """Colours that differ from side to side and are not centred, 33 x 31: on it no two operations look alike."""
    random = np.random.default_rng(0)
    row, column = np.mgrid[0:31, 0:33]
    planes = np.stack([4 * row + 20, 6 * column + 10, 3 * (row + column) + 30], -1)
    return Image.fromarray(np.clip(planes + random.integers(-20, 20, planes.shape), 5, 240).astype(np.uint8))


def apply(name, image, magnitude):
    return np.asarray(OPERATIONS[name].apply(image, magnitude))


@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if operation.most])
def test_no_magnitude_is_the_identity_and_the_greatest_is_not(picture, name):
    assert np.array_equal(apply(name, picture, 0.0), picture)
    assert not np.array_equal(apply(name, picture, OPERATIONS[name].most), picture)
    if OPERATIONS[name].signed:
        assert not np.array_equal(apply(name, picture, -OPERATIONS[name].most), picture)


def test_the_greatest_magnitudes_are_the_papers():
    enhancements = dict.fromkeys(("brightness", "colour", "contrast", "sharpness"), 0.9)
    geometry = {"shear_x": 0.3, "shear_y": 0.3, "rotate": 30, "translate_x": 150 / 331, "translate_y": 150 / 331}
    levels = {"posterize": 4, "solarize": 256}
    assert {name: op.most for name, op in OPERATIONS.items() if op.most} == enhancements | geometry | levels
    assert {name for name, op in OPERATIONS.items() if op.signed} == set(enhancements | geometry)


def test_geometry_moves_pixels_as_far_as_it_says_and_fills_with_grey(picture):
    pixels = np.asarray(picture)
    moved = apply("translate_x", picture, 10 / 33)
    assert np.array_equal(moved[:, :23], pixels[:, 10:])
    assert (moved[:, 23:] == 128).all()
    moved = apply("translate_y", picture, -7 / 31)
    assert np.array_equal(moved[7:], pixels[:24])
    assert (moved[:7] == 128).all()
    sheared = apply("shear_x", picture, 0.3)
    shift = [int(0.5 + 0.3 * (row + 0.5)) for row in range(31)]  # of the pixel's centre
    assert all(np.array_equal(sheared[y, : 33 - shift[y]], pixels[y, shift[y] :]) for y in range(31))
    assert (sheared[30, 33 - shift[30] :] == 128).all()
    turned = np.asarray(OPERATIONS["shear_y"].apply(picture.transpose(Image.Transpose.TRANSPOSE), 0.3))
    assert np.array_equal(turned.transpose(1, 0, 2), sheared)
    square = picture.crop((0, 0, 31, 31))
    assert np.array_equal(apply("rotate", square, 90), np.rot90(np.asarray(square)))
    assert (apply("rotate", picture, 30)[0, 0] == 128).all()


def test_values_change_by_the_formulas(picture):
    pixels = np.asarray(picture).astype(int)
    assert np.array_equal(apply("posterize", picture, 3), pixels // 8 * 8)
    assert np.array_equal(apply("solarize", picture, 156), np.where(pixels < 100, pixels, 255 - pixels))
    assert np.array_equal(apply("invert", picture, 0), 255 - pixels)
    assert np.abs(apply("brightness", picture, -0.4) - 0.6 * pixels).max() <= 1
    grey = pixels @ [0.299, 0.587, 0.114]
    assert np.abs(apply("colour", picture, -0.9) - (0.1 * pixels + 0.9 * grey[..., None])).max() <= 2
    expected = (1.5 * (pixels - grey.mean()) + grey.mean()).clip(0, 255)
    assert np.abs(apply("contrast", picture, 0.5) - expected).max() <= 2
    stretched = apply("autocontrast", picture, 0)
    assert (stretched.min((0, 1)) == 0).all()
    assert (stretched.max((0, 1)) == 255).all()


def test_autoaugments_table_is_whole():
    assert len(AUTOAUGMENT) == 25
    for pair in AUTOAUGMENT:
        assert len(pair) == 2
        for name, probability, level in pair:
            assert name in OPERATIONS
            assert round(5 * probability, 6) in range(6)
            assert level in range(10)


# Every operation and level of the table, as what table 6 makes of it.
LEVELS = {
    ("posterize", 5): [lambda image: ImageOps.posterize(image, 6)],
    ("posterize", 6): [lambda image: ImageOps.posterize(image, 6)],
    ("posterize", 7): [lambda image: ImageOps.posterize(image, 5)],
    ("posterize", 8): [lambda image: ImageOps.posterize(image, 5)],
    ("solarize", 3): [lambda image: ImageOps.solarize(image, 179)],
    ("solarize", 4): [lambda image: ImageOps.solarize(image, 154)],
    ("solarize", 5): [lambda image: ImageOps.solarize(image, 128)],
    ("solarize", 7): [lambda image: ImageOps.solarize(image, 77)],
    ("solarize", 8): [lambda image: ImageOps.solarize(image, 51)],
    ("colour", 0): [lambda image: ImageEnhance.Color(image).enhance(0.1)],
    ("colour", 2): [lambda image: ImageEnhance.Color(image).enhance(0.46)],
    ("colour", 4): [lambda image: ImageEnhance.Color(image).enhance(0.82)],
    ("colour", 8): [lambda image: ImageEnhance.Color(image).enhance(1.54)],
    ("contrast", 8): [lambda image: ImageEnhance.Contrast(image).enhance(1.54)],
    ("sharpness", 7): [lambda image: ImageEnhance.Sharpness(image).enhance(1.36)],
    **{
        ("rotate", level): [
            lambda image, degrees=sign * 3 * level: image.rotate(degrees, NEAREST, fillcolor=(128, 128, 128))
            for sign in (1, -1)
        ]
        for level in (3, 8, 9)
    },
    ("shear_x", 5): [
        lambda image, shear=shear: image.transform(
            image.size, Image.Transform.AFFINE, (1, shear, 0, 0, 1, 0), fillcolor=(128, 128, 128)
        )
        for shear in (0.15, -0.15)
    ],
}
PLAIN = {"equalize": ImageOps.equalize, "autocontrast": ImageOps.autocontrast, "invert": ImageOps.invert}


def forms(name, level):
    return [PLAIN[name]] if name in PLAIN else LEVELS[name, level]


def outcomes(image, policies=AUTOAUGMENT):
    """Content -> probability, of everything that the policies can make of the image."""
    found = Counter()
    for pair in policies:
        choices = []
        for name, probability, level in pair:
            ways = forms(name, level)
            choices.append([(lambda image: image, 1 - probability)] + [(way, probability / len(ways)) for way in ways])
        for (first, p), (second, q) in product(*choices):
            if p * q:
                found[second(first(image)).tobytes()] += p * q / len(policies)
    return found


def test_autoaugment_makes_what_the_table_says_as_often_as_it_says(picture):
    random = np.random.default_rng(1)
    draws = 4000
    seen = Counter(autoaugment(picture, 1.0, random).tobytes() for _ in range(draws))
    expected = outcomes(picture)
    assert sum(expected.values()) == pytest.approx(1)
    assert not set(seen) - set(expected)
    for content, probability in expected.items():
        deviation = (draws * probability * (1 - probability)) ** 0.5
        assert abs(seen[content] - draws * probability) < 5 * deviation + 1


def test_without_strength_autoaugment_keeps_only_what_has_no_magnitude(picture):
    random = np.random.default_rng(2)
    seen = {autoaugment(picture, 0.0, random).tobytes() for _ in range(2000)}
    plain = [
        tuple((name, probability if name in PLAIN else 0.0, level) for name, probability, level in pair)
        for pair in AUTOAUGMENT
    ]
    assert seen == set(outcomes(picture, plain))


def one_operation(picture, magnitude, strength):
    """Content -> name, of everything that RandAugment with one operation can make of the picture."""
    found = {}
    for name in RANDAUGMENT:
        amount = OPERATIONS[name].most * magnitude / 30 * strength
        for sign in (1, -1) if OPERATIONS[name].signed else (1,):
            found[apply(name, picture, sign * amount).tobytes()] = name
    return found


def test_randaugment_draws_all_fourteen_equally_and_both_signs(picture):
    known = one_operation(picture, 9, 1.0)
    assert len(RANDAUGMENT) == 14
    assert len(known) == 14 + 9
    random = np.random.default_rng(3)
    seen = Counter(randaugment(picture, 1, 9, 1.0, random).tobytes() for _ in range(2800))
    assert set(seen) == set(known)
    times = Counter()
    for content, count in seen.items():
        times[known[content]] += count
    assert all(130 < count < 270 for count in times.values())
    assert all(55 < seen[content] < 145 for content, name in known.items() if OPERATIONS[name].signed)


def test_strength_scales_randaugments_magnitude(picture):
    def draw(magnitude, strength):
        random = np.random.default_rng(4)
        return {randaugment(picture, 1, magnitude, strength, random).tobytes() for _ in range(500)}

    assert draw(18, 0.5) == draw(9, 1.0) == set(one_operation(picture, 9, 1.0))
    assert draw(18, 1.0) != draw(9, 1.0)


def test_randaugment_applies_as_many_operations_as_asked(picture):
    assert np.array_equal(randaugment(picture, 0, 9, 1.0, np.random.default_rng(0)), picture)
    once = set(one_operation(picture, 9, 1.0))
    random = np.random.default_rng(5)
    twice = [randaugment(picture, 2, 9, 1.0, random).tobytes() for _ in range(200)]
    assert sum(content not in once for content in twice) > 100
