"""How well a candidate does."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """How a network answers the images that candidates are compared on.

    loss: of its answers, which tells candidates apart on fewer images than the score does. Of a task whose objective
        has no loss of whole images, the score with the other sign.
    score: the task's own, such as the top-1.
    """

    loss: float
    score: float

    @property
    def finite(self) -> bool:
        """Whether the training gave numbers; it has diverged otherwise."""
        return math.isfinite(self.loss) and math.isfinite(self.score)
