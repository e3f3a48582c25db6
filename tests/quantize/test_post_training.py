"""Post-training quantisation of models at the edge of what there is, and what it does when something goes wrong."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf import RequestError
from mobilenets_tf.decibels import signal_to_noise
from mobilenets_tf.errors import ConversionError
from mobilenets_tf.export.tflite import to_tflite
from mobilenets_tf.quantize import Calibration, schemes
from mobilenets_tf.quantize.post_training import Recipe, prepare
from mobilenets_tf.quantize.steps import equalize, model_ranges, ranges
from mobilenets_tf.quantize.steps.shared_forms import SharedForms
from mobilenets_tf.quantize.steps.statistics import ActivationStatistics, observe
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import Runner
from tests.conftest import photographs
from tests.support.lean_files import assert_lean

INTEGER = [scheme.name for scheme in schemes.SCHEMES.values() if scheme.calibrated]


def test_schemes():
    assert INTEGER == ["int8", "int8_float_io", "int16x8"]
    with pytest.raises(RequestError, match="Unknown scheme 'int'.*Did you mean 'int8'"):
        schemes.get("int")


def test_a_recipe_of_unknown_steps_is_refused_with_the_nearest():
    with pytest.raises(RequestError, match="Unknown rounding 'learnt'.*Did you mean 'learned'"):
        Recipe(rounding="learnt")
    with pytest.raises(RequestError, match="Unknown range estimator 'minmax'.*Did you mean 'min_max'"):
        Recipe(ranges="minmax")


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e3])
def test_sums_of_very_different_terms_stay_in_the_accelerated_graph(size, float_file):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    small = layers.Conv2D(8, 3, kernel_initializer=keras.initializers.RandomNormal(stddev=0.2 * size))(inputs)
    x = layers.Conv2D(8, 1)(layers.Activation("hard_swish")(small)) + layers.Conv2D(8, 3)(inputs)
    model = keras.Model(inputs, layers.Conv2D(4, 1)(x))
    runner = Runner(prepare(float_file(model), "int8", Calibration(photographs(20, 16))).write())
    assert runner.execution_plan() == {"DELEGATE": 1}
    picture = photographs(1, 16)[0]
    expected = np.asarray(model(picture[None]))
    assert np.abs(runner(picture)[0] - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "spread"), [("softmax", 0.0), ("softmax", 1e-9), ("log_softmax", 1e-9), ("softmax", 0.1)]
)
def test_scores_about_zero_have_a_scale_that_tflite_micro_takes(name, spread, float_file):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    scores = layers.Dense(5, kernel_initializer=keras.initializers.RandomNormal(stddev=spread))(
        layers.Flatten()(inputs)
    )
    model = keras.Model(inputs, layers.Activation(name)(scores + scores[:, ::-1]))
    content = prepare(float_file(model), "int8", Calibration(photographs(20, 8))).write()
    graph = flatbuffer.Graph(flatbuffer.read(content))
    (last,) = (operator for operator in graph.operators if graph.name(operator) == name.upper())
    (scale,) = graph.tensors[last.inputs[0]].quantization.scale
    assert scale > 2.0**-26 and (spread == 0.1) == (scale > 2.0**-24)
    picture = photographs(1, 8)[0]
    level = 1 / 256 if name == "softmax" else 1 / 16
    assert np.abs(Runner(content)(picture)[0] - np.asarray(model(picture[None]))).max() < 4 * level


def dead_channels(inputs):
    x = layers.Conv2D(8, 3, activation="relu", name="changed")(inputs)
    return layers.Conv2D(4, 1)(layers.DepthwiseConv2D(3, activation="relu6")(x))


def dead_layer(inputs):
    x = layers.Conv2D(8, 3, activation="relu", name="changed")(inputs)
    return layers.Conv2D(4, 1, bias_initializer="ones")(layers.DepthwiseConv2D(3)(x)) + layers.Conv2D(4, 5)(inputs)


def edge(name):
    """A model with something wrong: (the model, None or what is done to its layer "changed")."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 12, 3))
    if name == "softmax":
        return keras.Model(inputs, layers.Softmax()(inputs))
    model = keras.Model(inputs, (dead_channels if name == "dead channels" else dead_layer)(inputs))
    layer = model.get_layer("changed")
    weights, biases = (np.array(array) for array in layer.get_weights())
    if name == "dead channels":
        weights[..., ::2], biases[::2] = 0, [0, 0, -5, -5]  # exactly zero, or never above it
    elif name == "dead layer":
        biases -= 100
    elif name == "constant layer":
        weights *= 0
        biases += np.linspace(0.01, 3, 8)
    elif name == "nothing at all":
        weights *= 0
    layer.set_weights([weights, biases])
    return model


@pytest.fixture(scope="module")
def edge_file(float_file):
    """A function: what is wrong -> the float file of such a model."""
    return functools.cache(lambda name: float_file(edge(name)))


@pytest.mark.parametrize("scheme", INTEGER)
@pytest.mark.parametrize("name", ["dead channels", "dead layer", "constant layer", "nothing at all", "softmax"])
def test_models_of_which_parts_are_dead_still_agree(name, scheme, edge_file):
    model = edge(name)
    content = prepare(edge_file(name), scheme, Calibration(photographs(100, 12))).write()
    runner = Runner(content)
    for picture in photographs(5, 12, seed=1):
        expected = np.asarray(model(picture[None]))
        assert np.abs(runner(picture)[0] - expected).max() <= 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("scheme", ["int8", pytest.param("int16x8", marks=pytest.mark.slow)])
@pytest.mark.parametrize("layer", ["LSTM", pytest.param("GRU", marks=pytest.mark.slow)])
def test_a_loop_stays_float_between_integer_layers(layer, scheme, float_file):
    """Its condition and its body are graphs of their own, which every step has to keep."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6, 4)), getattr(layers, layer)(5), layers.Dense(3)])
    samples = np.random.default_rng(0).normal(size=(110, 6, 4)).astype(np.float32)
    ready = prepare(float_file(model), scheme, Calibration(samples[:100]))
    content = ready.write()
    assert_lean(content)
    tree = flatbuffer.read(content)
    assert len(tree.subgraphs) == 3 and flatbuffer.float_operator_counts(tree)["WHILE"] == 1
    assert "FULLY_CONNECTED" not in [
        flatbuffer.operator_name(tree, tree.subgraphs[0].operators[place]) for place in ready.islands
    ]
    found = np.concatenate([Runner(content)(sample)[0] for sample in samples[100:]])
    expected = model.predict_on_batch(samples[100:])
    assert signal_to_noise((expected**2).sum(), ((found - expected) ** 2).sum()) > 30


@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
def test_a_bound_of_a_tiny_activation_fits_into_32_bits(scheme, float_file):
    """As in networks with random weights, whose activations vanish from layer to layer."""
    model = keras.Sequential([keras.Input((4, 4, 3)), layers.Conv2D(4, 3, activation="relu6")])
    model.layers[0].kernel.assign(model.layers[0].kernel * 1e-8)
    ready = prepare(float_file(model), scheme, Calibration(photographs(100, 4)))
    graph = flatbuffer.Graph(flatbuffer.read(ready.model))
    (out,) = graph.outputs
    ready.ranges[out] = (0.0, 2e-7)  # a search for the range may end there
    shared = SharedForms(frozenset(range(len(graph.operators))), frozenset(), frozenset(), {})
    model_ranges._widen_bounded(graph, ready.ranges, shared, ready.scheme)
    assert ready.plan().forms[out].scale > 6 / 2**31
    Runner(ready.write())


@pytest.mark.parametrize("scheme", INTEGER)
def test_a_model_whose_every_output_is_zero_still_runs(scheme, float_file):
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(4, 3, kernel_initializer="zeros", activation="relu")(inputs)
    model = keras.Model(inputs, layers.Dense(3, kernel_initializer="zeros")(layers.GlobalAveragePooling2D()(x)))
    runner = Runner(prepare(float_file(model), scheme, Calibration(photographs(100, 12))).write())
    assert np.abs(runner(photographs(1, 12, seed=1)[0])[0]).max() < 1e-5


@pytest.mark.parametrize("estimator", ranges.ESTIMATORS)
def test_every_estimator_makes_a_file_that_agrees(estimator, edge_file):
    model = edge("dead channels")
    recipe = Recipe(ranges=estimator, rounding="nearest")
    runner = Runner(prepare(edge_file("dead channels"), "int8", Calibration(photographs(100, 12)), recipe).write())
    for picture in photographs(5, 12, seed=1):
        expected = np.asarray(model(picture[None]))
        assert np.abs(runner(picture)[0] - expected).mean() <= 0.05 * np.abs(expected).max()


def test_activations_that_are_not_finite_are_refused_whenever_they_come(float_file):
    """On the last sample alone, behind those that are kept in memory."""
    inputs = keras.Input((12, 12, 3))
    content = float_file(keras.Model(inputs, layers.Conv2D(1, 1)(keras.ops.sqrt(inputs))))
    pictures = np.abs(photographs(140, 12)) + 0.01
    pictures[-1] -= 2
    with pytest.raises(RequestError, match="NaN or infinite on calibration sample 140"):
        prepare(content, "int8", Calibration(pictures)).write()


def test_the_range_that_is_known_of_pixels_is_the_inputs_range(float_file):
    inputs = keras.Input((12, 12, 3))
    content = float_file(keras.Model(inputs, layers.Conv2D(1, 1)(inputs)))
    dim = Calibration(photographs(100, 12) * 0.3, value_range=(-1.0, 1.0))
    (details,) = Runner(prepare(content, "int8", dim).write()).inputs
    assert details["quantization"][0] == pytest.approx(2 / 255)


def test_a_file_that_litert_refuses_is_a_conversion_error(edge_file):
    prepared = prepare(edge_file("dead channels"), "int8", Calibration(photographs(100, 12)))
    impossible = dataclasses.replace(prepared, ranges=dict.fromkeys(prepared.ranges, (0.0, 1e-9)))
    with pytest.raises(ConversionError, match="cannot run as int8"):
        impossible.write()


def test_an_interruption_leaves_nothing_behind(tmp_path):
    def pictures():
        yield from photographs(50, 12)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to_tflite(edge("dead channels"), "int8", Calibration(pictures()), tmp_path / "x.tflite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [1, 2, 20, 100])
def test_searched_ranges_that_lose_on_other_samples_are_not_taken(count, edge_file, monkeypatch):
    """The search is made to cut most of what it sees. Of few samples, too, half are kept to judge."""
    content, calibration = edge_file("dead channels"), Calibration(photographs(count, 12), trusted=True)
    recipe = Recipe(rounding="nearest")

    def cut(effects, spans, *rest):
        return {index: (low / 10, high / 10) for index, (low, high) in spans.items()}

    monkeypatch.setattr(ranges, "least_output_error", cut)
    cautious = prepare(content, "int8", calibration, recipe)
    everything = prepare(content, "int8", calibration, dataclasses.replace(recipe, ranges="min_max"))
    assert cautious.write() == everything.write()


@pytest.mark.parametrize(("count", "helps", "taken"), [(12, True, True), (12, False, False), (40, False, True)])
def test_few_samples_that_are_left_out_judge_equalisation(count, helps, taken, float_file, monkeypatch):
    """A channel that is a hundredth of the others wins by equalisation; one that is made a hundred times the others
    takes their levels away."""
    small = 0.01 if helps else 1.0
    inputs = keras.Input((12, 12, 3))
    first, second = layers.Conv2D(3, 1), layers.Conv2D(3, 1)
    model = keras.Model(inputs, second(first(inputs)))
    first.set_weights([np.diag([1.0, 1.0, small]).reshape(1, 1, 3, 3), np.zeros(3)])
    second.set_weights([np.ones((1, 1, 3, 3)) * [[1], [1], [1 / small]], np.zeros(3)])

    def harmful(content, samples):
        graph = equalize._ScalableGraph(flatbuffer.read(content))
        ((index,),) = graph.linear_groups()
        graph.scale_output(index, np.array([1.0, 1.0, 100.0]))
        graph.scale_readers(index, 1 / np.array([1.0, 1.0, 100.0]))
        return flatbuffer.write(graph.model)

    if not helps:
        monkeypatch.setattr(equalize, "equalize", harmful)
    calibration = Calibration(photographs(count, 12), trusted=True)
    even, uneven = (
        prepare(float_file(model), "int8", calibration, Recipe(rounding="nearest", equalize=each))
        for each in (True, False)
    )
    assert (even.uncorrected != uneven.uncorrected) == taken


@pytest.mark.parametrize(("count", "times", "taken"), [(12, 1, True), (12, 1000, False), (40, 1, False)])
def test_few_samples_that_are_left_out_judge_the_headroom(count, times, taken, float_file, monkeypatch):
    """Where each sample reaches further than all before, others reach further than all; but not a thousand times."""
    inputs = keras.Input((12, 12, 3))
    content = float_file(keras.Model(inputs, layers.Conv2D(3, 1)(inputs)))
    known = ActivationStatistics.headroom.fget
    monkeypatch.setattr(ActivationStatistics, "headroom", property(lambda seen: [times * end for end in known(seen)]))
    growing = photographs(count, 12) * np.arange(1, count + 1, dtype=np.float32).reshape(-1, 1, 1, 1)
    recipe = Recipe(rounding="nearest", equalize=False, ranges="min_max")
    prepared = prepare(content, "int8", Calibration(growing, trusted=True), recipe)
    (output,) = flatbuffer.read(prepared.model).subgraphs[0].outputs
    low, high = ranges.min_max(observe(prepared.model, [[sample[None]] for sample in growing])[output])
    assert (prepared.ranges[output][1] > 1.01 * high or prepared.ranges[output][0] < 1.01 * low) == taken
