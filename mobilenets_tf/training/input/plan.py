"""The images and the size of each batch: a function of the step alone, so that a training can resume at any step."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.training.recipes import Recipe


@dataclass(frozen=True)
class Step:
    """One batch: its places in the endless stream of images, the size of the input, the strength of augmentation.

    begin, count: places ``begin`` to ``begin + count``. size: of the input in pixels. strength: of the augmentation.
    """

    begin: int
    count: int
    size: int
    strength: float


class Plan:
    """All steps of a training.

    The images are an endless stream: a permutation of all of them, then another one. A batch takes the next
    ``count``, so that no image is left out where the batch size does not divide their number. Where a recipe has
    several scales, each batch draws a scale, and batches of smaller images have more images (variable_batch_sampler
    of apple/ml-cvnets).

    Args:
        recipe: batch size, epochs, stages, scales.
        images: how many there are.
        size: the network's input in pixels; other sizes are multiples of 32 near their share of it.
        replicas: that share each batch evenly.
        seed: of permutations and scales.

    Raises:
        RequestError: a batch cannot be shared evenly, or there are fewer images than replicas.
    """

    def __init__(self, recipe: Recipe, images: int, size: int, *, replicas: int = 1, seed: int = 0):
        if images < replicas:
            raise RequestError(f"{images} images for {replicas} replicas: there must be at least one each.")
        batch = min(recipe.batch_size, images // replicas * replicas)
        if batch % replicas:
            raise RequestError(
                f"A batch of {batch} cannot be shared by {replicas} replicas; use a multiple of {replicas}."
            )
        self.images, self.seed, self.recipe, self.replicas = images, seed, recipe, replicas
        self._sizes = np.array([_rounded(size * scale, size) for scale in recipe.scales])
        shares = batch * (size / self._sizes) ** 2 / replicas
        self._counts = np.maximum(1, shares.astype(int)) * replicas
        self.steps_per_epoch = max(1, round(images / self._counts.mean()))
        self.steps = self.steps_per_epoch * recipe.epochs
        drawn = np.random.default_rng([seed, 1]).integers(len(recipe.scales), size=self.steps)
        self._drawn = drawn
        self._begins = np.concatenate([[0], np.cumsum(self._counts[drawn])])
        self._stage_sizes = [_rounded(size * stage.size, size) for stage in recipe.stages]

    def __getitem__(self, step: int) -> Step:
        if not 0 <= step < self.steps:
            raise IndexError(step)
        epoch = step // self.steps_per_epoch
        stage = max(i for i, stage in enumerate(self.recipe.stages) if stage.begin <= epoch)
        scale = self._drawn[step]
        # A recipe has stages or scales, not both.
        size = self._sizes[scale] if len(self._sizes) > 1 else self._stage_sizes[stage]
        begin = int(self._begins[step])
        return Step(begin, int(self._counts[scale]), int(size), self.recipe.stages[stage].strength)

    def image(self, place: int) -> int:
        """Return the number of the image at a place of the stream."""
        pass_number, place = divmod(place, self.images)
        return int(_permutation(self.images, self.seed, pass_number)[place])


@lru_cache(maxsize=4)  # batches of two passes may be under way at once
def _permutation(count: int, seed: int, pass_number: int) -> np.ndarray:
    return np.random.default_rng([seed, 0, pass_number]).permutation(count)


def _rounded(size: float, full: int) -> int:
    """Round an input size to a multiple of 32, the largest stride, as in the papers; keep the network's own size."""
    return full if round(size) == full else max(32, round(size / 32) * 32)
