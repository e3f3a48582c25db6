"""A child process that runs a TFLite file on arrays from a pipe, as ``guest`` does, with limits on time and memory.

Any end of the child, and any answer that the guest cannot have written, becomes a ``TargetError`` with a clear line.
"""

import json
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from mobilenets_tf.export.targets import guest
from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.worker import WorkerError, ending_with_this_process

# LiteRT's lines on what it has loaded and unloaded, which come after the line that says what failed.
_CHATTER = re.compile(r"INFO: |I\d{4} ")


class TargetError(WorkerError):
    """The process of a target died, hung, or sent an invalid answer. The message has the last lines that it printed."""


class Child:
    """The running child process. Use it in a ``with`` statement: leaving it ends the process.

    Args:
        name: what the messages call the process, such as "emulated cortex-a53".
        command: the words that start a Python with NumPy and LiteRT; the guest's script is added.
        options: what the guest has to do, as ``guest.main`` reads it.
        environment: all environment variables of the process.
        patience: time limit for one exchange, in seconds. The first exchange compiles the file.

    Raises:
        TargetError: the process cannot be started.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        options: Mapping[str, object],
        environment: Mapping[str, str],
        patience: float,
    ):
        self._name, self._patience = name, patience
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        words = [*command, str(Path(guest.__file__)), json.dumps(options)]
        try:
            self._process = subprocess.Popen(
                ending_with_this_process(words),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=dict(environment),
            )
        except OSError as error:
            self._errors.close()
            raise TargetError(f"{words[0]} cannot be started: {error.strerror or error}.") from error

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        self._process.wait()
        with suppress(BrokenPipeError):  # raised if the process died before it read all input
            self._process.stdin.close()
        self._process.stdout.close()
        self._errors.close()

    def run(
        self,
        content: bytes,
        inputs: Sequence[list[np.ndarray]],
        valid: Callable[[dict], bool],
        progress: Progress = silent,
    ) -> tuple[dict, list[list[np.ndarray]]]:
        """Run a TFLite file.

        Args:
            content: content of the file.
            inputs: for each sample one array for each input, with the shape and dtype of the input.
            valid: whether the guest can have said this of the file and the target.

        Returns:
            What the guest says of the file and the target; for each sample the file's outputs.

        Raises:
            TargetError: the process died, hung, or sent an invalid answer.
        """
        with self._explained():
            guest.write_array(self._process.stdin, np.frombuffer(content, np.uint8))
            about = _greeting(self._process.stdout, valid)
        outputs = []
        for sample in track(inputs, f"on the {self._name}", progress):
            with self._explained():
                for array in sample:
                    guest.write_array(self._process.stdin, np.asarray(array))
                outputs.append([guest.read_array(self._process.stdout) for _ in range(about["outputs"])])
        return about, outputs

    def log(self) -> str:
        """Return what the process has printed so far."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    @contextmanager
    def _explained(self):
        """Set a time limit for one exchange with the process, and turn its failures into ``TargetError``."""
        expired = threading.Event()

        def end():
            expired.set()
            self._process.kill()

        timer = threading.Timer(self._patience, end)
        timer.start()
        try:
            yield
        except (EOFError, BrokenPipeError, ValueError) as error:
            if expired.is_set():
                reason = f"gave no answer in {self._patience:g} s and was ended"
            elif isinstance(error, ValueError):
                reason = f"sent an invalid answer ({error})"
            else:
                reason = _ending(self._process)
            raise TargetError(f"The {self._name} {reason}.{_last_words(self.log())}") from error
        finally:
            timer.cancel()


def _greeting(stream, valid: Callable[[dict], bool]) -> dict:
    """Read the first line of the process. ValueError if ``guest`` cannot have written the line."""
    line = stream.readline(1 << 16)
    if not line:
        raise EOFError
    try:
        about = json.loads(line)
        if all(isinstance(about[name], int) for name in ("inputs", "outputs")) and valid(about):
            return about
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise ValueError(f"its first line is {line[:80]!r}")


def _ending(process) -> str:
    try:
        status = process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        return "closed its pipe"
    return f"ended with {f'signal {signal.Signals(-status).name}' if status < 0 else f'exit status {status}'}"


def _last_words(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip() and not _CHATTER.match(line)]
    return f" Its last lines: {' | '.join(lines[-4:])[-600:]}" if lines else ""
