"""Timing in interleaved rounds. Nothing here depends on how fast the machine is."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.export.speed import timing
from mobilenets_tf.export.speed.timing import Timing
from tests.support.small_files import additions


@pytest.mark.parametrize("count", range(1, 8))
def test_each_file_runs_at_each_place_and_behind_each_other(count):
    rounds = [timing.order(number, count) for number in range(count if count % 2 == 0 else 2 * count)]
    assert all(sorted(row) == list(range(count)) for row in rounds)
    places = Counter(place for row in rounds for place in enumerate(row))
    assert len(places) == count**2 and len(set(places.values())) == 1
    behind = Counter(pair for row in rounds for pair in pairwise(row))
    assert len(behind) == count * (count - 1) and len(set(behind.values())) <= 1


def test_each_file_is_loaded_first_equally_often(monkeypatch):
    """The place in memory that the file loaded first gets may be a slower one."""
    loaded, load = [], timing.load

    def recorded(file, threads, label):
        loaded.append(label)
        return load(file, threads, label)

    monkeypatch.setattr(timing, "load", recorded)
    timings = timing.side_by_side(dict.fromkeys("abc", additions()), calls=7)
    assert "".join(loaded) == "abcbcacab"
    assert [len(timings[label].samples_ms) for label in "abc"] == [7, 7, 7]
    loaded.clear()
    timing.side_by_side(dict.fromkeys("ab", additions()), calls=1)
    assert loaded == ["a", "b"]


def test_files_are_timed_in_the_same_rounds(tmp_path):
    path = tmp_path / "long.tflite"
    path.write_bytes(additions(30, last=None))
    reports = []
    timings = timing.side_by_side(
        {"short": additions(), "long": path}, calls=7, progress=lambda *step: reports.append(step)
    )
    assert list(timings) == ["short", "long"]
    assert all(len(one.samples_ms) == 7 and min(one.samples_ms) > 0 for one in timings.values())
    assert (timings["short"].delegated_partitions, timings["short"].outside) == (1, {"LOG_SOFTMAX": 1})
    assert (timings["long"].delegated_partitions, timings["long"].outside) == (1, {})
    assert reports[-1][1:] == (2 * timing.WARM_UP + 7, 2 * timing.WARM_UP + 7)


def test_a_slow_machine_does_not_change_the_ratio():
    base = np.array([2.0, 2.0, 20.0, 2.0, 2.0])  # the third round fell into a disturbance
    ratio = timing.ratio(Timing(tuple(base * [0.5, 0.5, 0.5, 0.5, 0.7])), Timing(tuple(base)))
    assert ratio.median == pytest.approx(0.5)
    assert ratio.low == pytest.approx(0.5) and 0.5 < ratio.high < 0.7


def test_figures_of_a_timing():
    times = Timing(tuple(map(float, range(1, 12))), threads=3, delegated_partitions=2, outside={"SOFTMAX": 1})
    assert (times.median_ms, times.p10_ms, times.p90_ms) == (6, 2, 10)
    assert times.as_dict() == {
        "calls": 11, "threads": 3, "median_ms": 6.0, "p10_ms": 2.0, "p90_ms": 10.0, "delegated_partitions": 2,
        "outside": {"SOFTMAX": 1},
    }  # fmt: skip


@pytest.mark.parametrize(
    "kind, dtype, low, high", [("FLOAT32", "float32", -1, 1), ("INT8", "int8", -128, 127), ("INT32", "int32", 0, 0)]
)
def test_inputs_are_in_the_files_range_and_always_the_same(kind, dtype, low, high):
    content = additions(last=None, shape=(1, 16, 16, 4), kind=kind)
    interpreter = timing.load(content)
    (values,) = timing.inputs(interpreter)
    assert (values.dtype, values.shape) == (dtype, (1, 16, 16, 4))
    assert low <= values.min() <= 0.9 * low and 0.9 * high <= values.max() <= high
    np.testing.assert_array_equal(values, timing.inputs(timing.load(content))[0])
    (details,) = interpreter.get_input_details()
    np.testing.assert_array_equal(interpreter.get_tensor(details["index"]), values)


def test_what_cannot_be_timed(tmp_path):
    with pytest.raises(RequestError, match="bad cannot be run: not a TFLite file"):
        timing.side_by_side({"good": additions(), "bad": b"x" * 100})
    with pytest.raises(RequestError, match=r"missing\.tflite cannot be read: No such file"):
        timing.load(tmp_path / "missing.tflite")
    for calls, threads, message in ((0, 1, "calls=0: expected at least 1"), (1, 0, "threads=0: expected at least 1")):
        with pytest.raises(RequestError, match=message):
            timing.side_by_side({"good": additions()}, calls, threads)
