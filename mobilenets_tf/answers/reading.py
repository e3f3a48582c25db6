"""The reading of a model, known before the model is opened: its task, its input, the meaning of its outputs."""

from dataclasses import dataclass, replace
from pathlib import Path

from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.data.text_files import read_lines
from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.manifest import manifest_of
from mobilenets_tf.modelsource import NORMALISATION, ModelSource
from mobilenets_tf.registry import TASKS
from mobilenets_tf.weights.saved_models import check_kind

TFLITE = ".tflite"


@dataclass(frozen=True)
class Reading:
    """How a network's input is made of an image, and what its outputs mean. Plain data.

    task: one of ``registry.TASKS``; None: a classifier, if its only output is (1, classes).
    preprocessing: at any size. Detectors and segmenters are given the whole photograph, whatever its crop.
    resize: of the preprocessing at the network's size; None: as ``preprocessing`` has it.
    labels: the classes' names; may be empty.
    form: in which a file gives its outputs, one of ``task.Task.forms``.
    grids: of a raw detector, (rows, columns) of each map that its anchors are laid on.
    """

    task: str | None = None
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] = ()
    form: str | None = None
    grids: tuple[tuple[int, int], ...] = ()
    resize: int | None = None

    @staticmethod
    def of(file: Path) -> "Reading":
        """Read what the manifest beside a file says of it; labels may also stand in a file ``labels.txt`` there.

        Raises:
            RequestError: the manifest has an unknown task or anchors that are no grids, or the labels are no text.
        """
        manifest = manifest_of(file)
        task, anchors, labels = manifest.get("task"), manifest.get("anchors") or {}, manifest.get("labels")
        if task not in (None, *TASKS):
            raise RequestError(f"{file}.json: {unknown('task', task, TASKS)}")
        try:
            grids = tuple((int(rows), int(columns)) for rows, columns in anchors.get("grids", ()))
        except (AttributeError, TypeError, ValueError):
            raise RequestError(
                f'{file}.json: anchors are {str(anchors)[:80]}; expected {{"grids": [[rows, columns], ...]}}.'
            ) from None
        if not isinstance(labels, list):
            beside = file.with_name("labels.txt")
            labels = read_lines(beside) if beside.is_file() else []
        return Reading(task, Preprocessing.of(manifest), tuple(map(str, labels)), manifest.get("form"), grids)


def reading_of(source: ModelSource, task: str | None = None) -> Reading:
    """Tell how to read a model's outputs: as the request says, else as the manifest beside a file does. The
    preprocessing of a registered network is known when the network is built.

    Args:
        task: for a file without a manifest.

    Raises:
        RequestError: there is no such file or network, the network has another task, or nothing describes the input.
    """
    if not is_tflite(source):
        source.check()
    if source.content is not None:
        labels = tuple(source.label_names())
        return Reading(task or source.task, file_preprocessing(source), labels, resize=source.resize)
    if not source.is_file and not is_tflite(source):
        if task not in (None, source.task):
            raise RequestError(f"{source.model} is for the task {source.task!r}, not {task!r}; leave --task out.")
        return Reading(source.task, None, tuple(source.label_names()))
    file = check_file(source.model)
    known = Reading.of(file)
    source.check_labels()
    labels = tuple(source.label_names()) if source.labels else known.labels
    return replace(
        known, task=task or known.task, preprocessing=file_preprocessing(source), labels=labels, resize=source.resize
    )


def is_tflite(source: ModelSource) -> bool:
    """Tell whether the model is a TFLite file, which needs no TensorFlow."""
    return source.content is None and Path(source.model).suffix == TFLITE


def check_file(file: str | Path) -> Path:
    """Return the path of a model file that answers about images, without opening the file.

    Raises:
        RequestError: there is no such file, or the file is of another kind.
    """
    file = Path(file)
    if file.suffix != TFLITE or not file.is_file():
        check_kind(file)
    return file


def file_preprocessing(source: ModelSource) -> Preprocessing:
    """Tell how pixels become a file's input: as ``mean`` and ``std`` say, else as the manifest beside the file does.

    Raises:
        RequestError: neither the request nor a manifest gives mean and std.
    """
    source.check_input()
    known = source.asked(manifest_preprocessing(source.model) if source.content is None else None)
    if known is None:
        raise RequestError(f"No manifest beside {source.model} says how its input is normalised. {NORMALISATION}")
    return known


def manifest_preprocessing(file: str | Path) -> Preprocessing | None:
    """Return what the manifest beside a file says of its input; None if no manifest says it."""
    return Preprocessing.of(manifest_of(Path(file)))
