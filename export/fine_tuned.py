"""Quantisation-aware fine-tuning from image files to a folder with the int8 file, its labels, manifest and report."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mobilenets_tf.data import images
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.data.sources import Files
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export import checks, result_folder
from mobilenets_tf.export.deployment import Images, Produced
from mobilenets_tf.export.proof import judging
from mobilenets_tf.export.proof.dense_judging import DenseComparison
from mobilenets_tf.export.proof.verification import Comparison, compare
from mobilenets_tf.export.tflite import Conversion, finished
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.tflite import image_input
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.training import recipes
from mobilenets_tf.training.input.plan import Plan
from mobilenets_tf.worker import Worker

_VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class FineTuneRequest:
    """Everything that decides the result; plain data.

    source: the model, with weights. images: annotated images to train with: a CSV or a folder with a sub-folder a
        class, or what ``boxes.find_boxes`` or ``masks.find_masks`` takes.
    validation: such images to judge with; None takes a fifth of ``images``, chosen with ``seed``.
    batch_size: None for that of the task's recipe for fine-tuning, whose augmentation the images get too.
    calibration_count: of the training images, to choose the first ranges from.
    checkpoint: a folder for the state after each epoch; a run that finds one goes on from there.
    input: the form in which the file takes its image, one of ``image_input.FORMS``.
    output, score_threshold, void: as in ``deployment.DeployRequest``.
    The rest as in ``quantize.fine_tune``.
    """

    source: ModelSource
    images: str
    out: str
    validation: str | None = None
    scheme: str = "int8"
    per_tensor: bool = False
    epochs: int = 10
    batch_size: int | None = None
    learning_rate: float = 1e-4
    patience: int = 3
    freeze_norms_after: int = 0
    calibration_count: int = 128
    distill: float = 0.0
    input: str = "normalised"
    output: str | None = None
    score_threshold: float | None = None
    void: int | None = None
    seed: int = 0
    checkpoint: str | None = None
    overwrite: bool = False

    def recipe(self) -> recipes.Recipe:
        """Of its batches and their augmentation.

        Raises:
            RequestError: epochs or batch size out of range.
        """
        return recipes.OURS[self.source.task]["finetune"].changed(self.epochs, self.batch_size)


@dataclass(frozen=True)
class FineTuned:
    """What was written, and how float, post-training and fine-tuned compare on the validation images. ``failures`` says
    which checks failed.
    """

    path: Path
    report: Path
    manifest: dict
    post_training: Comparison | DenseComparison
    fine_tuned: Comparison | DenseComparison
    failures: tuple[str, ...]
    seconds: float

    def lines(self) -> list[str]:
        """The table, for people."""
        usual, tuned = self.post_training, self.fine_tuned
        if isinstance(tuned, DenseComparison):
            measure, agreement = tuned.measure, "agreement with float32"
            scores = tuned.reference_score, usual.score, tuned.score
        else:
            measure, agreement = "top-1", "same answer as float32"
            scores = tuned.reference_top1, usual.top1, tuned.top1
        same, width = ("", f"{usual.agreement:.1%}", f"{tuned.agreement:.1%}"), max(6, len(measure))
        rows = zip(("float32", "post-training", "fine-tuned"), scores, same, strict=True)
        return [
            f"{'':<14} {measure:>{width}}  {agreement}",
            *(f"{name:<14} {score:>{width}.1%}  {share}" for name, score, share in rows),
        ]


def fine_tune_and_deploy(request: FineTuneRequest, progress: Progress = silent) -> FineTuned:
    """Build, calibrate, train, quantise, verify, write. TensorFlow runs in a child process only.

    Raises:
        RequestError: whatever is wrong with the request, before any work is done where that can be known.
        ConversionError: the converter refused the model.
    """
    started = time.monotonic()
    with Worker() as worker:
        training, validation = check(request)
        produced, usual = worker.call(_produce, request, training, validation, progress=progress)
    folder, name = Path(request.out), _file_name(request)
    labels, failures = request.source.label_names(), produced.failures
    manifest = {**produced.manifest, "passed": not failures, "failures": list(failures)}
    manifest, page = result_folder.write(
        folder, name, produced.content, manifest, produced.evidence, labels, produced.files
    )  # fmt: skip
    seconds = time.monotonic() - started
    return FineTuned(folder / name, page, manifest, usual, produced.comparison, failures, seconds)


def _file_name(request: FineTuneRequest) -> str:
    return f"{request.source.name}_{request.scheme}_qat.tflite"


def check(request: FineTuneRequest) -> tuple[ImageSet, ImageSet]:
    """Everything that can be found wrong without TensorFlow; the images to train with and to judge with.

    Raises:
        RequestError: see there.
    """
    source = request.source
    source.check()
    image_input.check(request.input)
    checks.check_output(source, request.output, request.score_threshold)
    if not 0 <= request.distill <= 1:
        raise RequestError(f"distill={request.distill}: expected 0 to 1.")
    if source.task != "classify" and not source.label_names():
        raise RequestError(
            f"Nothing says what the classes of {source.model} are called, and in which order they are: pass --labels "
            "FILE, a name a line."
        )
    for option in ("epochs", "patience", "calibration_count"):
        if getattr(request, option) < 1:
            raise RequestError(f"{option}={getattr(request, option)}: expected at least 1.")
    if request.freeze_norms_after < 0:
        raise RequestError(f"freeze_norms_after={request.freeze_norms_after}: expected at least 0.")
    request.recipe()
    result_folder.check(Path(request.out), _file_name(request), request.overwrite)
    training = checks.annotated(source, request.images, request.void)
    if request.validation is not None:
        validation = checks.annotated(source, request.validation, request.void)
        training = training.without(validation)
    else:
        validation = training.sample(max(1, round(_VALIDATION_SHARE * len(training))), request.seed)
        training = training.without(validation)
    if not len(training):
        raise RequestError(f"No image of {request.images} is left to train with beside those to judge with.")
    images.check(training)
    images.check(validation)
    return training, validation


def _produce(
    request: FineTuneRequest, training: ImageSet, validation: ImageSet, progress: Progress = silent
) -> tuple[Produced, Comparison | DenseComparison]:
    """Runs in the worker: everything that needs TensorFlow. Writes nothing but the checkpoint. What came of it, and how
    the file compares that post-training quantisation makes."""
    import keras

    from mobilenets_tf.quantize import Recipe, quantize_aware
    from mobilenets_tf.quantize.qat.fine_tuning import Options, fine_tune_steps
    from mobilenets_tf.training.allocation import keep_freed_memory

    keras.utils.set_random_seed(request.seed)
    progress("building", 0, 1)
    model = request.source.build()
    image = ImageInput(request.source.preprocessing(model), request.input)
    part = _Dense if request.source.task != "classify" else _Classifier
    part = part(request, model, image, training, validation)
    progress("building", 1, 1)
    calibration = Calibration.from_images(training.sample(request.calibration_count, request.seed), image.given)
    aware = quantize_aware(
        model, calibration, request.scheme, recipe=Recipe(per_tensor=request.per_tensor), image=image, progress=progress
    )
    plan = Plan(request.recipe(), len(training), image.given.size, seed=request.seed)
    options = Options(
        request.epochs, request.learning_rate, request.patience, request.distill, request.freeze_norms_after
    )
    keep_freed_memory()
    tuning = fine_tune_steps(
        aware, part.batches(plan), plan.steps_per_epoch, part.validation(progress), options, request.checkpoint,
        progress, part.objective,
    )  # fmt: skip
    content = finished(aware.to_tflite(), model, image, part.labels)
    converted = Conversion(request.scheme, content, aware.float_content, calibration.manifest())
    produced, usual = part.proven(converted, image.finish(aware.post_training), progress)
    produced.manifest["fine_tuning"] = {
        "training_images": len(training),
        "validation_accuracies": list(tuning.accuracies),
        "best_epoch": tuning.best_epoch,
        "post_training": usual.as_dict(),
    }
    return produced, usual


class _Classifier:
    """What is a classifier's own in ``_produce``.

    labels: the classes' names; may be empty.

    Raises:
        RequestError: labels that are not the model's.
    """

    objective = None  # one class an image

    def __init__(self, request: FineTuneRequest, model, image: ImageInput, training: ImageSet, validation: ImageSet):
        self._request, self._model, self._image = request, model, image
        self._training, self._validation = training, validation
        self._classes = model.outputs[0].shape[-1]
        self.labels = request.source.label_names(self._classes)
        last = max(training.labels + validation.labels)
        if last >= self._classes:
            raise RequestError(f"Class {last} among the labels; the model has {self._classes} outputs.")

    def batches(self, plan: Plan) -> Callable:
        """Batches of (images, class indices) from a step on."""
        import tensorflow as tf

        from mobilenets_tf.training.objectives.classification import ClassificationObjective

        objective = ClassificationObjective(self._classes, plan.recipe, self._image.given.resampling)
        return _batches(
            Files(self._training), plan, objective, self._image.given, lambda targets: tf.argmax(targets, -1, tf.int32)
        )  # fmt: skip

    def validation(self, progress: Progress):
        """Batches of (images, class indices); pixels wait in memory as bytes and are normalised as they are needed."""
        import tensorflow as tf

        from mobilenets_tf.training.input import pipeline

        preprocessing, found = self._image.given, self._validation
        paths = track(found.paths, "reading images", progress)
        pixels = np.stack([preprocessing.geometry(images.decode(path)) for path in paths])
        data = tf.data.Dataset.from_tensor_slices((pixels, np.array(found.labels, np.int32)))
        data = data.batch(self._request.recipe().batch_size)
        return data.map(lambda batch, labels: (pipeline.normalised(batch, preprocessing), labels)).prefetch(2)

    def proven(self, converted: Conversion, post_training: bytes, progress: Progress) -> tuple[Produced, Comparison]:
        """The file beside its float file, and how that of post-training quantisation compares."""
        request, image, chosen = self._request, self._image, self._validation
        parity = judging.parity(self._model, converted.float_content, chosen, image, request.seed)
        judged = {
            "float32": converted.float_content, "post-training": post_training, "fine-tuned": converted.content,
        }  # fmt: skip
        found = judging.outputs(judged, chosen, image, progress)
        reference = found["float32"]
        usual, tuned = (compare(reference, found[name], chosen.labels) for name in ("post-training", "fine-tuned"))
        options = {key: value for key, value in asdict(request).items() if key not in ("source", "out", "overwrite")}
        manifest = {
            **judging.facts(request.source, options, image, converted),
            "parity": parity.as_dict(),
            "comparison": tuned.as_dict(),
            "judged_on_calibration_images": False,
        }
        evidence = judging.evidence(converted, chosen, self.labels, reference, found["fine-tuned"])
        return Produced(converted.content, manifest, parity, tuned, evidence), usual


class _Dense:
    """What is a detector's or a segmenter's own in ``_produce``."""

    def __init__(self, request: FineTuneRequest, model, image: ImageInput, training: ImageSet, validation: ImageSet):
        from mobilenets_tf.export import dense_deployment
        from mobilenets_tf.training.objectives import objective_of

        self._request, self._training, self._validation = request, training, validation
        self._network = dense_deployment.network(request, model, image)
        self.labels = names = self._network.names
        self.objective = objective_of(
            request.source.task, model, recipe=request.recipe(), resampling=image.given.resampling, classes=len(names),
            class_names=names, void=self._network.void, images=(training, validation),
        )  # fmt: skip

    def batches(self, plan: Plan) -> Callable:
        """Batches of (images, targets of the objective) from a step on."""
        return _batches(self._training, plan, self.objective, self._network.image.given)

    def validation(self, progress: Progress) -> Callable:
        """What ``fine_tune_steps`` asks of the model: the score that its file will have."""
        import tensorflow as tf

        from mobilenets_tf.training.input import pipeline
        from mobilenets_tf.training.objectives.objective import network_outputs

        reader = pipeline.Reader(self._validation, self.objective.problem, pipeline.Broken())
        preprocessing, judge = self._network.image.given, self._network.answers

        def score(model: Callable) -> float:
            def answers(pixels):
                return [np.asarray(output) for output in tf.nest.flatten(model(preprocessing.normalise(pixels)))]

            meter = judge.meter()
            for outputs, truth in network_outputs(_Answering(preprocessing, answers), reader, progress):
                height, width = getattr(truth, "shape", (None, None))  # boxes are shares, of any size
                meter.add(judge.of(outputs, height, width), truth)
            return meter.result()[0]

        return score

    def proven(
        self, converted: Conversion, post_training: bytes, progress: Progress
    ) -> tuple[Produced, DenseComparison]:
        """As ``_Classifier.proven``."""
        from mobilenets_tf.export import dense_deployment
        from mobilenets_tf.export.proof import dense_judging

        chosen, image, name = Images(judge=self._validation), self._network.image, _file_name(self._request)
        produced = dense_deployment.proven(self._request, self._network, converted, chosen, name, progress)
        float_file, file = (dense_judging.of_file(c, image) for c in (converted.float_content, post_training))
        usual = dense_judging.compare(float_file, file, self._validation, image, self._network.answers, progress)
        return produced, usual


@dataclass(frozen=True)
class _Answering:
    """The part of a ``step.Training`` that ``network_outputs`` asks for."""

    preprocessing: Preprocessing
    answers: Callable


def _batches(source, plan: Plan, objective, preprocessing: Preprocessing, taught: Callable = lambda targets: targets):
    """Batches of (images, targets) from a step on, augmented as in other training.

    taught: makes the targets of those of the objective.
    """
    import tensorflow as tf

    from mobilenets_tf.training import distribution
    from mobilenets_tf.training.input import pipeline

    reader, place = pipeline.Reader(source, objective.problem, pipeline.Broken()), distribution.set_up("none")
    shape = (None, preprocessing.size, preprocessing.size, 3)

    def prepare(pixels, targets):
        return tf.ensure_shape(pipeline.normalised(pixels, preprocessing), shape), taught(targets)

    return lambda first: pipeline.training_batches(reader, plan, objective, place, first=first).map(prepare)
