"""Searches of a space: the same seed gives the same trials, an interrupted search goes on with them, and fronts."""

import builtins
import json
import math
from dataclasses import asdict

import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.search.candidates.space import Dimension, Space
from mobilenets_tf.search.pareto import REWARDS, Trial, best_of, front, hypervolume, search_space
from mobilenets_tf.search.score import Score

optuna = pytest.importorskip("optuna")

WIDTHS = tuple(range(8, 72, 8))
DIMENSIONS = [
    Dimension("depth/stage1", (1, 2), 2),
    Dimension("squeeze_excite/stage1_block2", (False, True), True, {"depth/stage1": (2,)}),
    *(Dimension(f"widths/stage1_block1_{place}", WIDTHS, 64) for place in "abc"),
    Dimension("widths/stage1_block2_d", WIDTHS, 64, {"depth/stage1": (2,)}),
    Dimension("widths/fixed", (5,), 5),
]
SPACE = Space(None, {each.name: each for each in DIMENSIONS}, {})
SETTINGS = {"two numbers": {}, "mnasnet": {"reward": "mnasnet"}, "tunas": {"reward": "tunas"}}


def latency(point):
    return sum(value / 64 for name, value in point.items() if name.startswith("widths")) + point["depth/stage1"]


def evaluate(point):
    """More of everything is better, but with a limit, and channels of "a" are worth the most."""
    gain = {"a": 4.0, "b": 1.0, "c": 0.2, "d": 0.5}
    score = sum(
        gain[name[-1]] * (1 - math.exp(-value / 16)) for name, value in point.items() if name.startswith("widths")
    )
    return Score(-score, (score + 0.3 * point.get("squeeze_excite/stage1_block2", 0)) / 7)


def searched(method="pareto", trials=24, seed=3, **options):
    options = {"target_ms": 2.0, **options}
    return search_space(SPACE, evaluate, latency, method=method, trials=trials, seed=seed, **options)


@pytest.mark.parametrize("settings", SETTINGS)
def test_an_interrupted_search_goes_on_with_the_same_trials(settings):
    """Killed at several places, and its trials written to JSON and read again."""
    whole = searched(**SETTINGS[settings])
    assert [trial.number for trial in whole] == list(range(24))
    for killed in (0, 1, 9, 13, 23):
        kept = [json.loads(json.dumps(asdict(trial))) for trial in whole[:killed]]
        done = [Trial(each["number"], each["point"], Score(**each["score"]), each["ms"]) for each in kept]
        later = []
        assert searched(done=done, keep=later.append, **SETTINGS[settings]) == whole and later == whole[killed:]


def test_a_seed_gives_its_trials():
    for method in ("pareto", "random"):
        assert searched(method) == searched(method) != searched(method, seed=4)
        assert searched(method, trials=8) == searched(method)[:8]  # more trials begin with the same ones
        assert searched(method, trials=8, done=searched(method)) == searched(method, trials=8)
    assert searched() != searched(reward="tunas") != searched(reward="mnasnet")


def test_the_first_networks_are_the_parent_and_the_parent_in_smaller():
    points = [trial.point for trial in searched(trials=8)]
    assert points[0] == SPACE.parent
    assert [point["widths/stage1_block1_a"] for point in points[:7]] == [64, 56, 48, 40, 32, 24, 16]
    assert all(point["widths/stage1_block1_b"] == point["widths/stage1_block1_a"] for point in points[:7])
    assert all(point["depth/stage1"] == 2 and point["squeeze_excite/stage1_block2"] for point in points[:7])


def test_points_are_of_the_space_and_none_is_judged_twice():
    judged = []

    def counted(point):
        judged.append(tuple(sorted(point.items())))
        return evaluate(point)

    small = Space(None, {each.name: each for each in DIMENSIONS[:3]}, {})
    seen = []
    trials = search_space(
        small, counted, latency, method="pareto", trials=30, seed=0, progress=lambda *each: seen.append(each)
    )
    for trial in trials:
        small.check(trial.point)
        assert (trial.score, trial.ms) == (evaluate(trial.point), latency(trial.point))
    assert len(judged) == len(set(judged)) < len(trials)
    assert seen[0] == ("trying networks", 0, 30) and seen[-1] == ("trying networks", 30, 30)
    assert len(trials) == 30 and {trial.point["depth/stage1"] for trial in trials} == {1, 2}


def test_every_choice_is_as_likely_at_random():
    points = [trial.point for trial in searched("random", trials=400)]
    counts = [sum(point["widths/stage1_block1_a"] == width for point in points) for width in WIDTHS]
    assert min(counts) > 25 and sum(counts) == 400
    assert 150 < sum(point["depth/stage1"] == 2 for point in points) < 250


@pytest.mark.slow
def test_the_search_is_better_than_chance():
    """In a space of twenty dimensions, half of which cost as much as they are worth."""
    names = [f"widths/{place}" for place in range(20)]
    space = Space(None, {name: Dimension(name, WIDTHS, 64) for name in names}, {})

    def score(point):
        gains = [1 - 2.0 ** (-point[name] / 8) for name in names[:10]]
        return Score(0.0, sum(gains) / 10)

    def ms(point):
        return sum(point.values()) / 64

    def tried(method, **options):
        return search_space(space, score, ms, method=method, trials=40, seed=0, **options)

    found, chance = tried("pareto"), tried("random")
    assert hypervolume(found, (0.0, 20.0)) > 1.05 * hypervolume(chance, (0.0, 20.0))
    for reward, value in REWARDS.items():
        rewarded = tried("pareto", reward=reward, target_ms=8.0)
        ours, theirs = best_of(rewarded, reward, 8.0), best_of(chance, reward, 8.0)
        assert value(ours.score.score, ours.ms, 8.0) > value(theirs.score.score, theirs.ms, 8.0)


def trials_of(*pairs):
    return [Trial(number, {}, Score(0.0, score), ms) for number, (score, ms) in enumerate(pairs)]


def test_fronts_and_their_areas():
    trials = trials_of((0.5, 2.0), (0.7, 4.0), (0.6, 4.0), (0.4, 3.0), (0.5, 2.0), (0.2, 1.0), (math.nan, 0.5))
    assert [trial.number for trial in front(trials)] == [5, 0, 1]
    # By hand: 4 x (0.2 - 0.1), 3 x (0.5 - 0.2), 1 x (0.7 - 0.5).
    assert hypervolume(trials, (0.1, 5.0)) == pytest.approx(0.4 + 0.9 + 0.2)
    assert hypervolume(trials, (0.1, 3.0)) == pytest.approx(2 * 0.1 + 1 * 0.3)
    assert hypervolume(trials, (0.7, 5.0)) == hypervolume([], (0.0, 5.0)) == 0.0


def test_the_area_is_optunas():
    import numpy as np
    from optuna._hypervolume import compute_hypervolume  # not public, so only the test takes it

    values = np.random.default_rng(0).uniform(
        (0.3, 0.0), (1.0, 0.8), (40, 2)
    )  # Optuna's takes none that is worse than the corner
    expected = compute_hypervolume(np.stack([-values[:, 0], values[:, 1]], 1), np.array([-0.3, 0.8]))
    assert hypervolume(trials_of(*values.tolist()), (0.3, 0.8)) == pytest.approx(expected)


def test_the_rewards_are_those_of_the_papers():
    assert REWARDS["mnasnet"](0.75, 160.0, 80.0) == pytest.approx(0.75 * 2**-0.07)
    assert REWARDS["mnasnet"](0.75, 40.0, 80.0) == pytest.approx(0.75 * 2**0.07)
    assert REWARDS["tunas"](0.75, 160.0, 80.0) == pytest.approx(0.75 - 0.07)
    assert REWARDS["tunas"](0.75, 40.0, 80.0) == pytest.approx(0.75 - 0.035)
    trials = trials_of((0.8, 4.0), (0.79, 2.0), (math.nan, 2.0), (0.3, 1.0))
    assert best_of(trials, "tunas", 2.0).number == 1
    with pytest.raises(RequestError, match="finite"):
        best_of(trials_of((math.nan, 1.0)), "tunas", 2.0)


def test_a_training_that_diverged_does_not_end_the_search():
    def broken(point):
        return Score(math.nan, math.nan) if point["widths/stage1_block1_a"] < 32 else evaluate(point)

    trials = search_space(SPACE, broken, latency, method="pareto", trials=20, seed=0)
    assert len(trials) == 20 and any(not trial.finite for trial in trials)
    assert all(trial.finite for trial in front(trials))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": "paretto"}, "'paretto'. Did you mean 'pareto'"),
        ({"trials": 0}, "trials=0"),
        ({"trials": True}, "trials=True"),
        ({"seed": -1}, "seed=-1"),
        ({"reward": "mnas"}, "Unknown reward 'mnas'. Did you mean 'mnasnet'"),
        ({"reward": "tunas", "target_ms": None}, "target_ms=None: the reward 'tunas' needs"),
        ({"reward": "tunas", "target_ms": -2.0}, "target_ms=-2.0"),
        ({"reward": "tunas", "method": "random"}, "follow no reward"),
        ({"done": [Trial(1, {}, Score(0.0, 0.0), 1.0)]}, "have the number 1 in place 0"),
        ({"done": [Trial(0, {"widths/other": 8}, Score(0.0, 0.0), 1.0)]}, "Unknown dimension 'widths/other'"),
    ],
)
def test_wrong_requests(options, told):
    with pytest.raises(RequestError, match=told):
        searched(**options)


def test_without_optuna_the_message_says_how_to_get_it(monkeypatch):
    genuine = builtins.__import__

    def refuse(name, *arguments, **options):
        if name == "optuna":
            raise ImportError("No module named 'optuna'", name="optuna")
        return genuine(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(RequestError, match=r"pip install 'mobilenets-tf\[search\]'"):
        searched()
    assert len(searched("random")) == 24  # needs none


def test_optuna_is_quiet(caplog, capfd):
    before = optuna.logging.get_verbosity()
    optuna.logging.enable_propagation()
    try:
        searched(trials=3)
    finally:
        optuna.logging.disable_propagation()
    assert caplog.records == [] and capfd.readouterr().err == ""
    assert optuna.logging.get_verbosity() == before
