"""The types in which the converter stores weights."""

import keras
import pytest

from mobilenets_tf.conversion.convert import check_exportable, convert, freeze
from mobilenets_tf.errors import RequestError
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema


@pytest.fixture(scope="module")
def frozen():
    inputs = keras.Input((8, 8, 4))
    return freeze(keras.Model(inputs, keras.layers.Conv2D(64, 3, name="layer")(inputs)))


@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
def test_weights_have_their_type_and_the_files_ends_are_float(frozen, worker, weights):
    graph = flatbuffer.Graph(flatbuffer.read(convert(frozen, worker, weights)))
    types = {tensor.type for tensor in graph.tensors if tensor.shape == [64, 3, 3, 4]}
    assert getattr(schema.TensorType, weights.upper()) in types
    assert {graph.tensors[index].type for index in graph.inputs + graph.outputs} == {schema.TensorType.FLOAT32}


def test_a_type_of_weights_that_there_is_not_is_refused(frozen, worker):
    with pytest.raises(RequestError, match="Unknown type of weights 'int16'. Did you mean 'int8'"):
        convert(frozen, worker, "int16")


@pytest.mark.parametrize(
    ("model_name", "layer_name"), [("my model", "layer"), ("model", "conv 1"), ("_model", "layer")]
)
def test_names_that_no_operator_can_have_are_refused(model_name, layer_name):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2, name=layer_name)(inputs), name=model_name)
    with pytest.raises(RequestError, match=r"no operators called '(my model|conv 1|_model)'.*another name"):
        check_exportable(model)
