"""95 % intervals of the change of a score: of counts, and by resampling the images."""

import numpy as np
import pytest

from mobilenets_tf.tasks import intervals, task_of
from mobilenets_tf.tasks.metrics import ResampledPrecision, average_precision, matched
from tests.tasks.test_metrics import LEFT, RIGHT, SHORT, TOP, found, truth


def test_the_interval_of_paired_answers():
    # By hand: -1/374 +- 1.95996 * sqrt((7/374 - (1/374)^2) / 374).
    low, high = intervals.of_shares(3, 2, 372)
    assert (low, high) == pytest.approx((-0.01653, 0.01118), abs=5e-5)
    assert intervals.of_shares(0, 0, 372)[0] == pytest.approx(-0.00741, abs=5e-5)
    assert intervals.of_shares(1, 0, 1) == (-1, pytest.approx(0.73, abs=0.01))  # one image says nearly nothing


def test_nineteen_of_twenty_intervals_hold_the_true_change():
    random, held = np.random.default_rng(0), 0
    for _ in range(400):
        drawn = random.choice(3, size=200, p=(0.05, 0.03, 0.92))
        low, high = intervals.of_shares(int((drawn == 0).sum()), int((drawn == 1).sum()), 200)
        held += low <= -0.02 <= high
    assert 0.93 <= held / 400 <= 0.98


def test_resampling_gives_about_the_interval_of_the_formula():
    before = np.array([1.0] * 330 + [0] * 42)
    after = np.array([0.0] * 12 + [1] * 318 + [1] * 5 + [0] * 37)
    low, high = intervals.of_resamples(lambda weights: weights @ (after - before) / 372, 372)
    assert (low, high) == pytest.approx(intervals.of_shares(12, 5, 372), abs=0.004)
    assert intervals.of_resamples(lambda weights: weights[:, 0], 1) is None
    assert intervals.of_resamples(lambda weights: np.full(len(weights), np.nan), 9) is None


DETECTIONS = [
    found((SHORT, 0, 0.7), (LEFT, 0, 0.9), (TOP, 0, 0.8)), found((LEFT, 0, 0.1), (RIGHT, 1, 0.5)),
    found((LEFT, 1, 0.6)), found(),
]  # fmt: skip
TRUTHS = [truth((LEFT, 0), (RIGHT, 0)), truth((LEFT, 1)), truth((LEFT, 1), (TOP, 0, True)), truth((RIGHT, 0))]


def test_the_precision_of_drawn_images_is_cocos():
    drawn = ResampledPrecision(matched(DETECTIONS, TRUTHS, "abc"))
    every, two = np.ones(4), np.array([1.0, 0, 1, 0])
    expected = [
        average_precision(DETECTIONS, TRUTHS, "abc")["map50"],
        average_precision(DETECTIONS[::2], TRUTHS[::2], "abc")["map50"],
    ]
    np.testing.assert_allclose(drawn(np.stack([every, two])), expected)


def test_every_meter_gives_an_interval_around_its_change():
    random = np.random.default_rng(0)
    meters = {name: [task_of(name).meter("abc") for _ in range(2)] for name in ("classify", "detect", "segment")}
    for index in range(40):
        label, mask = index % 3, random.integers(0, 3, (4, 4))
        worse = np.where(random.random((4, 4)) < 0.3, 0, mask)
        for place, meter in enumerate(meters["classify"]):
            meter.add(np.eye(3)[(label + (place and index % 5 == 0)) % 3], label)
        meters["detect"][0].add(found((LEFT, label, 0.9)), truth((LEFT, label)))
        meters["detect"][1].add(found((RIGHT if index % 5 == 0 else LEFT, label, 0.9)), truth((LEFT, label)))
        meters["segment"][0].add(mask, mask)
        meters["segment"][1].add(worse, mask)
    for name, (before, after) in meters.items():
        low, high = after.interval(before)
        assert -1 < low < -after.lost(before) < high < 0.01, name
        same = before.interval(before)
        assert same[0] <= 0 <= same[1] and same[1] - same[0] < 0.14
