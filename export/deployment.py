"""The straight line: a model's name in, a folder with a verified TFLite file, its labels, manifest and report out."""

import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from mobilenets_tf.data import images
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export import checks, result_folder
from mobilenets_tf.export.page.report import Evidence
from mobilenets_tf.export.proof import judging
from mobilenets_tf.export.proof.dense_judging import DenseComparison
from mobilenets_tf.export.proof.verification import FLOAT_TOLERANCE, HALF_TOLERANCE, Comparison, compare
from mobilenets_tf.export.tflite import Bound, Conversion, check_quantisation, check_request, convert_model
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.quantize import schemes
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.quantize.post_training import Recipe, prepare
from mobilenets_tf.tflite import image_input
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.worker import Worker

# Files with some layers in float are judged on so many at most: that leaves a finer share than anyone will ask for, and
# keeps 150 MB of pixels.
TRIAL_IMAGES = 1000


@dataclass(frozen=True)
class DeployRequest:
    """Everything that decides the result; plain data.

    source: the model. scheme: a name of ``quantize.SCHEMES``. out: the folder to write.
    calibration: a folder or CSV of images, or "demo" for the photographs that scikit-image ships; calibration_count of
        them are used, chosen with ``seed`` (None: all).
    evaluate: labelled images (a CSV, or a folder with a sub-folder a class) to judge with; those used for calibration
        are left out. None judges on the calibration images, without accuracies.
    min_agreement: the share of images on which the file must give the float model's answer for the result to pass.
    max_drop: what the file may lose on the images it is judged with: of accuracy if they are labelled, else the share
        on which it gives another answer than the float model. As few layers as that takes are left in float.
    per_tensor: one scale for a layer's weights; what that costs is measured.
    input: the form in which the file takes its image, one of ``image_input.FORMS``.
    output: of a detector or segmenter, the form in which the file gives its answers, of ``checks.OUTPUTS``; None for
        the first of them. score_threshold: of "nms", the score from which objects are given; None for
        ``postprocess.Postprocess``'s, low enough to measure average precision with.
    void: of masks to judge with, the value of pixels of no class; None for that of the training.
    """

    source: ModelSource
    out: str
    scheme: str = "int8"
    calibration: str | None = None
    calibration_count: int | None = None
    evaluate: str | None = None
    seed: int = 0
    min_agreement: float = 0.5
    max_drop: float | None = None
    per_tensor: bool = False
    input: str = "normalised"
    output: str | None = None
    score_threshold: float | None = None
    void: int | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Deployed:
    """What was written (``path`` of the file, ``report`` of the page on it) and what was found. ``passed`` is False if
    a check failed; ``failures`` says which.
    """

    path: Path
    report: Path
    labels: list[str]
    manifest: dict
    parity: Comparison | DenseComparison
    comparison: Comparison | DenseComparison | None
    failures: tuple[str, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the float file equals Keras and the quantised one agrees with it well enough."""
        return not self.failures


@dataclass(frozen=True)
class Produced:
    """What the process with TensorFlow hands back: the file's content and what is known of it.

    files: others that go into the folder, name -> content. failures: checks that failed beside the comparisons.
    """

    content: bytes
    manifest: dict
    parity: Comparison | DenseComparison
    comparison: Comparison | DenseComparison | None
    evidence: Evidence
    files: dict[str, str] = field(default_factory=dict)
    failures: tuple[str, ...] = ()


@dataclass
class Images:
    calibration: ImageSet | None = None
    judge: ImageSet = field(default_factory=lambda: ImageSet(()))
    judged_on_calibration: bool = False


def deploy(request: DeployRequest, progress: Progress = silent) -> Deployed:
    """Build, convert, quantise, verify, write. TensorFlow runs in a child process only.

    Raises:
        RequestError: whatever is wrong with the request, before any work is done where that can be known.
        ConversionError: the converter refused the model.
    """
    started = time.monotonic()
    with Worker() as worker:  # starts importing TensorFlow while the request is checked
        chosen = check(request)
        produced = worker.call(_produce, request, chosen, progress=progress)
    content, manifest, parity, comparison = produced.content, produced.manifest, produced.parity, produced.comparison
    failed = (*failures(request, parity, comparison), *produced.failures)
    manifest |= {"passed": not failed, "failures": list(failed)}
    folder, name = Path(request.out), _file_name(request)
    labels = request.source.label_names()
    manifest, page = result_folder.write(
        folder, name, content, manifest, produced.evidence, labels, produced.files
    )  # fmt: skip
    seconds = time.monotonic() - started
    return Deployed(folder / name, page, labels, manifest, parity, comparison, failed, seconds)


def _file_name(request: DeployRequest) -> str:
    return f"{request.source.name}_{request.scheme}.tflite"


def check(request: DeployRequest) -> Images:
    """Everything that can be found wrong without TensorFlow; returns the images that will be used.

    Raises:
        RequestError: see there.
    """
    scheme = schemes.get(request.scheme)
    check_quantisation(scheme, request.max_drop, per_tensor=request.per_tensor)
    image_input.check(request.input)
    request.source.check()
    _check_output(request)
    result_folder.check(Path(request.out), _file_name(request), request.overwrite)
    chosen = Images()
    if scheme.calibrated and request.calibration is None:
        raise RequestError(
            f"The scheme {scheme.name!r} needs --calibration: a folder or CSV with 100 to 500 images of the kind the "
            "app will meet, or 'demo' for a first try."
        )
    if request.calibration is not None:
        if request.calibration == "demo":
            chosen.calibration = images.demo_photos()
        else:
            found = checks.photographs(request.calibration, request.source.task)
            chosen.calibration = found.sample(request.calibration_count, request.seed)
        images.check(chosen.calibration)
    if request.evaluate is not None:
        found = checks.annotated(request.source, request.evaluate, request.void)
        chosen.judge = found.without(chosen.calibration) if chosen.calibration else found
        if not chosen.judge.paths:
            raise RequestError("Every image of --evaluate was used for calibration; lower --calibration-count.")
        images.check(chosen.judge)
    elif chosen.calibration is not None:
        # Sub-folders of calibration images need not be the model's classes: no labels.
        chosen.judge, chosen.judged_on_calibration = ImageSet(chosen.calibration.paths), True
    else:
        raise RequestError("Nothing to verify with: give --evaluate or --calibration images (or --calibration demo).")
    return chosen


def _check_output(request: DeployRequest) -> None:
    checks.check_output(request.source, request.output, request.score_threshold)
    task = request.source.task
    if task != "classify" and request.max_drop is not None:
        raise RequestError(f"max_drop is for classifiers so far; {request.source.model} is for the task {task!r}.")
    if task != "classify" and request.per_tensor:
        raise RequestError(f"per_tensor is for classifiers so far; {request.source.model} is for the task {task!r}.")


def _produce(request: DeployRequest, chosen: Images, progress: Progress = silent) -> Produced:
    """Runs in the worker: everything that needs TensorFlow. Writes nothing."""
    if request.source.task != "classify":
        from mobilenets_tf.export import dense_deployment

        return dense_deployment.produce(request, chosen, progress)
    progress("building", 0, 1)
    model = request.source.build()
    scheme = schemes.get(request.scheme)
    image = ImageInput(request.source.preprocessing(model), request.input)
    labels = request.source.label_names(model.outputs[0].shape[-1])
    progress("building", 1, 1)
    calibration = Calibration.from_images(chosen.calibration, image.given) if scheme.calibrated else None
    check_request(model, scheme, calibration)
    bound = None
    if request.max_drop is not None:
        trial_set = chosen.judge.sample(TRIAL_IMAGES, request.seed)
        pixels = track(trial_set.paths, "reading images", progress)
        samples = _Samples([image.given.geometry(images.decode(path)) for path in pixels], image.given)
        bound = Bound(request.max_drop, samples, trial_set.labels)
    with Worker() as worker:
        converted = convert_model(
            model,
            scheme,
            calibration,
            worker,
            progress,
            recipe=_recipe(request),
            bound=bound,
            image=image,
            labels=labels,
        )
    # The float file is first shown to equal Keras; it then stands for Keras, ten times as fast.
    parity = judging.parity(model, converted.float_content, chosen.judge, image, request.seed)
    comparison = per_channel = reference = candidate = None
    if scheme.name != "float32" or chosen.judge.labels is not None:
        judged = {"float32": converted.float_content, "this": converted.content}
        if request.per_tensor:
            usual = _per_channel(converted, scheme, Calibration.from_images(chosen.calibration, image.given), progress)
            judged["per channel"] = image.finish(usual)
        found = judging.outputs(judged, chosen.judge, image, progress)
        reference, candidate = found["float32"], found["this"]
        comparison = compare(reference, candidate, chosen.judge.labels)
        if request.per_tensor:
            against = compare(reference, found["per channel"], chosen.judge.labels)
            per_channel = {"bytes": len(usual), "comparison": against.as_dict()}
    options = {key: value for key, value in asdict(request).items() if key not in ("source", "out", "overwrite")}
    manifest = {
        **judging.facts(request.source, options, image, converted),
        "parity": parity.as_dict(),
        "comparison": comparison and comparison.as_dict(),
        "per_channel": per_channel,
        "judged_on_calibration_images": chosen.judged_on_calibration,
    }
    evidence = judging.evidence(converted, chosen.judge, labels, reference, candidate)
    return Produced(converted.content, manifest, parity, comparison, evidence)


def _recipe(request: DeployRequest) -> Recipe | None:
    return Recipe(per_tensor=True) if request.per_tensor else None


def _per_channel(converted: Conversion, scheme, calibration: Calibration, progress: Progress) -> bytes:
    """The file as it would be with a scale for each output channel, to show what a single one costs. The same layers
    are left in float.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same images have been warned of
        prepared = prepare(converted.float_content, scheme, calibration, progress=progress)
    return prepared.write(converted.mixed.places if converted.mixed else ())


class _Samples:
    """Images as bytes in memory, normalised each time that they are gone through."""

    def __init__(self, pixels: list[np.ndarray], preprocessing: Preprocessing):
        self._pixels, self._preprocessing = pixels, preprocessing

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return ([self._preprocessing.normalise(pixels)] for pixels in self._pixels)


def failures(
    request: DeployRequest, parity: Comparison | DenseComparison, comparison: Comparison | DenseComparison | None
) -> Iterator[str]:
    """What the float file's difference from Keras, and the file's from that, say against the result."""
    if not parity.relative_difference <= FLOAT_TOLERANCE:
        yield (
            f"The float32 file differs from Keras by {parity.relative_difference:.2g} of the largest output; "
            f"allowed is {FLOAT_TOLERANCE:.0e}."
        )
    if comparison is None:
        return
    if request.scheme == "float16" and comparison.relative_difference > HALF_TOLERANCE:
        yield (
            f"The float16 file differs from the float32 file by {comparison.relative_difference:.2g} of the largest "
            f"output; allowed is {HALF_TOLERANCE:.0e}."
        )
    if comparison.agreement < request.min_agreement:
        yield (
            f"The {request.scheme} file agrees with the float model to {comparison.agreement:.1%}; at least "
            f"{request.min_agreement:.1%} was asked for."
        )
    # The search saw some of the images only, where there are very many.
    if request.max_drop is not None and comparison.drop > request.max_drop + 1e-9:
        yield (
            f"The {request.scheme} file loses {comparison.drop:.2%} of its accuracy, or of its answers, on all "
            f"{comparison.images} images; at most {request.max_drop:.2%} was asked for."
        )
