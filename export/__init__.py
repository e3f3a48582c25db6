"""Model to a verified ``.tflite`` for Android. Installed as ``mobilenets_tf.export``."""

import importlib

_PUBLIC = {
    "to_tflite": "tflite",
    "Exported": "tflite",
    "verify": "proof.verification",
    "compare": "proof.comparison",
    "Comparison": "proof.comparison",
    "deploy": "deployment",
    "DeployRequest": "request",
    "sensitivity": "layer_sensitivity",
    "inspect": "delegates.inspection",
    "Inspection": "delegates.inspection",
    "ConversionError": "tflite",
}
__all__ = list(_PUBLIC)


def __getattr__(name):
    # No module here may be called like a public name: importing it would put it in that name's place.
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
