"""benchmarks/latency_table.py: its random networks, and what its figures are made of."""

import random
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from mobilenets_tf.networks.mobilenet_v3 import Row
from mobilenets_tf.networks.rows import staged_table
from mobilenets_tf.search.latency.prediction import PredictionError

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import latency_table as benchmark


def test_random_rows_are_rows_of_the_network():
    tables = [staged_table(Row, benchmark.random_rows(random.Random(seed), [3, 7])) for seed in range(20)]
    rows = [row for table in tables for stage in table for row in stage]
    assert len(set(tables)) == 20 and {len(table) for table in tables} == {5}
    assert {row.kernel for row in rows} == {3, 7}
    assert all(row.filters % 8 == 0 for row in rows)
    assert len({len(sum(table, ())) for table in tables}) > 1  # depths
    for table in tables:
        width = 16
        for row in (row for stage in table for row in stage):
            assert row.expansion * width == pytest.approx(round(row.expansion * width / 8) * 8)
            width = row.filters


GOOD = PredictionError(64, 0.02, 0.9, 1.0, 0.99)


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({}, None),
        ({"median": 0.06}, "the median error is 6.0%"),
        ({"within_10": 0.94}, "94% of the networks are within 10 %"),
        ({"rank_correlation": 0.9}, "the rank correlation is 0.9"),
        ({"median": 0.04}, "the error is 0.67 of that of the multiply-adds"),
    ],
)
def test_promises(changes, problem):
    result = {
        "table": asdict(replace(GOOD, **changes)),
        "multiply_adds": asdict(replace(GOOD, median=0.06)),
        "table_minutes": 3.0,
    }
    found = list(benchmark.broken_promises("int8", result))
    assert any(problem in line for line in found) if problem else not found
    assert (
        "making the table took 11.0 minutes"
        in list(benchmark.broken_promises("int8", result | {"table_minutes": 11.0}))[-1]
    )
