"""Layers left in float to keep a bound: the right ones, no more than that, and what they cost."""

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf.errors import RequestError
from mobilenets_tf.export import to_tflite
from mobilenets_tf.export.tflite import Bound, convert_model, prepare_model
from mobilenets_tf.models.keras_model import KerasModel
from mobilenets_tf.quantize import SCHEMES, Calibration, Recipe
from mobilenets_tf.quantize.drop import AnswerDrop
from mobilenets_tf.quantize.mixed_precision import promising, search
from mobilenets_tf.quantize.sensitivity import measure
from mobilenets_tf.tasks.outputs import CLASSES
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import Runner
from tests.conftest import photographs

SAMPLES = photographs(100, 16)


def outlying(samples=SAMPLES):
    """A network for which int8 is fine but for one layer: a channel of "bad" is 3000 times as large as the others, and
    all of them count. "after" divides it by 3000 again; each of its outputs reads large or small channels only.
    """
    random = np.random.default_rng(0)
    x = inputs = keras.Input((16, 16, 3))
    for name, kernel in (("first", 3), ("second", 3), ("bad", 1), ("after", 1), ("last", 3)):
        x = layers.Conv2D(8, kernel, activation="relu", padding="same", name=name)(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, layers.Dense(10, name="scores")(x), name="outlying")
    for layer in model.layers:
        if layer.weights:
            shape = layer.kernel.shape
            layer.kernel.assign(1.4 * random.normal(size=shape) / np.sqrt(np.prod(shape[:-1])))
            layer.bias.assign(0.1 * random.normal(size=layer.bias.shape))
    bad, after, scores = (model.get_layer(name) for name in ("bad", "after", "scores"))
    kernel, bias = np.asarray(bad.kernel).copy(), np.asarray(bad.bias).copy()
    kernel[..., 0], bias[0] = 3000 * np.abs(kernel[..., 0]), 3000 * bias[0]
    bad.kernel.assign(kernel)
    bad.bias.assign(bias)
    kernel = np.asarray(after.kernel).copy()
    kernel[:, :, 0, 1:] = kernel[:, :, 1:, 0] = 0
    kernel[:, :, 0, 0] = 1 / 3000
    after.kernel.assign(kernel)
    # So that the answers differ among the samples.
    scores.bias.assign(np.asarray(scores.bias) - model.predict(samples, verbose=0).mean(axis=0))
    return model


@pytest.fixture(scope="module")
def prepared(worker):
    return prepare_model(KerasModel(outlying()), SCHEMES["int8_float_io"], Calibration(SAMPLES), Recipe(), worker)


@pytest.fixture(scope="module")
def judge(prepared):
    return AnswerDrop(prepared[0].original, prepared[0].samples, [CLASSES])


@pytest.fixture(scope="module")
def mixed(prepared, judge):
    return search(*prepared, judge, 0.1)


def test_the_terrible_layer_is_left_in_float_by_name_and_the_bound_holds(prepared, judge, mixed):
    assert measure(*prepared)[0].layer == "bad"
    # What it gives stays float only if the layer that reads it is float too.
    assert {layer.layer for layer in mixed.left} == {"bad", "after"}
    assert mixed.integer_drop > 0.3
    assert mixed.drop == judge(mixed.content) <= 0.1
    assert mixed.content == prepared[0].write(mixed.places)


def test_measured_by_the_score_the_terrible_layer_and_its_reader_come_first(prepared, judge):
    _, names = prepared
    contents, steps = [], []

    def drop(content):
        contents.append(content)
        return judge(content)

    rows = measure(*prepared, progress=lambda *step: steps.append(step), drop=drop)
    # A file stores what its integer layer reads in integers too: "after" reads what "bad" gives.
    assert {row.layer for row in rows[:2]} == {"bad", "after"} and rows[1].drop > 0.3
    assert [row.drop for row in rows] == sorted((row.drop for row in rows), reverse=True)
    assert all(row.drop < 0.15 for row in rows[2:])
    assert {(what, total) for what, _, total in steps} == {("measuring layers", len(rows))}
    assert len(contents) == len(rows) == max(done for _, done, _ in steps)
    # Each file is that of one layer: the others, which are named in its tensors, are float.
    for content, layer in zip(contents, dict.fromkeys(name for name in names if name), strict=True):
        graph = flatbuffer.Graph(flatbuffer.read(content))
        integer = [
            graph.tensors[operator.outputs[0]].name.decode()
            for operator in graph.operators
            if graph.name(operator) not in ("QUANTIZE", "DEQUANTIZE")
            and graph.tensors[operator.outputs[0]].type == flatbuffer.schema.TensorType.INT8
        ]
        # The result of the last layer has a number, since the file's output has its name.
        assert integer and all(name in (layer, f"{layer}_1") or f"/{layer}_" in name for name in integer)


def test_noise_is_the_same_with_a_score_and_without(prepared):
    plain = {row.layer: row for row in measure(*prepared)}
    scored = {row.layer: row for row in measure(*prepared, drop=lambda content: 0.25)}
    assert {name: row.as_dict() | {"drop": 0.25} for name, row in plain.items()} == {
        name: row.as_dict() for name, row in scored.items()
    }
    assert "drop" not in plain["bad"].as_dict() and list(scored) == list(plain)


def test_each_layers_price_is_that_of_the_file_without_it(prepared, judge, mixed):
    ready, names = prepared
    kept = {layer.layer for layer in mixed.left}
    for layer in mixed.left:
        rest = kept - {layer.layer}
        other = ready.write(place for place, name in enumerate(names) if name in rest)
        assert layer.bought == pytest.approx(judge(other) - mixed.drop) and layer.bought > 0.1
        assert layer.bytes == len(mixed.content) - len(other)
        counts = [flatbuffer.operator_counts(flatbuffer.read(content)) for content in (mixed.content, other)]
        conversions = [found.get("QUANTIZE", 0) + found.get("DEQUANTIZE", 0) for found in counts]
        assert layer.conversions == conversions[0] - conversions[1]
        assert layer.weight_bytes == 4 * 8 * 8


def test_the_order_takes_a_layer_together_with_the_one_that_reads_it(prepared):
    order = promising(*prepared, measure(*prepared))
    assert set(order[:2]) == {"bad", "after"}
    assert sorted(order) == sorted(row.layer for row in measure(*prepared))


def test_nothing_is_left_in_float_where_nothing_need_be(prepared, judge):
    found = search(*prepared, judge, 0.9)
    assert found.left == () and found.trials == 1
    assert found.content == prepared[0].write()
    assert found.drop == found.integer_drop


def float_layers(content):
    """The convolutions whose results are float, by the end of their names."""
    tree = flatbuffer.read(content)
    graph = flatbuffer.Graph(tree)
    return {
        name
        for operator in graph.operators
        if graph.name(operator) == "CONV_2D" and graph.activations(operator.outputs)
        for name in ("first", "second", "bad", "after", "last")
        if f"/{name}_" in graph.tensors[operator.outputs[0]].name.decode()
    }


@pytest.mark.parametrize("needed", [{"last"}, {"first", "last"}, {"second"}])
def test_layers_that_the_bound_does_not_need_go_back_into_integers(prepared, needed):
    # However harmless they look: what counts is what the files lose.
    found = search(*prepared, lambda content: 0.2 * len(needed - float_layers(content)), 0.01)
    assert {layer.layer for layer in found.left} == needed
    assert found.drop == 0 and found.integer_drop == pytest.approx(0.2 * len(needed))
    assert all(layer.bought == pytest.approx(0.2) for layer in found.left)
    assert found.trials < 40


def test_a_bound_that_float_layers_cannot_keep_is_told(prepared):
    with pytest.raises(RequestError, match="Even with every layer in float the int8_float_io file loses 30.00%"):
        search(*prepared, lambda content: 0.3, 0.01)


@pytest.mark.parametrize("bound", [-0.1, 1, 5, float("nan")])
def test_a_bound_that_is_no_share_is_refused(prepared, judge, bound):
    with pytest.raises(RequestError, match="expected a share from 0 up to 1"):
        search(*prepared, judge, bound)


def test_the_judge_counts_answers_or_with_labels_accuracy(prepared, judge):
    ready, _ = prepared
    content = ready.write()
    given, found = (
        [Runner(each)(*arrays)[0].argmax() for arrays in ready.samples] for each in (ready.original, content)
    )
    assert judge(content) == pytest.approx(np.mean(np.array(given) != found))
    # Nothing says that the linear outputs are logits: as values they are no better than their worst element.
    assert AnswerDrop(ready.original, ready.samples)(content) > judge(content)


def test_conversion_judges_on_the_samples_that_it_is_given(worker):
    samples = [[sample[None]] for sample in photographs(40, 16, seed=7)]
    calibration = Calibration(SAMPLES)
    converted = convert_model(
        outlying(),
        SCHEMES["int8"],
        calibration,
        worker,
        bound=Bound(0.25, lambda reference: AnswerDrop(reference, samples)),
    )
    assert "bad" in {layer.layer for layer in converted.mixed.left}
    assert AnswerDrop(converted.float_content, samples)(converted.content) == converted.mixed.drop <= 0.25


def test_to_tflite_names_the_layers_in_the_manifest(tmp_path):
    bounded = to_tflite(outlying(), "int8", SAMPLES, tmp_path / "bounded.tflite", max_drop=0.1)
    found = bounded.manifest["mixed_precision"]
    assert {layer["layer"] for layer in found["left"]} == {"bad", "after"} and found["drop"] <= 0.1
    assert bounded.manifest["float_operators"] == {"CONV_2D": 2}


def test_one_scale_a_tensor(tmp_path):
    single = to_tflite(outlying(), "int8", SAMPLES, tmp_path / "single.tflite", recipe=Recipe(per_tensor=True))
    assert single.manifest["recipe"]["per_tensor"]
    tree = flatbuffer.read(single.path.read_bytes())
    weights = [operator.inputs[1] for operator in tree.subgraphs[0].operators if len(operator.inputs) == 3]
    assert len(weights) == 6
    assert all(len(tree.subgraphs[0].tensors[index].quantization.scale) == 1 for index in weights)


@pytest.mark.parametrize("option", [{"max_drop": 0.01}, {"recipe": Recipe(per_tensor=True)}])
def test_options_of_quantisation_are_refused_where_nothing_is_calibrated(tmp_path, option):
    with pytest.raises(RequestError, match=f"{next(iter(option))} is for the calibrated schemes"):
        to_tflite(outlying(), "float16", path=tmp_path / "half.tflite", **option)
