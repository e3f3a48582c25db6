"""What ReLU loses in few dimensions: MobileNetV2's figure 1 (arXiv 1801.04381), drawn and counted.

A spiral in the plane goes through a random matrix to n dimensions, through ReLU, and back by the matrix's
pseudoinverse. A point can be found again if at least two of the n values are above 0: they are two equations for its
two coordinates. Each value is above 0 for half of all random directions, so (n + 1) / 2^n of the points are expected to
be lost.
"""

import numpy as np

TITLE = "MobileNetV2: a spiral through ReLU"
DIMENSIONS = (2, 3, 5, 15, 30)
POINTS, DRAWS = 400, 1000


def spiral(points: int = POINTS, turns: float = 2.25) -> np.ndarray:
    """Give points of a spiral around the origin, (points, 2)."""
    angle = np.linspace(0.05, 1, points) * turns * 2 * np.pi
    radius = angle / angle[-1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def through_relu(points: np.ndarray, dimensions: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Send points to so many dimensions, through ReLU and back.

    Returns:
        The points that come back, (N, 2), and bool (N,): which can be found again.
    """
    matrix = random.normal(size=(2, dimensions))
    above = np.maximum(points @ matrix, 0)
    return above @ np.linalg.pinv(matrix), (above > 0).sum(1) >= 2


def lost(dimensions: int, draws: int = DRAWS) -> float:
    """Give the share of the spiral's points that cannot be found again, the mean of random matrices."""
    random = np.random.default_rng(0)
    return float(np.mean([~through_relu(spiral(), dimensions, random)[1] for _ in range(draws)]))


def expected(dimensions: int) -> float:
    """Give the share that is lost according to probability."""
    return (dimensions + 1) / 2**dimensions


def measure() -> dict:
    """Give the figures of the page."""
    return {"rows": [{"dimensions": n, "lost": lost(n), "expected": expected(n)} for n in DIMENSIONS]}
