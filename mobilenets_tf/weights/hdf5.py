"""Open an HDF5 file of unknown origin: no link in it may lead out of the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mobilenets_tf.errors import RequestError

if TYPE_CHECKING:
    import h5py


def open_hdf5(source: str | Path | BinaryIO, label: str | Path) -> h5py.File:
    """Open an HDF5 file for reading and check every link in it.

    source: a path or a binary stream. label: what to call the source in an error message.

    Raises:
        RequestError: the source is not HDF5, or has a soft or external link or values stored in another file, because
            reading these would read other files of the user.
    """
    import h5py

    try:
        file = h5py.File(source, "r")
    except OSError as error:
        raise RequestError(f"{label} is damaged or not an HDF5 file ({error}).") from error
    try:
        _check(file, label)
    except BaseException:
        file.close()
        raise
    return file


def _check(file: h5py.File, label: str | Path) -> None:
    import h5py

    # Hard links may form cycles, so each object is visited once.
    seen, waiting = set(), [file]
    while waiting:
        group = waiting.pop()
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
            elif isinstance(node, h5py.Dataset) and (node.external or node.is_virtual):
                raise RequestError(f"{label}: {node.name} keeps its values in another file; such files are refused.")
