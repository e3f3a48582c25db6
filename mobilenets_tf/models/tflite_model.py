"""A float TFLite file of anyone's as the verbs use it: the file is the reference, its graph is the float file."""

import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mobilenets_tf.data.preprocessing import Size
from mobilenets_tf.errors import RequestError, first_line
from mobilenets_tf.models.float_model import FloatFile, Input
from mobilenets_tf.tasks.outputs import End, ends_of_file
from mobilenets_tf.tasks.task import Task
from mobilenets_tf.tflite import flatbuffer, lean
from mobilenets_tf.tflite.file_metadata import origin_of
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.foreign import spelled_out
from mobilenets_tf.tflite.foreign.intake import given_names, taken_in
from mobilenets_tf.tflite.foreign.transposes import cancel_transposes, image_channels_last, takes_channels_first
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.tflite.weight_types import with_weights
from mobilenets_tf.worker import Worker

if TYPE_CHECKING:
    import keras

# The rewrites in their order, and what each takes out.
_REWRITES: dict[str, Callable[[schema.ModelT], None]] = {
    "transposes": cancel_transposes,
    "borders before convolutions": spelled_out.join_padding,
    "quotients and differences": spelled_out.plain_arithmetic,
    "spelled-out hard-swishes": spelled_out.hard_swish,
    "spelled-out normalisations": spelled_out.layer_norms,
    "split convolutions": lean.split_convolutions,
    "constant factors and terms": lean.fold_affines,
}
# How far the outputs of a rewritten file may be from those of the file that was given, relative to the largest.
REWRITE_TOLERANCE = 1e-5
# The intervals of the values on which that is checked: those of images as networks take them.
_INTERVALS = ((-1.0, 1.0), (0.0, 1.0), (-2.5, 2.5), (0.0, 255.0))


class TFLiteModel:
    """A float TFLite file, see ``FloatModel``. A file whose image has its channels first gives files whose image has
    its channels last, as phones have it; a warning says so.

    Args:
        path: of the file.
        resolution, signature: as in ``intake.taken_in``.
        grids: of a detector, as the manifest beside the file has them.

    Raises:
        RequestError: the file is not there, is damaged, or is no file to begin from (see ``intake.taken_in``).
    """

    has_layers, preload, own_normalisation = False, "", None

    def __init__(
        self,
        path: Path,
        resolution: Size | None = None,
        signature: str | None = None,
        grids: tuple[tuple[int, int], ...] = (),
    ):
        if not path.is_file():
            raise RequestError(f"No such TFLite file: {path}")
        self.name, self._path, self._signature = path.stem, path, signature
        self._given, self._grids = path.read_bytes(), grids
        content = taken_in(self._given, str(path), resolution, signature)
        self._shapes = [tuple(sides) for sides in _input_shapes(content)]
        self._channels_first = len(self._shapes) == 1 and takes_channels_first(self._shapes[0])
        if self._channels_first:
            _, channels, height, width = self._shapes[0]
            warnings.warn(
                f"{path} takes its image channels first, {self._shapes[0]}; the files that are made of it take the "
                f"image channels last, {(1, height, width, channels)}, as Android and MediaPipe have it.",
                stacklevel=4,
            )
            tree = flatbuffer.read(content)
            names = [entry.name.decode() for entry in tree.signatureDefs[0].inputs]
            outputs = [entry.name.decode() for entry in tree.signatureDefs[0].outputs]
            image_channels_last(tree)
            flatbuffer.set_signature(tree, names, outputs)
            content = flatbuffer.write(tree)
        self._content = content
        self.origin = origin_of(self._given)

    @cached_property
    def inputs(self) -> Sequence[Input]:
        """The inputs, by their names in the signature."""
        graph = flatbuffer.read(self._content).subgraphs[0]
        return [Input(graph.tensors[index].name.decode(), tuple(graph.tensors[index].shape)) for index in graph.inputs]

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
                raise RequestError(f"{self._path}: the constant {tensor.name.decode()!r} is NaN.")

    def float_file(self, worker: Worker, rewrite: Callable | None = None) -> FloatFile:
        """Return the file's graph, with as few operators as keep the outputs."""
        content = self._lean
        return FloatFile(content, None, lambda weights: with_weights(content, weights))

    @cached_property
    def _lean(self) -> bytes:
        """The file's graph after those rewrites that keep the outputs of the file that was given. The others are left
        out, with a warning."""
        samples = list(self._samples())
        expected = [self._reference(*sample) for sample in samples]
        content = self._content
        for name, rewrite in _REWRITES.items():
            tree = flatbuffer.read(content)
            rewrite(tree)
            rewritten = flatbuffer.write(tree)
            if rewritten == content:
                continue
            error = _difference(Runner(rewritten), samples, expected)
            if error <= REWRITE_TOLERANCE:
                content = rewritten
            else:
                warnings.warn(
                    f"{self._path}: {name} stay as they are: without them the outputs would differ by {error:.1e} of "
                    "the largest.",
                    stacklevel=5,
                )
        return content

    def _samples(self):
        """Yield inputs to compare rewrites on, the same in each run."""
        random = np.random.default_rng(0)
        graph = flatbuffer.read(self._content).subgraphs[0]
        for low, high in _INTERVALS:
            yield [
                random.uniform(low, high, graph.tensors[index].shape).astype(np.float32)
                if graph.tensors[index].type == schema.TensorType.FLOAT32
                else np.zeros(graph.tensors[index].shape, np.int32)
                for index in graph.inputs
            ]

    def answers(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run the file that was given, image by image."""
        every = [self._reference(*sample) for sample in zip(*batch, strict=True)]
        return [np.concatenate(outputs) for outputs in zip(*every, strict=True)]

    def _reference(self, *sample: np.ndarray) -> list[np.ndarray]:
        arrays = [array.reshape(each.shape) for array, each in zip(sample, self.inputs, strict=True)]
        if self._channels_first:
            arrays = [array.transpose(0, 3, 1, 2) for array in arrays]
        return self._runner(arrays)

    @cached_property
    def _runner(self) -> "_Given":
        names = given_names(self._given, str(self._path), self._signature)
        return _Given(self._given, str(self._path), self._shapes, self._signature, *names)

    def grids(self, task: Task) -> tuple[tuple[int, int], ...]:
        """Return those of the manifest: a file does not show its anchors."""
        return self._grids

    def in_training(self) -> "keras.Model":
        """Return a model without layers: a file says nothing about training."""
        import keras

        nothing = keras.Input((1,))
        return keras.Model(nothing, nothing, name="file")


def _input_shapes(content: bytes) -> list[list[int]]:
    graph = flatbuffer.read(content).subgraphs[0]
    return [graph.tensors[index].shape for index in graph.inputs]


def _difference(runner: Runner, samples: list[list[np.ndarray]], expected: list[list[np.ndarray]]) -> float:
    """Return the greatest difference of an output from the expected one, relative to the output's largest finite
    value; infinity where one is finite and the other is not."""
    largest = [
        max(np.abs(outputs[place]).max(initial=0, where=np.isfinite(outputs[place])) for outputs in expected)
        for place in range(len(expected[0]))
    ]
    worst = 0.0
    for sample, outputs in zip(samples, expected, strict=True):
        for place, (found, wanted) in enumerate(zip(runner(*sample), outputs, strict=True)):
            finite = np.isfinite(wanted)
            same = np.isfinite(found[finite]).all() and np.array_equal(found[~finite], wanted[~finite], equal_nan=True)
            if not same:
                return np.inf
            error = np.abs(found[finite].astype(np.float64) - wanted[finite]).max(initial=0) / (largest[place] or 1)
            worst = max(worst, float(error))
    return worst


class _Given:
    """The file that was given, as it is, under LiteRT: its open sides fixed, one of its signatures."""

    def __init__(
        self,
        content: bytes,
        name: str,
        shapes: list[tuple[int, ...]],
        signature: str | None,
        inputs: list[str],
        outputs: list[str],
    ):
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter = Interpreter(model_content=content, num_threads=2)
            keys = list(self._interpreter.get_signature_list())
            self._signature = self._interpreter.get_signature_runner(signature or keys[0]) if keys else None
            if self._signature is None:
                for details, shape in zip(self._interpreter.get_input_details(), shapes, strict=True):
                    if tuple(details["shape"]) != shape:
                        self._interpreter.resize_tensor_input(details["index"], shape)
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
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
