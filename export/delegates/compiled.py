"""Files that a vendor's compiler has made for the NPU of one chip, as ``deploy --npu`` writes them.

Each part of the graph that the NPU takes is one operator; the compiler's code for it is behind the model. What the
operators were before is in ``report.json`` beside the file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mobilenets_tf.data.text_files import read_json
from mobilenets_tf.errors import RequestError
from mobilenets_tf.tflite import flatbuffer

PART = "DISPATCH_OP"  # litert/core/build_stamp.h
REPORT = "report.json"
_LARGEST_REPORT = 1 << 20  # bytes; the report may come from anywhere
_STAMP, _LENGTH = b"LiteRtStamp", 124  # of the maker's name and of the chip's, in that order


@dataclass(frozen=True)
class Compiled:
    """What a compiled file says of itself, and the report beside it.

    manufacturer, chip: of the NPU; "unknown" where the file does not say so. parts: of the graph, on the NPU.
    operators, taken: the number of operators of the file that was compiled, and of those in the parts; None without a
        report. inside: operator -> how many of it are in the parts; empty without a report.
    """

    manufacturer: str
    chip: str
    parts: int
    operators: int | None = None
    taken: int | None = None
    inside: Mapping[str, int] | None = None

    def line(self) -> str:
        """Say in one line what the file is."""
        parts = "1 part" if self.parts == 1 else f"{self.parts} parts"
        return f"{self.manufacturer} {self.chip}, {parts}; runs on this chip's NPU alone"


def compiled(model: flatbuffer.schema.ModelT, path: Path | None = None) -> Compiled | None:
    """Describe a compiled file; return None for any other file.

    Args:
        model: as ``flatbuffer.read`` returns it.
        path: of the file, beside which the report may be.
    """
    parts = sum(flatbuffer.operator_name(model, operator) == PART for operator in model.subgraphs[0].operators)
    if not parts:
        return None
    manufacturer, chip = _stamp(model)
    found = Compiled(manufacturer, chip, parts)
    told = _told(path, chip) if path else None
    if told is None:
        return found
    return Compiled(manufacturer, chip, parts, told["operators"], told["taken"], told["inside"])


def _stamp(model: flatbuffer.schema.ModelT) -> tuple[str, str]:
    for entry in model.metadata or ():
        data = model.buffers[entry.buffer].data if entry.name == _STAMP else None
        if data is not None and len(data) >= 2 * _LENGTH:
            fields = (bytes(data[at : at + _LENGTH]).split(b"\0")[0] for at in (0, _LENGTH + 1))
            manufacturer, chip = (field.decode(errors="replace") or "unknown" for field in fields)
            return manufacturer, chip
    return "unknown", "unknown"


def _told(path: Path, chip: str) -> dict | None:
    """Return what the report beside a file says of it; None where there is none, or where it is of other files."""
    report = path.with_name(REPORT)
    try:
        if not path.stem.endswith(f"_{chip}") or report.stat().st_size > _LARGEST_REPORT:
            return None
        document = read_json(report)
    except (OSError, RequestError):
        return None
    chips = document.get("chips") if isinstance(document, dict) else None
    for each in chips if isinstance(chips, list) else ():
        if isinstance(each, dict) and each.get("chip") == chip and _is_whole(each):
            return each
    return None


def _is_whole(entry: dict) -> bool:
    inside = entry.get("inside")
    counts = [entry.get("operators"), entry.get("taken"), *(inside.values() if isinstance(inside, dict) else [None])]
    return all(type(count) is int for count in counts)
