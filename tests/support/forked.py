"""Child processes that have TensorFlow imported already: forks of a process that did nothing else.

Importing it takes seconds of processor time, which hundreds of tests would pay again and again. ``Child`` stands for
the process of a ``Worker``, ``command`` for a command line, ``script`` for a Python program; each is a process of its
own all the same.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.support.preloaded"])


class Child:
    """What ``Worker`` asks of a ``subprocess.Popen``; made by what it calls ``_start``."""

    def __init__(self, preload: str, errors, environment: dict[str, str], lock: int | None):
        (its_input, our_output), (our_input, its_output) = os.pipe(), os.pipe()
        self._process = _forked(_serve, environment, (its_input, its_output, errors.fileno()), preload)
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


def script(text: str, *arguments, cwd=None, **environment) -> subprocess.CompletedProcess:
    """A Python program with these words behind its name; of modules that take long, it has TensorFlow and Keras."""
    return _captured(_run, [text, *map(str, arguments)], cwd, environment)


def _captured(function, words: list[str], cwd, environment: dict) -> subprocess.CompletedProcess:
    environment = os.environ | {key: str(value) for key, value in environment.items()}
    with open(os.devnull) as nothing, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        streams = nothing.fileno(), out.fileno(), err.fileno()
        process = _forked(function, environment, streams, os.path.abspath(cwd or "."), words)
        process.join()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
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


def _serve(preload: str) -> None:
    from mobilenets_tf import worker

    worker._serve(preload, os.getppid())


def _main(folder: str, words: list[str]) -> None:
    from mobilenets_tf import cli, worker

    os.chdir(folder)
    worker._inside = True
    sys.exit(cli.main(words))


def _run(folder: str, words: list[str]) -> None:
    os.chdir(folder)
    text, *sys.argv[1:] = words
    exec(compile(text, "script", "exec"), {"__name__": "__main__"})
