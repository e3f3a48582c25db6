"""How sure a difference of accuracies is: a bootstrap over test images, pair by pair, and over seeds."""

import numpy as np

RESAMPLES = 4000


def gain(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Give the mean gain of the second over the first, and its 95 % interval.

    Both are bool (seeds, images): whether an answer is right. Each resample of the bootstrap draws the images, the same
    ones for both, and the seeds.
    """
    return _interval(second.astype(np.float64) - first)


def accuracy(right: np.ndarray) -> tuple[float, float, float]:
    """Give the mean of right answers, bool (seeds, images), and its 95 % interval over images and seeds."""
    return _interval(right.astype(np.float64))


def _interval(values: np.ndarray) -> tuple[float, float, float]:
    random = np.random.default_rng(0)
    seeds, count = values.shape
    # Images with the same values in all seeds are interchangeable: drawing how many of each kind is as good, and fast.
    kinds, images = np.unique(values, axis=1, return_counts=True)
    of_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    of_kinds = random.multinomial(count, images / count, RESAMPLES) / count
    low, high = np.percentile(((of_seeds @ kinds) * of_kinds).sum(1), (2.5, 97.5))
    return float(values.mean()), float(low), float(high)
