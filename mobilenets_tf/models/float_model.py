"""What the verbs need of a model, whatever the model is: a float file to begin from, and answers to compare with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from mobilenets_tf.conversion.own_normalisation import OwnNormalisation
from mobilenets_tf.tasks.outputs import End
from mobilenets_tf.tasks.task import Task
from mobilenets_tf.tflite.file_metadata import Origin
from mobilenets_tf.worker import Worker

if TYPE_CHECKING:
    import keras


class Input(NamedTuple):
    """An input of a model: its name, and its shape with the batch axis; a side that is not fixed is None."""

    name: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class FloatFile:
    """The float file of a model, with which every scheme begins.

    content: of the file: float32, batch 1, static shapes, as few operators as possible.
    layers: the names of the layers by which operators are named; None: each operator is named by its result.
    stored: returns the content of a file of the same graph with its weights in another type ("float16", "int8").
    """

    content: bytes
    layers: tuple[str, ...] | None
    stored: Callable[[str], bytes]


class FloatModel(Protocol):
    """A model in float.

    name: of the model. inputs: in their order. ends: the outputs. origin: what its own file says; empty for a Keras
    model. has_layers: whether operators are named by layers; each operator of another model counts as a layer.
    preload: the library that the ``Worker`` of ``float_file`` needs; may be empty. own_normalisation: what the model's
    first layers do to an image; None if nothing is known of that.
    """

    name: str
    origin: Origin
    has_layers: bool
    preload: str

    @property
    def inputs(self) -> Sequence[Input]: ...

    @property
    def own_normalisation(self) -> OwnNormalisation | None: ...

    @property
    def ends(self) -> tuple[End, ...]: ...

    def check(self) -> None:
        """Refuse a model that cannot become a file with static shapes.

        Raises:
            RequestError: so it is.
        """

    def float_file(self, worker: Worker, rewrite: Callable | None = None) -> FloatFile:
        """Make the float file.

        Args:
            worker: the child process in which the converter runs.
            rewrite: a function of a Keras model, applied before the conversion; a file has no layers to rewrite.

        Raises:
            RequestError, ConversionError: the model cannot become a file.
        """

    def answers(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the outputs for a batch: an array for each input, the batch axis first."""

    def grids(self, task: Task) -> tuple[tuple[int, int], ...]:
        """Return rows and columns of each feature map of a detector; empty for other tasks. See ``task.Task.grids``."""

    def in_training(self) -> "keras.Model":
        """Return the Keras model whose flags, regularisers and dropout training follows. A file has no such layers."""
