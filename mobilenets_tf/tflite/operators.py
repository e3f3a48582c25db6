"""A TFLite file's operators as ``Call``s, with their tensors, names and constants, for delegates' rules and counts."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.flatbuffer_check import TYPES


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file.

    type: in lower case, as in NumPy.
    constant: whether the values are in the file.
    scales, zero_points, axis: of its quantisation; empty where the tensor is not quantised.
    data: the bytes of a constant. sparse: whether they are stored without zeros.
    unpacked: whether a DEQUANTIZE or a DENSIFY computes the values from constants, as converters write half-precision
        and sparse weights.
    """

    index: int
    name: str
    type: str
    shape: tuple[int, ...]
    constant: bool
    scales: np.ndarray
    zero_points: np.ndarray
    axis: int
    data: np.ndarray | None
    sparse: bool
    unpacked: bool = False

    @property
    def known(self) -> bool:
        """Whether the values do not depend on the model's input."""
        return self.constant or self.unpacked

    def integers(self) -> list[int]:
        """Give the values of an int32 or int64 constant; an empty list for all other tensors."""
        if not self.constant or self.data is None or self.type not in ("int32", "int64"):
            return []
        return np.frombuffer(self.data.tobytes(), self.type).tolist()


@dataclass(frozen=True)
class Call:
    """An operator of a file. An optional input that is left out is None.

    custom_options: what a custom op's kernel reads; None for an op of the schema.
    """

    place: int
    name: str
    version: int
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: object
    custom_options: bytes | None = None

    @property
    def custom(self) -> bool:
        """Whether the op is not in the schema."""
        return self.custom_options is not None

    def option(self, name: str, default: Any = 0) -> Any:
        """Give a field of the operator's options; ``default`` where the file has no such field."""
        return getattr(self.options, name, default)

    def input(self, position: int) -> Tensor | None:
        """Give an input, or None if there are fewer inputs."""
        return self.inputs[position] if position < len(self.inputs) else None


def calls(model: schema.ModelT, number: int = 0) -> list[Call]:
    """List the operators of one of a model's graphs, in the order in which they run."""
    graph, every = model.subgraphs[number], tensors(model, number)
    operators = []
    for place, operator in enumerate(graph.operators):
        code = model.operatorCodes[operator.opcodeIndex]
        inputs = tuple(every[i] if i >= 0 else None for i in operator.inputs)
        name = flatbuffer.code_name(code)
        if name in ("DEQUANTIZE", "DENSIFY") and len(inputs) == 1 and inputs[0] is not None and inputs[0].known:
            for index in operator.outputs:
                every[index] = replace(every[index], unpacked=True, sparse=inputs[0].sparse)
        outputs = tuple(every[i] for i in operator.outputs)
        options = operator.builtinOptions if operator.builtinOptions is not None else operator.builtinOptions2
        custom = None
        if max(code.builtinCode, code.deprecatedBuiltinCode) == schema.BuiltinOperator.CUSTOM:
            custom = b"" if operator.customOptions is None else operator.customOptions.tobytes()
        operators.append(Call(place, name, code.version, inputs, outputs, options, custom))
    return operators


def tensors(model: schema.ModelT, number: int = 0) -> list[Tensor]:
    """List the tensors of one of a model's graphs, by their indices."""
    return [_tensor(model, index, tensor) for index, tensor in enumerate(model.subgraphs[number].tensors)]


def _tensor(model: schema.ModelT, index: int, tensor: schema.TensorT) -> Tensor:
    parameters, buffer = tensor.quantization, model.buffers[tensor.buffer] if tensor.buffer else None
    data = None if buffer is None or buffer.data is None or not len(buffer.data) else buffer.data
    stored = data is not None or bool(buffer and buffer.offset > 1 and buffer.size) or bool(tensor.externalBuffer)
    none = np.zeros(0)
    scales = none if parameters is None or parameters.scale is None else parameters.scale
    zeros = none if parameters is None or parameters.zeroPoint is None else parameters.zeroPoint
    return Tensor(
        index=index,
        name=tensor.name.decode(),
        type=TYPES[tensor.type].lower(),
        shape=tuple(tensor.shape),
        constant=stored,
        scales=scales,
        zero_points=zeros if len(zeros) or not len(scales) else np.zeros(len(scales), np.int64),
        axis=parameters.quantizedDimension if parameters is not None else 0,
        data=data,
        sparse=tensor.sparsity is not None,
    )
