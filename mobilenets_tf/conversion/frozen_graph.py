"""A TensorFlow graph for inference whose variables are constants: plain data, from which a float file is made."""

import gc
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilenets_tf.errors import RequestError, first_line
from mobilenets_tf.tflite.runtime import in_type
from mobilenets_tf.worker import give_memory_back

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Port:
    """An input or output of a graph.

    node: the name of its node. name: in the file's signature. shape: with the batch axis; a side that is not known is
    None. dtype: as TensorFlow calls it, for example "float32".
    """

    node: str
    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class FrozenGraph:
    """A frozen inference graph: every variable is a constant, the shapes of the inputs are static, the batch is 1.

    content: a serialised GraphDef.
    inputs, outputs: in the model's order.
    layers: the names of the model's layers, nested ones too, for error messages; may be empty.
    kind: of the model, for manifests.
    """

    content: bytes
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    layers: tuple[str, ...] = ()
    kind: str = "Keras 3 model"

    @cached_property
    def graph_def(self) -> "tf.compat.v1.GraphDef":
        """The graph as TensorFlow's object."""
        import tensorflow as tf

        return tf.compat.v1.GraphDef.FromString(self.content)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: ``content`` says what ``graph_def`` says."""
        return {name: value for name, value in self.__dict__.items() if name != "graph_def"}


def freeze_function(
    call: Callable,
    specs: Sequence["tf.TensorSpec"],
    output_names: Callable[[], Sequence[str]],
    layers: Sequence[str] = (),
    *,
    label: str,
    kind: str = "Keras 3 model",
    autograph: bool = False,
) -> FrozenGraph:
    """Trace a function for one sample, and freeze it.

    Args:
        call: takes a tensor for each spec, and returns a list of tensors.
        specs: static shapes with a batch of 1, types, and the names of the inputs in the file's signature.
        output_names: called after ``call`` has been traced.
        layers, kind: see ``FrozenGraph``.
        label: the model's name, for messages.
        autograph: whether Python's control flow in ``call`` becomes TensorFlow's.

    Raises:
        RequestError: the function cannot be traced with these shapes.
    """
    import tensorflow as tf
    from tensorflow.python.framework import convert_to_constants

    @tf.function(input_signature=list(specs), autograph=autograph)
    def infer(*tensors):
        # Without the identity, a model that only reshapes its input would freeze to a graph without nodes.
        return [tf.identity(tensor) for tensor in call(*tensors)]

    try:
        traced = infer.get_concrete_function()
        # As convert_variables_to_constants_v2, which then imports the graph into TensorFlow again: a third of its time.
        variables = convert_to_constants._FunctionConverterDataInEager(traced, False, False)
        graph_def, _ = convert_to_constants._replace_variables_by_constants(variables)
        outputs = list(traced.outputs)
        if not all(output.shape.is_fully_defined() for output in outputs):  # a shape may come from a variable
            outputs = list(convert_to_constants.convert_variables_to_constants_v2(traced, False).outputs)
    except RequestError:
        raise
    except Exception as error:  # whatever the model's own code raises
        shapes = ", ".join(f"{spec.name} {tuple(spec.shape)} {spec.dtype.name}" for spec in specs)
        raise RequestError(
            f"{label} ({kind}) cannot be traced with the input {shapes}: {type(error).__name__}: "
            f"{first_line(error):.300}"
        ) from error
    names = list(output_names())
    graph = FrozenGraph(
        content=with_own_functions(graph_def).SerializeToString(deterministic=True),
        inputs=tuple(map(_port, traced.inputs[: len(specs)], [spec.name for spec in specs])),
        outputs=tuple(map(_port, outputs, names)),
        layers=tuple(layers),
        kind=kind,
    )
    # Tracing leaves objects that take several times the model's size and refer to each other: collect them now.
    del infer, traced, variables, graph_def, outputs
    gc.collect()
    give_memory_back()
    return graph


def nodes_of(graph_def: "tf.compat.v1.GraphDef") -> Iterator[Any]:
    """Yield the nodes of a graph and of its functions."""
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def


def with_own_functions(graph_def: "tf.compat.v1.GraphDef") -> "tf.compat.v1.GraphDef":
    """Give the functions of a graph names that no other graph has, and return the graph: the functions of all graphs
    of a process are in one namespace, and programs number theirs alike."""
    if not graph_def.library.function:
        return graph_def
    digest = hashlib.sha256(graph_def.SerializeToString(deterministic=True)).hexdigest()[:16]
    for function in graph_def.library.function:
        function.signature.name += f"_{digest}"
    for node in nodes_of(graph_def):
        for value in node.attr.values():
            for called in (value.func, *value.list.func) if value.HasField("func") else value.list.func:
                called.name += f"_{digest}"
    del graph_def.library.gradient[:]
    return graph_def


def _port(tensor: "tf.Tensor", name: str) -> Port:
    sides = tensor.shape.as_list() if tensor.shape.rank is not None else [None]
    return Port(tensor.op.name, name, tuple(sides), tensor.dtype.name)


def run_frozen(graph: FrozenGraph) -> Callable:
    """Return the function that runs a graph: takes an array for each input, returns the outputs as a list of arrays.

    The function raises a RequestError for fractions where an input takes whole numbers, and where TensorFlow cannot
    compute an operator.
    """
    import tensorflow as tf

    imported = tf.compat.v1.wrap_function(lambda: tf.compat.v1.import_graph_def(graph.graph_def, name=""), [])
    element = imported.graph.as_graph_element
    pruned = imported.prune(
        [element(f"{port.node}:0") for port in graph.inputs], [element(f"{port.node}:0") for port in graph.outputs]
    )

    def run(arrays):
        given = [
            tf.constant(in_type(np.asarray(array), port.dtype, port.name))
            for array, port in zip(arrays, graph.inputs, strict=True)
        ]
        try:
            return [output.numpy() for output in pruned(*given)]
        except tf.errors.OpError as error:
            # TensorFlow says first where the operator stands, then the reason, then which kernels are registered, then
            # the operator's name in brackets.
            reason = re.split(r"\nRegistered devices|\n\s*\[\[", str(error))[0].rpartition("\n")[2]
            raise RequestError(
                f"TensorFlow cannot compute this {graph.kind} on this computer: {reason.rstrip('.'):.300}"
                + (_CHANNELS_FIRST if re.search("NCHW|only supports (the )?NHWC", reason) else "")
            ) from error

    return run


_CHANNELS_FIRST = (
    ". The model computes with its channels first, which TensorFlow's kernels for CPUs do not; build the model with "
    'data_format="channels_last".'
)
