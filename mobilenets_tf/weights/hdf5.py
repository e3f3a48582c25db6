"""Open an HDF5 file of unknown origin: nothing in it leads out of the file, or claims more than the file holds."""

from __future__ import annotations

import functools
import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.worker import Worker, WorkerError

if TYPE_CHECKING:
    import h5py

# Keras compresses nothing. The weights of a pruned network that somebody compressed are up to ten times their file.
_MOST_EXPANSION = 10
_SLACK = 1 << 20
_MOST_BYTES = 1 << 32
# A child process starts in less than a second on a machine that has little else to do, and reads 100 MB in one.
_SECONDS, _LEAST_SPEED = 20.0, 5e6
_DAMAGED = "{} is damaged or not an HDF5 file ({})."
_MOST_LINKS = 50_000  # MobileViT with the state of its optimizer has 6,000


@contextmanager
def open_hdf5(source: str | Path | BinaryIO, label: str | Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading. Before, a child process checks every link and every array in it, and reads all
    of it: some damaged files make the HDF5 library crash, or never come back. What the library raises while the file
    is open becomes a ``RequestError``.

    source: a path or a binary stream. label: what to call the source in an error message.

    Raises:
        RequestError: the source is not HDF5, is damaged, or cannot be read in time; it has a soft or external link or
            values stored in another file, because reading these would read other files of the user; or its arrays claim
            more values than the file can hold.
    """
    import h5py

    if isinstance(source, (str, Path)):
        about = os.stat(source)
        _check_file(str(source), str(label), about.st_mtime_ns, about.st_size, about.st_ino)
    else:
        source.seek(0)
        _check_apart(source.read(), str(label))
    try:
        with h5py.File(source, "r") as file:
            yield file
    except RequestError:
        raise
    except Exception as error:  # the library raises many kinds for a damaged file
        raise RequestError(_DAMAGED.format(label, error)) from error


@functools.lru_cache(maxsize=64)
def _check_file(path: str, label: str, *_changes_with_the_file: int) -> None:
    _check_apart(path, label)


def _check_apart(source: str | bytes, label: str) -> None:
    """Read a file, given by its path or content, in a child process.

    Raises:
        RequestError: as ``open_hdf5``.
    """
    size = len(source) if isinstance(source, bytes) else os.path.getsize(source)
    seconds = _SECONDS + size / _LEAST_SPEED
    try:
        with Worker("h5py", always=True) as child:
            child.call(_read_all, source, label, seconds=seconds)
    except WorkerError as error:
        raise RequestError(
            f"{label} could not be read to its end within {seconds:.0f} s. It is damaged, which makes the HDF5 library "
            f"crash or hang, or this machine has too little memory or a slow disk. {error}"
        ) from error


def _read_all(source: str | bytes, label: str) -> None:
    import h5py

    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with h5py.File(stream, "r") as file:
            for node in _checked(file, label, Budget(stream, label)):
                for name in node.attrs:
                    _ = node.attrs[name]
                if isinstance(node, h5py.Dataset) and _is_numeric(node.dtype):
                    _ = node[()]
    except RequestError:
        raise
    except Exception as error:  # as above
        raise RequestError(_DAMAGED.format(label, error)) from error


class Budget:
    """How many bytes may be read from a file: ten times its size. ``spend`` refuses what is beyond."""

    def __init__(self, source: str | Path | BinaryIO, label: str | Path):
        size = os.path.getsize(source) if isinstance(source, (str, Path)) else source.seek(0, os.SEEK_END)
        self._label, self._size = label, size
        self._left = min(_MOST_EXPANSION * size + _SLACK, _MOST_BYTES)

    def spend(self, count: int) -> None:
        """Count bytes that are about to be read.

        Raises:
            RequestError: there are more than the file can hold.
        """
        self._left -= count
        if self._left < 0:
            raise RequestError(
                f"{self._label}: its arrays claim more than {_MOST_EXPANSION} times the file's {self._size} bytes; "
                "refused. Save the weights without compression."
            )


def array(node: h5py.Group, name: str, budget: Budget) -> np.ndarray:
    """Read the array that is called ``name`` in a group.

    Raises:
        RequestError: there is no such array, it has no numbers, or the budget is spent.
    """
    import h5py

    dataset = node.get(name)
    if not isinstance(dataset, h5py.Dataset) or not _is_numeric(dataset.dtype):
        raise RequestError(f"{node.file.filename}: {node.name}/{name[:80]} is not an array of numbers.")
    budget.spend(_size(dataset))
    return np.asarray(dataset)


def strings(node: h5py.Group, attribute: str) -> list[str]:
    """Read an attribute that lists strings. Keras splits a long list over several attributes, numbered from 0.

    Raises:
        KeyError: there is no such attribute.
        RequestError: the attribute claims more strings than there can be.
    """
    names = [attribute] if attribute in node.attrs else []
    while not names or names[-1] != attribute:
        if (part := f"{attribute}{len(names)}") not in node.attrs:
            break
        names.append(part)
    if not names:
        raise KeyError(attribute)
    texts: list[str] = []
    for name in names:
        if math.prod(node.attrs.get_id(name).shape or (0,)) > _MOST_LINKS:
            raise RequestError(f"{node.file.filename}: its attribute {name!r} claims more than {_MOST_LINKS} names.")
        texts += [value.decode() if isinstance(value, bytes) else str(value) for value in np.ravel(node.attrs[name])]
    return texts


def _checked(file: h5py.File, label: str, budget: Budget) -> list[h5py.Group | h5py.Dataset]:
    """Check every link and every array; return the groups and arrays."""
    import h5py

    # Hard links may form cycles, so each object is visited once.
    seen, waiting, nodes, links = set(), [file], [file], 0
    while waiting:
        group = waiting.pop()
        links += len(group)
        if links > _MOST_LINKS:
            raise RequestError(f"{label} has more than {_MOST_LINKS} entries; refused.")
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise RequestError(f"{label}: {group.name}/{name} is a link to elsewhere; such files are refused.")
            node = group[name]
            address = h5py.h5o.get_info(node.id).addr
            if address in seen:
                continue
            seen.add(address)
            nodes.append(node)
            if isinstance(node, h5py.Group):
                waiting.append(node)
            elif isinstance(node, h5py.Dataset):
                _check_dataset(node, label, budget)
    return nodes


def _check_dataset(node: h5py.Dataset, label: str, budget: Budget) -> None:
    if node.external or node.is_virtual:
        raise RequestError(f"{label}: {node.name} keeps its values in another file; such files are refused.")
    if not _is_numeric(node.dtype):
        return  # nothing reads it
    size = _size(node)
    budget.spend(size)
    if node.chunks is None and node.id.get_storage_size() < size:
        raise RequestError(f"{label} is damaged: {node.name} claims {size} bytes, of which the file holds fewer.")
    if node.chunks is not None:
        chunk = math.prod(node.chunks) * node.dtype.itemsize
        budget.spend(max(0, chunk - size))


def _is_numeric(dtype: np.dtype) -> bool:
    return dtype.kind in "fiub"


def _size(dataset: h5py.Dataset) -> int:
    return math.prod(dataset.shape or ()) * dataset.dtype.itemsize if dataset.shape is not None else 0
