"""The segmenter's objective: cross-entropy at the mask's size, void left out, and what it learns."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mobilenets_tf import RequestError, create_model
from mobilenets_tf.data.masks import find_masks
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.training import recipes
from mobilenets_tf.training.distribution import Distribution
from mobilenets_tf.training.input import pipeline
from mobilenets_tf.training.input.augmentation import random_for
from mobilenets_tf.training.input.plan import Plan
from mobilenets_tf.training.objectives.segmentation import SegmentationObjective
from mobilenets_tf.training.recipes import Augment
from mobilenets_tf.training.step import Training
from tests.support.drawn_networks import segmenter

NAMES, VOID, SIZE = ("left", "right", "disc"), 255, 64
PLAIN = recipes.replace(
    recipes.SEGMENT, batch_size=8, epochs=1, augment=Augment(area=(1, 1), aspect=(1, 1), flip=False), ema=None
)
OBJECTIVE = SegmentationObjective(NAMES, VOID, PLAIN, "bilinear")


def test_the_loss_is_the_formulas_at_the_masks_size():
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (2, 4, 4, 3)).astype(np.float32)
    masks = random.integers(0, 3, (2, 16, 16)).astype(np.uint8)
    masks[0, :5] = VOID
    masks[1] = VOID
    large = tf.image.resize(logits, (16, 16)).numpy().astype(float)
    shares = np.exp(large) / np.exp(large).sum(-1, keepdims=True)
    known = masks[0] != VOID
    chosen = np.take_along_axis(shares[0], np.where(known, masks[0], 0)[..., None].astype(int), -1)[..., 0]
    found = OBJECTIVE.loss(tf.constant(masks), tf.constant(logits)).numpy()
    assert found[0] == pytest.approx(-np.log(chosen[known]).mean(), rel=1e-5)
    assert found[1] == 0  # nothing is known of it
    right = OBJECTIVE.right(tf.constant(masks), tf.constant(logits)).numpy()
    assert right[0] == pytest.approx((large[0].argmax(-1) == masks[0])[known].mean())


def test_distillation_is_the_formulas_at_the_masks_size():
    random = np.random.default_rng(1)
    logits, teacher_logits = (random.normal(0, 2, (2, side, side, 3)).astype(np.float32) for side in (4, 8))
    masks = random.integers(0, 3, (2, 16, 16)).astype(np.uint8)
    masks[0, :5] = VOID
    masks[1] = VOID

    def softmax(x):  # at the mask's size, temperature 2
        large = np.exp(tf.image.resize(x, (16, 16)).numpy().astype(float) / 2)
        return large / large.sum(-1, keepdims=True)

    entropy = -(softmax(teacher_logits) * np.log(softmax(logits))).sum(-1)
    found = OBJECTIVE.distillation(tf.constant(masks), tf.constant(logits), tf.constant(teacher_logits), 2.0).numpy()
    assert found[0] == pytest.approx(entropy[0][masks[0] != VOID].mean(), rel=1e-5)
    assert found[1] == 0  # nothing is known of it


def test_an_example_is_the_picture_and_its_mask():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    mask = np.zeros((40, 60), np.uint8)
    mask[:, 30:] = 1
    pixels, found = OBJECTIVE.example(picture, mask, SIZE, 1.0, random_for(0, 0))
    np.testing.assert_array_equal(found, np.repeat(np.arange(SIZE)[None] >= SIZE // 2, SIZE, 0))
    expected = Preprocessing(SIZE, interpolation="bilinear").geometry(picture)
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_outputs_that_are_no_segmenters():
    with pytest.raises(RequestError, match="a segmenter of 3 classes has one of"):
        OBJECTIVE.trained(create_model("lraspp_mobilenet_v3_small", resolution=SIZE, classes=4))


@pytest.mark.slow
def test_it_learns_what_is_where(tmp_path):
    """Two halves of a picture and a disc, from random weights; void around the disc."""
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir(), (tmp_path / "masks").mkdir()
    y, x = np.mgrid[:SIZE, :SIZE]
    for number in range(16):
        cut, (row, column) = random.integers(20, 44), random.integers(16, 48, 2)
        distance = np.hypot(y - row, x - column)
        mask = np.where(distance < 12, 2, np.where(distance < 14, VOID, x >= cut)).astype(np.uint8)
        colours = np.array([(90, 60, 60), (60, 120, 60), (60, 60, 220)] + [(0, 0, 0)] * 253, np.uint8)
        noisy = colours[mask] + random.integers(0, 30, (SIZE, SIZE, 3), np.uint8)
        Image.fromarray(noisy).save(tmp_path / "images" / f"{number:02}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number:02}.png")
    source = find_masks(tmp_path, NAMES)
    recipe = recipes.replace(PLAIN, epochs=30, rate=recipes.Rate("cosine", 1e-2), frozen_batchnorm=False)
    drawn, place = segmenter(), Distribution(tf.distribute.get_strategy())
    plan = Plan(recipe, len(source), SIZE)
    training = Training(OBJECTIVE, lambda _: drawn, plan, SIZE, Preprocessing(SIZE, interpolation="bilinear"), place)
    reader = pipeline.Reader(source, OBJECTIVE.problem, pipeline.Broken())
    losses = [training.step(batch)[0] for batch in pipeline.training_batches(reader, plan, OBJECTIVE, place)]
    assert np.mean(losses[-3:]) < 0.25 * np.mean(losses[:3])
    scores = training.judge(reader)
    assert scores["val_miou"] > 0.7 and scores["val_miou"] < scores["val_pixels"] < 1
