"""What has been measured so far, kept beside the table that is being made, so that an interrupted command goes on."""

import json
import math
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mobilenets_tf import files
from mobilenets_tf.errors import RequestError
from mobilenets_tf.search.latency.measuring import Machine, Run

_SECONDS = 5.0  # between two writes
_MOST_BYTES = 256 << 20


class Partial:
    """The passes of all files of a request.

    Args:
        path: of the table; the partial one is called ``<path>.partial``. None: nothing is kept.
        request: plain data that says what is measured, and where. A partial table of another request is not used.
        count: of the files.

    runs: of each file its passes. machine: where they ran; None: nothing has run.

    """

    def __init__(self, path: Path | None, request: dict, count: int):
        self._path = None if path is None else path.with_name(f"{path.name}.partial")
        self._request = request
        self._written = time.monotonic()
        self.runs: list[list[Run]] = [[] for _ in range(count)]
        self.machine: Machine | None = None
        if self._path is not None and self._path.exists():
            self._take_over(count)

    def keep(self, machine: Machine) -> None:
        """Note where a file has run, and write what there is, at most every few seconds.

        Raises:
            RequestError: earlier passes ran on another machine, such as another phone; or the folder cannot be written.
        """
        if self.machine not in (None, machine):
            raise RequestError(
                f"{self._path} was begun on {self.machine}, and this is {machine}. Go on with the first one, or remove "
                "the file to begin anew."
            )
        self.machine = machine
        if time.monotonic() - self._written >= _SECONDS:
            self.write()

    def write(self) -> None:
        """Write what there is.

        Raises:
            RequestError: the folder cannot be written.
        """
        if self._path is None or not any(self.runs):
            return
        document = {
            "request": self._request,
            "machine": self.machine and asdict(self.machine),
            "ops": [[list(op) for op in each[0].ops] if each else [] for each in self.runs],
            "runs": [[[run.ms, *run.ops_ms] for run in each] for each in self.runs],
        }
        files.write_together(self._path.parent, {self._path.name: json.dumps(document, separators=(",", ":"))})
        self._written = time.monotonic()

    def remove(self) -> None:
        """Remove the partial table: the whole one is there."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _take_over(self, count: int) -> None:
        path = self._path
        assert path is not None
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise RequestError(f"{path} is too large.")
            document = files.parse_json(path.read_bytes(), path)
            if document["request"] != self._request:
                warnings.warn(
                    f"{path} is of another request, or of another machine; measuring begins anew.", stacklevel=4
                )
                return
            runs = [
                [_run(names, values) for values in each]
                for names, each in zip(document["ops"], document["runs"], strict=True)
            ]
            if len(runs) != count:
                raise ValueError
            self.machine = Machine(**document["machine"])
            self.runs = runs
        except (OSError, RequestError, KeyError, TypeError, ValueError):
            warnings.warn(f"{path} is damaged; measuring begins anew.", stacklevel=4)


def _run(names: Any, values: Any) -> Run:
    """Read a pass. ValueError or TypeError: it is none."""
    numbers = [float(value) for value in values]
    ops = tuple((str(name), bool(delegated)) for name, delegated in names)
    if len(numbers) != len(ops) + 1 or not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise ValueError
    return Run(numbers[0], ops, tuple(numbers[1:]))
