"""A table of latencies as a JSON file: what it was measured on, its error, and the time of each operator.

A table may come from anywhere. It is read up to a bound, and every value is checked.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mobilenets_tf.errors import RequestError
from mobilenets_tf.files import parse_json, to_json
from mobilenets_tf.search.latency.measuring import Machine
from mobilenets_tf.search.latency.prediction import Line, PredictionError
from mobilenets_tf.search.latency.workloads import Workload

FORMAT = "mobilenets_tf table of latencies, version 1"
_MOST_BYTES = 64 << 20
_MOST_ENTRIES = 500_000
_MOST_MS = 1e7
_MOST_TEXT = 500


@dataclass(frozen=True)
class Contents:
    """What a table's file holds; see ``LatencyTable``."""

    machine: Machine
    model: Mapping[str, Any]
    scheme: str
    threads: int
    networks: int
    line: Line
    error: PredictionError
    multiply_adds_error: PredictionError
    entries: Mapping[Workload, float]


def written(contents: Contents) -> str:
    """Write a table as text."""
    return to_json(
        {
            "format": FORMAT,
            "machine": asdict(contents.machine),
            "model": dict(contents.model),
            "scheme": contents.scheme,
            "threads": contents.threads,
            "networks": contents.networks,
            "line": asdict(contents.line),
            "error": asdict(contents.error),
            "multiply_adds_error": asdict(contents.multiply_adds_error),
            "entries": {str(workload): round(ms, 6) for workload, ms in contents.entries.items()},
        }
    )


def read(path: Path) -> Contents:
    """Read a table.

    Raises:
        RequestError: the file cannot be read, is too large, is no table of latencies, or is damaged; the message says
            where.
    """
    remedy = "Make a new table (mobilenets-tf latency)."
    try:
        with open(path, "rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(content) > _MOST_BYTES:
        raise RequestError(f"{path} has more than {_MOST_BYTES >> 20} MB, and no table of latencies has. {remedy}")
    document = parse_json(content, path)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise RequestError(
            f"{path} is no table of latencies: its format is {str(found)[:80]!r}, not {FORMAT!r}. {remedy}"
        )
    try:
        return _contents(document)
    except _Damaged as error:
        raise RequestError(f"{path} is damaged: {error}. {remedy}") from error


class _Damaged(Exception):
    pass


def _contents(document: dict) -> Contents:
    entries = _dictionary(document, "entries")
    if not 1 <= len(entries) <= _MOST_ENTRIES:
        raise _Damaged(f"entries has {len(entries)} operators; expected 1 to {_MOST_ENTRIES}")
    times = {}
    for text, ms in entries.items():
        try:
            times[Workload.parse(text)] = _number(ms, f"entries[{text[:80]!r}]", 0, _MOST_MS)
        except RequestError as error:
            raise _Damaged(f"entries: {error}") from error
    machine = _dictionary(document, "machine")
    return Contents(
        machine=Machine(
            processor=_text(machine, "processor"),
            processors=None if machine.get("processors") is None else _whole(machine, "processors"),
            architecture=_text(machine, "architecture"),
            litert=_text(machine, "litert"),
            system=_text(machine, "system"),
            cores=None if machine.get("cores") is None else _text(machine, "cores"),
        ),
        model=_dictionary(document, "model"),
        scheme=_text(document, "scheme"),
        threads=_whole(document, "threads"),
        networks=_whole(document, "networks"),
        line=Line(
            **{
                name: _number(value, f"line.{name}", -_MOST_MS, _MOST_MS)
                for name, value in _exactly(document, "line", Line).items()
            }
        ),
        error=_error(document, "error"),
        multiply_adds_error=_error(document, "multiply_adds_error"),
        entries=times,
    )


def _error(document: dict, name: str) -> PredictionError:
    values = _exactly(document, name, PredictionError)
    correlation = values["rank_correlation"]
    return PredictionError(
        networks=_whole(values, "networks"),
        median=_number(values["median"], f"{name}.median", 0, _MOST_MS),
        within_5=_number(values["within_5"], f"{name}.within_5", 0, 1),
        within_10=_number(values["within_10"], f"{name}.within_10", 0, 1),
        rank_correlation=None
        if correlation is None
        else _number(correlation, f"{name}.rank_correlation", -1.001, 1.001),
    )


def _of_type(document: dict, name: str, kind: type, words: str) -> Any:
    value = document.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _Damaged(f"{name} is {str(value)[:80]!r}; expected {words}")
    return value


def _dictionary(document: dict, name: str) -> dict:
    return _of_type(document, name, dict, "an object")


def _text(document: dict, name: str) -> str:
    return _of_type(document, name, str, "a text")[:_MOST_TEXT]


def _whole(document: dict, name: str) -> int:
    value = _of_type(document, name, int, "a whole number")
    if not 0 <= value <= 1_000_000:
        raise _Damaged(f"{name} is {str(value)[:20]}; expected 0 to 1000000")
    return value


def _exactly(document: dict, name: str, kind: type) -> dict:
    values, expected = _dictionary(document, name), {each.name for each in fields(kind)}
    if set(values) != expected:
        raise _Damaged(f"{name} has {', '.join(sorted(values))[:200]}; expected {', '.join(sorted(expected))}")
    return values


def _number(value: Any, name: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise _Damaged(f"{name} is {str(value)[:40]!r}; expected a number")
    if not low <= value <= high:  # a whole number may be larger than any float
        shown = f"{value:g}" if isinstance(value, float) else str(value)[:40]
        raise _Damaged(f"{name} is {shown}; expected {low:g} to {high:g}")
    return float(value)
