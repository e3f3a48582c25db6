"""What is predicted of delegates. Of XNNPACK it is compared with what XNNPACK does, operator by operator and network by
network; of the others the rules are tried on operators of which the source tells what becomes of them."""

import struct
from collections import Counter

import numpy as np
import pytest

from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.delegates.backends import BACKENDS, verdicts
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.operators import calls
from mobilenets_tf.tflite.runtime import Runner
from tests.conftest import photographs

ACTIVATION = schema.ActivationFunctionType


def tensor(shape, kind="float32", scales=(0.5,), zeros=(0,), axis=0, values=None):
    return {"shape": shape, "type": kind, "scales": scales, "zeros": zeros, "axis": axis, "values": values}


def int32(values):
    values = np.array(values, np.int32)
    return tensor(values.shape, "int32", scales=(), values=values)


def weights(shape, kind="float32", **more):
    dtype = np.float16 if kind == "float16" else np.dtype(kind)
    return tensor(shape, kind, values=np.ones(shape, dtype), **more)


def one_operator(name, inputs, outputs, version=1, **options):
    """The content of a file with one operator; ``options`` are fields of its options, "options" the class of them."""
    model = schema.ModelT()
    model.version, model.operatorCodes, model.buffers = 3, [], [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = [], []
    model.subgraphs = [graph]
    indices = []
    for number, spec in enumerate([*inputs, *outputs]):
        if spec is None:
            indices.append(-1)
            continue
        buffer = 0
        if spec["values"] is not None:
            data = schema.BufferT()
            data.data = np.frombuffer(spec["values"].tobytes(), np.uint8)
            model.buffers.append(data)
            buffer = len(model.buffers) - 1
        index = flatbuffer.add_tensor(model, f"t{number}", spec["shape"], buffer)
        graph.tensors[index].type = getattr(schema.TensorType, spec["type"].upper())
        if spec["type"] in ("int8", "uint8", "int16") or (spec["type"] in ("int32", "int64") and spec["scales"]):
            quantization = schema.QuantizationParametersT()
            quantization.scale = np.array(spec["scales"], np.float32)
            quantization.zeroPoint = np.resize(np.array(spec["zeros"], np.int64), len(spec["scales"]))
            quantization.quantizedDimension = spec["axis"]
            graph.tensors[index].quantization = quantization
        indices.append(index)
    made = None
    if "options" in options:
        made = getattr(schema, options.pop("options") + "T")()
        vars(made).update(options)
    operator = flatbuffer.make_operator(model, name, indices[: len(inputs)], indices[len(inputs) :], made)
    model.operatorCodes[0].version = version
    graph.operators = [operator]
    graph.inputs = [i for i in indices[: len(inputs)] if i >= 0 and not graph.tensors[i].buffer]
    graph.outputs = indices[len(inputs) :]
    return flatbuffer.write(model)


def predicted(content):
    """As ``Runner.execution_plan`` has it."""
    verdict = verdicts(flatbuffer.read(content))[0]
    plan = Counter(fallback.operator for fallback in verdict.fallbacks)
    return {**plan, **({"DELEGATE": verdict.parts[0]} if verdict.parts[0] else {})}


IMAGE = (1, 8, 8, 4)
TYPES = ("float32", "int8", "uint8", "int16")
CONV = {"options": "Conv2DOptions", "strideW": 1, "strideH": 1}
DEPTHWISE = {"options": "DepthwiseConv2DOptions", "strideW": 1, "strideH": 1, "depthMultiplier": 1}
POOL = {"options": "Pool2DOptions", "filterWidth": 2, "filterHeight": 2, "strideW": 2, "strideH": 2}
BIAS = {kind: tensor((4,), "int32", (0.25,), values=np.ones(4, np.int32)) for kind in ("int8", "uint8")} | {
    "float32": weights((4,)),
    "int16": tensor((4,), "int64", (0.25,), values=np.ones(4, np.int64)),
}
KERNEL = {"int16": "int8"}  # what 16-bit activations are multiplied with


def _convolution(name, kind, options, **changes):
    shape = (4, 3, 3, 4) if name == "CONV_2D" else (1, 3, 3, 4)
    ends = {
        "x": tensor(IMAGE, kind),
        "w": weights(shape, KERNEL.get(kind, kind)),
        "b": BIAS[kind],
        "y": tensor(IMAGE, kind),
    } | changes
    return one_operator(name, [ends["x"], ends["w"], ends["b"]], [ends["y"]], version=3, **options)


def cases():
    """(what, content) of files that LiteRT can run, on both sides of XNNPACK's rules."""
    unary = (
        "ABS", "CEIL", "COS", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LOG", "LOGISTIC", "NEG", "RELU", "RELU6",
        "RELU_N1_TO_1", "ROUND", "RSQRT", "SIN", "SQRT", "SQUARE", "TANH", "LEAKY_RELU", "SIGN", "LOG_SOFTMAX",
    )  # fmt: skip
    scales = {"LOGISTIC": {"int8": (1 / 256, -128), "uint8": (1 / 256, 0), "int16": (1 / 32768, 0)}}
    scales["TANH"] = {"int8": (1 / 128, 0), "uint8": (1 / 128, 128), "int16": (1 / 32768, 0)}
    for name in unary:
        for kind in TYPES:
            scale, zero = scales.get(name, {}).get(kind, (0.5, 0))
            options = {"options": "LeakyReluOptions", "alpha": 0.25} if name == "LEAKY_RELU" else {}
            ends = [tensor(IMAGE, kind)], [tensor(IMAGE, kind, (scale,), (zero,))]
            yield f"{name} {kind}", one_operator(name, *ends, version=2, **options)
    for name in ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"):
        options = {"options": f"{name.title()}Options"} if len(name) == 3 else {}
        for kind in TYPES:
            for other in (IMAGE, (1, 1, 1, 4), (4,), ()):
                ends = [tensor(IMAGE, kind), tensor(other, kind)], [tensor(IMAGE, kind)]
                yield f"{name} {kind} {other}", one_operator(name, *ends, version=2, **options)
    for scale in (600.0, 200.0, 0.1, 0.0001):
        for name in ("ADD", "MUL"):
            ends = [tensor(IMAGE, "int8"), tensor(IMAGE, "int8")], [tensor(IMAGE, "int8", (scale,))]
            yield f"{name} to {scale}", one_operator(name, *ends, version=2, options=f"{name.title()}Options")
        ends = [tensor(IMAGE, "int8", (0.1,))], [tensor(IMAGE, "int8", (scale,))]
        yield f"QUANTIZE to {scale}", one_operator("QUANTIZE", *ends, version=2)
        yield f"LEAKY_RELU to {scale}", one_operator("LEAKY_RELU", *ends, options="LeakyReluOptions", alpha=0.1)
    for rank in (5, 6, 7):
        shape = (1,) * (rank - 2) + (4, 4)
        yield f"ABS of {rank}", one_operator("ABS", [tensor(shape)], [tensor(shape)])
        ends = [tensor(shape), int32([16])], [tensor((16,))]
        yield f"RESHAPE of {rank}", one_operator("RESHAPE", *ends, options="ReshapeOptions")
    for before, after in (
        ("float32", "int8"),
        ("float32", "uint8"),
        ("int8", "uint8"),
        ("int8", "int8"),
        ("int16", "int8"),
    ):
        yield f"QUANTIZE {before} {after}", one_operator("QUANTIZE", [tensor(IMAGE, before)], [tensor(IMAGE, after)], 2)
    for kind in ("int8", "uint8", "int16"):
        yield f"DEQUANTIZE {kind}", one_operator("DEQUANTIZE", [tensor(IMAGE, kind)], [tensor(IMAGE)], 2)
    for kind in TYPES:
        for name, options in (("CONV_2D", CONV), ("DEPTHWISE_CONV_2D", DEPTHWISE)):
            yield f"{name} {kind}", _convolution(name, kind, options)
            yield (
                f"{name} {kind} RELU6",
                _convolution(name, kind, options | {"fusedActivationFunction": ACTIVATION.RELU6}),
            )
        for name, axis, options in (("CONV_2D", 0, CONV), ("DEPTHWISE_CONV_2D", 3, DEPTHWISE)):
            if kind in ("int8", "int16"):
                shape = (4, 3, 3, 4) if axis == 0 else (1, 3, 3, 4)
                several = weights(shape, "int8", scales=(0.5, 0.25, 0.125, 1.0), axis=axis)
                yield f"{name} {kind} a channel", _convolution(name, kind, options, w=several)
        for name in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
            ends = [tensor(IMAGE, kind)], [tensor((1, 4, 4, 4), kind)]
            yield f"{name} {kind}", one_operator(name, *ends, **POOL)
            yield f"{name} {kind} strides", one_operator(name, *ends, **POOL | {"filterWidth": 1})
        yield f"SOFTMAX {kind}", one_operator(
            "SOFTMAX",
            [tensor((1, 10), kind)],
            [tensor((1, 10), kind, *{"int8": ((1 / 256,), (-128,)), "uint8": ((1 / 256,), (0,)),
                                     "int16": ((1 / 32768,), (0,))}.get(kind, ()))],
            options="SoftmaxOptions", beta=1.0,
        )  # fmt: skip
        for keep in (True, False):
            ends = [tensor(IMAGE, kind), int32([1, 2])], [tensor((1, 1, 1, 4) if keep else (1, 4), kind)]
            for name in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"):
                yield f"{name} {kind}", one_operator(name, *ends, version=2, options="ReducerOptions", keepDims=keep)
        ends = [tensor(IMAGE, kind), int32([[0, 0], [1, 1], [1, 1], [0, 0]])], [tensor((1, 10, 10, 4), kind)]
        yield f"PAD {kind}", one_operator("PAD", *ends, version=2)
        yield (
            f"TRANSPOSE {kind}",
            one_operator("TRANSPOSE", [tensor(IMAGE, kind), int32([0, 3, 1, 2])], [tensor((1, 4, 8, 8), kind)]),
        )
        for scale in (0.5, 0.25):
            ends = [tensor(IMAGE, kind), int32([1, 256])], [tensor((1, 256), kind, (scale,))]
            yield f"RESHAPE {kind} {scale}", one_operator("RESHAPE", *ends, options="ReshapeOptions")
        ends = [tensor(IMAGE, kind), int32([16, 16])], [tensor((1, 16, 16, 4), kind)]
        yield f"RESIZE_BILINEAR {kind}", one_operator("RESIZE_BILINEAR", *ends, options="ResizeBilinearOptions")
        yield (
            f"RESIZE_NEAREST {kind}",
            one_operator("RESIZE_NEAREST_NEIGHBOR", *ends, version=2, options="ResizeNearestNeighborOptions"),
        )
        for size in ([1, 4, 4, 4], [1, -1, 4, 4]):
            sides = (1, 4 if size[1] == 4 else 8, 4, 4)
            ends = [tensor(IMAGE, kind), int32([0, 0, 0, 0]), int32(size)], [tensor(sides, kind)]
            yield f"SLICE {kind} {size}", one_operator("SLICE", *ends, version=4)
        for step in (1, 2):
            bounds = int32([0, 0, 0, 0]), int32(IMAGE), int32([1, step, 1, 1])
            ends = [tensor(IMAGE, kind), *bounds], [tensor((1, 8 // step, 8, 4), kind)]
            yield (
                f"STRIDED_SLICE {kind} {step}",
                one_operator("STRIDED_SLICE", *ends, version=4, options="StridedSliceOptions"),
            )
        for parts in (2, 4):
            ends = [int32(3), tensor(IMAGE, kind)], [tensor((1, 8, 8, 4 // parts), kind)] * parts
            yield (
                f"SPLIT {kind} {parts}",
                one_operator("SPLIT", *ends, version=4, options="SplitOptions", numSplits=parts),
            )
        for number in (2, 5, 6):
            ends = [tensor(IMAGE, kind)] * number, [tensor((1, 8, 8, 4 * number), kind)]
            yield (
                f"CONCATENATION {kind} {number}",
                one_operator("CONCATENATION", *ends, version=3, options="ConcatenationOptions", axis=3),
            )
        for name, shape in (("DEPTH_TO_SPACE", (1, 16, 16, 1)), ("SPACE_TO_DEPTH", (1, 4, 4, 16))):
            if kind != "int16":
                option = {"options": f"{name.title().replace('_', '')}Options", "blockSize": 2}
                yield f"{name} {kind}", one_operator(name, [tensor(IMAGE, kind)], [tensor(shape, kind)], 2, **option)
        if kind != "uint8":
            zero = tensor((1, 6, 4), kind, zeros=(3 if kind == "int8" else 0,))
            for right in (tensor((1, 6, 4), kind), zero):
                ends = [tensor((1, 5, 6), kind), right], [tensor((1, 5, 4), kind)]
                yield (
                    f"BATCH_MATMUL {kind}",
                    one_operator("BATCH_MATMUL", *ends, version=4, options="BatchMatMulOptions"),
                )
        for kernel in (weights((4, 6), KERNEL.get(kind, kind)), tensor((4, 6), KERNEL.get(kind, kind))):
            ends = [tensor((1, 6), kind), kernel, BIAS[kind]], [tensor((1, 4), kind)]
            yield (
                f"FULLY_CONNECTED {kind}",
                one_operator("FULLY_CONNECTED", *ends, version=4, options="FullyConnectedOptions"),
            )
        ends = [tensor(IMAGE, kind), int32(0)], [tensor((1, *IMAGE), kind)]
        yield f"EXPAND_DIMS {kind}", one_operator("EXPAND_DIMS", *ends)
    many = weights((4, 6), "int8", scales=(0.5, 0.25, 0.125, 1.0))
    for kernel in (weights((4, 6), "int8"), many):
        ends = [tensor((1, 6)), kernel, BIAS["float32"]], [tensor((1, 4))]
        yield (
            "FULLY_CONNECTED dynamic",
            one_operator("FULLY_CONNECTED", *ends, version=4, options="FullyConnectedOptions"),
        )
    for name, options in (("CONV_2D", CONV), ("DEPTHWISE_CONV_2D", DEPTHWISE)):
        yield f"{name} no bias", _convolution(name, "float32", options, b=None)
        shape = (4, 3, 3, 4) if name == "CONV_2D" else (1, 3, 3, 4)
        yield f"{name} computed weights", _convolution(name, "float32", options, w=tensor(shape))
        yield (
            f"{name} dynamic",
            _convolution(
                name,
                "float32",
                options,
                w=weights(shape, "int8", scales=(0.5, 0.25, 0.125, 1.0), axis=0 if name == "CONV_2D" else 3),
            ),
        )
    ends = [int32([1, 16, 16, 4]), weights((4, 2, 2, 4)), tensor(IMAGE)], [tensor((1, 16, 16, 4))]
    yield (
        "TRANSPOSE_CONV",
        one_operator("TRANSPOSE_CONV", *ends, version=2, options="TransposeConvOptions", strideW=2, strideH=2),
    )
    yield "PRELU", one_operator("PRELU", [tensor(IMAGE), weights((1, 1, 4))], [tensor(IMAGE)])
    yield "PRELU computed", one_operator("PRELU", [tensor(IMAGE), tensor((1, 1, 4))], [tensor(IMAGE)])
    yield (
        "SOFTMAX beta 2",
        one_operator("SOFTMAX", [tensor((1, 10))], [tensor((1, 10))], options="SoftmaxOptions", beta=2.0),
    )
    yield "GATHER", one_operator("GATHER", [tensor((8, 4)), int32([1, 2])], [tensor((2, 4))], options="GatherOptions")


def test_xnnpack_takes_what_is_predicted_operator_by_operator():
    """A file that LiteRT refuses (a type it has no kernel for) tells nothing; most are run."""
    wrong, run = [], 0
    for what, content in cases():
        prediction = predicted(content)
        try:
            plan = Runner(content, trusted=True).execution_plan()
        except RequestError:
            continue
        run += 1
        if plan != prediction:
            wrong.append((what, prediction, plan))
    assert not wrong
    assert run > 200


def _agrees(content):
    assert predicted(content) == Runner(content).execution_plan()


def small_network(activation="relu6", width=8):
    """Every kind of layer that our networks have: convolutions, squeeze-and-excite, residual, attention, classifier."""
    import keras
    from keras import layers, ops

    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(width, 3, strides=2, padding="same", activation=activation)(inputs)
    y = layers.DepthwiseConv2D(3, padding="same", activation=activation)(layers.ZeroPadding2D(1)(x))[:, 1:-1, 1:-1]
    scale = layers.Conv2D(width, 1, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(y))
    x = layers.Conv2D(width, 1)(y * scale) + x
    x = ops.reshape(x, (-1, 64, width))
    x = layers.LayerNormalization()(x)
    x = ops.matmul(ops.softmax(ops.matmul(x, ops.transpose(x, (0, 2, 1)))), x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(5, activation="softmax")(x))


@pytest.fixture(scope="module")
def network():
    return small_network()


@pytest.mark.parametrize("scheme", ["float32", "float16", "dynamic", "int8", "int8_float_io", "int16x8"])
def test_xnnpack_takes_what_is_predicted_of_our_files(network, scheme, worker):
    from mobilenets_tf.export.tflite import convert_model
    from mobilenets_tf.quantize import SCHEMES, Calibration

    samples = Calibration(photographs(100, 16)) if SCHEMES[scheme].calibrated else None
    _agrees(convert_model(network, SCHEMES[scheme], samples, worker).content)


def test_xnnpack_leaves_depthwise_convolutions_with_int8_weights_in_a_float_file(worker):
    """The converter makes 8 bits of weights from 1024 values on."""
    from mobilenets_tf.export.tflite import convert_model
    from mobilenets_tf.quantize import SCHEMES

    content = convert_model(small_network(width=128), SCHEMES["dynamic"], None, worker).content
    assert predicted(content)["DEPTHWISE_CONV_2D"] == 1
    _agrees(content)


@pytest.mark.filterwarnings("ignore:Statistics for quantized inputs")  # TensorFlow's converter
def test_xnnpack_leaves_int8_hard_swish(worker):
    """As the stock converter writes MobileNetV3 (also in README)."""
    content = worker.call(stock_int8)
    (verdict, *_) = verdicts(flatbuffer.read(content))
    left = {fallback.operator: fallback for fallback in verdict.fallbacks}
    assert left["HARD_SWISH"].reason.startswith("input 0 is int8")
    assert left["HARD_SWISH"].source.place == "VisitUnaryNode"
    assert verdict.parts[0] > 1
    _agrees(content)


def stock_int8():
    """Runs in the worker: a network with hard-swish through TFLiteConverter's own quantisation."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    network = small_network("hard_swish")
    inputs = keras.Input((16, 16, 3), batch_size=1)
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(inputs, network(inputs)))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([picture[None]] for picture in photographs(4, 16))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()


def reasons(backend, content):
    """Operator -> why the backend refuses it."""
    by_name = {verdict.path: verdict for verdict in verdicts(flatbuffer.read(content))}
    return {fallback.operator: fallback.reason for fallback in by_name[backend].fallbacks}


def test_a_shape_that_is_computed_keeps_a_graph_from_the_gpu():
    content = one_operator("RESHAPE", [tensor(IMAGE), tensor((2,), "int32", ())], [tensor((1, 256))])
    for backend in ("gpu", "nnapi"):
        assert "is known only at run time" in reasons(backend, content)["RESHAPE"]
    assert predicted(content) == Runner(content).execution_plan() == {"RESHAPE": 1}


def test_the_gpu_delegate():
    five = (1, 1, 1, 4, 4)
    assert "5 dimensions" in reasons("gpu", one_operator("ABS", [tensor(five)], [tensor(five)]))["ABS"]
    assert "int16" in reasons("gpu", _convolution("CONV_2D", "int16", CONV))["CONV_2D"]
    for kind in ("float32", "int8"):
        assert reasons("gpu", _convolution("CONV_2D", kind, CONV)) == {}
    ends = [tensor((2, 8, 8, 4)), tensor((8, 8, 4))], [tensor((2, 8, 8, 4))]
    assert reasons("gpu", one_operator("ADD", *ends, options="AddOptions")) == {}
    ends = [tensor((2, 8, 8, 4)), tensor(())], [tensor((2, 8, 8, 4))]
    assert "a computed scalar" in reasons("gpu", one_operator("ADD", *ends, options="AddOptions"))["ADD"]
    content = one_operator("L2_NORMALIZATION", [tensor(IMAGE)], [tensor(IMAGE)])
    assert "not among" in reasons("gpu", content)["L2_NORMALIZATION"]


def _web(name, inputs, outputs, **options):
    """Why MediaPipe's GPU delegate in browsers refuses a file of one operator; None if it takes the file."""
    return reasons("web_gpu", one_operator(name, inputs, outputs, **options)).get(name)


def test_mediapipes_gpu_delegate_in_browsers():
    """Each of these was tried in Chromium (benchmarks/web_gpu.py)."""
    half, narrow, seven = (1, 8, 4, 4), (1, 8, 8, 1), tensor((), values=np.float32(7))
    joined = {"options": "ConcatenationOptions", "axis": 2}
    assert _web("CONCATENATION", [tensor(half), tensor(half)], [tensor(IMAGE)], **joined) is None
    constant = [tensor(half), weights(half)], [tensor(IMAGE)]
    assert _web("CONCATENATION", *constant, **joined) == "an operand is a constant; it takes computed operands"
    content = one_operator("CONCATENATION", *constant, **joined)
    assert reasons("gpu", content) == {}  # the delegate on a phone takes the constant
    assert "a constant" in _web("PACK", [tensor((8, 4)), weights((8, 4))], [tensor((2, 8, 4))], options="PackOptions")
    assert "not among" in _web("SIGN", [tensor(IMAGE)], [tensor(IMAGE)])
    assert "both factors" in _web("BATCH_MATMUL", [tensor((1, 4, 8, 6)), tensor((1, 4, 6, 8))], [tensor((1, 4, 8, 8))])
    assert _web("BATCH_MATMUL", [tensor(IMAGE), weights((4, 4))], [tensor(IMAGE)]) is None
    borders = int32([[0, 0], [1, 1], [1, 1], [0, 0]])
    padded = [tensor((1, 10, 10, 4))]
    assert _web("PAD", [tensor(IMAGE), borders], padded) is None
    assert _web("PADV2", [tensor(IMAGE), borders, tensor((), values=np.float32(0))], padded) is None
    assert "its result is wrong: it pads with zeros" in _web("PADV2", [tensor(IMAGE), borders, seven], padded)
    assert "pads with zeros" in _web("MIRROR_PAD", [tensor(IMAGE), borders], padded, options="MirrorPadOptions")
    assert "has 1 dimension" in _web("ADD", [tensor(IMAGE), tensor((4,))], [tensor(IMAGE)], options="AddOptions")
    assert _web("ADD", [tensor(IMAGE), weights((4,))], [tensor(IMAGE)], options="AddOptions") is None
    assert "not repeated 4 times" in _web("MUL", [tensor(narrow), tensor(IMAGE)], [tensor(IMAGE)], options="MulOptions")
    assert _web("MUL", [tensor(()), tensor(())], [tensor(())], options="MulOptions") is None
    assert _web("MUL", [tensor(IMAGE), tensor(narrow)], [tensor(IMAGE)], options="MulOptions") is None
    assert _web("MUL", [tensor(IMAGE), tensor((1, 1, 1, 4))], [tensor(IMAGE)], options="MulOptions") is None


def test_mediapipe_in_a_browser_takes_float_inputs_only():
    for kind in ("int8", "uint8"):
        content = one_operator("DEQUANTIZE", [tensor(IMAGE, kind)], [tensor(IMAGE)])
        assert reasons("web_gpu", content)["DEQUANTIZE"] == f"the model's input t0 is {kind}; it takes float32"
        assert reasons("gpu", content) == {}


def test_mediapipe_in_a_browser_takes_whole_files_only():
    tree = flatbuffer.read(one_operator("ABS", [tensor(IMAGE)], [tensor(IMAGE)]))
    graph = tree.subgraphs[0]
    signs = flatbuffer.add_tensor(tree, "signs", IMAGE)
    graph.operators.append(flatbuffer.make_operator(tree, "SIGN", list(graph.outputs), [signs]))
    graph.outputs = [signs]
    content = flatbuffer.write(tree)
    by_name = {verdict.path: verdict for verdict in verdicts(flatbuffer.read(content))}
    assert (by_name["gpu"].taken, by_name["web_gpu"].taken, by_name["web_gpu"].parts) == (2, 0, (0,))
    assert reasons("web_gpu", content)["ABS"] == "it takes a file only if it takes every operator"


def test_nnapi():
    ends = [tensor(IMAGE)], [tensor(IMAGE)]
    assert "version 2" in reasons("nnapi", one_operator("EXP", *ends, version=2))["EXP"]
    assert reasons("nnapi", one_operator("EXP", *ends)) == {}
    assert reasons("nnapi", one_operator("HARD_SWISH", [tensor(IMAGE, "int8")], [tensor(IMAGE, "int8")])) == {}
    assert "not among" in reasons("nnapi", one_operator("CEIL", *ends))["CEIL"]


def test_npus_have_no_custom_operators():
    content = one_operator("ABS", [tensor(IMAGE)], [tensor(IMAGE)])
    model = flatbuffer.read(content)
    code = model.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = b"FlexErf"
    for backend in BACKENDS:
        assert "FlexErf" in reasons(backend.name, flatbuffer.write(model))


def mediapipe(name, inputs, outputs, sizes):
    """The content of a file with one of MediaPipe's custom operators. sizes: padding, strides, window."""
    tree = flatbuffer.read(one_operator("ABS", inputs, outputs))
    code = tree.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = name.encode()
    tree.subgraphs[0].operators[0].customOptions = np.frombuffer(struct.pack(f"<{len(sizes)}i", *sizes), np.uint8)
    return flatbuffer.write(tree)


def _mediapipe_files():
    half = (1, 4, 4, 4)
    kernel, bias = weights((4, 2, 2, 4)), weights((4,))
    transposed = [tensor(half), kernel, bias], [tensor(IMAGE)]
    pooled = [tensor(IMAGE)], [tensor(half), tensor(half)]
    unpooled = [tensor(half), tensor(half)], [tensor(IMAGE)]
    yield True, "Convolution2DTransposeBias", *transposed, (1, 2, 2)
    yield False, "Convolution2DTransposeBias", *transposed, (0, 2, 2)
    yield False, "Convolution2DTransposeBias", transposed[0][:2], transposed[1], (1, 2, 2)
    yield True, "MaxPoolingWithArgmax2D", *pooled, (2, 2, 2, 2, 2)
    yield False, "MaxPoolingWithArgmax2D", *pooled, (2, 2, 2, 3, 3)
    yield False, "MaxPoolingWithArgmax2D", *pooled, (2, 2, 2)
    yield True, "MaxUnpooling2D", *unpooled, (2, 2, 2, 2, 2)
    yield False, "MaxUnpooling2D", *unpooled, (2, 2, 2, 1, 1)


@pytest.mark.parametrize(("taken", "name", "inputs", "outputs", "sizes"), _mediapipe_files())
def test_mediapipes_custom_operators_run_in_xnnpack_alone(taken, name, inputs, outputs, sizes):
    content = mediapipe(name, inputs, outputs, sizes)
    assert verdicts(flatbuffer.read(content))[0].taken == taken
    if taken:
        assert Runner(content).execution_plan() == {"DELEGATE": 1}
    else:
        with pytest.raises(RequestError, match=name):
            Runner(content)


def test_every_rule_has_a_source_and_is_for_an_operator_that_exists():
    builtin = {name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    custom = {"Convolution2DTransposeBias", "MaxPoolingWithArgmax2D", "MaxUnpooling2D", "Resampler"}
    for backend in BACKENDS:
        names = {name for name in backend.rules if not name.startswith("custom_call.")}
        assert names <= builtin | custom, names - builtin - custom
        for rule in backend.rules.values():
            source = rule.source
            was_tried = source.repository.startswith(("npm:", "pypi:"))  # since the source is closed
            assert source.file.endswith((".cc", ".so")) and source.place and (was_tried or len(source.commit) == 40)


def test_weights_that_are_unpacked_go_with_what_reads_them():
    """A half-precision weight's DEQUANTIZE runs in XNNPACK with a convolution, and outside with a GATHER."""
    for name, expected in (("ADD", {"DELEGATE": 1}), ("GATHER_ND", {"DEQUANTIZE": 1, "GATHER_ND": 1})):
        content = one_operator("DEQUANTIZE", [weights((4, 4), "float16")], [tensor((4, 4))], version=3)
        model = flatbuffer.read(content)
        graph = model.subgraphs[0]
        (constant, unpacked) = (int(graph.operators[0].inputs[0]), int(graph.operators[0].outputs[0]))
        assert calls(model)[0].inputs[0].index == constant
        other = flatbuffer.add_tensor(model, "other", (4, 4) if name == "ADD" else (2, 1))
        result = flatbuffer.add_tensor(model, "result", (4, 4) if name == "ADD" else (2, 4))
        if name != "ADD":
            graph.tensors[other].type = schema.TensorType.INT32
        graph.operators.append(flatbuffer.make_operator(model, name, [unpacked, other], [result]))
        graph.inputs, graph.outputs = [other], [result]
        content = flatbuffer.write(model)
        assert predicted(content) == Runner(content).execution_plan() == expected


def test_operators_that_lack_what_they_need_are_refused_in_words():
    pair = [tensor((1, 4, 4)), tensor((1, 4, 4))]
    for content in (
        one_operator("BATCH_MATMUL", pair[:1], pair[:1], options="BatchMatMulOptions"),
        one_operator("DYNAMIC_UPDATE_SLICE", [pair[0], None, None], pair[:1]),
    ):
        reasons = [each.reason for verdict in verdicts(flatbuffer.read(content)) for each in verdict.fallbacks]
        assert any("lacks inputs or dimensions" in reason for reason in reasons), reasons
