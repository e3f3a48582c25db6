"""benchmark_model through adb: recorded output of the real tools, a real adb without a phone, and a phone that is faked
by a shell script, which runs what it is told in a folder."""

import functools
import http.server
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
import warnings
from pathlib import Path

import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.export.speed import phone as adb
from mobilenets_tf.export.speed.op_profile import Op
from mobilenets_tf.export.speed.phone import Delegate, Device, Options, Statistics
from tests.support.fake_phone import AARCH64, FAKE_ADB, RECORDINGS, Phone, recorded


def test_statistics_with_percentiles():
    found = adb.parse(recorded("percentiles"))
    assert found.init_ms == 92.318 and (found.init_memory_mb, found.memory_mb) == (54.2852, 73.4102)
    assert found.inference == Statistics(145.528, 25, 187.533, 140.071, 195.121, 13.583, 140.545, 141.253, 187.533)
    assert (found.warm_up.count, found.warm_up.first_ms, found.warm_up.median_ms) == (3, 235.158, 200.386)
    assert found.delegates == (Delegate("TfLiteXNNPackDelegate", nodes=539, of=548, partitions=19),)


def test_statistics_without_percentiles():
    found = adb.parse(recorded("memory"))
    assert found.inference == Statistics(55.0432, 50, 58.154, 53.077, 60.727, 1.562)
    assert (found.init_ms, found.init_memory_mb, found.memory_mb) == (18.777, 8.97656, 18.7227)


def test_the_first_versions():
    found = adb.parse(recorded("of_2019"))
    assert (found.init_ms, found.warm_up.average_ms, found.inference.average_ms) == (9.933, 76.6059, 66.7676)
    summary = adb.parse(recorded("of_2019").splitlines()[-1])  # where only that is left
    assert (summary.init_ms, summary.warm_up, summary.inference) == (9.933, Statistics(76.6059), Statistics(66.7676))


def test_litert_s_own_tool():
    found = adb.parse(recorded("litert"))
    assert found.init_ms == 23744.73 and (found.memory_mb, found.peak_memory_mb) == (6391.74, None)
    assert found.warm_up == Statistics(7441.04, 1, first_ms=7441.04)
    assert found.inference == Statistics(7430.2, 10, least_ms=7416.4, most_ms=7448.86, deviation_ms=9.92)


def test_delegates():
    assert adb.parse(recorded("gpu_completely")).delegates == (Delegate("GPU", executes="completely"),)
    assert adb.parse(recorded("nnapi_partially")).delegates == (Delegate("NNAPI", "partially", partitions=44),)
    assert adb.parse(recorded("nnapi_not_executed")).delegates == (Delegate("NNAPI", executes="not"),)
    others = adb.parse(
        "INFO: TfLiteQnnDelegate delegate: 0 nodes delegated out of 31 nodes with 0 partitions.\n"  # issue 83344
        "Replacing 740 node(s) with delegate (TfLiteGpuDelegateV2) node, yielding 2 partitions.\n"  # yolov5 pull 1127
    ).delegates
    assert others[0] == Delegate("TfLiteQnnDelegate", nodes=0, of=31, partitions=0)
    assert others[1] == Delegate("TfLiteGpuDelegateV2", nodes=740, partitions=2)


def test_profile_of_tensorflow_lite_s_tool():
    found = adb.parse(recorded("op_profile"))
    assert len(found.ops) == 31 and not any(op.delegated for op in found.ops)
    assert (found.ops[0].name, found.ops[0].ms) == ("CONV_2D", 60.957)
    assert sum(op.ms for op in found.ops) == pytest.approx(2949.9, abs=0.05)  # which it prints as the sum
    assert found.warm_up.count == 1 and found.warm_up.average_ms == found.warm_up.most_ms == 3512.391
    assert found.inference.average_ms == 2950.34


def test_profile_of_litert_s_tool():
    found = adb.parse(recorded("litert_profile"))
    assert len(found.ops) == 7 and sum(op.ms for op in found.ops) == pytest.approx(0.020)
    assert found.ops[0] == Op("Convolution (NHWC, QC8) IGEMM", 0.014, delegated=True)
    assert found.ops[-1] == Op("SOFTMAX", 0.001, delegated=False)


def test_failures_and_flags_that_were_ignored():
    failed = adb.parse(recorded("gpu_failure"))
    assert failed.inference is None and failed.errors[0].startswith("Failed to build program executable")
    refused = adb.parse(recorded("gpu_operations_refused"))
    assert refused.errors[-1] == "UNPACK: Operation is not supported."
    assert adb.parse(recorded("unconsumed")).ignored == ("--graph", "test")


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
    found = adb.parse(text)
    assert (found.inference is None and found.ops == []) or found.ops == ()
    assert len(found.errors) <= 20 and all(error.isprintable() for error in found.errors)


@pytest.mark.parametrize("name", sorted(path.stem for path in RECORDINGS.glob("*.txt")))
def test_recordings_in_android_s_line_ends(name):
    text = recorded(name)
    assert adb.parse(text.replace("\n", "\r\n")) == adb.parse(text)


def test_choosing_a_device():
    pixel, galaxy, locked = Device("PIXEL", "device"), Device("R5CT", "device"), Device("LOCKED", "unauthorized")
    assert adb.choose([pixel]) == adb.choose([locked, pixel]) == adb.choose([pixel, galaxy], "PIXEL") == pixel
    for found, serial, message in (
        ([], None, "No Android device is attached.*USB debugging"),
        ([], "PIXEL", "No Android device is attached"),
        ([pixel, galaxy], None, r"\(PIXEL, R5CT\).*--serial"),
        ([pixel, galaxy], "PIXLE", "Unknown device 'PIXLE'.*Did you mean|Known: PIXEL, R5CT"),
        ([locked], None, "LOCKED is unauthorized: .*unlock it"),
        ([locked, pixel], "LOCKED", "LOCKED is unauthorized"),
        ([Device("OFF", "offline")], None, "OFF is offline: .*kill-server"),
        ([Device("USB", "no permissions")], None, "udev"),
        ([Device("REC", "recovery")], None, "REC is recovery: it has to be up"),
    ):
        with pytest.raises(RequestError, match=message):
            adb.choose(found, serial)


@pytest.mark.parametrize(
    "options, message",
    [
        (Options(cores="4-7"), "hexadecimal.*'4-7'"),
        (Options(cores="0"), "hexadecimal"),
        (Options(cores="f0; reboot"), "hexadecimal"),
        (Options(use_gpu=True, use_nnapi=True), "choose one"),
    ],
)
def test_options_that_cannot_be_meant(options, message):
    with pytest.raises(RequestError, match=message):
        options.check()


def test_where_adb_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RequestError, match="adb was not found.*apt install adb.*--adb PATH"):
        adb.find_adb()
    with pytest.raises(RequestError, match="--adb: .* is not an executable file"):
        adb.find_adb(str(tmp_path / "adb"))
    program = tmp_path / "platform-tools" / "adb"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path))
    assert adb.find_adb() == adb.find_adb(str(program)) == str(program)


@pytest.mark.skipif(not shutil.which("adb"), reason="adb is not installed")
def test_a_real_adb_without_a_phone(tmp_path, monkeypatch):
    with socket.socket() as free:  # a server of its own, which sees no phone over the network either
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ADB_SERVER_SOCKET", raising=False)
    program = adb.find_adb()
    try:
        found = adb.devices(program)
        if not found:
            with pytest.raises(RequestError, match="No Android device is attached"):
                adb.choose(found)
        with pytest.raises(RequestError, match="failed with exit status 1: .*no-such-phone"):
            adb._adb(program, "-s", "no-such-phone", "shell", "true")
    finally:
        subprocess.run([program, "kill-server"], check=False, timeout=30)


@pytest.fixture
def phone(tmp_path, monkeypatch):
    monkeypatch.setenv("PHONE", str(tmp_path))
    return Phone(tmp_path)


def test_the_whole_way(phone):
    (found,) = phone.run(Options(calls=25, threads=4, use_gpu=True, cores="f0", profile=True))
    assert found.output == adb.parse(recorded("percentiles"))
    assert found.accelerated is False  # it names XNNPACK only
    about = {"serial": "PHONE1", "model": "Fake Phone", "android": "14", "abis": "arm64-v8a,armeabi-v7a"}
    assert dict(found.device) == about
    assert (phone.folder / "cores").read_text() == "f0\n"
    arguments = (phone.folder / "arguments").read_text().splitlines()
    assert re.fullmatch(rf"--graph={phone.folder}/tmp/mobilenets-tf-\w+/model\.tflite", arguments[0])
    assert arguments[1:] == [
        "--num_threads=4", "--num_runs=25", "--use_gpu=true", "--enable_op_profiling=true", "--use_profiler=true",
    ]  # fmt: skip
    assert shlex.split(found.command)[:2] == ["taskset", "f0"]
    assert phone.left() == [] and not (phone.folder / "hacked").exists() and not Path("hacked").exists()
    assert phone.log().count("serial PHONE1") == len(phone.log()) // 2
    assert f"push {phone.model} " in "\n".join(phone.log())


@pytest.mark.parametrize(
    "recording, options, accelerated",
    [
        ("gpu_completely", Options(use_gpu=True), True),
        ("nnapi_partially", Options(use_nnapi=True), True),
        ("memory", Options(use_gpu=True), False),
        ("memory", Options(), None),
    ],
)
def test_whether_the_accelerator_ran_anything(phone, recording, options, accelerated):
    phone.prints(recording)
    (found,) = phone.run(options)
    assert found.accelerated is accelerated and found.as_dict()["accelerated"] is accelerated


def test_several_files_and_their_one_folder(phone):
    other = phone.folder / "other.tflite"
    other.write_bytes(b"another")
    assert [found.file for found in phone.run(net=phone.model, other=other)] == ["net", "other"]
    folders = {line.split()[-1].rpartition("/")[0] for line in phone.log() if line.startswith("push")}
    assert len(folders) == 1 and phone.left() == []


def test_a_failed_run_cleans_up(phone):
    phone.prints("gpu_failure", status=1)
    with pytest.raises(RequestError, match=r"failed on net \(exit status 1\): Failed to build program executable"):
        phone.run()
    assert phone.left() == []
    phone.prints("nnapi_not_executed")  # it stops without a figure
    with pytest.raises(RequestError, match=r"failed on net \(exit status 0\)"):
        phone.run()
    assert phone.left() == []


def test_a_tool_that_ignores_what_was_asked_for(phone):
    text = recorded("percentiles") + "WARN: Unconsumed cmdline flags: --use_nnapi=true --enable_op_profiling=true\n"
    (phone.folder / "recording").write_text(text)
    with pytest.raises(RequestError, match=r"ignores --use_nnapi=true, so net was not measured"):
        phone.run(Options(use_nnapi=True, profile=True))
    (found,) = phone.run(Options(profile=True))
    assert found.output.ignored == ("--use_nnapi=true", "--enable_op_profiling=true")


def test_a_run_that_takes_too_long_is_ended_on_the_phone_too(phone):
    (phone.folder / "slow").touch()
    with pytest.raises(RequestError, match="took more than 1 s"):
        phone.run(Options(timeout=1))
    assert phone.left() == []
    running = int((phone.folder / "running").read_text())
    for _ in range(100):
        try:
            os.kill(running, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(running, signal.SIGKILL)
    pytest.fail("the tool went on")


def test_a_phone_that_prints_without_end(phone, monkeypatch):
    monkeypatch.setattr(adb, "_MOST_OUTPUT", 1000)
    with pytest.raises(RequestError, match="prints without end"):
        phone.run()
    assert phone.left() == []


def test_what_cannot_be_removed_is_a_warning(phone, monkeypatch):
    script = FAKE_ADB.replace('echo "shell $2"', 'case "$2" in *"rm -rf"*) echo gone; exit 1; esac; echo "shell $2"')
    (phone.folder / "adb").write_text(script)
    with pytest.warns(UserWarning, match=r"/data/local/tmp/mobilenets-tf-\w+ could not be removed.*gone"):
        phone.run()


def test_a_tool_for_another_processor(phone):
    content = bytearray(AARCH64)
    content[18] = 62
    phone.binary.write_bytes(content)
    with pytest.raises(RequestError, match=r"is for x86_64, and PHONE1 \(Fake Phone\) runs arm64-v8a"):
        phone.run()
    assert not any(line.startswith("push") for line in phone.log())


def test_what_is_no_tool(phone, tmp_path):
    for path, message in ((phone.model, "is not an executable for Android"), (tmp_path / "none", "there is no file")):
        with pytest.raises(RequestError, match=message):
            adb.tool(str(path))
    with pytest.raises(RequestError, match="http or https"):
        adb.tool("ftp://example.org/benchmark_model")
    with pytest.raises(RequestError, match="http or https"):
        adb.tool("file:///etc/passwd")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """(address, folder) of a web server; /elsewhere redirects to what no server should."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/elsewhere":
                self.send_response(302)
                self.send_header("Location", "file:///etc/passwd")
                self.end_headers()
            elif self.path == "/cut":
                self.send_response(200)
                self.send_header("Content-Length", "100")
                self.end_headers()
                self.wfile.write(b"half")
            else:
                super().do_GET()

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("MOBILENETS_TF_HOME", str(tmp_path / "cache"))
    yield f"http://127.0.0.1:{running.server_port}", folder
    running.shutdown()
    running.server_close()


def test_a_tool_from_an_address_is_fetched_once(server, tmp_path):
    address, folder = server
    (folder / "benchmark_model").write_bytes(AARCH64)
    found = adb.tool(f"{address}/benchmark_model")
    assert found.path.read_bytes() == AARCH64 and found.path.is_relative_to(tmp_path / "cache")
    assert found.abi == "arm64-v8a" and len(found.sha256) == 64
    (folder / "benchmark_model").unlink()
    assert adb.tool(f"{address}/benchmark_model") == found


def test_what_cannot_be_fetched_leaves_nothing(server, tmp_path, monkeypatch):
    address, folder = server
    (folder / "large").write_bytes(bytes(5000))
    monkeypatch.setattr(adb, "_MOST_DOWNLOAD", 4000)
    for name, message in (
        ("missing", "404"),
        ("elsewhere", "cannot be fetched"),
        ("cut", "cannot be fetched"),
        ("large", "no benchmark_model has"),
    ):
        with pytest.raises(RequestError, match=message):
            adb.tool(f"{address}/{name}")
    with pytest.raises(RequestError, match="cannot be fetched"):
        adb.tool("http://127.0.0.1:9/nobody")
    assert list((tmp_path / "cache" / "benchmark_model").iterdir()) == []


def test_no_warnings_where_all_goes_well(phone):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        phone.run()
