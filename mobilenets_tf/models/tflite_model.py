"""A float TFLite file of anyone's as the verbs use it: the file is the reference, its graph is the float file."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from mobilenets_tf.data.preprocessing import Size
from mobilenets_tf.errors import RequestError, first_line
from mobilenets_tf.models.float_model import FloatFile, Input
from mobilenets_tf.models.foreign_model import ForeignModel
from mobilenets_tf.tasks.outputs import End, ends_of_file
from mobilenets_tf.tasks.task import Task
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.file_metadata import origin_of
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.foreign.intake import given_names, taken_in
from mobilenets_tf.tflite.runtime import Runner, check_loops
from mobilenets_tf.tflite.weight_types import with_weights
from mobilenets_tf.worker import Worker

# The operators that may normalise an image, or only move its pixels.
_FIRST_STEPS = {"ADD", "DIV", "MAXIMUM", "MINIMUM", "MUL", "PAD", "PADV2", "RESIZE_BILINEAR", "SUB"}


class TFLiteModel(ForeignModel):
    """A float TFLite file, see ``FloatModel``.

    Args:
        path: of the file.
        resolution, signature: as in ``intake.taken_in``.
        grids: of a detector, as the manifest beside the file has them.

    Raises:
        RequestError: the file is not there, is damaged, or is no file to begin from (see ``intake.taken_in``).
    """

    preload = ""

    def __init__(
        self,
        path: Path,
        resolution: Size | None = None,
        signature: str | None = None,
        grids: tuple[tuple[int, int], ...] = (),
    ):
        if not path.is_file():
            raise RequestError(f"No such TFLite file: {path}")
        self._given, self._grids, self._signature = path.read_bytes(), grids, signature
        content = taken_in(self._given, str(path), resolution, signature)
        super().__init__(path.stem, str(path), _inputs(content))
        self._content = self._turned(content)
        self.origin = origin_of(self._given)

    @cached_property
    def ends(self) -> tuple[End, ...]:
        """The outputs, by their names in the signature."""
        return ends_of_file(self._content)

    def check(self) -> None:
        """Refuse weights that are no numbers.

        Raises:
            RequestError: a constant is NaN.
        """
        tree = flatbuffer.read(self._content)
        for index, tensor in enumerate(tree.subgraphs[0].tensors):
            values = flatbuffer.constant(tree, index)
            if values is not None and np.isnan(values).any():
                raise RequestError(f"{self._label}: the constant {tensor.name.decode()!r} is NaN.")

    def float_file(self, worker: Worker, rewrite: Callable | None = None) -> FloatFile:
        """Return the file's graph, with as few operators as keep the outputs of the file that was given."""
        content = self._leaned
        return FloatFile(content, None, lambda weights: with_weights(content, weights))

    @cached_property
    def _leaned(self) -> bytes:
        return self._lean(self._content, self._reference)

    def _first_steps(self, images: np.ndarray) -> list[tuple[str, np.ndarray]]:
        graph = flatbuffer.Graph(flatbuffer.read(self._content))
        (tensor,), steps = graph.inputs, []
        if graph.tensors[tensor].type != schema.TensorType.FLOAT32:
            return []
        while len(readers := graph.readers[tensor]) == 1 and graph.name(readers[0]) in _FIRST_STEPS:
            (tensor,) = readers[0].outputs
            steps.append(tensor)
        if not steps:
            return []
        runner = Runner(flatbuffer.with_outputs(graph.model, steps))
        results = zip(*(runner(image[None]) for image in images), strict=True)
        names = [graph.tensors[step].name.decode() for step in steps]
        return list(zip(names, map(np.concatenate, results), strict=True))

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        return self._runner(arrays)

    @cached_property
    def _runner(self) -> "_Given":
        names = given_names(self._given, self._label, self._signature)
        shapes = [each.shape for each in self._given_inputs]
        return _Given(self._given, self._label, shapes, self._signature, *names)

    def grids(self, task: Task) -> tuple[tuple[int, int], ...]:
        """Return those of the manifest: a file does not show its anchors."""
        return self._grids


def _inputs(content: bytes) -> list[Input]:
    graph = flatbuffer.read(content).subgraphs[0]
    return [Input(graph.tensors[index].name.decode(), tuple(graph.tensors[index].shape)) for index in graph.inputs]


class _Given:
    """The file that was given, as it is, under LiteRT: its open sides fixed, one of its signatures."""

    def __init__(
        self,
        content: bytes,
        name: str,
        shapes: Sequence[tuple[int | None, ...]],
        signature: str | None,
        inputs: list[str],
        outputs: list[str],
    ):
        from ai_edge_litert.interpreter import Interpreter

        try:
            check_loops(flatbuffer.read(content), content)
            self._interpreter = Interpreter(model_content=content, num_threads=2)
            keys = list(self._interpreter.get_signature_list())
            self._signature = self._interpreter.get_signature_runner(signature or keys[0]) if keys else None
            if self._signature is None:
                for details, shape in zip(self._interpreter.get_input_details(), shapes, strict=True):
                    if tuple(details["shape"]) != shape:
                        self._interpreter.resize_tensor_input(details["index"], shape)
                self._interpreter.allocate_tensors()
        except (RequestError, ValueError, RuntimeError) as error:
            raise RequestError(f"{name} cannot be run: {first_line(error)}") from error
        self._name, self._inputs, self._outputs = name, inputs, outputs

    def __call__(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Return the outputs, in the order of the float file.

        Raises:
            RequestError: LiteRT cannot run the file.
        """
        try:
            return self._run(arrays)
        except (ValueError, RuntimeError, KeyError) as error:
            raise RequestError(f"{self._name} cannot be run: {first_line(error)}") from error

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        if self._signature is not None:
            details = self._signature.get_input_details()
            found = self._signature(
                **{name: array.astype(details[name]["dtype"]) for name, array in zip(self._inputs, arrays, strict=True)}
            )
            return [found[name] for name in self._outputs]
        for details, array in zip(self._interpreter.get_input_details(), arrays, strict=True):
            self._interpreter.set_tensor(details["index"], array.astype(details["dtype"]))
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(details["index"]) for details in self._interpreter.get_output_details()]
