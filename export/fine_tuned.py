"""The verb ``qat``: fine-tune a model for int8 on annotated images, and write a folder with its int8 file."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mobilenets_tf import files
from mobilenets_tf.conversion.four_axes import in_four_axes
from mobilenets_tf.data import images
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.data.sources import Files
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export import forms, result_folder
from mobilenets_tf.export.deployment import annotated_images
from mobilenets_tf.export.proof.badge import Badge
from mobilenets_tf.export.proof.judging import AnyComparison
from mobilenets_tf.export.proof.proof import ImagesToUse, Produced, prove
from mobilenets_tf.export.proof.subject import Subject
from mobilenets_tf.export.request import Limits, Request
from mobilenets_tf.export.tflite import Conversion, finished
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.tasks import task_of
from mobilenets_tf.tflite import image_input
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.training import allocation, recipes
from mobilenets_tf.training.checkpoints import Checkpoint, of_fine_tuning
from mobilenets_tf.training.input.plan import Plan
from mobilenets_tf.worker import Worker

_VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class QatRequest(Request):
    """Everything that decides the result; plain data.

    source: the model, with weights. data: annotated images to train with, as in ``EvaluateRequest.data``.
    evaluate: such images to judge with; None takes a fifth of ``data``, chosen with ``seed``.
    batch_size: None for that of the task's recipe for fine-tuning, whose augmentation the images get too.
    calibration_count: of the training images, to choose the first ranges from.
    checkpoint: a folder for the state after each epoch; a run that finds one goes on from there.
    input: the form in which the file takes its image, one of ``image_input.FORMS``.
    threads: of TensorFlow, as in ``TrainRequest``.
    trust_calibration, output, score_threshold, void: as in ``DeployRequest``. The rest as in ``quantize.fine_tune``.
    """

    data: str
    out: str
    evaluate: str | None = None
    scheme: str = "int8"
    per_tensor: bool = False
    epochs: int = 10
    batch_size: int | None = None
    learning_rate: float = 1e-4
    patience: int = 3
    freeze_norms_after: int = 0
    calibration_count: int = 128
    trust_calibration: bool = False
    distill: float = 0.0
    threads: int | None = None
    input: str = "normalised"
    output: str | None = None
    score_threshold: float | None = None
    void: int | None = None
    seed: int = 0
    checkpoint: str | None = None
    overwrite: bool = False

    @property
    def limits(self) -> Limits:
        """What is asked of the file. It may well give other answers than the float model: it was trained further."""
        return Limits(min_agreement=None)

    def recipe(self) -> recipes.Recipe:
        """Return the training recipe of the batches and their augmentation.

        Raises:
            RequestError: epochs or batch size are out of range.
        """
        recipe = recipes.OURS[self.source.task]["finetune"].changed(self.epochs, self.batch_size)
        return replace(recipe, label_smoothing=0.0)  # fine-tuning uses the labels without smoothing


@dataclass(frozen=True)
class FineTuned:
    """The files that ``qat`` wrote, and how float, post-training and fine-tuned compare on the validation images.

    path: of the TFLite file, the better one of the two. report: of the page on it. manifest: as in ``<path>.json``.
    outcome: what fine-tuning has gained, a sentence, and which file was kept.
    post_training, fine_tuned: the two files beside the float file. badge: the verdict. seconds: of the whole run.
    """

    path: Path
    report: Path
    manifest: dict
    post_training: AnyComparison
    fine_tuned: AnyComparison
    outcome: str
    badge: Badge
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return self.badge.passed

    def lines(self) -> list[str]:
        """Return a table of the three files as lines of text."""
        usual, tuned = self.post_training, self.fine_tuned
        scores = tuned.reference_score, usual.score, tuned.score
        same, width = ("", f"{usual.agreement:.1%}", f"{tuned.agreement:.1%}"), max(6, len(tuned.measure))
        rows = zip(("float32", "post-training", "fine-tuned"), scores, same, strict=True)
        return [
            f"{'':<14} {tuned.measure:>{width}}  {tuned.agreement_measure}",
            *(f"{name:<14} {score:>{width}.1%}  {share}" for name, score, share in rows),
        ]


def qat(request: QatRequest, progress: Progress = silent) -> FineTuned:
    """Build, calibrate, train with the rounding in place, quantise, verify, write. TensorFlow runs in a child process
    only.

    Args:
        progress: called with (label, done, total) as work goes on.

    Raises:
        RequestError: the request is wrong; raised before any work is done, where that can be known.
        ConversionError: the converter refused the model.
    """
    started = time.monotonic()
    with Worker() as worker:
        training, validation = check(request, progress)
        produced, usual, tuned = worker.call(_produce, request, training, validation, progress=progress)
    folder, name = Path(request.out), _file_name(request)
    manifest, page = result_folder.write(request, name, produced)
    seconds = time.monotonic() - started
    outcome = manifest["fine_tuning"]["outcome"]
    return FineTuned(folder / name, page, manifest, usual, tuned, outcome, produced.badge, seconds)


def _file_name(request: QatRequest) -> str:
    return f"{request.source.name}_{request.scheme}_qat.tflite"


def check(request: QatRequest, progress: Progress = silent) -> tuple[ImageSet, ImageSet]:
    """Check everything that can be known to be wrong without TensorFlow; return the images to train and to judge with.

    Raises:
        RequestError: an option is out of range, model or images are not there, classes have no names, the folder cannot
            be written, or the checkpoint is damaged, of another training or in use.
    """
    source = request.source
    source.check()
    image_input.check(request.input)
    forms.check_output(source, request.output, request.score_threshold)
    if not 0 <= request.distill <= 1:
        raise RequestError(f"distill={request.distill}: expected 0 to 1.")
    if task_of(source.task).forms and not source.label_names():
        raise RequestError(
            f"Nothing says what the classes of {source.model} are called, and in which order they are: pass --labels "
            "FILE (labels=), a name a line."
        )
    for option in ("epochs", "patience", "calibration_count"):
        if getattr(request, option) < 1:
            raise RequestError(f"{option}={getattr(request, option)}: expected at least 1.")
    if request.freeze_norms_after < 0:
        raise RequestError(f"freeze_norms_after={request.freeze_norms_after}: expected at least 0.")
    allocation.check_threads(request.threads)
    request.recipe()
    result_folder.check(request, _file_name(request))
    training = annotated_images(request, request.data)
    if request.evaluate is not None:
        validation = annotated_images(request, request.evaluate)
    else:
        validation = training.sample(max(1, round(_VALIDATION_SHARE * len(training))), request.seed)
    training = training.without(validation)
    if not len(training):
        raise RequestError(f"No image of {request.data} is left to train with beside those to judge with.")
    images.check(training)
    images.check(validation)
    source.fetch_weights(progress)  # the checkpoint has their digest
    if checkpoint := _checkpoint(request, training, validation):
        with files.only_user(checkpoint.path.parent, "fine-tuning"):  # as while it trains
            checkpoint.read()
    return training, validation


def _checkpoint(request: QatRequest, training: ImageSet, validation: ImageSet) -> Checkpoint | None:
    """Return the checkpoint that was asked for. It describes all that decides the training."""
    if request.checkpoint is None:
        return None
    counts = {"training images": len(training), "validation images": len(validation)}
    options = {key: value for key, value in request.options().items() if key not in ("checkpoint", "threads")}
    return of_fine_tuning(request.checkpoint, {**options, **counts, "model": request.source.facts()})


def _produce(
    request: QatRequest, training: ImageSet, validation: ImageSet, progress: Progress
) -> tuple[Produced, AnyComparison, AnyComparison]:
    """Do everything that needs TensorFlow, in the worker; write nothing but the checkpoint.

    Returns the proven file, and how the files of post-training quantisation and of fine-tuning compare.
    """
    import keras

    from mobilenets_tf.quantize import Recipe, quantize_aware
    from mobilenets_tf.quantize.qat.fine_tuning import FineTuningOptions, fine_tune_steps
    from mobilenets_tf.training.objectives import objective_of

    threads = allocation.use_threads(request.threads)
    keras.utils.set_random_seed(request.seed)
    progress("building", 0, 1)
    model = request.source.open()
    image = ImageInput(request.source.preprocessing(model), request.input)
    if image.given.channels != 3 or image.given.height != image.given.width:
        raise RequestError(
            f"{request.source.model} takes {tuple(model.inputs[0].shape[1:])}, and qat trains on square RGB images. "
            "From Python, quantize.quantize_aware and quantize.fine_tune train on arrays of any shape."
        )
    subject = Subject.of(request.source, model, image, request.void, annotated=True)
    if len(subject.ends) > 1 and not subject.task.forms:
        raise RequestError(
            f"{request.source.model} has the outputs {', '.join(end.name for end in subject.ends)}, and qat has "
            "annotations for one. From Python, quantize.quantize_aware and quantize.fine_tune train them all."
        )
    subject.check_annotated(training, validation)
    objective = objective_of(
        subject.task.name, model.in_training(), recipe=request.recipe(), interpolation=image.given.interpolation,
        classes=subject.classes, class_names=subject.class_names, void=subject.void, images=(training, validation),
    )  # fmt: skip
    progress("building", 1, 1)
    few = training.sample(request.calibration_count, request.seed)
    calibration = Calibration.from_images(few, image.given, request.trust_calibration)
    aware = quantize_aware(
        model, calibration, request.scheme, recipe=Recipe(per_tensor=request.per_tensor), image=image, progress=progress
    )
    plan = Plan(request.recipe(), len(training), image.given.size, seed=request.seed)
    options = FineTuningOptions(
        request.epochs, request.learning_rate, request.patience, request.distill, request.freeze_norms_after
    )
    allocation.keep_freed_memory()
    tuning = fine_tune_steps(
        aware, _batches(training, plan, objective, image.given), plan.steps_per_epoch,
        _score(subject, validation, objective, progress), options, progress, objective,
        _checkpoint(request, training, validation),
    )  # fmt: skip
    files = {"post-training": aware.post_training, "fine-tuned": aware.to_tflite()}
    kept, other = ("fine-tuned", "post-training") if tuning.gained else ("post-training", "fine-tuned")
    content = finished(in_four_axes(files[kept]), model, image, subject.labels, subject.final_kinds)
    converted = Conversion(request.scheme, content, aware.float_content, calibration.manifest())
    images_to_use, others = ImagesToUse(judge=validation), {other: image.finish(files[other])}
    produced, comparisons = prove(request, subject, converted, images_to_use, _file_name(request), progress, others)
    comparisons[kept] = produced.comparison
    produced.manifest["fine_tuning"] = {
        "training_images": len(training),
        "threads": threads,
        "validation_accuracies": list(tuning.accuracies),
        "best_epoch": tuning.best_epoch,
        "outcome": tuning.outcome if tuning.gained else f"{tuning.outcome} The file is that of post-training.",
        "kept": kept,
        "post_training": comparisons["post-training"].as_dict(),
        "fine_tuned": comparisons["fine-tuned"].as_dict(),
    }
    return produced, comparisons["post-training"], comparisons["fine-tuned"]


def _source(image_set: ImageSet):
    """Return annotated images as a ``sources.Source``."""
    return image_set if hasattr(image_set, "read") else Files(image_set)


def _batches(training: ImageSet, plan: Plan, objective, preprocessing: Preprocessing) -> Callable:
    """Return the function that gives the batches of (images, targets) from a step on, augmented as in training."""
    import tensorflow as tf

    from mobilenets_tf.training import distribution
    from mobilenets_tf.training.input import pipeline

    reader = pipeline.Reader(_source(training), objective.problem, pipeline.Broken())
    place, shape = distribution.set_up("none"), (None, preprocessing.size, preprocessing.size, 3)

    def prepare(pixels, targets):
        return tf.ensure_shape(pipeline.normalised(pixels, preprocessing), shape), targets

    return lambda first: pipeline.training_batches(reader, plan, objective, place, first=first).map(prepare)


@dataclass(frozen=True)
class _Answering:
    """The part of a ``step.Training`` that ``objective.network_outputs`` asks for."""

    preprocessing: Preprocessing
    answers: Callable


def _score(subject: Subject, validation: ImageSet, objective, progress: Progress) -> Callable:
    """Return the function that scores a model on the validation images as its file will be scored."""
    import tensorflow as tf

    from mobilenets_tf.training.input import pipeline
    from mobilenets_tf.training.objectives.objective import network_outputs

    reader = pipeline.Reader(_source(validation), objective.problem, pipeline.Broken())
    preprocessing, key = subject.image.given, subject.task.key

    def score(model: Callable) -> float:
        def answers(pixels):
            return [np.asarray(output) for output in tf.nest.flatten(model(preprocessing.normalise(pixels)))]

        meter = subject.meter()
        for outputs, truth in network_outputs(_Answering(preprocessing, answers), reader, progress):
            height, width = getattr(truth, "shape", None) or (1, 1)  # boxes are shares, of any size
            meter.add(subject.answer(outputs, height, width), truth)
        return meter.scores()[key]

    return score
