"""The verb ``export``: write one TFLite file of a model and its manifest, without judging the file."""

from dataclasses import asdict, dataclass
from pathlib import Path

from mobilenets_tf import files
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.deployment import calibration_images
from mobilenets_tf.export.micro import c_source
from mobilenets_tf.export.micro.target import check_target
from mobilenets_tf.export.request import Request
from mobilenets_tf.export.tflite import Exported, check_split, to_tflite
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.quantize import schemes
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.quantize.post_training import Recipe
from mobilenets_tf.tflite import image_input
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.worker import Worker


@dataclass(frozen=True)
class ExportRequest(Request):
    """Everything that decides the result; plain data.

    out: the ``.tflite`` file to write. The rest as in ``DeployRequest``.
    """

    out: str
    scheme: str = "int8"
    calibration: str | None = None
    calibration_count: int | None = None
    trust_calibration: bool = False
    seed: int = 0
    per_tensor: bool = False
    input: str = "normalised"
    target: str | None = None
    split: int | None = None
    overwrite: bool = False


def export_file(request: ExportRequest, progress: Progress = silent) -> Exported:
    """Convert a model to one ``.tflite`` file with its manifest beside it. TensorFlow runs in a child process only.

    Args:
        progress: called with (label, done, total) as work goes on.

    Raises:
        RequestError: the request is wrong; raised before any work is done, where that can be known.
        ConversionError: the converter refused the model.
    """
    calibration = check(request)
    request.source.fetch_weights(progress)
    with Worker(preload=request.source.preload) as worker:
        return worker.call(_export, request, calibration, progress=progress)


def check(request: ExportRequest) -> ImageSet | None:
    """Check everything that can be known to be wrong without TensorFlow; return the images to calibrate with.

    Raises:
        RequestError: scheme or input form are unknown, model or images are not there, or the file cannot be written.
    """
    scheme = schemes.get(request.scheme)
    if request.per_tensor and not scheme.calibrated:
        raise RequestError(
            f"--per-tensor (per_tensor=) is for the calibrated schemes; {scheme.name!r} is none of them."
        )
    check_split(scheme, request.split)
    check_target(request.target, scheme)
    request.source.check()
    image_input.check(request.input)
    out = Path(request.out)
    if request.source.is_tflite and out.resolve() == Path(request.source.model).resolve():
        raise RequestError(f"out={out} is the file that is exported; give another name.")
    if out.suffix != ".tflite":
        raise RequestError(f"out={out}: expected a file that ends in .tflite.")
    files.check_folder(out.parent)
    beside = c_source.file_names(out.name) if request.target else ()
    files.check_replaceable(out.parent, [out.name, out.name + ".json", *beside], request.overwrite, request.described())
    if request.calibration is None:
        if scheme.calibrated:
            raise RequestError(f"The scheme {scheme.name!r} needs --calibration (calibration=) images.")
        return None
    return calibration_images(request.source.task, request.calibration, request.calibration_count, request.seed)


def _export(request: ExportRequest, calibration_set: ImageSet | None, progress: Progress) -> Exported:
    """Export in the worker process."""
    source = request.source
    model = source.open()
    facts, calibration, image = {"model": source.facts(), "options": request.options()}, None, None
    if calibration_set is not None or source.says_its_input or model.own_normalisation or request.input != "normalised":
        image = ImageInput(source.preprocessing(model), request.input)
        facts["preprocessing"], facts["model_preprocessing"] = asdict(image.given), asdict(image.wanted)
        if calibration_set:
            calibration = Calibration.from_images(calibration_set, image.given, request.trust_calibration)
    recipe = Recipe(per_tensor=True) if request.per_tensor else None
    return to_tflite(
        model, request.scheme, calibration, request.out, recipe=recipe, split=request.split, target=request.target,
        image=image, labels=source.label_names(), overwrite=request.overwrite, facts=facts, progress=progress,
    )  # fmt: skip
