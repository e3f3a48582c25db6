"""The folder of a target's runtime: made whole or not at all, found, and removed.

A folder with a manifest is complete: the runtime is built in a temporary folder beside it, tested, and then renamed.
The folder can be moved, also to another machine with the same processor architecture.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mobilenets_tf.errors import RequestError
from mobilenets_tf.files import TemporaryFolder, cache_folder, to_json
from mobilenets_tf.progress import Progress


@dataclass(frozen=True)
class RuntimeFolder:
    """Where the runtime of a target is, or is to be.

    target: its name, which the manifest, the default folder and the verb that makes the runtime have too.
    path: the folder. what: what the runtime is called, with its article.
    valid: whether a manifest can be that of such a runtime; it may raise KeyError and TypeError.
    """

    target: str
    path: Path
    what: str
    valid: Callable[[dict], bool]

    @classmethod
    def of(cls, target: str, path: str | Path | None, what: str, valid: Callable[[dict], bool]) -> "RuntimeFolder":
        """Name a folder; without a path, the target's folder in the package's cache."""
        return cls(target, Path(path or default_folder(target)), what, valid)

    @property
    def manifest_path(self) -> Path:
        """The file that says what is in the folder."""
        return self.path / f"{self.target}.json"

    @property
    def remedy(self) -> str:
        """How to make the runtime."""
        option = "" if self.path == default_folder(self.target) else f" --folder {self.path}"
        return f"Set it up:  mobilenets-tf {self.target}{option}"

    def manifest(self) -> dict | None:
        """Return what is in the folder; None if there is no such runtime in it."""
        try:
            manifest = json.loads(self.manifest_path.read_text(encoding="utf-8"))
            return manifest if self.valid(manifest) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def make(self, build: Callable[[Path, Path], dict]) -> None:
        """Make the runtime. If this is interrupted, the folder stays as it was.

        Args:
            build: fills its first argument, a folder, tests what it has made, and returns the manifest. The second one
                is a folder for temporary files.

        Raises:
            RequestError: the folder has other files in it, or cannot be written.
        """
        folder = self.path
        if folder.exists() and self.manifest() is None and not (folder.is_dir() and not any(folder.iterdir())):
            raise RequestError(f"{folder} exists and is not {self.what}; choose another folder (--folder).")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryFolder(self._unfinished, folder.parent) as temporary:
                runtime = Path(temporary, "runtime")
                runtime.mkdir()
                manifest = build(runtime, Path(temporary))
                (runtime / self.manifest_path.name).write_text(to_json(manifest), encoding="utf-8")
                if folder.exists():
                    folder.rename(Path(temporary, "replaced"))
                runtime.rename(folder)
        except OSError as error:
            raise RequestError(
                f"Cannot write {folder}: {error.strerror or error}. Free some space, or choose another folder "
                "(--folder)."
            ) from error

    def remove(self) -> int:
        """Remove the runtime, and temporary folders that interrupted runs left beside it.

        Returns:
            The number of folders that were removed.

        Raises:
            RequestError: the folder exists and is not such a runtime.
        """
        parent = self.path.parent
        leftovers = list(parent.glob(f"{self._unfinished}*")) if parent.is_dir() else []
        if self.path.exists() and self.manifest() is None:
            raise RequestError(f"{self.path} is not {self.what}, and was not removed.")
        folders = [path for path in (self.path, *leftovers) if path.exists()]
        for path in folders:
            shutil.rmtree(path)
        return len(folders)

    @property
    def _unfinished(self) -> str:
        return f".{self.path.name}-unfinished-"


def default_folder(target: str) -> Path:
    """Return the folder of a target's runtime that is used if no other folder is given."""
    return cache_folder() / target


@contextmanager
def stage(progress: Progress, label: str) -> Iterator[None]:
    """Show one step of making a runtime as it begins and ends."""
    progress(label, 0, 1)
    yield
    progress(label, 1, 1)
