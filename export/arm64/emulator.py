"""Compare what a TFLite file computes on a phone's kind of processor with what it computes on this machine.

The phone's processor is emulated, and runs LiteRT's own arm64 build. LiteRT's XNNPACK has different kernels for arm64
than for x86, and different ones again for cores with dot product or matrix product instructions. ``compare_with_host``
runs a file on one emulated core of each kind and on this machine, and compares the outputs.

Integer files have to give equal outputs, bit for bit. The only exception is a SOFTMAX at the end of a file: XNNPACK
leaves it to LiteRT's own kernel, whose rounding on arm64 differs by one level at most. The input of this SOFTMAX is
compared bit for bit.

All outputs are compared. A detector's file with non-maximum suppression has four. The suppression is LiteRT's own
kernel and decodes boxes in double precision; so far, equal inputs have given equal outputs. One thing may differ on a
phone: an integer file has many equal scores, and std::partial_sort decides which of several equal scores comes first.
Both builds of LiteRT here use libstdc++, Android uses libc++.

The comparison does not show: latency (an emulator's latency means nothing), the GPU and NPU delegates (they need the
phone's hardware), and Android's own build of LiteRT (the build here is for Linux, from the same source).

``setup`` makes the emulated runtime.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from mobilenets_tf.export.targets.child import Child
from mobilenets_tf.export.targets.host import FEW_VALUES, HostRun, differences, run_on_host
from mobilenets_tf.progress import Progress, silent

# One core of each kind: ARMv8.0, ARMv8.2 with dot products, ARMv9 with matrix products.
CPUS = ("cortex-a53", "cortex-a76", "cortex-a710")
NOT_PROVED = (
    "This comparison does not show a phone's latency, its GPU or NPU, or the results of Android's own build of LiteRT."
)
# Bits of Linux' AT_HWCAP and AT_HWCAP2 for arm64 (arch/arm64/include/uapi/asm/hwcap.h).
_ASIMDDP, _I8MM = 1 << 20, 1 << 13


@dataclass(frozen=True)
class EmulatedRun:
    """The outputs of a file on one emulated core.

    outputs: for each sample the file's outputs, in the file's dtypes.
    kernels: the instruction with which XNNPACK's int8 kernels multiply on this core: "smlal", "sdot" or "smmla".
    partitions: the number of parts of the graph that XNNPACK runs.
    """

    outputs: list[list[np.ndarray]]
    kernels: str
    partitions: int


@dataclass(frozen=True)
class Emulator:
    """An emulated arm64 machine with Python, NumPy and LiteRT, as ``setup.find`` returns it.

    command: the words that start the machine's Python; "{cpu}" stands for the name of the core.
    environment: all environment variables of the machine.
    versions: name of a part, such as "qemu" or "numpy" -> its version.
    patience: time limit for one inference, in seconds.
    """

    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    patience: float = 300.0

    def run(
        self, content: bytes, inputs: Sequence[list[np.ndarray]], cpu: str = CPUS[-1], progress: Progress = silent
    ) -> EmulatedRun:
        """Run a TFLite file on one core, with one thread.

        Args:
            content: content of the file.
            inputs: for each sample one array for each input, with the shape and dtype of the input.
            cpu: QEMU's name of the core.

        Raises:
            TargetError: the emulated process died, hung, or sent an invalid answer.
        """
        command = [cpu if word == "{cpu}" else word for word in self.command]
        with Child(f"emulated {cpu}", command, {"runtime": "cpu"}, self.environment, self.patience) as child:
            about, outputs = child.run(content, inputs, _is_greeting, progress)
        return EmulatedRun(outputs, _kernels(about), about["partitions"])


def _is_greeting(about: dict) -> bool:
    """Tell whether the guest can have said this of an emulated machine. It may raise TypeError and KeyError."""
    numbers = [about["partitions"], *about["capabilities"]]
    return (
        len(numbers) == 3 and all(isinstance(number, int) for number in numbers) and isinstance(about["machine"], str)
    )


def _kernels(about: dict) -> str:
    if about["machine"] != "aarch64":
        return about["machine"]
    first, second = about["capabilities"]
    return "smmla" if second & _I8MM else "sdot" if first & _ASIMDDP else "smlal"


@dataclass(frozen=True)
class ArchComparison:
    """A file's outputs on one emulated core, compared with those on this machine.

    cpu, kernels, partitions: the core and its kernels, as in ``EmulatedRun``.
    samples: the number of samples.
    tolerance: the difference allowed, as in ``HostRun``; 0: the outputs have to be equal bit for bit.
    equal: whether all outputs are equal bit for bit.
    equal_before_softmax: whether all outputs are equal bit for bit, except that the output of a SOFTMAX at the end may
        differ by one level; the input of this SOFTMAX is equal too.
    values: the number of different values in the outputs on this machine, over all samples. If it is small, equality
        proves little: a random network's int8 probabilities are all zero.
    relative_difference: the largest difference of a real value, divided by the largest value of its output; infinite if
        one of the two is not finite. For a mask, the share of pixels that have another class.
    sample: the index of the sample with this difference; None if all outputs are equal.
    passed: ``equal_before_softmax``, or the difference is within the tolerance.
    """

    cpu: str
    kernels: str
    partitions: int
    samples: int
    tolerance: float
    equal: bool
    equal_before_softmax: bool
    values: int
    relative_difference: float
    sample: int | None
    passed: bool

    def as_dict(self) -> dict:
        """Return plain data for JSON."""
        return asdict(self)

    def line(self) -> str:
        """Return the comparison as a line of text for people."""
        if self.equal:
            text = f"equal bit for bit on {self.samples} samples ({self.values} different values)"
        elif self.equal_before_softmax:
            text = (
                f"equal bit for bit on {self.samples} samples up to the last SOFTMAX, in which LiteRT's own kernels "
                f"differ by one level ({self.values} different values)"
            )
        else:
            allowed = f"{self.tolerance:g} is allowed" if self.tolerance else "it has to be equal bit for bit"
            text = (
                f"{'' if self.passed else 'FAILED: '}differs by {self.relative_difference:.2g} of the largest output "
                f"(sample {self.sample} of {self.samples}; {allowed})"
            )
        if self.values < FEW_VALUES:
            text += "; the outputs have too few different values to prove much: use other images"
        return f"{self.cpu:<12} {self.kernels:<6} {text}"


def compare_with_host(
    emulator: Emulator,
    content: bytes,
    samples: Iterable[Sequence[np.ndarray]],
    cpus: Sequence[str] = CPUS,
    progress: Progress = silent,
) -> list[ArchComparison]:
    """Run a file on this machine and on emulated cores, and compare the outputs.

    Args:
        emulator: the emulator that ``setup.find`` returns.
        content: content of the file.
        samples: for each sample one array for each input, as ``runtime.Runner`` accepts them.
        cpus: QEMU's names of the cores.

    Returns:
        One comparison for each core.

    Raises:
        RequestError: LiteRT cannot run the file, a sample does not match the inputs, or there are no samples.
        TargetError: the emulated process died, hung, or sent an invalid answer.
    """
    return compare_cores(emulator, run_on_host(content, samples), cpus, progress)


def compare_cores(
    emulator: Emulator, host: HostRun, cpus: Sequence[str] = CPUS, progress: Progress = silent
) -> list[ArchComparison]:
    """Run on emulated cores what ``run_on_host`` ran on this machine, and compare the outputs.

    Use this instead of ``compare_with_host`` if the file is not trusted: ``run_on_host`` can then run in a worker.

    Args:
        emulator: the emulator that ``setup.find`` returns.
        host: the run on this machine.
        cpus: QEMU's names of the cores (``setup.check_cpus`` checks them).

    Returns:
        One comparison for each core.

    Raises:
        TargetError: the emulated process died, hung, or sent an invalid answer.
    """
    return [_compare(cpu, emulator.run(host.content, host.inputs, cpu, progress), host) for cpu in cpus]


def _compare(cpu: str, run: EmulatedRun, host: HostRun) -> ArchComparison:
    found = differences(host, run.outputs, f"emulated {cpu}")
    return ArchComparison(
        cpu=cpu,
        kernels=run.kernels,
        partitions=run.partitions,
        samples=len(host.outputs),
        tolerance=host.tolerance,
        equal=found.equal,
        equal_before_softmax=found.within_steps,
        values=host.values,
        relative_difference=found.relative,
        sample=found.sample,
        passed=found.within_steps or found.relative <= host.tolerance,
    )
