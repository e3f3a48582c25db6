"""Extension of Griffe: the lines "name: what it is" of a class's docstring are its attributes.

The package's dataclasses describe their fields so. Without this, the lines of a paragraph would run together.
"""

import re
from collections.abc import Iterator

import griffe

_FIELD = re.compile(r"(\w+(?:, \w+)*): ")
_NEXT_FIELD = re.compile(r"(?<=[.;]) (?=(\w+(?:, \w+)*): )")  # in the same line


class Fields(griffe.Extension):
    """Turns paragraphs that describe fields of the class into a section "Attributes"."""

    def on_class(self, *, cls: griffe.Class, **_) -> None:
        """Rewrite the docstring of a class."""
        if cls.docstring:
            cls.docstring.value = rewritten(cls.docstring.value, set(cls.members))


def rewritten(text: str, names: set[str]) -> str:
    """The docstring with its field lines as a section; other paragraphs stay."""
    return "\n\n".join(_paragraph(paragraph, names) for paragraph in text.split("\n\n"))


def _paragraph(paragraph: str, names: set[str]) -> str:
    lines = paragraph.split("\n")
    starts = [found for found in map(_FIELD.match, lines) if found]
    # The first field may be one that is inherited, which ``names`` lacks.
    if not _FIELD.match(lines[0]) or not any(names.issuperset(found[1].split(", ")) for found in starts):
        return paragraph
    return "Attributes:\n" + "\n".join(f"    {field}" for line in _joined(lines) for field in _fields(line, names))


def _joined(lines: list[str]) -> list[str]:
    """One line for each line that begins with a field, with the lines that continue it."""
    joined: list[str] = []
    for line in lines:
        if line.startswith(" ") or not _FIELD.match(line):
            joined[-1] += f" {line.strip()}"
        else:
            joined.append(line)
    return joined


def _fields(line: str, names: set[str]) -> Iterator[str]:
    """A line for each field: "height, width: sides. scale: a factor" has three."""
    start = 0
    for found in [*_NEXT_FIELD.finditer(line), None]:
        if found and not names.issuperset(found[1].split(", ")):
            continue
        together, _, told = line[start : found.start() if found else None].partition(": ")
        yield from (f"{name}: {told}" for name in together.split(", "))
        start = found.end() if found else len(line)
