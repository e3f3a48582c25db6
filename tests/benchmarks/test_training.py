"""benchmarks/training.py: what its figures are made with, and a quick run of what compares precisions."""

import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from mobilenets_tf.data import sources

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import training as benchmark


def test_the_slope_is_the_exponent_of_a_power_law():
    xs = np.array([8, 16, 32, 64])
    assert benchmark.slope(xs, 3 * xs**1.5) == pytest.approx(1.5)


def test_each_comes_first_in_turn():
    called = []
    subjects = {name: lambda name=name: called.append(name) or len(called) for name in "abc"}
    found = benchmark.in_turn(subjects, 3)
    assert "".join(called) == "abcbcacab"
    assert found == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


def test_photographs_are_a_labelled_folder(tmp_path):
    benchmark.photographs(tmp_path, 4)
    found = sources.find(str(tmp_path))
    assert found.class_names == ("a", "b") and found.class_counts() == [2, 2]
    content, _ = found.read(0)
    assert content[:2] == b"\xff\xd8" and 20_000 < len(content) < 200_000  # bytes of a photograph of that size


def test_an_unknown_part_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["training.py", "speed"])
    with pytest.raises(SystemExit) as stopped:
        benchmark.main()
    assert stopped.value.code == 2 and "throughput" in capsys.readouterr().err


def two_layers(name, input_shape, classes, **options):
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(16, 3, 2, use_bias=False, name="stem_conv")(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="stem_bn")(x))
    x = keras.layers.Dense(classes, name="classifier")(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, keras.layers.Softmax()(x))


@pytest.mark.slow
def test_a_quick_run_compares_the_modes(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["training.py", "modes", "--quick"])
    monkeypatch.setattr(benchmark, "create_model", two_layers)  # the benchmark's network takes half a minute to compile
    # That float16 and XLA train alike, tests/training/test_step.py shows.
    monkeypatch.setattr(benchmark, "MODES", {mode: benchmark.MODES[mode] for mode in ("float32", "bfloat16")})
    benchmark.main()
    printed = capsys.readouterr().out
    differences = {row[0]: float(row[1]) for row in re.findall(r"^(\w+) .*? ([\d.]+)%", printed, re.MULTILINE)}
    assert differences.keys() == benchmark.MODES.keys()
    assert differences["float32"] == 0 and 0 < differences["bfloat16"] < 10
