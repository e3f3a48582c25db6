"""benchmarks/bootstrap.py: intervals over images and seeds."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import bootstrap


def test_the_gain_is_paired():
    random = np.random.default_rng(1)
    hard = random.random((1, 1000)) < 0.5  # of one difficulty for all seeds and both methods
    theirs = np.repeat(hard, 3, axis=0)
    ours = theirs.copy()
    ours[:, :30] = True
    mean, low, high = bootstrap.gain(theirs, ours)
    assert mean == pytest.approx(np.mean(~hard[0, :30]) * 30 / 1000)
    assert 0 < low < mean < high < 0.03  # the images' own scatter, of 3 points, is not in the interval
    assert bootstrap.gain(theirs, theirs) == (0, 0, 0)
    ours[1:] = theirs[1:]
    assert bootstrap.gain(theirs, ours)[1] == 0  # one seed of three: chance may have drawn none of it


def test_the_interval_of_an_accuracy_holds_the_scatter_of_images_and_seeds():
    random = np.random.default_rng(2)
    right = random.random((3, 1000)) < 0.5
    mean, low, high = bootstrap.accuracy(right)
    assert mean == right.mean()
    assert high - low == pytest.approx(4 * np.sqrt(0.25 / 3000), rel=0.4)  # all answers are independent
    assert bootstrap.accuracy(np.repeat(right[:1], 3, 0))[2] > high  # equal seeds: a third of the answers
