"""Templates of Android code: Kotlin, Gradle and XML, whatever the names in them are."""

import functools
import json
from xml.sax.saxutils import escape

from mobilenets_tf.progress import printable


@functools.cache
def environment(package: str):
    """Return the Jinja environment of the templates of a package.

    Filters for values in Kotlin: ``kotlin`` writes a Float, ``kotlin_text`` a text with its quotes, ``inside_text`` the
    part of a text between quotes, ``plus`` the addition of a whole number. ``resource_text``: a text in an Android
    resource.
    """
    import jinja2

    result = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    result.filters |= {
        "kotlin": float_literal,
        "kotlin_text": text_literal,
        "inside_text": lambda text: text_literal(text)[1:-1],
        "plus": plus,
        "resource_text": resource_text,
    }
    return result


def text_literal(text: str) -> str:
    """Write a text as a Kotlin string."""
    return json.dumps(text.replace("\f", " ")).replace("$", "\\$")  # Kotlin has no escape for a form feed


def float_literal(value: float) -> str:
    """Write a number as a Kotlin Float with all its digits."""
    return f"{value:.9g}f"


def plus(value: int) -> str:
    """Write the addition of a whole number, nothing for 0."""
    return f" {'-' if value < 0 else '+'} {abs(value)}" if value else ""


def resource_text(text: str) -> str:
    """Write a text as the value of an Android string resource."""
    quoted = escape(text.replace("\\", "\\\\").replace("'", "\\'").replace('"', '\\"'))
    return f"\\{quoted}" if quoted[:1] in ("@", "?") else quoted
