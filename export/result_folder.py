"""The folder that an Android developer gets: the file, its labels, manifest and report, and the lines to paste."""

from pathlib import Path

from mobilenets_tf import files
from mobilenets_tf.export.forms import detector as detector_forms
from mobilenets_tf.export.page import android
from mobilenets_tf.export.page import report as report_file
from mobilenets_tf.export.page.report import Evidence

LABELS = "labels.txt"


def check(folder: Path, file_name: str, overwrite: bool) -> None:
    """Refuse, before any work, a folder that cannot be written to or has something of the user's in a file's place.

    Raises:
        RequestError: see there.
    """
    files.check_folder(folder)
    suffixes = ("json", "html", "android.md", detector_forms.ANCHORS_FILE)
    names = [file_name, *(f"{file_name}.{suffix}" for suffix in suffixes), LABELS]
    files.check_replaceable(folder, names, overwrite)


def write(
    folder: Path,
    file_name: str,
    content: bytes,
    manifest: dict,
    evidence: Evidence,
    labels: list[str],
    others: dict[str, str] = {},  # noqa: B006
) -> tuple[dict, Path]:
    """Write it all together, ``others`` too (name -> text). Returns the manifest with the list of files in front, and
    the report's path.

    The report has measured times in it, which are never the same twice, so it is not in that list.

    Raises:
        RequestError: the folder cannot be written, or the disk is full.
    """
    contents: dict[str, bytes | str] = {file_name: content, **others}
    if labels:
        contents[LABELS] = "\n".join(labels) + "\n"
    contents[f"{file_name}.android.md"] = android.render(file_name, manifest, bool(labels))
    manifest = {"files": files.digests(contents), **manifest}
    contents[f"{file_name}.json"] = files.to_json(manifest)
    contents[f"{file_name}.html"] = files.sealed(report_file.render(file_name, manifest, evidence))
    files.write_together(folder, contents)
    return manifest, folder / f"{file_name}.html"
