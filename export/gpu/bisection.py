"""Find the first operator that the GPU accelerator computes wrongly, by cutting the file at one operator after another.

A cut ends at the output of one operator, and has only the operators that this output needs. Both sides run the cut.
Each cut halves the number of operators that may be the first. The operator that is found then runs alone, with what the
CPU computed as its inputs, since a difference can also grow little by little over the operators before.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from mobilenets_tf.export.gpu.accelerator import Accelerator, GpuComparison, compare
from mobilenets_tf.export.targets.host import HostRun
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.quantize import layers
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.operators import calls

# Runs a file on this machine's CPU, as ``run_on_host`` does without additional outputs.
OnHost = Callable[[bytes, list[list[np.ndarray]]], HostRun]
# Types of outputs that CompiledModel gives to Python and for which a difference means something.
_READABLE = ("float32", "int8", "uint8", "int32")


@dataclass(frozen=True)
class Fault:
    """The first operator whose output differs by more than the tolerance.

    place: of the operator in the file's first graph. operator: its name in TFLite.
    layer: the Keras layer that it was made from; where no tensor's name has one, the first output's tensor.
    output: the name of the first output's tensor.
    relative_difference: at the operator's output, with all operators before it on the GPU; infinite where one of the
        two is not finite, or the accelerator fails.
    alone: the same of the operator alone, with the CPU's inputs; None if it cannot be run alone.
    error: how the accelerator failed on the cut; None if it did not.
    """

    place: int
    operator: str
    layer: str
    output: str
    relative_difference: float
    alone: float | None
    error: str | None

    def as_dict(self) -> dict:
        """Return plain data for JSON."""
        return asdict(self)

    def line(self) -> str:
        """Return the fault as a line of text for people."""
        where = f"{self.operator}, number {self.place} of the file, in {self.layer!r}"
        where += f" (tensor {self.output!r})" if self.output != self.layer else ""
        what = f"the first operator that differs by too much is {where}"
        if self.error:
            return f"{what}: {self.error}"
        alone = "" if self.alone is None else f"; alone, with the CPU's inputs, by {self.alone:.2g}"
        grown = self.alone is not None and 2 * self.alone < self.relative_difference
        why = "; so the difference has grown over the operators before" if grown else ""
        return f"{what}: by {self.relative_difference:.2g} of its largest output{alone}{why}"


def first_fault(
    accelerator: Accelerator,
    content: bytes,
    sample: list[np.ndarray],
    precision: str,
    on_host: OnHost,
    known: Collection[str] | None = None,
    progress: Progress = silent,
) -> Fault | None:
    """Find the first operator that the accelerator computes wrongly for one sample.

    Args:
        accelerator: the accelerator that ``setup.find`` returns.
        content: content of a file whose outputs differ by more than the tolerance.
        sample: one array for each input, in the input's dtype.
        precision: one of the accelerator's ``drivers``.
        on_host: runs a file on this machine's CPU.
        known: the names of the Keras model's layers; None: those that the file's tensors have.

    Returns:
        The fault; None if no operator's output differs: then the whole differs in what cuts do not show, such as the
        accelerator's fusing of operators.
    """
    cuts = _Cuts(content, sample)
    places = cuts.readable()
    found: dict[int, GpuComparison] = {}

    def differs(index: int) -> bool:
        cut, inputs = cuts.between(cuts.given, cuts.outputs_of(places[index]))
        found[index] = compare(accelerator, on_host(cut, [inputs]), precision)
        return not found[index].within

    low, high = -1, len(places) - 1
    steps = max(1, len(places)).bit_length() + 1
    if not places or not differs(high):
        return None
    while high - low > 1:
        progress("bisection", steps - (high - low).bit_length(), steps)
        middle = (low + high) // 2
        low, high = (low, middle) if differs(middle) else (middle, high)
    progress("bisection", steps, steps)
    place, comparison = places[high], found[high]
    names = layers.of_operators(content, known or layers.named_in(content) or None)
    return Fault(
        place=place,
        operator=cuts.calls[place].name,
        layer=names[place],
        output=cuts.calls[place].outputs[0].name,
        relative_difference=comparison.relative_difference,
        alone=None if comparison.error else _alone(accelerator, cuts, place, precision, on_host),
        error=comparison.error,
    )


def _alone(accelerator: Accelerator, cuts: "_Cuts", place: int, precision: str, on_host: OnHost) -> float | None:
    """Run one operator on the CPU's values of its inputs; return by how much it differs."""
    values, wanted = dict(cuts.given), cuts.inputs_of(place)
    if before := [index for index in wanted if index not in values]:
        cut, inputs = cuts.between(values, before)
        values |= dict(zip(before, on_host(cut, [inputs]).outputs[0], strict=True))
    cut, inputs = cuts.between({index: values[index] for index in wanted}, cuts.outputs_of(place))
    comparison = compare(accelerator, on_host(cut, [inputs]), precision)
    return None if comparison.error else comparison.relative_difference


class _Cuts:
    """Files with some of a file's operators, and the inputs to run them on.

    calls: the operators of the file's first graph. given: index of each of its inputs -> the sample's array.
    """

    def __init__(self, content: bytes, sample: list[np.ndarray]):
        tree = flatbuffer.read(content)
        self.calls = calls(tree)
        self.given = dict(zip(tree.subgraphs[0].inputs, sample, strict=True))
        self._parts = flatbuffer.Parts(tree)

    def readable(self) -> list[int]:
        """List the places of the operators that compute something which can be compared."""
        return [
            call.place
            for call in self.calls
            if self.inputs_of(call.place) and all(tensor.type in _READABLE for tensor in call.outputs)
        ]

    def inputs_of(self, place: int) -> list[int]:
        """List the tensors that an operator reads and that depend on the file's inputs."""
        read = self.calls[place].inputs
        return list(dict.fromkeys(tensor.index for tensor in read if tensor is not None and not tensor.known))

    def outputs_of(self, place: int) -> list[int]:
        """List the tensors that an operator writes."""
        return [tensor.index for tensor in self.calls[place].outputs]

    def between(self, values: Mapping[int, np.ndarray], outputs: list[int]) -> tuple[bytes, list[np.ndarray]]:
        """Write the file that computes some tensors from others; return it with its inputs.

        Args:
            values: index of a tensor -> its values; those that the outputs do not depend on are left out.
            outputs: the indices of the tensors that the file gives.
        """
        needed, places = set(outputs), []
        for call in reversed(self.calls):
            written = {tensor.index for tensor in call.outputs}
            if needed.intersection(written) and not written.intersection(values):
                needed.update(tensor.index for tensor in call.inputs if tensor is not None)
                places.append(call.place)
        inputs = [index for index in values if index in needed]
        return self._parts.write(places[::-1], inputs, outputs), [values[index] for index in inputs]
