"""Range estimators: from an activation's statistics to the (low, high) that its integers will span.

Each is a function of Statistics and the number of levels. Zero is always inside: padding and ReLU need it exact.
"""

import numpy as np

from mobilenets_tf.quantize.statistics import Statistics

# A tensor that is always zero still needs a scale above zero.
_SMALLEST = 1e-6


def min_max(statistics: Statistics) -> tuple[float, float]:
    """Everything that was seen, nothing clipped."""
    low, high = min(statistics.low, 0.0), max(statistics.high, 0.0)
    return (low, high) if high - low > _SMALLEST else (0.0, _SMALLEST)


def mean_square_error(statistics: Statistics, levels: int = 256) -> tuple[float, float]:
    """The range with the least expected squared error of rounding and clipping together, over the histogram.

    The two ends are searched in turn among 71 fractions (1.0 down to 0.3) of the extremes, twice.
    """
    low, high = min_max(statistics)
    used = statistics.counts > 0
    values, weights = statistics.centres()[used], statistics.counts[used]
    fractions = np.linspace(1.0, 0.3, 71)

    def error(a, b):
        scale = np.maximum(b - a, _SMALLEST) / (levels - 1)
        rounded = np.clip(np.round((values - a) / scale), 0, levels - 1) * scale + a
        return float(weights @ (rounded - values) ** 2)

    best_low, best_high = low, high
    for _ in range(2):
        best_high = min((high * fractions if high > 0 else [high]), key=lambda b: error(best_low, b))
        best_low = min((low * fractions if low < 0 else [low]), key=lambda a: error(a, best_high))
    return float(best_low), float(best_high)


def symmetric(statistics: Statistics) -> tuple[float, float]:
    """Everything that was seen, zero in the middle: what 16-bit kernels require."""
    low, high = min_max(statistics)
    magnitude = max(-low, high)
    return -magnitude, magnitude
