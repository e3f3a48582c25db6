"""Random erasing, mixup and CutMix of a batch, in the graph of a tf.data pipeline.

Sources: arXiv 1708.04896 (erasing), 1710.09412 (mixup), 1905.04899 (CutMix); apple/ml-cvnets for the order:
erasing first, then mixup or CutMix, drawn for each batch.
"""

import math

import keras
import tensorflow as tf

from mobilenets_tf.training.recipes import Augment

_ERASED_AREA = (0.02, 0.33)
_ERASED_ASPECT = (0.3, 1 / 0.3)


def mixed(pixels: tf.Tensor, targets: tf.Tensor, augment: Augment, seed) -> tuple[tf.Tensor, tf.Tensor]:
    """Apply ``augment.erase``, ``mixup`` and ``cutmix`` to pixels and targets; without these, change nothing.

    pixels: float32 of shape (n, height, width, 3), 0-255. n, height and width may be known or not.
    targets: float32 of shape (n, classes); each image's sum stays unchanged.
    seed: int32 or int64 of shape (2,), the only source of chance: the result is a function of the arguments, the same
        in a graph and outside.
    """
    # Each step has a seed of its own, whichever steps there are: in a graph both branches of a choice are drawn.
    choice, erase, mixup, cutmix = (tf.random.experimental.stateless_fold_in(seed, step) for step in range(4))
    if augment.erase:
        pixels = _erased(pixels, augment.erase, erase)
    if augment.mixup and augment.cutmix:
        return tf.cond(
            tf.random.stateless_uniform((), choice) < 0.5,
            lambda: _mixup(pixels, targets, augment.mixup, mixup),
            lambda: _cutmix(pixels, targets, augment.cutmix, cutmix),
        )
    if augment.mixup:
        return _mixup(pixels, targets, augment.mixup, mixup)
    if augment.cutmix:
        return _cutmix(pixels, targets, augment.cutmix, cutmix)
    return pixels, targets


class _Seeds(keras.random.SeedGenerator):
    """Gives Keras' layers their seeds, without a state that outlives a call."""

    def __init__(self, seed):  # the parent's would make a variable
        self.seed, self.drawn = seed, 0

    def next(self, ordered=True):
        self.drawn += 1
        return tf.random.experimental.stateless_fold_in(self.seed, self.drawn)


def _mixup(pixels, targets, alpha: float, seed):
    layer, drawn = _pairs(pixels, alpha, seed)
    return layer.transform_images(pixels, drawn), layer.transform_labels(targets, drawn)


def _pairs(pixels, alpha: float, seed) -> tuple[keras.layers.MixUp, dict[str, tf.Tensor]]:
    """Return Keras' mixup layer and its draw: each image's partner and the image's own share, of Beta(alpha, alpha)."""
    # The layer makes a variable for its own random state, which tf.function forbids; nothing uses the variable, so it
    # goes into a graph that is thrown away. float32 whatever Keras' policy is: these are pixels.
    with tf.Graph().as_default():
        layer = keras.layers.MixUp(alpha, dtype="float32")
    return layer, layer.get_random_transformation(pixels, seed=_Seeds(seed))


def _cutmix(pixels, targets, alpha: float, seed):
    """Paste a rectangle of its partner into each image: ``1 - Beta(alpha, alpha)`` of the area, less the part that the
    border cuts off.

    This follows the paper. Keras' layer differs: its label weights are those of the rectangle before rounding to whole
    pixels (up to 6 % of a 32 x 32 image off), its rectangles never reach over the border, alpha is at most 1, and it
    fails where height and width are unknown.
    """
    pairing, placing = tf.unstack(tf.random.split(seed))
    layer, drawn = _pairs(pixels, alpha, pairing)
    size = _size(pixels)
    half = tf.floor(tf.sqrt(1 - drawn["mix_weight"])[:, None] * size / 2)
    centre = tf.floor(tf.random.stateless_uniform(tf.shape(half), placing) * size)
    inside = _rectangles(pixels, centre - half, centre + half)
    share = 1 - tf.reduce_mean(tf.cast(inside, tf.float32), (1, 2, 3))
    pixels = tf.where(inside, tf.gather(pixels, drawn["permutation_order"]), pixels)
    return pixels, layer.transform_labels(targets, drawn | {"mix_weight": share})


def _erased(pixels, chance: float, seed):
    """Paint a black rectangle into each image with this chance, as torchvision's RandomErasing, which ml-cvnets uses.

    Keras' layer is not used: it fails where height and width are unknown, and half of its noise is black, since the
    noise is Gaussian around zero and clipped.
    """
    size = _size(pixels)
    struck, area, aspect, top, left = tf.unstack(tf.random.stateless_uniform((5, tf.shape(pixels)[0]), seed))
    area = (_ERASED_AREA[0] + area * (_ERASED_AREA[1] - _ERASED_AREA[0])) * tf.reduce_prod(size)
    low, high = map(math.log, _ERASED_ASPECT)
    aspect = tf.exp(low + aspect * (high - low))
    sides = tf.clip_by_value(tf.round(tf.sqrt(tf.stack([area / aspect, area * aspect], 1))), 1, size)
    first = tf.floor(tf.stack([top, left], 1) * (size - sides + 1))
    inside = _rectangles(pixels, first, first + sides) & (struck < chance)[:, None, None, None]
    return tf.where(inside, 0.0, pixels)


def _size(pixels) -> tf.Tensor:
    """Return height and width, as float32 of shape (2,)."""
    return tf.cast(tf.shape(pixels)[1:3], tf.float32)


def _rectangles(pixels, first, past) -> tf.Tensor:
    """Mark the pixels in each image's rectangle, as bool of shape (n, height, width, 1).

    first, past: row and column where a rectangle begins and ends, float32 of shape (n, 2); may be outside the image.
    """
    height, width = tf.unstack(_size(pixels))
    row, column = tf.range(height), tf.range(width)
    rows = (row >= first[:, :1]) & (row < past[:, :1])
    columns = (column >= first[:, 1:]) & (column < past[:, 1:])
    return rows[:, :, None, None] & columns[:, None, :, None]
