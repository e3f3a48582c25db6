"""benchmark_model on a phone that is faked by a shell script, which runs what it is told in a folder."""

import functools
import http.server
import os
import re
import shlex
import signal
import threading
import time
import warnings
from pathlib import Path

import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.export.speed import adb
from mobilenets_tf.export.speed import phone as phone_module
from mobilenets_tf.export.speed.phone import PhoneRequest, find_tool
from mobilenets_tf.export.speed.tool_output import parse
from tests.support.fake_phone import AARCH64, FAKE_ADB, Phone, recorded


@pytest.fixture
def phone(tmp_path, monkeypatch):
    monkeypatch.setenv("PHONE", str(tmp_path))
    return Phone(tmp_path)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"files": ()}, "at least one .tflite file"),
        ({"files": "net.tflite"}, "No such TFLite file: net.tflite"),
        ({"files": ["none.tflite"]}, "No such TFLite file: none.tflite"),
        ({"benchmark_model": ""}, r"benchmark_model \(--benchmark-model\) is missing"),
        ({"calls": 0}, "calls=0: expected at least 1"),
        ({"threads": -1}, "threads=-1: expected at least 1"),
        ({"cores": "4-7"}, "cores='4-7': expected a mask in hexadecimal"),
        ({"cores": "0"}, "hexadecimal"),
        ({"cores": "f0; reboot"}, "hexadecimal"),
        ({"use_gpu": True, "use_nnapi": True}, "--use-nnapi.*choose one"),
    ],
)
def test_requests_that_cannot_work(phone, options, message):
    request = PhoneRequest(**{"files": [phone.model], "benchmark_model": str(phone.binary)} | options)
    with pytest.raises(RequestError, match=message):
        phone_module.benchmark_on_phone(request)
    assert not (phone.folder / "log").exists()


def test_the_whole_way(phone):
    (result,) = phone.run(calls=25, threads=4, use_gpu=True, cores="f0", profile=True)
    assert result.output == parse(recorded("percentiles"))
    assert result.accelerated is False  # it names XNNPACK only
    about = {"serial": "PHONE1", "model": "Fake Phone", "android": "14", "abis": "arm64-v8a,armeabi-v7a"}
    assert dict(result.device) == about
    assert (phone.folder / "cores").read_text() == "f0\n"
    arguments = (phone.folder / "arguments").read_text().splitlines()
    assert re.fullmatch(rf"--graph={phone.folder}/tmp/mobilenets-tf-\w+/model\.tflite", arguments[0])
    assert arguments[1:] == [
        "--num_threads=4", "--num_runs=25", "--use_gpu=true", "--enable_op_profiling=true", "--use_profiler=true",
    ]  # fmt: skip
    assert shlex.split(result.command)[:2] == ["taskset", "f0"]
    assert phone.left() == [] and not (phone.folder / "hacked").exists() and not Path("hacked").exists()
    assert phone.log().count("serial PHONE1") == len(phone.log()) // 2
    assert f"push {phone.model} " in "\n".join(phone.log())


@pytest.mark.parametrize(
    "recording, options, accelerated",
    [
        ("gpu_completely", {"use_gpu": True}, True),
        ("nnapi_partially", {"use_nnapi": True}, True),
        ("memory", {"use_gpu": True}, False),
        ("memory", {}, None),
    ],
)
def test_whether_the_accelerator_ran_anything(phone, recording, options, accelerated):
    phone.prints(recording)
    (result,) = phone.run(**options)
    assert result.accelerated is accelerated and result.as_dict()["accelerated"] is accelerated


def test_several_files_and_their_one_folder(phone):
    other = phone.folder / "other.tflite"
    other.write_bytes(b"another")
    assert [result.file for result in phone.run([phone.model, other])] == [str(phone.model), str(other)]
    folders = {line.split()[-1].rpartition("/")[0] for line in phone.log() if line.startswith("push")}
    assert len(folders) == 1 and phone.left() == []


def test_a_failed_run_cleans_up(phone):
    phone.prints("gpu_failure", status=1)
    with pytest.raises(RequestError, match=r"failed on .*net\.tflite \(exit status 1\): Failed to build program"):
        phone.run()
    assert phone.left() == []
    phone.prints("nnapi_not_executed")  # it stops without a figure
    with pytest.raises(RequestError, match=r"failed on .*net\.tflite \(exit status 0\)"):
        phone.run()
    assert phone.left() == []


def test_a_tool_that_ignores_what_was_asked_for(phone):
    text = recorded("percentiles") + "WARN: Unconsumed cmdline flags: --use_nnapi=true --enable_op_profiling=true\n"
    (phone.folder / "recording").write_text(text)
    with pytest.raises(RequestError, match=r"ignores --use_nnapi=true, so .*net\.tflite was not measured"):
        phone.run(use_nnapi=True, profile=True)
    (result,) = phone.run(profile=True)
    assert result.output.ignored == ("--use_nnapi=true", "--enable_op_profiling=true")


def test_a_run_that_takes_too_long_is_ended_on_the_phone_too(phone):
    (phone.folder / "slow").touch()
    with pytest.raises(RequestError, match="took more than 1 s"):
        phone.run(timeout=1)
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
    with pytest.raises(RequestError, match=r"printed more than 1,000 characters and was ended"):
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
            find_tool(str(path))
    with pytest.raises(RequestError, match="http or https"):
        find_tool("ftp://example.org/benchmark_model")
    with pytest.raises(RequestError, match="http or https"):
        find_tool("file:///etc/passwd")


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


def test_a_tool_from_an_address_is_downloaded_once(server, tmp_path):
    address, folder = server
    (folder / "benchmark_model").write_bytes(AARCH64)
    tool = find_tool(f"{address}/benchmark_model")
    assert tool.path.read_bytes() == AARCH64 and tool.path.is_relative_to(tmp_path / "cache")
    assert tool.abi == "arm64-v8a" and len(tool.sha256) == 64
    (folder / "benchmark_model").unlink()
    assert find_tool(f"{address}/benchmark_model") == tool


def test_what_cannot_be_downloaded_leaves_nothing(server, tmp_path, monkeypatch):
    address, folder = server
    (folder / "large").write_bytes(bytes(5000))
    monkeypatch.setattr(phone_module, "_MOST_DOWNLOAD", 4000)
    for name, message in (
        ("missing", "404"),
        ("elsewhere", "cannot be downloaded"),
        ("cut", "cannot be downloaded"),
        ("large", "too large for a benchmark_model"),
    ):
        with pytest.raises(RequestError, match=message):
            find_tool(f"{address}/{name}")
    with pytest.raises(RequestError, match="cannot be downloaded"):
        find_tool("http://127.0.0.1:9/nobody")
    assert list((tmp_path / "cache" / "benchmark_model").iterdir()) == []


def test_no_warnings_where_all_goes_well(phone):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        phone.run()
