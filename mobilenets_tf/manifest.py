"""Manifests: read the manifest of a file, and list the versions on which the bytes of a result depend."""

import contextlib
import importlib.metadata
import json
import platform
from pathlib import Path

from mobilenets_tf.version import __version__


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python, and of the packages that results depend on."""
    names = ("tensorflow", "keras", "ai-edge-litert", "numpy", "pillow")
    installed = {name: importlib.metadata.version(name) for name in names}
    return {"mobilenets-tf": __version__, "python": platform.python_version(), **installed}


def manifest_of(file: Path) -> dict:
    """Read the manifest beside a file; {} where there is none, or none that can be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        manifest = json.loads(file.with_name(file.name + ".json").read_text(encoding="utf-8"))
        return manifest if isinstance(manifest, dict) else {}
    return {}
