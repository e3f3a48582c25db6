"""Child processes that have TensorFlow imported already: forks of a process that did nothing else.

Importing it takes seconds of processor time, which hundreds of tests would pay again and again. ``Child`` stands for
the process of a ``Worker``, ``command`` for a command line, ``script`` and ``program`` for a Python program; each is a
process of its own all the same.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.support.preloaded"])


class Child:
    """What ``Worker`` asks of a ``subprocess.Popen``; made by what it calls ``_start``."""

    def __init__(self, preload: str, errors, environment: dict[str, str], lock: int | None):
        (its_input, our_output), (our_input, its_output) = os.pipe(), os.pipe()
        streams = its_input, its_output, errors.fileno()
        self._process = _forked(_serve, environment, streams, preload, os.getpid())
        os.close(its_input)
        os.close(its_output)
        self.stdin, self.stdout = os.fdopen(our_output, "wb"), os.fdopen(our_input, "rb")

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("child", timeout)
        return self._process.exitcode


def command(*arguments, cwd=None, **environment) -> subprocess.CompletedProcess:
    """``mobilenets-tf`` with these words, as ``subprocess.run`` gives it; what ``Worker``s do, it does itself."""
    return _captured(_main, list(map(str, arguments)), cwd, environment)


class Started:
    """``mobilenets-tf`` with these words, running, with what the tests ask of a ``subprocess.Popen``. What ``Worker``s
    do is done in children of the command, as outside of the tests: they end with it, and can be started again."""

    def __init__(self, words, **environment: str):
        self._files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115 (closed with this object)
        with open(os.devnull) as nothing:
            streams = nothing.fileno(), *(file.fileno() for file in self._files)
            self._process = _forked(_main_with_children, os.environ | environment, streams, list(map(str, words)))
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("command", timeout)
        return tuple(map(_text, self._files))


def _text(file) -> str:
    file.seek(0)
    return file.read().decode()


def script(text: str, *arguments, cwd=None, **environment) -> subprocess.CompletedProcess:
    """A Python program with these words behind its name; of modules that take long, it has TensorFlow and Keras."""
    return _captured(_run, [text, *map(str, arguments)], cwd, environment)


def program(path, *arguments, cwd=None, **environment) -> subprocess.CompletedProcess:
    """``python path`` with these words; what ``Worker``s do, it does itself."""
    return _captured(_run_file, list(map(str, (path, *arguments))), cwd, environment)


def _captured(function, words: list[str], cwd, environment: dict) -> subprocess.CompletedProcess:
    environment = os.environ | {key: str(value) for key, value in environment.items()}
    with open(os.devnull) as nothing, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        streams = nothing.fileno(), out.fileno(), err.fileno()
        process = _forked(function, environment, streams, os.path.abspath(cwd or "."), words)
        process.join()
        texts = map(_text, (out, err))
        return subprocess.CompletedProcess(words, process.exitcode, *texts)


def _forked(function, environment: dict[str, str], streams: tuple[int, int, int], *arguments):
    """A process that has started; the descriptors are its standard input, output and error."""
    streams = [Connection(os.dup(stream)) for stream in streams]  # which is how multiprocessing hands them over
    process = _FORKS.Process(target=_begin, args=(function, environment, streams, sys.path, arguments), daemon=True)
    process.start()
    return process


def _begin(function, environment, streams, path, arguments) -> None:
    for target, stream in enumerate(streams):
        os.dup2(stream.fileno(), target)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = path
    function(*arguments)


def _serve(preload: str, parent: int) -> None:
    from mobilenets_tf import worker

    def watch():
        while _runs(parent):
            time.sleep(0.05)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    _may_have_children()
    worker._serve(preload, os.getppid())  # the system takes the server of the forks for the parent


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
        return True
    except ProcessLookupError:
        return False


def _main_with_children(words: list[str]) -> None:
    from mobilenets_tf import cli

    signal.signal(signal.SIGINT, signal.default_int_handler)
    _may_have_children()
    sys.exit(cli.main(words))


def _may_have_children() -> None:
    from mobilenets_tf import worker

    multiprocessing.current_process()._config["daemon"] = False  # which would forbid them
    # A fork has no server of its own, and to start one takes as long as to import TensorFlow: seconds, where a child
    # that only reads HDF5 starts in a quarter of one.
    start = worker._start
    worker._start = lambda preload, *more: (Child if preload == "tensorflow" else start)(preload, *more)


def _main(folder: str, words: list[str]) -> None:
    from mobilenets_tf import cli, worker

    os.chdir(folder)
    _may_have_children()
    worker._inside = True
    sys.exit(cli.main(words))


def _run(folder: str, words: list[str]) -> None:
    os.chdir(folder)
    text, *sys.argv[1:] = words
    exec(compile(text, "script", "exec"), {"__name__": "__main__"})


def _run_file(folder: str, words: list[str]) -> None:
    from mobilenets_tf import worker

    os.chdir(folder)
    _may_have_children()
    worker._inside = True
    sys.argv = words
    sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
    runpy.run_path(words[0], run_name="__main__")
