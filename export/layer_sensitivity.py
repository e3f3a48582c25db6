"""The verb ``sensitivity``: write a list and a chart of the loss when each layer alone is quantised."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from mobilenets_tf import files
from mobilenets_tf.data import images
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.deployment import annotated_images, calibration_images
from mobilenets_tf.export.page import sensitivity_chart
from mobilenets_tf.export.proof.judging import Judge
from mobilenets_tf.export.proof.subject import Subject
from mobilenets_tf.export.request import Request
from mobilenets_tf.export.tflite import check_request, prepare_model
from mobilenets_tf.manifest import versions
from mobilenets_tf.modelsource import opened
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.quantize import schemes
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.quantize.drop import DropOf
from mobilenets_tf.quantize.post_training import Recipe
from mobilenets_tf.quantize.sensitivity import Sensitivity, measure
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.worker import Worker


@dataclass(frozen=True)
class SensitivityRequest(Request):
    """Everything that decides the result; plain data.

    evaluate: annotated images, on which the loss of the task's score is measured too. void: of masks, the value of
        pixels of no class. The rest as in ``DeployRequest``.
    """

    out: str
    scheme: str = "int8"
    calibration: str | None = None
    calibration_count: int | None = None
    trust_calibration: bool = False
    evaluate: str | None = None
    void: int | None = None
    seed: int = 0
    per_tensor: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class SensitivityList:
    """The two files that were written, the rows of the list, the most sensitive layer first, and how photographs became
    the input."""

    path: Path
    chart: Path
    layers: list[dict]
    preprocessing: Preprocessing


def sensitivity(
    model,
    calibration: Iterable,
    scheme="int8",
    *,
    recipe: Recipe | None = None,
    drop_of: DropOf | None = None,
    progress: Progress = silent,
) -> list[Sensitivity]:
    """Measure the loss when a single layer of a model is quantised, for each layer; the most sensitive first.

    Args:
        model: as in ``to_tflite``.
        calibration: as in ``to_tflite``.
        scheme: a calibrated scheme.
        recipe: the steps of quantisation; None for the default.
        drop_of: takes the float file's content, and returns a function that tells how much of its score a file loses.
            None: only noise is measured.
        progress: called with (label, done, total) as work goes on.

    Raises:
        RequestError: an argument or the calibration data cannot be used.
        ConversionError: the converter refused the model.
    """
    scheme, model = schemes.get(scheme), opened(model)
    _check_scheme(scheme)
    check_request(model, scheme, calibration)
    if not isinstance(calibration, Calibration):
        calibration = Calibration(calibration)
    with Worker(preload=model.preload) as worker:
        prepared, names = prepare_model(model, scheme, calibration, recipe or Recipe(), worker, progress)
    drop = drop_of(prepared.original) if drop_of else None
    return measure(prepared, names, drop=drop, progress=progress)


def write_sensitivity(request: SensitivityRequest, progress: Progress = silent) -> SensitivityList:
    """Build, convert, calibrate, measure, write. TensorFlow runs in a child process only.

    Args:
        progress: called with (label, done, total) as work goes on.

    Raises:
        RequestError: the request is wrong; raised before any work is done, where that can be known.
        ConversionError: the converter refused the model.
    """
    with Worker(preload=request.source.preload) as worker:
        calibration_set, annotated = check(request)
        request.source.fetch_weights(progress)
        facts, rows = worker.call(_produce, request, calibration_set, annotated, progress=progress)
    name, chart = _names(request)
    contents = {chart: sensitivity_chart.draw(rows, f"{request.source.name}, {request.scheme}")}
    layers = [row.as_dict() for row in rows]
    document = {"files": files.digests(contents), **facts, "layers": layers}
    folder = Path(request.out)
    files.write_together(folder, contents | {name: files.to_json(document)}, lambda: _check_replaceable(request))
    return SensitivityList(folder / name, folder / chart, layers, Preprocessing(**facts["preprocessing"]))


def _names(request: SensitivityRequest) -> tuple[str, str]:
    name = f"{request.source.name}_{request.scheme}_sensitivity"
    return f"{name}.json", f"{name}.svg"


def check(request: SensitivityRequest) -> tuple[ImageSet, ImageSet | None]:
    """Check everything that can be known to be wrong without TensorFlow; return the images to calibrate with, and the
    annotated ones.

    Raises:
        RequestError: the scheme rounds no activations, the model or images are not there, or the folder cannot be
            written.
    """
    _check_scheme(schemes.get(request.scheme))
    request.source.check()
    folder = Path(request.out)
    files.check_folder(folder)
    _check_replaceable(request)
    if request.calibration is None:
        raise RequestError("Nothing to measure with: give --calibration (calibration=) images, or 'demo'.")
    task, count = request.source.task, request.calibration_count
    calibration_set = calibration_images(task, request.calibration, count, request.seed)
    if request.evaluate is None:
        return calibration_set, None
    annotated = annotated_images(request, request.evaluate).without(calibration_set)
    if not len(annotated):
        raise RequestError(
            "Every image of --evaluate was used for calibration; lower --calibration-count (calibration_count=)."
        )
    images.check(annotated)
    return calibration_set, annotated


def _check_replaceable(request: SensitivityRequest) -> None:
    files.check_replaceable(Path(request.out), _names(request), request.overwrite, request.described())


def _check_scheme(scheme) -> None:
    if not scheme.calibrated:
        calibrated = ", ".join(s.name for s in schemes.SCHEMES.values() if s.calibrated)
        raise RequestError(
            f"The scheme {scheme.name!r} has no activations that are rounded; sensitivity is for {calibrated}."
        )


def _produce(
    request: SensitivityRequest, calibration_set: ImageSet, annotated: ImageSet | None, progress: Progress
) -> tuple[dict, list[Sensitivity]]:
    """Do everything that needs TensorFlow, in the worker, without writing files."""
    progress("building", 0, 1)
    model = request.source.open()
    preprocessing = request.source.preprocessing(model)
    progress("building", 1, 1)
    drop_of = None
    if annotated is not None:
        subject = Subject.of(request.source, model, ImageInput(preprocessing), request.void, annotated=True)
        subject.check_annotated(annotated)
        preprocessing = subject.image.given

        def drop_of(reference: bytes) -> Judge:
            return Judge(subject, reference, annotated, progress)

    calibration = Calibration.from_images(calibration_set, preprocessing, request.trust_calibration)
    recipe = Recipe(per_tensor=request.per_tensor)
    rows = sensitivity(model, calibration, request.scheme, recipe=recipe, drop_of=drop_of, progress=progress)
    facts = {
        "model": request.source.facts(),
        "options": request.options(),
        "scheme": request.scheme,
        "recipe": asdict(recipe),
        "preprocessing": asdict(preprocessing),
        "calibration": calibration.manifest(),
        "versions": versions(),
    }
    return facts, rows
