"""From labelled images to a trained ``.keras`` file, its labels, curves, manifest: the straight line of ``train``."""

import hashlib
import json
import re
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mobilenets_tf import files, registry
from mobilenets_tf.data import images, sources
from mobilenets_tf.data.boxes import find_boxes
from mobilenets_tf.data.masks import find_masks
from mobilenets_tf.data.sources import Source
from mobilenets_tf.data.tfrecords import Records
from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.manifest import versions
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.tasks import metrics
from mobilenets_tf.training import checkpoints, cluster, recipes
from mobilenets_tf.training.input.plan import Plan
from mobilenets_tf.training.loop import Course
from mobilenets_tf.training.recipes import Recipe
from mobilenets_tf.weights import catalog
from mobilenets_tf.weights.saved_models import to_bytes
from mobilenets_tf.worker import Worker, WorkerError

RECIPES = ("finetune", "scratch", "paper")
KEEP = ("last", "best")
BROKEN = ("fail", "skip")
_VALIDATION_SHARE = 0.2
_RESTARTS = 20
_LABELS = "labels.txt"


@dataclass(frozen=True)
class TrainRequest:
    """Everything that decides the result; plain data.

    source: the network. Its ``classes`` may be left out where the images say them; its ``weights`` are what training
        starts from: left out, "imagenet" with the recipe "finetune", and none with the others.
    task: "classify", "detect" or "segment"; None for the network's, which a file from elsewhere does not say.
    data: annotated images, as in ``sources.find``, ``boxes.find_boxes`` or ``masks.find_masks``. validation: to judge
        with; None takes a fifth of ``data`` where that is files. out: folder for the result.
    void: of masks, the value of pixels that are of no class.
    recipe: "finetune", "scratch" or, of a classifier, "paper". epochs, batch_size, learning_rate:
        instead of the recipe's.
    keep: the weights of the "last" epoch, or of the one that did "best" on the validation images.
    broken: images that cannot be read make it "fail", or are left out ("skip").
    teacher, distill, temperature: as in ``step.Teacher``; None for no teacher.
    save_every: steps between checkpoints, beside one an epoch.
    distribute, replicas: as in ``distribution.set_up``. The rest as in ``step.Settings``.
    restart: forget an unfinished training in ``out``.
    """

    source: ModelSource
    data: str
    out: str
    task: str | None = None
    validation: str | None = None
    void: int = 255
    recipe: str = "finetune"
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    keep: str = "last"
    broken: str = "fail"
    label_offset: int | None = None
    teacher: ModelSource | None = None
    distill: float = 0.5
    temperature: float = 1.0
    precision: str = "float32"
    jit_compile: bool = False
    sync_batchnorm: bool = False
    distribute: str = "auto"
    replicas: int | None = None
    save_every: int | None = None
    seed: int = 0
    restart: bool = False
    overwrite: bool = False

    @property
    def name(self) -> str:
        """What the files are called after."""
        return self.source.name

    @property
    def checkpoint(self) -> Path:
        """Where an unfinished training is kept."""
        return Path(self.out) / f"{self.name}.checkpoint.npz"


# The shares in the rows of the curves, for people.
MEASURES = {
    "top1": "top-1",
    "anchors": "classes of anchors",
    "pixels": "pixels",
    "val_top1": "validation top-1",
    "val_top5": "top-5",
    "val_map50": "validation mAP at IoU 0.5",
    "val_map": "mAP",
    "val_miou": "validation mIoU",
    "val_pixels": "pixels",
}

# What may be different when a training goes on: it does not change the result, or not more than rounding does.
_FREE = ("out", "restart", "overwrite", "save_every", "distribute", "replicas", "precision", "jit_compile")


@dataclass(frozen=True)
class Job:
    """A checked request and what it comes to. Plain data, for the training process.

    request: with the network's weights, classes and task settled. class_names: may be empty.
    """

    request: TrainRequest
    recipe: Recipe
    training: Source
    validation: Source | None
    classes: int
    class_names: tuple[str, ...]

    def identity(self) -> dict:
        """What a checkpoint must have been made with to go on from it."""
        options = {key: value for key, value in asdict(self.request).items() if key not in _FREE}
        found = {"training images": len(self.training), "validation images": len(self.validation or ())}
        return json.loads(files.to_json(options | found | {"class names": self.class_names, "classes": self.classes}))


@dataclass(frozen=True)
class Trained:
    """What was written. ``manifest["epochs"]`` has the rows that ``loop.run`` makes."""

    path: Path
    curves: Path
    manifest: dict
    seconds: float


class PeerLostError(Exception):
    """Another worker does not answer any more."""


def train(request: TrainRequest, progress: Progress = silent) -> Trained:
    """Check, train, write. TensorFlow runs in a child process; what is interrupted goes on when asked for again.

    With several workers each machine runs this, with its own TF_CONFIG, and the first one writes. A worker that lost
    another one starts its training process again, which goes on from the last checkpoint once all are back.

    Raises:
        RequestError: whatever is wrong with the request, before any work is done where that can be known.
    """
    started = time.monotonic()
    for attempt in range(_RESTARTS + 1):
        with Worker() as worker:
            job = check(request, progress)
            try:
                content, manifest, drawn = worker.call(_train, job, progress=progress)
                break
            except (WorkerError, PeerLostError) as error:
                if cluster.workers() < 2 or attempt == _RESTARTS:
                    raise
                warnings.warn(f"A worker was lost ({error}). Starting again from the last checkpoint.", stacklevel=2)
                request = replace(request, restart=False)
    folder = Path(request.out)
    path, curves_path = folder / f"{request.name}.keras", folder / f"{request.name}.curves.svg"
    if content is not None:  # else another worker writes
        contents: dict[str, bytes | str] = {path.name: content, curves_path.name: drawn}
        if job.class_names:
            contents[_LABELS] = "\n".join(job.class_names) + "\n"
        manifest = {"files": files.digests(contents), **manifest}
        files.write_together(folder, contents | {f"{path.name}.json": files.to_json(manifest)})
        request.checkpoint.unlink(missing_ok=True)
    return Trained(path, curves_path, manifest, time.monotonic() - started)


def check(request: TrainRequest, progress: Progress = silent) -> Job:
    """Everything that can be found wrong without TensorFlow, and what the request comes to.

    Raises:
        RequestError: see there.
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
    cluster.workers()
    request = replace(request, task=_task(request))
    source = _with_weights(request.source, request.recipe)
    source.check()
    if request.teacher is not None:
        if request.task != "classify":
            raise RequestError(f"A teacher is for classifiers; {request.source.model} is trained to {request.task}.")
        request.teacher.check()
        if not 0 <= request.distill <= 1 or not request.temperature > 0:
            raise RequestError(
                f"distill={request.distill} must be 0 to 1 and temperature={request.temperature} more than 0."
            )
    recipe = _recipe(request)
    folder = Path(request.out)
    files.check_folder(folder)
    names = [f"{request.name}{suffix}" for suffix in (".keras", ".keras.json", ".curves.svg")]
    files.check_replaceable(folder, [*names, _LABELS], request.overwrite)

    given = tuple(source.label_names()) if source.labels or source.is_file else ()
    training = _find(request, request.data, given, progress)
    class_names = given or training.class_names
    if request.validation is not None:
        validation = _find(request, request.validation, class_names, progress)
    else:
        training, validation = _held_out(training, request.seed)
    classes = source.classes or len(class_names)
    if not classes:
        remedy = "--labels FILE, a name a line" if source.is_file else "--classes N or --labels FILE"
        raise RequestError(f"{request.data} does not say how many classes there are: pass {remedy}.")
    if class_names and len(class_names) != classes:
        few = ", ".join(class_names[:4])
        raise RequestError(f"{request.data} has {len(class_names)} classes ({few}, ...), and classes is {classes}.")
    _check_classes(training, classes, class_names, request.data)
    if not request.checkpoint.is_file() or request.restart:
        _check_images([training] + ([validation] if validation else []), request.broken, progress)
    if not source.is_file:
        source = replace(source, classes=classes)
    return Job(replace(request, source=source), recipe, training, validation, classes, class_names)


def _task(request: TrainRequest) -> str:
    """What the network is trained for.

    Raises:
        RequestError: no such task, or the network has another.
    """
    own = request.source.task
    if request.task is None:
        return own
    if request.task not in registry.TASKS:
        raise unknown("task", request.task, registry.TASKS)
    if request.task != own and not request.source.is_file:  # a file from elsewhere does not say what it is for
        fitting = ", ".join(registry.list_models(task=request.task)[:6])
        raise RequestError(
            f"{request.source.model} is for the task {own!r}, not {request.task!r}. For that there are {fitting}, ... "
            f"(mobilenets-tf list --task {request.task})."
        )
    return request.task


def _find(request: TrainRequest, spec: str, class_names: tuple[str, ...], progress: Progress) -> Source:
    if request.task == "classify":
        return sources.find(spec, class_names, label_offset=request.label_offset, progress=progress)
    if request.label_offset is not None:
        raise RequestError(f"label_offset={request.label_offset} is for the labels of classifiers' TFRecords.")
    if request.task == "detect":
        metrics.check_installed()
        return find_boxes(spec, class_names, progress)
    found = find_masks(spec, class_names, request.void, None if class_names else request.source.classes, progress)
    names = class_names or tuple(f"class {index}" for index in range(found.seen.shape[1]))
    return replace(found, class_names=names)


def _held_out(source: Source, seed: int) -> tuple[Source, Source | None]:
    """What is left to train with and, of files, a fifth to judge with; whole TFRecords are trained with."""
    if isinstance(source, Records):
        return source, None
    rest, part = source.split(_VALIDATION_SHARE, seed)
    return rest, part if len(part) else None


def _with_weights(source: ModelSource, recipe: str) -> ModelSource:
    """The source with the weights that its training starts from.

    Raises:
        RequestError: fine-tuning is asked for, and there is nothing to fine-tune.
    """
    if source.is_file or source.weights is not None or recipe != "finetune":
        return source
    if all(record.tag != "imagenet" for record in catalog.weight_sets(registry.get(source.model).name)):
        raise RequestError(
            f"There is no package with ImageNet weights of {source.model}. Give --weights FILE, or train from the "
            "start: --recipe scratch for a few thousand images, for a classifier --recipe paper for ImageNet."
        )
    return replace(source, weights="imagenet")


def _recipe(request: TrainRequest) -> Recipe:
    ours = recipes.OURS[request.task]
    if request.recipe in ours:
        recipe = ours[request.recipe]
    elif request.task != "classify":
        raise unknown(f"recipe to {request.task}", request.recipe, ours)
    elif request.source.is_file:
        raise RequestError(f"{request.source.model} is no registered network, so no paper has a recipe for it.")
    else:
        recipe = recipes.paper(request.source.model)
    return recipe.changed(request.epochs, request.batch_size, request.learning_rate)


def _check_classes(training: Source, classes: int, names: Sequence[str], data: str) -> None:
    counts = training.class_counts()
    if counts is None:
        return
    if len(counts) > classes:
        raise RequestError(f"{data} has images of class {len(counts) - 1}; there are {classes} classes, 0 the first.")
    for index in range(classes):
        if index >= len(counts) or not counts[index]:
            called = f" ({names[index]!r})" if names else ""
            raise RequestError(
                f"{data} has no image of class {index}{called} to train with. Add some, or leave the class out."
            )


def _check_images(found: Sequence[Source], rule: str, progress: Progress) -> None:
    """Read files to their end; records are checked as they are read."""
    files_of = [getattr(source, "images", source) for source in found if not isinstance(source, Records)]
    problems = [text for part in files_of for text in images.broken(part, progress)]
    if problems and rule == "fail":
        raise RequestError(f"{images.first_few(problems)} Remove or replace it, or pass --broken skip.")
    if problems:
        warnings.warn(f"Left out: {images.first_few(problems)}", stacklevel=3)


def _train(job: Job, progress: Progress = silent):
    """Runs in the worker. The content of the .keras file (None where another worker writes), manifest and curves."""
    import keras
    import tensorflow as tf

    from mobilenets_tf.training import allocation, curves, distribution, loop, step
    from mobilenets_tf.training.input import pipeline

    allocation.keep_freed_memory()
    request, recipe = job.request, job.recipe
    place = distribution.set_up(request.distribute, request.replicas)
    keras.utils.set_random_seed(request.seed)
    step.deterministic()
    progress("building", 0, 1)
    warnings.filterwarnings("ignore", message=".* the classifier is fresh")  # which is what is wanted here
    source = request.source
    with place.strategy.scope():
        model = source.build(**({} if source.is_file else recipe.options))
        preprocessing = source.preprocessing(model)
        if request.task != "classify":
            preprocessing = replace(preprocessing, crop="stretch")
        task = _task_of(job, model, preprocessing.resampling)
    size = preprocessing.size

    def model_at(pixels: int):  # another size occurs in papers' recipes, which are not for files
        return model if pixels == size else source.build(resolution=pixels, **recipe.options)

    plan = Plan(recipe, len(job.training), size, replicas=place.replicas, seed=request.seed)
    settings = step.Settings(request.precision, request.jit_compile, request.sync_batchnorm)
    training = step.Training(task, model_at, plan, size, preprocessing, place, settings)
    progress("building", 1, 1)

    broken = pipeline.Broken(request.broken)
    reader = pipeline.Reader(job.training, task.problem, broken)

    def batches(first):
        return place.spread(lambda: pipeline.training_batches(reader, plan, task, place, first=first))

    judge = None
    if job.validation is not None:
        to_judge = pipeline.Reader(job.validation, task.problem, broken)

        def judge():
            return training.judge(to_judge, progress)

    state = _State(job, training, place)
    state.restore()
    logs = _Logs(Path(request.out) / f"{request.name}.logs" / state.key if place.writes else None)

    def seen(row):
        logs.write(row)
        state.judge(row)
        progress(_line(row, recipe.epochs), 1, 1)

    try:
        loop.run(
            training, batches, state.course, epochs=recipe.epochs, steps_per_epoch=plan.steps_per_epoch, judge=judge,
            save=state.save, save_every=request.save_every, seen=seen, progress=progress,
        )  # fmt: skip
    except tf.errors.OpError as error:
        if broken.error:
            raise broken.error from error
        if place.workers > 1:
            raise PeerLostError(re.sub(r"\{\{.*?\}\} ?", "", str(error).splitlines()[0])[:150]) from error
        raise
    finally:
        logs.close()
    if broken.names:
        warnings.warn(f"Images that could not be read: {', '.join(sorted(broken.names)[:5])}", stacklevel=1)
    weights = state.kept()
    if not place.writes:
        return None, {"epochs": state.course.epochs}, None
    content = to_bytes(training.finished(weights))
    manifest = {
        "versions": versions(),
        "task": request.task,
        "model": source.facts(),
        "options": json.loads(files.to_json({k: v for k, v in asdict(request).items() if k not in (*_FREE, "source")})),
        "recipe": json.loads(files.to_json(asdict(recipe))),
        "images": {
            "training": len(job.training),
            "validation": len(job.validation or ()),
            "broken": sorted(broken.names),
        },
        "preprocessing": asdict(preprocessing),
        "labels": list(job.class_names),
        "kept_epoch": state.kept_epoch,
        "epochs": state.course.epochs,
    }
    title = f"{request.name}: {len(job.training)} images, {job.classes} classes"
    return content, manifest, curves.draw(state.course.epochs, task.metric, title)


def _task_of(job: Job, model, resampling: str):
    """The ``tasks.Task`` that the network is trained for."""
    request, recipe = job.request, job.recipe
    if request.task == "detect":
        from mobilenets_tf.training.objectives.detection import Detection

        most = max(len(boxes) for source in (job.training, job.validation) if source for boxes in source.boxes)
        return Detection(model, job.class_names, recipe, resampling, most)
    if request.task == "segment":
        from mobilenets_tf.training.objectives.segmentation import Segmentation

        return Segmentation(job.class_names, request.void, recipe, resampling)
    from mobilenets_tf.training.objectives.classification import Classification

    _check_outputs(model, job, request.source.model)
    return Classification(job.classes, recipe, resampling, _teacher(job) if request.teacher else None)


def _teacher(job: Job):
    from mobilenets_tf.training.objectives.classification import Teacher

    request = job.request
    model = request.teacher.build()
    _check_outputs(model, job, request.teacher.model)
    return Teacher(model, request.teacher.preprocessing(model), request.distill, request.temperature)


def _check_outputs(model, job: Job, name: str) -> None:
    outputs = model.outputs[0].shape[-1]
    if outputs != job.classes:
        raise RequestError(
            f"{name} has {outputs} outputs, and {job.request.data} has {job.classes} classes. A registered network "
            "gets a fresh classifier for other classes: name it, and pass the file as --weights."
        )


def _line(row: dict, epochs: int) -> str:
    return f"epoch {row['epoch']}/{epochs}: {described(row)}, {row['images_per_second']:.0f} images/s"


def described(row: dict) -> str:
    """An epoch's loss, and what else was measured, for people."""
    shares = (f"{name} {row[key]:.1%}" for key, name in MEASURES.items() if key in row)
    return ", ".join([f"loss {row['loss']:.3f}", *shares])


class _State:
    """The checkpoint of a training, and the weights that will be kept."""

    def __init__(self, job: Job, training, place):
        self._job, self._training, self._place = job, training, place
        self._identity = job.identity()
        self.key = hashlib.sha256(files.to_json(self._identity).encode()).hexdigest()[:8]
        self.course = Course()
        self.kept_epoch, self._best = job.recipe.epochs, None

    def restore(self) -> None:
        """Go on from the checkpoint where there is one.

        Raises:
            RequestError: it was made with other options, or it is damaged.
        """
        path = self._job.request.checkpoint
        if path.is_file() and not self._job.request.restart:
            arrays, about = checkpoints.read(path)
            _check_same(about.get("identity", {}), self._identity, path)
            best = [arrays.pop(f"best/{i}") for i in range(about["best_arrays"])]
            self._best, self.kept_epoch = best or None, about["kept_epoch"]
            self._training.restore(arrays)
            self.course = Course(**about["progress"])
        self._place.check_same(self.course.step, "step to go on from; --out must be a folder that all workers share")

    def judge(self, row: dict) -> None:
        """After an epoch: are these the weights to keep?"""
        metric = self._training.task.metric
        if self._job.request.keep == "best" and metric in row:
            earlier = self.course.epochs[:-1]
            if all(row[metric] > other[metric] for other in earlier):
                self._best, self.kept_epoch = self._training.weights(), row["epoch"]

    def save(self, course) -> None:
        """Write the checkpoint. Every worker must call it; the first one writes."""
        arrays = self._training.state()
        if not self._place.writes:
            return
        best = {f"best/{index}": values for index, values in enumerate(self._best or [])}
        about = {
            "identity": self._identity,
            "progress": asdict(course),
            "kept_epoch": self.kept_epoch,
            "best_arrays": len(best),
        }
        checkpoints.write(self._job.request.checkpoint, arrays | best, about)

    def kept(self) -> list:
        """The weights to write."""
        return self._best or self._training.weights()


def _check_same(there: dict, here: dict, path: Path) -> None:
    for option in sorted(here.keys() | there.keys()):
        if here.get(option) != there.get(option):
            raise RequestError(
                f"{path} is of an unfinished training with {option}={there.get(option)!r}, not {here.get(option)!r}. "
                "Ask for the same to go on with it, pass --restart to forget it, or choose another --out."
            )


class _Logs:
    """Curves for TensorBoard, which need not be installed; nothing without a folder."""

    def __init__(self, folder: Path | None):
        import tensorflow as tf

        self._writer = tf.summary.create_file_writer(str(folder)) if folder else None
        # tf.summary.scalar needs the package tensorboard for no more than these two values.
        self._scalar = tf.compat.v1.SummaryMetadata(data_class="DATA_CLASS_SCALAR")
        self._scalar.plugin_data.plugin_name = "scalars"

    def write(self, row: dict) -> None:
        import tensorflow as tf

        if self._writer:
            with self._writer.as_default(step=row["step"]):
                for name, value in row.items():
                    if name not in ("epoch", "step"):
                        tf.summary.write(name, tf.constant(value, tf.float32), metadata=self._scalar)
            self._writer.flush()

    def close(self) -> None:
        if self._writer:
            self._writer.close()
