"""The signal-to-noise ratio."""

import numpy as np


def signal_to_noise(signal: float, noise: float) -> float:
    """The ratio of two powers in dB; infinite where there is no noise.

    Args:
        signal: the sum of squares of the reference's values. noise: the sum of squares of the differences from it.
    """
    return float(10 * np.log10(max(signal, 1e-30) / noise)) if noise else float("inf")
