"""The papers' experiments, tried: each by one command.

    python benchmarks/experiments/run.py v2_bottlenecks --keep /tmp/experiments      trains what is not there yet
    python benchmarks/experiments/run.py all --keep /tmp/experiments                 all trainings: one to two hours
    python benchmarks/experiments/run.py all --counts                                counts of the papers' networks
    python benchmarks/experiments/run.py all --latency --keep /tmp/experiments       latency, on a quiet machine
    python benchmarks/experiments/run.py --page                                      docs/experiments.md, its pictures
    python benchmarks/experiments/run.py --list

An experiment is a list of variants of a network (``networks/``). Each variant is a small network that
is trained here, on drawn images (``drawn_surfaces.py``), with three seeds; and the paper's own network, whose
parameters and multiply-adds are counted, and whose latency is measured beside the baseline's, float32 and int8.
``--keep`` has a JSON for each training: the command goes on where it was. When an experiment has ended, its results are
written to ``benchmarks/experiments/results/``, and its table is printed: top-1 with its 95 % interval over images and
seeds, and the difference from the baseline, pair by pair.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks/: this folder is a package there

from experiments import results, spiral
from experiments.networks import activations, lite, mobileone, mobilevit, multipliers, sizes, v1, v2, v3
from experiments.variants import Experiment
from mobilenets_tf.progress import Display, Progress

PARTS = (v1, v2, sizes, v3, mobileone, mobilevit, lite, multipliers, activations)
EXPERIMENTS = {each.name: each for part in PARTS for each in part.EXPERIMENTS}
SPIRAL = "spiral"  # no network is in it


def trained(experiment: Experiment, folder: Path, chosen: argparse.Namespace, progress: Progress) -> dict:
    """Make the records that the folder lacks, unless only kept ones are wanted: key of a variant -> seed -> record."""
    records: dict[str, dict[str, dict]] = {}
    for seed in chosen.seeds:  # not variant by variant: what has ended early is a table too
        for variant in experiment.variants:
            path = folder / f"{variant.key}_{seed}.json"
            if not path.exists():
                if chosen.kept:
                    continue
                from experiments import learning

                size = learning.QUICK if chosen.quick else learning.Size()
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


def made(experiment: Experiment, chosen: argparse.Namespace, folder: Path, progress: Progress) -> dict:
    """Do what is asked for with an experiment: the parts of its results that are new."""
    if not (chosen.counts or chosen.latency):
        if not experiment.trained:
            return {}
        records = trained(experiment, folder, chosen, progress)
        show(experiment, records)
        return {"trainings": records} if records else {}
    from experiments import paper_size

    found = paper_size.count(experiment, progress) if chosen.counts else {}
    if chosen.latency:
        for key, timed in paper_size.time(experiment, folder, chosen.calls, progress).items():
            found[key] = found.get(key, {}) | timed
    print(f"\n{experiment.title}")
    for key, values in found.items():
        ratios = [
            f"{scheme} {values[scheme]['ratio']['median']:.3f}" for scheme in paper_size.SCHEMES if scheme in values
        ]
        counted = [f"{kind} {values[kind]:,}" for kind in ("params", "macs", "largest") if kind in values]
        print(f"  {key:<20} {', '.join(counted + ratios)}")
    return {"paper_size": found}


def measured_spiral() -> dict:
    """Measure what of the spiral is lost, and print it."""
    found = spiral.measure()
    print(f"\n{spiral.TITLE}")
    for row in found["rows"]:
        print(f"  {row['dimensions']:>2} dimensions: {row['lost']:.1%} lost ({row['expected']:.1%} expected)")
    return found


def merged(old: dict, new: dict) -> dict:
    """Give results with new parts. Counts and latency of a network stand side by side, whichever was made first."""
    sizes_of = {
        key: old.get("paper_size", {}).get(key, {}) | values for key, values in new.get("paper_size", {}).items()
    }
    return old | new | ({"paper_size": old.get("paper_size", {}) | sizes_of} if sizes_of else {})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="experiment", help="or all")
    parser.add_argument("--list", action="store_true", help="print the names of the experiments")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="of the trainings; those that are there are taken")
    parser.add_argument("--kept", action="store_true", help="take the trainings that are there, and make no others")
    parser.add_argument("--results", metavar="FOLDER", type=Path, help="write the results there")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--counts", action="store_true", help="count the papers' networks instead of training")
    parser.add_argument("--latency", action="store_true", help="time the papers' networks instead of training")
    parser.add_argument("--calls", type=int, default=50, help="inferences of each file that are timed")
    parser.add_argument("--page", action="store_true", help="write docs/experiments.md and its pictures")
    parser.add_argument("--quick", action="store_true", help="does it run? One epoch of few images, one seed")
    chosen = parser.parse_args()
    known = {**{name: each.title for name, each in EXPERIMENTS.items()}, SPIRAL: spiral.TITLE}
    if unknown := [name for name in chosen.names if name not in {*known, "all"}]:
        parser.error(f"no experiment is called {', '.join(unknown)}; there are {', '.join(known)}")
    if chosen.list:
        print("\n".join(f"{name:<22} {title}" for name, title in known.items()))
    if chosen.quick:
        chosen.seeds = chosen.seeds[:1]
    committed = chosen.results or (None if chosen.quick else results.COMMITTED)
    with tempfile.TemporaryDirectory() as temporary, Display() as progress:
        folder = chosen.keep or Path(temporary)
        if chosen.quick:
            folder /= "quick"  # or they would be taken for whole trainings
        folder.mkdir(parents=True, exist_ok=True)
        for name in known if "all" in chosen.names else dict.fromkeys(chosen.names):
            new = measured_spiral() if name == SPIRAL else made(EXPERIMENTS[name], chosen, folder, progress)
            if committed and new:
                results.write(committed / f"{name}.json", merged(results.read(committed / f"{name}.json"), new))
    if chosen.page:
        from experiments import page

        page.write(EXPERIMENTS)


if __name__ == "__main__":
    main()
