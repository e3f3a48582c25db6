"""The code blocks of a page: what its reader types, in the order of the page."""

import functools
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from mobilenets_tf.weights import catalog
from tests.support import forked

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"^(?:<!-- not run here: (?P<reason>.+?) -->\n)?```(?P<kind>console|python)\n(?P<text>.*?)^```$", re.M | re.S
)


def skip_without(name: str, modules: Sequence[str], pretrained: bool) -> None:
    """Skip a test of a page, notebook or example on a machine that lacks modules, or the weights of the extra
    "imagenet"."""
    for module in modules:
        pytest.importorskip(module, reason=f"{name} needs {module}")
    if pretrained and catalog.locate(catalog.find("efficientnet_lite0", "imagenet")) is None:
        pytest.skip("efficientnet_lite0's ImageNet weights are not on this machine")


@dataclass(frozen=True)
class Block:
    """One block.

    kind: "console" or "python". reason: why it cannot be run on a machine of ours; "" if it is run.
    """

    kind: str
    text: str
    reason: str = ""

    def commands(self) -> list[str]:
        """The lines of a console that are typed."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line[2:] for line in lines if line.startswith("$ ")]


def blocks(page: Path) -> list[Block]:
    """The blocks of a Markdown page with the languages "console" and "python"."""
    found = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(block["kind"], block["text"], block["reason"] or "") for block in found]


def run(page: Path, folder: Path) -> str:
    """Run a page's blocks in a folder, where the repository's examples/ are; return everything that they print.

    Each command is a process of its own, but none that imports TensorFlow for itself: see tests/support/forked.py.
    """
    (folder / "examples").symlink_to(ROOT / "examples")
    said = ""
    for block in blocks(page):
        if block.reason:
            continue
        for typed in [block.text] if block.kind == "python" else block.commands():
            done = _started(block.kind, typed)(cwd=folder, COLUMNS=200)
            assert done.returncode == 0, f"{typed}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            said += done.stdout
    return said


def _started(kind: str, typed: str):
    """A function that runs Python code, or a line of a console, as tests/support/forked.py does."""
    if kind == "python":
        return functools.partial(forked.script, typed)
    name, *words = shlex.split(typed)
    assert not {"|", ">", "&&", ";"} & set(words), f"only a shell understands: {typed}"
    starts = {"mobilenets-tf": forked.command, "python": forked.program}
    return functools.partial(starts[name], *words)
