"""A model whose float graph comes from elsewhere: no layers, one sample at a time, rewrites that are checked."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mobilenets_tf.conversion.half_sums import sums_as_means
from mobilenets_tf.conversion.own_normalisation import OwnNormalisation, noticed, plain_images
from mobilenets_tf.data.input_shapes import takes_channels_first
from mobilenets_tf.data.preprocessing import CHANNELS
from mobilenets_tf.models.float_model import Input
from mobilenets_tf.tasks.task import Task
from mobilenets_tf.tflite import flatbuffer, lean
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.foreign import spelled_out
from mobilenets_tf.tflite.foreign.transposes import cancel_transposes, image_channels_last
from mobilenets_tf.tflite.runtime import Runner

if TYPE_CHECKING:
    import keras

# The rewrites in their order, and what each takes out.
_REWRITES: dict[str, Callable[[schema.ModelT], object]] = {
    "transposes": cancel_transposes,
    "borders before convolutions": spelled_out.join_padding,
    "sums": sums_as_means,
    "quotients and differences": spelled_out.plain_arithmetic,
    "spelled-out hard-swishes": spelled_out.hard_swish,
    "spelled-out normalisations": spelled_out.layer_norms,
    "split convolutions": lean.split_convolutions,
    "constant factors and terms": lean.fold_affines,
}
# How far the outputs of a rewritten file may be from those that have to stay, relative to the largest.
REWRITE_TOLERANCE = 1e-5
# The intervals of the values on which that is checked: those of images as networks take them.
_INTERVALS = ((-1.0, 1.0), (0.0, 1.0), (-2.5, 2.5), (0.0, 255.0))


class ForeignModel(ABC):
    """A model whose float graph comes from elsewhere: the part of a ``FloatModel`` that does not depend on where from.

    The model runs one sample at a time. A model whose image has its channels first gives files whose image has its
    channels last, as phones have it; a warning says so.

    Args:
        name: of the model. label: its path or its name, for messages.
        given: the inputs as the model takes them.
    """

    has_layers = False

    def __init__(self, name: str, label: str, given: Sequence[Input]):
        self.name, self._label, self._given_inputs = name, label, list(given)
        shape = given[0].shape
        self._channels_first = len(given) == 1 and takes_channels_first(shape)
        if self._channels_first:
            warnings.warn(
                f"{label} takes its image channels first, {shape}; the files that are made of it take the image "
                f"channels last, {self.inputs[0].shape}, as Android and MediaPipe have it.",
                stacklevel=5,
            )

    @cached_property
    def inputs(self) -> Sequence[Input]:
        """The inputs, by their names in the signature."""
        if not self._channels_first:
            return self._given_inputs
        ((name, (batch, channels, height, width)),) = self._given_inputs
        return [Input(name, (batch, height, width, channels))]

    @cached_property
    def own_normalisation(self) -> OwnNormalisation | None:
        """What the graph's first operators do to an image with its channels last; None if they do not normalise it."""
        shapes = [each.shape for each in self._given_inputs]
        if self._channels_first or len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][3] not in CHANNELS:
            return None
        return noticed(self._first_steps(plain_images(shapes[0][1:])), may_be_weights=True)

    @abstractmethod
    def _first_steps(self, images: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """Return the names of the operators that the image alone passes, and their results for some images."""

    @abstractmethod
    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Run the model as it was given on one sample; return its outputs."""

    def answers(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run the model that was given, image by image."""
        every = [self._reference(*sample) for sample in zip(*batch, strict=True)]
        return [np.concatenate(outputs) for outputs in zip(*every, strict=True)]

    def _reference(self, *sample: np.ndarray) -> list[np.ndarray]:
        arrays = [array.reshape(each.shape) for array, each in zip(sample, self.inputs, strict=True)]
        if self._channels_first:
            arrays = [array.transpose(0, 3, 1, 2) for array in arrays]
        return self._run(arrays)

    def grids(self, task: Task) -> tuple[tuple[int, int], ...]:
        """Return (): a graph does not show its anchors."""
        return ()

    def in_training(self) -> "keras.Model":
        """Return a model without layers: a graph says nothing about training."""
        import keras

        nothing = keras.Input((1,))
        return keras.Model(nothing, nothing, name="file")

    def _turned(self, content: bytes) -> bytes:
        """Return the content of a file whose image has its channels last."""
        if not self._channels_first:
            return content
        tree = flatbuffer.read(content)
        names = [entry.name.decode() for entry in tree.signatureDefs[0].inputs]
        outputs = [entry.name.decode() for entry in tree.signatureDefs[0].outputs]
        image_channels_last(tree)
        flatbuffer.set_signature(tree, names, outputs)
        return flatbuffer.write(tree)

    def _lean(self, content: bytes, reference: Callable[..., list[np.ndarray]]) -> bytes:
        """Return a file's graph after those rewrites that keep the outputs. The others are left out, with a warning.

        Args:
            content: of the file, its image channels last.
            reference: takes the arrays of a sample, and returns the outputs that have to stay.
        """
        samples = list(_samples(content))
        expected = [reference(*sample) for sample in samples]
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
                    f"{self._label}: {name} stay as they are: without them the outputs would differ by {error:.1e} of "
                    "the largest.",
                    stacklevel=5,
                )
        return content


def _samples(content: bytes) -> Iterator[list[np.ndarray]]:
    """Yield inputs of a file to compare rewrites on, the same in each run."""
    random = np.random.default_rng(0)
    graph = flatbuffer.read(content).subgraphs[0]
    for low, high in _INTERVALS:
        yield [
            random.uniform(low, high, graph.tensors[index].shape).astype(np.float32)
            if graph.tensors[index].type == schema.TensorType.FLOAT32
            else np.zeros(graph.tensors[index].shape, np.int32)
            for index in graph.inputs
        ]


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
