"""What benchmark_model prints: recorded output of the real tools, and hostile text."""

import pytest

from mobilenets_tf.export.speed.op_profile import Op
from mobilenets_tf.export.speed.tool_output import Delegate, RunStatistics, parse
from tests.support.fake_phone import RECORDINGS, recorded


def test_statistics_with_percentiles():
    output = parse(recorded("percentiles"))
    assert output.init_ms == 92.318 and (output.init_memory_mb, output.memory_mb) == (54.2852, 73.4102)
    assert output.inference == RunStatistics(145.528, 25, 187.533, 140.071, 195.121, 13.583, 140.545, 141.253, 187.533)
    assert (output.warm_up.count, output.warm_up.first_ms, output.warm_up.median_ms) == (3, 235.158, 200.386)
    assert output.delegates == (Delegate("TfLiteXNNPackDelegate", nodes=539, of=548, partitions=19),)


def test_statistics_without_percentiles():
    output = parse(recorded("memory"))
    assert output.inference == RunStatistics(55.0432, 50, 58.154, 53.077, 60.727, 1.562)
    assert (output.init_ms, output.init_memory_mb, output.memory_mb) == (18.777, 8.97656, 18.7227)


def test_the_first_versions():
    output = parse(recorded("of_2019"))
    assert (output.init_ms, output.warm_up.average_ms, output.inference.average_ms) == (9.933, 76.6059, 66.7676)
    summary = parse(recorded("of_2019").splitlines()[-1])  # where only that is left
    assert (summary.init_ms, summary.warm_up, summary.inference) == (
        9.933,
        RunStatistics(76.6059),
        RunStatistics(66.7676),
    )


def test_litert_s_own_tool():
    output = parse(recorded("litert"))
    assert output.init_ms == 23744.73 and (output.memory_mb, output.peak_memory_mb) == (6391.74, None)
    assert output.warm_up == RunStatistics(7441.04, 1, first_ms=7441.04)
    assert output.inference == RunStatistics(7430.2, 10, least_ms=7416.4, most_ms=7448.86, deviation_ms=9.92)


def test_delegates():
    assert parse(recorded("gpu_completely")).delegates == (Delegate("GPU", executes="completely"),)
    assert parse(recorded("nnapi_partially")).delegates == (Delegate("NNAPI", "partially", partitions=44),)
    assert parse(recorded("nnapi_not_executed")).delegates == (Delegate("NNAPI", executes="not"),)
    others = parse(
        "INFO: TfLiteQnnDelegate delegate: 0 nodes delegated out of 31 nodes with 0 partitions.\n"  # issue 83344
        "Replacing 740 node(s) with delegate (TfLiteGpuDelegateV2) node, yielding 2 partitions.\n"  # yolov5 pull 1127
    ).delegates
    assert others[0] == Delegate("TfLiteQnnDelegate", nodes=0, of=31, partitions=0)
    assert others[1] == Delegate("TfLiteGpuDelegateV2", nodes=740, partitions=2)


def test_profile_of_tensorflow_lite_s_tool():
    output = parse(recorded("op_profile"))
    assert len(output.ops) == 31 and not any(op.delegated for op in output.ops)
    assert (output.ops[0].name, output.ops[0].ms) == ("CONV_2D", 60.957)
    assert sum(op.ms for op in output.ops) == pytest.approx(2949.9, abs=0.05)  # which it prints as the sum
    assert output.warm_up.count == 1 and output.warm_up.average_ms == output.warm_up.most_ms == 3512.391
    assert output.inference.average_ms == 2950.34


def test_profile_of_litert_s_tool():
    output = parse(recorded("litert_profile"))
    assert len(output.ops) == 7 and sum(op.ms for op in output.ops) == pytest.approx(0.020)
    assert output.ops[0] == Op("Convolution (NHWC, QC8) IGEMM", 0.014, delegated=True)
    assert output.ops[-1] == Op("SOFTMAX", 0.001, delegated=False)


def test_failures_and_flags_that_were_ignored():
    failed = parse(recorded("gpu_failure"))
    assert failed.inference is None and failed.errors[0].startswith("Failed to build program executable")
    refused = parse(recorded("gpu_operations_refused"))
    assert refused.errors[-1] == "UNPACK: Operation is not supported."
    assert parse(recorded("unconsumed")).ignored == ("--graph", "test")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "count=",
        "count=9e999 first=1 avg=1",
        "count=5 avg=1e999",
        "count=" + "9" * 5000 + " avg=1",
        "===== Run Order =====\n[node type] [avg ms]\nX 1 2 3 4\n",
        "===== Run Order =====\n[node type] [avg ms] [Name]\nX 1e999 a\n" + " " * 10**6,
        "Inference timings in us: Init: 1e999, First inference: 1, Warmup (avg): 1, Inference (avg): 1e999",
        "\x1b]0;title\x07ERROR: \x1b[31mred\x1b[0m\n" * 100,
    ],
)
def test_hostile_output(text):
    output = parse(text)
    assert (output.inference is None and output.ops == []) or output.ops == ()
    assert len(output.errors) <= 20 and all(error.isprintable() for error in output.errors)


@pytest.mark.parametrize("name", sorted(path.stem for path in RECORDINGS.glob("*.txt")))
def test_recordings_in_android_s_line_ends(name):
    text = recorded(name)
    assert parse(text.replace("\n", "\r\n")) == parse(text)
