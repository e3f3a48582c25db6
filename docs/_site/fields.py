"""Extension of Griffe: the lines "name: what it is" of a class's docstring are its attributes.

The package's dataclasses describe their fields so. Without this, the lines of a paragraph would run together.
"""

import re
import textwrap

import griffe

_FIELD = re.compile(r"(\w+(?:, \w+)*): ")


class Fields(griffe.Extension):
    """Turns paragraphs that begin with a field of the class into a section "Attributes"."""

    def on_class(self, *, cls: griffe.Class, **_) -> None:
        """Rewrite the docstring of a class."""
        if cls.docstring:
            cls.docstring.value = rewritten(cls.docstring.value, set(cls.members))


def rewritten(text: str, names: set[str]) -> str:
    """The docstring with its field lines as a section; other paragraphs stay."""
    return "\n\n".join(_paragraph(paragraph, names) for paragraph in text.split("\n\n"))


def _paragraph(paragraph: str, names: set[str]) -> str:
    first = _FIELD.match(paragraph)
    if not first or not names.issuperset(first[1].split(", ")):
        return paragraph
    return "Attributes:\n" + textwrap.indent("\n".join(_one_a_line(paragraph, names)), "    ")


def _one_a_line(paragraph: str, names: set[str]):
    """Lines that each begin with one field: "a, b: the sides" has two, and so has "a: one. b: two."."""
    for line in paragraph.split("\n"):
        found = _FIELD.match(line)
        if not found or not names.issuperset(found[1].split(", ")):
            yield f"    {line.strip()}"
            continue
        rest = line[found.end() :]
        for name in found[1].split(", "):
            yield f"{name}: {rest}"
