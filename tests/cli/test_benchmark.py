"""mobilenets-tf benchmark, on files here and on a phone that is faked. No figure is compared with a time."""

import json

import pytest

from mobilenets_tf.cli import main
from tests.support.fake_phone import Phone
from tests.support.small_files import additions


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "a.tflite", tmp_path / "b.tflite"]
    paths[0].write_bytes(additions(1))
    paths[1].write_bytes(additions(20, last=None, shape=(1, 32, 32, 3)))
    return list(map(str, paths))


@pytest.fixture
def phone(tmp_path, monkeypatch):
    monkeypatch.setenv("PHONE", str(tmp_path))
    return Phone(tmp_path)


def test_files_side_by_side_with_their_ops(files, capsys):
    assert main(["benchmark", *files, "--calls", "3", "--profile", "--quiet"]) == 0
    printed = capsys.readouterr().out
    head, rounds, columns, first, second, *rest = printed.splitlines()
    assert "not a phone" in head and rounds.startswith("3 rounds, 1 thread")
    assert "ratio" in columns and "peak MB" in columns
    assert first.split()[4:6] == ["1", "1"] and " to " in second
    assert any(line.endswith("a.tflite: XNNPACK does not run 1 LOG_SOFTMAX.") for line in rest)
    assert printed.count("of the whole inference") == 2
    assert any(line.split()[:3] == ["Add", "(ND)", "20"] for line in rest)


def test_one_json_document(files, capsys):
    assert main(["benchmark", *files, "--calls", "3", "--threads", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert "not a phone" in document["machine"]
    first, second = document["files"]
    assert (first["file"], first["ratio"], first["timing"]["threads"]) == (files[0], None, 2)
    assert second["ratio"]["low"] <= second["ratio"]["median"] <= second["ratio"]["high"]
    assert second["memory_bytes"]["peak"] > 0 and second["profile"] is None


def test_wrong_requests(files, tmp_path, capsys):
    for arguments, message in (
        ([str(tmp_path / "none.tflite")], "No such TFLite file"),
        ([files[0], "--calls", "0"], "calls=0: expected at least 1"),
        ([files[0], "--use-gpu"], "--use-gpu needs --android"),
        ([files[0], "--benchmark-model", "x"], "--benchmark-model needs --android"),
        ([files[0], "--android"], "benchmark_model (--benchmark-model) is missing"),
        ([files[0], "--android", "--benchmark-model", "x", "--cores", "9-"], "hexadecimal"),
        (
            [files[0], "--android", "--benchmark-model", "x", "--adb", "/none/adb"],
            "(--adb): this is not an executable file",
        ),
    ):
        assert main(["benchmark", *arguments, "--quiet"]) == 2
        printed = capsys.readouterr()
        assert message in printed.err and printed.out == ""


def test_a_damaged_file_is_named_and_the_others_are_measured(files, tmp_path, capsys):
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(b"\x1c\x00\x00\x00TFL3" + b"\xff" * 64)
    assert main(["benchmark", files[0], str(damaged), "--calls", "2", "--quiet"]) == 1
    printed = capsys.readouterr()
    assert f"FAILED: {damaged}" in printed.out
    assert files[0].rsplit("/", 1)[-1] in printed.out


def test_on_a_phone(files, phone, capsys):
    phone.prints("op_profile")
    arguments = [
        "benchmark",
        *files,
        "--android",
        "--adb",
        phone.adb,
        "--benchmark-model",
        str(phone.binary),
        "--quiet",
    ]
    assert main([*arguments, "--profile", "--cores", "f0"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Milliseconds on PHONE1, Fake Phone, Android 14")
    assert "not a phone" not in printed
    assert "sha256" in printed and "2950.34" in printed and "46.09" in printed
    assert "all ops" in printed and "31  2949.903  100.0% of the whole inference, 2950.340" in printed
    assert phone.left() == []


def test_on_a_phone_as_json(files, phone, capsys):
    phone.prints("gpu_completely")
    arguments = ["benchmark", files[0], "--android", "--adb", phone.adb, "--benchmark-model", str(phone.binary)]
    assert main([*arguments, "--use-gpu", "--serial", "PHONE1", "--json", "--quiet"]) == 0
    document = json.loads(capsys.readouterr().out)
    (result,) = document["files"]
    assert (result["file"], result["device"]["serial"], result["inference"]["average_ms"]) == (
        files[0],
        "PHONE1",
        119.375,
    )
    assert result["delegates"][0] == {
        "name": "GPU", "executes": "completely", "nodes": None, "of": None, "partitions": None,
    }  # fmt: skip
    assert document["benchmark_model"]["abi"] == "arm64-v8a"


def test_a_failure_on_the_phone(files, phone, capsys):
    phone.prints("gpu_failure", status=1)
    arguments = ["benchmark", files[0], "--android", "--adb", phone.adb, "--benchmark-model", str(phone.binary)]
    assert main([*arguments, "--use-gpu", "--quiet"]) == 2
    assert "Failed to build program executable" in capsys.readouterr().err
    assert main([*arguments, "--serial", "OTHER", "--quiet"]) == 2
    assert "OTHER is unauthorized" in capsys.readouterr().err


def test_what_ran_on_the_cpu_instead(files, phone, capsys):
    phone.prints("percentiles")
    arguments = ["benchmark", files[0], "--android", "--adb", phone.adb, "--benchmark-model", str(phone.binary)]
    assert main([*arguments, "--use-gpu", "--quiet"]) == 1
    printed = capsys.readouterr().out
    assert "FAILED: benchmark_model does not report that the accelerator runs any op of" in printed
    assert "TfLiteXNNPackDelegate runs 539 of 548 ops, in 19 parts" in printed
    assert main([*arguments, "--quiet"]) == 0
