"""Compile a file for Arm's Ethos-U with Arm's own compiler, Vela (extra ``micro``), and read its summary."""

import csv
import importlib.util
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mobilenets_tf.errors import RequestError
from mobilenets_tf.files import TemporaryFolder
from mobilenets_tf.worker import ending_with_this_process

ACCELERATOR = "ethos-u55-128"
_SECONDS = 300
_OPERATORS = re.compile(r"^(CPU|NPU) operators = (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class VelaSummary:
    """What Vela says of a file. Its figures are estimates of the compiler: nothing runs.

    accelerator: as Vela names it. on_npu, on_cpu: operators of the compiled graph that each computes. sram_bytes,
    flash_bytes: memory. milliseconds: the estimated time of an inference, at the clock and with the memories of Vela's
    default system for the accelerator.
    """

    accelerator: str
    on_npu: int
    on_cpu: int
    sram_bytes: int
    flash_bytes: int
    milliseconds: float

    @property
    def share(self) -> float:
        """The share of the operators that the NPU computes."""
        return self.on_npu / max(self.on_npu + self.on_cpu, 1)


def is_installed() -> bool:
    """Tell whether Vela is installed."""
    return importlib.util.find_spec("ethosu") is not None


def summary(content: bytes, accelerator: str = ACCELERATOR) -> VelaSummary:
    """Compile a file, and give the compiler's summary.

    Args:
        accelerator: one of Vela's ``--accelerator-config``.

    Raises:
        RequestError: Vela is not installed, or refuses the file.
    """
    if not is_installed():
        raise RequestError("Arm's Vela is not installed: pip install ethos-u-vela.")
    with TemporaryFolder("mobilenets-tf-") as folder:
        file = Path(folder) / "model.tflite"
        file.write_bytes(content)
        program = "import sys; from ethosu.vela.vela import main; sys.exit(main())"
        command = [sys.executable, "-c", program, str(file), "--accelerator-config", accelerator]
        try:
            result = subprocess.run(
                ending_with_this_process([*command, "--output-dir", folder]),
                capture_output=True, text=True, timeout=_SECONDS, check=False, cwd=folder,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise RequestError(f"Vela took longer than {_SECONDS} s and was ended.") from error
        tables = sorted(Path(folder).glob("*_summary_*.csv"))
        if result.returncode or not tables:
            words = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
            raise RequestError(f"Vela refuses the file: {' '.join(words[-3:])}")
        (row,) = csv.DictReader(tables[0].read_text().splitlines())
    operators = {name: int(count) for name, count in _OPERATORS.findall(result.stdout)}
    memory = {name: float(row[f"{name}_memory_used"]) for name in ("sram", "on_chip_flash", "off_chip_flash")}
    return VelaSummary(
        accelerator=accelerator,
        on_npu=operators.get("NPU", 0),
        on_cpu=operators.get("CPU", 0),
        sram_bytes=round(1024 * memory["sram"]),
        flash_bytes=round(1024 * (memory["on_chip_flash"] + memory["off_chip_flash"])),
        milliseconds=1000 * float(row["inference_time"]),
    )
