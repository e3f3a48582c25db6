"""Check the arguments of public functions and the fields of requests by their type hints."""

import dataclasses
import functools
import inspect
import numbers
import os
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, Union

import numpy as np

from mobilenets_tf.errors import RequestError, nearest

_NUMBERS: dict[Any, type] = {int: numbers.Integral, float: numbers.Real}


def checked(function: Callable) -> Callable:
    """Return a function that refuses arguments that it does not have, and those of another type than the parameter's
    hint.

    Raises:
        RequestError: from the returned function; names the parameter, what came, and what is expected.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*arguments, **options):
        hints = _hints(function)
        given = _bound(function.__name__, signature, hints, arguments, options)
        for name, value in given.items():
            if signature.parameters[name].kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
                continue
            if not _fits(value, hints.get(name, Any)):
                others = [each for each in signature.parameters if each not in given and _takes_paths(hints.get(each))]
                raise _error(f"{function.__name__}(): {name}", value, hints[name], others)
        return function(*arguments, **options)

    return call


def with_checked_arguments(cls: type) -> None:
    """Let a dataclass refuse arguments that are none of its fields, and say what is missing; see ``checked``."""
    make = cls.__init__
    if hasattr(make, "__wrapped__"):
        return
    signature, hints = inspect.signature(cls), _hints(cls)

    @functools.wraps(make)
    def initialise(self, *arguments, **options):
        _bound(type(self).__name__, signature, hints, arguments, options)
        make(self, *arguments, **options)

    cls.__init__ = initialise  # type: ignore[misc]


def _bound(name: str, signature: inspect.Signature, hints: dict[str, Any], arguments: tuple, options: dict) -> dict:
    """Bind arguments to the parameters of a function or class.

    Raises:
        RequestError: an argument is unknown, missing or too much; of an unknown one the right place is named.
    """
    try:
        return signature.bind(*arguments, **options).arguments
    except TypeError as error:
        known = list(signature.parameters)
        unknown = next((option for option in options if option not in known), None)
        if unknown is None:
            raise RequestError(f"{name}(): {error}. Its arguments: {', '.join(known)}.") from None
        homes = [
            f"{parameter}={kind.__name__}(..., {unknown}=...)"
            for parameter in known
            for kind in typing.get_args(hints.get(parameter))
            if dataclasses.is_dataclass(kind) and unknown in {field.name for field in dataclasses.fields(kind)}
        ]
        close = [f"{each}=" for each in nearest(unknown, known)]
        remedy = f" Pass {homes[0]}." if homes else f" Did you mean {' or '.join(close)}?" if close else ""
        raise RequestError(f"{name}() has no argument {unknown}=.{remedy} Its arguments: {', '.join(known)}.") from None


def check_fields(request: Any) -> None:
    """Check the fields of a dataclass, and bring them into the type of their hints: a path becomes text, and a list a
    tuple.

    Raises:
        RequestError: a field has another type.
    """
    hints = _hints(type(request))
    for each in dataclasses.fields(request):
        given = value = getattr(request, each.name)
        hint = hints[each.name]
        if isinstance(value, os.PathLike) and not _fits(value, hint):
            value = os.fspath(value)
        elif isinstance(value, list) and not _is_list(hint):
            value = tuple(value)
        if not _fits(value, hint):
            raise _error(f"{type(request).__name__}: {each.name}", given, hint)
        object.__setattr__(request, each.name, value)


@functools.cache
def _hints(owner: Any) -> dict[str, Any]:
    """Return the hints of a function or class; Any for those that name what is imported for type checking alone."""
    hints: dict[str, Any] = {}
    for part in reversed(owner.__mro__) if isinstance(owner, type) else [owner]:
        known = vars(sys.modules[part.__module__]) if part.__module__ in sys.modules else {}
        for name, hint in inspect.get_annotations(part).items():
            if isinstance(hint, str):
                try:
                    hint = eval(hint, dict(known))  # text of this package's own source
                except (NameError, AttributeError, TypeError):
                    hint = _KerasModel if hint == "keras.Model" else Any
            hints[name] = hint
    return hints


class _KerasModel:
    """Stands for ``keras.Model`` where Keras is imported for type checking alone."""


_IN_QUOTES = typing.ForwardRef("keras.Model")


def _fits(value: Any, hint: Any) -> bool:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, (str, typing.TypeVar)) or getattr(hint, "_is_protocol", False):
        return True
    if hint is None or hint is type(None):
        return value is None
    if hint in (_KerasModel, _IN_QUOTES):
        return hasattr(value, "predict_on_batch")
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if hint is bool:
        return isinstance(value, (bool, np.bool_))
    if hint in _NUMBERS:
        return isinstance(value, _NUMBERS[hint]) and not isinstance(value, bool)
    if origin is tuple:
        items = parts[:1] * len(value) if isinstance(value, tuple) and parts[1:] == (...,) else parts
        return isinstance(value, tuple) and len(value) == len(items) and all(map(_fits, value, items))
    if hint is np.ndarray and not isinstance(value, (str, bytes, os.PathLike)):
        return hasattr(value, "__array__") or hasattr(value, "__iter__")
    if origin in (Sequence, Iterable, Collection, list) or hint in (Sequence, Iterable, Collection, list):
        return not isinstance(value, (str, bytes, os.PathLike)) and hasattr(value, "__iter__")
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        return isinstance(value, Mapping)
    kind = origin or hint
    if kind is Callable:
        return callable(value)
    return isinstance(value, kind) if isinstance(kind, type) else True


def _is_list(hint: Any) -> bool:
    return any(typing.get_origin(part) is list for part in (hint, *typing.get_args(hint)))


def _takes_paths(hint: Any) -> bool:
    return hint is not None and hint is not Any and _fits("", hint)


def _error(where: str, value: Any, hint: Any, others: Sequence[str] = ()) -> RequestError:
    is_path = isinstance(value, (str, os.PathLike))
    remedy = f" Is it meant for {' or '.join(f'{name}=' for name in others)}?" if is_path and others else ""
    kind = type(value).__name__
    shown = f"={value!r}" if isinstance(value, (str, int, float, tuple, os.PathLike)) else ""
    return RequestError(f"{where}{shown[:120]} is a {kind}; expected {_described(hint)}.{remedy}")


def _described(hint: Any) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_described, parts)))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if hint is type(None):
        return "None"
    if hint in (_KerasModel, _IN_QUOTES):
        return "a keras.Model"
    if origin is tuple and parts[1:] == (...,):
        return f"a tuple of {_described(parts[0])}"
    return str(getattr(hint, "__name__", hint)) if origin is None else str(hint).replace("collections.abc.", "")
