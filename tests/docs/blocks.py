"""The code blocks of a page: what its reader types, in the order of the page."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"^(?:<!-- not run here: (?P<reason>.+?) -->\n)?```(?P<kind>console|python)\n(?P<text>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """One block.

    kind: "console" or "python". reason: why it cannot be run on a machine of ours; "" if it is run.
    """

    kind: str
    text: str
    reason: str = ""

    def commands(self) -> list[list[str]]:
        """What to run, word by word for a shell or Python."""
        if self.kind == "python":
            return [[sys.executable, "-c", self.text]]
        lines = self.text.replace("\\\n", " ").splitlines()
        return [["bash", "-euo", "pipefail", "-c", line[2:]] for line in lines if line.startswith("$ ")]


def blocks(page: Path) -> list[Block]:
    """The blocks of a Markdown page with the languages "console" and "python"."""
    found = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(block["kind"], block["text"], block["reason"] or "") for block in found]


def run(page: Path, folder: Path) -> str:
    """Run a page's blocks in a folder, where the repository's examples/ are; return everything that they print."""
    (folder / "examples").symlink_to(ROOT / "examples")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", "COLUMNS": "200"}
    said = ""
    for block in blocks(page):
        if block.reason:
            continue
        for command in block.commands():
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            said += done.stdout
    return said
