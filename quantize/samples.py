"""The samples of a model's inputs, in every form in which people hold them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from mobilenets_tf.errors import RequestError

Shapes = Mapping[str, tuple[int, ...]]


def samples_of(data: Any, shapes: Shapes) -> Iterator[list[np.ndarray]]:
    """Give each sample as arrays without a batch axis, one for each input of the model, in the order of ``shapes``.

    Args:
        data: arrays of all samples: one array, a dict, or a tuple or list with one array for each input; or an iterable
            or generator of samples or batches, each in one of these forms, such as a ``tf.data.Dataset``, a
            ``keras.utils.PyDataset`` or a PyTorch ``DataLoader``; or a function without arguments that returns such an
            iterable, like the converter's ``representative_dataset``. What stands behind the inputs in a tuple, labels
            and weights, is left out. An axis of 1 at the end may be missing, as Keras allows.
        shapes: the name of each input -> its shape with a batch axis.

    Raises:
        RequestError: the data are infinite, or something in them has another form; the message describes both.
    """
    rests = {name: tuple(shape[1:]) for name, shape in shapes.items()}
    if callable(data) and not hasattr(data, "__iter__") and not hasattr(data, "__getitem__"):
        data = data()
    if _holds_all(data, rests):
        yield from _taken_apart(data, rests)
        return
    for item in _items(data):
        yield from _taken_apart(item, rests)


def count_of(data: Any) -> int | None:
    """Count the samples or batches of some data, where that is known, for progress.

    Raises:
        RequestError: the data are infinite.
    """
    if isinstance(data, (Mapping, tuple)):
        return None
    try:
        return len(data)
    except TypeError as error:
        if "infinite" in str(error):
            raise RequestError("The samples never end (tf.data's repeat()). Take some: data.take(500).") from None
        return None


def _items(data: Any) -> Iterable:
    if hasattr(data, "__iter__"):
        return data
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):  # a PyDataset does not end by itself
        return (data[place] for place in range(len(data)))
    raise RequestError(f"A {type(data).__name__} holds no samples; expected arrays or an iterable of samples.")


def _holds_all(data: Any, rests: Shapes) -> bool:
    """Tell whether the data are one array for each input, rather than an iterable of samples."""
    if isinstance(data, Mapping):
        return True
    if isinstance(data, np.ndarray):
        return len(rests) == 1 and _batch_of(data, *rests.values()) is not None
    if not isinstance(data, (tuple, list)) or not data:
        return False
    if len(rests) > 1 and len(data) >= len(rests) and not any(map(_is_structure, data)):
        return True
    # (inputs, labels) is a tuple. In a tuple of samples, the second one is one too.
    if not isinstance(data, tuple) or len(data) not in (2, 3):
        return False
    first, second = (_batches_of(each, rests) for each in data[:2])
    if first is None:
        return False
    if len(rests) == 1 and np.ndim(data[0]) == 1 + len(next(iter(rests.values()))):
        return second is None or np.ndim(data[1]) < np.ndim(data[0])
    return second is None


def _is_structure(value: Any) -> bool:
    return isinstance(value, (Mapping, tuple, list))


def _taken_apart(item: Any, rests: Shapes) -> Iterator[list[np.ndarray]]:
    batches = _batches_of(item, rests)
    if batches is None:
        raise RequestError(_mismatch(item, rests))
    counts = {len(batch) for batch in batches}
    if len(counts) > 1:
        told = ", ".join(f"{len(batch)} of {name!r}" for name, batch in zip(rests, batches, strict=True))
        raise RequestError(f"The inputs have different numbers of samples: {told}.")
    yield from map(list, zip(*batches, strict=True))


def _batches_of(item: Any, rests: Shapes) -> list[np.ndarray] | None:
    """Return a batch for each input; None if the item is not of this form."""
    nested = isinstance(item, (tuple, list)) and item and _is_structure(item[0])  # inputs, and behind them labels
    inner = _batches_of(item[0], rests) if nested and (len(rests) > 1 or isinstance(item[0], Mapping)) else None
    if inner is not None:
        return inner
    arrays = _arrays_of(item, rests)
    if arrays is None:
        return None
    batches = [_batch_of(array, rest) for array, rest in zip(arrays, rests.values(), strict=True)]
    return None if any(batch is None for batch in batches) else [batch for batch in batches if batch is not None]


def _arrays_of(item: Any, rests: Shapes) -> list[Any] | None:
    """Find the array of each input in a sample or a batch, labels left out; None where there is none."""
    if isinstance(item, Mapping):
        return [item[name] for name in rests] if all(name in item for name in rests) else None
    if isinstance(item, (tuple, list)) and item:
        if isinstance(item[0], Mapping):
            return _arrays_of(item[0], rests)
        if len(rests) == 1 or len(item) >= len(rests):
            return list(item[: len(rests)])
        return None
    return [item] if len(rests) == 1 else None


def _batch_of(value: Any, rest: tuple[int, ...]) -> np.ndarray | None:
    """Return samples of shape ``rest`` with a batch axis: ``value`` may be one sample or several. None: another shape.
    An axis of 1 at the end of ``rest`` may be missing."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # rows of different lengths
        return None
    if array.dtype == object:
        return None
    if _fits(array.shape, rest) or (array.ndim and _fits(array.shape[1:], rest)):
        return array if array.ndim > len(rest) else array[None]
    return _batch_of(array[..., None], rest) if rest[-1:] == (1,) and array.shape[-1:] != (1,) else None


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(side in (None, own) for own, side in zip(shape, wanted, strict=True))


def _mismatch(item: Any, rests: Shapes) -> str:
    """Describe a sample that does not have the form of the inputs."""
    if isinstance(item, Mapping) and (missing := [name for name in rests if name not in item]):
        return f"A sample has no {missing[0]!r}; it has {', '.join(repr(name) for name in list(item)[:8])}."
    arrays = _arrays_of(item, rests)
    for array, (name, rest) in zip(arrays or (), rests.items(), strict=False):
        if _batch_of(array, rest) is None:
            return f"A sample for {name!r} has {_described(array)}; the model takes {rest}."
    wanted = ", ".join(f"{name!r} {rest}" for name, rest in rests.items())
    return (
        f"A sample is {_described(item)}; the model has {len(rests)} inputs: {wanted}. Give a dict of their names, or "
        "a tuple in this order."
    )


def _described(value: Any) -> str:
    if _is_structure(value):
        return f"a {type(value).__name__} of {len(value)}"
    shape = getattr(value, "shape", None)
    return f"shape {tuple(shape)}" if shape is not None else f"a {type(value).__name__}"
