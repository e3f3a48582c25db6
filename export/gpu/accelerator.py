"""Compare what a TFLite file computes on LiteRT's GPU accelerator with what it computes on this machine's CPU.

The accelerator is LiteRT 2's own (ML Drift), out of the same wheel, which CompiledModel loads on phones too. Here it
computes with a Vulkan driver that runs on the CPU: SwiftShader in single precision; Mesa's lavapipe, which has float16
shaders, in half precision too, as phones compute by default. ``setup`` installs both.

The outputs cannot be equal to the bit: the GPU computes integer files in floating point. ``tolerance`` says what may
differ. Where more differs, ``bisection`` finds the first operator that the GPU computes wrongly.

The comparison does not show latency, nor faults of a phone's own driver and of the OpenCL kernels that Android's build
of the accelerator makes from the same graph.
"""

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from mobilenets_tf.export.targets.child import Child, TargetError
from mobilenets_tf.export.targets.host import FEW_VALUES, FLOAT_TOLERANCE, HostRun, differences
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.tflite import flatbuffer

NOT_PROVED = (
    "This comparison does not show a phone's latency, or faults of its own GPU driver: the accelerator is LiteRT's, "
    "and the Vulkan driver below it runs on this machine's CPU."
)
# The largest difference allowed, divided by the largest output: in single precision for files that compute in floats
# only; and for integer files, which the GPU computes in floating point, and for half precision, which keeps 11 bits.
SINGLE_TOLERANCE, ROUNDED_TOLERANCE = 1e-3, 0.1
# Or, where all outputs are quantised, a tenth of the 256 levels, since the largest output may be a few levels only.
# Measured in single precision with random weights: 1 to 17 levels, and 82 of a detector (benchmarks/targets.py).
MOST_LEVELS = 25
SINGLE, HALF = "single", "half"
NO_HALF = (
    "half precision: not run, since no driver here has float16 shaders; lavapipe of Mesa 25 has, which Debian 13 and "
    "the backports of Debian 12 carry."
)
# Bytes of address space for the process of the accelerator, of which drivers reserve much more than they use.
_MEMORY = 16 << 30
# LiteRT's words on what stays on the CPU (GetOpsToReplaceWithOptions in ml_drift_delegate/tflite/model_builder.cc).
_REFUSED = "Following operations are not supported by GPU delegate:"
# LiteRT waits two minutes for the driver, which compiles the shaders in the first run.
_TIMED_OUT = "Timed out waiting for future"
_GAVE_UP = (
    "LiteRT gave up waiting for the Vulkan driver, which computes on this machine's CPU: run it again when the machine "
    "is less busy, or take a file of fewer pixels."
)
# Words in an error that only says that the driver, on a CPU, was too slow.
TOO_SLOW = ("gave no answer", "LiteRT gave up waiting")
_COUNTS = re.compile(r"(?:\d+|No) operations will run on the GPU, and (?:the remaining|all) (\d+) operations")


@dataclass(frozen=True)
class GpuRun:
    """The outputs of a file on the accelerator.

    outputs: for each sample the file's outputs, in the file's dtypes.
    whole: whether the accelerator takes every operator (CompiledModel's ``is_fully_accelerated``).
    outside: the number of operators that the CPU computes. refusals: what LiteRT says of those that it refuses.
    driver: the Vulkan driver's name of the device.
    """

    outputs: list[list[np.ndarray]]
    whole: bool
    outside: int
    refusals: tuple[str, ...]
    driver: str


@dataclass(frozen=True)
class Accelerator:
    """LiteRT's GPU accelerator on Vulkan drivers of this machine, as ``setup.find`` returns it.

    drivers: precision ("single", "half") -> environment variables that choose the driver. Without "half", no driver
        here has float16 shaders.
    versions: name of a part, such as "swiftshader" -> its version.
    patience: time limit for compiling the file, and for one inference, in seconds.
    """

    drivers: dict[str, dict[str, str]]
    versions: dict[str, str] = field(default_factory=dict)
    patience: float = 300.0

    def run(
        self,
        content: bytes,
        inputs: Sequence[list[np.ndarray]],
        precision: str = SINGLE,
        progress: Progress = silent,
    ) -> GpuRun:
        """Run a TFLite file in a child process, which may crash or hang.

        Args:
            content: content of the file.
            inputs: for each sample one array for each input, with the shape and dtype of the input.
            precision: one of ``drivers``.

        Raises:
            TargetError: the process died, hung, or sent an invalid answer.
        """
        options = {"runtime": "gpu", "half": precision == HALF, "memory": _MEMORY}
        environment = os.environ | self.drivers[precision]
        name = f"GPU accelerator in {precision} precision"
        with Child(name, [sys.executable], options, environment, self.patience) as child:
            try:
                about, outputs = child.run(content, inputs, _is_greeting, progress)
            except TargetError as error:
                if _TIMED_OUT in child.log():
                    raise TargetError(f"The {name}: {_GAVE_UP}") from error
                raise
            log = child.log()
        return GpuRun(outputs, about["whole"], *_outside(log, content, about["whole"]), _driver(log))


def _is_greeting(about: dict) -> bool:
    return isinstance(about["whole"], bool)


def _outside(log: str, content: bytes, whole: bool) -> tuple[int, tuple[str, ...]]:
    """Return the number of operators on the CPU, and LiteRT's words on those that the accelerator refuses."""
    if whole:
        return 0, ()
    lines = log.rpartition(_REFUSED)[2].splitlines()[1:]
    for place, line in enumerate(lines):
        if counts := _COUNTS.match(line):
            return int(counts[1]), tuple(each.strip() for each in lines[:place])
    return len(flatbuffer.read(content).subgraphs[0].operators), ()


def _driver(log: str) -> str:
    found = re.findall(r"Selected adapter: (.+?), arch=", log)
    return found[-1] if found else "unknown"


@dataclass(frozen=True)
class GpuComparison:
    """A file's outputs on the GPU accelerator in one precision, compared with those on this machine's CPU.

    precision, driver, whole, outside, refusals: as in ``GpuRun``; outside is None where the file did not run.
    operators: the number of the file's operators.
    samples: the number of samples.
    tolerance: the difference allowed, divided by the largest output.
    values: the number of different values in the outputs on the CPU, over all samples; few of them prove little.
    relative_difference: the largest difference of a real value, divided by the largest value of its output; infinite if
        one of the two is not finite. For a mask, the share of pixels that have another class.
    levels: the largest difference of a quantised output, in levels; None if no output is quantised.
    absolute: the largest difference of a real value of a float output; None if no output is in float.
    sample: the index of the sample with this difference; None if all outputs are equal.
    error: how the process of the accelerator failed; None if it did not.
    passed: whether operators ran on the accelerator, and the outputs are ``within`` what may differ.
    """

    precision: str
    driver: str
    whole: bool
    outside: int | None
    operators: int
    refusals: tuple[str, ...]
    samples: int
    tolerance: float
    values: int
    relative_difference: float
    levels: int | None
    absolute: float | None
    sample: int | None
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether operators ran on the accelerator, and the outputs are within what may differ."""
        return self.within and self.outside is not None and self.outside < self.operators

    @property
    def within(self) -> bool:
        """Whether no output differs by more than ``tolerance``, or if all are quantised, than ``MOST_LEVELS``."""
        few = self.absolute is None and self.levels is not None and self.levels <= MOST_LEVELS
        return self.error is None and (self.relative_difference <= self.tolerance or few)

    def as_dict(self) -> dict:
        """Return plain data for JSON."""
        return asdict(self) | {"passed": self.passed}

    def lines(self) -> list[str]:
        """Return the comparison as lines of text for people."""
        head = f"{self.precision} precision ({self.driver}): "
        if self.error:
            return [f"{head}FAILED: {self.error}"]
        lines = [head + self._difference(), f"  {self._coverage()}"]
        lines += [f"    {refusal}" for refusal in self.refusals]
        if self.values < FEW_VALUES:
            lines.append("  the outputs have too few different values to prove much: use other images")
        return lines

    def _difference(self) -> str:
        sizes = [] if self.levels is None else [f"{self.levels} level{'s' if self.levels != 1 else ''}"]
        sizes += [] if self.absolute is None else [f"{self.absolute:.2g}"]
        largest = " and ".join(sizes) or "no real value"
        text = f"the outputs differ by at most {largest}, {self.relative_difference:.2g} of the largest output"
        if not self.within:
            return f"FAILED: {text} (sample {self.sample} of {self.samples}; {self.tolerance:g} is allowed)"
        return f"{text}, on {self.samples} samples"

    def _coverage(self) -> str:
        if self.whole:
            return f"CompiledModel: fully accelerated, all {self.operators} operators on the GPU"
        if self.outside == self.operators:
            return f"FAILED: none of the {self.operators} operators runs on the GPU; LiteRT computes them on the CPU"
        return f"CompiledModel: not fully accelerated, {self.outside} of {self.operators} operators on the CPU"


def compare(
    accelerator: Accelerator, host: HostRun, precision: str = SINGLE, progress: Progress = silent
) -> GpuComparison:
    """Run on the accelerator what ``run_on_host`` ran on this machine, and compare the outputs.

    A crash of the accelerator is a result (``GpuComparison.error``), not an exception.

    Args:
        accelerator: the accelerator that ``setup.find`` returns.
        host: the run on this machine.
        precision: one of the accelerator's ``drivers``.
    """
    facts = {
        "precision": precision,
        "operators": len(flatbuffer.read(host.content).subgraphs[0].operators),
        "samples": len(host.outputs),
        "tolerance": tolerance(host, precision),
        "values": host.values,
    }
    try:
        run = accelerator.run(host.content, host.inputs, precision, progress)
        found = differences(host, run.outputs, f"GPU accelerator in {precision} precision")
    except TargetError as error:
        return GpuComparison(
            driver="none", whole=False, outside=None, refusals=(), relative_difference=np.inf, levels=None,
            absolute=None, sample=None, error=str(error), **facts,
        )  # fmt: skip
    return GpuComparison(
        driver=run.driver,
        whole=run.whole,
        outside=run.outside,
        refusals=run.refusals,
        relative_difference=found.relative,
        levels=found.levels,
        absolute=found.absolute,
        sample=found.sample,
        **facts,
    )


def tolerance(host: HostRun, precision: str) -> float:
    """Return the difference allowed between the accelerator and the CPU, divided by the largest output."""
    floats = host.tolerance == FLOAT_TOLERANCE
    return SINGLE_TOLERANCE if floats and precision == SINGLE else ROUNDED_TOLERANCE
