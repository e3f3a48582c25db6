"""The folder with the files that were compiled for NPUs: the files, a report, and Google Play's AI pack."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mobilenets_tf.export import project_folder
from mobilenets_tf.export.delegates.compiled import REPORT
from mobilenets_tf.export.npu.compiler import CompiledFile, compile_for
from mobilenets_tf.files import to_json
from mobilenets_tf.progress import Progress, silent


def write(
    folder: Path,
    file: Path,
    chips: Sequence[str],
    request: Mapping,
    progress: Progress = silent,
    overwrite: bool = False,
) -> tuple[list[CompiledFile], dict[str, bytes]]:
    """Compile a file for chips and write what came of it, whole or not at all.

    Writes ``NAME_CHIP.tflite`` for each chip, ``report.json`` with the operators that stay on the CPU, and an AI pack,
    from which Google Play gives each phone the file for its chip.

    Args:
        file: the ``.tflite`` file. chips: as for ``compile_for``. request, overwrite: as for
            ``project_folder.check``.

    Returns:
        The compiled files and the AI pack, as ``compile_for`` returns them.

    Raises:
        RequestError: as ``compile_for``, or the folder cannot be written.
    """
    compiled, pack = compile_for(file.read_bytes(), chips, progress)
    contents: dict[str, str | bytes] = {f"{file.stem}_{each.chip}.tflite": each.content for each in compiled}
    contents[REPORT] = to_json({"file": file.name, "ran": False, "chips": [each.as_dict() for each in compiled]})
    project_folder.write(folder, {**contents, **pack}, request, overwrite)
    return compiled, pack
