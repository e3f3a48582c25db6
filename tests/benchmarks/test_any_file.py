"""benchmarks/any_file.py: what counts as behind, its table, and what it says of times."""

import sys
from pathlib import Path

import pytest

from mobilenets_tf.export.speed.timing import Timing

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import any_file

GOOD = {"snr_db": 20.04, "same": 0.5, "partitions": 1, "others": 0, "bytes": 4_560_000, "seconds": 12.3}
REFUSED = {"refused": "no | such op", "seconds": 1.0}


def results(ours=GOOD, **theirs):
    ways = dict.fromkeys(any_file.ALGORITHMS, GOOD) | {"MSE": REFUSED} | theirs
    return {"network": "resnet18", "ours": ours, **ways}


def test_behind_is_half_a_decibel_or_a_partition():
    assert any_file.behind(results()) is None and any_file.behind(results(OCTAV=GOOD | {"snr_db": 20.5})) is None
    assert "OCTAV: 20.6 dB" in any_file.behind(results(OCTAV=GOOD | {"snr_db": 20.6}))
    assert any_file.behind(results(ours=GOOD | {"partitions": 2})).startswith("20.0 dB, 2+0")
    assert any_file.behind(results(ours=REFUSED)) == "refused: no | such op"


def test_the_table_has_agreement_of_trained_networks_only():
    time = {"against": "OCTAV", "median": 0.994, "low": 0.96, "high": 1.041}
    rows = [results() | {"time": time}, results() | {"network": "mobilenet_v2 (trained)"}]
    _, _, random, trained = any_file.table(rows).splitlines()
    assert random.startswith("| resnet18 | timm, litert-torch | 96 | 20.0 dB, 1+0, 4.56 MB, 12 s |")
    assert "| refused: no / such op |" in random and random.endswith("| 0.99 (0.96 to 1.04) |")
    assert "| 20.0 dB, 50.0% same, 1+0, 4.56 MB, 12 s |" in trained and trained.count("|") == random.count("|")


def test_the_median_of_ratios_has_an_interval():
    base = Timing(tuple([1.0, 10.0] * 200))  # the whole machine is slower every other round
    found = any_file.median_ratio(Timing(tuple([1.01, 10.1] * 198 + [50.0] * 4)), base)
    assert found == {"median": pytest.approx(1.01), "low": pytest.approx(1.01), "high": pytest.approx(1.01)}
    spread = any_file.median_ratio(Timing(tuple(float(n) for n in range(1, 401))), Timing((1.0,) * 400))
    assert spread == {"median": 200.5, "low": pytest.approx(180, abs=1), "high": pytest.approx(221, abs=1)}
