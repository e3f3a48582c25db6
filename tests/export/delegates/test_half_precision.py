"""Sums and other values that pass half precision on a GPU."""

import numpy as np
import pytest

from mobilenets_tf.export.delegates import half_precision
from mobilenets_tf.export.delegates.inspection import inspect
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.operators import calls
from tests.export.delegates.test_backends import IMAGE, int32, one_operator, tensor


def summed(kind="float32", scales=(0.5,), zeros=(0,), axes=(1, 2), name="SUM"):
    shape = tuple(1 if axis in {each % 4 for each in axes} else side for axis, side in enumerate(IMAGE))
    ends = [tensor(IMAGE, kind, scales, zeros), int32(axes)], [tensor(shape, kind)]
    return one_operator(name, *ends, options="ReducerOptions", keepDims=True)


def values(content):
    return half_precision.values(calls(flatbuffer.read(content)))


@pytest.mark.parametrize(
    ("kind", "scale", "zero", "axes", "terms", "largest"),
    [
        ("int8", 0.5, 0, (1, 2), 64, 0.5 * 128 * 64),
        ("int8", 8.0, -128, (1, 2), 64, 8.0 * 255 * 64),
        ("uint8", 8.0, 255, (-1,), 4, 8.0 * 255 * 4),
        ("float32", 1.0, 0, (1, -2), 64, None),
    ],
)
def test_how_large_a_sum_can_become(kind, scale, zero, axes, terms, largest):
    (found,) = values(summed(kind, (scale,), (zero,), axes))
    assert (found.terms, found.largest) == (terms, largest)
    assert found.passes == (largest is not None and largest > 65504)


def test_other_results_have_their_range_and_no_terms():
    (mean,) = values(summed("int8", name="MEAN"))
    assert (mean.terms, mean.passes, mean.named) == (1, False, False)
    (mean,) = values(summed(name="MEAN"))
    assert (mean.largest, mean.named) == (None, False)
    assert values(summed("int32")) == ()


def test_values_on_inputs():
    content = summed()
    small, large = (np.full(IMAGE, value, np.float32) for value in (1, -2000))
    (found,) = half_precision.values_on(content, [[small]])
    assert (found.largest, found.named) == (64, False)
    (found,) = half_precision.values_on(content, [[small], [large]])
    assert (found.largest, found.passes) == (128000, True)
    assert half_precision.REMEDY in found.line() and "1.28e+05" in found.line()
    (found,) = half_precision.values_on(summed(name="MEAN"), [[small], [large]])
    assert (found.largest, found.named) == (2000, False)


def test_products_pass_half_precision_too():
    ends = [tensor(IMAGE, "float32")] * 2, [tensor(IMAGE, "float32")]
    product = one_operator("MUL", *ends, options="MulOptions")
    (found,) = half_precision.values_on(product, [[np.full(IMAGE, 300, np.float32)] * 2])
    assert (found.largest, found.named) == (90000, True) and "MUL, number 0" in found.line()


def test_calibrated_ranges_say_more_than_a_few_inputs():
    content = summed("int8", (600.0,), (0,), name="MEAN")
    (found,) = half_precision.values_on(content, [[np.zeros(IMAGE, np.float32)]])
    assert found == values(content)[0] and found.largest > 0


def test_inspect_names_sums():
    said = "\n".join(inspect(summed()).lines())
    assert "half precision: SUM of 64 values, number 0" in said and "above 1.02e+03 on average" in said
    assert "half precision" not in "\n".join(inspect(summed("int8")).lines())
    assert "half precision" in "\n".join(inspect(summed("int8", (16.0,))).lines())
