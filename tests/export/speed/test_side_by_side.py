"""Memory, ops and ratios of files, each in a child process. No figure is compared with a time."""

import os
import signal

import numpy as np
import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.cli import main
from mobilenets_tf.export.speed import op_profile, side_by_side
from mobilenets_tf.export.speed.side_by_side import BenchmarkRequest, benchmark
from mobilenets_tf.tflite import flatbuffer
from tests.export.delegates.test_backends import IMAGE, mediapipe, tensor
from tests.support.small_files import additions


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two files: small ones of two ops, and large ones of four."""
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / "small.tflite", folder / "large.tflite"]
    paths[0].write_bytes(additions(1))
    paths[1].write_bytes(additions(3, shape=(1, 256, 256, 32)))
    return paths


def test_measured_side_by_side(files):
    small, large, again = benchmark(BenchmarkRequest([*files, files[0]], calls=4, profile=True)).files
    assert [small.file, large.file, again.file] == [*map(str, files), f"{files[0]} (3)"]
    assert small.sha256 == again.sha256 != large.sha256 and small.bytes == files[0].stat().st_size
    assert small.ratio is None
    for other in (large, again):
        rounds = [a / b for a, b in zip(other.timing.samples_ms, small.timing.samples_ms, strict=True)]
        assert len(rounds) == 4
        assert min(rounds) <= other.ratio.low <= other.ratio.median <= other.ratio.high <= max(rounds)
    activation = 256 * 256 * 32 * 4
    assert large.memory.arena >= 2 * activation > 10 * small.memory.arena
    assert large.memory.peak - small.memory.peak >= 2 * activation
    assert large.as_dict()["memory_bytes"] == {"peak": large.memory.peak, "arena": large.memory.arena}


def test_each_op_of_the_profile(files):
    profile = op_profile.profile(files[1].read_bytes(), calls=5)
    assert [(op.name, op.delegated) for op in profile.ops] == [("Add (ND)", True)] * 3 + [("LOG_SOFTMAX", False)]
    assert all(op.ms > 0 for op in profile.ops)
    assert profile.sum_ms == pytest.approx(sum(op.ms for op in profile.ops)) and profile.sum_ms <= profile.call_ms
    (first, second) = op_profile.by_name(profile.ops)
    assert {first[0], second[0]} == {"Add (ND)", "LOG_SOFTMAX"} and first[1] + second[1] == 4 and first[2] >= second[2]
    assert profile.as_dict()["ops"][0]["name"] == "Add (ND)"


def test_the_profile_of_an_int8_file_with_threads():
    profile = op_profile.profile(additions(2, last=None, kind="INT8"), calls=1, threads=2)
    assert [op.name for op in profile.ops] == ["Add (ND)"] * 2


def test_the_machine_is_named_with_what_it_is_not():
    assert os.uname().machine in side_by_side.machine() and "not a phone" in side_by_side.machine()


def test_a_crash_is_an_error_that_names_the_file():
    with pytest.raises(RequestError, match=r"evil\.tflite cannot be run: it crashes LiteRT.*SIGABRT"):
        side_by_side._in_child(crash, "evil.tflite")


def crash(label):
    signal.raise_signal(signal.SIGABRT)


def test_files_that_cannot_be_measured(tmp_path, files):
    bad = tmp_path / "bad.tflite"
    content = bytearray(files[0].read_bytes())
    content[40:80] = b"\xff" * 40
    bad.write_bytes(content)
    for paths, calls, message in (
        ([bad], 1, r"bad\.tflite cannot be run"),
        ([tmp_path], 1, "No such TFLite file"),
        ([tmp_path / "none.tflite"], 1, r"No such TFLite file: .*none\.tflite"),
        ([], 1, "at least one"),
        (files, 0, "calls=0: expected at least 1"),
    ):
        with pytest.raises(RequestError, match=message):
            benchmark(BenchmarkRequest(paths, calls))
    with pytest.raises(RequestError, match="not a TFLite file"):
        op_profile.profile(b"x" * 100)


def test_a_file_that_cannot_be_measured_does_not_stop_the_others(tmp_path, files, capsys):
    """And a file with a free batch has a profile; one that only XNNPACK can run has no arena."""
    bad, free, pooling = (tmp_path / f"{name}.tflite" for name in ("bad", "free", "pooling"))
    bad.write_bytes(b"x" * 100)
    tree = flatbuffer.read(additions(2))
    for item in tree.subgraphs[0].tensors:
        item.shapeSignature = np.int32([-1, *item.shape[1:]])
    free.write_bytes(flatbuffer.write(tree))
    half = tensor((1, 4, 4, 4))
    pooling.write_bytes(mediapipe("MaxPoolingWithArgmax2D", [tensor(IMAGE)], [half, half], (2, 2, 2, 2, 2)))
    assert main(["benchmark", str(bad), str(free), str(pooling), "--calls", "1", "--profile"]) == 1
    printed = capsys.readouterr().out
    assert f"FAILED: {bad}" in printed and "not a TFLite file" in printed
    assert "LOG_SOFTMAX" in printed and "ArgMax Pooling" in printed
    result = benchmark(BenchmarkRequest([bad, pooling], calls=1))
    assert list(result.failed) == [str(bad)] and [file.file for file in result.files] == [str(pooling)]
    assert result.files[0].ratio is None and result.files[0].memory.arena is None
