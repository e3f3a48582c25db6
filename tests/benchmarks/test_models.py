"""benchmarks/models.py: its rows, its table, and what counts as behind."""

import sys
from pathlib import Path

import keras

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import models

GOOD = {"snr_db": 20.04, "partitions": 1, "others": 0}


def result(ours=GOOD, plain=GOOD):
    recipes = {"litert-quantizer min-max": {"refused": "no | such op"}, "litert-quantizer MSE": GOOD | {"snr_db": 3.0}}
    return {
        "model": "Net", "source": "theirs", "size": 64, "parity": 1e-6, "ours": ours, "plain": plain, **recipes
    }  # fmt: skip


def test_every_network_of_keras_applications_has_a_row():
    builders = {name for name, value in vars(keras.applications).items() if callable(value)}
    assert {name for name, row in models.ROWS.items() if row.source == "keras.applications"} == builders


def test_the_table_shows_the_best_recipe_and_refusals():
    refused = {key: value for key, value in result(ours={"refused": "a | b"}).items() if key != "parity"}
    lines = models.table([result(), refused]).splitlines()
    assert lines[2] == "| Net | theirs | 64 | yes | 1e-06 | 20.0 dB, 1+0 | 20.0 dB, 1+0 | 3.0 dB, 1+0 |"
    assert "| refused |  | refused: a / b |" in lines[3] and all(line.count("|") == 9 for line in lines)


def test_behind_is_half_a_decibel_or_a_partition():
    assert models.behind(result()) is None and models.behind(result(plain={"refused": "a"})) is None
    assert models.behind(result(plain=GOOD | {"snr_db": 20.5})) is None
    assert "20.6 dB" in models.behind(result(plain=GOOD | {"snr_db": 20.6}))
    assert "2 partitions" in models.behind(result(ours=GOOD | {"partitions": 2}))
    assert models.behind(result(ours={"refused": "a"})) == "refused: a"
