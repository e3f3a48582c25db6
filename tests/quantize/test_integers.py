"""The integers: which form each activation gets, where forms change, and files that compute what float computes."""

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf.quantize import Calibration
from mobilenets_tf.quantize.integers import Form
from mobilenets_tf.quantize.post_training import Recipe, prepare
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import Runner
from tests.conftest import photographs

PLAIN = Recipe(ranges="min_max", rounding="nearest")  # fast
CALIBRATION = photographs(100, 16)


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("ends", [(-1.0, 3.0), (0.0, 6.0), (-5.0, 0.0), (2.0, 4.0), (-4.0, -3.0), (-1e-7, 1e3)])
def test_a_form_has_an_exact_zero_and_reaches_both_ends(ends, dtype):
    form = Form.spanning(*ends, dtype)
    limits = np.iinfo(dtype)
    assert limits.min <= form.zero_point <= limits.max
    assert form.rounded(np.float32([0]), dtype) == 0
    values = np.float32([min(ends[0], 0), max(ends[1], 0), ends[0], ends[1]])
    assert np.abs(form.rounded(values, dtype) - values).max() <= form.scale * 1.001
    inside = np.linspace(*ends, 1001).astype(np.float32)
    off = np.abs(form.rounded(inside, dtype) - inside)
    assert np.sort(off)[:-4].max() <= form.scale * 0.501 + 1e-6  # but for the end that zero's exactness moves
    if dtype == "int16":
        assert form.zero_point == 0
        assert form.scale * 32767 == pytest.approx(max(map(abs, ends)))
    else:
        assert form.scale * 255 == pytest.approx(max(ends[1], 0) - min(ends[0], 0))


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_what_integers_stand_for_is_what_rounded_says(dtype):
    form = Form.spanning(-1.3, 2.9, dtype)
    values = np.random.default_rng(0).normal(0, 2, 1000).astype(np.float32)
    integers = form.integers(values, dtype)
    assert integers.dtype == dtype
    stood_for = (integers.astype(float) - form.zero_point) * form.scale
    np.testing.assert_allclose(form.rounded(values, dtype), stood_for, atol=form.scale * 1e-2)


def decibels(content, float_content):
    """How far the error of a file's outputs is below the outputs of the float file."""
    before, after = Runner(float_content), Runner(content)
    noise, signal = 1e-30, 0
    for picture in photographs(10, 16, seed=1):
        for expected, actual in zip(before(picture), after(picture), strict=True):
            noise += np.square(actual - expected).sum()
            signal += np.square(expected).sum()
    return 10 * np.log10(signal / noise)


@pytest.fixture(scope="module")
def mixed(float_file):
    """Pools, paddings, a concatenation whose parts other ops read too, a residual sum; two outputs."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(6, 3, padding="same", activation="relu")(inputs)
    y = layers.Conv2D(6, 1)(x) * 3.0 + 1.0
    z = layers.DepthwiseConv2D(3, padding="same", activation="relu6", depthwise_initializer="ones")(y)
    joined = layers.Concatenate()([z, y, inputs])  # z is read here alone
    pooled = layers.MaxPooling2D(2)(layers.ZeroPadding2D(1)(joined))
    x = layers.Add()([layers.Conv2D(6, 3, strides=2, padding="same")(y), layers.Conv2D(6, 2, padding="valid")(pooled)])
    map_ = layers.Conv2D(2, 1)(layers.UpSampling2D(2, interpolation="bilinear")(x))
    return float_file(keras.Model(inputs, [map_, layers.Dense(7)(layers.Flatten()(layers.AveragePooling2D(4)(x)))]))


SAME_SCALE = {
    "CONCATENATION", "PAD", "PADV2", "MAX_POOL_2D", "AVERAGE_POOL_2D", "RESIZE_BILINEAR", "RESHAPE",
}  # fmt: skip


def form_of(graph, index):
    found = graph.tensors[index].quantization
    return float(found.scale[0]), int(found.zeroPoint[0])


@pytest.mark.parametrize("scheme", ["int8", "int8_float_io", "int16x8"])
def test_ops_that_move_values_keep_their_scale(mixed, scheme):
    content = prepare(mixed, scheme, Calibration(CALIBRATION), PLAIN).write()
    graph = flatbuffer.Graph(flatbuffer.read(content))
    activation = getattr(flatbuffer.schema.TensorType, "INT16" if scheme == "int16x8" else "INT8")
    seen = set()
    for operator in graph.operators:
        if graph.name(operator) in SAME_SCALE:
            seen.add(graph.name(operator))
            quantised = [i for i in operator.inputs if graph.tensors[i].type == activation]
            forms = {form_of(graph, index) for index in [*quantised, operator.outputs[0]]}
            assert quantised and len(forms) == 1, graph.name(operator)
    assert seen >= SAME_SCALE - {"PADV2"}
    # y and the input are read elsewhere in their own scale, and requantised for the concatenation; z is not.
    (join,) = (operator for operator in graph.operators if graph.name(operator) == "CONCATENATION")
    writers = [graph.writer.get(index) for index in join.inputs]
    assert [writer is not None and graph.name(writer) for writer in writers] == [
        "DEPTHWISE_CONV_2D", "QUANTIZE", "QUANTIZE",
    ]  # fmt: skip
    assert decibels(content, mixed) > (50 if scheme == "int16x8" else 35)


def test_a_small_convolutional_network_is_one_accelerated_piece(float_file):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu6")(inputs)
    x = layers.Add()([x, layers.Conv2D(8, 1)(layers.DepthwiseConv2D(3, padding="same", activation="relu")(x))])
    gate = layers.Conv2D(8, 1, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Concatenate()([x * gate, layers.ReLU()(x), layers.MaxPooling2D(2)(inputs)])
    content = float_file(keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(x))))
    found = prepare(content, "int8", Calibration(CALIBRATION)).write()
    assert Runner(found).execution_plan() == {"DELEGATE": 1}
    assert decibels(found, content) > 20


@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
def test_heads_of_a_detector_and_of_a_segmenter(scheme, float_file):
    """Boxes and scores have a scale each; the highest class, where there is no integer kernel, is found in float."""
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((16, 16, 3))
    boxes, scores = [], []
    for _ in range(2):
        x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu6")(x)
        boxes.append(layers.Reshape((-1, 4))(20 * layers.Conv2D(8, 1)(x)))
        scores.append(layers.Reshape((-1, 3))(layers.Conv2D(6, 1)(x)))
    heads = [layers.Concatenate(axis=1)(boxes), keras.ops.sigmoid(layers.Concatenate(axis=1)(scores))]
    logits = layers.UpSampling2D(4, interpolation="bilinear")(layers.Conv2D(3, 1)(x))
    # Keras' own argmax looks at the bits of zeros, for which TFLite has no operator.
    highest = layers.Lambda(lambda logits: tf.argmax(logits, axis=-1, output_type=tf.int32))
    content = float_file(keras.Model(inputs, [*heads, highest(logits)]))
    before = Runner(content)
    after = Runner(prepare(content, scheme, Calibration(CALIBRATION), PLAIN).write())
    assert [details["shape"].tolist() for details in after.outputs] == [[1, 160, 4], [1, 160, 3], [1, 16, 16]]
    if scheme == "int8":
        assert after.outputs[0]["quantization"][0] > 10 / 256 and after.outputs[1]["quantization"] == (1 / 256, -128)
    for picture in photographs(3, 16, seed=1):
        *expected, wanted = before(picture)
        *actual, found = after(picture)
        for one, other in zip(expected, actual, strict=True):
            assert np.square(one - other).sum() < 1e-3 * np.square(one).sum()
        assert (found == wanted).mean() > 0.95


def test_the_same_file_is_written_each_time(mixed):
    first, second = (prepare(mixed, "int8", Calibration(CALIBRATION)) for _ in range(2))
    assert first.write() == first.write() == second.write()


@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
def test_any_op_can_be_kept_in_float(mixed, scheme):
    prepared = prepare(mixed, scheme, Calibration(CALIBRATION), PLAIN)
    tree = flatbuffer.read(prepared.model)
    integer = prepared.plan().integer
    assert integer == set(range(len(tree.subgraphs[0].operators)))
    everywhere = flatbuffer.operator_counts(flatbuffer.read(prepared.write()))
    whole = decibels(prepared.write(), mixed)
    for place, operator in enumerate(tree.subgraphs[0].operators):
        name = flatbuffer.operator_name(tree, operator)
        content = prepared.write(keep_float=[place])
        written = flatbuffer.read(content)
        # Only that op computes floats, and only conversions have been added.
        floats = flatbuffer.float_operator_counts(written)
        assert floats == {name: 1}
        counts = flatbuffer.operator_counts(written)
        for other in {*counts, *everywhere} - {"QUANTIZE", "DEQUANTIZE"}:
            assert counts[other] == everywhere[other]
        assert decibels(content, mixed) > whole - 3
    content = prepared.write(keep_float=integer)
    assert flatbuffer.float_operator_counts(flatbuffer.read(content)) == {
        name: count for name, count in everywhere.items() if name not in ("QUANTIZE", "DEQUANTIZE")
    }
    assert decibels(content, mixed) > (40 if scheme == "int8" else 90)  # with int8 its two ends remain


@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
@pytest.mark.parametrize("per_tensor", [False, True])
def test_biases_that_do_not_fit_beside_tiny_weights_are_kept(per_tensor, scheme, float_file):
    inputs = keras.Input((16, 16, 3))
    first = layers.Conv2D(4, 3)
    model = keras.Model(inputs, layers.Conv2D(2, 1, kernel_initializer="ones")(layers.ReLU()(first(inputs))))
    weights = np.random.default_rng(0).normal(0, 1, (3, 3, 3, 4)) * [1e-12, 1e-9, 1.0 if not per_tensor else 1e-9, 0]
    first.set_weights([weights, np.array([50.0, 80.0, 1.0, 20.0])])
    content = float_file(model)
    found = prepare(content, scheme, Calibration(CALIBRATION), Recipe(per_tensor=per_tensor)).write()
    assert decibels(found, content) > 35


def test_one_scale_a_tensor_where_that_is_asked_for(mixed):
    content = prepare(mixed, "int8", Calibration(CALIBRATION), Recipe(per_tensor=True)).write()
    graph = flatbuffer.Graph(flatbuffer.read(content))
    layers_ = [op for op in graph.operators if graph.name(op) in ("CONV_2D", "DEPTHWISE_CONV_2D")]
    assert layers_ and all(len(graph.tensors[op.inputs[1]].quantization.scale) == 1 for op in layers_)
    assert decibels(content, mixed) > 30
