"""Take in a SavedModel folder: of tf.keras, of Keras 3's ``model.export``, of ``tf.saved_model.save``, of TF1.

TensorFlow's own loader runs what the folder says: restoring, initialisers, tables. Nothing of that is run here. The
folder's graph is read as data, what a signature's outputs need of the graph is cut out, its operators are checked
(``operators``), and the variables that are read get their values from the checkpoint. What is left only computes.

A folder from a stranger is read in a child process (``worker.Worker``): TensorFlow's readers are C++.
"""

import math
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mobilenets_tf.conversion.frozen_graph import FrozenGraph, freeze_function, with_own_functions
from mobilenets_tf.conversion.traced.operators import check_operators
from mobilenets_tf.conversion.traced.sides import one_sample
from mobilenets_tf.data.preprocessing import Size
from mobilenets_tf.errors import RequestError, first_line, unknown

if TYPE_CHECKING:
    import tensorflow as tf

FILE = "saved_model.pb"
KIND = "SavedModel"
# The signature that every tool takes where none is named, and one that only initialises.
_DEFAULT, _INITIALISES = "serving_default", "__saved_model_init_op"
_MOST_BYTES = 2**31 - 1  # of a graph with its constants: protobuf's limit
# Of a graph, with every call of a function counted as the function's nodes: TensorFlow takes 10 kB and 0.3 ms for each.
_MOST_NODES = 25_000
_MOST_VALUES = 2**30  # bytes of one operator's result
_MOST_ENDS = 1000  # inputs and outputs of a signature
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


def is_saved_model(path: Path) -> bool:
    """Tell whether a path is a SavedModel folder."""
    return (path / FILE).is_file()


def files_of(path: Path) -> list[Path]:
    """Return the files that a SavedModel's outputs depend on: the graph and the variables, in the order of names."""
    return [path / FILE, *sorted(each for each in path.glob("variables/variables.*") if each.is_file())]


def frozen_saved_model(path: Path, signature: str | None = None, resolution: Size | None = None) -> FrozenGraph:
    """Read a signature of a SavedModel folder, and freeze its graph without running anything of the folder.

    Args:
        signature: the key of the signature; None: "serving_default", or the only one there is.
        resolution: of the image, one number or (height, width), where the signature leaves them open.

    Raises:
        RequestError: the folder is damaged, has no such signature, or several of which none is named; an operator does
            more than compute, a side of an input is open, or a variable is not in the checkpoint.
    """
    try:
        return _frozen(path, signature, resolution)
    except RequestError:
        raise
    except Exception as error:  # TensorFlow and protobuf raise many kinds for a damaged folder
        raise RequestError(
            f"{path} is a damaged SavedModel folder ({type(error).__name__}: {first_line(error):.200})."
        ) from error


def _frozen(path: Path, signature: str | None, resolution: Size | None) -> FrozenGraph:
    import tensorflow as tf

    meta = _meta_graph(path)
    entry = _signature(meta, signature, path)
    if (ends := len(entry.inputs) + len(entry.outputs)) > _MOST_ENDS:
        raise RequestError(f"{path}: the signature has {ends} inputs and outputs; at most {_MOST_ENDS} are taken.")
    inputs = sorted(entry.inputs, key=_natural)
    outputs = sorted(entry.outputs, key=_natural)
    for name in (*inputs, *outputs):
        info = entry.inputs[name] if name in entry.inputs else entry.outputs[name]
        if info.WhichOneof("encoding") != "name":
            raise RequestError(f"{path}: {name!r} of the signature is no dense tensor. Give another --signature.")
    given = {entry.inputs[name].name: name for name in inputs}
    graph = _Needed(meta.graph_def, [entry.outputs[name].name for name in outputs], set(given), path)
    check_operators(graph.every_node(), str(path))
    shapes = one_sample({name: _sides(entry.inputs[name].tensor_shape) for name in inputs}, str(path), resolution)
    specs = [tf.TensorSpec(shapes[name], tf.dtypes.as_dtype(entry.inputs[name].dtype), name) for name in inputs]
    values = _values(meta, graph, path)
    variables = {name: tf.Variable(value) for name, value in values.items() if graph.nodes[name].op == "VarHandleOp"}
    content = _without_variables(graph, values)
    wanted = [entry.outputs[name].name for name in outputs]

    def call(*tensors):
        around, mapped = tf.compat.v1.get_default_graph(), {}
        for tensor, name in zip(tensors, inputs, strict=True):
            mapped[entry.inputs[name].name] = tensor
        for name, variable in variables.items():
            variable.read_value()  # so that the traced function knows the variable
            mapped[f"{name}:0"] = around.capture(variable.handle)
        # An input that no node reads cannot be mapped, and an output that is an input stands in no graph.
        read = {_tensor(each) for node in content.node for each in node.input}
        computed = [name for name in wanted if name not in mapped]
        used = {name: tensor for name, tensor in mapped.items() if name in read}
        found = tf.compat.v1.import_graph_def(content, input_map=used, return_elements=computed, name="")
        known = mapped | dict(zip(computed, found, strict=True))
        return [known[name] for name in wanted]

    frozen = freeze_function(call, specs, lambda: outputs, label=str(path), kind=KIND)
    _check_sizes(frozen, path)
    return frozen


def _check_sizes(frozen: FrozenGraph, path: Path) -> None:
    """Refuse a graph with values that no phone has room for, before anything is computed.

    Raises:
        RequestError: so it is; the message has the first such operator.
    """
    import tensorflow as tf

    with tf.Graph().as_default() as graph:  # which infers the shapes
        tf.graph_util.import_graph_def(frozen.graph_def, name="")
    for operator in graph.get_operations():
        for values in operator.outputs:
            size = (values.shape.num_elements() or 0) * values.dtype.size
            if size > _MOST_VALUES:
                raise RequestError(
                    f"{path}: the operator {operator.type} ({operator.name!r}) makes values of the shape "
                    f"{tuple(values.shape)}, {size / 1e9:,.1f} GB; at most {_MOST_VALUES / 1e9:.1f} GB are taken."
                )


def _meta_graph(path: Path) -> Any:
    """Return the graph for inference, with its signatures."""
    from tensorflow.core.protobuf import saved_model_pb2

    size = (path / FILE).stat().st_size
    if size > _MOST_VALUES:
        raise RequestError(f"{path}: {FILE} takes {size} bytes; a graph takes at most {_MOST_BYTES}.")
    content = (path / FILE).read_bytes()
    if not content:
        raise RequestError(f"{path} is a damaged SavedModel folder: {FILE} is empty.")
    metas = saved_model_pb2.SavedModel.FromString(content).meta_graphs
    serving = [meta for meta in metas if "serve" in meta.meta_info_def.tags]
    plain = [meta for meta in serving if list(meta.meta_info_def.tags) == ["serve"]]
    if not metas:
        raise RequestError(f"{path} is a damaged SavedModel folder: {FILE} has no graph.")
    if not serving:
        tags = sorted({tag for meta in metas for tag in meta.meta_info_def.tags})
        raise RequestError(
            f"{path} has no graph for inference, which is tagged 'serve': the tags are {tags}. Save the model with the "
            "tag 'serve'."
        )
    return (plain or serving)[0]


def _signature(meta: Any, key: str | None, path: Path) -> Any:
    """Return the signature of this key.

    Raises:
        RequestError: there is none of this key, or none is named and there are several.
    """
    known = {name: each for name, each in meta.signature_def.items() if name != _INITIALISES and each.outputs}
    if not known:
        raise RequestError(
            f"{path} has no signature that gives outputs. Save the model with one: model.export(folder), or "
            "tf.saved_model.save(model, folder, signatures=...)."
        )
    if key is not None and key not in known:
        raise unknown("signature", key, sorted(known))
    if key is None and _DEFAULT not in known and len(known) > 1:
        raise RequestError(
            f"{path} has the signatures {', '.join(map(repr, sorted(known)))}: name one with --signature (signature=)."
        )
    return known[key or (_DEFAULT if _DEFAULT in known else next(iter(known)))]


def _natural(name: str) -> list:
    """Sort key of names with numbers: output_2 comes before output_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)]


def _sides(shape: Any) -> list[int | None] | None:
    """Return the sides of a ``TensorShapeProto``, open ones as None; None where not even their number is known."""
    return None if shape.unknown_rank else [None if side.size < 0 else side.size for side in shape.dim]


class _Needed:
    """The part of a graph that some tensors need, and the functions that this part calls.

    Args:
        wanted: names of tensors. given: names of tensors that come from outside: what computes them is not needed.
        path: for messages.

    Raises:
        RequestError: a node or a function is missing, an input that nobody gives is needed, a function calls itself, or
            the calls come to more nodes than a model has.
    """

    def __init__(self, graph_def: Any, wanted: list[str], given: set[str], path: Path):
        self.versions, self._path = graph_def.versions, path
        self.functions = {function.signature.name: function for function in graph_def.library.function}
        every = {node.name: node for node in graph_def.node}
        self.nodes: dict[str, Any] = {}
        waiting = [name for name in wanted if name not in given]
        while waiting:
            name = waiting.pop()
            node_name = name.lstrip("^").partition(":")[0]
            if node_name in self.nodes:
                continue
            if node_name not in every:
                raise RequestError(f"{path} is a damaged SavedModel folder: the node {node_name!r:.80} is missing.")
            node = every[node_name]
            if node.op == "Placeholder":
                raise RequestError(
                    f"{path}: the outputs need the input {node_name!r:.80}, which the signature does not have. Save "
                    "the model with a signature that has every input."
                )
            self.nodes[node_name] = node
            # What is given was computed before: a control edge from it ("^input") waits for nothing.
            waiting += [each for each in node.input if _tensor(each.lstrip("^")) not in given]
        self._counts: dict[str, int | None] = {}
        self.called = set[str]()
        if sum(map(self._count, self.nodes.values())) > _MOST_NODES:
            raise RequestError(
                f"{path}: the graph has more than {_MOST_NODES} nodes, or functions that call each other so often."
            )

    def _count(self, node: Any) -> int:
        """Return how many nodes a node stands for, with those of the functions that it calls."""
        total = 1
        for name in _functions_of(node):
            if name not in self._counts:
                if name not in self.functions:
                    raise RequestError(
                        f"{self._path} is a damaged SavedModel folder: the function {name!r:.80} is missing."
                    )
                self._counts[name] = None  # until it is known
                self.called.add(name)
                self._counts[name] = sum(map(self._count, self.functions[name].node_def))
            count = self._counts[name]
            if count is None:
                raise RequestError(f"{self._path}: the function {name!r:.80} calls itself.")
            total += count
        return total

    def every_node(self) -> Iterator[Any]:
        """Yield the nodes of the part and of the functions."""
        yield from self.nodes.values()
        for name in sorted(self.called):
            yield from self.functions[name].node_def


def _tensor(name: str) -> str:
    """Return a tensor's name with its number: an input of a node leaves out that of the first output."""
    return name if ":" in name or name.startswith("^") else f"{name}:0"


def _functions_of(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        yield from (function.name for function in value.list.func)


class _Place(NamedTuple):
    """Where a checkpoint has the values of a variable: the key of a tensor, and which part of that tensor.

    TF1's partitioners make several variables of one tensor, and its savers write that tensor under one key.

    part: as the operator RestoreV2 takes it, "" for the whole tensor: the tensor's shape, and for each dimension the
        first index and the length, or "-" for all, as in "6 4 0,2:-".
    """

    key: str
    part: str = ""

    def slices(self, shape: list[int]) -> tuple[slice, ...]:
        """Return the slice of each dimension. shape: of the tensor in the checkpoint.

        Raises:
            ValueError: the part is one of a tensor of another shape.
        """
        if not self.part:
            return (slice(None),) * len(shape)
        *sides, last = self.part.split()
        if list(map(int, sides)) != shape:
            raise ValueError(f"{self.key!r:.80} has the shape {shape}, of which {self.part!r:.80} is no part")
        ends = [None if word == "-" else tuple(map(int, word.split(","))) for word in last.split(":")]
        return tuple(slice(None) if each is None else slice(each[0], sum(each)) for each in ends)


def _values(meta: Any, graph: _Needed, path: Path) -> dict[str, np.ndarray]:
    """Read the values of the variables from the checkpoint: name of the variable's node -> values.

    Raises:
        RequestError: a variable is not in the checkpoint, with another shape, or larger than the checkpoint's files.
    """
    import tensorflow as tf

    kinds = ("VarHandleOp", "VariableV2", "Variable")
    nodes = {name: node for name, node in graph.nodes.items() if node.op in kinds}
    if not nodes:
        return {}
    for each in path.glob("variables/variables.*"):
        if not each.is_file():  # TensorFlow would wait for a pipe, and read a device to its end
            raise RequestError(f"{path} is a damaged SavedModel folder: variables/{each.name} is no file.")
    held = sum(each.stat().st_size for each in files_of(path)[1:])
    if not held:
        raise RequestError(f"{path} is a damaged SavedModel folder: the files variables/variables.* are missing.")
    reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    places = _places_of_objects(meta, graph, reader) | _places_of_saver(meta)
    values: dict[str, np.ndarray] = {}
    tensors: dict[str, np.ndarray] = {}  # each is read once, whatever the number of its parts
    total = read = 0  # bytes of the variables, and of the tensors
    for name, node in sorted(nodes.items()):
        place = places.get(name, _Place(name))
        key = place.key
        if key not in shapes:
            raise RequestError(f"{path} is a damaged SavedModel folder: no values of the variable {name!r:.80}.")
        kind, declared = tf.dtypes.as_dtype(node.attr["dtype"].type), _sides(node.attr["shape"].shape)
        slices = place.slices(shapes[key])
        shape = [len(range(*each.indices(side))) for each, side in zip(slices, shapes[key], strict=True)]
        if types[key] != kind or (declared is not None and not _fits(shape, declared)):
            raise RequestError(
                f"{path} is a damaged SavedModel folder: the variable {name!r:.80} is {kind.name} {declared}, its "
                f"values are {types[key].name} {shape}."
            )
        total += math.prod(shape) * kind.size
        read += 0 if key in tensors else math.prod(shapes[key]) * kind.size
        if max(total, read) > min(held, _MOST_BYTES):
            raise RequestError(
                f"{path}: the variables up to {name!r:.80} take {max(total, read)} bytes; the checkpoint holds {held}, "
                f"and a graph at most {_MOST_BYTES}."
            )
        if key not in tensors:
            tensors[key] = reader.get_tensor(key)
        values[name] = tensors[key][slices] if place.part else tensors[key]
    return values


def _fits(shape: list[int], declared: list[int | None]) -> bool:
    return len(shape) == len(declared) and all(b in (None, a) for a, b in zip(shape, declared, strict=True))


def _places_of_objects(meta: Any, graph: _Needed, reader: Any) -> dict[str, _Place]:
    """Return where the checkpoint has each variable of TF2: node of the variable -> place.

    A function's call has the variables behind its own inputs, in the order in which the object graph lists them. The
    checkpoint has an object graph too; both are walked along the same names of children.
    """
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    saved, key = meta.object_graph_def, "_CHECKPOINTABLE_OBJECT_GRAPH"
    if not saved.nodes or not reader.has_tensor(key):
        return {}
    kept = TrackableObjectGraph.FromString(reader.get_tensor(key))
    twins, waiting = {0: 0}, deque([0])
    while waiting:
        place = waiting.popleft()
        children = {child.local_name: child.node_id for child in kept.nodes[twins[place]].children}
        for child in saved.nodes[place].children:
            if child.node_id not in twins and child.local_name in children:
                twins[child.node_id] = children[child.local_name]
                waiting.append(child.node_id)
    places = {}
    for node in graph.nodes.values():
        function = node.attr["f"].func.name if node.op in _CALLS else ""
        bound = list(saved.concrete_functions[function].bound_inputs) if function in saved.concrete_functions else []
        given = [name for name in node.input if not name.startswith("^")]
        for name, place in zip(given[len(given) - len(bound) :], bound, strict=True):
            attributes = kept.nodes[twins[place]].attributes if place in twins else ()
            told = [each.checkpoint_key for each in attributes if each.name == "VARIABLE_VALUE"]
            if told:
                places[name.partition(":")[0]] = _Place(told[0])
    return places


def _places_of_saver(meta: Any) -> dict[str, _Place]:
    """Return where the checkpoint has each variable of TF1, as the graph's own restoring assigns them: node -> place.

    A graph may have the restoring of several savers: what counts is the one that the folder names.
    """
    import tensorflow as tf

    nodes = {node.name: node for node in meta.graph_def.node}
    places = {}
    reached, waiting = set[str](), [meta.saver_def.restore_op_name]
    while waiting:
        at = waiting.pop().lstrip("^").partition(":")[0]
        if at in reached or at not in nodes:
            continue
        reached.add(at)
        node = nodes[at]
        waiting += node.input
        if node.op not in ("Assign", "AssignVariableOp"):
            continue
        target, source = node.input[0].partition(":")[0], node.input[1]
        while source.partition(":")[0] in nodes and nodes[source.partition(":")[0]].op == "Identity":
            source = nodes[source.partition(":")[0]].input[0]
        name, _, number = source.partition(":")
        restore = nodes.get(name)
        if restore is None or restore.op != "RestoreV2":
            continue
        keys, parts = (
            tf.make_ndarray(nodes[each.partition(":")[0]].attr["value"].tensor) for each in restore.input[1:3]
        )
        which = int(number or 0)
        places[target] = _Place(keys[which].decode(), parts[which].decode())
    return places


def _without_variables(graph: _Needed, values: dict[str, np.ndarray]) -> "tf.compat.v1.GraphDef":
    """Return the needed part as a graph of its own. Variables of TF1's first kind are constants there."""
    import tensorflow as tf

    content = tf.compat.v1.GraphDef(versions=graph.versions)
    for name, node in graph.nodes.items():
        new = content.node.add()
        if node.op in ("VariableV2", "Variable"):
            new.op, new.name = "Const", name
            new.attr["dtype"].type = node.attr["dtype"].type
            new.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values[name]))
            continue
        new.CopyFrom(node)
        new.device = ""
        new.attr.pop("_output_shapes", None)  # of another batch
        new.attr.pop("_class", None)  # on whose device it would be: perhaps that of a node that is not needed
        new.input[:] = [each for each in node.input if not each.startswith("^") or each[1:] in graph.nodes]
        if new.op == "PlaceholderWithDefault":  # that nobody gives
            new.op, kind = "Identity", node.attr["dtype"].type
            new.ClearField("attr")
            new.attr["T"].type = kind
    for name in sorted(graph.called):
        function = content.library.function.add()
        function.CopyFrom(graph.functions[name])
        for inner in function.node_def:
            inner.device = ""
    return with_own_functions(content)
