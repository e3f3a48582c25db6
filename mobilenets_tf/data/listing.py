"""The files of a folder that are its owner's, without those that file managers, archivers and editors leave there."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

# Hidden names begin with a dot (.ipynb_checkpoints, .DS_Store, ._IMG_1.jpg of macOS). These are the others, lower case.
_TOOLS = {
    "__macosx",  # macOS' archives
    "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot",  # Synology, QNAP
    "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information",  # Windows
    "_gsdata_",  # GoodSync
    "lost+found",  # ext file systems
    "__pycache__",
}  # fmt: skip
# What stands beside images for good reasons.
_COMPANIONS = (".csv", ".txt", ".json", ".xml", ".md", ".yaml", ".yml", ".html", ".pdf", ".npz", ".py", ".ipynb")


def is_a_tools(name: str) -> bool:
    """Tell whether a file or folder of this name is hidden, or left behind by a tool."""
    return name.startswith(".") or name.lower() in _TOOLS


def entries_of(folder: Path) -> list[Path]:
    """List the files and folders of a folder, sorted.

    Raises:
        OSError: the folder cannot be read.
    """
    return sorted(path for path in folder.iterdir() if not is_a_tools(path.name))


def files_below(folder: Path) -> list[Path]:
    """List the files of a folder and of all folders below, sorted."""
    found: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_a_tools(name)]
        found += [Path(root, name) for name in names if not is_a_tools(name)]
    return sorted(path for path in found if path.is_file())


def left_out(files: Iterable[Path], suffixes: Iterable[str]) -> str:
    """Count and name, in a sentence, the files that have none of ``suffixes`` and are no annotations; empty without
    such files."""
    others = [path for path in files if path.suffix.lower() not in (*suffixes, *_COMPANIONS)]
    if not others:
        return ""
    kinds = Counter(path.suffix.lower() or "without a suffix" for path in others)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    plural = "file is" if len(others) == 1 else "files are"
    return f"{len(others)} {plural} left out: {counts}, such as {others[0].name}."
