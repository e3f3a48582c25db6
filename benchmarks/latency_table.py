"""How well a table of latencies predicts networks that it has not seen.

    python benchmarks/latency_table.py                       64 networks, float32 and int8, a table for each
    python benchmarks/latency_table.py --keep /tmp/tables    files and tables are made only once
    python benchmarks/latency_table.py --quick               two tiny networks, for tests: the figures mean nothing

A table is made of one network (``mobilenets-tf latency``), by giving its own file other widths and kernels. The
networks that are predicted are built by Keras from random rows: other widths (shares of the published ones, in
multiples of 8), kernels of 3, 5 or 7 (``--kernels``), and fewer blocks; they are converted like any other network.
After the table, they are measured in turn, in several passes.

A machine's pace changes within minutes. So the network that the table was made of runs in turn with the others too, and
the predictions are also shown times the network's pace: what was measured of it, by what the table predicts.

Printed for float32 and int8: the median error, the share of networks within 5 % and 10 %, and Spearman's rank
correlation; beside them the same figures of a line through the multiply-adds, fitted to four fifths of these networks
and judged on the others; and how far two halves of the passes of one network differ: no prediction can be better than
that. ``--check`` fails (exit 1) unless the median error is at most 5 %, 95 % of the networks are within 10 %, the rank
correlation is at least 0.97, the error at most half of the multiply-adds', and a table made in 10 minutes.

Run it on a quiet machine. The load before and after is printed.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from mobilenets_tf import LatencyRequest, LatencyTable, ModelSource, create_model
from mobilenets_tf.progress import Display, Progress
from mobilenets_tf.search.latency.base_file import file_of
from mobilenets_tf.search.latency.measuring import Here, Run, latency_of, measure_in_turn
from mobilenets_tf.search.latency.prediction import (
    MeasuredNetwork,
    PredictionError,
    cross_validated_multiply_adds,
    error_of,
)
from mobilenets_tf.search.latency.workloads import workloads
from mobilenets_tf.worker import Worker

SCHEMES = ("float32", "int8")
NETWORK = "mobilenet_v3_small"
CLASSES = 10


def random_rows(generator: random.Random, kernels: Sequence[int]) -> list[list[tuple]]:
    """Rows of MobileNetV3 small with other widths, kernels and depths."""
    from mobilenets_tf.networks.mobilenet_v3 import SMALL

    mean = generator.uniform(0.35, 1.0)

    def share() -> float:
        return min(1.0, max(0.25, mean + generator.uniform(-0.25, 0.25)))

    stages, width = [], 16
    for stage in SMALL:
        rows = []
        filters = max(8, round(stage[0].filters * share() / 8) * 8)
        for place, row in enumerate(stage):
            if place and generator.random() < 0.25:
                continue
            before = stage[0].filters if place else None
            expanded = row.expansion * (before or _PUBLISHED_BEFORE[row.filters])
            expanded = max(8, round(expanded * share() / 8) * 8)
            rows.append((generator.choice(kernels), expanded / width, filters, row.squeeze, row.activation, row.stride))
            width = filters
        stages.append(rows)
    return stages


_PUBLISHED_BEFORE = {16: 16, 24: 16, 40: 24, 48: 40, 96: 48}  # of the first block of a stage: the channels before it


def build(folder: Path, number: int, chosen: argparse.Namespace, worker: Worker) -> dict[str, Path]:
    """Give the paths of a random network's files, made unless they are there."""
    name = f"{NETWORK}_{chosen.resolution}_{''.join(map(str, chosen.kernels))}_{number}"
    paths = {scheme: folder / f"{name}_{scheme}.tflite" for scheme in SCHEMES}
    if not all(path.exists() for path in paths.values()):
        rows = random_rows(random.Random(number), chosen.kernels)
        model = create_model(NETWORK, rows=rows, resolution=chosen.resolution, classes=CLASSES)
        for scheme, path in paths.items():
            path.write_bytes(file_of(model, scheme, worker))
    return paths


def measure(paths: list[Path], threads: int, minutes: float, progress: Progress) -> list[list[Run]]:
    """Measure the files in turn."""
    runs: list[list[Run]] = [[] for _ in paths]
    with Here(threads) as device:
        measure_in_turn(paths, device, runs, minutes, progress=progress)
    return runs


def judge(table: LatencyTable, paths: list[Path], runs: list[list[Run]]) -> dict:
    """Compare a table's predictions with measurements. The first file is that of the network itself."""
    parent = table.predict(paths[0].read_bytes())
    pace = latency_of(runs[0]) / parent
    paths, runs = paths[1:], runs[1:]
    operators = [tuple(workloads(path.read_bytes())) for path in paths]
    predicted = [table.of_operators(each) for each in operators]
    latencies = [latency_of(each) for each in runs]
    networks = [MeasuredNetwork(each, (), ms) for each, ms in zip(operators, latencies, strict=True)]
    halves = [latency_of(each[::2]) / latency_of(each[1::2]) for each in runs if len(each) > 1]
    return {
        "table": asdict(error_of(predicted, latencies)),
        "at_the_parents_pace": asdict(error_of([pace * ms for ms in predicted], latencies)),
        "pace": pace,
        "multiply_adds": asdict(cross_validated_multiply_adds(networks)),
        "own": asdict(table.error),
        "halves_differ": float(np.median(np.abs(np.log(halves)))) if halves else None,
        "predicted_ms": predicted,
        "measured_ms": latencies,
    }


def broken_promises(scheme: str, result: dict) -> Iterator[str]:
    """What a table should do and does not."""
    ours, others = PredictionError(**result["table"]), PredictionError(**result["multiply_adds"])
    if ours.median > 0.05:
        yield f"{scheme}: the median error is {ours.median:.1%}, more than 5 %"
    if ours.within_10 < 0.95:
        yield f"{scheme}: {ours.within_10:.0%} of the networks are within 10 %, fewer than 95 %"
    if (ours.rank_correlation or 0) < 0.97:
        yield f"{scheme}: the rank correlation is {ours.rank_correlation}, less than 0.97"
    if ours.median > others.median / 2:
        yield f"{scheme}: the error is {ours.median / others.median:.2f} of that of the multiply-adds, more than half"
    if result["table_minutes"] > 10:
        yield f"{scheme}: making the table took {result['table_minutes']:.1f} minutes, more than 10"


def show(scheme: str, result: dict, chosen: argparse.Namespace) -> None:
    """Print the figures of a scheme."""
    fastest, slowest = min(result["measured_ms"]), max(result["measured_ms"])
    print(
        f"{scheme}, {chosen.threads} thread(s), {NETWORK}, {chosen.resolution} pixels, {fastest:.2f} to "
        f"{slowest:.2f} ms, kernels {chosen.kernels}, {result['machine']['processor']}"
    )
    print(
        f"  table: {chosen.table_networks} networks, {result['entries']} operators, {result['table_minutes']:.1f} "
        f"minutes; load {result['load'][0]:.1f} before, {result['load'][1]:.1f} after"
    )
    print(f"  {'':<36}{'networks':>9}{'median':>9}{'within 5 %':>12}{'within 10 %':>13}{'rank correlation':>18}")
    for label, key in (
        ("the table, networks it has not seen", "table"),
        ("the same, times the network's pace", "at_the_parents_pace"),
        ("multiply-adds, the same networks", "multiply_adds"),
        ("the table, its own networks held out", "own"),
    ):
        error = PredictionError(**result[key])
        rank = "-" if error.rank_correlation is None else f"{error.rank_correlation:.3f}"
        shares = f"{error.median:>9.1%}{error.within_5:>12.0%}{error.within_10:>13.0%}{rank:>18}"
        print(f"  {label:<36}{error.networks:>9}{shares}")
    print(f"  the network itself took {result['pace']:.3f} of what the table predicts for it")
    if result["halves_differ"] is not None:
        print(f"  two halves of the passes of one network differ by {result['halves_differ']:.1%} (median)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=64, help="networks to predict")
    parser.add_argument("--table-networks", type=int, default=160, help="networks that a table is made of")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--kernels", type=int, nargs="+", default=[3, 5, 7], help="of depthwise convolutions")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit of the passes, for a table and a check")
    parser.add_argument("--keep", metavar="FOLDER", help="keep all files there; networks found there are not built")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    parser.add_argument("--check", action="store_true", help="exit 1 unless the promises are kept")
    parser.add_argument("--quick", action="store_true", help="two tiny networks, and tables of five")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.networks, chosen.table_networks, chosen.resolution, chosen.minutes = 2, 5, 32, 0.0
    results = {}
    with tempfile.TemporaryDirectory() as temporary, Display() as progress:
        folder = Path(chosen.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        paths: dict[str, list[Path]] = {scheme: [] for scheme in SCHEMES}
        with Worker() as worker:
            model = create_model(NETWORK, resolution=chosen.resolution, classes=CLASSES)
            for scheme in SCHEMES:
                paths[scheme].append(folder / f"{NETWORK}_{chosen.resolution}_itself_{scheme}.tflite")
                paths[scheme][0].write_bytes(file_of(model, scheme, worker))
            for number in range(chosen.networks):
                for scheme, path in build(folder, number, chosen, worker).items():
                    paths[scheme].append(path)
                progress("building networks", number + 1, chosen.networks)
        for scheme in SCHEMES:
            load = os.getloadavg()[0]
            source = ModelSource(NETWORK, resolution=chosen.resolution, classes=CLASSES)
            request = LatencyRequest(
                source,
                out=str(folder / f"table_{scheme}.json"),
                scheme=scheme,
                threads=chosen.threads,
                networks=chosen.table_networks,
                kernels=tuple(chosen.kernels),
                minutes=chosen.minutes,
            )
            started = time.monotonic()
            made = chosen.keep and os.path.exists(request.out)
            table = LatencyTable.read(request.out) if made else LatencyTable.measure(request, progress)
            minutes = (time.monotonic() - started) / 60
            runs = measure(paths[scheme], chosen.threads, chosen.minutes, progress)
            results[scheme] = judge(table, paths[scheme], runs) | {
                "machine": asdict(table.machine), "threads": chosen.threads, "entries": len(table.entries),
                "table_minutes": minutes, "load": [load, os.getloadavg()[0]],
            }  # fmt: skip
    for scheme, result in results.items():
        show(scheme, result, chosen)
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(results, indent=1) + "\n")
    problems = [problem for scheme, result in results.items() for problem in broken_promises(scheme, result)]
    if chosen.check and problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
