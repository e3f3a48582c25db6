"""The target ``micro``: prove that TensorFlow Lite Micro (TFLM) runs a file and gives LiteRT's answers."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.export.micro import interpreter, vela
from mobilenets_tf.export.micro.interpreter import Arrays
from mobilenets_tf.export.micro.operators import COMMIT, operator_of, refused_operator, resolver_calls
from mobilenets_tf.export.micro.vela import VelaSummary
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.quantize.schemes import Scheme
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.arena import live_bytes
from mobilenets_tf.tflite.runtime import Runner

TARGETS = ("micro",)
MICRO_SAMPLES = 32  # on which TensorFlow Lite Micro runs
_SCHEMES = ("int8", "int8_float_io")
_TENSOR_SAMPLES = 2  # on which every tensor is compared
_ROUNDING = (
    1  # level: now and then the kernels decide between two levels otherwise, probably by how they multiply scales
)


@dataclass(frozen=True)
class MicroProof:
    """What TFLM's own interpreter says of a file.

    images: how many it was tried on. different: on how many its outputs are not equal to those of LiteRT's reference
    kernels, bit for bit. largest: the largest difference of an output's stored values.
    tensors: how many tensors were compared too, each as the operators computed it. first_different: the operator that
    computes the first of them that is not equal, and its layer; None if all are equal. largest_inside: the largest
    difference of any tensor.
    arena_bytes: the least arena (``interpreter.least_arena``). activation_bytes: the part of the arena that no planner
    can avoid (``arena.live_bytes``). file_bytes: of the file, which stays in flash.
    resolver: the methods that register the file's ops. vela: the summary of Arm's compiler; None where it is not
    installed or refuses the file, for the reason that vela_refused has.
    """

    images: int
    different: int
    largest: float
    tensors: int
    first_different: str | None
    largest_inside: float
    arena_bytes: int
    activation_bytes: int
    file_bytes: int
    resolver: tuple[str, ...]
    vela: VelaSummary | None
    vela_refused: str | None

    @property
    def failures(self) -> tuple[str, ...]:
        """The failed checks, a sentence each: outputs that differ by more than one level."""
        if self.largest <= _ROUNDING:
            return ()
        first = f" The first operator that differs is {self.first_different}." if self.first_different else ""
        return (
            f"TensorFlow Lite Micro gives other outputs than LiteRT's reference kernels on {self.different} of "
            f"{self.images} images, by up to {_levels(self.largest)}.{first}",
        )

    def as_dict(self) -> dict:
        """Return the fields as plain data, with the versions of the interpreter and of the list of ops."""
        return {**asdict(self), "tflite_micro": _version("tflite-micro"), "operators_of": f"tflite-micro {COMMIT[:12]}"}

    def lines(self) -> list[str]:
        """Return the proof as lines of text."""
        equal = f"equal to LiteRT's reference kernels on {self.images - self.different} of {self.images} images"
        if self.different:
            equal += f", on the others within {_levels(self.largest)}"
        but = ""
        if self.first_different:
            but = f", but for {self.first_different} and behind, by up to {_levels(self.largest_inside)}"
        equal += f" ({self.tensors} tensors too{but})"
        lines = [
            f"TensorFlow Lite Micro: {equal}",
            f"arena {self.arena_bytes / 1024:.0f} KiB ({self.activation_bytes / 1024:.0f} KiB of them activations), "
            f"{self.file_bytes / 1024:.0f} KiB of flash for the file",
        ]
        if each := self.vela:
            lines.append(
                f"Ethos-U by Vela's estimate ({each.accelerator}): {each.share:.0%} of the operators on the NPU, "
                f"{each.sram_bytes / 1024:.0f} KiB SRAM, {each.milliseconds:.2g} ms; not run"
            )
        elif self.vela_refused:
            lines.append(f"Ethos-U: {self.vela_refused}")
        return lines


def check_target(target: str | None, scheme: Scheme) -> None:
    """Refuse a target that is unknown, that the scheme does not suit, or whose tools are not installed.

    Raises:
        RequestError: see above.
    """
    if target is None:
        return
    if target not in TARGETS:
        raise unknown("target", target, TARGETS)
    if scheme.name not in _SCHEMES:
        raise RequestError(f"target='micro' is for the schemes {', '.join(_SCHEMES)}; received {scheme.name!r}.")
    interpreter.check_installed()


def check_reference_kernels(content: bytes) -> None:
    """Run a file on zeros in LiteRT's reference kernels, in a process of its own, before they judge it in this one.

    Raises:
        RequestError: a kernel ended the process.
    """
    _reference(content, [interpreter.zeros(content)])


def prove_micro(
    content: bytes, samples: Sequence[Arrays], known: Collection[str] | None = None, progress: Progress = silent
) -> MicroProof:
    """Run a file in TFLM on samples, compare with LiteRT's reference kernels, and measure the arena.

    Args:
        content: of the file. samples: for each, the real values or stored values of each input.
        known: the names of the Keras model's layers, to name the layer of an operator.

    Raises:
        ConversionError: TFLM refuses an operator of the file; the message names it, its layer and a remedy.
        RequestError: TFLM refuses the file for another reason.
    """
    try:
        return _proved(content, samples, known, progress)
    except RequestError as error:
        raise refused_operator(content, known, error) or error from None


def _proved(content: bytes, samples: Sequence[Arrays], known: Collection[str] | None, progress: Progress) -> MicroProof:
    progress("TFLM", 0, 3)
    inputs, expected = _reference(content, samples)
    found = interpreter.outputs(content, inputs)
    differences = [_largest(*pair) for pair in zip(expected, found, strict=True)]
    progress("TFLM", 1, 3)
    telling = sorted(range(len(samples)), key=lambda place: -differences[place])[:_TENSOR_SAMPLES]
    tensors, first, inside = _first_different(content, [samples[place] for place in telling], known)
    progress("TFLM", 2, 3)
    arena = interpreter.least_arena(content)
    progress("TFLM", 3, 3)
    compiled, refused = _vela(content)
    return MicroProof(
        images=len(samples),
        different=sum(difference > 0 for difference in differences),
        largest=max(differences, default=0.0),
        tensors=tensors,
        first_different=first,
        largest_inside=inside,
        arena_bytes=arena,
        activation_bytes=max(live_bytes(flatbuffer.read(content)), default=0),
        file_bytes=len(content),
        resolver=tuple(resolver_calls(content)),
        vela=compiled,
        vela_refused=refused,
    )


def _reference(content: bytes, samples: Sequence[Arrays]) -> tuple[list[Arrays], list[Arrays]]:
    """Give the stored values of the inputs, and of the outputs by LiteRT's reference kernels."""
    return interpreter.in_child(_run_reference, content, list(samples), runtime="LiteRT with its reference kernels")


def _run_reference(content: bytes, samples: Sequence[Arrays]) -> tuple[list[Arrays], list[Arrays]]:
    """As ``_reference``, in this process, a child."""
    runner = Runner(content, threads=1, reference=True)
    inputs, outputs = [], []
    for sample in samples:
        runner.invoke(*sample)
        inputs.append([runner.raw(details["index"]).copy() for details in runner.inputs])
        outputs.append([runner.raw(details["index"]).copy() for details in runner.outputs])
    return inputs, outputs


def _first_different(
    content: bytes, samples: Sequence[Arrays], known: Collection[str] | None
) -> tuple[int, str | None, float]:
    """Compare every tensor that operators compute. Give their number, the first operator with another result, and the
    largest difference."""
    tree = flatbuffer.read(content)
    operators = tree.subgraphs[0].operators
    places = [place for place, operator in enumerate(operators) for _ in operator.outputs]
    every = flatbuffer.with_outputs(tree, [index for operator in operators for index in operator.outputs])
    inputs, expected = _reference(every, samples)
    different = {
        place: _largest([a], [b])
        for pair in zip(expected, interpreter.outputs(every, inputs), strict=True)
        for place, a, b in zip(places, *pair, strict=True)
        if not np.array_equal(a, b)
    }
    if not different:
        return len(places), None, 0.0
    return len(places), operator_of(content, known, min(different)), max(different.values())


def _levels(number: float) -> str:
    return f"{number:g} level{'' if number == 1 else 's'}"


def _largest(expected: Arrays, found: Arrays) -> float:
    """Give the largest difference of one sample's outputs, 0 where they are equal bit for bit."""
    if all(np.array_equal(*pair) for pair in zip(expected, found, strict=True)):
        return 0.0
    pairs = zip(expected, found, strict=True)
    return max(float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) for a, b in pairs)


def _vela(content: bytes) -> tuple[VelaSummary | None, str | None]:
    """Give Vela's summary, or why there is none; nothing where Vela is not installed."""
    if not vela.is_installed():
        return None, None
    try:
        return vela.summary(content), None
    except RequestError as error:
        return None, str(error)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
