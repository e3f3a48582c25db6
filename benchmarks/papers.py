"""The papers' headline comparisons of latency as ratios on this machine, each with a table and a picture.

    python benchmarks/papers.py v3_against_v2 --out build/              one comparison
    python benchmarks/papers.py all --out build/ --keep build/files    all; files are built once and kept
    python benchmarks/papers.py all --quick                             does it run? Its figures mean nothing

The comparisons (``published.py``): v3_against_v2, v3_against_v2_int8, mobileone, lite_int8, vit_blocks, activations,
blocks, correlation. Weights are random, BatchNorm statistics those of smooth random pictures; int8 files are made
without the searches of the default recipe, which change numbers but no op. Building takes a few seconds a network the
first time. All files of a comparison are timed in turn, round by round.

Printed beside the paper's ratios: ours, the median of the rounds'; the median and the 10th percentile in ms (far apart
when other programs disturb: then compare the latter); how many partitions XNNPACK cuts the graph into; and which pairs
of networks come in another order here than in the paper. ``--out`` also gets <comparison>.svg and .json. The
milliseconds are this machine's, and this machine is not a phone.
"""

import argparse
import itertools
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import charts
import numpy as np
from latency import in_child, pictures, settled
from published import COMPARISONS, COUNTS, HERE, THIRTY_LAYERS, Comparison, Correlation, Row

from mobilenets_tf import files, registry
from mobilenets_tf.export.speed.timing import Timing, ratio, side_by_side

QUICK_ROWS, QUICK_CALLS, QUICK_RESOLUTION = 3, 5, 64
BATCH = 8  # files that one child process builds
SAME = 0.05  # ratios that differ by less are no order
# MobileNetV1's pairs of a depthwise and a 1x1 convolution, (filters, stride), with one more of the six at 14 pixels.
PAIRS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 6, (1024, 2), (1024, 1))


def thirty_layers(
    activation: str | Callable = "relu", squeeze: bool = False, skip: bool = False, resolution: int = 224
):
    """The network of MobileOne's tables 2 and 3 as we read them (arXiv 2206.04040): 30 layers with weights.

    A convolution, 14 pairs of a depthwise and a 1x1 convolution, and a classifier: MobileNetV1, whose 28 layers are
    counted the same way, with one pair more. squeeze: each activation is after a squeeze-and-excite of MobileOne's.
    skip: each convolution that keeps the shape has its input added before the activation, as in MobileOne's block.
    activation: a name, or a function of a tensor and the name of the layer.

    Returns:
        ``keras.Model``: (N, resolution, resolution, 3) -> (N, 1000).
    """
    import keras

    from mobilenets_tf.conventions import PYTORCH
    from mobilenets_tf.networks.blocks import Squeeze, activate, conv_bn, image_input, squeeze_excite, top
    from mobilenets_tf.networks.mobileone import SQUEEZE_RATIO

    def layer(x, filters, kernel, name, stride=1):
        depthwise = filters is None
        y = conv_bn(x, filters, kernel, name, PYTORCH, stride=stride, activation=None, depthwise=depthwise)
        if skip and x.shape == y.shape:
            y = keras.layers.Add(name=f"{name}_add")([x, y])
        if squeeze:
            y = squeeze_excite(y, Squeeze(int(y.shape[-1] * SQUEEZE_RATIO), "sigmoid"), name)
        return activation(y, name) if callable(activation) else activate(y, activation, name)

    inputs = image_input((resolution, resolution, 3))
    x = layer(inputs, 32, 3, "stem", 2)
    for number, (filters, stride) in enumerate(PAIRS, 1):
        x = layer(x, None, 3, f"pair{number}_depthwise", stride)
        x = layer(x, filters, 1, f"pair{number}_project")
    return keras.Model(inputs, top(x, True, None, 1000, "softmax", 0.0), name=THIRTY_LAYERS)


@dataclass(frozen=True)
class Job:
    """A file to build. resolution: in pixels; of the input."""

    row: Row
    resolution: int

    @property
    def name(self) -> str:
        """The file's, without its suffix; rows with one name share the file."""
        options = "".join(f"-{option}_{value}" for option, value in sorted(self.row.options.items()))
        return f"{self.row.network}{options}-{self.resolution}-{self.row.scheme}"

    def model(self):
        import keras

        from mobilenets_tf import create_model

        keras.utils.set_random_seed(0)
        build = thirty_layers if self.row.network == THIRTY_LAYERS else create_model
        named = () if self.row.network == THIRTY_LAYERS else (self.row.network,)
        return settled(build(*named, resolution=self.resolution, **self.row.options))


def build(jobs: Sequence[Job], folder: Path) -> None:
    """Write each job's ``<name>.tflite``, and ``<name>.json`` with the counts of its inference form."""
    import keras

    from mobilenets_tf.conversion.reparameterization import reparameterize
    from mobilenets_tf.export.tflite import convert_model
    from mobilenets_tf.networks.costs.complexity import counts
    from mobilenets_tf.quantize import Recipe, schemes
    from mobilenets_tf.worker import Worker

    # The ops, their order and shapes are the default recipe's; only scales and weights are other numbers.
    recipe = Recipe(equalize=False, ranges="min_max", rounding="nearest", correct_biases=False)
    with Worker() as worker:
        for job in jobs:
            keras.backend.clear_session()
            model, scheme = job.model(), schemes.get(job.row.scheme)
            given = {"recipe": recipe} if scheme.calibrated else {}
            content = convert_model(model, scheme, pictures(job.resolution), worker, **given).content
            counted = files.to_json(counts(reparameterize(model)))
            files.write_together(folder, {f"{job.name}.json": counted, f"{job.name}.tflite": content})


def build_missing(jobs: Sequence[Job], folder: Path) -> None:
    """
    Raises:
        RuntimeError: a network could not be built.
    """
    missing = list({job.name: job for job in jobs if not (folder / f"{job.name}.tflite").exists()}.values())
    for start in range(0, len(missing), BATCH):
        some = missing[start : start + BATCH]
        print(f"building {', '.join(job.name for job in some)}", flush=True)
        in_child(build, some, folder)


def measure(jobs: Sequence[Job], folder: Path, calls: int, threads: int) -> list[Timing]:
    """The jobs' timings, all of one run."""
    paths = {job.name: folder / f"{job.name}.tflite" for job in jobs}
    timings = side_by_side(paths, calls=calls, threads=threads)
    return [timings[job.name] for job in jobs]


def bases(rows: Sequence[Row]) -> list[int]:
    """For each row the place of the one that it is divided by; a base's own for itself."""
    places = {row.label: place for place, row in enumerate(rows)}
    return [places[row.base or row.label] for row in rows]


def published_ratios(rows: Sequence[Row], column: int) -> list[float | None]:
    """The source's figures over those of the bases; None where one is missing."""
    figures = [row.figures[column] for row in rows]
    pairs = zip(figures, (figures[base] for base in bases(rows)), strict=True)
    return [figure / base if figure and base else None for figure, base in pairs]


def reversed_pairs(theirs: Sequence[float], ours: Sequence[float]) -> Iterator[tuple[int, int]]:
    """Places (a, b) with a faster than b in theirs and slower in ours, both by more than ``SAME``."""
    for a, b in itertools.permutations(range(len(theirs)), 2):
        if theirs[a] * (1 + SAME) < theirs[b] and ours[a] > ours[b] * (1 + SAME):
            yield a, b


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation: Pearson's of the ranks, equal values sharing the mean of theirs. NaN where one side
    has a single value, as times of tiny files can."""

    def ranks(values):
        values = np.asarray(values)
        smaller, equal = values[None] < values[:, None], values[None] == values[:, None]
        return smaller.sum(1) + (equal.sum(1) + 1) / 2

    both = np.stack([ranks(a), ranks(b)])
    return float(np.corrcoef(both)[0, 1]) if np.ptp(both, axis=1).all() else float("nan")


def machine() -> str:
    """The processor's name, and its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(models, 'unknown processor')}, {platform.machine()}"


def circumstances(threads: int, calls: int) -> str:
    """What "here" is, for the caption."""
    return (
        f"Here: {machine()}, LiteRT with XNNPACK, {threads} thread{'s' * (threads > 1)}, median of {calls} calls in "
        "turn, random weights. This is not a phone."
    )


def compare(comparison: Comparison, rows: Sequence[Row], timings: Sequence[Timing]) -> dict[str, list[float | None]]:
    """Print the table; {column: ratios}, the last column ours."""
    series = {column: published_ratios(rows, place) for place, column in enumerate(comparison.columns)}
    series[HERE] = [ratio(timing, timings[base]).median for timing, base in zip(timings, bases(rows), strict=True)]
    widths = {column: max(7, len(column) + 2) for column in series}
    print(
        f"  {'':<32}"
        + "".join(f"{column:>{width}}" for column, width in widths.items())
        + "   median     10 %  partitions"
    )
    for place, (row, timing) in enumerate(zip(rows, timings, strict=True)):
        values = ((series[column][place], width) for column, width in widths.items())
        cells = "".join(f"{'-' if value is None else f'{value:.2f}':>{width}}" for value, width in values)
        print(f"  {row.label:<32}{cells}{timing.median_ms:9.2f}{timing.p10_ms:9.2f}  {timing.delegated_partitions:10}")
    if len(set(bases(rows))) == 1:  # ratios to one base have an order
        for column in comparison.columns:
            known = [place for place, value in enumerate(series[column]) if value is not None]
            theirs, ours = ([series[of][place] for place in known] for of in (column, HERE))
            print(f"  rank correlation with {column}: {spearman(theirs, ours):.2f}")
            for a, b in reversed_pairs(theirs, ours):
                names = " and ".join(rows[known[at]].label for at in (a, b))
                there, here = (f"{of[a]:.2f} and {of[b]:.2f}" for of in (theirs, ours))
                print(f"    in another order: {names}, {there} there, {here} here")
    return series


def correlate(
    correlation: Correlation, rows: Sequence[Row], timings: Sequence[Timing], counted: Sequence[dict]
) -> dict[str, list[float]]:
    """Print the table; {whose latencies, of which networks: [with parameters, with multiply-adds]}."""
    latencies = [timing.median_ms for timing in timings]
    shared = [place for place, row in enumerate(rows) if None not in row.figures]
    compared = [(HERE, range(len(rows)), latencies)]
    for column, theirs in enumerate(correlation.columns):
        compared.append((theirs, shared, [rows[at].figures[column] for at in shared]))
    compared.append((HERE, shared, [latencies[at] for at in shared]))
    table = {f"{column}, the paper's networks": list(given) for column, given in correlation.published.items()}
    for whose, places, taken in compared:
        if len(taken) > 2:
            counts = ([counted[at][kind] for at in places] for kind in COUNTS)
            label = f"{whose}, {'all' if len(taken) == len(rows) else 'shared'} {len(taken)} networks"
            table[label] = [spearman(taken, numbers) for numbers in counts]
    print(f"  {'':<40}" + "".join(f"{label:>15}" for label in COUNTS.values()))
    for label, values in table.items():
        print(f"  {label:<40}" + "".join(f"{value:15.2f}" for value in values))
    return table


def resolution(row: Row) -> int:
    """In pixels, of the network's input as published."""
    return 224 if row.network == THIRTY_LAYERS else registry.get(row.network).resolution


def run(name: str, folder: Path, out: Path | None, calls: int, threads: int, quick: bool) -> None:
    """Build, time, print, draw: one comparison.

    Raises:
        RuntimeError: a network could not be built.
    """
    subject = COMPARISONS[name]
    rows = subject.rows[:QUICK_ROWS] if quick else subject.rows
    jobs = [Job(row, QUICK_RESOLUTION if quick else resolution(row)) for row in rows]
    build_missing(jobs, folder)
    timings = measure(jobs, folder, calls, threads)
    here = circumstances(threads, calls)
    print(f"{name}: {subject.title}\n  {subject.source}\n  {here}")
    texts = (f"Published: {subject.source}.", subject.remark, here)
    if isinstance(subject, Correlation):
        counted = [json.loads((folder / f"{job.name}.json").read_text()) for job in jobs]
        table = correlate(subject, rows, timings, counted)
        picture = charts.scatter(subject, rows, timings, counted, table, texts)
    else:
        table = compare(subject, rows, timings)
        picture = charts.bars(subject, rows, table, texts)
    print(flush=True)
    if out:
        measured = {row.label: timing.as_dict() for row, timing in zip(rows, timings, strict=True)}
        document = {"source": subject.source, "here": here, "table": table, "measured": measured}
        files.write_together(out, {f"{name}.svg": picture, f"{name}.json": files.to_json(document)})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=[*COMPARISONS, "all"], metavar="comparison", help="or all")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="where the pictures and figures go")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="of built files; those there are taken")
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="three small networks a comparison and few calls")
    chosen = parser.parse_args()
    names = list(COMPARISONS) if "all" in chosen.names else list(dict.fromkeys(chosen.names))
    if chosen.out:
        files.check_folder(chosen.out)
    calls = min(chosen.calls, QUICK_CALLS) if chosen.quick else chosen.calls
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            run(name, folder, chosen.out, calls, chosen.threads, chosen.quick)


if __name__ == "__main__":
    main()
