"""NetAdapt's rounds, with a trainer that computes its losses from the widths: no network, no TensorFlow."""

import copy

import numpy as np
import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.search.netadapt import EVENLY, Course, NetAdapt, Options, widths_of
from mobilenets_tf.search.score import Score

GROUPS = {"stem": 16, "wide": 64, "narrow": 32}
# ms of a slice, and what the loss loses with its weakest slices.
COSTS = {"stem": 0.02, "wide": 0.01, "narrow": 0.005}
WORTH = {"stem": 1.0, "wide": 0.1, "narrow": 0.5}


def latency(widths):
    return 0.1 + sum(COSTS[name] * widths.get(name, width) for name, width in GROUPS.items())


class Trainer:
    """The loss is what the slices that are off are worth; training adds one to the state."""

    def __init__(self):
        self._state, self._kept = {"steps": np.zeros(1)}, {}
        self.trained = []

    def batches(self, first, count):
        return list(range(first, first + count))

    def state(self):
        return copy.deepcopy(self._state)

    def restore(self, state, kept):
        self._state, self._kept = copy.deepcopy(state), kept

    def train(self, batches):
        self.trained.append(list(batches))
        self._state["steps"] += len(batches)

    def _lost(self):
        return sum(WORTH[name] * (np.arange(len(stays)) + 1.0)[~stays].sum() for name, stays in self._kept.items())

    def loss(self, batches):
        return self._lost()

    def importance(self, batches):
        return {name: np.arange(width) + 1.0 for name, width in GROUPS.items()}

    def score(self):
        return Score(self._lost() / (1 + self._state["steps"][0] / 1000), 1 - self._lost() / 1e4)


def search(target_ms, course=None, keep=lambda course: None, **options):
    rounds = NetAdapt(Trainer(), latency, GROUPS, target_ms, Options(**{"steps": 4, "tried": 2, **options}))
    course = course or rounds.start()
    rounds.run(course, keep)
    return course


def test_the_target_is_met_and_the_cheapest_channels_go_first():
    target = latency({}) * 0.6
    course = search(target)
    assert latency(widths_of(course.kept)) <= target
    assert course.rounds[-1]["ms"] == pytest.approx(latency(widths_of(course.kept)))
    assert course.rounds[0]["chosen"] == "wide"  # worth a tenth of the stem's channels, at half of their time
    stays = course.kept["wide"]
    assert not stays[: (~stays).sum()].any()  # the slices with the lowest importance


def test_a_round_tries_each_group_and_all_together_and_trains_a_few_on_the_same_batches():
    trainer = Trainer()
    rounds = NetAdapt(trainer, latency, GROUPS, latency({}) * 0.9, Options(step=0.05, steps=4, tried=2))
    course = rounds.start()
    rounds.run(course)
    first = course.rounds[0]
    assert [proposal["name"] for proposal in first["proposals"]] == ["stem", "wide", "narrow", EVENLY]
    assert all(latency({}) - proposal["ms"] >= first["asked_ms"] - 1e-9 for proposal in first["proposals"])
    assert sum("score" in proposal for proposal in first["proposals"]) == 2
    assert trainer.trained[:3] == [[0, 1, 2, 3]] * 3  # two proposals, and the network with nothing taken away
    assert first["proposals"][0]["widths"] == {"stem": 8}
    assert set(first["unchanged"]) == {"loss", "score"}


def test_what_is_saved_beyond_the_target_is_worth_nothing():
    """The stem costs three times the loss of the others and saves much more of the latency than is asked for."""
    costs, lost = {"stem": 0.06, "wide": 0.01, "narrow": 0.005}, {"stem": 60.0, "wide": 20.0, "narrow": 40.0}

    def steep(widths):
        return sum(costs[name] * widths.get(name, width) for name, width in GROUPS.items())

    class Steep(Trainer):
        def _lost(self):
            return sum(lost[name] for name, stays in self._kept.items() if not stays.all())

    whole = steep({})
    rounds = NetAdapt(Steep(), steep, GROUPS, whole - 0.08, Options(step=0.5, steps=4, tried=4))
    course = rounds.start()
    rounds.run(course)
    by_name = {proposal["name"]: proposal for proposal in course.rounds[0]["proposals"]}
    assert by_name["stem"]["loss"] / (whole - by_name["stem"]["ms"]) < by_name["wide"]["loss"] / 0.08
    assert [row["chosen"] for row in course.rounds] == ["wide"]


def test_each_round_asks_for_less_than_the_round_before():
    asked = [row["asked_ms"] for row in search(latency({}) * 0.5, step=0.1, decay=0.9).rounds]
    assert asked[0] == pytest.approx(0.1 * latency({}))
    assert asked[1] == pytest.approx(0.9 * asked[0])


def test_an_interrupted_search_goes_on_to_the_same_history():
    saved = []
    whole = search(latency({}) * 0.4, keep=lambda course: saved.append(copy.deepcopy(course)))
    assert len(whole.rounds) == len(saved) > 5
    for course in saved:
        again = search(latency({}) * 0.4, Course(course.kept, course.state, course.rounds))
        assert again.rounds == whole.rounds
        assert widths_of(again.kept) == widths_of(whole.kept)


@pytest.mark.parametrize(("target", "words"), [(0.99, "not below"), (0.1, "out of reach: with 8 channels")])
def test_a_target_out_of_reach_is_refused_before_any_round(target, words):
    with pytest.raises(RequestError, match=words):
        search(target if target < 0.5 else latency({}) + 0.1)


def test_rounds_that_ask_for_too_little_in_all_are_refused_before_any_round():
    with pytest.raises(RequestError, match=r"200 rounds, .* ask for 10.0% .* the target is 50.0% less"):
        search(latency({}) * 0.5, step=0.05, decay=0.5)


class DivergingTrainer(Trainer):
    """The training of a network whose stem has lost channels diverges."""

    def score(self):
        return Score(np.nan, 0.1) if self._kept and not self._kept["stem"].all() else super().score()


def test_a_proposal_whose_training_diverges_is_not_taken_and_without_another_one_the_search_ends(monkeypatch):
    monkeypatch.setitem(WORTH, "stem", 1e-9)  # the cheapest without training, and so the first that is trained
    rounds = NetAdapt(DivergingTrainer(), latency, GROUPS, latency({}) * 0.9, Options(steps=4, tried=2))
    course = rounds.start()
    rounds.run(course)
    assert all(row["chosen"] not in ("stem", EVENLY) for row in course.rounds)
    assert all(np.isfinite([row["loss"], row["score"]]).all() for row in course.rounds)
    rounds = NetAdapt(DivergingTrainer(), latency, GROUPS, latency({}) * 0.9, Options(steps=4, tried=1))
    with pytest.raises(RequestError, match="round 1: the training diverges. Lower the learning rate"):
        rounds.run(rounds.start())
