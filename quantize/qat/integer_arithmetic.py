"""Compute what the phone computes, integer for integer, in TensorFlow ops that have gradients.

An activation is a float32 tensor of *levels*: the stored integers minus their zero point, so that the level 0 is the
real value 0. Products of 8-bit integers, and their sums up to 2^24, are exact in float32 in any order of addition, so a
stock convolution of levels gives exactly the accumulators of an integer kernel. Kernels differ in how accumulators
become levels again. Here they do as in XNNPACK, LiteRT's default on every phone's processor (its "fp32" requantisation
and ``xnn_qs8_vadd`` kernels), and, for the few ops that XNNPACK leaves to LiteRT, as in LiteRT's own kernels.

Rounding passes gradients unchanged (Bengio et al. 2013, arXiv 1308.3432); the gradient of a clipped value goes to the
range's end (Jacob et al. 2018, arXiv 1712.05877). If this arithmetic were not exact, one level in some thousands would
be off by one, and every later layer would multiply such errors: after twenty layers the rounding errors of a model and
of its file would have nothing in common.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mobilenets_tf.quantize.integers import SAME_SCALE

LOWEST, HIGHEST = -128, 127
# A decorator: TensorFlow traces the function as it is. Turning Python's conditions and loops into TensorFlow's would
# take most of the time in which a model is made, and here none depends on a tensor.
not_converted = tf.autograph.experimental.do_not_convert


class Levels(NamedTuple):
    """How levels stand for real values: real = scale x level. All are float32 scalars.

    lowest, highest: the levels that eight bits hold; their gradients are those of the range's ends.
    zero_point: the stored integer of the level 0.
    """

    scale: tf.Tensor
    lowest: tf.Tensor
    highest: tf.Tensor
    zero_point: tf.Tensor


def fixed(scale: float, zero_point: int) -> Levels:
    """Make levels whose scale is not trained."""
    return Levels(*(tf.constant(value, tf.float32) for value in (scale, LOWEST - zero_point, HIGHEST - zero_point)),
                  tf.constant(zero_point, tf.float32))  # fmt: skip


def spanning(low: tf.Tensor, high: tf.Tensor) -> Levels:
    """Make levels that reach from ``low`` to ``high`` (float64 scalars, low <= 0 <= high) as ``integers.Form.spanning``
    does.
    """
    exact = tf.stop_gradient(tf.cast((high - low) / (HIGHEST - LOWEST), tf.float32))
    scale = tf.cast(exact, tf.float64)
    zero_point = tf.stop_gradient(tf.clip_by_value(tf.round(LOWEST - low / scale), LOWEST, HIGHEST))

    def end(limit, real):
        gradient = tf.cast((real - tf.stop_gradient(real)) / scale, tf.float32)  # zero, with the end's gradient
        return tf.cast(limit - zero_point, tf.float32) + gradient

    return Levels(exact, end(LOWEST, low), end(HIGHEST, high), tf.cast(zero_point, tf.float32))


def store(values: tf.Tensor, levels: Levels, activation: str = "linear") -> tf.Tensor:
    """Round to whole levels, half to even, and clip to the levels of eight bits and of a fused activation.

    Args:
        values: levels that are not whole yet.
        levels: of the result.
        activation: "linear", "relu" or "relu6".
    """
    lowest, highest = levels.lowest, levels.highest
    if activation in ("relu", "relu6"):
        lowest = tf.maximum(lowest, 0.0)
    if activation == "relu6":
        highest = tf.minimum(highest, tf.round(6.0 / levels.scale))
    return _store(values, lowest, highest)


@tf.custom_gradient
def _store(values, lowest, highest):
    def gradient(upstream):
        return tf.quantization.fake_quant_with_min_max_vars_gradient(upstream, values, lowest, highest)

    return tf.clip_by_value(tf.round(values), lowest, highest), gradient


def rounded(values: tf.Tensor) -> tf.Tensor:
    """Round to whole numbers, half to even; the gradient is that of the unrounded values."""
    return _with_gradient_of(values, tf.round(values))


@tf.custom_gradient
def _with_gradient_of(smooth, exact):
    return exact, lambda upstream: (upstream, None)


# Ops on levels: (levels of the inputs, their Levels, the result's Levels, the op on real values, options) -> levels of
# the result, not clipped, and not rounded unless the kernel rounds in its own way.


def _add(inputs, sources, result, real, options, sign=1):
    """Add in fixed point: multiply each input by an integer of at most 21 bits, then shift and round half up."""
    ratios = [source.scale / result.scale for source in sources]
    shift = 20 - _exponent(tf.maximum(*ratios))
    factors = [tf.cast(tf.round(ratio * _power_of_two(shift)), tf.int32) for ratio in ratios]
    first, second = (tf.cast(values, tf.int32) * factor for values, factor in zip(inputs, factors, strict=True))
    total = first + sign * second + tf.bitwise.left_shift(1, shift - 1)
    exact = tf.cast(tf.bitwise.right_shift(total, shift), tf.float32)
    return _with_gradient_of(inputs[0] * ratios[0] + inputs[1] * (sign * ratios[1]), exact)


def _subtract(*arguments):
    return _add(*arguments, sign=-1)


def _exponent(value):
    """Compute the integer part of log2 of a positive float32 scalar."""
    return tf.bitwise.right_shift(tf.bitcast(value, tf.int32), 23) - 127


def _power_of_two(exponent):
    return tf.bitcast(tf.bitwise.left_shift(exponent + 127, 23), tf.float32)


def _multiply(inputs, sources, result, real, options):
    return inputs[0] * inputs[1] * (sources[0].scale * sources[1].scale / result.scale)


def _mean(inputs, sources, result, real, options):
    total = tf.reduce_sum(inputs[0], options["axes"], options["keep_dims"])
    count = math.prod(inputs[0].shape[axis] for axis in options["axes"])
    mean = total * (sources[0].scale / result.scale / count)
    # Unlike others, this kernel rounds with the zero point included: with an odd one, halves go to the other side.
    return _with_gradient_of(mean, tf.round(mean + result.zero_point) - result.zero_point)


def _softmax(inputs, sources, result, real, options):
    """Round half up, as LiteRT's own kernel does."""
    smooth = real(inputs[0] * sources[0].scale, **options) / result.scale
    return _with_gradient_of(smooth, tf.floor(smooth + 0.5))


def _average(inputs, sources, result, real, options):
    """Round the mean of the stored integers half away from zero, as LiteRT's own kernel does."""
    mean = real(inputs[0], **options) + result.zero_point
    return _with_gradient_of(mean, _half_away(mean)) - result.zero_point


def _interpolate(inputs, sources, result, real, options):
    """Round half up. XNNPACK's interpolation weights have eleven bits, so the result can be one level off where the
    ratio of the sizes is no power of two.
    """
    mean = real(inputs[0], **options)
    return _with_gradient_of(mean, tf.floor(mean + 0.5))


def _quantize(inputs, sources, result, real, options):
    """Multiply real values by the reciprocal scale, or levels of another scale by a factor of eight fractional bits."""
    if sources[0] is None:
        return inputs[0] * (1.0 / result.scale)
    ratio = sources[0].scale / result.scale
    return _with_gradient_of(inputs[0] * ratio, tf.floor((inputs[0] * tf.round(256.0 * ratio) + 128.0) / 256.0))


def _leaky_relu(inputs, sources, result, real, options):
    """Multiply by one of two factors of eight fractional bits."""
    ratio = sources[0].scale / result.scale
    factors = tf.where(inputs[0] < 0, tf.round(256.0 * (ratio * options["alpha"])), tf.round(256.0 * ratio))
    return _with_gradient_of(real(inputs[0] * ratio, **options), tf.floor((inputs[0] * factors + 128.0) / 256.0))


def _prelu(inputs, sources, result, real, options):
    """Multiply negative levels by those of the slopes, and all in fixed point, as LiteRT's own kernel does."""
    values, slopes, scale = (tf.cast(each, tf.float64) for each in (*inputs, result.scale))
    own, slope = (tf.cast(source.scale, tf.float64) for source in sources)
    exact = tf.where(values < 0, _fixed_point(values * slopes, own * slope / scale), _fixed_point(values, own / scale))
    reals = [levels * source.scale for levels, source in zip(inputs, sources, strict=True)]
    return _with_gradient_of(real(*reals, **options) / result.scale, tf.cast(exact, tf.float32))


def _fixed_point(values, ratio):
    """Multiply whole numbers by a ratio that is stored as a fraction of 31 bits, 1/2 to 1, and a shift. The product is
    rounded, half away from zero, before the shift and after.
    """
    shift = 1.0 + tf.floor(tf.math.log(ratio) / math.log(2))
    fraction = tf.round(ratio / 2.0**shift * 2**31) / 2**31
    left, right = 2.0 ** tf.maximum(shift, 0), 2.0 ** tf.maximum(-shift, 0)
    return _half_away(_half_away(values * left * fraction) / right)


def _half_away(values):
    """Round half away from zero."""
    return tf.sign(values) * tf.floor(tf.abs(values) + 0.5)


def _input(inputs, sources, result, real, options):
    """Divide by the scale, as an application does that fills the file's input.

    In double precision: TensorFlow replaces a float32 division by a product with the reciprocal, and with a range of
    [-1, 1] every pixel lies halfway between two levels.
    """
    return tf.cast(tf.cast(inputs[0], tf.float64) / tf.cast(result.scale, tf.float64), tf.float32)


def _dequantize(inputs, sources, result, real, options):
    return inputs[0] * sources[0].scale


_ON_LEVELS = {
    "ADD": _add,
    "SUB": _subtract,
    "MUL": _multiply,
    "MEAN": _mean,
    "SOFTMAX": _softmax,
    "AVERAGE_POOL_2D": _average,
    "RESIZE_BILINEAR": _interpolate,
    "LEAKY_RELU": _leaky_relu,
    "PRELU": _prelu,
    "INPUT": _input,
    "QUANTIZE": _quantize,
    "DEQUANTIZE": _dequantize,
}


def compute(
    op: str,
    inputs: list[tf.Tensor | np.ndarray],
    sources: list[Levels | None],
    result: Levels | None,
    real: Callable,
    options: dict,
) -> tf.Tensor:
    """Compute an op on levels. The result is not rounded yet: ``store`` does that, with the fused activation.

    Args:
        op: the op's name in the schema, or "INPUT": real values to levels, as the application does it.
        inputs: the levels, as tensors, or as NumPy arrays where they are constant.
        sources: the Levels of each input, or None for real values.
        result: the Levels of the result; None for DEQUANTIZE, which gives real values.
        real: the op on real values. Kernels without a rule of their own look the result up in a table of 256 values,
            which this function computes from the real values.
        options: the op's options.
    """
    if op in _ON_LEVELS:
        return _ON_LEVELS[op](inputs, sources, result, real, options)
    if op in SAME_SCALE:
        return real(*inputs, **options)
    reals = [values * source.scale for values, source in zip(inputs, sources, strict=True)]
    return real(*reals, **options) / result.scale
