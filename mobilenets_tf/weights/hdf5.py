"""Open an HDF5 file of unknown origin: nothing in it may point outside it."""

from mobilenets_tf.errors import RequestError


def open_hdf5(source, label):
    """An ``h5py.File``, open for reading, every link of which has been checked.

    source: a path or a binary stream. label: what to call it in an error.

    Raises:
        RequestError: it is not HDF5, or it holds a soft or external link, or values stored in another file: reading
            those would read other files of the user's.
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


def _check(file, label):
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
