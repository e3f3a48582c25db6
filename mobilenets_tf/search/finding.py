"""The search itself, in the worker's process: from a checked task to the network that reaches the latency."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import keras
import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.factory import create_model
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.networks.plan import Plan
from mobilenets_tf.progress import Progress
from mobilenets_tf.pruning.channels import channel_groups
from mobilenets_tf.pruning.prune import prune
from mobilenets_tf.search.candidates.evaluation import Candidates
from mobilenets_tf.search.candidates.space import Space
from mobilenets_tf.search.choices import NETADAPT
from mobilenets_tf.search.found import Found, Place
from mobilenets_tf.search.latency.table import LatencyTable
from mobilenets_tf.search.netadapt import MOST_ROUNDS, NetAdapt, widths_of
from mobilenets_tf.search.pareto import Trial, front, search_space
from mobilenets_tf.search.request import SearchRequest, Task
from mobilenets_tf.search.saved import course_of, keep_course, keep_trials, trials_of
from mobilenets_tf.search.score import Score
from mobilenets_tf.search.short_training import ShortTraining
from mobilenets_tf.search.width_latency import WidthLatency
from mobilenets_tf.tasks import task_of
from mobilenets_tf.training import allocation, step
from mobilenets_tf.training.checkpoints import Checkpoint
from mobilenets_tf.weights.keras_config import shapes_alone
from mobilenets_tf.weights.saved_models import to_bytes

# Of the highest learning rate, for the short trainings of NetAdapt: a tenth does not win back what a round takes.
_SHARE_OF_RATE = 0.3
_WIDTHS = "finding what the widths cost"


@dataclass(frozen=True)
class _Outcome:
    """What a method has found.

    latency, training, base: of the network as it was; base is its score. model: the faster network. The rest as in
    ``Found``.
    """

    latency: WidthLatency
    training: ShortTraining
    base: Score
    model: keras.Model
    plan: Plan | None
    ms: float
    tried: tuple[Place, ...]
    path: tuple[Place, ...]
    rows: list[dict]


def check_model(task: Task) -> None:
    """Refuse a network that cannot be searched, before the minutes that a table takes.

    Raises:
        RequestError: it is not said how its input is normalised, its outputs are not those of the task, or nothing of
            it may change.
    """
    request, model = task.request, task.request.source.build()
    ShortTraining(task.job, model, steps=1, learning_rate=1.0)
    if request.method == NETADAPT:
        Space.of(model)
    else:
        _space(request, model)


def find(task: Task, table: LatencyTable, progress: Progress) -> Found:
    """Search for the network that reaches the latency.

    Args:
        task: the checked request.
        table: of latencies.
        progress: called with (label, done, total).

    Raises:
        RequestError: the latency is out of reach, the table is of other networks, or an unfinished search in the folder
            is another one.
        ConversionError: the converter refused a network.
    """
    request = task.request
    allocation.keep_freed_memory()
    allocation.use_threads(request.train_threads)
    keras.utils.set_random_seed(request.seed)
    step.deterministic()
    progress("building", 0, 1)
    model = request.source.build()
    progress("building", 1, 1)
    search = _Search(task, table, task.checkpoint(table), progress)
    outcome = (search.adapted if request.method == NETADAPT else search.tried)(model)
    after = {name: group.width for name, group in channel_groups(outcome.model).groups.items()}
    latency, training = outcome.latency, outcome.training
    return Found(
        content=to_bytes(outcome.model),
        preprocessing=task_of(task.job.request.task).framed(request.source.preprocessing(outcome.model)),
        base=latency.content,
        plan=outcome.plan,
        widths={name: (width, after[name]) for name, width in training.switches.groups.items() if name in after},
        fixed=tuple(latency.fixed),
        base_ms=latency({}),
        target_ms=task.target_ms(latency({})),
        ms=outcome.ms,
        metric=training.metric,
        base_score=outcome.base.score,
        tried=outcome.tried,
        path=outcome.path,
        rows=outcome.rows,
    )


@dataclass(frozen=True)
class _Search:
    """The methods of a search."""

    task: Task
    table: LatencyTable
    checkpoint: Checkpoint
    progress: Progress

    def adapted(self, model: keras.Model) -> _Outcome:
        """Take channels away, round by round.

        Raises:
            RequestError: the latency is out of reach.
        """
        request, job = self.task.request, self.task.job
        peak = job.recipe.rate.peak if request.learning_rate is None else request.learning_rate
        training = ShortTraining(job, model, MOST_ROUNDS * request.steps, _SHARE_OF_RATE * peak, request.by_norm)
        self.progress(_WIDTHS, 0, 1)
        latency = WidthLatency(model, training.switches.groups, self.table)
        self.progress(_WIDTHS, 1, 1)
        base, target = training.score(self.progress), self.task.target_ms(latency({}))
        rounds = NetAdapt(training, latency, latency.groups, target, request.rounds)
        course = course_of(rounds.start(), self._saved(), self.checkpoint)
        rounds.run(course, lambda course: keep_course(self.checkpoint, course), self.progress)
        training.restore(course.state, course.kept)
        kept = {name: np.flatnonzero(stays) for name, stays in course.kept.items()}
        widths = widths_of(course.kept)
        return _Outcome(
            latency,
            training,
            base,
            model=prune(training.finished(), kept),
            plan=plan_of(request.source, {name: (latency.groups[name], width) for name, width in widths.items()}),
            ms=latency(widths),
            tried=tuple(
                Place(each["ms"], each["score"])
                for row in course.rounds
                for each in row["proposals"]
                if "score" in each
            ),
            path=tuple(Place(row["ms"], row["score"]) for row in course.rounds),
            rows=course.rounds,
        )

    def tried(self, parent: keras.Model) -> _Outcome:
        """Try networks of a space, and take the best that reaches the latency.

        Raises:
            RequestError: no network that was tried reaches the latency, or the training of each diverged.
        """
        request = self.task.request
        self.progress(_WIDTHS, 0, 1)
        candidates = Candidates(
            self.task.job, parent, _space(request, parent), self.table, request.steps, request.learning_rate,
            request.by_norm,
        )  # fmt: skip
        self.progress(_WIDTHS, 1, 1)
        space, latency = candidates.space, candidates.own_latency
        base, target = candidates.own.score(self.progress), self.task.target_ms(latency({}))
        trials = trials_of(self._saved(), self.checkpoint)
        done = list(trials)

        def keep(trial: Trial) -> None:
            done.append(trial)
            keep_trials(self.checkpoint, done)

        trials = search_space(
            space, candidates.evaluate, candidates.latency, method=request.method, trials=request.trials,
            seed=request.seed, reward=request.reward, target_ms=target, done=trials, keep=keep,
            progress=self.progress,
        )  # fmt: skip
        fast = [trial for trial in trials if trial.finite and trial.ms <= target]
        if not any(trial.finite for trial in trials):
            raise RequestError(
                f"The loss of all {len(trials)} networks is not a number: their trainings diverge. Lower the learning "
                "rate (--learning-rate, learning_rate=)."
            )
        if not fast:
            fastest = min(trial.ms for trial in trials)
            raise RequestError(
                f"None of {len(trials)} networks reaches {target:.3g} ms; the fastest takes {fastest:.3g} ms. "
                "Ask for more (--target, --target-ms), try more networks (--trials), or take --method netadapt."
            )
        best = max(fast, key=lambda trial: (-trial.score.loss, -trial.ms))
        return _Outcome(
            latency,
            candidates.own,
            base,
            model=candidates.network(best.point),
            plan=None if space.plan is None else space.plan_of(best.point),
            ms=best.ms,
            tried=_places(trials),
            path=_places(front(trials)),
            rows=[asdict(trial) for trial in trials],
        )

    def _saved(self) -> tuple[dict[str, np.ndarray], dict] | None:
        return None if self.task.request.restart else self.checkpoint.read()


def _space(request: SearchRequest, parent: keras.Model) -> Space:
    """Return the space of the trials.

    Raises:
        RequestError: the network does not have what ``vary`` names, or nothing of it may change.
    """
    groups = {name: group.width for name, group in channel_groups(parent).groups.items()}
    plan = plan_of(request.source, {name: (width, width) for name, width in groups.items()})
    return Space.of(parent if plan is None else plan, request.vary)


def _places(trials: Iterable[Trial]) -> tuple[Place, ...]:
    return tuple(Place(trial.ms, trial.score.score) for trial in trials if trial.finite)


def plan_of(source: ModelSource, widths: dict[str, tuple[int, int]]) -> Plan | None:
    """Return the plan of a network with fewer channels; None if ``create_model`` cannot build the network as it was.

    Args:
        source: the network as it was.
        widths: name of a group of channels -> slices before and after.
    """
    known = source.plan
    if known is None:
        return None
    with shapes_alone():
        groups = channel_groups(create_model(Plan(known.network, known.options))).groups
    now = {name: known.channels.get(name, group.width) for name, group in groups.items()}
    if any(now.get(name) != before for name, (before, _) in widths.items()):
        return None
    fewer = {name: after for name, (before, after) in widths.items() if after != before}
    return Plan(known.network, known.options, {**known.channels, **fewer})
