"""The folder that an Android developer gets: the file, its labels, manifest and report, and the lines to paste."""

import threading
from collections.abc import Sequence
from pathlib import Path

from mobilenets_tf import files
from mobilenets_tf.export.forms.detector import ANCHORS_FILE
from mobilenets_tf.export.page import android
from mobilenets_tf.export.page import report as page
from mobilenets_tf.export.proof.proof import Produced


def check(request, file_name: str, others: Sequence[str] = ()) -> None:
    """Refuse, before any work, a folder that cannot be written to, or that has something else in a file's place.

    Args:
        request: with ``out``, ``overwrite`` and ``source``. others: names of further files.

    Raises:
        RequestError: the folder cannot be made or written, or a file is there that is no earlier result of the request.
    """
    folder = Path(request.out)
    files.check_folder(folder)
    suffixes = ("json", "html", "android.md", ANCHORS_FILE)
    names = [file_name, *(f"{file_name}.{suffix}" for suffix in suffixes), *others]
    files.check_replaceable(
        folder, names, request.overwrite, request.described(), request.source.label_names()
    )  # fmt: skip


def prepare() -> None:
    """Begin, in a thread, with the part of ``write`` that needs no result, while another process works."""
    threading.Thread(target=page.prepare, daemon=True).start()


def write(request, file_name: str, produced: Produced) -> tuple[dict, Path]:
    """Write a file, its labels, manifest, report and Android lines, all together. Files of an earlier result that are
    no part of this one go, such as the C++ sources of another model.

    Args:
        request: as in ``check``.

    Returns:
        The manifest with the list of files in front, and the report's path. The report is not in that list, since it
        holds measured times, which differ from run to run.

    Raises:
        RequestError: the folder cannot be written, the disk is full, or another result has been written there since
            ``check``.
    """
    folder, labels = Path(request.out), request.source.label_names()
    manifest = files.finite({**produced.badge.facts(), **produced.manifest})
    contents: dict[str, bytes | str] = {file_name: produced.content, **produced.files, **files.labels_file(labels)}
    contents[f"{file_name}.android.md"] = android.render(file_name, manifest, bool(labels))
    manifest = {"files": files.digests(contents), **manifest}
    contents[f"{file_name}.json"] = files.to_json(manifest)
    contents[f"{file_name}.html"] = files.sealed(page.render(file_name, manifest, produced.evidence))
    before = files.own_files(folder, f"{file_name}.json")
    files.write_together(folder, contents, lambda: check(request, file_name, [*produced.files]))
    for name in set(before) - set(contents):
        (folder / name).unlink()
    return manifest, folder / f"{file_name}.html"
