"""The prediction of operators, on a machine whose times are known."""

import itertools
import random

import numpy as np
import pytest

from mobilenets_tf.search.latency.cost_model import CostModel, _least_squares
from mobilenets_tf.search.latency.workloads import Workload
from tests.support.synthetic_machine import ms_of

WIDTHS = (16, 24, 40, 64, 96, 160, 240)


def convolution(size, read, written, op="CONV_2D", kernel=1):
    return Workload(op, "int8", (size, size), (read, written), (kernel, kernel))


@pytest.fixture(scope="module")
def measured():
    operators = [convolution(14, read, written) for read, written in itertools.product(WIDTHS, WIDTHS)]
    operators += [convolution(28, read, written) for read, written in itertools.product(WIDTHS[:3], WIDTHS[:3])]
    operators += [convolution(size, width, width, "DEPTHWISE_CONV_2D", 3) for size in (7, 14) for width in WIDTHS]
    return {each: ms_of(each) for each in operators}


def test_between_measured_widths_the_steps_of_the_tiles_are_found(measured):
    model = CostModel(measured)
    for read, written in itertools.product((20, 48, 72, 120, 200), (32, 33, 48, 72, 112, 113, 200)):
        each = convolution(14, read, written)
        assert model.ms(each) == pytest.approx(ms_of(each), rel=0.01)
    for width in (32, 72, 200):
        each = convolution(14, width, width, "DEPTHWISE_CONV_2D", 3)
        assert model.ms(each) == pytest.approx(ms_of(each), rel=0.01)


def test_unseen_sizes_follow_the_work(measured):
    model = CostModel(measured)
    for size in (7, 21, 56):
        each = convolution(size, 80, 160)
        assert model.ms(each) == pytest.approx(ms_of(each), rel=0.02)


def test_what_was_measured_stays(measured):
    """Also where it is off the trend."""
    odd = convolution(14, 64, 96)
    assert CostModel(measured | {odd: 7.0}).ms(odd) == 7.0


def test_near_operators_count_more_than_far_ones(measured):
    """Of a machine that is slower by half where the weights are large, as behind a cache."""
    slower = {each: ms * (1.5 if each.bytes_of_weights > 8000 else 1.0) for each, ms in measured.items()}
    model = CostModel(slower)
    large, little = convolution(14, 200, 200), convolution(14, 32, 32)
    assert model.ms(large) == pytest.approx(1.5 * ms_of(large), rel=0.1)
    assert model.ms(little) == pytest.approx(ms_of(little), rel=0.1)


def test_an_unseen_kernel_follows_the_other_kernels_and_an_unseen_op_nothing(measured):
    model = CostModel(measured)
    assert model.ms(convolution(14, 64, 64, "DEPTHWISE_CONV_2D", 5)) > ms_of(
        convolution(14, 64, 64, "DEPTHWISE_CONV_2D", 3)
    )
    assert model.ms(Workload("SOFTMAX", "int8", (1, 1), (10, 10))) is None
    assert model.ms(convolution(14, 64, 64)._replace(type="float32")) is None


def test_times_of_zero():
    """An operator that is always fused into another one."""
    zeros = {Workload("PAD", "int8", (size, size), (8, 8)): 0.0 for size in (4, 8, 16, 32, 64)}
    assert CostModel(zeros).ms(Workload("PAD", "int8", (24, 24), (8, 8))) < 1e-3


def test_least_squares_without_negative_factors():
    generator = random.Random(0)
    matrix = np.array([[generator.random() for _ in range(4)] for _ in range(20)])
    found = _least_squares(matrix, matrix @ [1.0, 0.0, 2.0, 0.0])
    assert found == pytest.approx([1, 0, 2, 0], abs=1e-6)
    found = _least_squares(matrix, matrix @ [1.0, -1.0, 2.0, 0.0])
    assert (found >= 0).all() and found[1] == 0
