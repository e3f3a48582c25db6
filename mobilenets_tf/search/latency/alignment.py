"""Match the operators of a file with the ops of its profile.

XNNPACK has its own names, fuses some operators of a file (padding, spelled-out activations) and may run several ops for
one operator (a clamp after a product). Both lists have the same order, so they are aligned like two texts: with the
fewest operators left out and the fewest ops without an operator.
"""

from collections.abc import Sequence

import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.speed.op_profile import Op

# Operator -> what XNNPACK's names of it begin with (the strings in libLiteRt.so of ai-edge-litert 2.3.0). LiteRT's own
# kernels have the schema's names. "Invalid Unary Op" is an activation in int8 that XNNPACK looks up in a table of 256
# values; it replaces all operators that spell the activation out.
_TABLE = "Invalid Unary Op"
_NAMES = {
    "CONV_2D": ("Convolution", "Fully Connected"),
    "DEPTHWISE_CONV_2D": ("Convolution", "Depthwise Convolution"),
    "TRANSPOSE_CONV": ("Deconvolution",),
    "FULLY_CONNECTED": ("Fully Connected", "Dynamic Fully Connected", "Batch Matrix Multiply", "Convolution"),
    "BATCH_MATMUL": ("Batch Matrix Multiply", "Dynamic Fully Connected", "Fully Connected"),
    "ADD": ("Add",),
    "SUB": ("Subtract",),
    "MUL": ("Multiply", "HardSwish", "SiLU", "Sigmoid", _TABLE),
    "DIV": ("Divide",),
    "MAXIMUM": ("Maximum",),
    "MINIMUM": ("Minimum",),
    "SQUARED_DIFFERENCE": ("Squared Difference",),
    "MEAN": ("Mean", "Global Average Pooling", "Average Pooling"),
    "SUM": ("Sum",),
    "AVERAGE_POOL_2D": ("Average Pooling", "Global Average Pooling", "Mean"),
    "MAX_POOL_2D": ("Max Pooling",),
    "RESHAPE": ("Static Reshape", "Copy"),
    "SQUEEZE": ("Static Reshape", "Copy"),
    "EXPAND_DIMS": ("Static Reshape", "Static Expand Dims", "Copy"),
    "TRANSPOSE": ("Transpose",),
    "PAD": ("Constant Pad",),
    "PADV2": ("Constant Pad",),
    "SPLIT": ("Even Split", "Copy", "Static Slice", "Slice"),
    "SLICE": ("Static Slice", "Slice", "Copy"),
    "STRIDED_SLICE": ("Static Slice", "Slice", "Copy"),
    "CONCATENATION": ("Concatenate", "Copy"),
    "SOFTMAX": ("Softmax",),
    "LOGISTIC": ("Sigmoid", _TABLE),
    "TANH": ("Tanh", _TABLE),
    "HARD_SWISH": ("HardSwish", _TABLE),
    "GELU": ("GELU", "ApproxGELU", _TABLE),
    "LEAKY_RELU": ("Leaky ReLU", "LeakyReLU"),
    "PRELU": ("PReLU",),
    "ELU": ("ELU", _TABLE),
    "RELU": ("Clamp", "ReLU"),
    "RELU6": ("Clamp",),
    "RELU_N1_TO_1": ("Clamp",),
    "EXP": ("Exp", _TABLE),
    "SQRT": ("Square Root", _TABLE),
    "RSQRT": ("Reciprocal Square Root", _TABLE),
    "QUANTIZE": ("Convert",),
    "DEQUANTIZE": ("Convert",),
    "RESIZE_BILINEAR": ("Resize Bilinear",),
    "DEPTH_TO_SPACE": ("Depth To Space",),
    "SPACE_TO_DEPTH": ("Space To Depth",),
}
# Operators that always run as an op of their own. All others may be fused into a neighbour, or be nothing to do.
_ALWAYS_RUN = {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"}
_LEFT_OUT, _EXTRA, _NEVER = 1.0, 1.5, 1e6


def times_of_operators(names: Sequence[str], ops: Sequence[Op]) -> list[float]:
    """Give the time of each operator of a file in ms: 0 for one that was fused into a neighbour.

    The time of an op that belongs to no operator is added to the operator before it.

    Args:
        names: of the file's operators in the schema, in the order in which they run.
        ops: the file's profile.

    Raises:
        RequestError: the profile lacks a convolution or matrix product of the file, so it is of another file.
    """
    cost = np.zeros((len(names) + 1, len(ops) + 1))
    cost[1:, 0] = np.cumsum([_cost_of_leaving_out(name) for name in names])
    cost[0, 1:] = np.arange(1, len(ops) + 1) * _EXTRA
    for row, name in enumerate(names, 1):
        leave_out = _cost_of_leaving_out(name)
        fits = [is_of(op, name) for op in ops]
        for column in range(1, len(ops) + 1):
            best = min(cost[row - 1, column] + leave_out, cost[row, column - 1] + _EXTRA)
            cost[row, column] = min(best, cost[row - 1, column - 1]) if fits[column - 1] else best
    if cost[-1, -1] >= _NEVER:
        raise RequestError(
            "The profile does not fit the file: a convolution or a matrix product of the file is not among its "
            f"{len(ops)} ops. Is the profile of another file, or cut off?"
        )
    times = [0.0] * len(names)
    row, column = len(names), len(ops)
    while column:
        if row and is_of(ops[column - 1], names[row - 1]) and cost[row, column] == cost[row - 1, column - 1]:
            times[row - 1] += ops[column - 1].ms
            row, column = row - 1, column - 1
        elif row and cost[row, column] == cost[row - 1, column] + _cost_of_leaving_out(names[row - 1]):
            row -= 1
        else:
            times[max(row - 1, 0)] += ops[column - 1].ms
            column -= 1
    return times


def is_of(op: Op, name: str) -> bool:
    """Tell whether an op of a profile can be the operator of that name in the schema."""
    if not op.delegated:
        return op.name == name
    return op.name.startswith(_NAMES.get(name, ()))


def _cost_of_leaving_out(name: str) -> float:
    return _NEVER if name in _ALWAYS_RUN else _LEFT_OUT
