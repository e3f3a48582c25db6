"""The sensitivity of layers: against independent measurements, and as files."""

import json

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf.errors import RequestError
from mobilenets_tf.export import sensitivity
from mobilenets_tf.export.page import sensitivity_chart
from mobilenets_tf.export.tflite import prepare_model
from mobilenets_tf.files import to_json
from mobilenets_tf.models.keras_model import KerasModel
from mobilenets_tf.quantize import SCHEMES, Calibration, Recipe
from mobilenets_tf.quantize.integers import WEIGHTED
from mobilenets_tf.quantize.sensitivity import Sensitivity, measure
from mobilenets_tf.quantize.steps.effects import Effects
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import Runner
from tests.conftest import photographs


def branching():
    """A sum, a hard-swish, a layer that is used twice and a final softmax."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="stem")(layers.ZeroPadding2D(name="pad")(inputs))
    shared = layers.Conv2D(8, 1, name="shared")
    x = layers.Add(name="sum")([x, shared(shared(x))])
    x = layers.Activation("hard_swish", name="swish")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(6, name="scores")(x)
    return keras.Model(inputs, layers.Softmax(name="answer")(x), name="branching")


@pytest.fixture(scope="module")
def prepared(worker):
    return prepare_model(KerasModel(branching()), SCHEMES["int8"], Calibration(photographs(100, 16)), Recipe(), worker)


@pytest.fixture(scope="module")
def rows(prepared):
    return {row.layer: row for row in measure(*prepared)}


def test_every_layer_that_rounds_is_there_the_most_sensitive_first(rows):
    # The padding moves integers as they are.
    assert set(rows) == {"stem", "shared", "sum", "swish", "pool", "scores", "answer"}
    found = [row.output_db for row in rows.values()]
    assert found == sorted(found)
    assert rows["shared"].operators == {"CONV_2D": 2}
    assert rows["swish"].operators == {"ADD": 1, "MUL": 1}
    assert all(0 < row.layer_db < 70 for row in rows.values())


def test_rounding_an_activation_does_what_a_cut_there_says(prepared, rows):
    ready, names = prepared
    effects = Effects(ready.uncorrected, ready.samples[:16])
    plan = ready.plan()
    graph = flatbuffer.read(ready.uncorrected).subgraphs[0]
    for layer in ("sum", "pool"):  # they have no weights
        index = graph.operators[names.index(layer)].outputs[0]
        form = plan.forms[index]
        part = effects.cut(index).error(lambda values, form=form: form.rounded(values, "int8"))
        assert rows[layer].output_db == pytest.approx(-10 * np.log10(part), abs=0.1)
        assert rows[layer].weights_db == float("inf")


@pytest.mark.parametrize("layer", ["stem", "shared", "scores"])
def test_rounding_weights_does_what_a_file_with_those_weights_does(prepared, rows, layer):
    ready, names = prepared
    tree, corrected = flatbuffer.read(ready.uncorrected), flatbuffer.read(ready.model)
    for place, operator in enumerate(tree.subgraphs[0].operators):
        if names[place] == layer:
            axis = WEIGHTED[flatbuffer.operator_name(tree, operator)].output_axis
            flatbuffer.replace_constant(tree, operator, 1, ready.rounded[place].values(axis))
            index = corrected.subgraphs[0].operators[place].inputs[2]
            if index >= 0:
                flatbuffer.replace_constant(tree, operator, 2, flatbuffer.constant(corrected, index))
    scores = tree.subgraphs[0].operators[names.index("answer")].inputs[0]
    outcomes = []
    for model in (flatbuffer.read(ready.uncorrected), tree):
        model.subgraphs[0].outputs, model.signatureDefs = [scores], []
        runner = Runner(flatbuffer.write(model))
        outcomes.append(np.concatenate([runner(*arrays)[0] for arrays in ready.samples[:16]]))
    # A softmax does not see what is added to all scores.
    wanted, found = (outcome - outcome.mean(axis=-1, keepdims=True) for outcome in outcomes)
    expected = 10 * np.log10((wanted**2).sum() / ((found - wanted) ** 2).sum())
    assert rows[layer].weights_db == pytest.approx(expected, abs=0.05)
    assert rows[layer].output_db < rows[layer].weights_db


def test_a_keras_model_is_measured_in_one_call(rows):
    found = sensitivity(branching(), photographs(100, 16), "int16x8", recipe=Recipe(rounding="nearest"))
    assert {row.layer for row in found} == set(rows)
    # Sixteen bits leave hardly more than the weights' rounding.
    for row in found:
        if row.layer in ("stem", "sum", "pool"):
            assert row.layer_db > rows[row.layer].layer_db + 3


def test_rows_are_json_without_infinity(rows):
    written = json.loads(to_json([row.as_dict() for row in rows.values()]))
    assert {row["layer"]: row["weights_db"] for row in written}["sum"] is None


def test_the_chart_names_every_layer_and_is_settled(rows):
    rows = [*rows.values(), Sensitivity("harmless", {"MEAN": 1}, float("inf"), float("inf"), float("inf"))]
    chart = sensitivity_chart.draw(rows, "a title")
    assert all(f">{row.layer}<" in chart for row in rows) and "a title" in chart
    assert chart == sensitivity_chart.draw(rows, "a title")


def test_a_scheme_without_activations_is_refused():
    with pytest.raises(RequestError, match="'float16' has no activations that are rounded"):
        sensitivity(branching(), photographs(100, 16), "float16")
