"""From operators to networks, and the figures of an error."""

import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.search.latency.cost_model import CostModel
from mobilenets_tf.search.latency.prediction import (
    Line,
    MeasuredNetwork,
    cross_validated,
    cross_validated_multiply_adds,
    entries_of,
    error_of,
    line_of,
    sum_of,
)
from mobilenets_tf.search.latency.workloads import Workload
from tests.support.synthetic_machine import OVERHEAD_MS, SHARE, ms_of


def network(*widths):
    operators = tuple(Workload("CONV_2D", "int8", (14, 14), pair) for pair in zip((3, *widths), widths, strict=False))
    times = tuple(map(ms_of, operators))
    return MeasuredNetwork(operators, times, OVERHEAD_MS + SHARE * sum(times))


@pytest.fixture(scope="module")
def networks():
    return [network(width, 2 * width, 24 + width) for width in range(8, 248, 8)]


def test_the_line_is_found(networks):
    found = line_of(networks)
    assert (found.intercept, found.slope) == pytest.approx((OVERHEAD_MS, SHARE))
    assert Line.through([2.0, 2.0], [4.0, 4.0]).at(2.0) == pytest.approx(4.0)  # one network, twice
    assert Line.through([5.0], [10.0]).at(5.0) == pytest.approx(10.0)


def test_held_out_networks_are_predicted(networks):
    """Multiply-adds alone do not see the tiles."""
    error = cross_validated(networks)
    assert error.networks == 30 and error.median < 0.01 and error.within_10 >= 0.95
    assert error.rank_correlation > 0.99
    assert cross_validated_multiply_adds(networks).median > 2 * error.median


def test_an_entry_is_the_median_over_the_networks():
    each = network(8).workloads
    entries = entries_of([MeasuredNetwork(each, (ms,), ms) for ms in (1.0, 2.0, 9.0)])
    assert entries == {each[0]: 2.0}


def test_the_figures_of_an_error():
    error = error_of([1.0, 2.08, 3.24, 5.0], [1.0, 2.0, 3.0, 4.0])
    assert error.median == pytest.approx(0.06)
    assert (error.within_5, error.within_10, error.rank_correlation) == (0.5, 0.75, 1.0)
    assert error_of([1, 2, 3], [3, 2, 1]).rank_correlation == pytest.approx(-1)
    assert error_of([1, 2, 2, 3], [1, 3, 2, 4]).rank_correlation == pytest.approx(0.9486833)  # scipy.stats.spearmanr
    assert error_of([1, 1], [1, 2]).rank_correlation is None


def test_an_operator_that_was_not_measured_is_named(networks):
    model = CostModel(entries_of(networks))
    softmax = Workload("SOFTMAX", "int8", (1, 1), (10, 10))
    with pytest.raises(RequestError, match="has no SOFTMAX: .*mobilenets-tf latency"):
        sum_of(model, [*networks[0].workloads, softmax])
