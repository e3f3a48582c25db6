"""TFLite files as objects: read, change, write. Everything here speaks the schema's own terms."""

import copy
from collections import Counter, defaultdict

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from mobilenets_tf.errors import RequestError
from mobilenets_tf.tflite import flatbuffer_check

IDENTIFIER = b"TFL3"
_OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}


def read(content: bytes) -> "schema.ModelT":
    """Read a TFLite file's content into the schema's object tree, after the checks of ``flatbuffer_check``.

    Tensor indices (``inputs``, ``outputs``) and shapes are lists of Python integers, empty where the file has none.

    Raises:
        RequestError: not a TFLite file, or a damaged one; the reason is given.
    """
    if content[4:8] != IDENTIFIER:
        raise RequestError("not a TFLite file (its identifier is not TFL3).")
    flatbuffer_check.check_structure(content)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    flatbuffer_check.fill(model)
    flatbuffer_check.check_model(model, len(content))
    return model


def write(model: "schema.ModelT") -> bytes:
    """The file's content, without what edits have left behind; the model stays as it is.

    Codes of ops that no operator has any more go, since readers may refuse what is listed, and so do the values of
    constants that none reads.
    """
    import flatbuffers

    kept = {entry.buffer for entry in model.metadata or ()}
    for graph in model.subgraphs:
        used = {index for table in [graph, *graph.operators] for index in [*table.inputs, *table.outputs]}
        kept |= {graph.tensors[index].buffer for index in used if index >= 0}
    codes = sorted({operator.opcodeIndex for graph in model.subgraphs for operator in graph.operators})
    lean = copy.copy(model)
    lean.buffers = [buffer if index in kept else schema.BufferT() for index, buffer in enumerate(model.buffers)]
    lean.operatorCodes = [model.operatorCodes[index] for index in codes]
    lean.subgraphs = [
        with_fields(
            graph, operators=[with_fields(op, opcodeIndex=codes.index(op.opcodeIndex)) for op in graph.operators]
        )
        for graph in model.subgraphs
    ]
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(lean.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def part(model: "schema.ModelT", places: list[int], inputs: list[int], outputs: list[int]) -> bytes:
    """The content of a file with some of a model's operators alone, by their places in the first graph.

    The tensors keep their numbers; those that no operator has any more are empty.
    """
    graph = model.subgraphs[0]
    operators = [graph.operators[place] for place in places]
    used = {index for operator in operators for index in [*operator.inputs, *operator.outputs]}.union(inputs, outputs)
    empty = schema.TensorT()
    tensors = [tensor if index in used else empty for index, tensor in enumerate(graph.tensors)]
    graph = with_fields(graph, operators=operators, inputs=inputs, outputs=outputs, tensors=tensors)
    return write(with_fields(model, subgraphs=[graph], signatureDefs=[]))


def with_fields(table, **fields):
    """A shallow copy of one of the schema's objects, with other values in some fields."""
    table = copy.copy(table)
    vars(table).update(fields)
    return table


def operator_name(model, operator) -> str:
    """The op's name in the schema, such as "CONV_2D"; a custom op's own name."""
    return code_name(model.operatorCodes[operator.opcodeIndex])


def code_name(code) -> str:
    """The name of the op that an entry of the model's ``operatorCodes`` stands for."""
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema.BuiltinOperator.CUSTOM:
        return (code.customCode or b"CUSTOM").decode()
    return _OPERATORS.get(number, f"BUILTIN_{number}")


def operator_counts(model) -> dict[str, int]:
    """How often each op occurs, the most frequent first."""
    names = (operator_name(model, operator) for graph in model.subgraphs for operator in graph.operators)
    return dict(Counter(names).most_common())


def float_operator_counts(model) -> dict[str, int]:
    """How often each op occurs whose result is float32: in an integer file, what was left in float."""
    counts = Counter()
    for graph in model.subgraphs:
        for operator in graph.operators:
            if any(graph.tensors[out].type == schema.TensorType.FLOAT32 for out in operator.outputs):
                counts[operator_name(model, operator)] += 1
    counts.pop("DEQUANTIZE", None)
    return dict(counts.most_common())


def constant(model, index: int) -> np.ndarray | None:
    """The float32 values of a constant tensor, or None if the tensor is computed or of another type."""
    tensor = model.subgraphs[0].tensors[index]
    data = model.buffers[tensor.buffer].data
    if index < 0 or data is None or len(data) == 0 or tensor.type != schema.TensorType.FLOAT32:
        return None
    return np.frombuffer(bytes(data), np.float32).reshape(tensor.shape)


def replace_constant(model, operator, position: int, values: np.ndarray) -> None:
    """Give one operator's constant input new float32 values.

    The tensor and its buffer may serve other operators too (the converter merges equal ones), so both are made anew.
    """
    name = model.subgraphs[0].tensors[operator.inputs[position]].name.decode()
    operator.inputs = list(operator.inputs)  # edits stay out of a shallow copy's list
    operator.inputs[position] = add_constant(model, name, values)


def add_constant(model, name: str, values: np.ndarray) -> int:
    """A new constant in the first graph, of the values' type (float64 becomes float32); its index."""
    values = np.ascontiguousarray(values)
    if values.dtype == np.float64:
        values = values.astype(np.float32)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    index = add_tensor(model, name, values.shape, len(model.buffers) - 1)
    model.subgraphs[0].tensors[index].type = getattr(schema.TensorType, values.dtype.name.upper())
    return index


def add_tensor(model, name: str, shape, buffer: int = 0) -> int:
    """A new float32 tensor in the first graph, computed unless it has a buffer; its index."""
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = name.encode(), list(shape), buffer
    tensor.type = schema.TensorType.FLOAT32
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def make_operator(model, name: str, inputs: list[int], outputs: list[int], options=None, version: int = 1):
    """A new operator of the first graph, which the caller puts in its place.

    options: a schema object. version: the least that has what is asked for, as TensorFlow's op_version.cc numbers them.
    """
    operator = _operator(model, name, getattr(schema.BuiltinOperator, name), inputs, outputs)
    code = model.operatorCodes[operator.opcodeIndex]
    code.version = max(code.version, version)
    if options is not None:
        operator.builtinOptions = options
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
    return operator


def append_operator(model, label: str, name: str, inputs: list[int], shape, options=None, version: int = 1) -> int:
    """Put a new operator with one float32 result behind those of the first graph; the result, called ``label``."""
    result = add_tensor(model, label, shape)
    model.subgraphs[0].operators.append(make_operator(model, name, inputs, [result], options, version))
    return result


def make_custom_operator(model, name: str, inputs: list[int], outputs: list[int], options: bytes):
    """A new operator that the schema does not know; ``options`` are for its kernel to read."""
    operator = _operator(model, name, schema.BuiltinOperator.CUSTOM, inputs, outputs)
    model.operatorCodes[operator.opcodeIndex].customCode = name.encode()
    operator.customOptions = np.frombuffer(options, np.uint8)
    return operator


def _operator(model, name: str, number: int, inputs: list[int], outputs: list[int]):
    names = [code_name(code) for code in model.operatorCodes]
    if name not in names:
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
        model.operatorCodes.append(code)
        names.append(name)
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = names.index(name), inputs, outputs
    return operator


class Graph:
    """A model's first graph, and which operators write and read each of its tensors.

    Make it anew after operators were changed.

    model: the object tree. writer: tensor's index -> the operator that computes it; inputs and constants have none.
    readers: tensor's index -> the operators that read it, in their order.
    """

    def __init__(self, model: "schema.ModelT"):
        self.model = model
        self.writer: dict[int, schema.OperatorT] = {}
        self.readers: defaultdict[int, list[schema.OperatorT]] = defaultdict(list)
        for operator in self.operators:
            for index in operator.outputs:
                self.writer[index] = operator
            for index in operator.inputs:
                self.readers[index].append(operator)

    @property
    def operators(self) -> "list[schema.OperatorT]":
        """The operators, in the order in which they run; an operator's place is its number in this list."""
        return self.model.subgraphs[0].operators

    @property
    def tensors(self) -> "list[schema.TensorT]":
        """The tensors, by index."""
        return self.model.subgraphs[0].tensors

    @property
    def inputs(self) -> list[int]:
        """The indices of the tensors that the model takes."""
        return self.model.subgraphs[0].inputs

    @property
    def outputs(self) -> list[int]:
        """The indices of the tensors that the model gives."""
        return self.model.subgraphs[0].outputs

    def name(self, operator: "schema.OperatorT") -> str:
        """Give an operator's name in the schema, such as "CONV_2D"."""
        return operator_name(self.model, operator)

    def shape(self, index: int) -> tuple[int, ...]:
        """A tensor's shape."""
        return tuple(self.tensors[index].shape)

    def constant(self, index: int) -> np.ndarray | None:
        """A constant's float32 values; None if the tensor is computed."""
        return constant(self.model, index)

    def integers(self, index: int) -> np.ndarray | None:
        """A constant's int32 values, such as axes; None if the tensor is computed."""
        tensor = self.tensors[index]
        data = self.model.buffers[tensor.buffer].data
        if data is None or len(data) == 0 or tensor.type != schema.TensorType.INT32:
            return None
        return np.frombuffer(bytes(data), np.int32)

    def activations(self, indices) -> list[int]:
        """Those of some tensors that are float32 and computed (or fed)."""
        tensors = self.tensors
        return [
            index
            for index in indices
            if index >= 0 and tensors[index].type == schema.TensorType.FLOAT32 and self.constant(index) is None
        ]

    def is_output(self, index: int) -> bool:
        """Whether the model gives this tensor out."""
        return index in self.outputs


def set_signature(model, inputs: list[str], outputs: list[str]) -> None:
    """Name the inputs and outputs, as tensors and in the one signature "serving_default"."""
    graph = model.subgraphs[0]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
    for attribute, indices, names in (("inputs", graph.inputs, inputs), ("outputs", graph.outputs, outputs)):
        entries = []
        for index, name in zip(indices, names, strict=True):
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = name.encode(), index
            graph.tensors[index].name = name.encode()
            entries.append(entry)
        setattr(signature, attribute, entries)
    model.signatureDefs = [signature]


def copy_signature(source, target) -> None:
    """Carry the names of ``source``'s inputs and outputs over to a model that was made from it."""
    (signature,) = source.signatureDefs
    by_tensor = {entry.tensorIndex: entry.name.decode() for entry in [*signature.inputs, *signature.outputs]}
    graph = source.subgraphs[0]
    set_signature(target, [by_tensor[i] for i in graph.inputs], [by_tensor[i] for i in graph.outputs])
