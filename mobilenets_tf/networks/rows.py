"""Tables of rows: the data that a builder interprets, checked when a caller gives a table of his own."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from mobilenets_tf.errors import RequestError, nearest

Rows = Sequence[Any]  # rows, or stages of rows; from JSON they are lists
# A plan may come from elsewhere, and building takes time and memory.
_MOST_ROWS = 64
_MOST_BLOCKS = 256
ACTIVATIONS = ("relu", "relu6", "hard_swish", "silu", "gelu", "sigmoid", "tanh")


class _Column(NamedTuple):
    """What the fields of a column may hold: a test, and the words that say so."""

    fits: Callable[[Any], bool]
    expected: str


def _whole(low: int, high: int) -> _Column:
    return _Column(
        lambda value: _is_whole(value) and low <= value <= high,
        f"a whole number from {low} to {high}",
    )


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_expansion(value: Any) -> bool:
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and bool(0 < value <= 32)


# Every column that a network's table may have. A name means the same in each network.
_COLUMNS = {
    "filters": _whole(1, 8192),
    "blocks": _whole(1, 64),
    "stride": _Column(lambda value: _is_whole(value) and value in (1, 2), "1 or 2"),
    "kernel": _Column(lambda value: _is_whole(value) and value in (1, 3, 5, 7, 9), "1, 3, 5, 7 or 9"),
    "expansion": _Column(_is_expansion, "a number above 0, at most 32"),
    "squeeze": _Column(lambda value: isinstance(value, bool), "True or False"),
    "activation": _Column(lambda value: value in ACTIVATIONS, " or ".join(map(repr, ACTIVATIONS))),
    "squeezed": _whole(0, 64),
    "dim": _whole(0, 2048),
    "depth": _whole(0, 64),
}

Row = TypeVar("Row", bound=tuple)


def table(kind: type[Row], rows: Rows, name: str = "rows") -> tuple[Row, ...]:
    """Check a table of rows, and return it as rows of the network.

    Args:
        kind: a NamedTuple whose fields are columns of ``_COLUMNS``.
        rows: sequences with the fields of ``kind`` in its order, at most 64.
        name: what messages call the table.

    Raises:
        RequestError: there is no row, or there are too many rows or blocks, or a row has another number of fields, or
            a field is out of range. The message quotes the field and gives its place.
    """
    if not isinstance(rows, (Sequence, np.ndarray)) or isinstance(rows, str) or not 1 <= len(rows) <= _MOST_ROWS:
        raise RequestError(f"{name}={_shown(rows)}: expected 1 to {_MOST_ROWS} rows of ({_columns(kind)}).")
    checked = tuple(_row(kind, row, f"{name}[{index}]") for index, row in enumerate(rows))
    _check_blocks(name, sum(getattr(row, "blocks", 1) for row in checked))
    return checked


def staged_table(kind: type[Row], rows: Rows, name: str = "rows") -> tuple[tuple[Row, ...], ...]:
    """Check a table whose rows are grouped into stages: see ``table``."""
    if not isinstance(rows, (Sequence, np.ndarray)) or isinstance(rows, str) or not 1 <= len(rows) <= _MOST_ROWS:
        raise RequestError(f"{name}={_shown(rows)}: expected 1 to {_MOST_ROWS} stages of rows of ({_columns(kind)}).")
    checked = tuple(table(kind, stage, f"{name}[{index}]") for index, stage in enumerate(rows))
    _check_blocks(name, sum(map(len, checked)))
    return checked


def _check_blocks(name: str, blocks: int) -> None:
    if blocks > _MOST_BLOCKS:
        raise RequestError(f"{name}: {blocks} blocks; a network has at most {_MOST_BLOCKS}.")


def _row(kind: type[Row], row: Any, place: str) -> Row:
    fields: tuple[str, ...] = kind._fields  # type: ignore[attr-defined]
    if not isinstance(row, (Sequence, np.ndarray)) or isinstance(row, str) or len(row) != len(fields):
        raise RequestError(f"{place}={_shown(row)}: expected ({_columns(kind)}).")
    for field, value in zip(fields, row, strict=True):
        if not _COLUMNS[field].fits(value):
            close = nearest(value, ACTIVATIONS) if field == "activation" else []
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise RequestError(f"{place}.{field}={_shown(value)}: expected {_COLUMNS[field].expected}.{hint}")
    return kind(*(value.item() if isinstance(value, np.generic) else value for value in row))


def _columns(kind: type[tuple]) -> str:
    return ", ".join(kind._fields)  # type: ignore[attr-defined]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
