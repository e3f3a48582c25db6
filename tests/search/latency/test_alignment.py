"""Matching the operators of a file with a profile. The names are those of ai-edge-litert 2.3.0."""

import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.export.speed.op_profile import Op
from mobilenets_tf.export.speed.tool_output import parse
from mobilenets_tf.search.latency.alignment import is_of, times_of_operators
from tests.support.fake_phone import recorded

GEMM = "Fully Connected (NC, QS8, QC8W) GEMM"


def profile(*names, delegated=True):
    return [Op(name, float(place), delegated) for place, name in enumerate(names, 1)]


def test_spelled_out_activations_are_one_op():
    """The start of MobileNetV3 small in int8: hard swish is ADD and MUL in the file, padding a PAD."""
    names = ["PAD", "CONV_2D", "ADD", "MUL", "DEPTHWISE_CONV_2D", "MEAN", "CONV_2D", "CONV_2D", "MUL", "CONV_2D", "ADD"]
    ops = profile(
        "Convolution (NHWC, QC8) IGEMM", "Invalid Unary Op", "Convolution (NHWC, QC8) DWConv", "Mean (ND) Reduce",
        GEMM, GEMM, "Multiply (ND)", GEMM, "Add (ND)",
    )  # fmt: skip
    assert times_of_operators(names, ops) == [0, 1, 0, 2, 3, 4, 5, 6, 7, 8, 9]


def test_a_clamp_belongs_to_the_operator_before_it():
    """MobileOne S4: the product of squeeze-and-excite has a fused ReLU, which XNNPACK runs apart."""
    names = ["CONV_2D", "LOGISTIC", "MUL", "CONV_2D"]
    ops = profile(GEMM, "Sigmoid (NC)", "Multiply (ND)", "Clamp (NC)", GEMM)
    assert times_of_operators(names, ops) == [1, 2, 3 + 4, 5]


def test_swish_in_float_and_in_a_table():
    names = ["CONV_2D", "LOGISTIC", "MUL", "RESHAPE", "CONV_2D"]
    two = profile("Convolution (NHWC, F32) IGEMM", "Sigmoid (NC)", "Multiply (ND)", "Fully Connected (NC, F32) GEMM")
    one = profile("Convolution (NHWC, QC8) IGEMM", "Invalid Unary Op", GEMM)
    assert times_of_operators(names, two) == [1, 2, 3, 0, 4]
    times = times_of_operators(names, one)
    assert (times[0], times[1] + times[2], times[3], times[4]) == (1, 2, 0, 3)


def test_a_recorded_profile_of_a_phone():
    """TensorFlow Lite 2.8's table of MobileNetV1, in LiteRT's own kernels; LiteRT's table of a small int8 network."""
    ops = parse(recorded("op_profile")).ops
    names = [op.name for op in ops]
    assert times_of_operators(names, ops) == [op.ms for op in ops]
    ops = parse(recorded("litert_profile")).ops
    names = [
        "CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "MEAN", "RESHAPE", "FULLY_CONNECTED", "SOFTMAX",
    ]  # fmt: skip
    assert times_of_operators(names, ops) == [op.ms for op in ops]


def test_nothing_is_lost():
    names = ["CONV_2D", "ADD", "SPLIT", "CONV_2D"]
    ops = profile("Unheard Of (ND)", GEMM, "Add (ND)", "Copy (NC, X8)", "Copy (NC, X8)", GEMM, "Convert (NC)")
    assert sum(times_of_operators(names, ops)) == sum(op.ms for op in ops)


def test_the_profile_of_another_file():
    with pytest.raises(RequestError, match="a convolution or a matrix product of the file is not among its 1 ops"):
        times_of_operators(["CONV_2D", "CONV_2D"], profile(GEMM))
    with pytest.raises(RequestError, match="of another file"):
        times_of_operators(["CONV_2D"], [])


def test_own_kernels_have_the_schemas_names():
    assert is_of(Op("SOFTMAX", 1.0, False), "SOFTMAX") and not is_of(Op("SOFTMAX", 1.0, False), "MEAN")
    assert not is_of(Op("CONV_2D", 1.0, True), "CONV_2D")
