"""Read, change and write TFLite files as trees of the schema's own objects (``schema.ModelT`` and its parts)."""

import copy
import hashlib
import pickle
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from mobilenets_tf.errors import RequestError
from mobilenets_tf.tflite import flatbuffer_check

IDENTIFIER = b"TFL3"
Table = TypeVar("Table")  # one of the schema's objects
_OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
# The trees of the files that were read last, as pickles: unpickling takes a tenth of the time of reading a file, and
# the steps of an export read the same few files again and again. SHA-256 of the content -> the pickle without the
# arrays, and the (start, end) of each array in the content.
_READ_LAST: "OrderedDict[bytes, tuple[bytes, list[tuple[int, int]]]]" = OrderedDict()
_MOST_READ_LAST = 8


def read(content: bytes) -> schema.ModelT:
    """Read a TFLite file's content into the schema's object tree, after the checks of ``flatbuffer_check``.

    Tensor indices (``inputs``, ``outputs``) and shapes are lists of Python integers, empty where the file has none.
    Each call gives a tree of its own; its arrays are views of the content, which cannot be written to.

    Raises:
        RequestError: the content is no TFLite file, or a damaged file; the message has the reason.
    """
    key = hashlib.sha256(content).digest()
    if (known := _READ_LAST.get(key)) is not None:
        pickled, places = known
        view = memoryview(content)
        return pickle.loads(pickled, buffers=[view[start:end] for start, end in places])
    model = _parse(content)
    arrays: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(model, protocol=5, buffer_callback=arrays.append)
    base, parts = _address(memoryview(content)), [array.raw() for array in arrays]
    places = [(_address(part) - base, _address(part) - base + part.nbytes) for part in parts]
    _READ_LAST[key] = pickled, places
    while len(_READ_LAST) > _MOST_READ_LAST:
        _READ_LAST.popitem(last=False)
    return model


def _address(values: memoryview) -> int:
    return np.frombuffer(values, np.uint8).ctypes.data


def _parse(content: bytes) -> schema.ModelT:
    if content[4:8] != IDENTIFIER:
        raise RequestError("not a TFLite file (its identifier is not TFL3); export and deploy make one of a model.")
    flatbuffer_check.check_structure(content)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    flatbuffer_check.fill(model)
    flatbuffer_check.check_model(model, len(content))
    return model


def write(model: schema.ModelT) -> bytes:
    """Write a model to a file's content, without what edits have left behind. The model stays as it is.

    Left out are tensors that no operator, output or signature uses, since microcontrollers keep memory for each tensor;
    buffers that no tensor uses; and the codes of ops that no operator uses, since readers may refuse a listed op. What
    stays keeps its order, so a file that has nothing to leave out keeps its indices. Tensors of one graph that have the
    same name get names of their own, since readers may find tensors by name: inputs and outputs keep theirs, then the
    first; the others get "_1", "_2" and so on.
    """
    tensors = [_used_tensors(model, number) for number in range(len(model.subgraphs))]
    new = [{old: index for index, old in enumerate(used)} for used in tensors]
    signatures = [
        with_fields(
            signature,
            inputs=_renumbered(signature.inputs, new[signature.subgraphIndex]),
            outputs=_renumbered(signature.outputs, new[signature.subgraphIndex]),
        )
        for signature in model.signatureDefs or ()
    ]
    graphs = [
        _with_tensors(graph, used, indices) for graph, used, indices in zip(model.subgraphs, tensors, new, strict=True)
    ]
    metadata = model.metadata or []
    kept = sorted({0, *(entry.buffer for entry in metadata), *(t.buffer for graph in graphs for t in graph.tensors)})
    place = {old: index for index, old in enumerate(kept)}
    for graph in graphs:
        graph.tensors = [
            with_fields(tensor, buffer=place[tensor.buffer], name=name)
            for tensor, name in zip(graph.tensors, _unique_names(graph), strict=True)
        ]
    metadata = [with_fields(entry, buffer=place[entry.buffer]) for entry in metadata]
    buffers = [model.buffers[index] for index in kept]
    return _pack(with_fields(model, subgraphs=graphs, signatureDefs=signatures, buffers=buffers, metadata=metadata))


def _unique_names(graph: schema.SubGraphT) -> list[bytes]:
    """Give the tensors' names, numbered where several tensors have the same."""
    names = [tensor.name or b"tensor" for tensor in graph.tensors]
    ends = list(dict.fromkeys([*graph.inputs, *graph.outputs]))
    taken, given = set(names), set()
    number: Counter[bytes] = Counter()
    for index in dict.fromkeys([*ends, *range(len(names))]):
        base = name = names[index]
        while name in given:
            number[base] += 1
            name = base + f"_{number[base]}".encode()
            if name in taken:
                name = base  # another tensor's own name: the next number
        given.add(name)
        names[index] = name
    return names


def _used_tensors(model: schema.ModelT, number: int) -> list[int]:
    """List the indices of the tensors of one graph that anything in the model uses."""
    graph = model.subgraphs[number]
    used = {*graph.inputs, *graph.outputs}
    for operator in graph.operators:
        used.update(operator.inputs, operator.outputs, () if operator.intermediates is None else operator.intermediates)
    for signature in model.signatureDefs or ():
        if signature.subgraphIndex == number:
            used.update(entry.tensorIndex for entry in [*(signature.inputs or ()), *(signature.outputs or ())])
    for index in sorted(used - {-1}):
        used.update(_scale_tensors(graph.tensors[index]).values())
    return sorted(used - {-1})


def _scale_tensors(tensor: schema.TensorT) -> dict[str, int]:
    """Give the indices of the tensors that hold a tensor's scales and zero points, by the fields that name them."""
    details = tensor.quantization and tensor.quantization.details
    return {field: getattr(details, field) for field in ("scales", "zeroPoints") if hasattr(details, field)}


def _with_tensors(graph: schema.SubGraphT, used: list[int], new: dict[int, int]) -> schema.SubGraphT:
    """Copy a graph with only some of its tensors. ``new``: old index of each tensor -> new index."""

    def indices(values: Iterable[int] | None) -> list[int] | None:
        return None if values is None else [new.get(index, -1) for index in values]

    tensors = [graph.tensors[index] for index in used]
    for place, tensor in enumerate(tensors):
        if scales := _scale_tensors(tensor):
            renumbered = {field: new.get(index, -1) for field, index in scales.items()}
            details = with_fields(tensor.quantization.details, **renumbered)
            tensors[place] = with_fields(tensor, quantization=with_fields(tensor.quantization, details=details))
    operators = [
        with_fields(
            operator,
            inputs=indices(operator.inputs),
            outputs=indices(operator.outputs),
            intermediates=indices(operator.intermediates),
        )
        for operator in graph.operators
    ]
    return with_fields(
        graph, tensors=tensors, operators=operators, inputs=indices(graph.inputs), outputs=indices(graph.outputs)
    )


def _renumbered(entries: list[schema.TensorMapT] | None, new: dict[int, int]) -> list[schema.TensorMapT]:
    return [with_fields(entry, tensorIndex=new[entry.tensorIndex]) for entry in entries or ()]


def _pack(model: schema.ModelT) -> bytes:
    """Write a model, all of its tensors included, without unused op codes and the values of unused buffers."""
    lean = _lean(model)
    return _finished(flatbuffers.Builder(_size(lean.buffers)), lean)


def _lean(model: schema.ModelT) -> schema.ModelT:
    """Copy a model without unused op codes and the values of unused buffers."""
    buffers = {entry.buffer for entry in model.metadata or ()}
    buffers |= {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    codes = sorted({operator.opcodeIndex for graph in model.subgraphs for operator in graph.operators})
    graphs = [
        with_fields(
            graph, operators=[with_fields(op, opcodeIndex=codes.index(op.opcodeIndex)) for op in graph.operators]
        )
        for graph in model.subgraphs
    ]
    return with_fields(
        model,
        buffers=[buffer if index in buffers else schema.BufferT() for index, buffer in enumerate(model.buffers)],
        operatorCodes=[model.operatorCodes[index] for index in codes],
        subgraphs=graphs,
    )


def _size(buffers: Iterable[schema.BufferT]) -> int:
    """Estimate the size of a file. A builder that is too small doubles itself and copies what is there."""
    return sum(len(buffer.data) for buffer in buffers if buffer.data is not None) + (1 << 20)


def _finished(builder: flatbuffers.Builder, model: schema.ModelT) -> bytes:
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(memoryview(builder.Bytes)[builder.Head() :])


class _Packed(NamedTuple):
    """A table that a builder holds already, in the place of the schema's object."""

    offset: int

    def Pack(self, builder: flatbuffers.Builder) -> int:
        return self.offset


class Parts:
    """Writes files with only some of a model's operators.

    Python takes long to pack the tables of a file, so tensors and operators are packed once; a part adds the constants
    that it needs and its lists of operators, inputs and outputs. The tensors keep their indices. The graphs that
    conditions and loops call stay as they are.

    Args:
        model: the whole model. It stays as it is, and must not be changed while parts are written.
    """

    def __init__(self, model: schema.ModelT):
        self._lean = lean = _lean(model)
        self._builder = builder = flatbuffers.Builder(1 << 16)

        def packed(tables: Iterable) -> list[_Packed]:
            return [_Packed(table.Pack(builder)) for table in tables]

        graph = lean.subgraphs[0]
        self._operators, (self._nothing,) = packed(graph.operators), packed([schema.BufferT()])
        self._graph = with_fields(graph, tensors=packed(graph.tensors))
        self._model = with_fields(lean, operatorCodes=packed(lean.operatorCodes), signatureDefs=[], metadata=[])

    def write(self, places: Iterable[int], inputs: list[int], outputs: list[int]) -> bytes:
        """Write the file of a part.

        Args:
            places: the places of the operators in the first graph.
            inputs, outputs: the indices of the new file's inputs and outputs.
        """
        places, (whole, *others) = list(places), self._lean.subgraphs
        operators = [whole.operators[place] for place in places]
        options = [table for operator in operators for table in (operator.builtinOptions, operator.builtinOptions2)]
        called = others if flatbuffer_check.called_graphs(*options) else []
        tensors = [whole.tensors[index] for operator in operators for index in operator.inputs if index >= 0]
        used = {tensor.buffer for tensor in [*tensors, *(each for graph in called for each in graph.tensors)]}
        buffers = [each if index in used else self._nothing for index, each in enumerate(self._lean.buffers)]
        graph = with_fields(
            self._graph, operators=[self._operators[place] for place in places], inputs=inputs, outputs=outputs
        )
        room = _size([self._lean.buffers[index] for index in used])
        builder = copy.copy(self._builder)
        builder.Bytes = bytearray(room) + self._builder.Bytes[self._builder.Head() :]
        builder.head, builder.vtables = room, dict(self._builder.vtables)
        return _finished(builder, with_fields(self._model, subgraphs=[graph, *called], buffers=buffers))


def with_outputs(model: schema.ModelT, outputs: list[int]) -> bytes:
    """Write a file that gives other tensors of the first graph as its outputs. The tensors keep their indices."""
    graph = model.subgraphs[0]
    return _pack(
        with_fields(model, subgraphs=[with_fields(graph, outputs=outputs), *model.subgraphs[1:]], signatureDefs=[])
    )


def with_fields(table: Table, **fields: object) -> Table:
    """Make a shallow copy of one of the schema's objects, with other values in some fields."""
    table = copy.copy(table)
    vars(table).update(fields)
    return table


def operator_name(model: schema.ModelT, operator: schema.OperatorT) -> str:
    """Give an operator's name in the schema, such as "CONV_2D"; for a custom op, its own name."""
    return code_name(model.operatorCodes[operator.opcodeIndex])


def code_name(code: schema.OperatorCodeT) -> str:
    """Give the name of the op of an entry of the model's ``operatorCodes``."""
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema.BuiltinOperator.CUSTOM:
        return (code.customCode or b"CUSTOM").decode()
    return _OPERATORS.get(number, f"BUILTIN_{number}")


def operator_counts(model: schema.ModelT) -> dict[str, int]:
    """Count how often each op occurs, the most frequent first."""
    names = (operator_name(model, operator) for graph in model.subgraphs for operator in graph.operators)
    return dict(Counter(names).most_common())


def float_operator_counts(model: schema.ModelT) -> dict[str, int]:
    """Count the ops whose result is float32, other than DEQUANTIZE: in an integer file, those left in float."""
    counts: Counter[str] = Counter()
    for graph in model.subgraphs:
        for operator in graph.operators:
            if any(graph.tensors[out].type == schema.TensorType.FLOAT32 for out in operator.outputs):
                counts[operator_name(model, operator)] += 1
    counts.pop("DEQUANTIZE", None)
    return dict(counts.most_common())


def is_integer(model: schema.ModelT) -> bool:
    """Tell whether any operator of the first graph computes int8 or int16 from int8 or int16."""
    graph, eights = model.subgraphs[0], (schema.TensorType.INT8, schema.TensorType.INT16)
    return any(
        all(graph.tensors[index].type in eights for index in (operator.inputs[0], operator.outputs[0]))
        for operator in graph.operators
        if len(operator.inputs) and len(operator.outputs) and operator.inputs[0] >= 0
    )


def constant(model: schema.ModelT, index: int) -> np.ndarray | None:
    """Give the float32 values of a constant in the first graph; None if the tensor is computed or of another type."""
    tensor = model.subgraphs[0].tensors[index]
    data = model.buffers[tensor.buffer].data
    if index < 0 or data is None or len(data) == 0 or tensor.type != schema.TensorType.FLOAT32:
        return None
    return np.frombuffer(bytes(data), np.float32).reshape(tensor.shape)


def replace_constant(model: schema.ModelT, operator: schema.OperatorT, position: int, values: np.ndarray) -> None:
    """Give the constant input of one operator new float32 values.

    Where other operators read the same tensor (the converter merges equal ones), the operator gets a new tensor.
    Otherwise the tensor keeps its index. The buffer is made anew in either case.

    Args:
        model: the model, which is changed.
        operator: an operator of the first graph.
        position: of the constant among the operator's inputs.
        values: the new values, of any shape.
    """
    graph = model.subgraphs[0]
    index = operator.inputs[position]
    uses = sum(list(table.inputs).count(index) for table in graph.operators) + list(graph.outputs).count(index)
    new = add_constant(model, graph.tensors[index].name.decode(), values)
    if uses == 1:
        graph.tensors[index] = graph.tensors.pop()
    else:
        operator.inputs = list(operator.inputs)  # edits stay out of a shallow copy's list
        operator.inputs[position] = new


def add_constant(model: schema.ModelT, name: str, values: np.ndarray) -> int:
    """Add a constant of the values' type (float64 becomes float32) to the first graph; give its index."""
    values = np.ascontiguousarray(values)
    if values.dtype == np.float64:
        values = values.astype(np.float32)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    index = add_tensor(model, name, values.shape, len(model.buffers) - 1)
    model.subgraphs[0].tensors[index].type = getattr(schema.TensorType, values.dtype.name.upper())
    return index


def add_tensor(model: schema.ModelT, name: str, shape: Iterable[int], buffer: int = 0) -> int:
    """Add a float32 tensor to the first graph, a computed one unless it has a buffer; give its index."""
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = name.encode(), list(shape), buffer
    tensor.type = schema.TensorType.FLOAT32
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def make_operator(
    model: schema.ModelT,
    name: str,
    inputs: list[int],
    outputs: list[int],
    options: object | None = None,
    version: int = 1,
) -> schema.OperatorT:
    """Make an operator, which the caller puts in its place in the graph.

    Args:
        model: the model, whose list of op codes may be extended.
        name: the op's name in the schema.
        inputs, outputs: indices of tensors.
        options: the schema's object for the op's options.
        version: the least version of the op that has these types and options, as in TensorFlow's op_version.cc.
    """
    operator = _operator(model, name, getattr(schema.BuiltinOperator, name), inputs, outputs)
    code = model.operatorCodes[operator.opcodeIndex]
    code.version = max(code.version, version)
    if options is not None:
        operator.builtinOptions = options
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
    return operator


def append_operator(
    model: schema.ModelT,
    label: str,
    name: str,
    inputs: list[int],
    shape: Iterable[int],
    options: object | None = None,
    version: int = 1,
) -> int:
    """Add an operator with one float32 result at the end of the first graph; give the index of the result.

    label: the result's name. shape: of the result. The others are those of ``make_operator``.
    """
    result = add_tensor(model, label, shape)
    model.subgraphs[0].operators.append(make_operator(model, name, inputs, [result], options, version))
    return result


def make_custom_operator(
    model: schema.ModelT, name: str, inputs: list[int], outputs: list[int], options: bytes
) -> schema.OperatorT:
    """Make an operator that is not in the schema; its kernel reads ``options``."""
    operator = _operator(model, name, schema.BuiltinOperator.CUSTOM, inputs, outputs)
    model.operatorCodes[operator.opcodeIndex].customCode = name.encode()
    operator.customOptions = np.frombuffer(options, np.uint8)
    return operator


def _operator(model: schema.ModelT, name: str, number: int, inputs: list[int], outputs: list[int]) -> schema.OperatorT:
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

    def __init__(self, model: schema.ModelT):
        self.model = model
        self.writer: dict[int, schema.OperatorT] = {}
        self.readers: defaultdict[int, list[schema.OperatorT]] = defaultdict(list)
        for operator in self.operators:
            for index in operator.outputs:
                self.writer[index] = operator
            for index in operator.inputs:
                self.readers[index].append(operator)

    @property
    def operators(self) -> list[schema.OperatorT]:
        """The operators, in the order in which they run; an operator's place is its number in this list."""
        return self.model.subgraphs[0].operators

    @property
    def tensors(self) -> list[schema.TensorT]:
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

    def name(self, operator: schema.OperatorT) -> str:
        """Give an operator's name in the schema, such as "CONV_2D"."""
        return operator_name(self.model, operator)

    def shape(self, index: int) -> tuple[int, ...]:
        """Give a tensor's shape."""
        return tuple(self.tensors[index].shape)

    def constant(self, index: int) -> np.ndarray | None:
        """Give a constant's float32 values; None if the tensor is computed or of another type."""
        return constant(self.model, index)

    def integers(self, index: int) -> np.ndarray | None:
        """Give a constant's int32 values, such as axes; None if the tensor is computed or of another type."""
        tensor = self.tensors[index]
        data = self.model.buffers[tensor.buffer].data
        if data is None or len(data) == 0 or tensor.type != schema.TensorType.INT32:
            return None
        return np.frombuffer(bytes(data), np.int32)

    def activations(self, indices: Iterable[int]) -> list[int]:
        """Select the tensors that are float32 and no constants: the computed ones and the model's inputs."""
        tensors = self.tensors
        return [
            index
            for index in indices
            if index >= 0 and tensors[index].type == schema.TensorType.FLOAT32 and self.constant(index) is None
        ]

    def is_output(self, index: int) -> bool:
        """Tell whether a tensor is one of the model's outputs."""
        return index in self.outputs


def drop_unneeded(model: schema.ModelT) -> None:
    """Remove the operators of the first graph on which no output depends."""
    graph = model.subgraphs[0]
    writer = {index: operator for operator in graph.operators for index in operator.outputs}
    needed, waiting = set(), list(graph.outputs)
    while waiting:
        operator = writer.get(waiting.pop())
        if operator is not None and id(operator) not in needed:
            needed.add(id(operator))
            waiting += operator.inputs
    graph.operators = [operator for operator in graph.operators if id(operator) in needed]


def unique(names: Sequence[str]) -> list[str]:
    """Number names that occur twice: the signature of a file needs two."""
    return [name if names.count(name) == 1 else f"{name}_{names[:at].count(name)}" for at, name in enumerate(names)]


def set_signature(model: schema.ModelT, inputs: list[str], outputs: list[str]) -> None:
    """Name the inputs and outputs, both the tensors and their entries in the only signature, "serving_default"."""
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


def copy_signature(source: schema.ModelT, target: schema.ModelT) -> None:
    """Give a model that was made from ``source`` the names of its inputs and outputs."""
    (signature,) = source.signatureDefs
    by_tensor = {entry.tensorIndex: entry.name.decode() for entry in [*signature.inputs, *signature.outputs]}
    graph = source.subgraphs[0]
    set_signature(target, [by_tensor[i] for i in graph.inputs], [by_tensor[i] for i in graph.outputs])
