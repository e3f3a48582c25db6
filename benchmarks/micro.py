"""What do our int8 files need of a microcontroller, and what does a split of bottlenecks save?

    python benchmarks/micro.py                              every network, and the table of the split
    python benchmarks/micro.py "mobilenet_v1*" --no-split   the networks whose names match
    python benchmarks/micro.py --split-of mobilenet_v2:0.35:96 --chart docs/micro_split.svg
    python benchmarks/micro.py --check                      exit 1 if a file is not equal, or a split is off
    python benchmarks/micro.py --reference vww_96_int8.tflite   MLPerf Tiny's file, measured in the same way

Weights are random, BatchNorm statistics those of the pictures. The first table: the least arena of TensorFlow Lite
Micro (TFLM) with its own interpreter, how many tensors are equal to LiteRT's reference kernels (outputs, and the
result of each operator), the share of operators that Arm's Vela puts on an Ethos-U55 with 128 MACs, and the file's
size. MLPerf Tiny's visual wake words model (mlcommons/tiny, benchmark/training/visual_wake_words/trained_models/
vww_96_int8.tflite) is a MobileNetV1 0.25 at 96 pixels with two classes; its bytes are from the repository, and
--reference measures the file itself.

The second table is of T parts (arXiv 1801.04381, section 5): the memory of activations, the arena, and the time as a
ratio to the file without a split, in turns, float32 with XNNPACK and int8 in TFLM's reference kernels; the largest
difference, of float32 as a share of the largest output, of int8 in levels: of the result of the first block whose parts
are added behind their projections, and of the outputs, to which the layers behind carry what differs.
"""

import argparse
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from mobilenets_tf import drawing
from mobilenets_tf.errors import ConversionError, RequestError
from mobilenets_tf.export.micro import interpreter, vela
from mobilenets_tf.export.micro.operators import check_operators
from mobilenets_tf.export.micro.target import MicroProof, prove_micro
from mobilenets_tf.export.speed import timing
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.tflite.split import Split, split_bottlenecks
from mobilenets_tf.worker import Worker

WAKE_WORDS = ("mobilenet_v1", 0.25, 96, 2)
# Every family that a microcontroller could hold: network, width multiplier, pixels, classes.
NETWORKS = (
    WAKE_WORDS,
    ("mobilenet_v2", 0.35, 96, 10),
    ("mobilenet_v3_small_minimalistic", 0.75, 96, 10),
    ("mobilenet_v3_small", 0.75, 96, 10),
    ("efficientnet_lite0", None, 96, 10),
    ("mobileone_s0", None, 96, 10),
    ("mobilevit_v3_xxs", None, 64, 10),
)
SPLIT = ("mobilenet_v2:0.35:96", "mobilenet_v2:1.0:224", "mobilenet_v1:0.25:96")
PARTS = (1, 2, 3, 4, 5, 8)
# mlcommons/tiny at 1afd2c98: the file's bytes, and the arena that its reference submission reserves
# (benchmark/reference_submissions/person_detection/submitter_implemented.cpp).
MLPERF_FILE, MLPERF_ARENA = 333_288, 200 * 1024
_SHADES = ("#0f6173", "#b4541a", "#5a5a5a", "#7d4fb3")


def built(name: str, alpha: float | None, resolution: int, classes: int, schemes: Sequence[str] = ("int8",)):
    """The files of a network, and the names of its layers."""
    import keras
    from latency import pictures, settled

    from mobilenets_tf import create_model
    from mobilenets_tf.export.tflite import convert_model
    from mobilenets_tf.quantize.calibration import Calibration
    from mobilenets_tf.quantize.post_training import Recipe
    from mobilenets_tf.quantize.schemes import get

    keras.utils.set_random_seed(0)
    options = {"alpha": alpha} if alpha else {}
    model = create_model(
        name, resolution=resolution, classes=classes, classifier_activation=None, **options
    )  # logits: the probabilities of a random network are all alike
    model = settled(model, count=16)
    quick = Recipe(equalize=False, ranges="min_max", rounding="nearest", correct_biases=False)
    contents, layers = {}, None
    with Worker() as worker, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for scheme in schemes:
            given = Calibration(pictures(resolution)) if scheme == "int8" else None
            converted = convert_model(model, get(scheme), given, worker, recipe=quick if given else None)
            contents[scheme], layers = converted.content, converted.layers or layers
    return contents, layers


def samples_of(content: bytes, count: int = 3) -> list[list[np.ndarray]]:
    """Pictures for a file that takes one image."""
    from latency import pictures

    side = Runner(content).input_shapes[0][0]
    return [[picture] for picture in pictures(side, count)]


def row_of(label: str, proof: MicroProof) -> str:
    """A row of the first table."""
    share = f"{proof.vela.share:.0%}" if proof.vela else "refused" if proof.vela_refused else "not installed"
    equal = f"{proof.images - proof.different} of {proof.images}"
    tensors = f"{proof.tensors} of {proof.tensors}"
    if proof.first_different:
        tensors = f"not {proof.first_different}: {proof.largest_inside:g} level"
    cells = (
        label,
        _kib(proof.arena_bytes),
        _kib(proof.activation_bytes),
        equal,
        tensors,
        share,
        _kib(proof.file_bytes),
    )
    return "| " + " | ".join(cells) + " |"


def _kib(count: float) -> str:
    return f"{count / 1024:.0f}"


def networks(names: Sequence[str], reference: Path | None) -> list[str]:
    """Print the first table; return what is wrong."""
    print("| network | arena, KiB | activations, KiB | images equal | tensors equal | on the Ethos-U | file, KiB |")
    print("|---|---|---|---|---|---|---|")
    wrong = []
    for network in NETWORKS:
        if not any(fnmatch(network[0], name) for name in names):
            continue
        name, alpha, resolution, _ = network
        label = f"`{name}` {alpha or ''} at {resolution}".replace("  ", " ")
        contents, layers = built(*network)
        try:
            check_operators(contents["int8"], layers)
            proof = prove_micro(contents["int8"], samples_of(contents["int8"]), layers)
        except (ConversionError, RequestError) as error:
            print(f"| {label} | does not run: {error} |")
            continue
        print(row_of(label, proof), flush=True)
        wrong += [f"{label}: {failure}" for failure in proof.failures]
        if network == WAKE_WORDS and (proof.file_bytes > MLPERF_FILE or proof.arena_bytes > MLPERF_ARENA):
            wrong.append(f"{label}: more than MLPerf Tiny's {MLPERF_FILE} bytes of file or {MLPERF_ARENA} of arena")
    if reference:
        content = reference.read_bytes()
        print(row_of(f"MLPerf Tiny's `{reference.name}`", prove_micro(content, samples_of(content))))
    return wrong


@dataclass(frozen=True)
class SplitRow:
    """One row of the second table. Lists have a figure for float32 and for int8."""

    parts: int
    blocks: list[str]
    activations: list[int]
    arena: int
    ratios: list[timing.Ratio]
    difference: float
    block_levels: float
    block_equal: float
    levels: float
    sram: int | None


def split_rows(label: str, calls: int) -> Iterator[SplitRow]:
    """Measure a network's files with T parts."""
    name, alpha, resolution = label.split(":")
    contents, _ = built(name, float(alpha), int(resolution), 10, ("float32", "int8"))
    files = {parts: _files(contents, parts) for parts in PARTS}
    float_times = timing.side_by_side({str(parts): files[parts][0].content for parts in PARTS}, calls)
    eights, (picture,) = [files[parts][1].content for parts in PARTS], samples_of(contents["int8"], 1)
    micro_times = in_turns(eights, picture[0], max(calls // 2, 5))
    for place, parts in enumerate(PARTS):
        single, eight = files[parts]
        ours, base = (timing.Timing(tuple(micro_times[i])) for i in (place, 0))
        yield SplitRow(
            parts,
            [
                f"{sum(b.joined for b in split.blocks)} + {sum(not b.joined for b in split.blocks)}"
                for split in (single, eight)
            ],
            [single.bytes_after, eight.bytes_after],
            interpreter.least_arena(eight.content),
            [timing.ratio(float_times[str(parts)], float_times["1"]), timing.ratio(ours, base)],
            _float_difference(contents["float32"], single.content),
            *_levels(contents["int8"], eight),
            vela.summary(eight.content).sram_bytes if vela.is_installed() else None,
        )


def _files(contents: dict[str, bytes], parts: int):
    """The float32 and the int8 file in parts; with one part, as they are."""
    whole = [split_bottlenecks(contents[scheme], max(parts, 2)) for scheme in ("float32", "int8")]
    if parts > 1:
        return whole
    return [
        Split(contents[scheme], (), each.bytes_before, each.bytes_before, "")
        for scheme, each in zip(("float32", "int8"), whole, strict=True)
    ]


def in_turns(contents: list[bytes], picture: np.ndarray, calls: int) -> list[list[float]]:
    """Time files in TFLM: each once a round, in another order each round."""
    from tflite_micro.python.tflite_micro import runtime

    loaded = []
    for content in contents:
        one = runtime.Interpreter.from_bytes(content, arena_size=64 << 20)
        scale, zero = (one.get_input_details(0)["quantization_parameters"][key][0] for key in ("scales", "zero_points"))
        one.set_input(np.clip(np.round(picture[None] / scale) + zero, -128, 127).astype(np.int8), 0)
        one.invoke()
        loaded.append(one)
    times: list[list[float]] = [[] for _ in loaded]
    for number in range(calls):
        for place in timing.order(number, len(loaded)):
            started = time.perf_counter_ns()
            loaded[place].invoke()
            times[place].append((time.perf_counter_ns() - started) / 1e6)
    return times


def _float_difference(before: bytes, after: bytes) -> float:
    """The largest difference of the outputs of float32 files, as a share of the largest output."""
    one, other = Runner(before), Runner(after)
    differences, largest = [0.0], 0.0
    for sample in samples_of(before):
        for a, b in zip(one(*sample), other(*sample), strict=True):
            differences.append(float(np.abs(a - b).max()))
            largest = max(largest, float(np.abs(a).max()))
    return max(differences) / largest


def _levels(before: bytes, after: Split) -> tuple[float, float, float]:
    """Compare int8 files in LiteRT's reference kernels: the largest difference of the first result that is a sum behind
    its projections and the share of its values that are equal, and the largest difference of the outputs, all in
    levels. What is joined before that block is equal, so both files compute the block from the same values."""
    if not after.blocks:
        return 0.0, 1.0, 0.0
    name = next((block.name for block in after.blocks if not block.joined), after.blocks[0].name)
    one, other = (_stored(content, name) for content in (before, after.content))
    block = np.abs(one[0] - other[0])
    return float(block.max()), float(np.mean(block == 0)), float(np.abs(one[1] - other[1]).max())


def _stored(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The stored values of the tensor of that name, and of the first output, of all samples."""
    tree = flatbuffer.read(content)
    graph = tree.subgraphs[0]
    place = next(index for index, tensor in enumerate(graph.tensors) if tensor.name.decode() == name)
    runner = Runner(flatbuffer.with_outputs(tree, [place, graph.outputs[0]]), reference=True)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for sample in samples_of(content, 8):
        runner.invoke(*sample)
        found.append(tuple(runner.raw(index["index"]).astype(int) for index in runner.outputs))
    return np.stack([block for block, _ in found]), np.stack([output for _, output in found])


def splits(labels: Sequence[str], calls: int, chart: Path | None) -> list[str]:
    """Print the second table, and draw it; return what is wrong."""
    drawn, wrong = {}, []
    for label in labels:
        print(f"\n{label.replace(':', ' ')}, T parts:")
        print("| T | joined + added | activations, KiB: float32 | int8 | arena of TFLM, KiB | Ethos-U SRAM, KiB "
              "| time: float32 | int8 | difference: float32 | int8 block: levels | equal | outputs |")  # fmt: skip
        print("|---|---|---|---|---|---|---|---|---|---|---|---|")
        drawn[label] = list(split_rows(label, calls))
        for row in drawn[label]:
            times = (f"{ratio.median:.2f}" for ratio in row.ratios)
            cells = (
                str(row.parts), " / ".join(row.blocks), *map(_kib, row.activations), _kib(row.arena),
                _kib(row.sram) if row.sram else "", *times, f"{row.difference:.1g}", f"{row.block_levels:g}",
                f"{row.block_equal:.1%}", f"{row.levels:g}",
            )  # fmt: skip
            print("| " + " | ".join(cells) + " |", flush=True)
            if row.difference > 1e-5 or row.block_levels > 1:
                wrong.append(f"{label}, T={row.parts}: float32 {row.difference:.1g}, int8 {row.block_levels:g} levels")
    if chart:
        chart.write_text(picture_of(drawn))
    return wrong


def picture_of(drawn: dict[str, list[SplitRow]]) -> str:
    """Draw memory and time over T as an SVG document."""
    from matplotlib.figure import Figure

    with drawing.drawing():
        figure = Figure(figsize=(8, 3.4), layout="constrained")
        memory, latency = figure.subplots(1, 2)
        for shade, (label, rows) in zip(_SHADES, drawn.items(), strict=False):
            parts = [row.parts for row in rows]
            for place, (scheme, line) in enumerate((("float32", "--"), ("int8", "-"))):
                name = f"{label.replace(':', ' ')}, {scheme}"
                share = [row.activations[place] / rows[0].activations[place] for row in rows]
                memory.plot(parts, share, line, marker="o", markersize=3, color=shade, label=name)
                ratios = [row.ratios[place].median for row in rows]
                latency.plot(parts, ratios, line, marker="o", markersize=3, color=shade)
        memory.set_title("memory of activations, as a share")
        latency.set_title("time, as a ratio")
        for axes in (memory, latency):
            axes.set_ylim(bottom=0)
            axes.set_xticks(PARTS)
            drawing.finish(axes, "T, parts", "of the file without a split")
        memory.legend(fontsize=7, loc="lower left")
        return drawing.to_svg(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["*"], metavar="NAME", help="networks, wildcards allowed")
    parser.add_argument("--no-split", action="store_true", help="leave out the second table")
    parser.add_argument("--split-of", nargs="+", default=SPLIT, metavar="NAME:ALPHA:PIXELS", help="of the second table")
    parser.add_argument("--calls", type=int, default=50, help="calls of each file that are timed")
    parser.add_argument("--chart", type=Path, help="write the picture of the second table, an SVG")
    parser.add_argument("--reference", type=Path, help="MLPerf Tiny's vww_96_int8.tflite, for a row of its own")
    parser.add_argument("--check", action="store_true", help="exit 1 if anything is not as it should be")
    arguments = parser.parse_args()
    interpreter.check_installed()
    wrong = networks(arguments.names, arguments.reference)
    if not arguments.no_split:
        wrong += splits(arguments.split_of, arguments.calls, arguments.chart)
    if arguments.check and wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
