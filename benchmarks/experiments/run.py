"""The papers' experiments, tried: each by one command.

    python benchmarks/experiments/run.py v2_bottlenecks --keep /tmp/experiments      trains what is not there yet
    python benchmarks/experiments/run.py all --keep /tmp/experiments                 all trainings: one to two hours
    python benchmarks/experiments/run.py all --latency                               counts and latency of the papers'
                                                                                     networks, on a quiet machine
    python benchmarks/experiments/run.py --page                                      docs/experiments.md, its pictures
    python benchmarks/experiments/run.py --list

An experiment is a list of variants of a network (``v1.py``, ``v2.py`` and so on). Each variant is a small network that
is trained here, on drawn images (``drawn_surfaces.py``), with three seeds; and the paper's own network, whose parameters
and multiply-adds are counted, and whose latency is measured beside the baseline's, float32 and int8. ``--keep`` has a
JSON for each training: the command goes on where it was. When an experiment has ended, its results are written to
``benchmarks/experiments/results/``, and its table is printed: top-1 with its 95 % interval over images and seeds, and
the difference from the baseline, pair by pair.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path[0] = str(Path(__file__).parents[1])  # benchmarks/: this folder is a package there

from experiments import lite, mobileone, mobilevit, multipliers, results, v1, v2, v3
from experiments.variants import Experiment
from mobilenets_tf.progress import Display, Progress

EXPERIMENTS = {each.name: each for part in (v2, v3, mobileone, v1, lite, mobilevit, multipliers)
               for each in part.EXPERIMENTS}  # fmt: skip


def trained(experiment: Experiment, folder: Path, seeds: list[int], quick: bool, progress: Progress) -> dict:
    """Make the records that the folder lacks. Give all of them: key of a variant -> seed -> record."""
    records: dict[str, dict[str, dict]] = {}
    for seed in seeds:  # not variant by variant: what has ended early is a table too
        for variant in experiment.variants:
            path = folder / f"{variant.key}_{seed}.json"
            if not path.exists():
                from experiments import learning

                size = learning.QUICK if quick else learning.Size()
                results.write(path, learning.learn(variant, seed, size, folder, progress))
            records.setdefault(variant.key, {})[str(seed)] = results.read(path)
    return records


def show(experiment: Experiment, records: dict) -> None:
    """Print an experiment's table."""
    print(f"\n{experiment.title}\n{experiment.source}")
    for line in results.lines(experiment, records):
        if line.top1 is None:
            continue
        top1, low, high = (100 * value for value in line.top1)
        text = f"  {line.variant.label:<58} {top1:5.1f} % ({low:.1f} to {high:.1f})"
        if line.difference:
            gained, low, high = (100 * value for value in line.difference)
            text += f"  {gained:+5.1f} ({low:+.1f} to {high:+.1f}) from {line.base.label}"
        print(text)
        for kind, values in line.integers.items():
            print(f"    int8, {kind:<52} {100 * values[0]:+5.1f} ({100 * values[1]:+.1f} to {100 * values[2]:+.1f})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="experiment", help="or all")
    parser.add_argument("--list", action="store_true", help="print the names of the experiments")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="of the trainings; those that are there are taken")
    parser.add_argument("--results", metavar="FOLDER", type=Path, help="write the results there")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="does it run? One epoch of few images, one seed")
    parser.add_argument("--latency", action="store_true", help="count and time the papers' networks instead of training")
    parser.add_argument("--calls", type=int, default=50, help="inferences of each file that are timed")
    parser.add_argument("--page", action="store_true", help="write docs/experiments.md and its pictures")
    chosen = parser.parse_args()
    if chosen.list:
        print("\n".join(f"{name:<22} {each.title}" for name, each in EXPERIMENTS.items()))
    names = list(EXPERIMENTS) if "all" in chosen.names else list(dict.fromkeys(chosen.names))
    if unknown := [name for name in names if name not in EXPERIMENTS]:
        parser.error(f"no experiment is called {', '.join(unknown)}; there are {', '.join(EXPERIMENTS)}")
    committed = chosen.results or (None if chosen.quick else results.COMMITTED)
    with tempfile.TemporaryDirectory() as temporary, Display() as progress:
        folder = chosen.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            experiment = EXPERIMENTS[name]
            if chosen.latency:
                from experiments import paper_size

                found = {"paper_size": paper_size.measure(experiment, folder, chosen.calls, chosen.quick, progress)}
            else:
                seeds = chosen.seeds[:1] if chosen.quick else chosen.seeds
                found = {"trainings": trained(experiment, folder, seeds, chosen.quick, progress)}
                show(experiment, found["trainings"])
            if committed:
                path = committed / f"{name}.json"
                results.write(path, results.read(path) | found)
    if chosen.page:
        from experiments import page

        page.write()


if __name__ == "__main__":
    main()
