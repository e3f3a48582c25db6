"""Load the public names of a package on first use; functions and dataclasses check their arguments.

A wrong name gives an error that tells the nearest right one.
"""

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Callable

import lazy_loader

from mobilenets_tf.errors import nearest
from mobilenets_tf.public_api.types import checked, with_checked_arguments

_PACKAGES = ("mobilenets_tf", *(f"mobilenets_tf.{name}" for name in ("data", "export", "quantize", "training")))


def attach(package: str, file: str) -> tuple[Callable, Callable, list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package whose public names stand in ``__init__.pyi``.

    package, file: ``__name__`` and ``__file__`` of the package.
    """
    load, names, public = lazy_loader.attach_stub(package, file)

    def __getattr__(name: str):
        if name not in public and not name.startswith("_"):
            raise AttributeError(_unknown(package, name, public), name=name, obj=sys.modules[package])
        value = load(name)
        if inspect.isfunction(value):
            value = checked(value)
            setattr(sys.modules[package], name, value)
        elif dataclasses.is_dataclass(value):
            with_checked_arguments(value)
        return value

    return __getattr__, names, public


def _unknown(package: str, name: str, public: list[str]) -> str:
    elsewhere = [
        f"{other}.{name}" for other in _PACKAGES if other != package and name in importlib.import_module(other).__all__
    ]
    hints = elsewhere or [f"{package}.{near}" for near in nearest(name, public)]
    hint = f" Did you mean {' or '.join(hints)}?" if hints else f" dir({package}) lists the public names."
    return f"{package} has no public name {name!r}.{hint}"
