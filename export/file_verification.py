"""The verb ``verify``: compare a TFLite file with its model; emulated arm64 cores, and the GPU accelerator, with this
machine.
"""

import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from mobilenets_tf.answers.predictor import file_inputs
from mobilenets_tf.answers.reading import Reading, asked_preprocessing
from mobilenets_tf.data import images
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.arm64 import setup as arm64_setup
from mobilenets_tf.export.arm64.emulator import CPUS, compare_cores
from mobilenets_tf.export.delegates.half_precision import HalfValue, values_on
from mobilenets_tf.export.gpu import setup as gpu_setup
from mobilenets_tf.export.gpu.accelerator import Accelerator, GpuComparison, compare
from mobilenets_tf.export.gpu.bisection import Fault, first_fault
from mobilenets_tf.export.proof.badge import Badge, decide
from mobilenets_tf.export.proof.judging import AnyComparison, compared
from mobilenets_tf.export.proof.subject import Subject
from mobilenets_tf.export.proof.verification import check_form, check_outputs, verify
from mobilenets_tf.export.request import MIN_AGREEMENT, Limits
from mobilenets_tf.export.targets.host import random_inputs, run_on_host
from mobilenets_tf.files import sha256_of
from mobilenets_tf.manifest import manifest_of
from mobilenets_tf.modelsource import AnyModel, ModelSource
from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.public_api.types import check_fields
from mobilenets_tf.tasks import task_of
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.worker import Worker

# The number of images for a target, where the request names none; each takes about a second on each core, and up to
# three on the GPU accelerator.
TARGET_IMAGES = 8
_OF_THE_MODEL = ("weights", "alpha", "resolution", "classes")


@dataclass(frozen=True)
class VerifyRequest:
    """Everything that decides the result; plain data.

    file: the ``.tflite`` file. source: the model that the file was made from: a registry name, a path, a
        ``keras.Model`` or a ``ModelSource``. What it leaves out (weights, width, size, normalisation) is taken from the
        manifest beside the file. None: the model that the manifest names; with ``arm64`` or ``gpu``, compare those
        targets alone.
    images: a folder or CSV of images, annotated or not; of a detector or segmenter also its annotated data, of which
        the images alone are taken. None, without ``source``: random inputs.
    count, seed: use ``count`` of the images, chosen with ``seed``; None: all, and 8 for the emulated cores and the GPU.
    threads: for LiteRT.
    min_agreement: the agreement with the model from which the file passes, see ``DeployRequest``.
    arm64: compare what the file computes on emulated arm64 cores with what it computes here.
    cpu: the cores, as QEMU calls them; empty: one for each kind of int8 kernel.
    gpu: compare what the file computes on LiteRT's GPU accelerator with what it computes on the CPU; where an output
        differs by more than it may, the first operator that does is found.
    folder: of the runtime that ``arm64`` or ``gpu`` needs; None: the usual place.
    input_of: where neither ``source`` nor the manifest says how pixels become the input: mean, std, crop.
    """

    file: str
    source: AnyModel | None = None
    images: str | None = None
    count: int | None = None
    seed: int = 0
    threads: int = 2
    min_agreement: float = MIN_AGREEMENT
    arm64: bool = False
    cpu: tuple[str, ...] = ()
    gpu: bool = False
    folder: str | None = None
    input_of: ModelSource | None = None

    def __post_init__(self):
        if self.source is not None:
            object.__setattr__(self, "source", ModelSource.of(self.source))
        check_fields(self)


@dataclass(frozen=True)
class Verified:
    """The result of ``verify``: how a file compares with its model, on emulated cores and on the GPU accelerator.

    comparison: with its model; None without a model. model: the name or path of that model.
    badge: the verdict on the comparison.
    cores: one comparison for each emulated core, with ``passed``; empty without ``arm64``.
    gpu: one comparison for each precision that the drivers here have, with ``passed``; empty without ``gpu``.
    faults: precision -> the first operator that the GPU accelerator computes wrongly, where one was found.
    half_precision: the operators of the file whose values pass half precision on the images; empty without ``gpu``.
    versions: of the parts of the emulated runtime and of the GPU's drivers.
    """

    comparison: AnyComparison | None
    model: str | None
    badge: Badge | None
    cores: tuple = ()
    gpu: tuple[GpuComparison, ...] = ()
    faults: dict[str, Fault] = field(default_factory=dict)
    half_precision: tuple[HalfValue, ...] = ()
    versions: dict | None = None

    @property
    def passed(self) -> bool:
        """Whether no check of the comparison failed, and the cores and the GPU agree with this machine."""
        return (self.badge is None or self.badge.passed) and all(each.passed for each in (*self.cores, *self.gpu))


def verify_file(request: VerifyRequest, progress: Progress = silent) -> Verified:
    """Compare a TFLite file with its model, with emulated arm64 cores, with the GPU accelerator, or with several of
    them. The model and the file run in child processes.

    Args:
        progress: called with (label, done, total) as work goes on.

    Raises:
        RequestError: the request is wrong; raised before any work is done, where that can be known.
    """
    request = replace(request, source=_model_of(request))
    targets = _check(request)
    source = request.source
    image_set = target_set = preprocessing = None
    if request.images:
        everything = _images(request)
        target_set = everything.sample(request.count or TARGET_IMAGES, request.seed)
        image_set = everything.sample(request.count, request.seed)
        images.check(image_set if source else target_set)
        if not source:
            known = request.input_of or ModelSource(request.file)
            described = Reading.of(Path(request.file)).preprocessing
            preprocessing = asked_preprocessing(replace(known, model=request.file, content=None), described)
    if source:
        source.fetch_weights(progress)
        _warn_if_changed(request.file, source)
    comparison, on_targets = None, {}
    on_calibration = source is not None and _calibrated(request, image_set)
    with Worker(preload=source.preload if source else "") as worker:
        if source:
            comparison, preprocessing = worker.call(_verify, request, image_set, progress=progress)
        if targets:
            content, inputs = worker.call(_inputs, request, target_set, preprocessing, progress=progress)
        if "arm64" in targets:
            host = worker.call(run_on_host, content, inputs)
            on_targets["cores"] = tuple(compare_cores(targets["arm64"], host, request.cpu or CPUS, progress))
        if "gpu" in targets:
            on_targets |= _on_gpu(targets["gpu"], content, inputs, worker, progress)
    badge = None
    if source:
        scheme = manifest_of(Path(request.file)).get("scheme", "TFLite")
        limits = Limits(request.min_agreement)
        badge = decide(source, scheme, comparison, limits=limits, on_calibration=on_calibration)
    versions = {name: version for target in targets.values() for name, version in target.versions.items()}
    return Verified(comparison, source and source.model, badge, versions=versions, **on_targets)


def _on_gpu(accelerator: Accelerator, content: bytes, inputs, worker: Worker, progress: Progress) -> dict:
    """Compare the GPU accelerator with the CPU in each precision; return fields of ``Verified``."""

    def on_host(part: bytes, samples):
        return worker.call(run_on_host, part, samples, False)

    host = on_host(content, inputs)
    compared = tuple(compare(accelerator, host, precision, progress) for precision in accelerator.drivers)
    faults = {}
    for each in compared:
        if not each.passed and each.outside != each.operators:
            sample = host.inputs[each.sample or 0]
            faults[each.precision] = first_fault(
                accelerator, content, sample, each.precision, on_host, progress=progress
            )
    half = tuple(each for each in worker.call(values_on, content, inputs) if each.named)
    faults = {precision: fault for precision, fault in faults.items() if fault}
    return {"gpu": compared, "half_precision": half, "faults": faults}


def _calibrated(request: VerifyRequest, image_set: ImageSet) -> bool:
    """Tell whether an image was used for the calibration of the file, as its manifest lists them."""
    listed = (manifest_of(Path(request.file)).get("calibration") or {}).get("files") or []
    try:
        used = {(each["file"], each["sha256"]) for each in listed}
    except (KeyError, TypeError) as error:
        raise RequestError(
            f"{request.file}.json: the files of the calibration are {str(listed)[:80]}; expected file and sha256 of "
            "each. Write the file and its manifest again, or remove the manifest."
        ) from error
    names = {name for name, _ in used}
    return any((path.name, sha256_of(path)) in used for path in image_set.paths if path.name in names)


def _model_of(request: VerifyRequest) -> ModelSource | None:
    """Return the model to compare with; what the request leaves out, as the manifest beside the file says it."""
    facts, source = manifest_of(Path(request.file)).get("model"), request.source
    told = ModelSource.of_facts(facts) if isinstance(facts, dict) else None
    if source is None:
        if request.arm64 or request.gpu or told is None:
            return None
        source = told
    elif told and source.content is None and source.model == told.model:
        given = {name: value for name, value in asdict(source).items() if value is not None}
        source = replace(told, **given)
    return source


def _warn_if_changed(file: str, source: ModelSource) -> None:
    """Warn of weights that are others than those of which the file was made, though they have the same name."""
    told = manifest_of(Path(file)).get("model")
    told, now = told if isinstance(told, dict) else {}, source.facts()
    same = all(told.get(name) == now.get(name) for name in ("model", "weights"))
    if same and "weights_sha256" in told and told["weights_sha256"] != now.get("weights_sha256"):
        origin = source.model if source.is_file else source.weights
        warnings.warn(f"{origin} has changed since {file} was made of it.", stacklevel=3)


def _check(request: VerifyRequest) -> dict:
    """Refuse options that do not go together; return the targets that are asked for: "arm64", "gpu".

    Raises:
        RequestError: an option, a file or a target is missing, or an option has no meaning without another.
    """
    Limits(request.min_agreement).check()
    if not Path(request.file).is_file():
        raise RequestError(f"No such TFLite file: {request.file}")
    if request.threads < 1:
        raise RequestError(f"threads={request.threads} (--threads): expected at least 1.")
    source = request.source
    if not source and not request.arm64 and not request.gpu:
        raise RequestError(
            "Nothing to compare with, and no manifest beside the file says of which model it was made: pass --model "
            "(source=, the model that the file was made from), or --arm64 (arm64=, this file on emulated phone "
            "cores), or --gpu (gpu=, on LiteRT's GPU accelerator)."
        )
    if source and not request.images:
        raise RequestError(f"To compare with {source.model}, give --images (images=): a folder or a CSV of images.")
    if source:
        check_form(Path(request.file))
    known = request.input_of
    stray = [f"--{name}" for name in _OF_THE_MODEL if known and getattr(known, name) is not None]
    if stray and not source:
        raise RequestError(f"{', '.join(stray)} describes the model; pass --model (source=) too, or leave it out.")
    if request.cpu and not request.arm64:
        raise RequestError("--cpu is for emulated cores; pass --arm64 (arm64=) too, or leave it out.")
    if request.folder and request.arm64 == request.gpu:
        raise RequestError(
            "--folder is for the runtime of one target; pass --arm64 (arm64=) or --gpu (gpu=) with it, or leave it out."
        )
    targets: dict = {"arm64": arm64_setup.find(request.folder)} if request.arm64 else {}
    if request.arm64:
        arm64_setup.check_cpus(targets["arm64"], request.cpu)
    if request.gpu:
        targets["gpu"] = gpu_setup.find(request.folder)
    if source:
        source.check(may_be_random=True)
        if source.random_part == "network":
            raise RequestError(
                f"{source.model} without weights gets new random weights each time, so {request.file} cannot be "
                "compared with it. Pass the --weights, or the .keras file, that the file was made of."
            )
    if request.count is not None and request.count < 1:
        raise RequestError(f"count={request.count}: expected at least 1.")
    return targets


def _images(request: VerifyRequest) -> ImageSet:
    """Find the images of a request; those of a classifier with their labels, if there are any. In a data set with boxes
    or masks only the photographs are taken."""
    source = request.source
    task = task_of(source.task if source else manifest_of(Path(request.file)).get("task", "classify"))
    if task.forms:
        return task.photographs(request.images)
    return images.find_images(request.images, source.label_names() if source else ())


def _verify(request: VerifyRequest, image_set: ImageSet, progress: Progress):
    """Compare the file with its model, in the worker, so that a hostile file can end no other process.

    Returns the comparison, and the preprocessing of the file's input.
    """
    runner = Runner(request.file, request.threads)  # a file that cannot be run is refused before the model is built
    source = request.source
    model = source.open()
    image = ImageInput(source.preprocessing(model))
    given = Reading.of(Path(request.file)).preprocessing or image.wanted
    dtype = runner.inputs[0]["dtype"]
    subject = Subject.of(source, model, image, annotated=_are_classes(image_set, model))
    if not subject.task.forms:
        pixels = (image.wanted.geometry(images.decode(path, alpha=image.wanted.alpha)) for path in image_set.paths)
        comparison = verify(
            request.file, model, pixels, image_set.labels,
            for_model=image.wanted.normalise, for_file=lambda batch: given.for_input(batch, dtype),
            kinds=subject.kinds, threads=request.threads, progress=progress,
        )  # fmt: skip
        return comparison, given
    check_outputs(runner, model)

    def in_file(pixels):
        return [[output[0] for output in runner(given.for_input(each, dtype))] for each in pixels]

    tallies = compared(subject, subject.in_model(), {"file": in_file}, image_set, progress)
    return tallies["file"].result(), given


def _are_classes(image_set: ImageSet, model) -> bool:
    """Tell whether the labels of images can be the classes of a model: sub-folders of photographs need not be."""
    labels = image_set.labels
    return labels is not None and max(labels) + 1 in {max(2, end.elements) for end in model.ends}


def _inputs(request: VerifyRequest, image_set: ImageSet | None, preprocessing, progress: Progress):
    """Return the file's content, and what its inputs hold for each sample, in their types; in the worker."""
    content = Path(request.file).read_bytes()
    runner = Runner(request.file)
    if image_set is None:
        count = request.count or TARGET_IMAGES
        inputs = track(random_inputs(runner, count, request.seed), "on this machine", progress, count)
    else:
        paths = track(image_set.paths, "on this machine", progress)
        resize = request.input_of.resize if request.input_of and not request.source else None
        inputs = ([array] for array in file_inputs(request.file, runner, preprocessing, paths, resize))
    return content, list(inputs)
