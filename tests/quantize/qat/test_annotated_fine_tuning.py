"""Quantisation-aware fine-tuning of detectors and segmenters: with training's objectives, to the file's bits."""

import numpy as np
import pytest
import tensorflow as tf

from mobilenets_tf import create_model
from mobilenets_tf.quantize import fine_tune, quantize_aware
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.training import recipes
from mobilenets_tf.training.objectives.detection import DetectionObjective, anchors_of
from mobilenets_tf.training.objectives.segmentation import SegmentationObjective
from tests.conftest import photographs
from tests.support.classifiers import filled
from tests.support.drawn_networks import NAMES, detector, masks, pictures, segmenter

# A gain over post-training quantisation is not what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:Fine-tuning gained nothing")


def prepared(pixels):
    return (pixels / np.float32(127.5) - 1).astype(np.float32)


class Case:
    """A network in training, its objective, and its state before any test trained it."""

    def __init__(self, name):
        self.detects = name == "detect"
        self.model = detector() if self.detects else segmenter()
        if self.detects:
            self.objective = DetectionObjective(anchors_of(self.model), NAMES, recipes.DETECT, "bilinear", 1)
        else:
            self.objective = SegmentationObjective(("background", *NAMES), 255, recipes.SEGMENT, "bilinear")
        self.aware = quantize_aware(self.model, prepared(pictures(20)[0]))
        self._before, self._logits = self.aware.model.get_weights(), tf.function(self.aware.logits)

    def reset(self):
        self.aware.model.set_weights(self._before)

    def batches(self, count, seed):
        pixels, corners, classes = pictures(count, seed)
        truth = (corners, (classes + 1).astype(np.int32)) if self.detects else (masks(corners, classes),)
        data = tf.data.Dataset.from_tensor_slices((pixels, *truth)).batch(8)
        data = data.map(lambda *batch: self.objective.targets(*batch, seed=0))
        return data.map(lambda pixels, targets: (tf.cast(pixels, tf.float32) / 127.5 - 1, targets))

    def loss(self, data):
        found = [self.objective.loss(targets, self._logits(images)) for images, targets in data]
        return float(tf.reduce_mean(tf.concat(found, 0)))

    def files(self, images):
        """The file's outputs for each image, stacked."""
        runner = Runner(self.aware.to_tflite())
        return [np.concatenate(output) for output in zip(*map(runner, images), strict=True)]


@pytest.fixture(scope="module", params=[pytest.param("detect", marks=pytest.mark.slow), "segment"])
def made(request):
    return Case(request.param)


@pytest.fixture
def case(made):
    yield made
    made.reset()


@pytest.mark.slow
def test_training_lowers_the_loss_and_the_file_answers_as_the_model(case):
    training, validation = case.batches(64, 0), case.batches(32, 1)
    found = fine_tune(
        case.aware, training, lambda _: -case.loss(validation), 3, objective=case.objective, learning_rate=1e-2
    )
    first, best = found.accuracies[0], found.accuracies[found.best_epoch]
    assert best > 0.9 * first and -case.loss(validation) == pytest.approx(best)
    images = prepared(pictures(16, 2)[0])
    outputs = tf.nest.flatten(case.aware.model(images, training=False))
    for wanted, given in zip(outputs, case.files(images), strict=True):
        np.testing.assert_array_equal(given, wanted)
    assert case.aware.to_keras().output_names == case.model.output_names  # which checks all outputs


def test_logits_are_what_the_scores_are_made_of(case):
    images = prepared(pictures(8, 3)[0])
    pairs = (
        (case.aware.float_logits, case.aware.float_model, 1e-6),
        (case.aware.logits, case.aware.model, 0.5 / 256 + 1e-6),  # scores are stored in steps of 1/256
    )
    for logits, model, step in pairs:
        *_, logits = tf.nest.flatten(logits(images, training=False))
        *_, answers = tf.nest.flatten(model(images, training=False))
        np.testing.assert_allclose(tf.sigmoid(logits) if case.detects else logits, answers, atol=step)


@pytest.mark.slow
def test_an_interrupted_training_goes_on_and_a_function_may_judge(case, tmp_path):
    options = {"epochs": 3, "objective": case.objective, "learning_rate": 1e-3, "patience": 3, "checkpoint": tmp_path}
    images = prepared(pictures(8, 4)[0])

    def score(model):  # any number that tells states apart
        outputs = tf.nest.flatten(model(images))
        return float(sum(tf.reduce_sum(output) for output in outputs))

    training = case.batches(16, 0)
    unbroken = fine_tune(case.aware, training, score, **options)
    case.reset()

    def power_cut(label, done, total):
        if (label, done) == ("epoch 2/3", 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(case.aware, training, score, progress=power_cut, **options)
    case.reset()  # as in a new process
    assert fine_tune(case.aware, training, score, **options) == unbroken


def test_the_float_models_outputs_teach(case):
    """With all of the loss the float model's, outputs come nearer to its outputs."""
    random = np.random.default_rng(0)
    for variable in case.aware.model.trainable_variables:
        if len(variable.shape) > 1:
            variable.assign(variable + 0.3 * np.abs(variable).max() * random.normal(size=variable.shape))
    images = prepared(pictures(16, 1)[0])

    def answers(model):
        *boxes, scores = tf.nest.flatten(model(images))
        return [*boxes, scores if case.detects else tf.nn.softmax(scores)]

    def nearness(model):
        pairs = zip(answers(model), wanted, strict=True)
        return -float(sum(tf.reduce_mean(tf.abs(one - other)) for one, other in pairs))

    wanted = answers(case.aware.float_model)
    options = {"objective": case.objective, "learning_rate": 3e-3, "distill": 1.0}
    found = fine_tune(case.aware, case.batches(64, 0), nearness, 3, **options)
    assert max(found.accuracies[1:]) > 0.8 * found.accuracies[0]


@pytest.mark.slow
def test_a_registered_networks_file_answers_as_the_model_and_its_weights_go_back():
    """With gates and hard swishes. Inverted residuals: test_aware.py; a detector's outputs: the drawn one above."""
    rows = [
        [(3, 1, 16, True, "relu", 2)],
        [(3, 4, 16, False, "relu", 2), (3, 3, 16, False, "relu", 1)],
        [(5, 4, 24, True, "hard_swish", 2)],
        [(5, 4, 32, True, "hard_swish", 2)],
    ]
    # Behind so many layers, random weights give zeros.
    model = filled(create_model("lraspp_mobilenet_v3_small", rows=rows, resolution=64, classes=3))
    aware = quantize_aware(model, photographs(20, 64))
    random = np.random.default_rng(0)
    for variable in aware.model.trainable_variables:
        variable.assign(variable * (1 + 0.02 * random.normal(size=variable.shape)))
    runner, images = Runner(aware.to_tflite()), photographs(6, 64, seed=2)
    outputs = tf.nest.flatten(aware.model(images, training=False))
    for wanted, given, details in zip(outputs, zip(*map(runner, images), strict=True), runner.outputs, strict=True):
        given, step = np.concatenate(given), details["quantization"][0]
        assert np.ptp(given) > 10 * step
        np.testing.assert_array_equal(given, wanted)
    aware.to_keras()
