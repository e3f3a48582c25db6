"""NetAdapt: take channels away, round by round, until a latency is met (Yang et al. 2018, arXiv 1804.03230).

Each round has to save a share of the latency. For each group of channels there is one proposal: as few channels less as
save that much, those that matter least. One more proposal makes all groups smaller by the same share. The proposals
that cost the least without training are trained for a short while, all on the same batches. The proposal with the
smallest loss for the latency that it saves is taken, as for MobileNetV3 (Howard et al. 2019, arXiv 1905.02244, section
4.2).

The published method trains every proposal. On two processors that is too slow, hence the shorter list.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Protocol

import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.search.latency.variants import MULTIPLE, multiple
from mobilenets_tf.search.score import Score

EVENLY = "all groups"
_BATCHES_TO_RANK = 8
MOST_ROUNDS = 200
_SHARES = 65  # of the widths, that are tried for all groups together

Kept = Mapping[str, np.ndarray]  # name of a group -> of each slice, whether it stays
Latency = Callable[[Mapping[str, int]], float]  # in ms, of the widths of groups; those left out are whole


class Trainer(Protocol):
    """What NetAdapt asks of ``ShortTraining``."""

    def batches(self, first: int, count: int) -> Iterable[Any]: ...

    def state(self) -> dict[str, np.ndarray]: ...

    def restore(self, state: dict[str, np.ndarray], kept: Kept) -> None: ...

    def train(self, batches: Iterable[Any]) -> None: ...

    def loss(self, batches: Iterable[Any]) -> float: ...

    def importance(self, batches: Iterable[Any]) -> dict[str, np.ndarray]: ...

    def score(self) -> Score: ...


@dataclass(frozen=True)
class Options:
    """How the rounds go.

    step: what the first round has to save, as a share of the model's own latency. decay: each further round has to save
        so much of what the round before had to.
    steps: of training of each proposal. tried: how many proposals of a round are trained.
    """

    step: float = 0.05
    decay: float = 0.96
    steps: int = 40
    tried: int = 4


@dataclass
class Course:
    """How far the rounds are.

    kept: of each group, the slices that stay. state: the weights. rounds: the rows of the history, plain data.
    """

    kept: dict[str, np.ndarray]
    state: dict[str, np.ndarray]
    rounds: list[dict] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Proposal:
    name: str
    kept: dict[str, np.ndarray]
    ms: float

    def widths(self, before: Kept) -> dict[str, int]:
        """Give the widths of the groups that shrink."""
        after, former = widths_of(self.kept), widths_of(before)
        return {name: width for name, width in after.items() if width != former[name]}


def widths_of(kept: Kept) -> dict[str, int]:
    """Count the slices that stay of each group."""
    return {name: int(stays.sum()) for name, stays in kept.items()}


def least(groups: Mapping[str, int]) -> dict[str, int]:
    """Give the smallest width of each group that is proposed."""
    return {name: min(width, MULTIPLE) for name, width in groups.items()}


def check_target(latency: Latency, groups: Mapping[str, int], target_ms: float) -> None:
    """Refuse a target that the widths do not reach.

    Raises:
        RequestError: so it is; says what can be reached.
    """
    whole, smallest = latency({}), latency(least(groups))
    if not 0 < target_ms < whole:
        raise RequestError(
            f"The target of {target_ms:.3g} ms is not below the {whole:.3g} ms that are predicted for the model as it "
            "is. Ask for less (--target, --target-ms; target=, target_ms=)."
        )
    if target_ms < smallest:
        raise RequestError(
            f"The target of {target_ms:.3g} ms is out of reach: with {MULTIPLE} channels in each group the model still "
            f"takes {smallest:.3g} ms of {whole:.3g} ms ({smallest / whole:.0%}). Ask for more, or begin with a "
            "smaller network or resolution."
        )


class NetAdapt:
    """The rounds on one network.

    Args:
        trainer: trains and scores the network with some channels switched off.
        latency: predicts the latency in ms from the widths of groups.
        groups: what may shrink: name -> number of slices.
        target_ms: the latency to reach.
        options: how the rounds go.

    Raises:
        RequestError: the target is out of reach, of the widths or of so many rounds of such steps.
    """

    def __init__(
        self, trainer: Trainer, latency: Latency, groups: Mapping[str, int], target_ms: float, options: Options
    ):
        check_target(latency, groups, target_ms)
        _check_pace(latency({}), target_ms, options)
        self._trainer, self._latency, self._target, self._options = trainer, latency, target_ms, options
        self._groups, self._whole = groups, latency({})

    def start(self) -> Course:
        """Return the course of the whole network."""
        return Course({name: np.ones(width, bool) for name, width in self._groups.items()}, self._trainer.state())

    def run(
        self, course: Course, keep: Callable[[Course], None] = lambda course: None, progress: Progress = silent
    ) -> None:
        """Take channels away until the predicted latency is at most the target.

        Args:
            course: where to begin: the course of ``start``, or the one that ``keep`` was given last. Each row of its
                ``rounds`` has: round, from 1; asked_ms, which the round had to save; proposals, each with name, widths
                of the groups that shrink, predicted ms and the loss on training batches before any training, and, if
                it was trained, loss and score on the images to compare on; unchanged: loss and score after the same
                training with nothing taken away; chosen, and its ms, loss and score.
            keep: called after each round.
            progress: called with (label, done, total).

        Raises:
            RequestError: the loss is not a number, of the network as it was or of all that was tried in a round.
        """
        now = self._latency(widths_of(course.kept))
        while now > self._target and len(course.rounds) < MOST_ROUNDS:
            number = len(course.rounds)
            asked = min(self._options.step * self._options.decay**number * self._whole, now - self._target)
            row = self._round(course, now, asked, progress)
            course.rounds.append({"round": number + 1, "asked_ms": asked, **row})
            now = row["ms"]
            keep(course)

    def _round(self, course: Course, now: float, asked: float, progress: Progress) -> dict:
        """Go through one round: change the course, and return the row."""
        trainer, number, tried = self._trainer, len(course.rounds), self._options.tried
        label = f"round {number + 1}: {now / self._whole:.0%} of the latency, target {self._target / self._whole:.0%}"
        batches = trainer.batches(number * self._options.steps, self._options.steps)
        few = list(islice(batches, _BATCHES_TO_RANK))
        trainer.restore(course.state, course.kept)
        before, ranks = trainer.loss(few), trainer.importance(few)
        if not math.isfinite(before):
            raise _diverged(number + 1)
        proposals = list(self._proposals(course.kept, ranks, max(now - asked, self._target)))
        rows, prices, total = [], [], len(proposals) + tried + 1
        for proposal in track(proposals, label, progress, total):
            trainer.restore(course.state, proposal.kept)
            loss = trainer.loss(few)
            prices.append(_price(loss - before, now - max(proposal.ms, self._target)))
            widths = proposal.widths(course.kept)
            rows.append({"name": proposal.name, "widths": widths, "ms": proposal.ms, "untrained_loss": loss})
        # The same training without taking anything away: what a proposal costs is the difference.
        unchanged, _ = self._trained(course.state, course.kept, batches)
        best = None
        for done, place in enumerate(sorted(range(len(proposals)), key=prices.__getitem__)[:tried], 1):
            progress(label, len(proposals) + done, total)
            proposal = proposals[place]
            score, state = self._trained(course.state, proposal.kept, batches)
            rows[place] |= asdict(score) if score.finite else {}  # JSON has no NaN
            price = _price(score.loss - unchanged.loss, now - max(proposal.ms, self._target))
            if score.finite and (best is None or price < best[0]):
                best = price, proposal, score, state
        if best is None or not unchanged.finite:
            raise _diverged(number + 1)
        _, chosen, score, state = best
        course.kept, course.state = chosen.kept, state
        progress(label, total, total)
        unchanged_row, own_row = asdict(unchanged), asdict(score)
        return {"unchanged": unchanged_row, "proposals": rows, "chosen": chosen.name, "ms": chosen.ms, **own_row}

    def _trained(self, state: dict, kept: Kept, batches: Iterable[Any]) -> tuple[Score, dict[str, np.ndarray]]:
        self._trainer.restore(state, kept)
        self._trainer.train(batches)
        return self._trainer.score(), self._trainer.state()

    def _proposals(self, kept: Kept, ranks: Mapping[str, np.ndarray], limit: float) -> Iterator[_Proposal]:
        """Yield what reaches the limit in ms: each group alone where it can, and all together, which always can."""
        widths = widths_of(kept)
        for name, width in widths.items():
            for count in range((width - 1) // MULTIPLE * MULTIPLE, 0, -MULTIPLE):
                if (ms := self._latency(widths | {name: count})) <= limit:
                    yield _Proposal(name, {**kept, name: strongest(kept[name], ranks[name], count)}, ms)
                    break
        for share in np.linspace(1, 0, _SHARES):
            fewer = {name: min(width, multiple(width * share)) for name, width in widths.items()}
            if (ms := self._latency(fewer)) <= limit:
                yield _Proposal(EVENLY, {name: strongest(kept[name], ranks[name], fewer[name]) for name in kept}, ms)
                break


def strongest(stays: np.ndarray, ranks: np.ndarray, count: int) -> np.ndarray:
    """Keep the slices with the highest ranks, of those that stay; of equal ones those with the lowest index."""
    order = np.argsort(-np.where(stays, ranks, -1.0), kind="stable")
    chosen = np.zeros(len(stays), bool)
    chosen[order[:count]] = True
    return chosen


def _check_pace(whole: float, target_ms: float, options: Options) -> None:
    """Refuse rounds that ask for too little to reach the target.

    Raises:
        RequestError: so it is.
    """
    asked = options.step * sum(options.decay**number for number in range(MOST_ROUNDS))
    if asked < 1 - target_ms / whole:
        raise RequestError(
            f"step={options.step:g} and decay={options.decay:g}: {MOST_ROUNDS} rounds, the most there are, ask for "
            f"{asked:.1%} of the latency in all, and the target is {1 - target_ms / whole:.1%} less. Give a larger "
            "step or decay (--step, --decay)."
        )


def _diverged(number: int) -> RequestError:
    return RequestError(
        f"The loss is not a number in round {number}: the training diverges. Lower the learning rate (--learning-rate, "
        "learning_rate=), or see whether the network that the search began with answers at all."
    )


def _price(more_loss: float, saved_ms: float) -> float:
    """Give the loss for each ms saved. Where the loss falls, the price is the lower the more is saved. A loss that is
    not a number has no price."""
    if not math.isfinite(more_loss):
        return math.inf
    return more_loss / saved_ms if more_loss > 0 else more_loss * saved_ms
