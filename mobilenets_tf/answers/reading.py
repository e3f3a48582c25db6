"""The reading of a model, known before the model is opened: its task, its input, the meaning of its outputs."""

from dataclasses import dataclass, replace
from pathlib import Path

from mobilenets_tf.conversion.traced.saved_model import is_saved_model
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.data.text_files import read_lines
from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.manifest import manifest_of
from mobilenets_tf.modelsource import NORMALISATION, TFLITE, ModelSource
from mobilenets_tf.tasks import task_of
from mobilenets_tf.tasks.outputs import KINDS
from mobilenets_tf.tflite.file_metadata import FileMetadata, read_metadata
from mobilenets_tf.weights.saved_models import check_kind


@dataclass(frozen=True)
class Reading:
    """How a network's input is made of an image, and what its outputs mean. Plain data.

    task: a name that ``tasks.task_of`` knows; None: as the only output shows, if it is a vector.
    preprocessing: at any size. Detectors and segmenters are given the whole photograph, whatever its crop.
    resize: of the preprocessing at the network's size; None: as ``preprocessing`` has it.
    labels: the classes' names; may be empty.
    form: in which a file gives its outputs, one of ``task.Task.forms``.
    grids: of a raw detector, (rows, columns) of each map that its anchors are laid on.
    kinds: what each output says, names of ``tasks.outputs.KINDS``; empty: as the outputs show.
    """

    task: str | None = None
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] = ()
    form: str | None = None
    grids: tuple[tuple[int, int], ...] = ()
    kinds: tuple[str, ...] = ()
    resize: int | None = None

    @staticmethod
    def of(file: Path) -> "Reading":
        """Read what the manifest beside a file says of it; what the manifest does not say, as the metadata in a TFLite
        file say; labels may also stand in a file ``labels.txt`` beside the file.

        Metadata that are damaged, which Android's readers would miss, are warned of even where the manifest says all.

        Raises:
            RequestError: the manifest is damaged or has an unknown task or anchors that are no grids, the labels are no
                text, or the file is no TFLite file.
        """
        manifest = manifest_of(file)
        task, anchors, labels = manifest.get("task"), manifest.get("anchors") or {}, manifest.get("labels")
        if task is not None:
            try:
                task_of(task)
            except RequestError as error:
                raise RequestError(f"{file}.json: {error}") from None
        try:
            grids = tuple((int(rows), int(columns)) for rows, columns in anchors.get("grids", ()))
        except (AttributeError, TypeError, ValueError):
            raise RequestError(
                f'{file}.json: anchors are {str(anchors)[:80]}; expected {{"grids": [[rows, columns], ...]}}.'
            ) from None
        preprocessing = Preprocessing.of(manifest, f"{file}.json")
        inside = read_metadata(file) if file.suffix == TFLITE and file.is_file() else FileMetadata()
        if not isinstance(labels, list):
            beside = file.with_name("labels.txt")
            labels = inside.labels or (read_lines(beside) if beside.is_file() else [])
        task, preprocessing = task or inside.task, preprocessing or inside.preprocessing
        kinds = _kinds(file, manifest) or tuple(kind for kind in inside.kinds if kind in KINDS)
        return Reading(task, preprocessing, tuple(map(str, labels)), manifest.get("form"), grids, kinds)


def reading_of(source: ModelSource, task: str | None = None) -> Reading:
    """Tell how to read a model's outputs: as the request says, else as the manifest beside a file does. The
    preprocessing of a registered network is known when the network is built.

    Args:
        task: for a file without a manifest.

    Raises:
        RequestError: there is no such file or network, the network has another task, or nothing describes the input.
    """
    if not source.is_tflite:
        source.check()
    for option in ("weights", "alpha", "resolution", "classes", "signature", "fetch"):
        if source.is_tflite and getattr(source, option) not in (None, False):
            raise RequestError(f"--{option} ({option}=) changes nothing of {source.model}, which runs as it is.")
    if source.content is not None:
        labels = tuple(source.label_names())
        return Reading(task or source.task, source.asked(None), labels, resize=source.resize)
    if not source.is_file:
        if task not in (None, source.task):
            raise RequestError(
                f"{source.model} is for the task {source.task!r}, not {task!r}; leave --task (task=) out."
            )
        return Reading(source.task, None, tuple(source.label_names()))
    file = check_file(source.model)
    known = Reading.of(file)
    source.check_labels()
    labels = tuple(source.label_names()) if source.labels else known.labels
    if source.is_tflite:
        preprocessing: Preprocessing | None = asked_preprocessing(source, known.preprocessing)
    else:  # a Keras model may itself normalise
        preprocessing = source.asked(known.preprocessing)
    return replace(known, task=task or known.task, preprocessing=preprocessing, labels=labels, resize=source.resize)


def check_file(file: str | Path) -> Path:
    """Return the path of a model file, or a SavedModel folder, that answers about images, without opening it.

    Raises:
        RequestError: there is no such file, or the file is of another kind.
    """
    file = Path(file)
    if not (file.suffix == TFLITE and file.is_file()) and not is_saved_model(file):
        check_kind(file)
    return file


def asked_preprocessing(source: ModelSource, known: Preprocessing | None) -> Preprocessing:
    """Tell how pixels become a file's input: as the request says, else as is known of the file.

    Raises:
        RequestError: the request is wrong, or neither gives mean and std.
    """
    source.check_input()
    told = source.asked(known)
    if told is None:
        raise RequestError(f"Nothing in {source.model} or beside it says how its input is normalised. {NORMALISATION}")
    return told


def _kinds(file: Path, manifest: dict) -> tuple[str, ...]:
    """Read the kinds of the outputs from a manifest; () where the manifest does not have one for each."""
    outputs = manifest.get("outputs")
    kinds = [output.get("kind") for output in outputs if isinstance(output, dict)] if isinstance(outputs, list) else []
    if not all(kinds):
        return ()
    for kind in kinds:
        if kind not in KINDS:
            raise RequestError(f"{file}.json: {unknown('kind of an output', str(kind), KINDS)}")
    return tuple(map(str, kinds))
