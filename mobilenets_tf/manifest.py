"""Manifests: the versions of all that has a say in the bytes of a result, and what a manifest says of its file."""

import contextlib
import importlib.metadata
import json
import platform
from pathlib import Path

from mobilenets_tf.version import __version__


def versions() -> dict[str, str]:
    """Of this package, Python, and the packages that results depend on."""
    names = ("tensorflow", "keras", "ai-edge-litert", "numpy", "pillow")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"mobilenets-tf": __version__, "python": platform.python_version(), **found}


def manifest_of(file: Path) -> dict:
    """What the manifest beside a file says; empty where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        manifest = json.loads(file.with_name(file.name + ".json").read_text(encoding="utf-8"))
        return manifest if isinstance(manifest, dict) else {}
    return {}
