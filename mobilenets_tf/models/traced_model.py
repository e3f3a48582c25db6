"""A TensorFlow graph of anyone's as the verbs use it: a SavedModel, a subclassed Keras model, a model of Keras 2."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np

from mobilenets_tf.conversion.convert import convert
from mobilenets_tf.conversion.frozen_graph import FrozenGraph, Port, run_frozen
from mobilenets_tf.conversion.traced.half_precision import in_float32
from mobilenets_tf.errors import RequestError
from mobilenets_tf.models.float_model import FloatFile, Input
from mobilenets_tf.models.foreign_model import ForeignModel
from mobilenets_tf.tasks.outputs import End, ends_of_graph
from mobilenets_tf.tflite.file_metadata import Origin
from mobilenets_tf.tflite.foreign.intake import taken_in
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.tflite.weight_types import with_weights
from mobilenets_tf.worker import Worker

_INPUT_TYPES = ("float32", "int32", "int64", "bool")
# The operators that may normalise an image, or only move its pixels.
_FIRST_STEPS = {
    "Add", "AddV2", "Cast", "Identity", "Maximum", "Minimum", "Mul", "Pad", "PadV2", "RealDiv", "ResizeBilinear", "Sub"
}  # fmt: skip


class TracedModel(ForeignModel):
    """A frozen graph, see ``FloatModel``. The graph as TensorFlow runs it is the reference; the float file is what the
    converter makes of the graph, with as few operators as keep the outputs. What the graph computes in half precision
    is computed in float32.

    Args:
        graph: see ``conversion.traced``. name: of the model. label: its path or its name, for messages.

    Raises:
        RequestError: the graph takes no input, an input is of another type than files have, or an output is no float32
            values of a fixed shape for one sample.
    """

    origin, preload = Origin(), "tensorflow"

    def __init__(self, graph: FrozenGraph, name: str, label: str):
        if not graph.inputs:
            raise RequestError(f"{label} takes no input, so its outputs are always the same.")
        graph = in_float32(graph, label)
        _refuse_ports(graph, label)
        super().__init__(name, label, [Input(port.name, port.shape) for port in graph.inputs])
        self._graph = graph
        self._leaned: bytes | None = None

    @cached_property
    def ends(self) -> tuple[End, ...]:
        """The outputs, by their names in the signature."""
        return ends_of_graph(self._graph)

    def check(self) -> None:
        """Refuse weights that are no numbers.

        Raises:
            RequestError: a constant is NaN.
        """
        import tensorflow as tf

        for node in self._graph.graph_def.node:
            if node.op == "Const" and tf.dtypes.as_dtype(node.attr["dtype"].type).is_floating:
                values = tf.make_ndarray(node.attr["value"].tensor)
                if np.isnan(values.astype(np.float32)).any():
                    raise RequestError(f"{self._label}: the constant {node.name!r} has values that are NaN.")

    def float_file(self, worker: Worker, rewrite: Callable | None = None) -> FloatFile:
        """Convert the graph, and bring the result to the form of ``intake.taken_in``.

        Raises:
            RequestError, ConversionError: the graph cannot become a file.
        """
        if self._leaned is None:
            content = self._turned(taken_in(convert(self._graph, worker), self._label))
            self._leaned = self._lean(content, Runner(content))
        content = self._leaned
        return FloatFile(content, None, lambda weights: with_weights(content, weights))

    def _first_steps(self, images: np.ndarray) -> list[tuple[str, np.ndarray]]:
        readers = defaultdict(list)
        for node in self._graph.graph_def.node:
            for name in node.input:
                readers[name.removesuffix(":0")].append(node)
        (port,), steps = self._graph.inputs, []
        name = port.node
        while len(readers[name]) == 1 and readers[name][0].op in _FIRST_STEPS:
            name = readers[name][0].name
            steps.append(name)
        if not steps or port.dtype != "float32":
            return []
        outputs = tuple(Port(step, step, (), "float32") for step in steps)
        run = run_frozen(replace(self._graph, outputs=outputs))
        results = zip(*(run([image[None]]) for image in images), strict=True)
        return list(zip(steps, map(np.concatenate, results), strict=True))

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        return self._runner(arrays)

    @cached_property
    def _runner(self) -> Callable:
        return run_frozen(self._graph)


def _refuse_ports(graph: FrozenGraph, label: str) -> None:
    for port in graph.inputs:
        if port.dtype not in _INPUT_TYPES:
            raise RequestError(
                f"{label}: the input {port.name!r} is {port.dtype}; expected float32, or integers of 32 bits and more. "
                "Give a model or a --signature that takes float32; deploy --input uint8 makes a file that takes pixels."
            )
    for port in graph.outputs:
        if port.dtype != "float32":
            raise RequestError(
                f"{label}: the output {port.name!r} is {port.dtype}; expected float32 values, from which "
                "other schemes can be judged. Give a model or a --signature without that output."
            )
        if None in port.shape or len(port.shape) < 2 or port.shape[0] != 1:
            raise RequestError(
                f"{label}: the output {port.name!r} has the shape {port.shape} for one sample; expected a "
                "batch of 1 before its values, every side fixed."
            )
