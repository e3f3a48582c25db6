"""Model to a verified ``.tflite`` for Android. Installed as ``mobilenets_tf.export``."""

import importlib

_PUBLIC = {
    "to_tflite": "tflite",
    "Exported": "tflite",
    "verify": "verify",
    "compare": "verify",
    "Comparison": "verify",
    "deploy": "deploy",
    "DeployRequest": "deploy",
    "ConversionError": "convert",
}
__all__ = list(_PUBLIC)


def __getattr__(name):
    if name in _PUBLIC:
        value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
        globals()[name] = value  # else a submodule of the same name (verify, deploy) would take its place
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
