"""A child process for work that may end the process it runs in.

TensorFlow's converter is C++ that aborts on some graphs (LLVM ERROR), and a hostile file can crash the interpreter. In
a child process, such an end becomes an exception with the last lines that the child wrote. The child imports TensorFlow
as soon as it starts, while the parent does other work. In a process that is itself such a child, functions are called
directly, unless a child of its own is asked for (``always``).

The child ends with its parent, however the parent ends.
"""

import contextlib
import ctypes
import errno
import importlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence

from mobilenets_tf.files import KERAS_FOLDER, TemporaryFolder, home_folder, keras_folder
from mobilenets_tf.progress import Progress, silent

_inside = False


class WorkerError(RuntimeError):
    """The child process died. The message has the last lines that the child wrote."""


class Worker:
    """Runs functions in a child process.

    >>> with Worker() as worker:
    ...     model = worker.call(convert_graph, graph, scheme)

    A function must be importable by name, its arguments and result picklable. Its exceptions and warnings are raised
    in the parent process. If the function has a parameter ``progress``, its reports arrive in the parent too.

    Args:
        preload: a module that the child imports at once; "" for work that does not need TensorFlow.
        always: whether the child of another ``Worker`` starts one too.
    """

    def __init__(self, preload: str = "tensorflow", always: bool = False):
        self._process = self._errors = self._folder = None
        if always or not _inside:
            self._folder = TemporaryFolder("mobilenets-tf-")
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
            environment = {
                "TF_CPP_MIN_LOG_LEVEL": "2",
                # The child has Keras' defaults, whatever the user has set for other programs: a keras.json would decide
                # about the backend, the layout of images and the type of numbers.
                "KERAS_BACKEND": "tensorflow",
                "KERAS_HOME": self._folder.name,
                KERAS_FOLDER: str(keras_folder()),  # where the user's Keras has put weights that it fetched
                "HOME": str(home_folder()),  # for a user without one: this process' temporary directory, as it is here
                # Temporary files of the child go where this process removes them, however the child ends.
                "TMPDIR": self._folder.name,
                # Parts of a model and their activations are made and freed all the time. glibc gives freed blocks of
                # more than 128 kB back to the system at once, and fetching their pages anew took a seventh of the
                # processor time of a deploy. What a conversion leaves is given back by ``give_memory_back``.
                "MALLOC_MMAP_THRESHOLD_": str(8 << 20),
                "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
                "MALLOC_ARENA_MAX": "1",  # threads would keep freed memory each for itself
                # The products here are small, and OpenBLAS' threads wait for each other in busy loops: on two cores
                # that other processes use too, a Cholesky factor took 25 times the processor time of one thread.
                "OPENBLAS_NUM_THREADS": "1",
            }
            self._process = _start(preload, self._errors, os.environ | environment, self._folder.lock)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process:
            self._process.kill()
            self._process.wait()
            with contextlib.suppress(BrokenPipeError):  # a dead child has not read its input
                self._process.stdin.close()
            self._process.stdout.close()
            self._errors.close()
            self._folder.close()

    def call(self, function: Callable, *arguments, progress: Progress = silent, seconds: float | None = None):
        """Call ``function(*arguments)`` in the child, and return the result.

        Args:
            seconds: after which a child that has not answered is ended.

        Raises:
            WorkerError: the child died.
        """
        reports = "progress" in function.__code__.co_varnames[: function.__code__.co_argcount]
        if not self._process:
            return function(*arguments, progress=progress) if reports else function(*arguments)
        limit = threading.Timer(seconds, self._process.kill) if seconds is not None else None
        try:
            if limit:
                limit.start()
            request = pickle.dumps((function.__module__, function.__qualname__, arguments, reports))
            self._process.stdin.write(request)
            self._process.stdin.flush()
            while True:
                kind, content = pickle.load(self._process.stdout)
                if kind == "progress":
                    progress(*content)
                elif kind == "warning":
                    warnings.warn(content, stacklevel=2)
                elif kind == "error":
                    raise content
                else:
                    return content
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            raise WorkerError(self._last_words()) from error
        finally:
            if limit:
                limit.cancel()

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        self._process.kill()
        status = self._process.wait()
        cause = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        self._errors.seek(0)
        lines = [line for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        # A native stack trace follows the sentence that matters, so look for that first.
        telling = [line for line in lines if "LLVM ERROR" in line or "Check failed" in line or "Error" in line]
        words = " | ".join((telling or lines)[-5:])
        return f"The child process ended with {cause}." + (f" Its last words: {words}" if words else "")


def _start(preload: str, errors, environment: dict[str, str], lock: int | None) -> subprocess.Popen:
    """Start a child that serves calls. The child has the import path of this process, whatever the working directory.

    Args:
        errors: the file for the child's standard error. lock: of the child's temporary folder. The child inherits the
            descriptor, so that the folder counts as used until the child has ended too.
    """
    start = (
        f"import sys; sys.path[:] = {sys.path!r}; from mobilenets_tf.worker import _serve; "
        f"_serve({preload!r}, {os.getpid()})"
    )
    return subprocess.Popen(
        [sys.executable, "-c", start],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=environment,
        pass_fds=() if lock is None else (lock,),
    )


def give_memory_back() -> None:
    """Give the memory that this process has freed back to the system, where the C library keeps it (glibc)."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(parent: int) -> None:
    """End this process as soon as its parent process ends, even if this process computes in native code then.

    Args:
        parent: the parent's process id.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it has ended already
        os._exit(1)


def ending_with_this_process(command: Sequence[str]) -> list[str]:
    """Return a command that runs a program of somebody else's so that it ends as soon as this process ends.

    On Linux, a small Python sets what ``end_with`` sets and becomes the program; the setting stays. (The function that
    ``subprocess`` can call between fork and exec may hang where other threads run.) Elsewhere: the command as it is.

    Raises:
        OSError: there is no such program, or it cannot be run.
    """
    if sys.platform != "linux":
        return list(command)
    program = shutil.which(command[0])
    if program is None:
        number = errno.EACCES if os.path.exists(command[0]) else errno.ENOENT
        raise OSError(number, os.strerror(number), command[0])
    start = (
        f"import ctypes, os, sys; ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {int(signal.SIGKILL)}); "
        f"os.getppid() == {os.getpid()} or os._exit(1); os.execv(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-I", "-S", "-c", start, program, *command[1:]]


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _serve(preload: str, parent: int) -> None:
    """Answer calls, in the child, until the parent closes the pipe or ends.

    Args:
        parent: the parent's process id.
    """
    global _inside
    _inside = True
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # whatever native code prints must not get between the answers

    def answer(kind, content):
        answers.write(pickle.dumps((kind, content)))  # whole or, where it cannot be pickled, not at all
        answers.flush()

    def progress(*step):
        answer("progress", step)

    def show_warning(message, category, *_, **__):
        if issubclass(category, UserWarning):
            answer("warning", str(message))

    if preload:  # the slow part, done while the parent prepares its first call
        importlib.import_module(preload)
    warnings.showwarning = show_warning
    with contextlib.suppress(EOFError):
        while True:
            module, name, arguments, reports = pickle.load(requests)
            try:
                function = getattr(importlib.import_module(module), name)
                answer("result", function(*arguments, progress=progress) if reports else function(*arguments))
            except Exception as error:
                answer("error", _portable(error))


def _portable(error: Exception) -> Exception:
    """Return the exception if it survives pickling, else a ``RuntimeError`` with the same text."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
