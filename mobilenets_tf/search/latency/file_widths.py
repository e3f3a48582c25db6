"""Give a TFLite file other widths and kernels, without a converter: files to measure, hundreds in a minute.

The values do not matter here. Weights of a wider or narrower operator are the file's own, repeated or cut off, so the
new file computes something, but not what the old one did. To make a network smaller with its weights, prune its Keras
model.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.flatbuffer_check import TYPES
from mobilenets_tf.tflite.operators import Call, Tensor, calls

# Operators whose result has the channels of what they read.
_SAME = {
    "ABS", "AVERAGE_POOL_2D", "DEQUANTIZE", "ELU", "EXP", "GELU", "HARD_SWISH", "L2_NORMALIZATION", "LEAKY_RELU",
    "LOGISTIC", "MAX_POOL_2D", "MIRROR_PAD", "NEG", "PAD", "PADV2", "QUANTIZE", "RELU", "RELU6", "RELU_N1_TO_1",
    "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "RSQRT", "SOFTMAX", "SQRT", "SQUARE", "TANH",
}  # fmt: skip
_BINARY = {"ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"}
_REDUCTIONS = {"MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"}
# Position of the constant -> the axis of the channels that are read, and of those that are written; None: none.
_WEIGHTS: dict[str, dict[int, tuple[int | None, int | None]]] = {
    "CONV_2D": {1: (3, 0), 2: (None, 0)},
    "FULLY_CONNECTED": {1: (1, 0), 2: (None, 0)},
    "DEPTHWISE_CONV_2D": {1: (None, 3), 2: (None, 0)},
}


class FileWidths:
    """The widths of a file's first graph that can be chosen.

    A group is the channels of tensors that have to have the same number, because they are added, multiplied or
    filtered one by one. The channels of the graph's inputs and outputs stay, and those that an operator reads or writes
    in a way that is not known here (a concatenation, a product of two computed tensors).

    groups: name (of the first tensor of the group) -> number of channels.
    kernels: name (of the result) -> kernel (vertical, horizontal) of each depthwise convolution whose kernel can be
        chosen.

    Raises:
        RequestError: the content is no TFLite file, or is damaged.
    """

    def __init__(self, content: bytes):
        self._content = content
        tree = flatbuffer.read(content)
        self._calls = calls(tree)
        self._parent: dict[int, int] = {}
        self._fixed: set[int] = set()
        graph = tree.subgraphs[0]
        for index in (*graph.inputs, *graph.outputs):
            self._fixed.add(index)
        for call in self._calls:
            self._join_channels_of(call)
        fixed = {self._root(index) for index in self._fixed}
        self._name_of: dict[int, str] = {}
        self.groups: dict[str, int] = {}
        for call in self._calls:
            for tensor in call.outputs:
                root = self._root(tensor.index)
                if root not in fixed and root not in self._name_of and tensor.shape:
                    self._name_of[root] = tensor.name
                    self.groups[tensor.name] = tensor.shape[-1]
        self._pads = {call.outputs[0].index: call for call in self._calls if call.name in ("PAD", "PADV2")}
        self.kernels = {call.outputs[0].name: _kernel(call) for call in self._calls if self._has_free_kernel(call)}

    def with_widths(self, widths: Mapping[str, int], kernels: Mapping[str, tuple[int, int]] | None = None) -> bytes:
        """Make the content of a file with other widths.

        Args:
            widths: name of a group -> number of channels, at least 1. Groups that are left out stay.
            kernels: name of a depthwise convolution's result -> kernel, of odd sides if the old one has odd sides.

        Raises:
            RequestError: a name is unknown, or a number or a kernel is not possible.
        """
        kernels = kernels or {}
        for name, width in widths.items():
            if name not in self.groups:
                raise unknown("group of channels", name, self.groups)
            if width < 1:
                raise RequestError(f"The group {name!r} cannot have {width} channels; expected at least 1.")
        for name, kernel in kernels.items():
            if name not in self.kernels:
                raise unknown("depthwise convolution", name, self.kernels)
            if any(new < 1 or (new - old) % 2 for new, old in zip(kernel, self.kernels[name], strict=True)):
                raise RequestError(
                    f"{name!r} cannot have the kernel {kernel}: {self.kernels[name]} plus a multiple of 2."
                )
        return flatbuffer.write(_Rewriting(self, widths, kernels).tree)

    def group_of(self, index: int) -> str | None:
        """Give the group of a computed tensor; None if its channels stay."""
        return self._name_of.get(self._root(index))

    def width_of(self, index: int, widths: Mapping[str, int]) -> int | None:
        """Give the chosen number of channels of a computed tensor; None if they stay."""
        return widths.get(self.group_of(index) or "")

    def pad_of(self, call: Call) -> Call | None:
        """Give the PAD whose result a convolution reads."""
        data = call.input(0)
        return None if data is None else self._pads.get(data.index)

    def _has_free_kernel(self, call: Call) -> bool:
        if call.name != "DEPTHWISE_CONV_2D":
            return False
        if call.option("padding") == schema.Padding.SAME:
            return True
        pad = self.pad_of(call)
        if pad is None or sum(pad.outputs[0] in other.inputs for other in self._calls) != 1:
            return False
        margins = _margins(pad)
        # So much that the padding of a smaller kernel is not negative.
        return len(margins) == 4 and all(
            sum(margin) >= side - 1 for margin, side in zip(margins[1:3], _kernel(call), strict=True)
        )

    def _root(self, index: int) -> int:
        while (parent := self._parent.get(index, index)) != index:
            index = parent
        return index

    def _join(self, first: Tensor, second: Tensor) -> None:
        self._parent[self._root(second.index)] = self._root(first.index)

    def _fix(self, *tensors: Tensor | None) -> None:
        self._fixed.update(tensor.index for tensor in tensors if tensor is not None and not tensor.known)

    def _join_channels_of(self, call: Call) -> None:
        """Note what an operator says about the channels of its tensors."""
        computed = [tensor for tensor in call.inputs if tensor is not None and not tensor.known and tensor.shape]
        result = call.outputs[0] if len(call.outputs) == 1 and call.outputs[0].shape else None
        data = call.input(0)
        if result is None or not computed:
            self._fix(*computed, *call.outputs)
        elif call.name in _BINARY:
            for tensor in computed:
                if tensor.shape[-1] == result.shape[-1]:
                    self._join(result, tensor)
        elif data is None or data not in computed:
            self._fix(*computed, result)
        elif self._keeps_channels(call, data, result):
            self._join(data, result)
        elif not self._makes_channels(call, data, result):
            self._fix(*computed, result)

    @staticmethod
    def _keeps_channels(call: Call, data: Tensor, result: Tensor) -> bool:
        """Tell whether each channel of the result is computed from the same channel of what is read."""
        same, last = data.shape[-1] == result.shape[-1], len(data.shape) - 1
        second = call.input(1)
        constants = [] if second is None else second.integers()
        if call.name == "DEPTHWISE_CONV_2D":
            return same and second is not None and second.constant and not second.sparse
        if call.name in _REDUCTIONS:
            return same and bool(constants) and not any(axis in (last, -1) for axis in constants)
        if call.name == "TRANSPOSE":
            return bool(constants) and constants[-1] == last
        return call.name in _SAME or (call.name in ("RESHAPE", "SQUEEZE") and same)

    @staticmethod
    def _makes_channels(call: Call, data: Tensor, result: Tensor) -> bool:
        """Tell whether the channels that are read and written can be chosen apart from each other."""
        weights = call.input(1)
        if call.name not in ("CONV_2D", "FULLY_CONNECTED") or weights is None:
            return False
        read_axis, written_axis = _WEIGHTS[call.name][1]
        return (
            weights.constant
            and not weights.sparse
            and weights.shape[read_axis] == data.shape[-1]  # type: ignore[index]
            and weights.shape[written_axis] == result.shape[-1]  # type: ignore[index]
        )

    def operators(self) -> Sequence[Call]:
        """List the operators."""
        return self._calls


class _Rewriting:
    """A file's tree with other widths and kernels."""

    def __init__(self, file: FileWidths, widths: Mapping[str, int], kernels: Mapping[str, tuple[int, int]]):
        self.tree = flatbuffer.read(file._content)
        self._graph = self.tree.subgraphs[0]
        self._made: dict[tuple, int] = {}
        self._shapes = {i: list(tensor.shape) for i, tensor in enumerate(self._graph.tensors)}
        for call in file.operators():
            for tensor in call.outputs:
                if (width := file.width_of(tensor.index, widths)) is not None:
                    self._shapes[tensor.index][-1] = width
        for call in file.operators():
            result = call.outputs[0] if call.outputs else None
            if result is not None and result.name in kernels and result.name in file.kernels:
                self._change_kernel(call, file, kernels[result.name])
            for position, axes in self._constants(call):
                self._resize(call, position, axes)
            if call.name == "RESHAPE":
                self._change_shape(call)
        for index, shape in self._shapes.items():
            if shape != list(self._graph.tensors[index].shape):
                self._graph.tensors[index].shape = shape
                self._graph.tensors[index].shapeSignature = None

    def _constants(self, call: Call) -> Iterator[tuple[int, dict[int, int]]]:
        """Yield (position, {axis: size}) of the constants that follow the channels."""
        if not call.outputs or not call.outputs[0].shape:
            return
        result, data = call.outputs[0], call.input(0)
        written = self._shapes[result.index][-1]
        for position, tensor in enumerate(call.inputs):
            if tensor is None or not tensor.constant or not tensor.shape:
                continue
            if call.name in _BINARY and tensor.shape[-1] == result.shape[-1] != 1:
                yield position, {len(tensor.shape) - 1: written}
            elif position in _WEIGHTS.get(call.name, {}) and data is not None:
                read_axis, written_axis = _WEIGHTS[call.name][position]
                axes = {}
                if read_axis is not None and tensor.shape[read_axis] == data.shape[-1]:
                    axes[read_axis] = self._shapes[data.index][-1]
                if written_axis is not None and tensor.shape[written_axis] == result.shape[-1]:
                    axes[written_axis] = written
                yield position, axes

    def _change_shape(self, call: Call) -> None:
        """Give a RESHAPE the shape of its result."""
        shape = self._shapes[call.outputs[0].index]
        if shape == list(call.outputs[0].shape):
            return
        given = call.input(1)
        if given is not None and given.constant:
            self._replace(call, 1, np.array(shape, np.int32))
        options = self._graph.operators[call.place].builtinOptions
        if getattr(options, "newShape", None) is not None:
            options.newShape = shape

    def _resize(self, call: Call, position: int, axes: Mapping[int, int]) -> None:
        index = self._graph.operators[call.place].inputs[position]
        tensor = self._graph.tensors[index]
        axes = {axis: size for axis, size in axes.items() if tensor.shape[axis] != size}
        if not axes:
            return
        key = (index, tuple(sorted(axes.items())))
        if key not in self._made:
            values = self._values(index)
            for axis, size in axes.items():
                values = np.take(values, np.arange(size) % values.shape[axis], axis)
            self._made[key] = self._constant(tensor, values, _resized_scales(tensor.quantization, axes))
        self._set_input(call, position, self._made[key])

    def _values(self, index: int) -> np.ndarray:
        tensor = self._graph.tensors[index]
        data = np.asarray(self.tree.buffers[tensor.buffer].data, np.uint8)
        return np.frombuffer(data.tobytes(), TYPES[tensor.type].lower()).reshape(tensor.shape)

    def _constant(self, like: schema.TensorT, values: np.ndarray, quantization) -> int:
        index = flatbuffer.add_constant(self.tree, like.name.decode(), values)
        self._graph.tensors[index].quantization = quantization
        return index

    def _replace(self, call: Call, position: int, values: np.ndarray) -> None:
        like = self._graph.tensors[call.inputs[position].index]  # type: ignore[union-attr]
        self._set_input(call, position, self._constant(like, values, like.quantization))

    def _set_input(self, call: Call, position: int, index: int) -> None:
        operator = self._graph.operators[call.place]
        operator.inputs = [index if place == position else old for place, old in enumerate(operator.inputs)]

    def _change_kernel(self, call: Call, file: FileWidths, kernel: tuple[int, int]) -> None:
        """Give a depthwise convolution another kernel, and the PAD before it as many pixels more or less."""
        weights = call.inputs[1]
        values = self._values(weights.index)  # type: ignore[union-attr]
        rows, columns = (np.arange(new) % old for new, old in zip(kernel, values.shape[1:3], strict=True))
        self._replace(call, 1, values[:, rows][:, :, columns])
        pad = None if call.option("padding") == schema.Padding.SAME else file.pad_of(call)
        if pad is not None:
            margins = _margins(pad)
            for axis, (new, old) in enumerate(zip(kernel, values.shape[1:3], strict=True), 1):
                pixels = sum(margins[axis]) + new - old
                margins[axis] = [pixels // 2, pixels - pixels // 2]
                self._shapes[pad.outputs[0].index][axis] += new - old
            self._replace(pad, 1, np.array(margins, np.int32))


def _margins(pad: Call) -> list[list[int]]:
    """Give the pixels that a PAD adds before and after each axis; [] if they are computed."""
    constants = pad.input(1)
    return np.array([] if constants is None else constants.integers(), int).reshape(-1, 2).tolist()


def _kernel(call: Call) -> tuple[int, int]:
    weights = call.inputs[1]
    return weights.shape[1], weights.shape[2]  # type: ignore[union-attr]


def _resized_scales(quantization: "schema.QuantizationParametersT | None", axes: Mapping[int, int]):
    """Give the scales of a constant for each of its channels."""
    if quantization is None or quantization.scale is None or len(quantization.scale) <= 1:
        return quantization
    size = axes.get(quantization.quantizedDimension, len(quantization.scale))
    places = np.arange(size) % len(quantization.scale)
    return flatbuffer.with_fields(
        quantization,
        scale=np.asarray(quantization.scale)[places],
        zeroPoint=np.asarray(quantization.zeroPoint)[places],
    )
