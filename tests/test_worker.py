"""A child process ends, warns and fails as a call here would, or better."""

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mobilenets_tf import RequestError, files
from mobilenets_tf.quantize import schemes
from mobilenets_tf.worker import Worker, WorkerError, ending_with_this_process
from tests.support.in_a_worker import abort, keras_settings, memory_given_back, warn_and_print

pytestmark = pytest.mark.usefixtures("own_workers")


def test_an_abort_in_native_code_becomes_an_exception():
    with Worker(preload="") as worker, pytest.raises(WorkerError, match="SIGABRT.*LLVM ERROR: the last words"):
        worker.call(abort, "the last words")


def test_the_child_passes_on_results_warnings_and_errors():
    with Worker(preload="") as worker:
        with pytest.warns(UserWarning, match="take care"):
            assert worker.call(warn_and_print, 3) == 3
        with pytest.raises(RequestError, match="Unknown scheme"):
            worker.call(schemes.get, "none")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or sys.platform != "linux", reason="of glibc, looks into /proc")
def test_memory_that_was_freed_is_given_back_to_the_system():
    with Worker(preload="") as worker:
        assert worker.call(memory_given_back) > 24 * 2**20


PARENT = """
from mobilenets_tf.worker import Worker
with Worker(preload="") as worker:
    print(worker.call(own_id), worker._folder.name, flush=True)
    worker.call(hold_the_interpreter, 60)
"""


def is_running(process_id):
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process_id}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].startswith(" Z"))


def within(seconds, condition):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return condition()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_child_in_native_code_ends_with_a_killed_parent_and_the_next_removes_its_folder(tmp_path):
    text = "from tests.support.in_a_worker import hold_the_interpreter, own_id\n" + PARENT
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        child, folder = parent.stdout.readline().split()
        assert is_running(int(child)) and Path(folder).is_dir() and Path(folder).parent == tmp_path
        parent.kill()
    assert within(5, lambda: not is_running(int(child)))
    with files.TemporaryFolder("mobilenets-tf-", tmp_path) as other:
        assert [str(path) for path in tmp_path.iterdir()] == [other]
    assert not list(tmp_path.iterdir())


def test_where_the_system_does_not_end_a_child_it_watches_its_parent():
    text = (
        "import os, sys, time; sys.platform = 'darwin'; from mobilenets_tf import worker; "
        "worker.end_with(os.getppid()); print(os.getpid(), flush=True); time.sleep(60)"
    )
    start = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {text!r}]); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
    assert within(5, lambda: not is_running(child))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the program is not bound")
def test_a_program_of_somebody_elses_ends_with_a_killed_parent():
    """As QEMU and adb are started. The program has the environment that it is given."""
    program = "import os, sys, time; print(os.getpid(), os.environ['A'], sys.argv[1], flush=True); time.sleep(60)"
    start = (
        "import subprocess, sys, time; from mobilenets_tf.worker import ending_with_this_process as bound; "
        f"command = bound([sys.executable, '-c', {program!r}, 'word']); "
        "subprocess.Popen(command, env={'A': 'a', 'PYTHONHOME': ''}); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, text=True) as parent:
        child, *told = parent.stdout.readline().split()
        assert told == ["a", "word"] and is_running(int(child))
        parent.kill()
    assert within(5, lambda: not is_running(int(child)))
    with pytest.raises(FileNotFoundError, match="/nowhere/qemu"):
        ending_with_this_process(["/nowhere/qemu"])


@pytest.mark.slow
def test_a_child_has_keras_defaults_whatever_surrounds_it(tmp_path, monkeypatch):
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text(
        '{"floatx": "float16", "epsilon": 1e-3, "backend": "jax", "image_data_format": "channels_first"}'
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with Worker() as worker:
        assert worker.call(keras_settings) == ("tensorflow", "channels_last", "float32")


def test_a_user_without_a_home_has_the_same_cache_folder_in_the_child(monkeypatch):
    monkeypatch.delenv("MOBILENETS_TF_HOME", raising=False)
    monkeypatch.setattr(files.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with Worker(preload="") as worker:
        assert worker.call(files.cache_folder) == files.cache_folder()
