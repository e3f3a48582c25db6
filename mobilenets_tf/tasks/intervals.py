"""95 % intervals of the change of a score between two models that answered the same images.

Both models saw the same images, so the images' paired answers decide: an image that both models answer alike says
nothing about the change, however hard the image is.
"""

from collections.abc import Callable

import numpy as np

Interval = tuple[float, float]
_NORMAL = 1.959964  # the 97.5th percentile of the normal distribution
_RESAMPLES, _AT_A_TIME = 1000, 100


def of_shares(lost: int, won: int, images: int) -> Interval:
    """Return the interval of the change of a share of right answers.

    The adjusted Wald interval of D. G. Bonett and R. M. Price ("Adjusted Wald confidence interval for a difference of
    binomial proportions based on paired data", J. Educ. Behav. Stat. 37, 2012), which is wider than nothing even where
    no answer changed.

    Args:
        lost, won: how many images only the first, and only the second model has right. images: how many there are.
    """
    gone, gained = (lost + 1) / (images + 2), (won + 1) / (images + 2)
    change = gained - gone
    margin = _NORMAL * np.sqrt(max(gone + gained - change**2, 0.0) / (images + 2))
    return max(float(change - margin), -1.0), min(float(change + margin), 1.0)


def of_resamples(change: Callable[[np.ndarray], np.ndarray], images: int) -> Interval | None:
    """Return the interval of the change of any score: percentiles of a bootstrap over the images (B. Efron, 1979).

    The same arguments give the same interval: the images are drawn with a fixed seed.

    Args:
        change: a function of weights, float (n, images), how often each image was drawn for each of n samples, that
            returns the change of the score in each sample, (n,); NaN where a sample has no score.
        images: how many there are.

    Returns:
        None if there are fewer than two images, or hardly a sample has a score.
    """
    if images < 2:
        return None
    random, changes = np.random.default_rng(0), []
    for _ in range(_RESAMPLES // _AT_A_TIME):
        drawn = random.multinomial(images, np.full(images, 1 / images), size=_AT_A_TIME)
        changes.append(change(drawn.astype(np.float64)))
    known = np.concatenate(changes)
    known = known[~np.isnan(known)]
    if len(known) < _RESAMPLES / 2:
        return None
    low, high = np.percentile(known, (2.5, 97.5))
    return float(low), float(high)
