"""Training: the papers' recipes as data, the input, the optimizers, and the loop that runs them.

>>> from mobilenets_tf.training import TrainRequest, train
>>> train(TrainRequest("efficientnet_lite0", data="photos/", out="trained/"))
"""

import importlib

_PUBLIC = {"TrainRequest": "request", "Trained": "job", "train": "job", "Recipe": "recipes"}
__all__ = ["Recipe", "TrainRequest", "Trained", "train"]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"mobilenets_tf.training.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
