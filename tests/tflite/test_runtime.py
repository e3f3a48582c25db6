"""Files that LiteRT's own kernels run and refuse."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mobilenets_tf.conversion.convert import float_file
from mobilenets_tf.errors import RequestError
from mobilenets_tf.models import tflite_model
from mobilenets_tf.tflite import flatbuffer, runtime
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.runtime import Runner, refused_without_delegates


@pytest.mark.parametrize("scheme", ["float32", "float16", "dynamic", "int8", "int16x8"])
def test_every_scheme_runs_without_a_delegate(small_files, scheme):
    assert refused_without_delegates(small_files[scheme].content) is None


def test_a_scale_that_only_xnnpack_takes_is_told(small_files):
    tree = flatbuffer.read(small_files["int8"].content)
    graph = tree.subgraphs[0]
    convolution = next(op for op in graph.operators if flatbuffer.operator_name(tree, op) == "CONV_2D")
    convolution.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.RELU6
    graph.tensors[convolution.outputs[0]].quantization.scale = np.array([1e-12], np.float32)
    assert "overflow" in refused_without_delegates(flatbuffer.write(tree))


@pytest.fixture(scope="module")
def table(worker):
    """A float file that looks whole numbers up in a table of five rows."""
    model = keras.Sequential([keras.Input((3,), dtype="int32", name="ids"), keras.layers.Embedding(5, 2)])
    return Runner(float_file(model, worker)[1])


def test_inputs_of_whole_numbers_are_not_rounded_in_silence(table):
    assert np.array_equal(table(np.array([0, 4, 2])), table(np.float32([0, 4, 2])))
    with pytest.raises(RequestError, match=r"Input 'ids' takes whole numbers \(int32\); received 2.5"):
        table(np.float32([0, 4, 2.5]))


def test_what_litert_cannot_compute_is_told_with_the_values(table):
    with pytest.raises(RequestError, match=r"LiteRT cannot compute .*out of bounds.* 'ids' has -1 to 7\."):
        table(np.array([0, 7, -1]))


def looping(ends):
    """A file that doubles its input in a loop, until the sum is large if the loop ends."""
    tf.keras.backend.clear_session()

    @tf.function(input_signature=[tf.TensorSpec((1, 4), tf.float32)])
    def doubled(x):
        limit = 100.0 if ends else np.inf
        return tf.while_loop(lambda y: tf.reduce_sum(y) < limit, lambda y: (tf.minimum(y * 2 + 1, 1e6),), [x])[0]

    return tf.lite.TFLiteConverter.from_concrete_functions([doubled.get_concrete_function()]).convert()


def refused(tree, content):
    assert "WHILE" in flatbuffer.operator_counts(tree) and flatbuffer.read(content)
    raise RequestError("it has a loop")


def test_a_file_whose_loop_does_not_end_is_refused(tmp_path, monkeypatch, own_workers):
    monkeypatch.setattr(runtime, "_LOOP_SECONDS", 1)
    for ends in (True, False):
        (tmp_path / f"{ends}.tflite").write_bytes(looping(ends))
    assert Runner(tmp_path / "True.tflite")(np.zeros(4))[0].sum() >= 100
    with pytest.raises(RequestError, match=r"False.tflite cannot be run: a loop .* has not ended after 1 s"):
        Runner(tmp_path / "False.tflite")
    monkeypatch.setattr(tflite_model, "check_loops", refused)
    with pytest.raises(RequestError, match="theirs cannot be run: it has a loop"):
        tflite_model._Given((tmp_path / "False.tflite").read_bytes(), "theirs", [(1, 4)], None, ["x"], ["y"])
