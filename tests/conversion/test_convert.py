"""The types in which the converter stores weights."""

import keras
import pytest

from mobilenets_tf import create_model
from mobilenets_tf.conversion.convert import check_exportable, convert, float_file, freeze
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


@pytest.mark.parametrize(("model_name", "layer_name"), [("my model", "layer"), ("model", "conv 1"), ("_model", "a")])
def test_names_that_no_operator_can_have_are_refused(model_name, layer_name):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2, name=layer_name)(inputs), name=model_name)
    with pytest.raises(RequestError, match=r"no operators called '(my model|conv 1|_model)'.*another name"):
        check_exportable(model)


@pytest.fixture
def settings_for_other_programs():
    layout, policy = keras.config.image_data_format(), keras.config.dtype_policy()
    keras.config.set_image_data_format("channels_first")
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_image_data_format(layout)
    keras.config.set_dtype_policy(policy)


def test_settings_of_other_programs_do_not_reach_networks_and_files(request, worker):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="layer")(inputs)
    x = keras.layers.LayerNormalization(name="norm")(x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D(name="pool")(x), name="model")
    usual = float_file(model, worker)[1]
    request.getfixturevalue("settings_for_other_programs")
    assert float_file(model, worker)[1] == usual
    network = create_model("mobilenet_v1", alpha=0.25, resolution=32, classes=3)
    assert network.get_layer("stem_conv").data_format == "channels_last"
    assert network.get_layer("stem_conv").compute_dtype == "float16"  # which the user asked for
    with pytest.raises(RequestError, match="computes in float16"):
        check_exportable(network)
    assert keras.config.image_data_format() == "channels_first"
    assert keras.config.dtype_policy().name == "mixed_float16"


def test_another_backend_is_named(monkeypatch):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    with pytest.raises(RequestError, match="Keras computes with jax .*KERAS_BACKEND=tensorflow"):
        check_exportable(model)
