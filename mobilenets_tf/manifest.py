"""Manifests: read the manifest of a file, and list the versions on which the bytes of a result depend."""

import contextlib
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

from mobilenets_tf.errors import RequestError
from mobilenets_tf.version import __version__


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python, and of the packages that results depend on."""
    names = ("tensorflow", "keras", "ai-edge-litert", "numpy", "pillow")
    installed = {name: importlib.metadata.version(name) for name in names}
    return {"mobilenets-tf": __version__, "python": platform.python_version(), **installed}


# What readers rely on, where a manifest has the entry.
_TYPES: dict[str, type] = {
    "task": str, "scheme": str, "labels": list, "files": list, "options": dict, "preprocessing": dict, "model": dict,
    "calibration": dict, "form": str,
}  # fmt: skip


def manifest_of(file: Path) -> dict:
    """Read the manifest beside a file; {} where there is none, or none that can be read.

    Raises:
        RequestError: an entry has another type than manifests of this package have.
    """
    path = file.with_name(file.name + ".json")
    manifest: Any = {}
    with contextlib.suppress(OSError, ValueError, RecursionError):
        manifest = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(manifest, dict):
        return {}
    for key, kind in _TYPES.items():
        value = manifest.get(key)
        wrong = value is not None and not isinstance(value, kind)
        if wrong or (key == "labels" and not all(isinstance(name, str) for name in value or ())):
            raise RequestError(
                f"{path}: {key} is {str(value)[:80]}, which no manifest of this package has. Write the file and its "
                "manifest again, or remove the manifest."
            )
    return manifest
