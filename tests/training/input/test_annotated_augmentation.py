"""Random crops, mirroring and colours of an image together with its boxes or mask."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mobilenets_tf import Preprocessing, RequestError
from mobilenets_tf.data.boxes import Boxes
from mobilenets_tf.training.input.annotated_augmentation import with_boxes, with_mask
from mobilenets_tf.training.input.augmentation import random_for
from mobilenets_tf.training.recipes import Augment

WHOLE = Augment(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=False)
FRAME = (0.0, 0.0, 1.0, 1.0)


def boxes(*corners, ignored=False):
    count = len(corners)
    return Boxes(
        np.array(corners, np.float32).reshape(-1, 4), np.arange(count, dtype=np.int32), np.full(count, ignored)
    )


@pytest.fixture(scope="module")
def regions():
    """A picture of 90x60 whose four quarters and middle have reds of 40 times their class, and its mask."""
    mask = np.zeros((60, 90), np.uint8)
    mask[:30, 45:], mask[30:, :45], mask[30:, 45:], mask[20:40, 30:60] = 1, 2, 3, 4
    return Image.fromarray(np.dstack([mask * 40, mask * 0, mask * 0])), mask


def test_without_augmentation_it_is_what_judging_sees(regions):
    image, mask = regions
    given = boxes((0.1, 0.2, 0.3, 0.9), FRAME, ignored=True)
    pixels, found = with_boxes(image, given, 32, WHOLE, random_for(0))
    assert np.array_equal(pixels, Preprocessing(32, interpolation="bilinear").geometry(image))
    assert np.allclose(found.corners, given.corners) and found.classes.tolist() == [0, 1] and found.ignored.all()
    same, small = with_mask(image, mask, 32, WHOLE, random_for(0), void=255)
    assert np.array_equal(same, pixels)
    assert np.array_equal(small, Image.fromarray(mask).resize((32, 32), Image.Resampling.NEAREST))


def test_areas_aspects_and_places_of_crops_are_relative_to_the_picture_and_spread_as_asked():
    y, x = np.mgrid[:200, :250]
    image = Image.fromarray(np.dstack([x, y, x * 0]).astype(np.uint8))  # its colours tell where a pixel was
    augment = Augment(area=(0.1, 0.5), aspect=(3 / 4, 4 / 3), flip=False)
    views = [with_boxes(image, boxes(), 200, augment, random_for(0, n))[0] for n in range(600)]
    top_left, bottom_right = (np.array([view[place, place, :2] for view in views], float) for place in (0, -1))
    width, height = (bottom_right - top_left + 1).T / ((250,), (200,))
    area, aspect = width * height, np.log(width / height)
    assert 0.09 < area.min() < 0.12 and 0.48 < area.max() < 0.51
    assert area.mean() == pytest.approx(0.3, abs=0.02)
    assert np.abs(aspect).max() < math.log(4 / 3) + 0.03
    assert aspect.std() == pytest.approx(2 * math.log(4 / 3) / math.sqrt(12), rel=0.08)
    places = top_left / ((1 - np.stack([width, height], 1)) * (250, 200))
    assert np.allclose(places.mean(0), 0.5, atol=0.04) and places.min() < 0.02 and places.max() > 0.98


def test_above_one_the_whole_picture_lies_somewhere_on_grey():
    image = Image.new("RGB", (90, 60), (255, 255, 255))
    augment = Augment(area=(1.0, 9.0), aspect=(2 / 3, 3 / 2), colour=True, flip=False)
    shares, places = [], []
    for n in range(600):
        pixels, found = with_boxes(image, boxes(FRAME), 100, augment, random_for(0, n))
        ymin, xmin, ymax, xmax = (found.corners[0] * 100).round().astype(int)
        outside = np.ones((100, 100), bool)
        outside[ymin:ymax, xmin:xmax] = False
        assert (pixels[outside] == 127).all()
        assert not (pixels[~outside] == 127).any()
        shares.append((xmax - xmin) * (ymax - ymin) / 100**2)
        if max(ymax - ymin, xmax - xmin) < 90:
            places.append((ymin / (100 - ymax + ymin), xmin / (100 - xmax + xmin)))
    area = 1 / np.array(shares)
    assert 1 <= area.min() < 1.1 and 8.5 < area.max() < 9.5 and area.mean() == pytest.approx(5, abs=0.3)
    assert np.allclose(np.mean(places, 0), 0.5, atol=0.05) and np.min(places) == 0 and np.max(places) == 1


def test_boxes_stay_around_what_they_are_around():
    pixels = np.zeros((120, 160, 3), np.uint8)
    pixels[30:66, 40:104, 0] = 255
    image, given = Image.fromarray(pixels), boxes((30 / 120, 40 / 160, 66 / 120, 104 / 160), (0, 0, 0.01, 0.01))
    augment, gone = Augment(area=(0.05, 1.5), aspect=(0.5, 2.0)), 0
    for n in range(300):
        result, found = with_boxes(image, given, 128, augment, random_for(1, n))
        assert found.corners.min(initial=0) >= 0 and found.corners.max(initial=0) <= 1
        if 0 not in found.classes:
            gone += 1
            continue
        red = (result[..., 0] > 127) & (result[..., 1] < 64)
        rows, columns = red.any(1).nonzero()[0], red.any(0).nonzero()[0]
        seen = (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)
        assert np.abs(found.corners[found.classes == 0][0] * 128 - seen).max() < 1
    assert 20 < gone < 150


def test_a_box_stays_as_long_as_its_middle_can_be_seen():
    image, augment = Image.new("RGB", (100, 100)), replace(WHOLE, area=(0.25, 0.25))
    given = boxes(*((y, x, y + 0.2, x + 0.1) for y in np.arange(0, 0.8, 0.05) for x in np.arange(0, 0.9, 0.05)))
    middles = (given.corners[:, :2] + given.corners[:, 2:]) / 2
    for n in range(20):
        _, found = with_boxes(image, given, 64, augment, random_for(2, n))
        inside = middles[found.classes]
        low, high = inside.min(0), inside.max(0)
        assert (high - low <= 0.5 + 1e-6).all() and (high - low >= 0.3).all()
        stays = ((middles >= low) & (middles <= high)).all(1)
        assert np.array_equal(found.classes, stays.nonzero()[0])  # all in between and in their order


def test_masks_stay_where_their_regions_are(regions):
    image, mask = (np.repeat(np.repeat(each, 10, 0), 10, 1) for each in map(np.asarray, regions))
    image, augment, voids = Image.fromarray(image), Augment(area=(0.1, 4.0), aspect=(0.5, 2.0)), 0
    for n in range(80):
        pixels, found = with_mask(image, mask, 128, augment, random_for(3, n), void=200)
        void = found == 200
        assert np.array_equal(void, (pixels == 127).all(-1))
        voids += void.any()
        around = np.lib.stride_tricks.sliding_window_view(found, (3, 3))
        alike = (around == around[..., :1, :1]).all((2, 3)) & ~void[1:-1, 1:-1]
        assert alike.sum() > 2000
        assert np.abs(pixels[1:-1, 1:-1, 0][alike] - 40.0 * found[1:-1, 1:-1][alike]).max() < 3
    assert 40 < voids < 80


def test_half_are_mirrored_boxes_and_masks_too(regions):
    image, mask = regions
    augment, given = replace(WHOLE, flip=True), boxes((0.1, 0.2, 0.3, 0.9))
    plain, small = with_mask(image, mask, 32, WHOLE, random_for(0), void=255)
    mirrored = 0
    for n in range(200):
        pixels, found = with_boxes(image, given, 32, augment, random_for(4, n))
        same, there = with_mask(image, mask, 32, augment, random_for(4, n), void=255)
        flipped = np.array_equal(pixels, plain[:, ::-1])
        mirrored += flipped
        assert np.array_equal(same, pixels) and (flipped or np.array_equal(pixels, plain))
        assert np.array_equal(there, small[:, ::-1] if flipped else small)
        assert np.allclose(found.corners, [(0.1, 0.1, 0.3, 0.8) if flipped else (0.1, 0.2, 0.3, 0.9)])
    assert 75 < mirrored < 125


def test_a_seed_gives_the_same_bytes_in_any_thread_and_another_seed_others(regions):
    augment = Augment(area=(0.2, 3.0), interpolation="random", colour=True)

    def result(n):
        pixels, found = with_boxes(regions[0], boxes(FRAME), 32, augment, random_for(7, n))
        return pixels.tobytes() + found.corners.tobytes()

    alone = [result(n) for n in range(64)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(result, range(64))) == alone
    assert len(set(alone)) == 64


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_the_smallest_images_and_the_wildest_areas_give_a_result_too(size):
    augment = Augment(area=(1e-4, 1e4), aspect=(0.01, 100.0), colour=True)
    image, mask = Image.new("RGB", size, (200, 100, 50)), np.ones(size[::-1], np.uint8)
    for n in range(50):
        pixels, found = with_boxes(image, boxes(FRAME), 16, augment, random_for(n))
        assert pixels.shape == (16, 16, 3) and np.isfinite(found.corners).all()
        assert set(np.unique(with_mask(image, mask, 16, augment, random_for(n), 255)[1])) <= {1, 255}


@pytest.mark.parametrize("given", [{"policy": "randaugment"}, {"erase": 0.25}, {"mixup": 0.2}, {"cutmix": 1.0}])
def test_what_is_for_classifiers_is_refused(regions, given):
    ((name, value),) = given.items()
    with pytest.raises(RequestError, match=f"{name}={value!r} is for classifiers"):
        with_boxes(regions[0], boxes(FRAME), 32, replace(WHOLE, **given), random_for(0))
