"""What a disturbance does to the outputs, against the same model run by Keras with the disturbance in it."""

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf.quantize import Calibration
from mobilenets_tf.quantize.post_training import Recipe, prepare
from mobilenets_tf.quantize.steps import effects
from mobilenets_tf.quantize.steps.effects import DECISIVE, Effects, output_errors
from mobilenets_tf.tflite import flatbuffer
from tests.conftest import photographs


@pytest.fixture(scope="module")
def model():
    """An activation from which two ways lead on, past which a third one leads, to scores and to a map."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 3))
    middle = layers.Conv2D(6, 3, padding="same", activation="relu", name="middle")(inputs)
    x = layers.Concatenate()([layers.Conv2D(4, 1)(middle), layers.Conv2D(4, 1)(inputs)])
    x = layers.Add()([middle, layers.Conv2D(6, 1)(x)])
    scores = layers.Dense(30, name="scores")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, [layers.Softmax()(scores), layers.Conv2D(2, 1, name="map")(x)])


@pytest.fixture(scope="module")
def content(model, float_file):
    return float_file(model)


SAMPLES = [[sample[None]] for sample in np.random.default_rng(0).normal(size=(12, 8, 8, 3)).astype(np.float32)]


def middle_of(content):
    graph = flatbuffer.Graph(flatbuffer.read(content))
    return next(index for index in graph.writer if graph.shape(index) == (1, 8, 8, 6))


def test_no_disturbance_is_no_error_wherever_the_model_is_cut(content):
    graph = flatbuffer.Graph(flatbuffer.read(content))
    found = Effects(content, SAMPLES[:3])
    indices = [*graph.inputs, *graph.writer]
    cuts = list(found.cuts(indices))
    assert [cut.index for cut in cuts] == indices
    for cut in cuts:
        assert len(cut.values) == 3 and cut.values[0].shape == graph.shape(cut.index)
        assert cut.error(lambda values: values) < 1e-12


def test_beyond_a_limit_the_error_is_not_worked_out(content):
    cut = Effects(content, SAMPLES).cut(middle_of(content))
    whole = cut.error(np.round)
    assert cut.error(np.round, limit=1.01 * whole) == whole
    assert cut.error(np.round, limit=0.99 * whole) == np.inf


def test_the_error_is_noise_over_signal_of_every_output(content, model):
    def disturb(values):
        return np.round(values * 4) / 4

    middle = model.get_layer("middle")
    ends = [model.get_layer("scores").output, model.outputs[1]]
    behind = keras.Model([*model.inputs, middle.output], ends)
    noise, signal = np.zeros(2), np.zeros(2)
    for (sample,) in SAMPLES[:8]:
        activation = np.asarray(middle(sample))
        scores, picture = (np.asarray(output) for output in behind([sample, activation]))
        other_scores, other_picture = (np.asarray(output) for output in behind([sample, disturb(activation)]))
        highest = np.argsort(-scores[0])[:DECISIVE]  # the others cannot become the answer
        scores, other_scores = (s[0, highest] - s[0, highest].mean() for s in (scores, other_scores))
        for place, (values, others) in enumerate(((scores, other_scores), (picture, other_picture))):
            noise[place] += ((others - values) ** 2).sum()
            signal[place] += (values**2).sum()
    found = Effects(content, SAMPLES[:8]).cut(middle_of(content)).error(disturb)
    assert found == pytest.approx((noise / signal).sum(), rel=1e-3)


def test_what_a_softmax_does_not_see_is_no_error(content):
    found = Effects(content, SAMPLES)
    (target,) = (target.index for target in found.targets if target.is_scores)
    cut = found.cut(target)

    def lower_the_hopeless(scores):
        return np.where(np.argsort(np.argsort(-scores)) >= DECISIVE, scores - 1, scores)

    assert cut.error(lambda scores: scores + 5) < 1e-10
    assert cut.error(lower_the_hopeless) == 0
    assert cut.error(lambda scores: scores * 1.1) == pytest.approx(0.01, rel=1e-3)


def test_little_memory_and_time_still_hold_some_samples(content, monkeypatch):
    middle = middle_of(content)
    monkeypatch.setattr(effects, "_RUNS", 12)
    assert len(Effects(content, SAMPLES).cut(middle).values) == 12
    monkeypatch.setattr(effects, "_RUNS", 8)
    monkeypatch.setattr(effects, "_MEMORY", 1)
    assert len(Effects(content, SAMPLES).cut(middle).values) == 8
    assert len(Effects(content, SAMPLES[:5]).cut(middle).values) == 5


def test_cuts_that_do_not_fit_together_are_made_one_by_one(content, monkeypatch):
    graph = flatbuffer.Graph(flatbuffer.read(content))
    together = [cut.error(np.round) for cut in Effects(content, SAMPLES).cuts(graph.writer)]
    monkeypatch.setattr(effects, "_TOGETHER", 1)
    assert [cut.error(np.round) for cut in Effects(content, SAMPLES).cuts(graph.writer)] == together


def test_the_work_behind_an_activation_is_a_share_of_the_whole(content):
    found, graph = Effects(content, SAMPLES[:1]), flatbuffer.Graph(flatbuffer.read(content))
    shares = [found.share(index) for index in graph.writer]
    assert 0.95 < found.share(graph.inputs[0]) <= 1  # a final softmax does not count: errors are those of its scores
    assert all(0 < share < 1 for share in shares)
    assert shares == sorted(shares, reverse=True)
    assert shares == [Effects(content, SAMPLES[:2]).share(index) for index in graph.writer]


def test_few_samples_give_the_error_of_few_samples(content):
    (few,) = Effects(content, SAMPLES).cuts([middle_of(content)], samples=5)
    assert len(few.values) == 5
    assert few.error(np.round) == Effects(content, SAMPLES).cut(middle_of(content)).error(np.round, samples=5)


@pytest.mark.parametrize("scheme", ["int8", "int8_float_io"])
def test_the_error_of_a_file_is_that_of_scores_and_maps(content, scheme):
    recipe = Recipe(ranges="min_max", rounding="nearest")
    file = prepare(content, scheme, Calibration(photographs(100, 8)), recipe).write()
    samples = [[picture[None]] for picture in photographs(10, 8, seed=1)]
    same, quantised = output_errors(content, [content, file], samples)
    assert same == 0
    assert 1e-6 < quantised < 0.1
