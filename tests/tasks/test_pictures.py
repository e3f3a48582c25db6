"""Pictures: what is drawn is where it should be, can be seen, and is the same again."""

import numpy as np
import pytest
from PIL import Image

from mobilenets_tf.data.boxes import Detections
from mobilenets_tf.tasks import pictures
from mobilenets_tf.tasks.pictures import PALETTE, colour

# Machado, Oliveira, Fernandes 2009, severity 1, for linear RGB: normal vision, protanopia, deuteranopia.
VISIONS = np.array([
    np.eye(3),
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
])  # fmt: skip
SIZES = [(1, 1), (32, 32), (480, 360), (3, 5000), (5000, 3), (1700, 1200)]


def linear(colours):
    share = np.asarray(colours) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def grey(size, level=128):
    return Image.new("RGB", size, (level,) * 3)


def detections(*rows):
    boxes, classes, scores = zip(*rows, strict=True)
    return Detections(np.array(boxes, np.float32), np.array(classes, np.int32), np.array(scores, np.float32))


def test_colours_differ_for_every_eye():
    """In OKLab (Ottosson 2020), where 2 of 100 is what one just sees."""
    to_cones = [[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]]
    to_lab = [[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]]
    seen = np.clip(np.einsum("vij,nj->vni", VISIONS, linear(PALETTE)), 0, 1)
    lab = 100 * np.cbrt(seen @ np.transpose(to_cones)) @ np.transpose(to_lab)
    apart = np.linalg.norm(lab[:, :, None] - lab[:, None], axis=-1)
    apart[:, range(len(PALETTE)), range(len(PALETTE))] = np.inf
    assert apart[:, :12, :12].min() > 7 and apart.min() > 6
    assert colour(len(PALETTE) + 2) == PALETTE[2]


def test_text_on_every_colour_has_the_contrast_that_wcag_asks_for():
    light = linear(PALETTE) @ (0.2126, 0.7152, 0.0722)
    ink = np.array([linear(pictures._ink_on(each))[0] for each in PALETTE])
    contrast = (np.maximum(light, ink) + 0.05) / (np.minimum(light, ink) + 0.05)
    assert contrast.min() > 4.5


def test_a_box_is_drawn_where_the_object_is_and_the_surest_on_top():
    found = detections(([0.5, 0.25, 0.75, 0.5], 0, 0.6), ([0.5, 0.25, 0.75, 0.5], 1, 0.9), ([0.5, 0.6, 2, 2], 2, 0.5))
    pixels = np.asarray(pictures.with_boxes(grey((800, 640)), found, ["cat", "dog", "bird"]))
    assert pixels.shape == (640, 800, 3)
    for at in ((320, 300), (480, 300), (400, 200), (400, 400)):  # the middle of each side
        assert tuple(pixels[at]) == colour(1)
    assert tuple(pixels[400, 300]) == (128, 128, 128)  # within
    assert tuple(pixels[500, 799]) == tuple(pixels[639, 600]) == colour(2)  # clipped at the border
    outline = np.asarray(pictures.with_boxes(grey((800, 640)), detections(([0.5, 0.25, 0.75, 0.5], 0, 0.6))))
    flags = [(found == colour(0)).all(-1).sum() for found in (outline, pixels)]
    assert 0 < flags[1] < flags[0]  # of the box that is hidden, its text stays, elsewhere
    unlabelled = pictures.with_boxes(grey((800, 640)), found)
    assert not np.array_equal(unlabelled, pixels)  # "class 1" instead of "dog"


def test_a_mask_covers_half_but_for_the_background_and_its_key_names_what_is_there():
    mask = np.zeros((640, 800), np.uint8)
    mask[100:300, 100:300], mask[400:, 500:] = 2, 30
    picture = pictures.with_mask(grey((800, 640)), mask, ["Background", "cat", "dog"])
    pixels = np.asarray(picture)
    assert tuple(pixels[50, 50]) == (128, 128, 128)
    for at, index in (((200, 200), 2), ((600, 700), 30)):
        assert pixels[at] == pytest.approx((np.array(colour(index)) + 128) / 2, abs=1)
    assert tuple(pixels[200, 299]) == colour(2)  # its edge
    key = pixels[640:]
    assert (key == colour(2)).all(-1).any() and (key == colour(30)).all(-1).any()
    assert not (key == colour(1)).all(-1).any()  # no cat
    covered = np.asarray(pictures.with_mask(grey((800, 640)), mask, ["sky", "cat", "dog"]))
    assert covered[50, 50] == pytest.approx((np.array(colour(0)) + 128) / 2, abs=1)


def test_bars_are_as_long_as_scores_and_logits_do_no_harm():
    classes = [("tabby", 0.5), ("a name " * 100, 0.25), ("Größe\nЖ", 0.0), ("logit", 7.5), ("negative", -3.0)]
    pixels = np.asarray(pictures.with_classes(grey((800, 640)), classes))
    assert np.array_equal(pixels[:640], np.asarray(grey((800, 640))))
    bars = (pixels[640:] == pictures._FAINT).all(-1).sum(1)
    longest = bars.max()
    assert longest > 0.9 * 800  # a logit's, cut at one
    assert {round(4 * length / longest) for length in bars} >= {1, 2, 4}


@pytest.mark.parametrize("size", SIZES)
def test_any_photograph_becomes_a_picture_that_can_be_read(size):
    found = detections(([0, 0, 1, 1], 0, 0.6), ([0.4, 0.4, 0.4, 0.4], 1, 0.9))
    mask = np.random.default_rng(0).integers(0, 5, size[::-1]).astype(np.uint8)
    boxed, masked = pictures.with_boxes(grey(size), found), pictures.with_mask(grey(size), mask)
    listed = pictures.with_classes(grey(size), [("cat", 0.9)])
    assert 640 <= max(boxed.size) <= 1600
    for picture in (masked, listed):
        assert picture.width >= boxed.width and picture.height > boxed.height
        assert (np.asarray(picture) < 80).all(-1).sum() > 30  # the ink of its text
    assert pictures._font(boxed).size >= max(13, max(boxed.size) / 51)


def test_side_by_side_keeps_every_picture():
    drawn = [Image.new("RGB", (300, 200 + 10 * place), colour(place)) for place in range(5)]
    for count, columns, rows in ((2, 2, 1), (3, 3, 1), (5, 3, 2)):
        pixels = np.asarray(pictures.side_by_side([(f"file {place}", drawn[place]) for place in range(count)]))
        assert 300 * columns <= pixels.shape[1] < 320 * columns
        assert 200 * rows < pixels.shape[0] < 280 * rows
        for place in range(count):
            assert (pixels == colour(place)).all(-1).sum() == 300 * (200 + 10 * place)


@pytest.mark.parametrize("suffix, head", [(".png", b"\x89PNG"), (".jpg", b"\xff\xd8")])
def test_the_same_answers_give_the_same_bytes(suffix, head):
    found = detections(([0.1, 0.1, 0.8, 0.5], 3, 0.75))
    first, second = (pictures.encoded(pictures.with_boxes(grey((90, 60)), found, "abcd"), suffix) for _ in range(2))
    assert first == second and first.startswith(head)
