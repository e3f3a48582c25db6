"""The request of a training, plain data, and its check, which needs no TensorFlow."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from mobilenets_tf import files, registry
from mobilenets_tf.data import images
from mobilenets_tf.data.preprocessing import shown_size
from mobilenets_tf.data.sources import Source
from mobilenets_tf.data.tfrecords import Records
from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.modelsource import RANDOM, AnyModel, ModelSource
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.public_api.types import check_fields
from mobilenets_tf.tasks import task_of
from mobilenets_tf.training import cluster, recipes
from mobilenets_tf.training.allocation import check_threads
from mobilenets_tf.training.checkpoints import Checkpoint
from mobilenets_tf.training.recipes import Recipe
from mobilenets_tf.weights import catalog

RECIPES = ("finetune", "scratch", "recover", "paper")
KEEP = ("last", "best")
BROKEN = ("fail", "skip")
_VALIDATION_SHARE = 0.2
# Fields that may differ when a training goes on: they change the result by rounding at the most.
_FREE = ("out", "restart", "overwrite", "save_every", "distribute", "replicas", "precision", "jit_compile", "threads")


@dataclass(frozen=True)
class TrainRequest:
    """Everything that decides the result of a training; plain data.

    source: the network: a registered name, the path of a ``.keras`` file, or a ``ModelSource``. Its ``classes`` may be
        left out where the images say how many there are. Training starts from its ``weights``; left out, these are
        "imagenet" with the recipes "finetune" and "recover", and random ones with the others.
    data: annotated images, as in ``sources.find``, ``boxes.find_boxes`` or ``masks.find_masks``.
    out: the folder for the result.
    task: "classify", "detect" or "segment"; None for the network's own, which a file from elsewhere does not say.
    evaluate: annotated images to judge with; None takes a fifth of ``data``, unless ``data`` is TFRecords.
    void: of masks, the value of pixels that are of no class.
    recipe: "finetune", "scratch", "recover" (of a network that was pruned) or, of a classifier, "paper".
    epochs, batch_size, learning_rate: instead of the recipe's; the batch is that of all replicas together.
    keep: the weights of the "last" epoch, or of the epoch with the "best" score on the validation images.
    broken: "fail" where an image cannot be read, or "skip" such images.
    label_offset: of TFRecords, the label of the first class; None for 1.
    teacher: a network to learn from too, of the same task and classes: a name (then with ImageNet's weights), a path or
        a ``ModelSource``; None for no teacher. A detector's teacher has the same anchors.
    distill: the teacher's share of the loss, 0 to 1.
    temperature: by which both networks' logits are divided for the teacher's share.
    precision, jit_compile, sync_batchnorm: as in ``step.Settings``.
    distribute, replicas: as in ``distribution.set_up``.
    threads: of TensorFlow, on which the last bits of the weights depend; None for one for each processor. The manifest
        has their number.
    save_every: steps between checkpoints; None for checkpoints after each epoch alone.
    seed: of batches, augmentation and new weights.
    restart: forget an unfinished training in ``out``.
    overwrite: replace files in ``out`` that no training wrote.
    """

    source: AnyModel
    data: str
    out: str
    task: str | None = None
    evaluate: str | None = None
    void: int = 255
    recipe: str = "finetune"
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    keep: str = "last"
    broken: str = "fail"
    label_offset: int | None = None
    teacher: AnyModel = None
    distill: float = 0.5
    temperature: float = 1.0
    precision: str = "float32"
    jit_compile: bool = False
    sync_batchnorm: bool = False
    distribute: str = "auto"
    replicas: int | None = None
    threads: int | None = None
    save_every: int | None = None
    seed: int = 0
    restart: bool = False
    overwrite: bool = False

    def __post_init__(self):
        for name in ("source", "teacher"):
            if (model := getattr(self, name)) is not None:
                object.__setattr__(self, name, ModelSource.of(model))
        for name in ("data", "out", "evaluate"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, str(path))
        check_fields(self)

    @property
    def name(self) -> str:
        """The name of the result's files, without suffixes."""
        return self.source.name

    @property
    def checkpoint(self) -> Path:
        """The file that keeps an unfinished training."""
        return Path(self.out) / f"{self.name}.checkpoint.npz"

    @property
    def settled_task(self) -> str:
        """The task that was asked for, or the network's own."""
        return self.task or self.source.task

    def options(self) -> dict:
        """Return what defines the training. A resumed training may have another precision or other replicas."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _FREE}
        return {key: value.plain() if isinstance(value, ModelSource) else value for key, value in values.items()}


@dataclass(frozen=True)
class Job:
    """A checked request, its recipe and its images. Plain data, for the training process.

    request: with the networks' weights, classes and task settled. class_names: may be empty.
    """

    request: TrainRequest
    recipe: Recipe
    training: Source
    validation: Source | None
    classes: int
    class_names: tuple[str, ...]

    def identity(self) -> dict:
        """Describe the training. A training does not resume from a checkpoint with another description."""
        counts = {"training images": len(self.training), "validation images": len(self.validation or ())}
        models = {"source": self.request.source, "teacher": self.request.teacher}
        digests = {f"sha256 of {part}": model.facts().get("weights_sha256") for part, model in models.items() if model}
        classes = {"class names": self.class_names, "classes": self.classes}
        return json.loads(files.to_json({**self.request.options(), **counts, **digests, **classes}))

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint that keeps the training while it is unfinished."""
        remedy = "pass --restart (restart=True) to forget it, or choose another --out (out=)"
        return Checkpoint(self.request.checkpoint, self.identity(), remedy)


def check(request: TrainRequest, progress: Progress = silent) -> Job:
    """Check everything that can be checked without TensorFlow, and find the images.

    Raises:
        RequestError: an option is unknown or contradicts another; network, weights or images are not there; a class has
            no images; images are broken; other files have the names of the result's files.
    """
    for option, value, known in (
        ("recipe", request.recipe, RECIPES),
        ("choice of weights to keep", request.keep, KEEP),
        ("rule for broken images", request.broken, BROKEN),
    ):
        if value not in known:
            raise unknown(option, value, known)
    if request.save_every is not None and request.save_every < 1:
        raise RequestError(f"save_every={request.save_every}: expected at least 1.")
    check_threads(request.threads)
    cluster.workers()
    request = replace(request, task=_task(request))
    source = _with_crop(_with_weights(request.source, request.recipe), request.recipe)
    if source.weights in (None, RANDOM) and request.teacher and not request.teacher.is_file:
        source = replace(source, fetch=False)  # the teacher's weights alone are to be fetched
    source.check(may_be_random=True, in_keras=True)
    if isinstance(source.resolution, tuple):
        raise RequestError(
            f"--resolution {shown_size(source.resolution)} (resolution=): networks are trained on square images; give "
            "one number."
        )
    request = replace(request, teacher=_teacher(request))
    recipe = _recipe(request)
    files.check_folder(Path(request.out))
    training, validation = _find_images(request, tuple(source.label_names()) if _is_labelled(source) else (), progress)
    class_names = training.class_names
    classes = _count_classes(source, class_names, request.data)
    _check_classes(training, classes, class_names, request.data)
    _check_teacher_classes(request, classes, class_names)
    if not source.is_file:
        source = replace(source, classes=classes)
    request = replace(request, source=source)
    check_replaceable(request, class_names)
    for model in (source, request.teacher):
        if model is not None:
            model.fetch_weights(progress)  # the checkpoint has their digest
    job = Job(request, recipe, training, validation, classes, class_names)
    if request.restart or job.checkpoint.read() is None:
        _check_images([training] + ([validation] if validation else []), request.broken, progress)
    return job


def check_replaceable(request: TrainRequest, class_names: Sequence[str]) -> None:
    """Refuse a folder that has something else in the place of the result's files.

    Raises:
        RequestError: so it is.
    """
    names = [f"{request.name}{suffix}" for suffix in (".keras", ".keras.json", ".curves.svg")]
    options = {key: value for key, value in request.options().items() if key != "source"}
    described = {"model": request.source.described(), "options": options}
    files.check_replaceable(Path(request.out), names, request.overwrite, described, class_names)


def _task(request: TrainRequest) -> str:
    """Return the task that the network is trained for.

    Raises:
        RequestError: there is no such task, or the network has another task.
    """
    own = request.source.task
    if request.task is None:
        return own
    if request.task not in registry.TASKS:
        raise unknown("task", request.task, registry.TASKS)
    if request.task != own and not request.source.is_file:  # a file from elsewhere does not say its task
        fitting = ", ".join(registry.list_models(task=request.task)[:6])
        raise RequestError(
            f"{request.source.model} is for the task {own!r}, not {request.task!r}. For that there are {fitting}, ... "
            f"(mobilenets-tf list --task {request.task})."
        )
    return request.task


def _with_weights(source: ModelSource, recipe: str) -> ModelSource:
    """Return the source with the weights that its training starts from.

    Raises:
        RequestError: fine-tuning is asked for, and there are no weights to fine-tune.
    """
    if source.is_file or source.weights is not None or recipe not in ("finetune", "recover"):
        return source
    if all(record.tag != "imagenet" for record in catalog.weight_sets(registry.get(source.model).name)):
        raise RequestError(
            f"Nobody publishes ImageNet weights of {source.model}. Give --weights FILE (weights=), or train "
            "from the start: --recipe scratch (recipe=) for a few thousand images, for a classifier --recipe paper for "
            "ImageNet."
        )
    return replace(source, weights="imagenet")


def _with_crop(source: ModelSource, recipe: str) -> ModelSource:
    """Return the source with the crop of the paper's evaluation, where the paper's recipe is followed."""
    if recipe != "paper" or source.is_file or source.crop is not None:
        return source
    network = registry.get(source.model)
    record = next(iter(catalog.weight_sets(network.name)), None)
    if record is None:
        return source
    published = record.preprocessing.at(source.resolution or network.resolution)
    return replace(source, crop=published.crop, resize=source.resize or published.resize)


def _teacher(request: TrainRequest) -> ModelSource | None:
    """Return the teacher with its weights.

    Raises:
        RequestError: the teacher has another task or an untrained head, or share or temperature are out of range.
    """
    teacher = request.teacher
    if teacher is None:
        return None
    if not 0 <= request.distill <= 1 or not request.temperature > 0:
        raise RequestError(
            f"distill={request.distill} must be 0 to 1 and temperature={request.temperature} more than 0."
        )
    if not teacher.is_file and teacher.weights is None:
        teacher = replace(teacher, weights="imagenet", fetch=teacher.fetch or request.source.fetch)
    if teacher.says_its_task and teacher.task != request.task:
        raise RequestError(
            f"The teacher {teacher.model} is for the task {teacher.task!r}, and {request.source.model} is trained to "
            f"{request.task}. Give a teacher that was trained to {request.task}."
        )
    if not teacher.is_file and registry.get(teacher.model).backbone and teacher.weight_set():
        raise RequestError(
            f"The weights {teacher.weights!r} of {teacher.model} are its backbone's alone; its fresh head would teach "
            "nothing. Give the .keras file of a trained network as the teacher."
        )
    teacher.check(may_be_random=True, in_keras=True)
    return teacher


def _recipe(request: TrainRequest) -> Recipe:
    ours = recipes.OURS[request.settled_task]
    if request.recipe in ours:
        recipe = ours[request.recipe]
    elif request.source.is_file:
        raise RequestError(f"{request.source.model} is no registered network, so no paper has a recipe for it.")
    else:
        recipe = recipes.paper(request.source.model)
    return recipe.changed(request.epochs, request.batch_size, request.learning_rate)


def _is_labelled(source: ModelSource) -> bool:
    """Tell whether the request or the file gives names to the classes. A registered network's are not the user's."""
    return source.labels is not None or source.is_file


def _find_images(
    request: TrainRequest, class_names: tuple[str, ...], progress: Progress
) -> tuple[Source, Source | None]:
    """Find the images to train with and to judge with; both have the same ``class_names``."""

    def find(spec: str, names: tuple[str, ...]) -> Source:
        return task_of(request.settled_task).training_source(
            spec, names, classes=request.source.classes, void=request.void, label_offset=request.label_offset,
            progress=progress,
        )  # fmt: skip

    training = find(request.data, class_names)
    if request.evaluate is None:
        return _held_out(training, request.seed)
    return training, find(request.evaluate, training.class_names)


def _held_out(source: Source, seed: int) -> tuple[Source, Source | None]:
    """Split images: a fifth of all images to judge with, the others to train with. TFRecords are not split."""
    if isinstance(source, Records):
        return source, None
    training, validation = cast(Any, source).split(_VALIDATION_SHARE, seed)  # every other source can be split
    return training, validation if len(validation) else None


def _count_classes(source: ModelSource, class_names: Sequence[str], data: str) -> int:
    classes = source.classes or len(class_names)
    if not classes:
        remedy = (
            "--labels FILE (labels=), a name a line"
            if source.is_file
            else "--classes N (classes=) or --labels FILE (labels=)"
        )
        raise RequestError(f"{data} does not say how many classes there are: pass {remedy}.")
    if class_names and len(class_names) != classes:
        few = ", ".join(class_names[:4])
        raise RequestError(f"{data} has {len(class_names)} classes ({few}, ...), and classes is {classes}.")
    return classes


def _check_classes(training: Source, classes: int, class_names: Sequence[str], data: str) -> None:
    counts = training.class_counts()
    if counts is None:
        return
    if len(counts) > classes:
        raise RequestError(f"{data} has images of class {len(counts) - 1}; there are {classes} classes, 0 the first.")
    for index in range(classes):
        if index >= len(counts) or not counts[index]:
            name = f" ({class_names[index]!r})" if class_names else ""
            raise RequestError(
                f"{data} has no image of class {index}{name} to train with. Add some, or leave the class out."
            )


def _check_teacher_classes(request: TrainRequest, classes: int, class_names: Sequence[str]) -> None:
    """Refuse a teacher of other classes, where its labels are known; names alone where they are the user's own."""
    teacher = request.teacher
    names = teacher.label_names() if teacher else []
    if not names:
        return
    if len(names) != classes:
        raise RequestError(
            f"The teacher {teacher.model} has {len(names)} classes, and {request.data} has {classes}. Give a teacher "
            "that was trained for the same classes."
        )
    if _is_labelled(teacher) and class_names and list(class_names) != names:
        index = next(index for index, name in enumerate(names) if name != class_names[index])
        raise RequestError(
            f"Class {index} is {names[index]!r} for the teacher {teacher.model}, and {class_names[index]!r} in "
            f"{request.data}. Give a teacher that was trained for the same classes in the same order."
        )


def _check_images(annotated: Sequence[Source], rule: str, progress: Progress) -> None:
    """Read files to their end; records are checked as they are read."""
    files_of: list[Any] = [getattr(source, "images", source) for source in annotated if not isinstance(source, Records)]
    problems = [text for part in files_of for text in images.broken(part, progress)]
    if problems and rule == "fail":
        raise RequestError(f'{images.first_few(problems)} Remove or replace it, or pass --broken skip (broken="skip").')
    if problems:
        warnings.warn(f"Left out: {images.first_few(problems)}", stacklevel=3)
