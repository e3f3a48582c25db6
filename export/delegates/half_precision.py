"""Sums that pass half precision on a GPU: 65,504 is its largest number, and what is larger becomes infinite.

Phones' GPUs compute in half precision unless the app asks for more. A SUM over many positions passes 65,504 soon; the
NaN that follows is LiteRT's issue 9249. MEAN and AVERAGE_POOL_2D do not: LiteRT's accelerator scales before it adds
(``tests/export/gpu/test_accelerator.py`` tries both).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.operators import Call, Tensor, calls
from mobilenets_tf.tflite.runtime import Runner

LARGEST = 65504.0
REMEDY = "take the mean instead of the sum, or scale the values before the sum"


@dataclass(frozen=True)
class HalfSum:
    """A SUM, and how large it can become.

    place: of the operator in its graph. output: the name of its output.
    terms: how many values each sum has.
    largest: the largest magnitude of a sum: with the range of an integer file the one that can occur, on inputs the one
        that did occur. None where nothing is known of the values.
    """

    place: int
    output: str
    terms: int
    largest: float | None

    @property
    def passes(self) -> bool:
        """Whether the sum can pass, or has passed, half precision."""
        return self.largest is not None and self.largest > LARGEST

    def line(self) -> str:
        """Return the sum as a line of text for people."""
        what = f"half precision: SUM of {self.terms:,} values, number {self.place}, -> {self.output}"
        if self.largest is None:
            return f"{what}: infinite on a GPU where the values are above {LARGEST / self.terms:.3g} on average"
        told = f"up to {self.largest:.3g}, the largest number is {LARGEST:,.0f}"
        return f"{what}: {told}; {REMEDY}" if self.passes else f"{what}: {told}"


def sums(operators: Sequence[Call]) -> tuple[HalfSum, ...]:
    """List the SUMs of one graph that a GPU computes in half precision, with what the file says of their values."""
    return tuple(
        HalfSum(call.place, call.outputs[0].name, _terms(call), _bound(call.inputs[0], _terms(call)))
        for call in operators
        if _is_sum(call)
    )


def sums_of(content: bytes, samples: Iterable[Sequence[np.ndarray]]) -> tuple[HalfSum, ...]:
    """List the SUMs of a file's first graph with the largest magnitude that occurs in them on inputs.

    Half precision adds in an order of its own, so magnitudes are added, without their signs.

    Args:
        content: content of a sound file.
        samples: for each sample one array for each input, as ``runtime.Runner`` accepts them.
    """
    tree = flatbuffer.read(content)
    found = [call for call in calls(tree) if _is_sum(call)]
    if not found:
        return ()
    runner = Runner(flatbuffer.with_outputs(tree, [call.inputs[0].index for call in found]), threads=1, trusted=True)
    largest = [0.0] * len(found)
    for sample in samples:
        for number, (call, values) in enumerate(zip(found, runner(*sample), strict=True)):
            added = np.abs(values.astype(np.float64)).sum(tuple(_axes(call)))
            largest[number] = max(largest[number], float(added.max(initial=0.0)))
    return tuple(
        HalfSum(call.place, call.outputs[0].name, _terms(call), value)
        for call, value in zip(found, largest, strict=True)
    )


def _is_sum(call: Call) -> bool:
    whole = call.name == "SUM" and len(call.inputs) > 1 and None not in call.inputs[:2] and bool(call.outputs)
    return whole and call.inputs[0].type in ("float32", "float16", "int8", "uint8") and bool(_axes(call))


def _axes(call: Call) -> list[int]:
    rank = len(call.inputs[0].shape)
    return sorted({axis % rank for axis in call.inputs[1].integers() if -rank <= axis < rank}) if rank else []


def _terms(call: Call) -> int:
    return math.prod(call.inputs[0].shape[axis] for axis in _axes(call))


def _bound(tensor: Tensor, terms: int) -> float | None:
    """Return the largest magnitude of a sum of a quantised tensor's values."""
    if tensor.type not in ("int8", "uint8") or len(tensor.scales) != 1:
        return None
    limits, zero = np.iinfo(tensor.type), int(tensor.zero_points[0])
    return float(tensor.scales[0]) * max(limits.max - zero, zero - limits.min) * terms
