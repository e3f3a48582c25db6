"""Take in a float TFLite file of anyone's: one graph, static shapes, batch 1, float32 values, builtin ops.

The quantiser, the rewrites and training work on such a graph. A file that has more is brought to that form where its
outputs stay the same: one signature is chosen, open sides are fixed, half-precision weights become float32, and what
does not depend on the input becomes a constant. Everything else is refused by operator and tensor. The file may come
from a stranger: the checked reader opens it.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mobilenets_tf.data.input_shapes import fixed_shapes
from mobilenets_tf.data.preprocessing import Size
from mobilenets_tf.errors import RequestError, first_line, unknown
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.flatbuffer_check import TYPES, called_graphs

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

# Ops that keep values from one run to the next, draw them at random, or give results of a size that the input decides.
_STATEFUL = {"VAR_HANDLE", "HASHTABLE"}
_OPEN = {"WHERE", "NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5", "UNIQUE"}
_RANDOM = {"RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL"}
_MOST_BYTES = 2**31 - 1  # of all values that are computed once; the file that holds them ends there
_PLAIN = {"FLOAT32", "INT32", "INT64", "BOOL"}
_INTEGER_FILE = "Give the float32 or float16 file of the model; deploy and export write one with --scheme float32."


# The options of the ops whose options something here reads. A file may leave them out where all have their defaults.
_OPTIONS = {
    "ADD": schema.AddOptionsT, "SUB": schema.SubOptionsT, "MUL": schema.MulOptionsT, "DIV": schema.DivOptionsT,
    "CONV_2D": schema.Conv2DOptionsT, "DEPTHWISE_CONV_2D": schema.DepthwiseConv2DOptionsT,
    "TRANSPOSE_CONV": schema.TransposeConvOptionsT, "FULLY_CONNECTED": schema.FullyConnectedOptionsT,
    "BATCH_MATMUL": schema.BatchMatMulOptionsT, "MAX_POOL_2D": schema.Pool2DOptionsT,
    "AVERAGE_POOL_2D": schema.Pool2DOptionsT, "CONCATENATION": schema.ConcatenationOptionsT,
    "MEAN": schema.ReducerOptionsT, "SUM": schema.ReducerOptionsT, "REDUCE_MAX": schema.ReducerOptionsT,
    "REDUCE_MIN": schema.ReducerOptionsT, "SOFTMAX": schema.SoftmaxOptionsT, "GATHER": schema.GatherOptionsT,
    "SPLIT": schema.SplitOptionsT, "SPLIT_V": schema.SplitVOptionsT, "PACK": schema.PackOptionsT,
    "UNPACK": schema.UnpackOptionsT, "RESIZE_BILINEAR": schema.ResizeBilinearOptionsT,
    "RESIZE_NEAREST_NEIGHBOR": schema.ResizeNearestNeighborOptionsT, "LEAKY_RELU": schema.LeakyReluOptionsT,
    "STRIDED_SLICE": schema.StridedSliceOptionsT, "GELU": schema.GeluOptionsT,
}  # fmt: skip


def taken_in(content: bytes, name: str, resolution: Size | None = None, signature: str | None = None) -> bytes:
    """Bring a float file to the form from which quantisation begins; its outputs stay the same.

    Args:
        content: of the file.
        name: of the file, for messages.
        resolution: of the image, where the file leaves its sides open: one number, or (height, width).
        signature: the key of the signature to take, where there are several.

    Returns:
        The new file's content: one graph and one signature, whose entries have the names of inputs and outputs.

    Raises:
        RequestError: the file is damaged, is not float32, has ops that nothing here can take over, or several
            signatures of which none is named; the message names operator and tensor, and says what to do.
    """
    tree, names, shapes = _begun(content, name, resolution, signature)
    tree = _with_values(tree, name, shapes)
    _refuse_types(tree, name)
    graph = tree.subgraphs[0]
    for tensor in graph.tensors:
        tensor.shapeSignature, tensor.quantization = None, None
    for index in dict.fromkeys([*graph.inputs, *graph.outputs]):
        shape = graph.tensors[index].shape
        if len(shape) < 2 or shape[0] != 1:
            kind = "input" if index in graph.inputs else "output"
            raise RequestError(
                f"{name}: the {kind} {_name(graph, index)!r} has the shape {tuple(shape)}; expected a batch of 1 "
                "before its values. Convert the model again with a batch axis."
            )
    flatbuffer.set_signature(tree, *map(flatbuffer.unique, names))
    return flatbuffer.write(tree)


def given_names(content: bytes, name: str, signature: str | None) -> tuple[list[str], list[str]]:
    """Return the names that the given file's signature has for the inputs and for the outputs of ``taken_in``'s file,
    in their order; there, names may have a number behind them. The arguments are those of ``taken_in``.
    """
    return _choose_signature(flatbuffer.read(content), name, signature)


def check_taken(file: str, resolution: Size | None = None, signature: str | None = None) -> None:
    """Refuse a file that ``taken_in`` refuses, as far as that is known without running the file.

    Raises:
        RequestError: the file is not there, or as in ``taken_in``.
    """
    if not Path(file).is_file():
        raise RequestError(f"No such TFLite file: {file}")
    _begun(Path(file).read_bytes(), file, resolution, signature)


def _begun(
    content: bytes, name: str, resolution: Size | None, signature: str | None
) -> tuple[schema.ModelT, tuple[list[str], list[str]], dict[int, list[int]]]:
    """Read a file and choose its graph; return the tree, the names of inputs and outputs, and the shapes to give to
    the inputs."""
    try:
        tree = flatbuffer.read(content)
    except RequestError as error:
        raise RequestError(f"{name}: {error}") from None
    _load_buffers(tree, content, name)
    names = _choose_signature(tree, name, signature)
    _refuse_operators(tree, name)
    _refuse_integers(tree, name)
    _complete(tree, name)
    tree = flatbuffer.read(flatbuffer.write(tree))  # without what the chosen graph does not use
    return tree, names, _pinned_shapes(tree, name, resolution)


def _name(graph: schema.SubGraphT, index: int) -> str:
    return graph.tensors[index].name.decode()


def _load_buffers(tree: schema.ModelT, content: bytes, name: str) -> None:
    """Give every buffer that is named by its position in the file its values."""
    for buffer in tree.buffers:
        if buffer.offset > 1:
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    for graph in tree.subgraphs:
        for index, tensor in enumerate(graph.tensors):
            if tensor.externalBuffer:
                raise RequestError(
                    f"{name}: the values of tensor {index} ({_name(graph, index)!r}) are in another file. Convert the "
                    "model again with its weights inside."
                )
            if tensor.sparsity is not None:
                raise RequestError(
                    f"{name}: tensor {index} ({_name(graph, index)!r}) is stored without its zeros. Convert the model "
                    "again without sparsity."
                )


def _choose_signature(tree: schema.ModelT, name: str, key: str | None) -> tuple[list[str], list[str]]:
    """Leave only the graph of one signature; return the signature's names of its inputs and of its outputs, in the
    graph's order.

    Outputs that the signature does not have are left out, with the operators that only they need.
    """
    signatures = {(entry.signatureKey or b"").decode(): entry for entry in tree.signatureDefs or ()}
    if key is not None and key not in signatures:
        if not signatures:
            raise RequestError(f"{name} has no signatures; leave --signature (signature=) out.")
        raise unknown("signature", key, signatures)
    if key is None and len(signatures) > 1:
        raise RequestError(
            f"{name} has the signatures {', '.join(map(repr, signatures))}: name one with --signature (signature=)."
        )
    entry = signatures[key] if key is not None else next(iter(signatures.values()), None)
    number = entry.subgraphIndex if entry is not None else 0
    graph = tree.subgraphs[number]
    inputs: Sequence[schema.TensorMapT] = []
    outputs: Sequence[schema.TensorMapT] = []
    if entry is not None:
        inputs, outputs = entry.inputs or [], entry.outputs or []
        given = {each.tensorIndex for each in outputs}
        fits = sorted(each.tensorIndex for each in inputs) == sorted(graph.inputs) and given <= set(graph.outputs)
        names = [[each.name for each in ends if each.name and b"\0" not in each.name] for ends in (inputs, outputs)]
        named = [len(set(part)) for part in names] == [len(inputs), len(outputs)]
        if not (fits and given and named):
            raise RequestError(
                f"{name}: a damaged TFLite file (the signature {(entry.signatureKey or b'').decode()!r} has not the "
                "inputs and outputs of its graph)."
            )
        graph.outputs = [index for index in graph.outputs if index in given]
    tree.subgraphs, tree.signatureDefs = [graph], []
    flatbuffer.drop_unneeded(tree)
    return (
        [told or _name(graph, index) or "input" for index, told in _told(graph.inputs, inputs)],
        [told or _name(graph, index) or "output" for index, told in _told(graph.outputs, outputs)],
    )


def _told(places: Sequence[int], entries: Sequence[schema.TensorMapT]) -> Iterator[tuple[int, str]]:
    """Give each place's tensor and its name in a signature, "" without one; a tensor may have several names."""
    names: defaultdict[int, list[str]] = defaultdict(list)
    for entry in entries:
        names[entry.tensorIndex].append(entry.name.decode())
    for index in places:
        of_tensor = names[index]
        yield index, of_tensor.pop(0) if len(of_tensor) > 1 else (of_tensor or [""])[0]


def _refuse_operators(tree: schema.ModelT, name: str) -> None:
    graph = tree.subgraphs[0]
    for operator in graph.operators:
        op, code = flatbuffer.operator_name(tree, operator), tree.operatorCodes[operator.opcodeIndex]
        result = _name(graph, operator.outputs[0]) if operator.outputs else ""
        if max(code.builtinCode, code.deprecatedBuiltinCode) == schema.BuiltinOperator.CUSTOM:
            why, remedy = "is a custom op", "Cut the model before it, and let the app compute what comes after"
        elif called_graphs(operator.builtinOptions, operator.builtinOptions2):
            why, remedy = "calls another graph of the file", "Unroll it or write it out, and convert the model again"
        elif op in _STATEFUL or any(graph.tensors[index].isVariable for index in operator.inputs if index >= 0):
            why, remedy = "keeps values from one run to the next", "Make them inputs and outputs, and convert it again"
        elif op in _OPEN:
            why, remedy = "gives as many values as the input decides", "Cut the model before it"
        elif op in _RANDOM:
            why, remedy = "gives random values", "Convert the model for inference"
        elif op.startswith(("BUILTIN_", "STABLEHLO_")):
            why, remedy = (
                "is no op for which a phone's delegates have a kernel",
                "Convert the model to TFLite's own ops",
            )
        else:
            continue
        raise RequestError(f"{name}: the operator {op} that computes {result!r} {why}. {remedy}.")


def _refuse_integers(tree: schema.ModelT, name: str) -> None:
    """Refuse a file with quantised values, by the first operator that computes or reads them."""
    graph = tree.subgraphs[0]

    def quantised(index: int) -> bool:
        tensor = graph.tensors[index]
        scales = tensor.quantization and tensor.quantization.scale
        return TYPES[tensor.type] not in ("FLOAT32", "FLOAT16") and scales is not None and len(scales) > 0

    for operator in graph.operators:
        for index in [*operator.inputs, *operator.outputs]:
            if index >= 0 and quantised(index):
                op, kind = flatbuffer.operator_name(tree, operator), TYPES[graph.tensors[index].type].lower()
                raise RequestError(
                    f"{name} is quantised already: {op} has the {kind} tensor {_name(graph, index)!r}. {_INTEGER_FILE}"
                )


def _complete(tree: schema.ModelT, name: str) -> None:
    """Give operators the options that a file may leave out.

    Raises:
        RequestError: an operator has the options of another op, or lacks an input that LiteRT demands.
    """
    graph = tree.subgraphs[0]
    for operator in graph.operators:
        op = flatbuffer.operator_name(tree, operator)
        kind = _OPTIONS.get(op)
        if kind and operator.builtinOptions is None:
            operator.builtinOptions = kind()
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind.__name__.removesuffix("T"))
        elif kind and not isinstance(operator.builtinOptions, kind):
            raise RequestError(
                f"{name}: a damaged TFLite file ({op} that computes {_name(graph, operator.outputs[0])!r} has options "
                f"of another operator, {type(operator.builtinOptions).__name__.removesuffix('T')})."
            )
        # LiteRT 2.3 refuses a CONV_2D without bias, and crashes when it runs such a DEPTHWISE_CONV_2D.
        if op in ("CONV_2D", "DEPTHWISE_CONV_2D") and len(operator.inputs) < 3:
            raise RequestError(
                f"{name}: {op} that computes {_name(graph, operator.outputs[0])!r} has no bias, which "
                "LiteRT demands. Convert the model again with a bias of zeros."
            )


def _refuse_types(tree: schema.ModelT, name: str) -> None:
    graph = tree.subgraphs[0]
    for operator in graph.operators:
        for index in [*operator.inputs, *operator.outputs]:
            kind = TYPES[graph.tensors[index].type] if index >= 0 else "FLOAT32"
            if kind not in _PLAIN:
                op = flatbuffer.operator_name(tree, operator)
                raise RequestError(
                    f"{name}: {op} has the tensor {_name(graph, index)!r} of {kind.lower()}; expected float32 values. "
                    "Convert the model again in float32."
                )
    for index in graph.outputs:
        kind = TYPES[graph.tensors[index].type]
        if kind != "FLOAT32":
            raise RequestError(
                f"{name}: the output {_name(graph, index)!r} is {kind.lower()}; expected float32 values, from which "
                "other schemes can be judged. Cut the model before the operator that computes it."
            )


def _pinned_shapes(tree: schema.ModelT, name: str, resolution: Size | None) -> dict[int, list[int]]:
    """Return the shape of each input that has to change: an open batch is 1, other open sides are as ``resolution``
    says.

    Raises:
        RequestError: as ``fixed_shapes``.
    """
    graph, given = tree.subgraphs[0], {}
    for index in graph.inputs:
        tensor = graph.tensors[index]
        signature = tensor.shapeSignature
        shape = list(tensor.shape) if signature is None or not len(signature) else signature.tolist()
        if len(shape) > 1 and shape[0] < 0:
            shape[0] = 1
        given[index] = _name(graph, index), [None if side < 0 else side for side in shape]
    fixed = fixed_shapes(given, name, resolution, "Convert the model again")
    return {index: list(shape) for index, shape in fixed.items() if list(shape) != list(graph.tensors[index].shape)}


def _with_values(tree: schema.ModelT, name: str, shapes: dict[int, list[int]]) -> schema.ModelT:
    """Give the inputs new shapes, and let what does not depend on the values of the input become constants."""
    graph = tree.subgraphs[0]
    known = {index for index, tensor in enumerate(graph.tensors) if _is_constant(tree, tensor)}
    folded = []
    for operator in graph.operators:
        inputs = [index for index in operator.inputs if index >= 0]
        size = flatbuffer.operator_name(tree, operator) == "SHAPE"
        if (size or (inputs and known.issuperset(inputs))) and not set(operator.outputs) & set(graph.outputs):
            known.update(operator.outputs)
            folded.append(operator)
    if not shapes and not folded:
        return tree
    results = {index for operator in folded for index in operator.outputs}
    values, every_shape = _run(tree, name, shapes, results)
    for index, tensor in enumerate(graph.tensors):
        if not _is_constant(tree, tensor):
            tensor.shape = every_shape[index]
    for index, array in values.items():
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        tree.buffers.append(buffer)
        graph.tensors[index].buffer = len(tree.buffers) - 1
    gone = {id(operator) for operator in folded}
    graph.operators = [operator for operator in graph.operators if id(operator) not in gone]
    return tree


def _is_constant(tree: schema.ModelT, tensor: schema.TensorT) -> bool:
    data = tree.buffers[tensor.buffer].data if tensor.buffer else None
    return (data is not None and len(data) > 0) or 0 in tensor.shape


def _run(
    tree: schema.ModelT, name: str, shapes: dict[int, list[int]], wanted: set[int]
) -> tuple[dict[int, np.ndarray], list[list[int]]]:
    """Run a file once on zeros; return the values of some tensors, and the shapes of all."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    content = flatbuffer.write(tree)
    try:
        interpreter = Interpreter(
            model_content=content,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        for index, shape in shapes.items():
            interpreter.resize_tensor_input(index, shape)
        interpreter.allocate_tensors()
        _refuse_large(interpreter, wanted, name)  # what LiteRT knows before the run
        for details in interpreter.get_input_details():
            interpreter.set_tensor(details["index"], np.zeros(details["shape"], details["dtype"]))
        interpreter.invoke()
        _refuse_large(interpreter, wanted, name)
        sizes = {details["index"]: details["shape"].tolist() for details in interpreter.get_tensor_details()}
        values = {index: interpreter.get_tensor(index) for index in wanted}
    except RequestError:
        raise
    except (ValueError, RuntimeError) as error:
        pinned = ", ".join(f"{_name(tree.subgraphs[0], index)!r} as {tuple(shape)}" for index, shape in shapes.items())
        raise RequestError(f"{name} cannot be run{f' with {pinned}' if pinned else ''}: {first_line(error)}") from error
    return values, [sizes.get(index, list(tensor.shape)) for index, tensor in enumerate(tree.subgraphs[0].tensors)]


def _refuse_large(interpreter: "Interpreter", wanted: set[int], name: str) -> None:
    """Refuse values that are to become constants and are too large for a file."""
    total = 0
    for details in interpreter.get_tensor_details():
        if details["index"] in wanted:
            total += math.prod(details["shape"].tolist()) * np.dtype(details["dtype"]).itemsize
            if total > _MOST_BYTES:
                raise RequestError(
                    f"{name}: the values that do not depend on the input, up to {details['name']!r}, take {total} "
                    f"bytes; at most {_MOST_BYTES} can become constants. Cut them out, and convert the model again."
                )
