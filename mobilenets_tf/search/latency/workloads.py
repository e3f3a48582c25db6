"""What each operator of a file has to do: the part of an operator on which its time depends.

Two operators with the same ``Workload`` take the same time on one machine, whatever their weights are.
"""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from mobilenets_tf.errors import RequestError
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.operators import Call, Tensor, calls

_ACTIVATIONS = {number: name.lower() for name, number in vars(schema.ActivationFunctionType).items() if name[0] != "_"}
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
# Operators whose second operand may be a constant, or one value a channel, and is read in another way then.
_BINARY = ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "POW")
_REDUCTIONS = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")
_BYTES = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1, "int16": 2, "int32": 4, "int64": 8, "bool": 1}


class Workload(NamedTuple):
    """The key of an entry in a table of latencies.

    op: name in the schema. For operators with two operands the form of the second is appended: "ADD" (of the same
        shape), "ADD constant", "MUL broadcast"; for reductions "MEAN channels" if the channels are reduced.
    type: of the values that are read, such as "float32" or "int8".
    size: (height, width) of the result of a convolution, a pooling or a resizing, else of what is read. Of a tensor
        without height and width: (the product of all sides but the last, 1).
    channels: (read, written). The read channels of a convolution are those that one filter reads.
    kernel, stride, dilation: (vertical, horizontal); (1, 1) where there are none.
    activation: the fused one, "none", "relu", "relu6", ...
    """

    op: str
    type: str
    size: tuple[int, int]
    channels: tuple[int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    activation: str = "none"

    def __str__(self) -> str:
        size, kernel, stride, dilation = (f"{a}x{b}" for a, b in (self.size, self.kernel, self.stride, self.dilation))
        read, written = self.channels
        return (
            f"{self.op}, {self.type}, {size}, {read} to {written}, kernel {kernel}, stride {stride}, "
            f"dilation {dilation}, {self.activation}"
        )

    @classmethod
    def parse(cls, text: str) -> "Workload":
        """Read what ``str`` writes.

        Raises:
            RequestError: the text is something else.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise RequestError(f"{text[:100]!r} describes no operator; expected such as {str(_EXAMPLE)!r}.")
        op, kind, *numbers, activation = match.groups()
        pairs = [(int(a), int(b)) for a, b in zip(numbers[::2], numbers[1::2], strict=True)]
        return cls(op, kind, *pairs, activation)

    @property
    def positions(self) -> int:
        """Height times width."""
        return self.size[0] * self.size[1]

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds; of an operator without weights, the values that it writes or reduces."""
        read, written = self.channels
        taps = self.kernel[0] * self.kernel[1]
        if self.op in ("CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"):
            return self.positions * taps * read * written
        return self.positions * taps * max(read, written)

    @property
    def bytes_read(self) -> int:
        """Bytes of the values that are read, without weights."""
        return self.positions * self.stride[0] * self.stride[1] * self.channels[0] * self._value

    @property
    def bytes_written(self) -> int:
        """Bytes of the result."""
        reduces = self.op.startswith(_REDUCTIONS)
        return (1 if reduces else self.positions) * self.channels[1] * self._value

    @property
    def bytes_of_weights(self) -> int:
        """Bytes of the weights."""
        taps, (read, written) = self.kernel[0] * self.kernel[1], self.channels
        if self.op == "DEPTHWISE_CONV_2D":
            return taps * written * self._value
        if self.op in ("CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"):
            return taps * read * written * self._value
        return 0

    @property
    def _value(self) -> int:
        return _BYTES.get(self.type, 4)

    @property
    def family(self) -> tuple:
        """All but the size and the channels: operators of one family differ in the amount of work alone."""
        return (self.op, self.type, self.kernel, self.stride, self.dilation)


_PAIR = r"(\d{1,9})x(\d{1,9})"
_SIDES = r"([1-9]\d{0,8})x([1-9]\d{0,8})"
_TEXT = re.compile(
    rf"([A-Z0-9_]{{1,60}}(?: [a-z]{{1,20}})?), ([a-z]+\d*), {_PAIR}, (\d{{1,9}}) to (\d{{1,9}}), kernel {_SIDES}, "
    rf"stride {_SIDES}, dilation {_SIDES}, ([a-z0-9_]{{1,30}})"
)
_EXAMPLE = Workload("CONV_2D", "int8", (56, 56), (16, 72), (1, 1), (1, 1), (1, 1), "relu6")


def workloads(content: bytes) -> list[Workload]:
    """List the workload of each operator of a file's first graph, in the order in which the operators run.

    Raises:
        RequestError: the content is no TFLite file, is damaged, or has a side that is not fixed.
    """
    return [workload(call) for call in calls(flatbuffer.read(content))]


def multiply_adds(operators: Iterable[Workload]) -> int:
    """Count the multiply-adds of the operators that have weights, and of products of matrices."""
    return sum(
        each.multiply_adds for each in operators if each.op in (*CONVOLUTIONS, "FULLY_CONNECTED", "BATCH_MATMUL")
    )


def workload(call: Call) -> Workload:
    """Describe what an operator has to do.

    Raises:
        RequestError: a side of a tensor is not fixed.
    """
    computed = [tensor for tensor in call.inputs if tensor is not None and not tensor.known]
    data = computed[0] if computed else next((tensor for tensor in call.inputs if tensor is not None), None)
    result = call.outputs[0] if call.outputs else data
    if data is None or result is None:
        return Workload(call.name, "none", (1, 1), (1, 1))
    for tensor in (data, result):
        if any(side < 0 for side in tensor.shape):
            raise RequestError(f"The tensor {tensor.name!r} has the shape {tensor.shape}: a side is not fixed.")
    size, read = _size(data)
    result_size, written = _size(result)
    window = (1, 1)
    if call.name in CONVOLUTIONS or call.name.endswith("_POOL_2D"):
        size = result_size
        window = (call.option("strideH", 1), call.option("strideW", 1))
    elif call.name.startswith("RESIZE_"):
        size = result_size
    return Workload(
        op=_named(call, data, result),
        type=data.type,
        size=size,
        channels=(_filter_channels(call, read), written),
        kernel=_kernel(call),
        stride=window,
        dilation=(call.option("dilationHFactor", 1) or 1, call.option("dilationWFactor", 1) or 1),
        activation=_ACTIVATIONS.get(call.option("fusedActivationFunction"), "none"),
    )


def _size(tensor: Tensor) -> tuple[tuple[int, int], int]:
    """Give (height, width) and the channels of a tensor."""
    *outer, channels = tensor.shape or (1,)
    if len(outer) == 3 and outer[0] == 1:
        return (outer[1], outer[2]), channels
    return (math.prod(outer), 1), channels


def _filter_channels(call: Call, read: int) -> int:
    weights = call.input(0 if call.name == "TRANSPOSE_CONV" else 1)
    if call.name == "CONV_2D" and weights is not None and len(weights.shape) == 4:
        return weights.shape[3]
    if call.name == "FULLY_CONNECTED" and weights is not None and len(weights.shape) == 2:
        return weights.shape[1]
    return read


def _kernel(call: Call) -> tuple[int, int]:
    if call.name.endswith("_POOL_2D"):
        return call.option("filterHeight", 1), call.option("filterWidth", 1)
    weights = call.input(1)
    if call.name in CONVOLUTIONS and weights is not None and len(weights.shape) == 4:
        return weights.shape[1], weights.shape[2]
    return 1, 1


def _named(call: Call, data: Tensor, result: Tensor) -> str:
    others = [tensor for tensor in call.inputs if tensor is not None and tensor is not data]
    if call.custom:
        return "CUSTOM"  # the name is the file's own
    if call.name in _BINARY and others:
        if all(tensor.known for tensor in others):
            return f"{call.name} constant"
        if any(tensor.shape != result.shape for tensor in call.inputs if tensor is not None):
            return f"{call.name} broadcast"
    if call.name in _REDUCTIONS and len(call.inputs) == 2 and call.inputs[1] is not None:
        last = len(data.shape) - 1
        if any(axis in (last, -1) for axis in call.inputs[1].integers()):
            return f"{call.name} channels"
    return call.name
