"""What the points of a space are worth: the score after a short training, and the predicted latency.

Points that differ in their widths alone share one network, whose channels are switched off, and nothing is compiled or
converted for them. Each other structure is a network of its own: about half a minute on two processors.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import keras
import numpy as np

from mobilenets_tf.pruning.prune import prune
from mobilenets_tf.search.candidates.inheritance import inherit
from mobilenets_tf.search.candidates.space import Point, Space
from mobilenets_tf.search.latency.table import LatencyTable
from mobilenets_tf.search.netadapt import strongest
from mobilenets_tf.search.score import Score
from mobilenets_tf.search.short_training import Batches, ShortTraining
from mobilenets_tf.search.width_latency import WidthLatency
from mobilenets_tf.training.request import Job
from mobilenets_tf.worker import Worker

_BATCHES_TO_RANK = 8


@dataclass(frozen=True, eq=False)
class _Settings:
    """What all networks of a search share: see ``Candidates``."""

    job: Job
    table: LatencyTable
    steps: int
    learning_rate: float
    by_norm: bool
    worker: Worker | None


class Candidates:
    """The networks of a space.

    space: the given one, without the widths that do not show in the file, of which the latency would not tell.

    Args:
        job: a checked training, with images to train with and images to compare candidates on.
        parent: the trained network from which the space was made. It is not changed.
        space: of the parent.
        table: of latencies.
        steps: of each short training. All candidates see the same batches.
        learning_rate: of the short trainings; None for the recipe's highest: candidates lose much more at once than in
            a round of NetAdapt.
        by_norm: as in ``ShortTraining``.
        worker: the child process in which the converter runs; None: a new one each time.

    Raises:
        RequestError: the model is not the space's parent, the outputs of the model are not those of the task, or the
            table does not fit.
    """

    def __init__(
        self, job: Job, parent: keras.Model, space: Space, table: LatencyTable, steps: int,
        learning_rate: float | None = None, by_norm: bool = False, worker: Worker | None = None,
    ):  # fmt: skip
        rate = job.recipe.rate.peak if learning_rate is None else learning_rate
        self._settings, self._parent, self._given = _Settings(job, table, steps, rate, by_norm, worker), parent, space
        self._own = self._last = _Structure(inherit(parent, space, space.parent).model, self._settings)
        self._own_point = self._last_point = space.parent
        self.space = _without(space, self._own.latency.fixed)

    def latency(self, point: Point) -> float:
        """Predict the latency of a point's network in ms."""
        return self._structure_of(point).latency(self.space.widths(point))

    def evaluate(self, point: Point) -> Score:
        """Train a point's network for a short while, and judge it."""
        return self._structure_of(point).score(self.space.widths(point))

    def network(self, point: Point) -> keras.Model:
        """Return a point's network after its short training. To be called last: the layers lose what training needs."""
        return self._structure_of(point).network(self.space.widths(point))

    @property
    def own(self) -> ShortTraining:
        """The short training of the parent's structure."""
        return self._own.training

    @property
    def own_latency(self) -> WidthLatency:
        """The latency of the parent with other widths."""
        return self._own.latency

    def _structure_of(self, point: Point) -> "_Structure":
        """Return the network of the point's structure with the parent's widths."""
        structure = self._given.drawn(lambda each: each.own if each.kind == "widths" else point[each.name])
        if structure == self._own_point:
            return self._own
        if structure != self._last_point:
            # New layers have fresh weights, and Dropout a seed: the same ones, whatever was tried before.
            keras.utils.set_random_seed(self._settings.job.request.seed)
            self._last_point = structure
            self._last = _Structure(inherit(self._parent, self._given, structure).model, self._settings)
        return self._last


class _Structure:
    """A network whose channels can be switched off."""

    def __init__(self, model: keras.Model, settings: _Settings):
        self._model, self._settings = model, settings

    @cached_property
    def training(self) -> ShortTraining:
        """The network in training, with the parent's weights at first."""
        of = self._settings
        return ShortTraining(of.job, self._model, of.steps, of.learning_rate, of.by_norm)

    @cached_property
    def _batches(self) -> Batches:
        return self.training.batches(0, self._settings.steps)

    @cached_property
    def _begin(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The weights, and the importance of each slice with them."""
        return self.training.state(), self.training.importance(list(islice(self._batches, _BATCHES_TO_RANK)))

    @cached_property
    def latency(self) -> WidthLatency:
        """The latency by the widths."""
        return WidthLatency(self._model, self.training.switches.groups, self._settings.table, self._settings.worker)

    def score(self, widths: dict[str, int]) -> Score:
        """Train with fewer channels, and judge."""
        self._train(widths)
        return self.training.score()

    def network(self, widths: dict[str, int]) -> keras.Model:
        """Train with fewer channels, and take the others away."""
        kept = self._train(widths)
        return prune(self.training.finished(), {name: np.flatnonzero(stays) for name, stays in kept.items()})

    def _train(self, widths: dict[str, int]) -> dict[str, np.ndarray]:
        """Train with the slices of the highest importance, as many as the widths say; return which ones stay."""
        state, ranks = self._begin
        kept = {
            group: strongest(np.ones(len(each), bool), each, widths.get(group, len(each)))
            for group, each in ranks.items()
        }
        self.training.restore(state, kept)
        self.training.train(self._batches)
        return kept


def _without(space: Space, groups: list[str]) -> Space:
    """Return a space in which some groups have the parent's width."""
    fixed = {f"widths/{group}" for group in groups}
    dimensions = {
        name: replace(each, choices=(each.own,)) if name in fixed else each for name, each in space.dimensions.items()
    }
    return replace(space, dimensions=dimensions)
