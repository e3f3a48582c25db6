"""Values that pass half precision on a GPU: 65,504 is its largest number, and what is larger becomes infinite.

Phones' GPUs compute in half precision unless the app asks for more, and keep each operator's result in it. A SUM over
many positions passes 65,504 soon; the NaN that follows is LiteRT's issue 9249. A product of large values passes it too.
MEAN and AVERAGE_POOL_2D do not, since they divide before they keep the result (``tests/export/gpu/test_accelerator.py``
tries SUM and MEAN). The exporter writes a SUM as a MEAN where that costs nothing (``conversion.half_sums``).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.operators import Call, Tensor, calls
from mobilenets_tf.tflite.runtime import Runner

LARGEST = 65504.0
REMEDY = "take the mean instead of the sum, or scale the values before they are added or multiplied"
_BORDERS = ("PAD", "PADV2")  # a border of minus infinity, which a maximum reads, is meant so
_INTEGERS = ("int8", "uint8")
_COMPUTED = ("float32", "float16", *_INTEGERS)


@dataclass(frozen=True)
class HalfValue:
    """The largest value that an operator gives, which a GPU keeps in half precision.

    place: of the operator in its graph. operator: its name in TFLite. output: the name of its output.
    terms: how many values each result adds; 1 for operators other than SUM.
    largest: the largest magnitude: of a quantised output the end of its calibrated range; of a float output the largest
        on inputs, None without inputs. Of a SUM the magnitudes of its terms are added, since half precision adds in an
        order of its own.
    """

    place: int
    operator: str
    output: str
    terms: int
    largest: float | None

    @property
    def passes(self) -> bool:
        """Whether the value can pass, or has passed, half precision."""
        return self.largest is not None and self.largest > LARGEST

    @property
    def named(self) -> bool:
        """Whether people have to know of it: it passes half precision, or it is a sum of values that nobody knows."""
        return self.passes or (self.largest is None and self.terms > 1)

    def line(self) -> str:
        """Return the value as a line of text for people."""
        adds = f" of {self.terms:,} values" if self.terms > 1 else ""
        what = f"half precision: {self.operator}{adds}, number {self.place}, -> {self.output}"
        if self.largest is None:
            return f"{what}: infinite on a GPU where the values are above {LARGEST / self.terms:.3g} on average"
        told = f"up to {self.largest:.3g}, the largest number is {LARGEST:,.0f}"
        return f"{what}: {told}; {REMEDY}" if self.passes else f"{what}: {told}"


def values(operators: Sequence[Call]) -> tuple[HalfValue, ...]:
    """List what the operators of one graph give on a GPU, with what the file says of the values."""
    return tuple(_value(call, _bound(call)) for call in operators if _is_computed(call))


def values_on(content: bytes, samples: Iterable[Sequence[np.ndarray]]) -> tuple[HalfValue, ...]:
    """List what the operators of a file's first graph give on a GPU, with the largest magnitudes on inputs.

    Args:
        content: content of a sound file.
        samples: for each sample one array for each input, as ``runtime.Runner`` accepts them.
    """
    tree = flatbuffer.read(content)
    found = [call for call in calls(tree) if _is_computed(call)]
    # Of quantised outputs the calibrated range says more than a few inputs.
    open_ends = [call for call in found if _adds(call) or _bound(call) is None]
    largest = {call.place: 0.0 for call in open_ends}
    if open_ends:
        watched = list(dict.fromkeys(_watched(call) for call in open_ends))
        runner = Runner(flatbuffer.with_outputs(tree, watched), threads=1, trusted=True)
        for sample in samples:
            arrays = dict(zip(watched, runner(*sample), strict=True))
            for call in open_ends:
                largest[call.place] = max(largest[call.place], _magnitude(call, arrays[_watched(call)]))
    return tuple(_value(call, largest[call.place] if call.place in largest else _bound(call)) for call in found)


@dataclass(frozen=True)
class HalfCheck:
    """What a file computes on a GPU in half precision.

    largest: the largest value of the file. passing: those that pass half precision. samples: on how many inputs the
    values of float operators were looked at.
    """

    largest: HalfValue
    passing: tuple[HalfValue, ...]
    samples: int


def check(content: bytes, samples: Sequence[Sequence[np.ndarray]], names: Sequence[str]) -> HalfCheck | None:
    """Look for values that pass half precision; return None for a file that computes nothing of the kind.

    Args:
        content, samples: as in ``values_on``.
        names: of the layer of each operator, to be told instead of the output's name.
    """
    found = [replace(each, output=names[each.place]) for each in values_on(content, samples)]
    if not found:
        return None
    largest = max(found, key=lambda each: each.largest or 0.0)
    return HalfCheck(largest, tuple(each for each in found if each.passes), len(samples))


def _value(call: Call, largest: float | None) -> HalfValue:
    return HalfValue(call.place, call.name, call.outputs[0].name, _terms(call), largest)


def _watched(call: Call) -> int:
    return call.inputs[0].index if _adds(call) else call.outputs[0].index


def _magnitude(call: Call, array: np.ndarray) -> float:
    """Return the largest magnitude of an operator's result; array: its input where it adds, its result elsewhere."""
    magnitudes = np.abs(array)
    if _adds(call):
        magnitudes = magnitudes.sum(tuple(_axes(call)), dtype=np.float64)
    largest = float(magnitudes.max(initial=0.0))
    return math.inf if math.isnan(largest) else largest  # max() would pass over a NaN


def _is_computed(call: Call) -> bool:
    kept = call.name not in _BORDERS and bool(call.outputs) and not call.outputs[0].known
    return kept and call.outputs[0].type in _COMPUTED


def _adds(call: Call) -> bool:
    whole = call.name == "SUM" and len(call.inputs) > 1 and None not in call.inputs[:2]
    return whole and call.inputs[0].type in _COMPUTED and bool(_axes(call))


def _axes(call: Call) -> list[int]:
    rank = len(call.inputs[0].shape)
    return sorted({axis % rank for axis in call.inputs[1].integers() if -rank <= axis < rank}) if rank else []


def _terms(call: Call) -> int:
    return math.prod(call.inputs[0].shape[axis] for axis in _axes(call)) if _adds(call) else 1


def _bound(call: Call) -> float | None:
    """Return the largest magnitude that the calibrated ranges allow; None of a float output."""
    end = _range_end(call.inputs[0] if _adds(call) else call.outputs[0])
    return None if end is None else end * _terms(call)


def _range_end(tensor: Tensor) -> float | None:
    if tensor.type not in _INTEGERS or len(tensor.scales) != 1:
        return None
    limits, zero = np.iinfo(tensor.type), int(tensor.zero_points[0])
    return float(tensor.scales[0]) * max(limits.max - zero, zero - limits.min)
