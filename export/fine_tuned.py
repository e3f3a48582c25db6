"""Quantisation-aware fine-tuning from image files to a folder with the int8 file, its labels, manifest and report."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mobilenets_tf import image_input, images
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export import judging, result_folder
from mobilenets_tf.export.tflite import Conversion, finished
from mobilenets_tf.export.verification import Comparison, compare
from mobilenets_tf.image_input import ImageInput
from mobilenets_tf.images import ImageSet
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.preprocessing import Preprocessing
from mobilenets_tf.progress import Report, silent, track
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.worker import Worker

_VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class FineTuneRequest:
    """Everything that decides the result; plain data.

    source: the model, with weights. images: labelled images to train with, a CSV or a folder with a sub-folder a class.
    validation: labelled images to judge with; None takes a fifth of ``images``, chosen with ``seed``.
    calibration_count: of the training images, to choose the first ranges from.
    checkpoint: a folder for the state after each epoch; a run that finds one goes on from there.
    input: the form in which the file takes its image, one of ``image_input.FORMS``.
    The rest as in ``quantize.fine_tune``.
    """

    source: ModelSource
    images: str
    out: str
    validation: str | None = None
    scheme: str = "int8"
    per_tensor: bool = False
    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 1e-4
    patience: int = 3
    freeze_norms_after: int = 0
    calibration_count: int = 128
    distill: float = 0.0
    input: str = "normalised"
    seed: int = 0
    checkpoint: str | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class FineTuned:
    """What was written, and how float, post-training and fine-tuned compare on the validation images."""

    path: Path
    report: Path
    manifest: dict
    post_training: Comparison
    fine_tuned: Comparison
    seconds: float

    def lines(self) -> list[str]:
        """The table, for people."""
        rows = [
            ("float32", self.fine_tuned.reference_top1, None),
            ("post-training", self.post_training.top1, self.post_training.top1_agreement),
            ("fine-tuned", self.fine_tuned.top1, self.fine_tuned.top1_agreement),
        ]
        same = {None: "", **{value: f"{value:.1%}" for _, _, value in rows if value is not None}}
        return [
            f"{'':<14}  top-1  same answer as float32",
            *(f"{name:<14} {top1:>6.1%}  {same[value]}" for name, top1, value in rows),
        ]


def fine_tune_and_deploy(request: FineTuneRequest, report: Report = silent) -> FineTuned:
    """Build, calibrate, train, quantise, verify, write. TensorFlow runs in a child process only.

    Raises:
        RequestError: whatever is wrong with the request, before any work is done where that can be known.
        ConversionError: the converter refused the model.
    """
    started = time.monotonic()
    with Worker() as worker:
        training, validation = check(request)
        content, manifest, usual, tuned, evidence = worker.call(_produce, request, training, validation, report=report)
    folder, name = Path(request.out), _file_name(request)
    labels = request.source.label_names()
    manifest, page = result_folder.write(folder, name, content, manifest, evidence, labels)
    return FineTuned(folder / name, page, manifest, usual, tuned, time.monotonic() - started)


def _file_name(request: FineTuneRequest) -> str:
    return f"{request.source.name}_{request.scheme}_qat.tflite"


def check(request: FineTuneRequest) -> tuple[ImageSet, ImageSet]:
    """Everything that can be found wrong without TensorFlow; the images to train with and to judge with.

    Raises:
        RequestError: see there.
    """
    request.source.check()
    image_input.check(request.input)
    if not 0 <= request.distill <= 1:
        raise RequestError(f"distill={request.distill}: expected 0 to 1.")
    for option in ("epochs", "batch_size", "patience", "calibration_count"):
        if getattr(request, option) < 1:
            raise RequestError(f"{option}={getattr(request, option)}: expected at least 1.")
    if request.freeze_norms_after < 0:
        raise RequestError(f"freeze_norms_after={request.freeze_norms_after}: expected at least 0.")
    result_folder.check(Path(request.out), _file_name(request), request.overwrite)
    training = _labelled(request.images, request)
    if request.validation is not None:
        validation = _labelled(request.validation, request)
        training = training.without(validation)
    else:
        validation = training.sample(max(1, round(_VALIDATION_SHARE * len(training))), request.seed)
        training = training.without(validation)
    if not len(training):
        raise RequestError(f"No image of {request.images} is left to train with beside those to judge with.")
    images.check(training)
    images.check(validation)
    return training, validation


def _labelled(source: str, request: FineTuneRequest) -> ImageSet:
    found = images.find_images(source, request.source.label_names())
    if found.labels is None:
        raise RequestError(f"{source} has no labels: give a CSV with file and class_index, or a sub-folder a class.")
    return found


def _produce(request: FineTuneRequest, training: ImageSet, validation: ImageSet, report: Report = silent):
    """Runs in the worker: everything that needs TensorFlow. Writes nothing but the checkpoint."""
    import keras

    from mobilenets_tf.quantize import Recipe, quantize_aware
    from mobilenets_tf.quantize.fine_tuning import Options, fine_tune_steps

    keras.utils.set_random_seed(request.seed)
    report("building", 0, 1)
    model = request.source.build()
    image = ImageInput(request.source.preprocessing(model), request.input)
    preprocessing = image.given
    classes = model.outputs[0].shape[-1]
    labels = request.source.label_names(classes)
    for found in (training, validation):
        if max(found.labels) >= classes:
            raise RequestError(f"Class {max(found.labels)} among the labels; the model has {classes} outputs.")
    report("building", 1, 1)
    calibration = Calibration.from_images(training.sample(request.calibration_count, request.seed), preprocessing)
    aware = quantize_aware(
        model, calibration, request.scheme, recipe=Recipe(per_tensor=request.per_tensor), image=image, report=report
    )
    batches, steps = _training(training, preprocessing, classes, request)
    options = Options(
        request.epochs, request.learning_rate, request.patience, request.distill, request.freeze_norms_after
    )
    tuning = fine_tune_steps(
        aware,
        batches,
        steps,
        _validation(validation, preprocessing, request, report),
        options,
        request.checkpoint,
        report,
    )
    content = finished(aware.to_tflite(), model, image, labels)
    converted = Conversion(request.scheme, content, aware.float_content, calibration.manifest())
    parity = judging.parity(model, aware.float_content, validation, image, request.seed)
    judged = {
        "float32": aware.float_content,
        "post-training": image.finish(aware.post_training),
        "fine-tuned": content,
    }
    found = judging.outputs(judged, validation, image, report)
    reference = found["float32"]
    usual, tuned = (compare(reference, found[name], validation.labels) for name in ("post-training", "fine-tuned"))
    options = {key: value for key, value in asdict(request).items() if key not in ("source", "out", "overwrite")}
    manifest = {
        "passed": True,
        "failures": [],
        **judging.facts(request.source, options, image, converted),
        "parity": parity.as_dict(),
        "comparison": tuned.as_dict(),
        "judged_on_calibration_images": False,
        "fine_tuning": {
            "training_images": len(training),
            "validation_accuracies": list(tuning.accuracies),
            "best_epoch": tuning.best_epoch,
            "post_training": usual.as_dict(),
        },
    }
    evidence = judging.evidence(converted, validation, labels, reference, found["fine-tuned"])
    return content, manifest, usual, tuned, evidence


def _training(found: ImageSet, preprocessing: Preprocessing, classes: int, request: FineTuneRequest):
    """Batches of (images, class indices) from a step on, cropped and mirrored as in other training; steps an epoch."""
    import tensorflow as tf

    from mobilenets_tf.training import distribution, pipeline, recipes
    from mobilenets_tf.training.plan import Plan
    from mobilenets_tf.training.sources import Files
    from mobilenets_tf.training.tasks import Classification

    recipe = recipes.FINETUNE.changed(request.epochs, request.batch_size)
    plan = Plan(recipe, len(found), preprocessing.size, seed=request.seed)
    task = Classification(classes, recipe, preprocessing.resampling)
    reader, place = pipeline.Reader(Files(found), task.problem, pipeline.Broken()), distribution.set_up("none")

    def prepare(pixels, targets):
        shape = (None, preprocessing.size, preprocessing.size, 3)
        return tf.ensure_shape(pipeline.normalised(pixels, preprocessing), shape), tf.argmax(targets, -1, tf.int32)

    def batches(first: int):
        return pipeline.training_batches(reader, plan, task, place, first=first).map(prepare)

    return batches, plan.steps_per_epoch


def _validation(found: ImageSet, preprocessing: Preprocessing, request: FineTuneRequest, report: Report):
    """Batches of (images, class indices); pixels wait in memory as bytes and are normalised as they are needed."""
    import tensorflow as tf

    from mobilenets_tf.training import pipeline

    pixels = np.stack(
        [preprocessing.geometry(images.decode(path)) for path in track(found.paths, "reading images", report)]
    )
    data = tf.data.Dataset.from_tensor_slices((pixels, np.array(found.labels, np.int32))).batch(request.batch_size)
    return data.map(lambda batch, labels: (pipeline.normalised(batch, preprocessing), labels)).prefetch(2)
