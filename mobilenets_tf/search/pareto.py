"""Search a space for networks that are accurate and fast: Optuna's sampler, or points at random.

Both are functions of the seed and the history: the sampler of a trial is seeded with the seed and the trial's number,
and is told all earlier trials. So a search that was interrupted goes on with the same trials.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.search.candidates.space import Dimension, Point, Space, Value
from mobilenets_tf.search.choices import PARETO, RANDOM
from mobilenets_tf.search.latency.variants import SHARES
from mobilenets_tf.search.score import Score

_METHODS = (PARETO, RANDOM)
_EXPONENT = -0.07  # of MobileNetV3 large (arXiv 1905.02244, section 4.1), and of MnasNet (arXiv 1807.11626)
_SLOPE = -0.07  # of TuNAS (arXiv 2008.06120), which calls it beta


@dataclass(frozen=True)
class Trial:
    """One network that was tried.

    number: of the trial, from 0. score: after a short training. ms: predicted latency.
    """

    number: int
    point: Point
    score: Score
    ms: float

    @property
    def finite(self) -> bool:
        """Whether the training gave a number."""
        return self.score.finite


def _mnasnet(score: float, ms: float, target_ms: float) -> float:
    return score * (ms / target_ms) ** _EXPONENT


def _tunas(score: float, ms: float, target_ms: float) -> float:
    return score + _SLOPE * abs(ms / target_ms - 1)


# Name -> function of score, latency and target latency. MnasNet's also pays for a latency below the target; TuNAS' asks
# for the target itself.
REWARDS: dict[str, Callable[[float, float, float], float]] = {"mnasnet": _mnasnet, "tunas": _tunas}


def search_space(
    space: Space,
    evaluate: Callable[[Point], Score],
    latency: Callable[[Point], float],
    *,
    method: str,
    trials: int,
    seed: int,
    reward: str | None = None,
    target_ms: float | None = None,
    done: Sequence[Trial] = (),
    keep: Callable[[Trial], None] = lambda trial: None,
    progress: Progress = silent,
) -> list[Trial]:
    """Try networks of a space.

    Args:
        space: to draw from.
        evaluate: gives the score of a network, higher is better. Not called again for a point that was tried.
        latency: gives the latency of a network in ms.
        method: "pareto": the parent, the parent with all widths at 87.5, 75, ... 25 %, then what Optuna's default
            sampler (TPE) asks for, for a high score and a low latency or for the ``reward``. Without the first few, it
            is hardly better than chance: in a space of many dimensions, hardly a point is narrow, or wide, throughout.
            "random": each choice is as likely as the others.
        trials: how many in all, those that are done among them.
        seed: the same seed gives the same trials, as long as ``evaluate`` and ``latency`` give the same, and Optuna is
            of the same version.
        reward: of "pareto", one number instead of two: "mnasnet", score x (ms / target) ^ -0.07, or "tunas", score -
            0.07 x |ms / target - 1|. None: both numbers.
        target_ms: the latency in the reward.
        done: the trials that an interrupted search has kept, in their order.
        keep: called with each trial when it is done.
        progress: called with ("trying networks", done, total).

    Returns:
        All trials, by number. A trial whose score is not finite has diverged; the sampler does not learn of it.

    Raises:
        RequestError: an argument is out of range, the trials that are done are of another space or out of order, or
            Optuna is not installed.
    """
    _check(space, method, trials, seed, reward, target_ms, done)
    history = list(done)[:trials]
    known = {_key(trial.point): trial for trial in reversed(history)}
    sample = _told(space, seed, reward, target_ms) if method == "pareto" else _at_random(space, seed)
    progress("trying networks", len(history), trials)
    while len(history) < trials:
        point = sample(history)
        earlier = known.get(_key(point))
        ms = earlier.ms if earlier else latency(point)  # first: a latency that is not known costs no training
        score = earlier.score if earlier else evaluate(point)
        trial = Trial(len(history), point, score, ms)
        known.setdefault(_key(point), trial)
        history.append(trial)
        keep(trial)
        progress("trying networks", len(history), trials)
    return history


def first_points(space: Space) -> list[Point]:
    """Return the points with which the method "pareto" begins: the parent, and the parent in narrower."""
    points: list[Point] = []
    for share in SHARES:
        if (point := space.at(share)) not in points:
            points.append(point)
    return points


def front(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that no other beats in score and latency, from the fastest on; of equal ones the first."""
    best: list[Trial] = []
    for trial in sorted((trial for trial in trials if trial.finite), key=lambda each: (each.ms, -each.score.score)):
        if not best or trial.score.score > best[-1].score.score:
            best.append(trial)
    return best


def hypervolume(trials: Sequence[Trial], reference: tuple[float, float]) -> float:
    """Return the area that the front of trials dominates, in score x ms.

    Args:
        reference: (score, ms) of a corner that counts as worthless: trials with a lower score or a higher latency add
            nothing.
    """
    least, most = reference
    area, score = 0.0, least
    for trial in front(trials):
        if trial.ms < most and trial.score.score > score:
            area += (most - trial.ms) * (trial.score.score - score)
            score = trial.score.score
    return area


def best_of(trials: Sequence[Trial], reward: str, target_ms: float) -> Trial:
    """Return the trial with the highest reward; of equal ones the first.

    Raises:
        RequestError: the reward is unknown, or no trial has a finite score.
    """
    if reward not in REWARDS:
        raise unknown("reward", reward, REWARDS)
    finite = [trial for trial in trials if trial.finite]
    if not finite:
        raise RequestError(f"None of {len(trials)} trials has a finite score: lower the learning rate.")
    return max(finite, key=lambda trial: REWARDS[reward](trial.score.score, trial.ms, target_ms))


def _check(
    space: Space, method: str, trials: Any, seed: Any, reward: str | None, target_ms: Any, done: Sequence[Trial]
) -> None:
    """Raises RequestError: see ``search_space``."""
    if method not in _METHODS:
        raise unknown("method of searching a space", method, _METHODS)
    if not isinstance(trials, int) or isinstance(trials, bool) or trials < 1:
        raise RequestError(f"trials={trials!r}: expected a whole number above 0.")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise RequestError(f"seed={seed!r}: expected a whole number from 0 on.")
    if reward is not None:
        if reward not in REWARDS:
            raise unknown("reward", reward, REWARDS)
        if method == "random":
            raise RequestError(f"reward={reward!r}: points at random follow no reward; use the method 'pareto'.")
        if not isinstance(target_ms, (int, float)) or not 0 < target_ms < math.inf:
            raise RequestError(f"target_ms={target_ms!r}: the reward {reward!r} needs a latency above 0.")
    if method == "pareto":
        _optuna()
    for number, trial in enumerate(done):
        if trial.number != number:
            raise RequestError(f"The trials that are done have the number {trial.number} in place {number}.")
        space.check(trial.point)


def _key(point: Point) -> tuple:
    return tuple(sorted(point.items()))


def _generated(seed: int, number: int) -> int:
    """Return the seed of one trial's sampler."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _at_random(space: Space, seed: int) -> Callable[[Sequence[Trial]], Point]:
    def sample(history: Sequence[Trial]) -> Point:
        random = np.random.default_rng(_generated(seed, len(history)))
        return space.drawn(lambda dimension: dimension.choices[random.integers(len(dimension.choices))])

    return sample


def _told(space: Space, seed: int, reward: str | None, target_ms: float | None) -> Callable[[Sequence[Trial]], Point]:
    """Return a function that asks Optuna for the point of the next trial, after it was told all earlier trials.

    The study is made anew for each trial, so that the trials of this process and those of an interrupted one are told
    in the same way.
    """
    optuna = _optuna()
    directions = ["maximize"] if reward else ["maximize", "minimize"]
    told: list[Any] = []
    first = first_points(space)

    def values(trial: Trial) -> list[float]:
        if reward is None:
            return [trial.score.score, trial.ms]
        return [REWARDS[reward](trial.score.score, trial.ms, target_ms)]  # type: ignore[arg-type]

    def sample(history: Sequence[Trial]) -> Point:
        if len(history) < len(first):
            return first[len(history)]
        for trial in history[len(told) :]:
            dimensions = [space.dimensions[name] for name in trial.point]
            told.append(
                optuna.trial.create_trial(
                    params={each.name: _parameter(each, trial.point[each.name]) for each in dimensions},
                    distributions={each.name: _distribution(optuna, each) for each in dimensions},
                    values=values(trial) if trial.finite else None,
                    state=optuna.trial.TrialState.COMPLETE if trial.finite else optuna.trial.TrialState.FAIL,
                )
            )
        with _quiet(optuna):
            sampler = optuna.samplers.TPESampler(seed=_generated(seed, len(history)))
            study = optuna.create_study(directions=directions, sampler=sampler)
            study.add_trials(told)
            asked = study.ask()
            return space.drawn(lambda dimension: _asked(asked, dimension))

    return sample


def _distribution(optuna: Any, dimension: Dimension) -> Any:
    """Return the dimension in Optuna's terms: neighbouring choices have neighbouring numbers."""
    if dimension.ordered:
        return optuna.distributions.IntDistribution(0, len(dimension.choices) - 1)
    return optuna.distributions.CategoricalDistribution(dimension.choices)


def _parameter(dimension: Dimension, value: Value) -> Value:
    return dimension.choices.index(value) if dimension.ordered else value


def _asked(trial: Any, dimension: Dimension) -> Value:
    if dimension.ordered:
        return dimension.choices[trial.suggest_int(dimension.name, 0, len(dimension.choices) - 1)]
    return trial.suggest_categorical(dimension.name, dimension.choices)


def _optuna() -> Any:
    """Return the package Optuna.

    Raises:
        RequestError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise RequestError("The method 'pareto' needs Optuna: pip install 'mobilenets-tf[search]'.") from error
    return optuna


@contextlib.contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Keep Optuna from reporting each study."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
