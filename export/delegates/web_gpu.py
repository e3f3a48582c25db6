"""Which operators MediaPipe's GPU delegate in browsers runs: the WebGL backend of ML Drift.

It reads a file as the classic GPU delegate does, so the rules of ``classic_gpu`` hold too. Its own source is closed.
What it refuses besides, and what it computes wrongly in silence, was found by running files of single operators with
the package @mediapipe/tasks-vision in Chromium and comparing the scores with those of its CPU
(``benchmarks/web_gpu.py``). It takes float32 inputs only: of an int8 or uint8 input it reads other values, or refuses
the file.
"""

import numpy as np

from mobilenets_tf.export.delegates import classic_gpu
from mobilenets_tf.export.delegates.rules import FLOAT_OR_8, Check, RuleSource
from mobilenets_tf.tflite.operators import Call

SOURCE = RuleSource("ml_drift/gl30/inference_context.cc", "as tried", "npm:@mediapipe/tasks-vision", "1.1.0")
# Their nodes end with "No support of ...": of batched_matmul, cast, cumsum, gather, select_v2 and sign. What a CAST or
# a GATHER makes is all that LOGICAL_AND and ONE_HOT read.
_REFUSED = {"CAST", "CUMSUM", "GATHER", "LOGICAL_AND", "ONE_HOT", "SELECT", "SELECT_V2", "SIGN"}
_ELEMENTWISE = {
    "ADD", "ADD_N", "DIV", "FLOOR_DIV", "FLOOR_MOD", "MAXIMUM", "MINIMUM", "MUL", "POW", "SQUARED_DIFFERENCE", "SUB",
}  # fmt: skip
_WRONG = "it is taken, and its result is wrong: "


def _joined(call: Call) -> str | None:
    """An operand that is a constant becomes a node "const", two equal operands a node "copy"; it has neither."""
    tensors = [tensor for tensor in call.inputs if tensor is not None]
    if any(tensor.known for tensor in tensors):
        return "an operand is a constant; it takes computed operands"
    if len({tensor.index for tensor in tensors}) < len(tensors):
        return "two operands are the same tensor"
    return None


def _products(call: Call) -> str | None:
    return None if call.inputs[1].known else "both factors are computed; it takes a constant second factor"


def _broadcast(call: Call) -> str | None:
    """Refuse an operand of one dimension, which it reads as a batch ("Unrecognized Read selector"), and to widen one
    computed channel: it reads the channels that are not there as zeros."""
    channels, rank = (1, *call.outputs[0].shape)[-1], len(call.outputs[0].shape)
    computed = [tensor for tensor in call.inputs if not tensor.known]
    if any(len(tensor.shape) == 1 < rank for tensor in computed):
        return f"an operand is computed and has 1 dimension, the result has {rank}"
    if channels > 1 and computed and computed[0].shape[-1:] == (1,):
        return f"{_WRONG}one channel is not repeated {channels} times"
    return None


def _pad_value(call: Call) -> str | None:
    value = call.inputs[2]
    if value.constant and value.data is not None and value.type in FLOAT_OR_8:
        zero = value.zero_points[0] if len(value.zero_points) else 0
        if (np.frombuffer(value.data.tobytes(), value.type) == zero).all():
            return None
    return f"{_WRONG}it pads with zeros"


def _mirror(call: Call) -> str | None:
    return f"{_WRONG}it pads with zeros"


_CHECKS: dict[str, Check] = {
    **dict.fromkeys(_ELEMENTWISE, _broadcast),
    "BATCH_MATMUL": _products,
    "CONCATENATION": _joined,
    "MIRROR_PAD": _mirror,
    "PACK": _joined,
    "PADV2": _pad_value,
}
RULES = {name: rule for name, rule in classic_gpu.RULES.items() if name not in _REFUSED}


def limits(call: Call) -> str | None:
    """Check what the classic GPU delegate takes and this one does not."""
    return _CHECKS[call.name](call) if call.name in _CHECKS else None
