"""Check that a TFLite file is sound, as neither the schema's Python code does before reading nor LiteRT before running.

``check_structure`` reads the bytes before any object is made: each table, vector and string must lie inside the file,
and all together may have no more objects and text than a file of that size can hold. ``check_model`` checks the
objects: indices, shapes, data, scales, and the order in which tensors are written and read.

The rules of the format: flatbuffers.dev/internals; schema.fbs in google-ai-edge/LiteRT (tflite/converter/schema).
"""

import math
import struct
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from mobilenets_tf.errors import RequestError

# Each table's fields in the order of their slots. A number is a scalar of so many bytes, [number] a vector of such
# scalars, a name a table, [name] a vector of tables, and "name?" a union, whose kind is the scalar before it. Tables
# that are not listed here, such as most operators' options, have only scalars.
TABLES = {
    name: fields.split()
    for name, fields in {
        "Model": "4 [OperatorCode] [SubGraph] string [Buffer] [4] [Metadata] [SignatureDef] [ExternalBufferGroup]"
        " [ExternalBuffer]",
        "OperatorCode": "1 string 4 4",
        "SubGraph": "[Tensor] [4] [4] [Operator] string 4",
        "Tensor": "[4] 1 4 string QuantizationParameters 1 SparsityParameters [4] 1 [VariantSubType] 4",
        "Operator": "4 [4] [4] 1 BuiltinOptions? [1] 1 [1] [4] 8 8 1 BuiltinOptions2? 4",
        "Buffer": "[1] 8 8",
        "Metadata": "string 4",
        "SignatureDef": "[TensorMap] [TensorMap] string - 4",
        "TensorMap": "string 4",
        "ExternalBufferGroup": "string",
        "ExternalBuffer": "4 4 8 8 string",
        "QuantizationParameters": "[4] [4] [4] [8] 1 QuantizationDetails? 4",
        "CustomQuantization": "[1]",
        "BlockwiseQuantization": "4 4 4 [4]",
        "MultiAxisQuantization": "4 4 4 [4]",
        "SparsityParameters": "[4] [4] [DimensionMetadata]",
        "DimensionMetadata": "1 4 1 SparseIndexVector? 1 SparseIndexVector?",
        "Int32Vector": "[4]",
        "Uint16Vector": "[2]",
        "Uint8Vector": "[1]",
        "VariantSubType": "[4] 1 1",
        "BucketizeOptions": "[4]",
        "ConcatEmbeddingsOptions": "4 [4] [4]",
        "FullyConnectedOptions": "1 1 1 1 1 [1]",
        "ReshapeOptions": "[4]",
        "SqueezeOptions": "[4]",
        "VarHandleOptions": "string string",
        "StableHLOCompositeOptions": "string 4 [1] 1 4",
        "StablehloBroadcastInDimOptions": "[8]",
        "StablehloCaseOptions": "[4]",
        "StablehloConvolutionOptions": "[8] [8] [8] [8] [1] 8 8 [8] 8 8 [8] 8 8 [8] 8 8 [4]",
        "StablehloCustomCallOptions": "string 1 string 4 [4] [1]",
        "StablehloDotGeneralOptions": "[8] [8] [8] [8] [4]",
        "StablehloDynamicSliceOptions": "[8]",
        "StablehloGatherOptions": "[8] [8] [8] 8 [8] 1",
        "StablehloPadOptions": "[8] [8] [8]",
        "StablehloReduceOptions": "[8] 4",
        "StablehloReduceWindowOptions": "[8] [8] [8] [8] [8] 4",
        "StablehloScatterOptions": "1 [8] [8] [8] 8 1 4",
        "StablehloSliceOptions": "[8] [8] [8]",
        "StablehloTransposeOptions": "[8]",
    }.items()
}
_MEMBERS = {
    union: {code: name for name, code in vars(getattr(schema, union)).items() if isinstance(code, int)}
    for union in ("BuiltinOptions", "BuiltinOptions2", "QuantizationDetails", "SparseIndexVector")
}
# Custom ops for which LiteRT itself has kernels (BuiltinOpResolver in tflite/core/kernels/register.cc), and those for
# which XNNPACK has (VisitNode in tflite/delegates/xnnpack/xnnpack_delegate.cc).
LITERT_CUSTOM = {"AudioSpectrogram", "Mfcc", "NumericVerify", "TFLite_Detection_PostProcess"}
XNNPACK_CUSTOM = {"Convolution2DTransposeBias", "MaxPoolingWithArgmax2D", "MaxUnpooling2D"}
Entry = TypeVar("Entry")
_MOST_TABLES = 200_000  # a model of 1000 operators has some 12,000, and 200,000 take three seconds to read
_MOST_SIDES = 32  # of a tensor; LiteRT's kernels know at most 8
_MOST_BYTES = 2**31 - 1  # of a tensor that is computed; kernels count in 32 bits
TYPES = {code: name for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
_BITS = {
    "BOOL": 8, "INT2": 2, "INT4": 4, "UINT4": 4, "INT8": 8, "UINT8": 8, "INT16": 16, "UINT16": 16, "INT32": 32,
    "UINT32": 32, "INT64": 64, "UINT64": 64, "FLOAT8_E4M3FN": 8, "FLOAT8_E5M2": 8, "FLOAT16": 16, "BFLOAT16": 16,
    "FLOAT32": 32, "FLOAT64": 64, "COMPLEX64": 64, "COMPLEX128": 128,
}  # fmt: skip
_QUANTISED = {"INT2", "INT4", "UINT4", "INT8", "UINT8", "INT16", "INT32"}


def tensor_bytes(type_name: str, shape: Iterable[int]) -> int | None:
    """Compute the bytes of a dense tensor; None for a type that is not known or whose values differ in length.

    Args:
        type_name: the type's name in the schema, such as "INT8".
        shape: plain integers, which do not overflow.
    """
    bits = _BITS.get(type_name)
    return None if bits is None else math.ceil(math.prod(shape) * bits / 8)


def check_structure(content: bytes) -> int:
    """Refuse a file in which an offset leads outside, or whose objects would take more memory than its size justifies.

    Returns:
        The position behind the last byte of any object. Buffers that are named by their position in the file, and an
        archive of files, may stand behind it.

    Raises:
        RequestError: the file is damaged; the message has the reason.
    """
    walk = _Walk(content)
    try:
        walk.table(walk.target(0), "Model")
    except UnicodeDecodeError as error:
        raise _damaged("a name in it is not UTF-8") from error
    return walk.end


def _damaged(reason: str) -> RequestError:
    return RequestError(f"a damaged TFLite file ({reason}).")


class _Walk:
    """Follows the offsets of a flatbuffer. Positions are in bytes from the start of the file."""

    def __init__(self, content: bytes):
        self._content, self._size = content, len(content)
        self._layouts: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._tables = self._text = self._values = 0
        self.end = 0

    def _numbers(self, form: str, at: int) -> tuple[int, ...]:
        if not 0 <= at <= self._size - struct.calcsize(form):
            raise _damaged("an offset in it leads outside the file")
        return struct.unpack_from(form, self._content, at)

    def target(self, at: int) -> int:
        """Give the position to which the offset at a position leads."""
        target = at + self._numbers("<I", at)[0]
        if target == at or target % 4:
            raise _damaged("an offset in it leads to itself, or to no multiple of 4 bytes")
        return target

    def _layout(self, at: int) -> tuple[int, tuple[int, ...]]:
        """Give a table's size in bytes, and the offsets of its fields in it; 0 for a field that is left out."""
        place = at - self._numbers("<i", at)[0]
        if place not in self._layouts:
            length, size = self._numbers("<HH", place)
            if length < 4 or length % 2 or size < 4:
                raise _damaged("a table in it has no proper layout")
            offsets = self._numbers(f"<{length // 2 - 2}H", place + 4)
            if any(offset and not 4 <= offset < size for offset in offsets):
                raise _damaged("a field in it lies outside its table")
            self._layouts[place] = size, offsets
            self.end = max(self.end, place + length)
        return self._layouts[place]

    def table(self, at: int, name: str) -> None:
        """Check a table and everything to which it refers."""
        self._tables += 1
        if self._tables > _MOST_TABLES:
            raise _damaged(f"it has more than {_MOST_TABLES} parts")
        size, offsets = self._layout(at)
        if at + size > self._size:
            raise _damaged("a table in it leads outside the file")
        self.end = max(self.end, at + size)
        kind = 0
        for field, offset in zip(TABLES.get(name, ()), offsets, strict=False):
            if not offset:
                kind = 0
                continue
            if offset + (int(field) if field.isdigit() else 4) > size:
                raise _damaged("a field in it lies outside its table")
            if field.isdigit():
                kind = self._content[at + offset]  # the kind of the union in the next field, if there is one
            elif field == "string":
                self._string(self.target(at + offset))
            elif field[0] == "[":
                self._vector(self.target(at + offset), field[1:-1])
            elif field[-1] == "?":
                if member := _MEMBERS[field[:-1]].get(kind):
                    self.table(self.target(at + offset), member)
            elif field != "-":
                self.table(self.target(at + offset), field)

    def _vector(self, at: int, element: str) -> None:
        (length,) = self._numbers("<I", at)
        width = int(element) if element.isdigit() else 4
        if at + 4 + length * width > self._size:
            raise _damaged("a vector in it leads outside the file")
        self.end = max(self.end, at + 4 + length * width)
        if element.isdigit():
            # Many tables may refer to one vector, and for each of them its length is read again.
            self._values += 4 + length * width
            if self._values > 2 * self._size:
                raise _damaged("the same values are used by too many of its parts")
        else:
            if self._tables + length > _MOST_TABLES:
                raise _damaged(f"it has more than {_MOST_TABLES} parts")
            for place in range(at + 4, at + 4 + 4 * length, 4):
                self.table(self.target(place), element)

    def _string(self, at: int) -> None:
        (length,) = self._numbers("<I", at)
        end = at + 4 + length
        self._text += length
        if end >= self._size or self._text > self._size or self._content[end]:
            raise _damaged("a name in it has no end inside the file")
        self.end = max(self.end, end + 1)
        self._content[at + 4 : end].decode()


def fill(model: schema.ModelT) -> None:
    """Put empty lists where a file leaves a list out, and no data in buffer 0, which to LiteRT means no buffer.

    Tensor indices and shapes become lists of Python integers.
    """
    model.operatorCodes, model.buffers = model.operatorCodes or [], model.buffers or []
    model.subgraphs = model.subgraphs or []
    for buffer in model.buffers[:1]:
        buffer.data = None
    for graph in model.subgraphs:
        graph.tensors, graph.operators = graph.tensors or [], graph.operators or []
        for record in [graph, *graph.operators]:
            record.inputs, record.outputs = _integers(record.inputs), _integers(record.outputs)
        for tensor in graph.tensors:
            tensor.shape, tensor.name = _integers(tensor.shape), tensor.name or b""


def _integers(values: np.ndarray | None) -> list[int]:
    return [] if values is None else values.tolist()


def check_model(model: schema.ModelT, size: int) -> None:
    """Refuse a model with references to missing parts, or one that no interpreter could run.

    Args:
        model: the model, after ``fill``.
        size: of the file, in bytes.

    Raises:
        RequestError: the file is damaged; the message has the reason.
    """
    if model.version != 3:
        raise _damaged(f"its schema has version {model.version}; 3 is the one there is")
    if not model.subgraphs:
        raise _damaged("it has no graph")
    for buffer in model.buffers:
        if buffer.offset > 1 and buffer.offset + buffer.size > size:
            raise _damaged("a buffer leads outside the file")
    if sum(buffer.size for buffer in model.buffers if buffer.offset > 1) > 2 * size:  # as of values in the tree
        raise _damaged("the same values are used by too many of its parts")
    for entry in model.metadata or ():
        _in_range(entry.buffer, model.buffers, "metadata: buffer")
    external, calls = {entry.id for entry in model.externalBuffers or ()}, {}
    for number, graph in enumerate(model.subgraphs):
        where = f"graph {number}, " if number else ""
        has_value = [_check_tensor(model, graph, index, external, where) for index in range(len(graph.tensors))]
        calls[number] = _check_order(model, graph, has_value, where)
    _refuse_recursion(calls)
    for signature in model.signatureDefs or ():
        graph = _in_range(signature.subgraphIndex, model.subgraphs, "signature: graph")
        for entry in [*(signature.inputs or ()), *(signature.outputs or ())]:
            _in_range(entry.tensorIndex, graph.tensors, "signature: tensor")


def _in_range(index: int, entries: list[Entry], what: str) -> Entry:
    if not 0 <= index < len(entries):
        raise _damaged(f"{what} {index} is not one of the {len(entries)} that there are")
    return entries[index]


def _check_tensor(model: schema.ModelT, graph: schema.SubGraphT, index: int, external: set[int], where: str) -> bool:
    """Refuse an impossible tensor; tell whether a possible one has a value before any operator runs."""
    tensor = graph.tensors[index]
    what = f"{where}tensor {index}"
    if tensor.type not in TYPES:
        raise _damaged(f"{what} is of an unknown type, {tensor.type}")
    if len(tensor.shape) > _MOST_SIDES:
        raise _damaged(f"{what} has {len(tensor.shape)} dimensions")
    shape, name = tensor.shape, TYPES[tensor.type]
    if any(side < 0 for side in shape):
        raise _damaged(f"{what} has the shape {shape}")
    if tensor.shapeSignature is not None and len(tensor.shapeSignature):
        signature = tensor.shapeSignature.tolist()
        if len(signature) != len(shape) or min(signature) < -1:
            raise _damaged(f"{what} has the shape {shape} and a signature that does not fit it")
    buffer = _in_range(tensor.buffer, model.buffers, f"{what}: buffer") if tensor.buffer else None
    if tensor.externalBuffer and tensor.externalBuffer not in external:
        raise _damaged(f"{what} has its values in an external buffer that is not listed")
    stored = 0
    if buffer is not None:
        stored = buffer.size if buffer.offset > 1 else 0 if buffer.data is None else len(buffer.data)
    needed = tensor_bytes(name, shape)
    if stored and needed is not None and tensor.sparsity is None and stored != needed:
        raise _damaged(f"{what} has {stored} bytes of values; {shape} of {name} take {needed}")
    if not stored and (needed or 0) > _MOST_BYTES:
        raise _damaged(f"{what} would take {needed} bytes")
    if tensor.sparsity is not None:
        _check_sparsity(tensor.sparsity, len(shape), what)
    if tensor.quantization is not None and name in _QUANTISED:
        _check_quantisation(tensor.quantization, name, shape, len(graph.tensors), what)
    return bool(stored or tensor.isVariable or tensor.externalBuffer or needed == 0)


def _check_quantisation(
    parameters: schema.QuantizationParametersT, type_name: str, shape: list[int], tensors: int, what: str
) -> None:
    details = parameters.details
    for index in (getattr(details, "scales", -1), getattr(details, "zeroPoints", -1)):
        if not -1 <= index < tensors:
            raise _damaged(f"{what} has its scales in tensor {index}, which is not there")
    scales, zeros = parameters.scale, parameters.zeroPoint
    if scales is None or not len(scales):
        return
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise _damaged(f"{what} has a scale that is not a positive number")
    axis = parameters.quantizedDimension
    if len(scales) > 1 and not (0 <= axis < len(shape) and len(scales) == shape[axis]):
        raise _damaged(f"{what} has {len(scales)} scales for dimension {axis} of {shape}")
    if zeros is not None and len(zeros):
        if len(zeros) not in (1, len(scales)):
            raise _damaged(f"{what} has {len(zeros)} zero points and {len(scales)} scales")
        bits = _BITS[type_name]
        lowest = 0 if type_name[0] == "U" else -(2 ** (bits - 1))
        if zeros.min() < lowest or zeros.max() >= lowest + 2**bits:
            raise _damaged(f"{what} has a zero point that {type_name} does not hold")


def _check_sparsity(sparsity: schema.SparsityParametersT, rank: int, what: str) -> None:
    order, blocks = _integers(sparsity.traversalOrder), _integers(sparsity.blockMap)
    if (
        sorted(order) != list(range(rank + len(blocks)))
        or any(not 0 <= block < rank for block in blocks)
        or len(sparsity.dimMetadata or ()) != len(order)
    ):
        raise _damaged(f"{what} has no proper description of which values it leaves out")


def _check_order(model: schema.ModelT, graph: schema.SubGraphT, has_value: list[bool], where: str) -> set[int]:
    """Refuse operators that read a tensor before it is written, or write one twice. Give the graphs that are called.

    has_value: for each tensor, whether it has a value before any operator runs.
    """
    tensors, called = graph.tensors, set()
    for what in ("inputs", "outputs"):
        for index in getattr(graph, what):
            _in_range(index, tensors, f"{where}{what}: tensor")
    for index in graph.inputs:
        if has_value[index] and not tensors[index].isVariable and 0 not in tensors[index].shape:
            raise _damaged(f"{where}input tensor {index} has values in the file")
    written = {index for index, known in enumerate(has_value) if known}.union(graph.inputs)
    for number, operator in enumerate(graph.operators):
        what = f"{where}operator {number}"
        code = _in_range(operator.opcodeIndex, model.operatorCodes, f"{what}: code")
        for index in operator.inputs:
            if index == -1:  # an optional input that is left out
                continue
            _in_range(index, tensors, f"{what}: tensor")
            if index not in written and not _brings_its_kernel(code):
                raise _damaged(f"{what} reads tensor {index}, which nothing has written before")
        for index in _integers(operator.intermediates):
            if index != -1:
                _in_range(index, tensors, f"{what}: tensor")
        for index in operator.outputs:
            _in_range(index, tensors, f"{what}: tensor")
            if index in written and 0 not in tensors[index].shape:
                raise _damaged(f"{what} writes tensor {index}, which has its values already")
            written.add(index)
        for index in called_graphs(operator.builtinOptions, operator.builtinOptions2):
            _in_range(index, model.subgraphs, f"{what}: graph")
            called.add(index)
    for index in graph.outputs:
        if index not in written:
            raise _damaged(f"{where}output tensor {index} is written by nothing")
    return called


def _brings_its_kernel(code: schema.OperatorCodeT) -> bool:
    """Tell whether an app has to bring the kernel of a custom op, such as an NPU's, for whose kernel a tensor that
    nothing writes may be scratch memory. LiteRT's own kernels would read memory that is not there.
    """
    custom = max(code.builtinCode, code.deprecatedBuiltinCode) == schema.BuiltinOperator.CUSTOM
    return custom and (code.customCode or b"").decode() not in LITERT_CUSTOM | XNNPACK_CUSTOM


def called_graphs(*options: object) -> list[int]:
    """List the numbers of the graphs that an operator with these options calls, such as a loop's condition and body."""
    return [
        index
        for table in options
        if table is not None
        for field, value in vars(table).items()
        if "ubgraph" in field and value is not None
        for index in np.atleast_1d(value).tolist()
    ]


def _refuse_recursion(calls: dict[int, set[int]]) -> None:
    """Refuse graphs that call themselves, directly or through others."""
    callers: dict[int, list[int]] = {graph: [] for graph in calls}
    for graph, called in calls.items():
        for other in called:
            callers[other].append(graph)
    waiting = {graph: len(called) for graph, called in calls.items()}
    ends = [graph for graph, count in waiting.items() if not count]
    while ends:
        graph = ends.pop()
        del waiting[graph]
        for caller in callers[graph]:
            waiting[caller] -= 1
            if not waiting[caller]:
                ends.append(caller)
    if waiting:
        raise _damaged(f"its graph {min(waiting)} calls itself")
