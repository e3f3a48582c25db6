"""Manifests: read the manifest of a file, and list the versions on which the bytes of a result depend."""

import importlib.metadata
import os
import platform
from pathlib import Path

from mobilenets_tf.errors import RequestError
from mobilenets_tf.files import parse_json
from mobilenets_tf.version import __version__


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python, and of the packages that results depend on."""
    names = ("tensorflow", "keras", "ai-edge-litert", "numpy", "pillow")
    installed = {name: importlib.metadata.version(name) for name in names}
    return {"mobilenets-tf": __version__, "python": platform.python_version(), **installed}


# What readers rely on, where a manifest has the entry.
_TYPES: dict[str, type] = {
    "task": str, "scheme": str, "labels": list, "files": list, "options": dict, "preprocessing": dict, "model": dict,
    "calibration": dict, "form": str, "plan": dict,
}  # fmt: skip


_REMEDY = "Write the file and its manifest again, or remove the manifest."


def manifest_of(file: Path) -> dict:
    """Read the manifest beside a file; {} where there is none, or another document.

    Raises:
        RequestError: the manifest cannot be read, is damaged, or has an entry of another type than manifests of this
            package have. To take it for missing would change labels, preprocessing and verdicts in silence.
    """
    path = file.with_name(file.name + ".json")
    if not os.path.isfile(path):
        return {}
    try:
        manifest = parse_json(path.read_bytes(), path)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}.") from error
    except RequestError as error:
        raise RequestError(f"{error} {_REMEDY}") from error
    if not isinstance(manifest, dict):
        return {}
    for key, kind in _TYPES.items():
        value = manifest.get(key)
        wrong = value is not None and not isinstance(value, kind)
        if wrong or (key == "labels" and not all(isinstance(name, str) for name in value or ())):
            raise RequestError(f"{path}: {key} is {str(value)[:80]}, which no manifest of this package has. {_REMEDY}")
    return manifest
