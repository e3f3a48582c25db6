"""What the phone computes, integer for integer, in TensorFlow ops that can be trained through.

An activation is a float32 tensor of *levels*: the stored integers less their zero point, so that 0.0 is 0. Products of
8-bit integers and their sums up to 2^24 are exact in float32 in whatever order they are added, so a stock convolution
of levels gives the very accumulators of an integer kernel. What differs between kernels is how accumulators become
levels again; here they do as in XNNPACK, LiteRT's default on every phone's processor (its "fp32" requantisation and
``xnn_qs8_vadd`` kernels), and, for the few ops that XNNPACK leaves to LiteRT, as in LiteRT's own kernels.

Rounding passes gradients as they are (Bengio et al. 2013, arXiv 1308.3432); what is clipped moves the range's end
instead (Jacob et al. 2018, arXiv 1712.05877). Without the exactness, a level in some thousands would come out one off,
and every layer behind would multiply that: after twenty layers a model and its file would share no rounding error.
"""

import math
from typing import NamedTuple

import tensorflow as tf

from mobilenets_tf.quantize.integers import SAME_SCALE

LOWEST, HIGHEST = -128, 127


class Levels(NamedTuple):
    """How levels stand for real values: real = scale x level. Scalars, float32.

    lowest, highest: the levels that eight bits hold; their gradients are those of the range's ends.
    zero_point: what was taken off the stored integers.
    """

    scale: tf.Tensor
    lowest: tf.Tensor
    highest: tf.Tensor
    zero_point: tf.Tensor


def given(scale: float, zero_point: int) -> Levels:
    """Levels whose scale nothing trains."""
    return Levels(*(tf.constant(value, tf.float32) for value in (scale, LOWEST - zero_point, HIGHEST - zero_point)),
                  tf.constant(zero_point, tf.float32))  # fmt: skip


def spanning(low: tf.Tensor, high: tf.Tensor) -> Levels:
    """Levels from ``low`` to ``high`` (float64 scalars, low <= 0 <= high), as ``integers.Form.spanning`` has them."""
    exact = tf.stop_gradient(tf.cast((high - low) / (HIGHEST - LOWEST), tf.float32))
    scale = tf.cast(exact, tf.float64)
    zero_point = tf.stop_gradient(tf.clip_by_value(tf.round(LOWEST - low / scale), LOWEST, HIGHEST))

    def end(limit, real):
        moved = tf.cast((real - tf.stop_gradient(real)) / scale, tf.float32)  # zero, with the end's gradient
        return tf.cast(limit - zero_point, tf.float32) + moved

    return Levels(exact, end(LOWEST, low), end(HIGHEST, high), tf.cast(zero_point, tf.float32))


def store(values: tf.Tensor, levels: Levels, activation: str = "linear") -> tf.Tensor:
    """Round to whole levels, half to even, and clip to what eight bits hold and a fused activation lets through."""
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
    """To whole numbers, half to even, the gradient as it was."""
    return _with_gradient_of(values, tf.round(values))


@tf.custom_gradient
def _with_gradient_of(smooth, exact):
    return exact, lambda upstream: (upstream, None)


# Ops on levels: (inputs' levels, their Levels, the result's Levels, op on real values, options) -> levels of the
# result, neither rounded, unless the kernel does that in its own way, nor clipped.


def _add(inputs, sources, result, real, options, sign=1):
    """Fixed-point: each input times an integer of 21 bits at most, then a shift that rounds half up."""
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
    """The whole part of log2 of a positive float32 scalar."""
    return tf.bitwise.right_shift(tf.bitcast(value, tf.int32), 23) - 127


def _power_of_two(exponent):
    return tf.bitcast(tf.bitwise.left_shift(exponent + 127, 23), tf.float32)


def _multiply(inputs, sources, result, real, options):
    return inputs[0] * inputs[1] * (sources[0].scale * sources[1].scale / result.scale)


def _mean(inputs, sources, result, real, options):
    total = tf.reduce_sum(inputs[0], options["axes"], options["keep_dims"])
    count = math.prod(inputs[0].shape[axis] for axis in options["axes"])
    mean = total * (sources[0].scale / result.scale / count)
    # Here, unlike elsewhere, the kernel rounds with the zero point in: another half is the even one if that is odd.
    return _with_gradient_of(mean, tf.round(mean + result.zero_point) - result.zero_point)


def _softmax(inputs, sources, result, real, options):
    """LiteRT's own kernel rounds half up."""
    smooth = real(inputs[0] * sources[0].scale, **options) / result.scale
    return _with_gradient_of(smooth, tf.floor(smooth + 0.5))


def _average(inputs, sources, result, real, options):
    """LiteRT's own kernel rounds the stored integers' mean half away from zero."""
    mean = real(inputs[0], **options) + result.zero_point
    return _with_gradient_of(mean, tf.sign(mean) * tf.floor(tf.abs(mean) + 0.5)) - result.zero_point


def _interpolate(inputs, sources, result, real, options):
    """Rounds half up. XNNPACK's weights have eleven bits, so sizes that halves and quarters do not reach can be one
    level off."""
    mean = real(inputs[0], **options)
    return _with_gradient_of(mean, tf.floor(mean + 0.5))


def _quantize(inputs, sources, result, real, options):
    """From real values, times the reciprocal; or from levels of another scale, with eight bits behind the point."""
    if sources[0] is None:
        return inputs[0] * (1.0 / result.scale)
    ratio = sources[0].scale / result.scale
    return _with_gradient_of(inputs[0] * ratio, tf.floor((inputs[0] * tf.round(256.0 * ratio) + 128.0) / 256.0))


def _leaky_relu(inputs, sources, result, real, options):
    """Two factors with eight bits behind the point."""
    ratio = sources[0].scale / result.scale
    factors = tf.where(inputs[0] < 0, tf.round(256.0 * (ratio * options["alpha"])), tf.round(256.0 * ratio))
    return _with_gradient_of(real(inputs[0] * ratio, **options), tf.floor((inputs[0] * factors + 128.0) / 256.0))


def _input(inputs, sources, result, real, options):
    """Whoever fills the file's input divides and rounds half to even: in [-1, 1] every pixel lies half between two.

    In double precision, since TensorFlow would make a product with the reciprocal of it.
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
    "INPUT": _input,
    "QUANTIZE": _quantize,
    "DEQUANTIZE": _dequantize,
}


def compute(op: str, inputs: list, sources: list, result: Levels | None, real, options: dict) -> tf.Tensor:
    """The levels of an op's result, to be rounded by ``store``, which also knows the fused activation.

    Args:
        op: its name in the schema. Besides: "INPUT", real values to levels as the application does it.
        inputs: tensors, or NumPy arrays of constants.
        sources: each input's Levels, or None for real values.
        result: the result's Levels; None for the real values that DEQUANTIZE gives.
        real: the op on real values. An op that no kernel computes by a rule of its own is a table of the 256 results.
        options: the op's.
    """
    if op in _ON_LEVELS:
        return _ON_LEVELS[op](inputs, sources, result, real, options)
    if op in SAME_SCALE:
        return real(*inputs, **options)
    reals = [values * source.scale for values, source in zip(inputs, sources, strict=True)]
    return real(*reals, **options) / result.scale
