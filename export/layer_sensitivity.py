"""Per-layer sensitivity to quantisation, from a model to a list and a chart on disk."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from mobilenets_tf import files
from mobilenets_tf.data import images
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export import checks
from mobilenets_tf.export.page import sensitivity_chart
from mobilenets_tf.export.tflite import check_request, prepare_model
from mobilenets_tf.manifest import versions
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.quantize import schemes
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.quantize.post_training import Recipe
from mobilenets_tf.quantize.sensitivity import Sensitivity, measure
from mobilenets_tf.worker import Worker


@dataclass(frozen=True)
class SensitivityRequest:
    """Everything that decides the result; plain data. As in ``deployment.DeployRequest``."""

    source: ModelSource
    out: str
    scheme: str = "int8"
    calibration: str | None = None
    calibration_count: int | None = None
    seed: int = 0
    per_tensor: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Written:
    """The two files, and the rows of the list."""

    path: Path
    chart: Path
    layers: list[dict]


def sensitivity(
    model, calibration: Iterable, scheme="int8", *, recipe: Recipe | None = None, progress: Progress = silent
) -> list[Sensitivity]:
    """What each layer of a Keras 3 model costs when it alone is quantised, the most sensitive first.

    Args:
        model: a functional or sequential ``keras.Model``.
        calibration: as in ``to_tflite``.
        scheme: a calibrated scheme.
        recipe: the steps of quantisation; None for the default.
        progress: called with (what, done, total) as work goes on.

    Raises:
        RequestError: an argument or the calibration data cannot be used.
        ConversionError: the converter refused the model.
    """
    scheme = schemes.get(scheme)
    _check_scheme(scheme)
    check_request(model, scheme, calibration)
    if not isinstance(calibration, Calibration):
        calibration = Calibration(calibration)
    with Worker() as worker:
        prepared, names = prepare_model(model, scheme, calibration, recipe or Recipe(), worker, progress)
    return measure(prepared, names, progress=progress)


def write_sensitivity(request: SensitivityRequest, progress: Progress = silent) -> Written:
    """Build, convert, calibrate, measure, write. TensorFlow runs in a child process only.

    Raises:
        RequestError: whatever is wrong with the request, before any work is done where that can be known.
        ConversionError: the converter refused the model.
    """
    with Worker() as worker:
        found = check(request)
        facts, rows = worker.call(_produce, request, found, progress=progress)
    name, chart = _names(request)
    contents = {chart: sensitivity_chart.draw(rows, f"{request.source.name}, {request.scheme}")}
    layers = [row.as_dict() for row in rows]
    document = {"files": files.digests(contents), **facts, "layers": layers}
    folder = Path(request.out)
    files.write_together(folder, contents | {name: files.to_json(document)})
    return Written(folder / name, folder / chart, layers)


def _names(request: SensitivityRequest) -> tuple[str, str]:
    name = f"{request.source.name}_{request.scheme}_sensitivity"
    return f"{name}.json", f"{name}.svg"


def check(request: SensitivityRequest) -> ImageSet:
    """Everything that can be found wrong without TensorFlow; the images to calibrate and measure with.

    Raises:
        RequestError: see there.
    """
    _check_scheme(schemes.get(request.scheme))
    request.source.check()
    folder = Path(request.out)
    files.check_folder(folder)
    files.check_replaceable(folder, list(_names(request)), request.overwrite)
    if request.calibration is None:
        raise RequestError("Nothing to measure with: give --calibration images (or --calibration demo).")
    demo = request.calibration == "demo"
    found = images.demo_photos() if demo else checks.photographs(request.calibration, request.source.task)
    found = found.sample(request.calibration_count, request.seed)
    images.check(found)
    return found


def _check_scheme(scheme) -> None:
    if not scheme.calibrated:
        calibrated = ", ".join(s.name for s in schemes.SCHEMES.values() if s.calibrated)
        raise RequestError(
            f"The scheme {scheme.name!r} has no activations that are rounded; sensitivity is for {calibrated}."
        )


def _produce(
    request: SensitivityRequest, found: ImageSet, progress: Progress = silent
) -> tuple[dict, list[Sensitivity]]:
    """Runs in the worker: everything that needs TensorFlow. Writes nothing."""
    progress("building", 0, 1)
    model = request.source.build()
    preprocessing = request.source.preprocessing(model)
    progress("building", 1, 1)
    calibration = Calibration.from_images(found, preprocessing)
    recipe = Recipe(per_tensor=request.per_tensor)
    rows = sensitivity(model, calibration, request.scheme, recipe=recipe, progress=progress)
    facts = {
        "model": request.source.facts(),
        "scheme": request.scheme,
        "recipe": asdict(recipe),
        "preprocessing": asdict(preprocessing),
        "calibration": calibration.manifest(),
        "versions": versions(),
    }
    return facts, rows
