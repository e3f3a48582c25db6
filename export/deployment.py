"""The verb ``deploy``: write a folder with the verified TFLite file of a model, and its report."""

import time
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mobilenets_tf.data import images
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export import forms, project_folder, result_folder
from mobilenets_tf.export.android_app import project
from mobilenets_tf.export.micro import c_source
from mobilenets_tf.export.micro.operators import check_operators
from mobilenets_tf.export.micro.target import MICRO_SAMPLES, check_reference_kernels, check_target, prove_micro
from mobilenets_tf.export.npu import compiler as npu_compiler
from mobilenets_tf.export.npu import result as npu_result
from mobilenets_tf.export.npu.compiler import CompiledFile
from mobilenets_tf.export.proof.badge import Badge, with_failures
from mobilenets_tf.export.proof.judging import AnyComparison, Judge
from mobilenets_tf.export.proof.proof import ImagesToUse, Produced, prove
from mobilenets_tf.export.proof.subject import Subject
from mobilenets_tf.export.request import DeployRequest
from mobilenets_tf.export.tflite import Bound, Conversion, check_quantisation, check_request, check_split, convert_model
from mobilenets_tf.export.web_page import page as web_page
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.quantize import schemes
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.quantize.post_training import Recipe, prepare
from mobilenets_tf.tasks import task_of
from mobilenets_tf.tflite import image_input
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.worker import Worker

# The greatest number of images on which files with some layers in float are judged. A share of them is exact to 0.1 %,
# and their pixels take 150 MB of memory.
TRIAL_IMAGES = 1000


@dataclass(frozen=True)
class Deployed:
    """The files that ``deploy`` wrote, and how the TFLite file compares.

    path: of the TFLite file. report: of the page on it. labels: may be empty. manifest: as in ``<path>.json``.
    parity: the float file beside the Keras model. comparison: the file beside its float file; None for a float32 file
        without annotated images. per_channel: of a file with one scale for all of a layer's weights, how the usual file
        compares.
    badge: the verdict. target_lines: the proof on the target that was asked for, as lines of text.
    seconds: of the whole run.
    android_app, web_page: the folders of the Android project and of the web page; None where none was asked for, or the
        file failed a check. npu: the files that were compiled for NPUs.
    """

    path: Path
    report: Path
    labels: list[str]
    manifest: dict
    parity: AnyComparison
    comparison: AnyComparison | None
    per_channel: AnyComparison | None
    badge: Badge
    target_lines: tuple[str, ...]
    seconds: float
    android_app: Path | None = None
    web_page: Path | None = None
    npu: Sequence[CompiledFile] = ()

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return self.badge.passed


def deploy(request: DeployRequest, progress: Progress = silent) -> Deployed:
    """Build, convert, quantise, verify, write. TensorFlow runs in a child process only.

    Args:
        progress: called with (label, done, total) as work goes on.

    Raises:
        RequestError: the request is wrong; raised before any work is done, where that can be known.
        ConversionError: the converter refused the model.
    """
    started = time.monotonic()
    with Worker(preload=request.source.preload) as worker:  # starts importing TensorFlow while the request is checked
        images_to_use = check(request)
        request.source.fetch_weights(progress)
        result_folder.prepare()
        produced, per_channel = worker.call(_produce, request, images_to_use, progress=progress)
    folder, name = Path(request.out), _file_name(request)
    labels = request.source.label_names()
    manifest, page = result_folder.write(request, name, produced)
    beside = {}
    project_folder.remove(_npu_folder(request))  # which an earlier file was compiled to
    if manifest["passed"]:
        beside = _write_folders(request, folder / name, manifest, labels, produced.files, progress)
    return Deployed(
        path=folder / name,
        report=page,
        labels=labels,
        manifest=manifest,
        parity=produced.parity,
        comparison=produced.comparison,
        per_channel=per_channel,
        badge=produced.badge,
        target_lines=produced.target_lines,
        seconds=time.monotonic() - started,
        **beside,
    )


def _folders(request: DeployRequest) -> Iterator[tuple[str, Path, dict]]:
    """Give what the request asks for beside the file: the option, the folder, and what the folder is made of. The app
    comes after the files for NPUs, which it takes in.
    """
    with_npu = request.described() | ({"npu": list(request.npu)} if request.npu else {})
    if request.npu:
        yield "--npu", _npu_folder(request), with_npu
    if request.android_app is not None:
        yield "--android-app", Path(request.android_app), with_npu
    if request.web_page is not None:
        yield "--web-page", Path(request.web_page), request.described()


def _write_folders(request: DeployRequest, file: Path, manifest: dict, labels, others, progress: Progress) -> dict:
    """Write what the request asks for beside the file. Return fields of ``Deployed``."""
    written: dict = {}
    pack: dict[str, bytes] = {}
    for option, folder, asked in _folders(request):
        progress(f"writing {folder}", 0, 1)
        if option == "--npu":
            written["npu"], pack = npu_result.write(folder, file, request.npu, asked, progress, request.overwrite)
        elif option == "--web-page":
            web_page.write(folder, file, manifest, labels, asked, request.overwrite)
            written["web_page"] = folder
        else:
            project.write(folder, file, manifest, labels, asked, others, request.overwrite, pack)
            written["android_app"] = folder
        progress(f"writing {folder}", 1, 1)
    return written


def _npu_folder(request: DeployRequest) -> Path:
    return Path(request.out) / f"{_file_name(request)}.npu"


def _file_name(request: DeployRequest) -> str:
    return f"{request.source.name}_{request.scheme}.tflite"


def check_options(request: DeployRequest, network: ModelSource) -> schemes.Scheme:
    """Check what can be known before the model is there: names, and the place to write to. Return the scheme.

    Args:
        network: of the same task as the model.

    Raises:
        RequestError: as ``check``.
    """
    scheme = schemes.get(request.scheme)
    check_quantisation(scheme, request.max_drop, per_tensor=request.per_tensor)
    check_split(scheme, request.split)
    check_target(request.target, scheme)
    request.limits.check()
    image_input.check(request.input)
    forms.check_output(network, request.output, request.score_threshold)
    others = c_source.file_names(_file_name(request)) if request.target else ()
    result_folder.check(request, _file_name(request), others)
    npu_compiler.check(request.npu)
    if request.web_page is not None:
        web_page.check(scheme, request.input)
    project_folder.check_apart(
        {"--out": Path(request.out), **{option: folder for option, folder, _ in _folders(request)}}
    )
    for option, folder, asked in _folders(request):
        project_folder.check(folder, option, request.overwrite, asked)
    return scheme


def check(request: DeployRequest) -> ImagesToUse:
    """Check everything that can be known to be wrong without TensorFlow; return the images that will be used.

    Raises:
        RequestError: scheme, input form or output form are unknown, the scheme or the task has no use for an option,
            a share is not from 0 to 1, model or images are not there, the folder cannot be written, or there are no
            images to verify with.
    """
    request.source.check()
    scheme = check_options(request, request.source)
    if scheme.calibrated and request.calibration is None:
        raise RequestError(
            f"The scheme {scheme.name!r} needs --calibration (calibration=): a folder or CSV with 100 to 500 images "
            "of the kind the app will meet, or 'demo' for a first try."
        )
    calibration = None
    if request.calibration is not None:
        calibration = calibration_images(
            request.source.task, request.calibration, request.calibration_count, request.seed
        )
    if request.evaluate is not None:
        annotated = annotated_images(request, request.evaluate)
        judge = annotated.without(calibration) if calibration else annotated
        if not judge.paths:
            raise RequestError(
                "Every image of --evaluate was used for calibration; lower --calibration-count (calibration_count=)."
            )
        images.check(judge)
        return ImagesToUse(calibration, judge, set_aside=len(annotated.paths) - len(judge.paths))
    if calibration is None:
        raise RequestError(
            "Nothing to verify with: give images with --evaluate or --calibration (evaluate=, calibration=), or "
            "'demo' to calibrate with."
        )
    # Sub-folders of calibration images need not be the model's classes: no labels.
    return ImagesToUse(calibration, ImageSet(calibration.paths), judged_on_calibration=True)


def calibration_images(task: str, spec: str, count: int | None, seed: int) -> ImageSet:
    """Return the photographs to calibrate with, checked.

    Args:
        spec: a folder or CSV, or "demo".

    Raises:
        RequestError: there are no images, or some cannot be read.
    """
    if count is not None and count < 1:
        raise RequestError(f"--calibration-count {count} (calibration_count=): expected at least 1.")
    photographs = images.demo_photos() if spec == "demo" else task_of(task).photographs(spec).sample(count, seed)
    images.check(photographs)
    return photographs


def annotated_images(request, spec: str) -> ImageSet:
    """Return the annotated images of a request for its model's task.

    Args:
        request: with ``source`` and ``void``.

    Raises:
        RequestError: there are no images, or no annotations.
    """
    source, void = request.source, request.void
    return task_of(source.task).find(spec, source.label_names(), void=source.void if void is None else void)


def calibration_of(request, scheme, images_to_use: ImagesToUse, image: ImageInput) -> Calibration | None:
    """Return the calibration of a request (with ``trust_calibration``); None for a scheme without calibration."""
    if not scheme.calibrated:
        return None
    return Calibration.from_images(images_to_use.calibration, image.given, request.trust_calibration)


def _produce(
    request: DeployRequest, images_to_use: ImagesToUse, progress: Progress
) -> tuple[Produced, AnyComparison | None]:
    """Do everything that needs TensorFlow, in the worker, without writing files.

    Returns the proven file; and with ``per_tensor``, how the file with a scale for each channel compares, else None.
    """
    progress("building", 0, 1)
    scheme, model = schemes.get(request.scheme), request.source.open()
    image = ImageInput(request.source.preprocessing(model), request.input)
    subject = Subject.of(request.source, model, image, request.void, annotated=images_to_use.judge.annotated)
    subject = replace(subject, reference_kernels=request.target is not None)
    subject.check_annotated(images_to_use.judge)
    progress("building", 1, 1)
    calibration = calibration_of(request, scheme, images_to_use, image)
    check_request(model, scheme, calibration)
    bound = None
    if request.max_drop is not None:
        trial_images = images_to_use.judge.sample(TRIAL_IMAGES, request.seed)
        bound = Bound(request.max_drop, lambda reference: Judge(subject, reference, trial_images, progress))
    recipe = Recipe(per_tensor=True) if request.per_tensor else None
    with Worker(preload=model.preload) as worker:
        converted = convert_model(
            model,
            scheme,
            calibration,
            worker,
            progress,
            recipe=recipe,
            bound=bound,
            image=image,
            labels=subject.labels,
            kinds=subject.final_kinds,
            split=request.split,
        )
    if request.target:
        check_operators(converted.content, converted.layers)
        check_reference_kernels(converted.content)
    others, usual = {}, None
    if request.per_tensor:
        calibration = calibration_of(request, scheme, images_to_use, image)
        usual = _per_channel(converted, scheme, calibration, progress)
        others["per channel"] = image.finish(usual)
    name = _file_name(request)
    produced, comparisons = prove(request, subject, converted, images_to_use, name, progress, others)
    if request.target:
        known = converted.layers
        produced = _on_microcontroller(request, subject, produced, images_to_use, known, name, progress)
    per_channel = comparisons.get("per channel")
    described = per_channel and {"bytes": len(usual or b""), "comparison": per_channel.as_dict()}
    return replace(produced, manifest={**produced.manifest, "per_channel": described}), per_channel


def _on_microcontroller(
    request: DeployRequest,
    subject: Subject,
    produced: Produced,
    images_to_use: ImagesToUse,
    known: Collection[str] | None,
    name: str,
    progress: Progress,
) -> Produced:
    """Prove the file in TensorFlow Lite Micro; add the proof, its failed checks and the C++ sources."""
    given, samples = subject.image.given, []
    inputs, outputs = produced.manifest["inputs"], produced.manifest["outputs"]
    for path in images_to_use.judge.sample(MICRO_SAMPLES, request.seed).paths:
        pixels = given.geometry(images.decode(path, alpha=given.alpha))
        samples.append([given.for_input(pixels, inputs[0]["dtype"])])
    proof = prove_micro(produced.content, samples, known, progress)
    written = c_source.sources(name, produced.content, proof.arena_bytes, inputs, outputs)
    return replace(
        produced,
        manifest={**produced.manifest, "micro": proof.as_dict()},
        badge=with_failures(produced.badge, proof.failures),
        files={**produced.files, **written},
        target_lines=tuple(proof.lines()),
    )


def _per_channel(converted: Conversion, scheme, calibration: Calibration, progress: Progress) -> bytes:
    """Make the file with a scale for each output channel, to measure the cost of a single scale. The same layers are
    left in float.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same images have caused the warning before
        prepared = prepare(converted.float_content, scheme, calibration, progress=progress)
    return prepared.write(converted.mixed.places if converted.mixed else ())
