"""A frozen graph as a model: TensorFlow's answers are the reference, the float file has the fewest ops."""

import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

from mobilenets_tf.conversion.frozen_graph import FrozenGraph, freeze_function
from mobilenets_tf.errors import RequestError
from mobilenets_tf.models.traced_model import TracedModel
from mobilenets_tf.modelsource import ModelSource, opened
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import Runner
from tests.conftest import photographs

WEIGHTS = np.random.default_rng(0).normal(0, 0.3, (3, 3, 3, 8)).astype("float32")


def traced(call, *shapes, names=("image", "other"), outputs=("scores",), dtype=tf.float32):
    specs = [tf.TensorSpec(shape, dtype, name) for shape, name in zip(shapes, names, strict=False)]
    return TracedModel(freeze_function(call, specs, lambda: outputs, label="net"), "net", "net")


def spelled_out(image):
    """A hard-swish and a layer normalisation, spelled out."""
    x = tf.nn.conv2d(image, WEIGHTS, 2, "SAME")
    x = x * tf.nn.relu6(x + 3) / 6
    x = (x - tf.reduce_mean(x, -1, keepdims=True)) / tf.sqrt(tf.math.reduce_variance(x, -1, keepdims=True) + 1e-3)
    return [tf.nn.softmax(tf.reduce_mean(x, (1, 2)))]


def test_the_float_file_equals_tensorflow_with_few_ops(worker):
    model = traced(spelled_out, (1, 32, 32, 3))
    assert model.ends[0].activation == "softmax" and model.inputs[0] == ("image", (1, 32, 32, 3))
    content = model.float_file(worker).content
    counts = flatbuffer.operator_counts(flatbuffer.read(content))
    assert counts["HARD_SWISH"] == 1 and not {"DIV", "SQRT", "RELU6"} & set(counts)
    batch = photographs(3, 32)
    wanted = model.answers([batch])[0]
    found = np.concatenate([Runner(content)(sample[None])[0] for sample in batch])
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert wanted.shape == (3, 8) and Runner(content).execution_plan() == {"DELEGATE": 1}
    assert len(model.float_file(worker).stored("float16")) < len(content)


def test_channels_first_become_channels_last(worker):
    def call(image):
        x = tf.nn.conv2d(tf.transpose(image, (0, 2, 3, 1)), WEIGHTS, 1, "SAME")
        return [tf.reduce_mean(tf.transpose(x, (0, 3, 1, 2)), (2, 3))]

    with pytest.warns(UserWarning, match=r"net takes its image channels first, \(1, 3, 32, 32\)"):
        model = traced(call, (1, 3, 32, 32))
    content = model.float_file(worker).content
    assert model.inputs[0].shape == (1, 32, 32, 3) and Runner(content).input_shapes[0] == (32, 32, 3)
    sample = photographs(1, 32)
    np.testing.assert_allclose(Runner(content)(sample)[0], model.answers([sample])[0], atol=1e-5)
    assert "TRANSPOSE" not in flatbuffer.operator_counts(flatbuffer.read(content))


def test_several_inputs_and_outputs_keep_their_names(worker):
    model = traced(lambda a, b: [a + 2 * b, tf.nn.relu(a)], (1, 4), (1, 4), outputs=("sum", "positive"))
    content = model.float_file(worker).content
    (signature,) = flatbuffer.read(content).signatureDefs
    assert [entry.name.decode() for entry in signature.outputs] == ["sum", "positive"]
    assert [each.name for each in model.inputs] == ["image", "other"]
    samples = [np.float32([[1, -2, 3, -4]]), np.float32([[4, 3, 2, 1]])]
    for found, wanted in zip(Runner(content)(*samples), model.answers(samples), strict=True):
        np.testing.assert_allclose(found, wanted)


def test_the_last_operator_tells_what_an_output_says():
    outputs = {
        "softmax": tf.nn.softmax, "sigmoid": tf.sigmoid, "unit": lambda x: tf.math.l2_normalize(x, -1),
        "pool": lambda x: tf.reduce_mean(x[..., None], -1), "bounded": tf.nn.relu, "linear": lambda x: x * 2 + 1,
    }  # fmt: skip
    model = traced(lambda x: [tf.reshape(call(x), (1, 4)) for call in outputs.values()], (1, 4), outputs=list(outputs))
    assert {end.name: end.activation for end in model.ends} == {name: name for name in outputs}


def test_half_precision_is_computed_in_float32(worker):
    def call(image):
        x = tf.nn.conv2d(tf.cast(image, tf.float16), tf.cast(WEIGHTS, tf.float16), 1, "SAME")
        return [tf.reduce_mean(tf.nn.relu(x), (1, 2))]

    with pytest.warns(UserWarning, match="net computes in float16; .* the same weights and computes in float32"):
        model = traced(call, (1, 16, 16, 3))
    assert model.ends[0].shape == (8,)
    sample = photographs(1, 16)
    wanted = tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(sample, WEIGHTS, 1, "SAME")), (1, 2))
    np.testing.assert_allclose(model.answers([sample])[0], wanted, atol=1e-3)
    np.testing.assert_allclose(
        Runner(model.float_file(worker).content)(sample)[0], model.answers([sample])[0], atol=1e-5
    )


def test_fractions_for_whole_numbers_are_refused():
    model = traced(lambda x: [tf.cast(x, tf.float32) * 2], (1, 2), dtype=tf.int32)
    assert model.answers([np.float32([[3, 4]])])[0].tolist() == [[6, 8]]
    with pytest.raises(RequestError, match=r"Input 'image' takes whole numbers \(int32\); received 0.5"):
        model.answers([np.float32([[3, 0.5]])])


@pytest.mark.filterwarnings("ignore:net takes its image channels first")
def test_what_tensorflow_cannot_compute_is_said_in_a_line():
    # Convolutions with channels first run on processors for which TensorFlow has oneDNN's kernels; this runs on none.
    model = traced(lambda x: [tf.nn.space_to_depth(x, 2, data_format="NCHW")], (1, 3, 8, 8))
    with pytest.raises(RequestError, match='SpaceToDepth.*channels first.*data_format="channels_last"'):
        model.answers([photographs(1, 8)])


def test_a_graph_is_sent_to_another_process_once():
    graph = traced(spelled_out, (1, 32, 32, 3))._graph
    before = len(pickle.dumps(FrozenGraph(graph.content, graph.inputs, graph.outputs)))
    assert graph.graph_def.node and len(pickle.dumps(graph)) < before + 100
    assert pickle.loads(pickle.dumps(graph)) == graph


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda x: [tf.argmax(x, -1)], "net: the output 'scores' is int64; expected float32 values"),
        (lambda x: [tf.reduce_sum(x)], r"'scores' has the shape \(\) for one sample"),
        (lambda x: [tf.where(x > 0), x], "'scores' is int64"),
        (lambda x: [tf.boolean_mask(x, x > 0)], r"the shape \(None,\)"),
        (lambda x: [x * np.float32(np.nan)], "the constant .* has values that are NaN"),
    ],
)
def test_what_no_file_can_hold_is_refused(call, said):
    with pytest.raises(RequestError, match=said):
        traced(call, (1, 4), outputs=("scores", "x")).check()


def test_an_input_of_another_type_is_refused():
    with pytest.raises(RequestError, match="net: the input 'image' is uint8; expected float32.*--input uint8"):
        traced(lambda x: [tf.cast(x, tf.float32)], (1, 4), dtype=tf.uint8)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="mine")
        self.convolution = keras.layers.Conv2D(4, 3, 2)

    def call(self, image):
        return tf.nn.softmax(tf.reduce_mean(self.convolution(image), (1, 2)))


def test_a_source_carries_what_no_file_can_hold():
    """Stock layers travel as a .keras file, which keeps the layers; everything else as a graph."""
    model = Subclassed()
    model(photographs(1, 16))
    source = ModelSource(model, mean=127.5, std=127.5)
    source.check()
    found = source.open()
    assert isinstance(found, TracedModel) and source.model == found.name == "mine"
    np.testing.assert_allclose(found.answers([photographs(2, 16)])[0], model(photographs(2, 16)), atol=1e-6)
    assert source.facts()["kind"] == "Keras 3 model (Subclassed)" and len(source.facts()["weights_sha256"]) == 64
    again = Subclassed()
    again(photographs(1, 16))
    again.set_weights(model.get_weights())
    assert isinstance(opened(again), TracedModel)
    with pytest.raises(RequestError, match="mine is a model whose layers only its own process knows"):
        source.check(in_keras=True)
    inputs = keras.Input((4,))
    stock = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    assert isinstance(ModelSource(stock).content, bytes)
    scaled = keras.Model(inputs, keras.layers.Lambda(lambda x: 2 * x)(inputs))
    assert ModelSource(scaled).open().answers([np.ones((1, 4), "float32")])[0].tolist() == [[2, 2, 2, 2]]


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (lambda image: image / 127.5 - 1, (0.0, 1.0)),
        (lambda image: (image - np.float32([0.5, 0.4, 0.4])) / np.float32([0.2, 0.25, 0.2]), (0.0, 255.0)),
        (lambda image: (tf.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0))) - 120) * 0.02, (0.0, 1.0)),
        (lambda image: image, None),
        (lambda image: tf.nn.relu(image / 255), (0.0, 1.0)),
        (lambda image: image * tf.reduce_mean(image), None),
        (lambda image: image * np.float32([0.9, 1.1, 1.2]) + np.float32([0.1, 0, -0.1]), None),
    ],
    ids=[
        "pixels",
        "shares by channel",
        "behind a border",
        "none",
        "before an activation",
        "by the image itself",
        "learned factors",
    ],
)
def test_the_graphs_own_normalisation_is_noticed(first, told):
    model = traced(lambda image: [tf.reduce_mean(tf.nn.conv2d(first(image), WEIGHTS, 2, "SAME"), (1, 2))], (1, 8, 8, 3))
    own = model.own_normalisation
    assert (own and (own.mean, own.std)) == told


def test_a_shape_may_come_from_a_variable():
    shape = tf.Variable([1, -1])
    model = traced(lambda image: [tf.reshape(image[:, 0, 0], shape)], (1, 8, 8, 3))
    assert model.ends[0].shape == (3,)
