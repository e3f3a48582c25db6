"""The state of a training in one file: arrays by name and a description, written whole or not at all.

A NumPy archive, read with pickles forbidden: nothing in it can run.
"""

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mobilenets_tf import files
from mobilenets_tf.errors import RequestError

_DESCRIPTION, _IDENTITY = "description", "identity"


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of one training.

    identity: plain data that describes the training. remedy: what to do about the checkpoint of another training.
    what: is kept, a "training" or another kind of work.
    """

    path: Path
    identity: dict
    remedy: str
    what: str = "training"

    def write(self, arrays: dict[str, np.ndarray], about: dict) -> None:
        """Replace the checkpoint; the earlier one stays until the new one is on the disk.

        Raises:
            RequestError: the folder cannot be written, or the disk is full; the earlier checkpoint is as it was.
        """
        content = io.BytesIO()
        text = np.frombuffer(files.to_json(about | {_IDENTITY: self.identity}).encode(), np.uint8)
        np.savez(content, **{_DESCRIPTION: text}, **arrays)
        files.write_together(self.path.parent, {self.path.name: content.getvalue()})

    def read(self) -> tuple[dict[str, np.ndarray], dict] | None:
        """Read the arrays by name, and the description; None where there is no checkpoint.

        Raises:
            RequestError: the file is damaged, no checkpoint of this package, or of another training; the message names
                the first difference.
        """
        if not self.path.is_file():
            return None
        arrays, about = read(self.path, self.what)
        there, here = about.get(_IDENTITY), json.loads(files.to_json(self.identity))
        there = there if isinstance(there, dict) else {}
        for option in sorted(here.keys() | there.keys()):
            if here.get(option) != there.get(option):
                raise RequestError(
                    f"{self.path} is of an unfinished {self.what} with {option}={there.get(option)!r}, not "
                    f"{here.get(option)!r}. Ask for the same to go on with it, {self.remedy}."
                )
        return arrays, about


def of_fine_tuning(folder: str | Path, identity: dict) -> Checkpoint:
    """Return the checkpoint of quantisation-aware fine-tuning in a folder. identity: as of ``Checkpoint``."""
    remedy = "choose another --checkpoint (checkpoint=), or remove this one to train from the start"
    return Checkpoint(Path(folder, "fine_tuning.checkpoint.npz"), identity, remedy)


def read(path: Path, what: str = "training") -> tuple[dict[str, np.ndarray], dict]:
    """Read a checkpoint: its arrays by name, and its description. what: as of ``Checkpoint``, for the message.

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
            f"{path} is damaged or not a checkpoint of a {what} ({error}). Remove it to begin anew."
        ) from error
