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
    found = []
    for _ in range(RESAMPLES):
        of_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds)) / seeds
        of_images = random.multinomial(count, np.full(count, 1 / count)) / count
        found.append(of_seeds @ values @ of_images)
    low, high = np.percentile(found, (2.5, 97.5))
    return float(values.mean()), float(low), float(high)
