"""Damaged and hostile SavedModel folders, beside the files of hostile_files.py.

A folder is a dict: name inside of the folder -> content; a ``Path`` is a symbolic link to it, None a named pipe.
"""

import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tests.support.hostile_files import mutated

GRAPH, INDEX, DATA = "saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"
Folder = dict[str, bytes | Path | None]


def good() -> Folder:
    """A folder with one convolution, as TF2 writes it: three files."""
    import tensorflow as tf

    class Convolution(tf.Module):
        def __init__(self):
            random = np.random.default_rng(0)
            self.kernel = tf.Variable(random.normal(size=(3, 3, 3, 4)).astype("float32"))

        @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3), tf.float32, "image")])
        def __call__(self, image):
            return {"features": tf.nn.relu(tf.nn.conv2d(image, self.kernel, 1, "SAME"))}

    module = Convolution()
    with tempfile.TemporaryDirectory() as path:
        tf.saved_model.save(module, path, module.__call__)
        return {name: Path(path, name).read_bytes() for name in (GRAPH, INDEX, DATA)}


def write(folder: Folder, path: Path) -> None:
    """Make a folder on the disk."""
    for name, content in folder.items():
        place = path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            os.mkfifo(place)
        elif isinstance(content, Path):
            place.symlink_to(content)
        else:
            place.write_bytes(content)


def hostile(base: Folder) -> Iterator[tuple[str, Folder]]:
    """Folders that were made to do harm, of a good folder: name, and folder."""
    pb, index, data = base[GRAPH], base[INDEX], base[DATA]
    for name, content in (("graph", pb), ("index", index), ("data", data)):
        place = {"graph": GRAPH, "index": INDEX, "data": DATA}[name]
        yield f"savedmodel-{name}-empty", base | {place: b""}
        yield f"savedmodel-{name}-half", base | {place: content[: len(content) // 2]}
        yield f"savedmodel-{name}-missing", {key: value for key, value in base.items() if key != place}
        for to in ("/dev/zero", "/dev/null", "/etc/passwd", "/proc/self/mem", Path(place).name, "/"):
            yield f"savedmodel-{name}-to{to.replace('/', '-')}", base | {place: Path(to)}
        yield f"savedmodel-{name}-pipe", base | {place: None}
    yield "savedmodel-swapped", base | {INDEX: data, DATA: index}
    yield "savedmodel-variables-loop", {GRAPH: pb, "variables": Path("variables")}
    yield "savedmodel-variables-up", {GRAPH: pb, "variables": Path(".")}
    for name, change in _CHANGES.items():
        yield f"savedmodel-{name}", base | {GRAPH: _changed(pb, change)}


def damaged(base: Folder, seed: int, each: int) -> Iterator[tuple[str, Folder]]:
    """Seeded mutations of each file of a good folder."""
    generator = random.Random(seed)
    for place, name in ((GRAPH, "graph"), (INDEX, "index"), (DATA, "data")):
        for number in range(each):
            yield f"savedmodel-{number}-{name}", base | {place: mutated(base[place], generator)}


def _changed(content: bytes, change: Callable) -> bytes:
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString(content)
    change(model.meta_graphs[0])
    return model.SerializeToString()


def _tf1_graph(meta, build: Callable) -> None:
    """Give the folder a graph of TF1 without variables. ``build``: image -> result."""
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, (None, 8, 8, 3), "image")
        result = build(image)
    meta.ClearField("object_graph_def")
    meta.graph_def.CopyFrom(graph.as_graph_def())
    entry = meta.signature_def["serving_default"]
    entry.inputs["image"].name = image.name
    (output,) = entry.outputs.values()
    output.name = result.name
    output.ClearField("tensor_shape")
    output.tensor_shape.unknown_rank = True


def _constant(dims, dtype="float32"):
    """A constant of one value, repeated to a shape: a few bytes of a file."""

    def change(meta):
        import tensorflow as tf

        kind = tf.dtypes.as_dtype(dtype).as_datatype_enum

        def build(image):
            small = tf.constant(1, dtype, (1,) * len(dims), name="small")
            return tf.add(image, tf.cast(tf.reduce_max(tf.identity(small), name="most"), tf.float32), name="out")

        _tf1_graph(meta, build)
        (node,) = (node for node in meta.graph_def.node if node.name == "small")
        tensor = node.attr["value"].tensor
        tensor.Clear()
        tensor.dtype = kind
        for size in dims:
            tensor.tensor_shape.dim.add().size = size
        getattr(tensor, "float_val" if dtype == "float32" else "int_val").append(1)

    return change


def _wide(meta):
    import tensorflow as tf

    _tf1_graph(meta, lambda image: tf.raw_ops.Fill(dims=[1 << 20, 1 << 20], value=tf.reduce_max(image)))


def _chain(length):
    def change(meta):
        import tensorflow as tf

        _tf1_graph(meta, lambda image: tf.identity(image, "first"))
        for number in range(length):
            node = meta.graph_def.node.add(op="Identity", name=f"n{number}")
            node.input.append(f"n{number - 1}" if number else "first")
            node.attr["T"].type = tf.float32.as_datatype_enum
        (output,) = meta.signature_def["serving_default"].outputs.values()
        output.name = f"n{length - 1}:0"

    return change


def _deep_functions(meta):
    """Each of 20,000 functions calls the next one."""
    library = meta.graph_def.library
    (name,) = {
        node.attr["f"].func.name
        for node in meta.graph_def.node
        if node.op == "StatefulPartitionedCall" and node.name == "StatefulPartitionedCall"
    }
    (first,) = (function for function in library.function if function.signature.name == name)
    calls = [node for node in first.node_def if node.op.endswith("PartitionedCall")]
    template = type(first)()
    template.CopyFrom(first)
    for number in range(20_000):
        made = library.function.add()
        made.CopyFrom(template)
        made.signature.name = f"deep{number}"
        node = made.node_def.add(op="StatefulPartitionedCall", name="next")
        node.attr["f"].func.name = f"deep{number + 1}" if number < 19_999 else "gone"
    (calls or list(first.node_def))[0].attr["f"].func.name = "deep0"


def _cycle(meta):
    import tensorflow as tf

    _tf1_graph(meta, lambda image: tf.identity(tf.identity(image, "a"), "b"))
    for node in meta.graph_def.node:
        if node.name == "a":
            node.input[0] = "b"


def _objects_outside(meta):
    for node in meta.object_graph_def.nodes:
        for child in node.children:
            child.node_id += 10**6


def _negative_places(meta):
    for node in meta.object_graph_def.nodes:
        for child in node.children:
            child.node_id = -1


def _huge_input(meta):
    for side in meta.signature_def["serving_default"].inputs["image"].tensor_shape.dim:
        side.size = 1 << 40


def _huge_variable(meta):
    for node in meta.graph_def.node:
        if node.op == "VarHandleOp":
            for side in node.attr["shape"].shape.dim:
                side.size = 1 << 40


def _every_name_twice(meta):
    for node in list(meta.graph_def.node):
        meta.graph_def.node.add().CopyFrom(node)


def _many_inputs(meta):
    """The signature has a hundred thousand names."""
    entry = meta.signature_def["serving_default"]
    (only,) = entry.inputs.values()
    for number in range(100_000):
        entry.inputs[f"x{number}"].CopyFrom(only)


_CHANGES = {
    "constant-8g": _constant((1 << 15, 1 << 16)),
    "constant-overflow": _constant((1 << 40, 1 << 40)),
    "constant-negative": _constant((-5, 3)),
    "constant-int": _constant((1 << 31,), "int32"),
    "wide": _wide,
    "chain": _chain(24_000),
    "long-chain": _chain(200_000),
    "deep-functions": _deep_functions,
    "cycle": _cycle,
    "objects-outside": _objects_outside,
    "negative-places": _negative_places,
    "huge-input": _huge_input,
    "huge-variable": _huge_variable,
    "twice": _every_name_twice,
    "many-inputs": _many_inputs,
}
