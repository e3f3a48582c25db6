"""Compile a TFLite file for an NPU, ahead of time, with LiteRT's tools and the vendor's compiler.

The compiled file runs on the chip alone. It was compiled here, not run.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mobilenets_tf.errors import RequestError
from mobilenets_tf.export import metadata
from mobilenets_tf.export.delegates.compiled import PART
from mobilenets_tf.export.npu import compile_file
from mobilenets_tf.export.npu.chips import libraries, vendor_of
from mobilenets_tf.files import TemporaryFolder
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.file_metadata import origin_of
from mobilenets_tf.worker import ending_with_this_process

_SECONDS = 600  # for one vendor's chips
# Libraries that LiteRT's plugin is linked to and that the package does not have. They are for other processors of the
# chip, and the compiler for the NPU calls nothing in them: another library takes their place.
_STAND_IN, _MISSING = "libQnnIr.so", "libQnnLpai.so"


@dataclass(frozen=True)
class CompiledFile:
    """A file that was compiled for a chip, and not run.

    chip, manufacturer: of the NPU. content: of the compiled file. operators: of the given file. taken: how many of
    these the NPU runs, in ``parts`` parts. outside: (operator, tensor) for each operator that stays on the CPU.
    inside: operator -> how many of it the NPU runs.
    """

    chip: str
    manufacturer: str
    content: bytes
    operators: int
    taken: int
    parts: int
    outside: tuple[tuple[str, str], ...]
    inside: Mapping[str, int]

    def as_dict(self) -> dict:
        """Return the fields but the content as plain data."""
        return {
            "chip": self.chip,
            "manufacturer": self.manufacturer,
            "operators": self.operators,
            "taken": self.taken,
            "parts": self.parts,
            "inside": dict(self.inside),
            "outside": [{"operator": operator, "tensor": tensor} for operator, tensor in self.outside],
        }

    def line(self) -> str:
        """Say in one line what the NPU takes."""
        parts = "1 part" if self.parts == 1 else f"{self.parts} parts"
        kinds = sorted({operator for operator, _ in self.outside})
        left = f"; on the CPU: {', '.join(kinds)}" if kinds else ""
        return (
            f"{self.manufacturer} {self.chip}: {self.taken} of {self.operators} operators in {parts}{left} (compiled "
            "here, not run)"
        )


def check(chips: Sequence[str]) -> None:
    """Refuse, before any work, chips that LiteRT does not know, or whose compiler is not on this machine.

    Raises:
        RequestError: so it is.
    """
    for chip in chips:
        libraries(vendor_of(chip))


def compile_for(content: bytes, chips: Sequence[str], progress: Progress = silent) -> tuple[list[CompiledFile], dict]:
    """Compile a file for chips.

    Args:
        content: of the ``.tflite`` file: float32, float16, int8 or int16x8.
        chips: names such as "SM8750", see ``chips.VENDORS``.

    Returns:
        The compiled files, in the order of the chips; and Google Play's AI pack, as LiteRT's exporter makes it: path ->
        content.

    Raises:
        RequestError: as ``check``; or a compiler refuses the file, crashes, or takes longer than 10 minutes.
    """
    check(chips)
    compiled, pack, origin = {}, {}, origin_of(content)
    counts = Counter(flatbuffer.operator_counts(flatbuffer.read(content)))
    for vendor in dict.fromkeys(map(vendor_of, chips)):
        own = [chip for chip in dict.fromkeys(chips) if vendor_of(chip) == vendor]
        progress(f"compiling for {', '.join(own)}", 0, 1)
        with TemporaryFolder("mobilenets-tf-npu-") as temporary:
            answers = _run(content, vendor, own, Path(temporary))
            for chip in own:
                compiled[chip] = _compiled(answers.get(chip) or {}, chip, vendor.manufacturer, counts)
            folder = Path(temporary, "ai_pack")
            pack |= {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        progress(f"compiling for {', '.join(own)}", 1, 1)
    # The compiler leaves out the files behind the model, such as the labels.
    whole = {each.content: metadata.keep(each.content, origin) for each in compiled.values()}
    pack = {path: whole.get(data, data) for path, data in pack.items()}
    compiled = {chip: replace(each, content=whole[each.content]) for chip, each in compiled.items()}
    return [compiled[chip] for chip in dict.fromkeys(chips)], pack


def _run(content: bytes, vendor, chips: Sequence[str], folder: Path) -> dict:
    file = folder / "model.tflite"
    file.write_bytes(content)
    package = libraries(vendor)
    places = _linked(package, folder / "libraries") if package else ""
    words = [sys.executable, compile_file.__file__, str(file), str(folder / "compiled"), str(folder / "ai_pack")]
    environment = {**os.environ, "TMPDIR": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(
            ending_with_this_process([*words, vendor.name, places, *chips]), capture_output=True, text=True,
            timeout=_SECONDS, env=environment, cwd=folder, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise RequestError(f"{vendor.manufacturer}'s compiler took longer than {_SECONDS} s and was ended.") from error
    try:
        answers = json.loads(done.stdout.splitlines()[-1])
        if isinstance(answers, dict):
            return answers
    except (ValueError, IndexError):
        pass
    last = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
    raise RequestError(f"{vendor.manufacturer}'s compiler failed: {last:.300}")


def _linked(package: Path, folder: Path) -> str:
    """Make a folder with links to a package's libraries; return it and the package's folder of their dependencies."""
    folder.mkdir()
    for library in package.glob("*.so"):
        (folder / library.name).symlink_to(library)
    if not (folder / _MISSING).exists():
        (folder / _MISSING).symlink_to(package / _STAND_IN)
    return f"{folder}{os.pathsep}{package.with_name(f'{package.name}.libs')}"


def _compiled(answer: dict, chip: str, manufacturer: str, counts: Counter) -> CompiledFile:
    if "file" not in answer:
        raise RequestError(
            f"{manufacturer}'s compiler refuses the file for {chip}: {answer.get('error', 'no reason given'):.300}"
        )
    content = Path(answer["file"]).read_bytes()
    graph = flatbuffer.Graph(flatbuffer.read(content))
    outside = tuple(
        (graph.name(operator), graph.tensors[operator.outputs[0]].name.decode())
        for operator in graph.operators
        if graph.name(operator) != PART
    )
    numbers = {name: answer[name] for name in ("operators", "taken", "parts")}
    inside = counts - Counter(operator for operator, _ in outside)
    return CompiledFile(chip, manufacturer, content, outside=outside, inside=dict(inside.most_common()), **numbers)
