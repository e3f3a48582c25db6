"""What the Pareto search is worth: against points at random, at the same number of trials.

    python benchmarks/pareto.py --simulated                          analytic scores and latencies: seconds
    python benchmarks/pareto.py --images surfaces/ --keep /tmp/pareto        seeds 0 to 4, widths, minutes to hours
    python benchmarks/pareto.py --images ../shared/cifar10-samples --keep /tmp/pareto --kinds widths depth kernels
    python benchmarks/pareto.py --images surfaces/ --keep /tmp/pareto --ranks 20         do short trainings rank well?

A parent, MobileNetV3 small with fewer rows, is trained from random weights on the images: a folder with train/<class>/
and test/<class>/, such as ``drawn_surfaces.py`` draws. (A parent that is in ``--keep`` as parent/parent.keras, with its
plan.json, is taken instead.) Its table of latencies is measured. Each candidate inherits the parent's weights, is
trained for ``--steps`` steps, and judged on a fifth of the training images; its latency is the table's.

For each seed, ``search_space`` tries ``--trials`` networks with the methods "pareto" and "random". The hypervolume of
the trials is the area that their front dominates, from the score of a guess and the parent's latency on. The first
trials of "pareto" are the parent and the parent in narrower; what they bring alone, and what they would bring to the
trials at random (in place of the last ones), is shown beside.

``--ranks N``: N networks of the first seed's trials are trained for ``--long`` times as many steps and judged on the
test images, and Spearman's rank correlation with the scores after the short training is printed.

``--inherited``: nothing is searched. Each thing that may change, but for the widths, changes alone, and top-1 on
``--count`` test images is printed before any training; and so for all squeeze-and-excites at once, with and without the
gates that the projections take over.

``--check`` fails (exit 1) unless the hypervolume of "pareto" is 1.05 times that of "random" in four of five seeds, and
the rank correlation at least 0.6. ``--keep`` has every trial: the command goes on where it was.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from mobilenets_tf import LatencyRequest, LatencyTable, ModelSource, Plan, TrainRequest, create_model, load_model, train
from mobilenets_tf.progress import Display, Progress
from mobilenets_tf.search import pareto
from mobilenets_tf.search.candidates import inheritance
from mobilenets_tf.search.candidates.evaluation import Candidates
from mobilenets_tf.search.candidates.space import Dimension, Point, Space
from mobilenets_tf.search.choices import KINDS, PARETO, RANDOM
from mobilenets_tf.search.latency.prediction import spearman
from mobilenets_tf.search.pareto import Trial, first_points, front, hypervolume, search_space
from mobilenets_tf.search.score import Score
from mobilenets_tf.training import request as training_request
from mobilenets_tf.worker import Worker

RE, HS = "relu", "hard_swish"
ROWS = (
    ((3, 1, 16, True, RE, 2),),
    ((3, 4.5, 24, False, RE, 2), (3, 3.5, 24, False, RE, 1)),
    ((5, 4, 40, True, HS, 2), (5, 4, 40, True, HS, 1)),
    ((5, 3, 48, True, HS, 1),),
)
PLAN = Plan("mobilenet_v3_small", {"rows": ROWS, "resolution": 64, "hidden_units": 128})
LEAST_RATIO, LEAST_SEEDS, LEAST_CORRELATION = 1.05, 0.8, 0.6
ALONE = "optuna"  # its sampler without the first networks
Function = Callable[[Point], Score]


def trained_parent(keep: Path, chosen: argparse.Namespace, progress: Progress) -> tuple[Path, Plan]:
    """Give the path and the plan of the parent, trained unless it is there."""
    path, plan = keep / "parent" / "parent.keras", keep / "plan.json"
    if not path.exists():
        import keras

        classes = sum(each.is_dir() for each in Path(chosen.images, "train").iterdir())
        replace(PLAN, options={**PLAN.options, "classes": classes}).write(plan)
        start = keep / "start" / path.name
        start.parent.mkdir(parents=True, exist_ok=True)
        keras.utils.set_random_seed(0)
        create_model(plan).save(start)
        train(
            TrainRequest(
                ModelSource(str(start), mean=127.5, std=127.5), f"{chosen.images}/train", str(path.parent),
                evaluate=f"{chosen.images}/test", recipe="scratch", epochs=chosen.parent_epochs, batch_size=64,
                threads=chosen.threads,
            ),
            progress,
        )  # fmt: skip
    return path, Plan.read(plan)


def table_of(parent: Path, keep: Path, chosen: argparse.Namespace, progress: Progress) -> LatencyTable:
    """Give the table of the parent's latencies, measured unless it is there."""
    path = keep / f"table_{chosen.scheme}.json"
    if path.exists():
        return LatencyTable.read(path)
    kernels = (3, 5, 7) if "kernels" in chosen.kinds else ()
    return LatencyTable.measure(
        LatencyRequest(str(parent), str(path), chosen.scheme, networks=chosen.table_networks, kernels=kernels), progress
    )


def candidates_of(
    keep: Path, chosen: argparse.Namespace, progress: Progress, worker: Worker, steps: int, test: bool = False
) -> Candidates:
    """Make the networks that are tried. test: judge them on the test images."""
    path, plan = trained_parent(keep, chosen, progress)
    table = table_of(path, keep, chosen, progress)
    request = TrainRequest(
        str(path), f"{chosen.images}/train", str(keep / "none"), recipe="recover", batch_size=64,
        evaluate=f"{chosen.images}/test" if test else None, threads=chosen.threads,
    )  # fmt: skip
    job = training_request.check(request)
    return Candidates(job, load_model(path), Space.of(plan, chosen.kinds), table, steps, worker=worker)


class Kept:
    """A function of points whose values are kept in a JSON file; seeds and methods share them.

    file: the path. function: called for points that are not in it.
    """

    def __init__(self, file: Path, function: Function):
        self._file, self._function = file, function
        self._scores = {_key(point): Score(**score) for point, score in _read(file)}

    def __call__(self, point: Point) -> Score:
        key = _key(point)
        if key not in self._scores:
            self._scores[key] = self._function(point)
            _write(self._file, [(json.loads(key), asdict(score)) for key, score in self._scores.items()])
        return self._scores[key]


def _key(point: Point) -> str:
    return json.dumps(point, sort_keys=True)


def _read(file: Path) -> list:
    return json.loads(file.read_text()) if file.exists() else []


def _write(file: Path, content: list) -> None:
    beside = file.with_suffix(".partial")
    beside.write_text(json.dumps(content) + "\n")
    beside.replace(file)


def tried(
    space: Space, evaluate: Function, latency: Callable[[Point], float], keep: Path, method: str, seed: int,
    chosen: argparse.Namespace, progress: Progress,
) -> list[Trial]:  # fmt: skip
    """Give the trials of a method and a seed; those in the folder are not made again."""
    file = keep / f"trials_{method}_{seed}.json"
    done = [Trial(each["number"], each["point"], Score(**each["score"]), each["ms"]) for each in _read(file)]
    kept = [asdict(trial) for trial in done]

    def keep_trial(trial: Trial) -> None:
        kept.append(asdict(trial))
        _write(file, kept)

    begin = mock.patch.object(pareto, "first_points", lambda space: []) if method == ALONE else nullcontext()
    with begin:
        return search_space(
            space, evaluate, latency, method=PARETO if method == ALONE else method, trials=chosen.trials, seed=seed,
            done=done, keep=keep_trial,
            progress=lambda label, *numbers: progress(f"{method}, seed {seed}: {label}", *numbers),
        )  # fmt: skip


def compared(trials: dict[str, list[Trial]], space: Space, corner: tuple[float, float]) -> dict[str, float]:
    """Give the hypervolumes of a seed."""
    found, chance = trials[PARETO], trials[RANDOM]
    first = found[: len(first_points(space))]
    return {method: hypervolume(each, corner) for method, each in trials.items()} | {
        "first": hypervolume(first, corner),
        "random_and_first": hypervolume(chance[: len(chance) - len(first)] + first, corner),
    }


def simulated_space() -> tuple[Space, Function, Callable[[Point], float]]:
    """A space of 28 widths, and 11 kernels and squeeze-and-excites; what each is worth and costs is drawn at random."""
    dimensions = [Dimension(f"widths/group{number}", (16, 24, 32, 40, 48, 56, 64), 64) for number in range(28)]
    dimensions += [Dimension(f"kernels/block{number}", (3, 5, 7), 3) for number in range(11)]
    dimensions += [Dimension(f"squeeze_excite/block{number}", (False, True), True) for number in range(11)]
    random = np.random.default_rng(0)
    worth = {each.name: random.uniform(0.1, 1) for each in dimensions}
    cost = {each.name: random.uniform(0.05, 1) for each in dimensions}
    space = Space(None, {each.name: each for each in dimensions}, {})

    def latency(point: Point) -> float:
        share = {"widths": 1 / 64, "kernels": 0.05, "squeeze_excite": 0.2}
        return sum(cost[name] * share[space.dimensions[name].kind] * value for name, value in point.items())

    def evaluate(point: Point) -> Score:
        lost = {
            "widths": lambda value: 0.13 * np.exp(-3 * value / 64),
            "kernels": lambda value: -0.001 * value,
            "squeeze_excite": lambda value: -0.004 * value,
        }
        loss = sum(worth[name] * lost[space.dimensions[name].kind](value) for name, value in point.items())
        noise = np.random.default_rng(list(_key(point).encode())).normal(0, 0.01)  # the same for the same point
        return Score(float(loss), float(0.9 - loss + noise))

    return space, evaluate, latency


def ranked(keep: Path, chosen: argparse.Namespace, trials: list[Trial], long: Function, progress) -> list:
    """Give (score after a short training, after a long one) of some trials, evenly chosen."""
    pairs = []
    for number, place in enumerate(np.linspace(0, len(trials) - 1, chosen.ranks).astype(int), 1):
        pairs.append((trials[place].score.score, long(trials[place].point).score))
        progress("ranking by short and long training", number, chosen.ranks)
        _write(keep / "ranks.json", pairs)
    return pairs


def show_inherited(keep: Path, chosen: argparse.Namespace, progress: Progress) -> None:
    """Print what candidates answer with inherited weights alone."""
    path, plan = trained_parent(keep, chosen, progress)
    parent = load_model(path)
    space = Space.of(plan, [kind for kind in KINDS if kind not in ("widths", "resolution")])
    pixels, labels = images_of(Path(chosen.images, "test"), chosen.count, parent.input_shape[1])

    def top1(point: Point) -> float:
        model = inheritance.inherit(parent, space, point).model
        return float((model.predict(pixels, verbose=0).argmax(-1) == labels).mean())

    print(f"top-1 on {len(labels)} images before any training; the parent: {top1(space.parent):.1%}")
    point = space.drawn(lambda each: False if each.kind == "squeeze_excite" else each.own)
    with_gates = top1(point)
    with mock.patch.object(inheritance, "_lost_gates", lambda *_: {}):
        print(f"  no squeeze-and-excite: {with_gates:.1%}; without the gates in the projections: {top1(point):.1%}")
    for name in space.parent:
        own = space.dimensions[name].own
        for value in space.dimensions[name].choices:
            if value != own:
                point = space.drawn(lambda each: value if each.name == name else each.own)  # noqa: B023
                print(f"  {name:<40}{own!s:>10} to {value!s:<10}{top1(point):.1%}", flush=True)


def images_of(folder: Path, count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Read images, as many of each class, and their classes."""
    from PIL import Image

    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    paths = [
        (path, number)
        for number, each in enumerate(classes)
        for path in sorted(each.iterdir())[: count // len(classes)]
    ]
    pixels = [np.asarray(Image.open(path).convert("RGB").resize((side, side)), np.float32) for path, _ in paths]
    return np.stack(pixels) / 127.5 - 1, np.array([number for _, number in paths])


def show(seeds: dict[int, dict], corner: tuple[float, float], chosen: argparse.Namespace) -> None:
    """Print the hypervolumes."""
    print(f"{chosen.trials} trials each; corner: score {corner[0]:.3f}, {corner[1]:.3f} ms (the parent)")
    columns = {
        "random": "random", "random_and_first": "random and first", "first": "first alone", ALONE: "Optuna alone",
    }  # fmt: skip
    columns = {key: label for key, label in columns.items() if key in next(iter(seeds.values()))}
    print("hypervolume of pareto, and how many times that of the others it is")
    print(f"{'seed':>4}{'pareto':>10}" + "".join(f"{label:>18}" for label in columns.values()))
    for seed, each in seeds.items():
        others = "".join(f"{each[key]:>11.4f} {each['pareto'] / each[key]:5.2f}x" for key in columns)
        print(f"{seed:>4}{each['pareto']:>10.4f}{others}")


def broken_promises(seeds: dict[int, dict], correlation: float | None) -> Iterator[str]:
    """What the search should do and does not."""
    better = sum(each["pareto"] >= LEAST_RATIO * each["random"] for each in seeds.values())
    if better < LEAST_SEEDS * len(seeds):
        yield f"in {better} of {len(seeds)} seeds the hypervolume is {LEAST_RATIO} times that of random: too few"
    if correlation is not None and correlation < LEAST_CORRELATION:
        yield f"the rank correlation is {correlation:.2f}, less than {LEAST_CORRELATION}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="a folder with train/<class>/ and test/<class>/")
    parser.add_argument("--simulated", action="store_true", help="analytic scores and latencies instead of images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--trials", type=int, default=40, help="networks that each method tries")
    parser.add_argument("--steps", type=int, default=40, help="of a short training, with 64 images each")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["widths"], help="what may change")
    parser.add_argument("--alone", action="store_true", help="try Optuna without the first networks too")
    parser.add_argument("--ranks", type=int, default=0, help="networks to train long, too")
    parser.add_argument("--long", type=int, default=10, help="a long training in short ones")
    parser.add_argument("--inherited", action="store_true", help="what candidates answer before any training")
    parser.add_argument("--count", type=int, default=500, help="test images for --inherited")
    parser.add_argument("--parent-epochs", type=int, default=24)
    parser.add_argument("--scheme", choices=["int8", "float32"], default="int8", help="of the latency")
    parser.add_argument("--table-networks", type=int, default=96, help="networks that the table is made of")
    parser.add_argument("--threads", type=int, default=1, help="of TensorFlow")
    parser.add_argument("--keep", metavar="FOLDER", help="keep everything there, and go on from it")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    parser.add_argument("--check", action="store_true", help="exit 1 unless the promises are kept")
    chosen = parser.parse_args()
    if chosen.simulated == bool(chosen.images):
        parser.error("give --images FOLDER or --simulated")
    pairs: list = []
    with tempfile.TemporaryDirectory() as temporary, Display() as progress, Worker() as worker:
        keep = Path(chosen.keep or temporary)
        keep.mkdir(parents=True, exist_ok=True)
        if chosen.inherited:
            show_inherited(keep, chosen, progress)
            return
        if chosen.simulated:
            space, evaluate, latency = simulated_space()
            guess = 0.3
        else:
            made = candidates_of(keep, chosen, progress, worker, chosen.steps)
            space, latency = made.space, made.latency
            evaluate = Kept(keep / f"scores_{chosen.steps}.json", made.evaluate)
            guess = 1 / sum(each.is_dir() for each in Path(chosen.images, "train").iterdir())
        corner = (guess, latency(space.parent))
        seeds = {}
        for seed in chosen.seeds:
            trials = {
                method: tried(space, evaluate, latency, keep, method, seed, chosen, progress)
                for method in (PARETO, RANDOM, *([ALONE] if chosen.alone else []))
            }
            seeds[seed] = compared(trials, space, corner) | {
                f"front_{method}": [(trial.score.score, trial.ms) for trial in front(each)]
                for method, each in trials.items()
            }
            show(seeds, corner, chosen)
            if seed == chosen.seeds[0]:
                first_seed = [*trials[PARETO], *trials[RANDOM]]
        if chosen.ranks and not chosen.simulated:
            steps = chosen.steps * chosen.long
            longer = candidates_of(keep, chosen, progress, worker, steps, test=True)
            long = Kept(keep / f"scores_{steps}_test.json", longer.evaluate)
            pairs = ranked(keep, chosen, first_seed, long, progress)
    correlation = spearman(*zip(*pairs, strict=True)) if pairs else None
    if correlation is not None:
        print(
            f"{len(pairs)} networks: rank correlation of {chosen.steps} and {chosen.steps * chosen.long} steps "
            f"{correlation:.2f}"
        )
    if chosen.json:
        about = {"corner": corner, "seeds": seeds, "ranks": pairs, "rank_correlation": correlation}
        Path(chosen.json).write_text(json.dumps(about, indent=1) + "\n")
    problems = list(broken_promises(seeds, correlation))
    if chosen.check and problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
