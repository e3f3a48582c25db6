"""What is predicted of LiteRT's GPU accelerator is what the accelerator takes, operator by operator."""

import pytest

from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.delegates.backends import verdicts
from mobilenets_tf.export.gpu.accelerator import SINGLE
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import Runner
from tests.export.delegates.test_backends import CONV, IMAGE, cases, int32, one_operator, tensor, weights
from tests.support.gpu import accelerator, needs_drivers
from tests.support.gpu_compiler import compile_whole

NARROW, FLAT = (1, 8, 8, 1), (1, 8)
INT32 = flatbuffer.schema.TensorType.INT32


def _binary(name, first, second, result, version=1, **options):
    return one_operator(name, [first, second], [result], version, **options)


def gpu_cases():
    """(what, content) of files with operators of which XNNPACK has no rule, or whose rules differ on the GPU."""
    for kind in ("float32", "int8", "int32"):
        for shape in (IMAGE, (8, 4)):
            ends = [tensor(shape, kind), int32(len(shape) - 1)], [tensor(shape[:-1], "int32", ())]
            yield f"ARG_MAX {kind} {shape}", one_operator("ARG_MAX", *ends, options="ArgMaxOptions", outputType=INT32)
    numbers = ("float32", "int32", "uint8", "int8", "bool", "int64", "int16")
    for before in numbers:
        for after in numbers:
            if before != after:
                ends = [tensor(IMAGE, before, ())], [tensor(IMAGE, after, ())]
                yield f"CAST {before} {after}", one_operator("CAST", *ends, options="CastOptions")
    for name in ("EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "NOT_EQUAL"):
        for kind in ("float32", "int8", "int32"):
            ends = tensor(IMAGE, kind), weights(IMAGE, kind), tensor(IMAGE, "bool", ())
            yield f"{name} {kind}", _binary(name, *ends, options=f"{name.title().replace('_', '')}Options")
    for name in ("LOGICAL_AND", "LOGICAL_OR"):
        yield name, _binary(name, *[tensor(IMAGE, "bool", ())] * 3)
    yield "LOGICAL_NOT", one_operator("LOGICAL_NOT", [tensor(IMAGE, "bool", ())], [tensor(IMAGE, "bool", ())])
    for name in ("REDUCE_ALL", "REDUCE_ANY"):
        ends = [tensor(IMAGE, "bool", ()), int32([1, 2])], [tensor((1, 1, 1, 4), "bool", ())]
        yield name, one_operator(name, *ends, options="ReducerOptions", keepDims=True)
    for name in ("MEAN", "SUM", "REDUCE_PROD"):
        for kind in ("float32", "int32"):
            ends = [tensor(IMAGE, kind, ()), int32([1, 2])], [tensor((1, 4), kind, ())]
            yield f"{name} {kind}", one_operator(name, *ends, options="ReducerOptions")
    for name in ("ATAN2", "POW", "FLOOR_DIV", "FLOOR_MOD"):
        for kind in ("float32", "int32"):
            yield f"{name} {kind}", _binary(name, *[tensor(IMAGE, kind, ())] * 3)
    for name in ("ADD", "SUB"):
        yield f"{name} int32", _binary(name, *[tensor(IMAGE, "int32", ())] * 3, options=f"{name.title()}Options")
        for second in ((8, 4), (8, 8, 4), (1, 1), (8, 1, 4)):
            ends = tensor(IMAGE), tensor(second), tensor(IMAGE)
            yield f"{name} {second}", _binary(name, *ends, options=f"{name.title()}Options")
        ends = tensor((2, 8, 8, 4)), tensor((8, 8, 4)), tensor((2, 8, 8, 4))
        yield f"{name} two", _binary(name, *ends, options=f"{name.title()}Options")
        for second in ((4,), (8, 8, 4), IMAGE, ()):
            ends = tensor(IMAGE), weights(second), tensor(IMAGE)
            yield f"{name} constant {second}", _binary(name, *ends, options=f"{name.title()}Options")
    for name in ("ADD", "MUL", "SUB", "MAXIMUM"):
        yield f"{name} itself", _twice(name)
    for name in ("FLOOR", "NEG", "SQUARE", "ELU", "HARD_SWISH", "RELU_N1_TO_1", "RELU_0_TO_1", "CEIL", "ROUND"):
        yield f"{name} 1", one_operator(name, [tensor(IMAGE)], [tensor(IMAGE)])
    for kind in ("float32", "int8", "int32", "bool"):
        ends = [tensor((8, 4), kind), int32([1, 2])], [tensor((2, 4), kind)]
        yield f"GATHER {kind}", one_operator("GATHER", *ends, options="GatherOptions")
        ends = [tensor((8, 4), kind, ()), int32([2, 2])], [tensor((16, 8), kind, ())]
        yield f"TILE {kind}", one_operator("TILE", *ends)
        ends = [tensor((8, 4), kind, ())] * 2, [tensor((2, 8, 4), kind, ())]
        yield f"PACK {kind}", one_operator("PACK", *ends, options="PackOptions", valuesCount=2)
        ends = [tensor((2, 8, 4), kind, ())], [tensor((8, 4), kind, ())] * 2
        yield f"UNPACK {kind}", one_operator("UNPACK", *ends, options="UnpackOptions", num=2)
        ends = [tensor(IMAGE, kind, ()), int32([1])], [tensor(IMAGE, kind, ())]
        yield f"REVERSE_V2 {kind}", one_operator("REVERSE_V2", *ends)
        for name in ("SELECT", "SELECT_V2"):
            ends = [tensor(IMAGE, "bool", ()), *[tensor(IMAGE, kind, ())] * 2], [tensor(IMAGE, kind, ())]
            yield f"{name} {kind}", one_operator(name, *ends)
    ends = [tensor((8, 4), "bool", ()), *[tensor((8, 4))] * 2], [tensor((8, 4))]
    yield "SELECT of 2", one_operator("SELECT", *ends)
    ends = [tensor((8,), "int32", ()), int32(4), weights(()), weights(())], [tensor((8, 4))]
    yield "ONE_HOT", one_operator("ONE_HOT", *ends, options="OneHotOptions", axis=-1)
    ends = [tensor(FLAT), int32(3)], [tensor((1, 3)), tensor((1, 3), "int32", ())]
    yield "TOPK_V2", one_operator("TOPK_V2", *ends)
    for kind in ("float32", "int32"):
        ends = [tensor(IMAGE, kind, ()), int32(1)], [tensor(IMAGE, kind, ())]
        yield f"CUMSUM {kind}", one_operator("CUMSUM", *ends, options="CumsumOptions")
    for alpha in ((4,), (1, 1, 4), (8, 8, 4)):
        yield f"PRELU {alpha}", one_operator("PRELU", [tensor(IMAGE), weights(alpha)], [tensor(IMAGE)])
    borders, padded = int32([[0, 0], [1, 1], [1, 1], [0, 0]]), [tensor((1, 10, 10, 4))]
    for mode in (0, 1):
        yield (
            f"MIRROR_PAD {mode}",
            one_operator("MIRROR_PAD", [tensor(IMAGE), borders], padded, options="MirrorPadOptions", mode=mode),
        )
    yield "PADV2", one_operator("PADV2", [tensor(IMAGE), borders, weights(())], padded)
    yield "PAD of 2", one_operator("PAD", [tensor((8, 4)), int32([[1, 1], [0, 0]])], [tensor((10, 4))])
    for kind in ("float32", "int32", "int64"):
        ends = [tensor((1, 4, 8), kind, ())] * 2, [tensor((1, 4, 16), kind, ())]
        yield f"CONCATENATION {kind}", one_operator("CONCATENATION", *ends, options="ConcatenationOptions", axis=2)
    ends = [tensor(IMAGE), weights(IMAGE)], [tensor((1, 8, 16, 4))]
    yield "CONCATENATION constant", one_operator("CONCATENATION", *ends, options="ConcatenationOptions", axis=2)
    for shape in ((8, 4), (8,)):
        ends = [tensor(shape), int32([0] * len(shape)), int32([4] * len(shape))], [tensor((4,) * len(shape))]
        yield f"SLICE {shape}", one_operator("SLICE", *ends)
    for kind, scales in (("int8", (0.5,)), ("int8", (0.5, 0.25, 0.125, 1.0)), ("uint8", (0.5,))):
        ends = [tensor(FLAT, "int8"), weights((4, 8), kind, scales=scales), None], [tensor((1, 4), "int8")]
        yield (
            f"FULLY_CONNECTED {kind} {len(scales)}",
            one_operator("FULLY_CONNECTED", *ends, version=4, options="FullyConnectedOptions"),
        )
    for shape in ((4, 3, 3, 4), (4, 1, 1, 4)):
        ends = [tensor(IMAGE), weights(shape, "int8"), weights((4,))], [tensor(IMAGE)]
        yield f"CONV_2D int8 weights {shape}", one_operator("CONV_2D", *ends, version=5, **CONV)
    for name in ("BROADCAST_TO", "EXPAND_DIMS", "L2_NORMALIZATION", "LOG_SOFTMAX"):
        shape = int32([1, *IMAGE] if name == "EXPAND_DIMS" else IMAGE)
        inputs = [tensor(IMAGE), int32(0) if name == "EXPAND_DIMS" else shape]
        inputs = inputs if name in ("BROADCAST_TO", "EXPAND_DIMS") else inputs[:1]
        yield name, one_operator(name, inputs, [tensor((1, *IMAGE) if name == "EXPAND_DIMS" else IMAGE)])
    yield (
        "BATCH_MATMUL constant",
        one_operator("BATCH_MATMUL", [tensor(IMAGE), weights((4, 4))], [tensor(IMAGE)], options="BatchMatMulOptions"),
    )
    yield "RESIZE both", one_operator(
        "RESIZE_NEAREST_NEIGHBOR", [tensor(IMAGE), int32([16, 16])], [tensor((1, 16, 16, 4))], 3,
        options="ResizeNearestNeighborOptions", alignCorners=True, halfPixelCenters=False,
    )  # fmt: skip
    yield "SPLIT_V", one_operator(
        "SPLIT_V", [tensor(IMAGE), int32([1, 3]), int32(3)], [tensor(NARROW), tensor((1, 8, 8, 3))], 1,
        options="SplitVOptions", numSplits=2,
    )  # fmt: skip


def _twice(name):
    options = {"options": f"{name.title()}Options"} if len(name) == 3 else {"options": "MaximumMinimumOptions"}
    tree = flatbuffer.read(_binary(name, *[tensor(IMAGE)] * 3, **options))
    (operator,) = tree.subgraphs[0].operators
    operator.inputs = [0, 0]
    tree.subgraphs[0].inputs = [0]
    return flatbuffer.write(tree)


def predicted(content):
    (verdict,) = (each for each in verdicts(flatbuffer.read(content)) if each.path == "gpu")
    return verdict


def runs(content):
    """Whether LiteRT has a kernel for a file on the CPU; without one, it refuses the file before it asks a delegate."""
    try:
        Runner(content, trusted=True)
    except RequestError:
        return False
    return True


@pytest.mark.slow
@needs_drivers
def test_the_accelerator_takes_what_is_predicted_operator_by_operator(tmp_path, tmp_path_factory):
    tried = [(what, content) for what, content in (*cases(), *gpu_cases()) if runs(content)]
    environment = accelerator(tmp_path_factory).drivers[SINGLE]
    taken = compile_whole(environment, [content for _, content in tried], tmp_path)
    wrong = [
        (what, whole, [fallback.reason for fallback in predicted(content).fallbacks])
        for (what, content), whole in zip(tried, taken, strict=True)
        if whole is not None and whole == bool(predicted(content).fallbacks)
    ]
    assert not wrong
    assert len(tried) > 500 and 100 < sum(map(bool, taken)) < 450
    assert taken.count(None) == 0, [what for (what, _), whole in zip(tried, taken, strict=True) if whole is None]
