"""Let a graph compute in float32 where it computes in half precision: a phone's files do, from the same weights."""

import warnings
from dataclasses import replace

import numpy as np

from mobilenets_tf.conversion.frozen_graph import FrozenGraph, Port, nodes_of

_HALF = ("float16", "bfloat16")


def in_float32(graph: FrozenGraph, label: str) -> FrozenGraph:
    """Return a graph that computes in float32; ``graph`` itself if it does so. A warning says what has changed.

    Args:
        label: the model's name, for the warning.
    """
    import tensorflow as tf

    half = {getattr(tf, name).as_datatype_enum: name for name in _HALF}
    content = graph.graph_def
    attributes = [value for node in nodes_of(content) for value in node.attr.values()]
    computed = {half[kind] for value in attributes for kind in (value.type, *value.list.type) if kind in half}
    if not computed:
        return graph
    changed = tf.compat.v1.GraphDef()
    changed.CopyFrom(content)
    plain = tf.float32.as_datatype_enum
    for node in nodes_of(changed):
        for value in node.attr.values():
            if value.type in half:
                value.type = plain
            if any(kind in half for kind in value.list.type):
                value.list.type[:] = [plain if kind in half else kind for kind in value.list.type]
            if value.HasField("tensor") and value.tensor.dtype in half:
                array = np.asarray(tf.make_ndarray(value.tensor), np.float32)
                value.tensor.CopyFrom(tf.make_tensor_proto(array, tf.float32))
    for function in changed.library.function:
        for argument in (*function.signature.input_arg, *function.signature.output_arg):
            if argument.type in half:
                argument.type = plain
    warnings.warn(
        f"{label} computes in {' and '.join(sorted(computed))}; what is made of it has the same weights and computes "
        "in float32.",
        stacklevel=4,
    )
    return replace(
        graph,
        content=changed.SerializeToString(deterministic=True),
        inputs=tuple(map(_plain, graph.inputs)),
        outputs=tuple(map(_plain, graph.outputs)),
    )


def _plain(port: Port) -> Port:
    return replace(port, dtype="float32") if port.dtype in _HALF else port
