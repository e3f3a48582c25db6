"""The state of a training in one file: arrays by name and a description, written whole or not at all.

A NumPy archive, read with pickles forbidden: nothing in it can run.
"""

import io
import json
import zipfile
from pathlib import Path

import numpy as np

from mobilenets_tf import files
from mobilenets_tf.errors import RequestError

_DESCRIPTION = "description"


def write(path: Path, arrays: dict[str, np.ndarray], about: dict) -> None:
    """Replace the checkpoint at ``path``; the earlier checkpoint stays until the new one is on the disk.

    Raises:
        RequestError: the folder cannot be written, or the disk is full; the earlier checkpoint is as it was.
    """
    content = io.BytesIO()
    text = np.frombuffer(files.to_json(about).encode(), np.uint8)
    np.savez(content, **{_DESCRIPTION: text}, **arrays)
    files.write_together(path.parent, {path.name: content.getvalue()})


def read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Read a checkpoint: its arrays by name, and its description.

    Raises:
        RequestError: the file is damaged, or is no checkpoint of this package.
    """
    try:
        with zipfile.ZipFile(path) as entries:
            if any(info.compress_type != zipfile.ZIP_STORED for info in entries.infolist()):
                raise ValueError("its arrays are compressed, which a training never does")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        about = json.loads(arrays.pop(_DESCRIPTION).tobytes())
        if not isinstance(about, dict):
            raise ValueError("its description is no object")
        return arrays, about
    except Exception as error:  # a damaged file may make NumPy and zipfile raise anything
        raise RequestError(
            f"{path} is damaged or not a checkpoint of a training ({error}). Remove it to train from the start."
        ) from error
