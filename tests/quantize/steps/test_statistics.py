"""Statistics of activations against the values they were made of."""

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf import RequestError
from mobilenets_tf.quantize.steps.statistics import BINS, ActivationStatistics, observe
from mobilenets_tf.tflite import flatbuffer


def test_statistics_stream():
    random = np.random.default_rng(0)
    # the magnitude grows, so the histogram has to widen on the way
    values = [random.normal(0, scale, (1, 9, 9, 6)).astype(np.float32) + np.arange(6) for scale in (0.1, 1, 5, 40)]
    found = ActivationStatistics()
    for value in values:
        found.add(value)
    every = np.concatenate(values)
    assert (found.low, found.high) == (every.min(), every.max())
    np.testing.assert_allclose(found.channel_mean, every.mean(axis=(0, 1, 2)), rtol=1e-4)
    assert found.counts.sum() == every.size and len(found.counts) == BINS
    mean_of_histogram = found.centres() @ found.counts / found.counts.sum()
    assert mean_of_histogram == pytest.approx(every.mean(), abs=2 * found.limit / BINS)
    assert found.deviation == pytest.approx(every.std(), rel=1e-2)


@pytest.mark.parametrize(
    ("highs", "below", "above"),
    [
        ([5, 1, 4, 2, 3], 0, 1),  # 5 to 2, the fourth from above, in three steps
        ([-5, -1, -4, -2, -3], 1, 0),
        ([5, 1, 4], 0, 0),  # too few to tell
        (range(32), 0, 0),  # enough to show how far the others reach
    ],
)
def test_few_samples_have_a_headroom_of_the_distance_of_those_that_reach_furthest(highs, below, above):
    found = ActivationStatistics()
    for high in highs:
        found.add(np.full((1, 2, 2, 3), high, np.float32))
    assert found.headroom == (below, above)
    found.bound(-9.0, 9.0)
    assert (found.low, found.high, found.headroom) == (-9.0, 9.0, (0.0, 0.0))


def test_the_sampled_histogram_sees_every_channel():
    """Sizes at which a plain stride would visit a third of the channels or fewer, always the same."""
    for shape in ((1, 112, 112, 96), (1, 14, 14, 384), (1, 7, 7, 960)):
        channels = np.broadcast_to(np.arange(1.0, shape[-1] + 1, dtype=np.float32), shape)
        found = ActivationStatistics()
        found.add(channels)
        seen = np.unique(np.round(found.centres()[found.counts > 0]))
        assert len(seen) > 0.95 * shape[-1]


def test_observe_tells_each_tensor_apart(convolutions):
    """What is filed under a tensor's index is that tensor's: checked through a layer's own arithmetic."""
    samples = [[np.full((1, 13, 10, 6), value, np.float32)] for value in (1.0, 3.0)]
    found = observe(convolutions, iter(samples))
    graph = flatbuffer.Graph(flatbuffer.read(convolutions))
    (source,) = graph.inputs
    assert (found[source].low, found[source].high, found[source].samples) == (1.0, 3.0, 2)
    pointwise = [
        operator
        for operator in graph.readers[source]
        if graph.name(operator) == "CONV_2D" and graph.constant(operator.inputs[1]).shape[1:3] == (1, 1)
    ]
    assert len(pointwise) == 2
    for operator in pointwise:
        weights, bias = (graph.constant(index) for index in operator.inputs[1:])
        outputs = np.outer([1, 3], weights.sum(axis=(1, 2, 3))) + bias
        if operator.builtinOptions.fusedActivationFunction:
            outputs = np.maximum(outputs, 0)
        statistics = found[operator.outputs[0]]
        np.testing.assert_allclose(statistics.channel_mean, outputs.mean(axis=0), atol=1e-5)
        assert (statistics.low, statistics.high) == pytest.approx((outputs.min(), outputs.max()), abs=1e-5)


@pytest.mark.parametrize(
    ("broken", "sample"), [(keras.ops.log, 2), (lambda x: keras.ops.exp(50 * x), 1)], ids=["nan", "inf"]
)
def test_the_first_activation_that_is_not_finite_is_named(broken, sample, float_file):
    inputs = keras.Input((4, 4, 3))
    content = float_file(keras.Model(inputs, layers.Conv2D(2, 1, name="innocent")(broken(inputs))))
    names = [tensor.name.decode() for tensor in flatbuffer.read(content).subgraphs[0].tensors]
    samples = [[np.full((1, 4, 4, 3), value, np.float32)] for value in (2.0, -1.0)]
    with pytest.raises(RequestError, match=f"on calibration sample {sample};") as caught:
        observe(content, samples)
    named = str(caught.value).split("'")[1]
    assert named in names and "innocent" not in named
