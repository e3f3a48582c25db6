"""Open an HDF5 file of unknown origin: nothing in it leads out of the file, or claims more than the file holds."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from mobilenets_tf.errors import RequestError

if TYPE_CHECKING:
    import h5py

# Keras compresses nothing. The weights of a pruned network that somebody compressed are up to ten times their file.
_MOST_EXPANSION = 10
_SLACK = 1 << 20
_MOST_BYTES = 1 << 32
_MOST_LINKS = 50_000  # MobileViT with the state of its optimizer has 6,000


def open_hdf5(source: str | Path | BinaryIO, label: str | Path) -> h5py.File:
    """Open an HDF5 file for reading and check every link and every array in it, before anything is read.

    source: a path or a binary stream. label: what to call the source in an error message.

    Raises:
        RequestError: the source is not HDF5; it has a soft or external link or values stored in another file, because
            reading these would read other files of the user; or its arrays claim more values than the file can hold.
    """
    import h5py

    try:
        file = h5py.File(source, "r")
    except OSError as error:
        raise RequestError(f"{label} is damaged or not an HDF5 file ({error}).") from error
    try:
        _check(file, label, Budget(source, label))
    except RequestError:
        file.close()
        raise
    except Exception as error:  # the library raises many kinds for a damaged file
        file.close()
        raise RequestError(f"{label} is damaged: its HDF5 structure cannot be read ({error}).") from error
    return file


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


def _check(file: h5py.File, label: str | Path, budget: Budget) -> None:
    import h5py

    # Hard links may form cycles, so each object is visited once.
    seen, waiting, links = set(), [file], 0
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
            if isinstance(node, h5py.Group):
                waiting.append(node)
            elif isinstance(node, h5py.Dataset):
                _check_dataset(node, label, budget)


def _check_dataset(node: h5py.Dataset, label: str | Path, budget: Budget) -> None:
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
