"""The detector's objective: anchors are given to objects as RetinaNet does it, and the loss is the formula's."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mobilenets_tf import RequestError, create_model
from mobilenets_tf.data.boxes import Boxes, find_boxes
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.networks.heads.anchors import ssd_anchors
from mobilenets_tf.networks.heads.ssd import grids
from mobilenets_tf.training import recipes
from mobilenets_tf.training.distribution import Distribution
from mobilenets_tf.training.input import pipeline
from mobilenets_tf.training.input.augmentation import random_for
from mobilenets_tf.training.input.plan import Plan
from mobilenets_tf.training.objectives.detection import DetectionObjective, anchors_of
from mobilenets_tf.training.recipes import Augment
from mobilenets_tf.training.step import Training
from mobilenets_tf.weights.keras_config import shapes_alone
from tests.support import drawn_networks

NAMES = ("disc", "square")
SIZE = 96
PLAIN = recipes.replace(
    recipes.DETECT, batch_size=8, epochs=1, augment=Augment(area=(1, 1), aspect=(1, 1), flip=False), ema=None
)


def boxes_of(*rows, ignored=()):
    corners, classes = np.array([row[:4] for row in rows], np.float32).reshape(-1, 4), [row[4] for row in rows]
    return Boxes(corners, np.array(classes, np.int32), np.isin(range(len(rows)), ignored))


def untrained(name, classes):
    """A network that nothing computes with."""
    with shapes_alone():
        return create_model(name, resolution=SIZE, alpha=0.35, classes=classes)


@pytest.fixture(scope="module")
def model():
    return untrained("ssdlite_mobilenet_v2", 2)


@pytest.fixture(scope="module")
def classifier():
    return untrained("mobilenet_v2", 2)


@pytest.fixture(scope="module")
def objective(model):
    return DetectionObjective(anchors_of(model), NAMES, PLAIN, "bilinear", 5)


def targets_of(objective, *annotations):
    picture = Image.new("RGB", (60, 40))
    examples = [
        objective.example(picture, each, SIZE, 1.0, random_for(0, place)) for place, each in enumerate(annotations)
    ]
    pixels, corners, classes = (np.stack(values) for values in zip(*examples, strict=True))
    _, (encoded, given) = objective.targets(pixels, corners.astype(np.float32), classes.astype(np.int32), seed=None)
    return encoded.numpy(), given.numpy()


def overlaps(anchors, corners):
    """IoU, by the definition, of anchors (centres and sides) and corners."""
    ends = np.concatenate([anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2], -1)
    found = np.zeros((len(anchors), len(corners)))
    for i, (a, b, c, d) in enumerate(ends):
        for j, (e, f, g, h) in enumerate(corners):
            shared = max(0, min(c, g) - max(a, e)) * max(0, min(d, h) - max(b, f))
            found[i, j] = shared / ((c - a) * (d - b) + (g - e) * (h - f) - shared)
    return found


def test_anchors_are_given_to_objects(objective, model):
    truth = boxes_of((0.1, 0.1, 0.6, 0.5, 0), (0.5, 0.55, 0.95, 0.9, 1), (0.02, 0.9, 0.06, 0.94, 1))
    (encoded,), (given,) = targets_of(objective, truth)
    anchors = ssd_anchors(grids(model))
    iou = overlaps(anchors, truth.corners)
    nearest = iou.argmax(0)
    expected = np.where(iou.max(-1) >= 0.5, truth.classes[iou.argmax(-1)] + 1, np.where(iou.max(-1) < 0.4, 0, -1))
    expected[nearest] = truth.classes + 1
    np.testing.assert_array_equal(given, expected)
    assert (given == 2).sum() >= 2 and (given == -1).any()
    # Decoded, the targets are the boxes themselves (TFLite's scales 10, 10, 5, 5).
    for anchor, code, own, classes in zip(anchors, encoded, iou, given, strict=True):
        if classes > 0:
            centre, sides = anchor[:2] + code[:2] / 10 * anchor[2:], anchor[2:] * np.exp(code[2:] / 5)
            corners = np.concatenate([centre - sides / 2, centre + sides / 2])
            assert np.abs(corners - truth.corners).max(-1).min() < 1e-4
            assert own.max() > 0


def test_small_objects_have_an_anchor_and_ignored_ones_teach_nothing(objective):
    tiny = (0.5, 0.5, 0.52, 0.52, 1)
    _, (alone, ignored, nothing) = targets_of(objective, boxes_of(tiny), boxes_of(tiny, ignored=[0]), boxes_of())
    assert sorted(set(alone)) == [0, 2] and (alone == 2).sum() == 1
    assert (ignored == -1).sum() == 1 and (ignored > 0).sum() == 0
    assert set(nothing) == {0}


def test_the_loss_is_the_formulas(objective):
    random = np.random.default_rng(0)
    classes = np.array([[0, 1, 2, -1, 0], [0, 0, 0, 0, 0]], np.int32)
    encoded, boxes = random.normal(0, 2, (2, 2, 5, 4)).astype(np.float32)
    logits = random.normal(0, 2, (2, 5, 3)).astype(np.float32)
    found = objective.loss((encoded, classes), [boxes, logits]).numpy()
    p = 1 / (1 + np.exp(-logits[..., 1:].astype(float)))
    wanted = np.stack([classes == 1, classes == 2], -1)
    focal = np.where(wanted, -0.25 * (1 - p) ** 2 * np.log(p), -0.75 * p**2 * np.log(1 - p)).sum(-1)
    distance = np.abs(boxes - encoded).astype(float)
    huber = np.where(distance < 1, distance**2 / 2, distance - 0.5).sum(-1)
    expected = (focal * (classes >= 0) + huber * (classes > 0)).sum(-1) / np.maximum(1, (classes > 0).sum(-1))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    right = objective.right((encoded, classes), [boxes, logits]).numpy()
    assert right[1] == 0 and right[0] == (wanted.any(-1) & (p.argmax(-1) == classes - 1))[0].sum() / 2


def test_distillation_is_the_formulas(objective):
    random = np.random.default_rng(1)
    boxes, teacher_boxes = random.normal(0, 2, (2, 2, 5, 4)).astype(np.float32)
    logits, teacher_logits = random.normal(0, 2, (2, 2, 5, 3)).astype(np.float32)
    student, teacher = [boxes, logits], [teacher_boxes, teacher_logits]
    found = objective.distillation(None, student, teacher, 2.0).numpy()

    def sigmoid(x):
        return 1 / (1 + np.exp(-x[..., 1:].astype(float)))  # the first column is background

    p, q = sigmoid(logits / 2), sigmoid(teacher_logits / 2)
    entropy = -(q * np.log(p) + (1 - q) * np.log(1 - p)).sum(-1)
    distance = np.abs(boxes - teacher_boxes).astype(float)
    huber = np.where(distance < 1, distance**2 / 2, distance - 0.5).sum(-1)
    weights = sigmoid(teacher_logits).max(-1)
    expected = (entropy + weights * huber / 4).sum(-1) / np.maximum(1, weights.sum(-1))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    background = logits + np.array([9, 0, 0], np.float32)
    np.testing.assert_array_equal(found, objective.distillation(None, [boxes, background], teacher, 2.0))


def test_outputs_that_are_no_detectors(objective, classifier):
    with pytest.raises(RequestError, match="a detector has boxes and scores"):
        objective.trained(classifier)
    with pytest.raises(RequestError, match=r"for \d+ anchors and 2 classes \(None, \d+, 4\) and \(None, \d+, 3\)"):
        objective.trained(untrained("ssdlite_mobilenet_v2", 4))
    assert "has 9 boxes" in objective.problem(boxes_of(*[(0, 0, 1, 1, 0)] * 9))


def test_as_many_anchors_in_other_places(model):
    anchors = anchors_of(model)
    objective = DetectionObjective(anchors[::-1], NAMES, PLAIN, "bilinear", 1)
    with pytest.raises(RequestError, match="as many anchors, .* in other places"):
        objective.trained(model)


def test_a_network_without_anchors(classifier):
    with pytest.raises(RequestError, match="has no layers ssd_level1_boxes"):
        anchors_of(classifier)


@pytest.mark.slow
def test_it_learns_to_find_what_is_there(tmp_path):
    """Coloured rectangles, from random weights."""
    source = find_boxes(drawn_networks.write(tmp_path, 48, "detect"), drawn_networks.NAMES)
    recipe = recipes.replace(PLAIN, epochs=50, rate=recipes.Rate("cosine", 1e-2), frozen_batchnorm=False)
    size, names, drawn = drawn_networks.SIZE, drawn_networks.NAMES, drawn_networks.detector()
    place, plan = Distribution(tf.distribute.get_strategy()), Plan(recipe, len(source), size)
    objective = DetectionObjective(anchors_of(drawn), names, recipe, "bilinear", 1)
    training = Training(objective, lambda _: drawn, plan, size, Preprocessing(size, interpolation="bilinear"), place)
    reader = pipeline.Reader(source, objective.problem, pipeline.Broken())
    losses = [training.step(batch)[0] for batch in pipeline.training_batches(reader, plan, objective, place)]
    assert np.mean(losses[-3:]) < 0.25 * np.mean(losses[:3])
    scores = training.judge(reader)
    assert scores["val_map50"] > 0.8 and 0 < scores["val_map"] <= scores["val_map50"]
