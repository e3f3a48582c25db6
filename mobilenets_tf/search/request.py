"""The request of a search, plain data, and its check, which needs no TensorFlow."""

import importlib.util
from dataclasses import dataclass, fields, replace
from pathlib import Path

from mobilenets_tf import files
from mobilenets_tf.data import images
from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.export.deployment import calibration_images, check_options
from mobilenets_tf.export.request import DeployRequest
from mobilenets_tf.modelsource import AnyModel, ModelSource
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.public_api.types import check_fields
from mobilenets_tf.search.choices import IMPORTANCES, KINDS, METHODS, NETADAPT, PARETO, REWARDS
from mobilenets_tf.search.latency.base_file import SCHEMES
from mobilenets_tf.search.latency.table import LatencyRequest, LatencyTable
from mobilenets_tf.search.netadapt import Options
from mobilenets_tf.tasks import task_of
from mobilenets_tf.training import checkpoints
from mobilenets_tf.training import request as training_request
from mobilenets_tf.training.checkpoints import Checkpoint
from mobilenets_tf.training.request import Job, TrainRequest

_LEAST_IMAGES = 50  # to compare candidates on: with fewer, chance decides
_FREE = ("source", "out", "restart", "overwrite", "table", "elsewhere")  # the checkpoint has the table's digest
PLAN, HISTORY, CHART = "plan.json", "search.json", "search.svg"  # ends of the names of the result's own files


@dataclass(frozen=True)
class SearchRequest:
    """Everything that decides the result of a search; plain data.

    source: the trained network to make faster: a registered name, the path of a ``.keras`` file, a ``keras.Model`` or a
        ``ModelSource``.
    data: annotated images to train with, as in ``TrainRequest``; a fifth of them, chosen with ``seed``, compares the
        candidates.
    evaluate: annotated images that judge the result; the search does not see them.
    out: the folder for the result.
    target: the latency to reach, as a share of the network's own; or target_ms: in milliseconds. One of the two.
    scheme: of the file whose latency counts, "int8" or "float32".
    table: the path of a table of latencies (``LatencyTable``); None measures one on this machine and keeps the table
        in ``out``.
    elsewhere: the table is that of another machine, such as a phone, for which the network is meant.
    threads: of LiteRT. train_threads: of TensorFlow, as ``threads`` in ``TrainRequest``.
    task: "classify", "detect" or "segment"; None for the network's own, which a file from elsewhere does not say.
    void: of masks, the value of pixels that are of no class; None: as in the network's training, or 255.
    method: "netadapt" takes channels away, round by round; "pareto" tries networks that Optuna asks for, "random"
        networks at random, and both take the best that reaches the latency.
    steps: of each short training.
    step, decay, tried: of NetAdapt, see ``netadapt.Options``.
    trials: of the other methods, how many networks are tried.
    vary: what of a network they change, of ``choices.KINDS``; None: all that the network has, except the resolution.
    reward: of "pareto", one number to search for instead of two, "mnasnet" or "tunas"; see ``search_space``.
    importance: which channels go first: those that the "loss" needs least, or those whose kernels have the smallest
        "norm".
    batch_size: of all trainings; None for that of the recipe "recover".
    learning_rate: the highest of all trainings, of which NetAdapt's short trainings have 30 %; None for that of the
        recipe.
    epochs: of the training at the end; None for the recipe's.
    distill: the share of the loss by which the original network teaches in the training at the end, 0 to 1.
    seed: of images, batches and augmentation.
    restart: forget an unfinished search in ``out``.
    overwrite: replace files in ``out`` that no such search wrote.
    """

    source: AnyModel
    data: str
    evaluate: str
    out: str
    target: float | None = None
    target_ms: float | None = None
    scheme: str = "int8"
    table: str | None = None
    elsewhere: bool = False
    threads: int = 1
    train_threads: int | None = None
    task: str | None = None
    void: int | None = None
    method: str = NETADAPT
    steps: int = Options.steps
    step: float = Options.step
    decay: float = Options.decay
    tried: int = Options.tried
    trials: int = 60
    vary: tuple[str, ...] | None = None
    reward: str | None = None
    importance: str = "loss"
    batch_size: int | None = None
    learning_rate: float | None = None
    epochs: int | None = None
    distill: float = 0.0
    seed: int = 0
    restart: bool = False
    overwrite: bool = False

    def __post_init__(self):
        source = ModelSource.of(self.source)
        if not source.is_file and source.weights is None:
            source = replace(source, weights="imagenet")
        object.__setattr__(self, "source", source)
        check_fields(self)

    @property
    def rounds(self) -> Options:
        """How NetAdapt's rounds go."""
        return Options(self.step, self.decay, self.steps, self.tried)

    @property
    def by_norm(self) -> bool:
        """Whether the norm of its kernel is a channel's importance."""
        return self.importance == "norm"

    @property
    def work(self) -> Path:
        """The folder inside ``out`` for what is not the result: the state of the search, the network before its last
        training."""
        return Path(self.out, "work")

    @property
    def pruned(self) -> Path:
        """The ``.keras`` file of the network that was found, before its last training."""
        return self.work / "pruned" / f"{self.source.name}.keras"

    @property
    def checkpoint(self) -> Path:
        """The file that keeps the search while it is unfinished."""
        return self.work / f"{self.source.name}.search.npz"

    def options(self) -> dict:
        """Return what defines the search, but for the network."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _FREE}

    def state(self) -> dict:
        """Return what decides the rounds or trials: an unfinished search goes on where this is the same.

        The trials do not depend on how many there are, nor on the latency to reach, unless it is in the reward.
        """
        later = {"epochs", "distill", "evaluate", "trials"}  # all but the trials are of what comes at the end
        if self.method != NETADAPT and self.reward is None:
            later |= {"target", "target_ms"}
        return {name: value for name, value in self.options().items() if name not in later}

    def training(self) -> TrainRequest:
        """Return the training whose images and recipe the search shares."""
        return TrainRequest(
            self.source, self.data, str(self.work), self.task, recipe="recover", epochs=self.epochs,
            batch_size=self.batch_size, learning_rate=self.learning_rate, seed=self.seed, threads=self.train_threads,
            distribute="none", void=self.source.void if self.void is None else self.void,
        )  # fmt: skip

    def last_training(self) -> TrainRequest:
        """Return the training at the end, of the network that was found."""
        teacher = {"teacher": self.source, "distill": self.distill} if self.distill else {}
        return replace(
            self.training(), source=ModelSource(str(self.pruned)), out=self.out, restart=self.restart,
            overwrite=self.overwrite, **teacher,
        )  # fmt: skip

    def deployment(self, trained: Path) -> DeployRequest:
        """Return the deployment of the trained network."""
        calibration = {"calibration": self.data, "calibration_count": 128} if self.scheme == "int8" else {}
        return DeployRequest(
            ModelSource(str(trained)), self.out, self.scheme, evaluate=self.evaluate, seed=self.seed,
            overwrite=self.overwrite, **calibration,
        )  # fmt: skip

    def tabling(self) -> LatencyRequest:
        """Return the measurement of a table for this search."""
        return LatencyRequest(
            self.source, str(self.work / "latencies.json"), self.scheme, self.threads, overwrite=self.overwrite
        )


@dataclass(frozen=True)
class Task:
    """A checked request, its images and recipe, and its table; None if the table is still to be measured."""

    request: SearchRequest
    job: Job
    table: LatencyTable | None

    def target_ms(self, base_ms: float) -> float:
        """Return the latency to reach, for a network that takes so many ms."""
        request = self.request
        return request.target_ms if request.target is None else request.target * base_ms  # type: ignore[return-value]

    def checkpoint(self, table: LatencyTable) -> Checkpoint:
        """Return the file that keeps the search, which describes all that decides it."""
        training = {name: value for name, value in self.job.identity().items() if name != "epochs"}
        identity = {**training, **self.request.state(), "sha256 of the table": table.digest()}
        remedy = "pass --restart (restart=True) to forget it, or choose another --out (out=)"
        return Checkpoint(self.request.checkpoint, identity, remedy, "search")


def check(request: SearchRequest, progress: Progress = silent) -> Task:
    """Check everything that can be checked without TensorFlow, and find the images.

    Raises:
        RequestError: an option is out of range or unknown; the network is not trained, or not there; the table is
            damaged, of another scheme or machine; there are too few images; files of something else are in the place
            of the result; an unfinished search there is damaged, or another one.
    """
    if (request.target is None) == (request.target_ms is None):
        raise RequestError("Give the latency to reach: --target SHARE or --target-ms MS (target=, target_ms=).")
    for name, low, high, given in (
        ("target", 0, 1, request.target), ("target_ms", 0, 1e6, request.target_ms), ("step", 0, 1, request.step),
    ):  # fmt: skip
        if given is not None and not low < given < high:
            hint = f" For {given:g} % give {given / 100:g}." if name == "target" and 1 < given < 100 else ""
            raise RequestError(f"{name}={given:g}: expected more than {low} and less than {high:g}.{hint}")
    if not 0.5 <= request.decay <= 1:
        raise RequestError(f"decay={request.decay:g}: expected 0.5 to 1.")
    if not 0 <= request.distill <= 1:
        raise RequestError(f"distill={request.distill:g}: expected 0 to 1.")
    for name, high in (("steps", 100_000), ("tried", 1000), ("trials", 100_000), ("threads", 64)):
        if not 1 <= getattr(request, name) <= high:
            raise RequestError(f"{name}={getattr(request, name)}: expected 1 to {high}.")
    for option, value, known in (
        ("scheme to search for", request.scheme, SCHEMES), ("method of searching", request.method, METHODS),
        ("importance of channels", request.importance, IMPORTANCES),
        *(("kind of change", kind, KINDS) for kind in request.vary or ()),
        *((("reward", request.reward, REWARDS),) if request.reward is not None else ()),
    ):  # fmt: skip
        if value not in known:
            raise unknown(option, value, known)
    if request.method == NETADAPT and request.vary is not None:
        raise RequestError("NetAdapt changes widths alone: vary (--vary) is for the methods pareto and random.")
    if request.method != PARETO and request.reward is not None:
        raise RequestError(f"reward={request.reward!r} (--reward) is for the method pareto.")
    if request.method == PARETO and importlib.util.find_spec("optuna") is None:
        raise RequestError("The method pareto needs Optuna: pip install 'mobilenets-tf[search]'.")
    source = request.source
    files.check_folder(Path(request.out))
    table = _table(request)
    _check_trained(request)
    check_options(request.deployment(Path(request.out, f"{source.name}.keras")), source)
    job = training_request.check(request.training(), progress)
    task_of(job.request.settled_task).check_installed()
    request = replace(request, source=job.request.source)
    _check_trained(request)  # again: now the number of classes is that of the images
    if job.validation is None or len(job.validation) < _LEAST_IMAGES:
        have = 0 if job.validation is None else len(job.validation)
        raise RequestError(
            f"A fifth of {request.data} compares the candidates, and that is {have} images: expected at least "
            f"{_LEAST_IMAGES}. Give more images (TFRecords are not split)."
        )
    _check_replaceable(request, job)
    _check_deployment(request, job)
    task = Task(request, job, table)
    _check_unfinished(task)
    return task


def _check_unfinished(task: Task) -> None:
    """Refuse a damaged checkpoint, before the minutes that a table takes; of another search, where a table is given.

    Raises:
        RequestError: so it is.
    """
    request = task.request
    if request.restart:
        return
    if task.table is not None:
        task.checkpoint(task.table).read()
    elif request.checkpoint.is_file():
        checkpoints.read(request.checkpoint, "search")


def _check_trained(request: SearchRequest) -> None:
    """Refuse a network with random weights.

    Raises:
        RequestError: so it is.
    """
    source = request.source
    if not source.is_file and (part := source.random_part):
        classes = f" of {source.classes} classes" if part == "head" and source.classes else ""
        raise RequestError(
            f"A search begins with a trained network, and the {part}{classes} of {source.model} would be random. Train "
            f"it first (mobilenets-tf train {source.model} --data {request.data} --out trained/), and give the .keras "
            "file."
        )


def _check_replaceable(request: SearchRequest, job: Job) -> None:
    """Refuse a folder that has something else in the place of the result, the result of another search for example.

    Raises:
        RequestError: so it is.
    """
    training_request.check_replaceable(request.last_training(), job.class_names)
    names = [f"{request.source.name}.{part}" for part in (PLAN, HISTORY)]
    asked = {"model": request.source.described(), "options": request.options()}
    files.check_replaceable(Path(request.out), names, request.overwrite, asked)


def _check_deployment(request: SearchRequest, job: Job) -> None:
    """Refuse images to calibrate with and to judge the result with that ``deploy`` would refuse after the search.

    Raises:
        RequestError: they are not there, cannot be read, or are of other classes; or all were used to calibrate.
    """
    asked, task = request.deployment(Path(request.out, f"{request.source.name}.keras")), job.request.settled_task
    judge = task_of(task).find(request.evaluate, job.class_names, void=job.request.void)
    images.check_classes(judge, job.classes)
    if asked.calibration is not None:
        judge = judge.without(calibration_images(task, asked.calibration, asked.calibration_count, asked.seed))
    if not judge.paths:
        raise RequestError(f"{request.evaluate} has no images but those that calibrate: give others (--evaluate).")
    images.check(judge)


def _table(request: SearchRequest) -> LatencyTable | None:
    """Return the table that was given.

    Raises:
        RequestError: the table is damaged, or of another scheme, machine or number of threads.
    """
    if request.table is None:
        if request.elsewhere:
            raise RequestError("elsewhere (--elsewhere) says of a table that is given that it is another machine's.")
        request.tabling().check()
        return None
    table = LatencyTable.read(request.table, elsewhere=request.elsewhere)
    for name, asked in (("scheme", request.scheme), ("threads", request.threads)):
        if getattr(table, name) != asked:
            raise RequestError(
                f"{request.table} is a table of {name} {getattr(table, name)!r}, and the search is for {asked!r}: "
                f"measure another table (mobilenets-tf latency --{name} {asked}), or search with --{name} "
                f"{getattr(table, name)} ({name}=)."
            )
    return table
