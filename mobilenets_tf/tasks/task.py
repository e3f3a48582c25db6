"""The protocol of a task, which classification, detection and segmentation implement."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.data.sources import Source
from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.tasks.outputs import End, OutputKind


class Decoder(Protocol):
    """Turns the outputs of one network into answers about images.

    classes: how many classes the network tells apart, without a detector's background; None where its outputs do not
        show the number, or name no classes.
    """

    @property
    def classes(self) -> int | None: ...

    def __call__(self, outputs: Sequence[np.ndarray], height: int, width: int) -> Any:
        """Return the answer about one image.

        Args:
            outputs: of one image, without the batch axis, real values.
            height, width: of the photograph, in pixels.

        Raises:
            RequestError: the outputs are NaN or infinite, or do not have the task's form.
        """


class Meter(Protocol):
    """Measures answers against truths, image by image."""

    def add(self, answer: Any, truth: Any) -> None:
        """Count one image: the answer about the image, and the truth."""

    def lost(self, reference: Any = None) -> float:
        """Return how far the score is below the reference's score on the same images; without a reference, below 1.
        Negative where the score is higher than the reference's; NaN where nothing could be measured."""

    def interval(self, reference: Any) -> tuple[float, float] | None:
        """Return the 95 % interval of the change of the score from the reference's, a meter of another file's answers
        to the same images; None where the images say nothing about it. See ``intervals``."""

    def scores(self) -> dict[str, Any]:
        """Return all scores as shares of 1 (NaN where nothing could be measured); ``images``, the number of images; of
        a detector or segmenter also ``per_class``, the score of each class by the class' name."""


class Task(Protocol):
    """The task of a network: classification, detection, segmentation or regression.

    An answer of a classifier is the scores, float (classes,); of a detector ``boxes.Detections``; of a segmenter the
    class of each pixel, uint8 (height, width); of a regression a list of its outputs. A truth is a class index,
    ``boxes.Boxes``, or such an array of classes.

    name: in the registry and in manifests.
    measure: what the score is called. key: of the score in ``Meter.scores``.
    scales: whether answers at several sizes of the input can be averaged.
    forms: in which a file can give its outputs, the first by default; empty where there is one form only.
    """

    name: str
    measure: str
    key: str
    scales: bool
    forms: tuple[str, ...]

    def check_installed(self) -> None:
        """Refuse, before any work, a task whose score needs a package that is not installed.

        Raises:
            RequestError: the package is not installed; the message names it.
        """

    def find(
        self,
        spec: str,
        class_names: Sequence[str] = (),
        *,
        void: int = 255,
        classes: int | None = None,
        progress: Progress = silent,
    ) -> ImageSet:
        """Find the annotated images that ``spec`` names: a folder, a CSV or a JSON file.

        Args:
            class_names: in the order of the network's classes; empty: as the annotations name them.
            void: of masks, the value of pixels of no class. classes: of masks without names, how many there are.

        Raises:
            RequestError: there are no images or no annotations, or the annotations have other classes.
        """

    def training_source(
        self,
        spec: str,
        class_names: Sequence[str] = (),
        *,
        classes: int | None = None,
        void: int = 255,
        label_offset: int | None = None,
        progress: Progress = silent,
    ) -> Source:
        """Find the annotated images to train with, as ``find`` does; for a classifier also TFRecords and what
        TensorFlow Datasets has prepared, see ``data.sources.find``. The source knows the names of the classes.

        Args:
            label_offset: of TFRecords, the label of the first class; None for 1.

        Raises:
            RequestError: there are no images or no annotations, the annotations have other classes, or
                ``label_offset`` is given for another task than classification.
        """

    def check_annotated(self, name: str) -> None:
        """Refuse annotated images for a network of a task that has no score.

        Raises:
            RequestError: nothing can be scored; the message names the network.
        """

    def photographs(self, spec: str) -> ImageSet:
        """Find the photographs that ``spec`` names, without their annotations, to calibrate with.

        Raises:
            RequestError: there are no images.
        """

    def framed(self, preprocessing: Preprocessing) -> Preprocessing:
        """Return the preprocessing with the part of the photograph that the task has to see."""

    def kinds(self, ends: Sequence[End], known: bool = False, classes: int | None = None) -> tuple[OutputKind, ...]:
        """Decide the kind of each output of a network of this task, see ``tasks.outputs``.

        Args:
            known: something says that the network is a classifier: its name, names of classes, annotations.
            classes: how many classes there are known to be.
        """

    def settled(self, ends: Sequence[End], kinds: Sequence[OutputKind]) -> "Task":
        """Return the task that the kinds of the outputs show: this one, or ``Regression`` for a network of which this
        task was only supposed and whose outputs name no class."""

    def unscored(self, ends: Sequence[End], kinds: Sequence[OutputKind]) -> tuple[int, ...]:
        """Return the places of the outputs of which the score tells nothing, or not all."""

    def accepts(self, shapes: Sequence[tuple[int, ...]]) -> str | None:
        """Return None if the task's networks have outputs of these shapes (without the batch axis); else describe the
        outputs that they have."""

    def grids(self, model) -> tuple[tuple[int, int], ...]:
        """Return rows and columns of each feature map that a Keras detector has anchors on; empty for other tasks."""

    def decoder(
        self,
        name: str,
        ends: Sequence[End],
        kinds: Sequence[OutputKind],
        form: str | None = None,
        grids: tuple[tuple[int, int], ...] = (),
    ) -> Decoder:
        """Return the decoder of a network's outputs.

        Args:
            name: of the network, for messages. ends, kinds: of its outputs.
            form: one of ``forms``; None: as the shapes show.
            grids: of a detector whose boxes are encoded, see ``grids``.

        Raises:
            RequestError: the outputs are not those of the task, or the form or the grids are missing.
        """

    def meter(self, class_names: Sequence[str], void: int = 255) -> Meter:
        """Return a meter for answers of these classes."""

    def as_truth(self, answer: Any) -> Any:
        """Turn an answer into a truth, to measure how far another file gives the same answers."""

    def agree(self, expected: Any, answer: Any, score_threshold: float = 0.0) -> bool:
        """Tell whether two files give the same answer; the second file drops objects below the score threshold."""

    def shown(self, answer: Any, threshold: float) -> Any:
        """Return the part of an answer that is shown to people: of a detector the objects with a score of
        ``threshold`` or more, the best first."""

    def described(self, answer: Any, labels: Sequence[str], height: int, width: int, top: int) -> list[dict]:
        """Describe an answer as plain data: a dict for each class or object, with ``class``, ``name`` and a score or
        a share; boxes in pixels of the photograph."""

    def draw(self, image, answer: Any, labels: Sequence[str], top: int = 5):
        """Draw an answer on its photograph; both are ``PIL.Image``."""

    def headline(self, scores: dict[str, Any]) -> str:
        """Put the scores of ``Meter.scores`` into one line for people."""


def refuse_label_offset(label_offset: int | None) -> None:
    """Refuse a label offset: only the TFRecords of classifiers have one.

    Raises:
        RequestError: ``label_offset`` is given.
    """
    if label_offset is not None:
        raise RequestError(f"label_offset={label_offset} is for the labels of classifiers' TFRecords.")


def class_name(labels: Sequence[str], index: int) -> str:
    """Return the name of a class."""
    return labels[index] if 0 <= index < len(labels) else f"class {index}"


def percent(share: float | None) -> str:
    """Format a share in percent; "none" where nothing could be measured."""
    return "none" if share is None or np.isnan(share) else f"{share:.1%}"


def refuse_not_finite(name: str, arrays: Iterable[np.ndarray]) -> None:
    """Refuse values of a network that are NaN or infinite.

    Raises:
        RequestError: a value is NaN or infinite; the message names the network.
    """
    if not all(np.isfinite(array).all() for array in arrays):
        raise RequestError(f"{name} gives NaN or infinite values.")
