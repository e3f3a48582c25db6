"""What NetAdapt is worth: against the width multiplier, from the same parent, at the same measured latency.

    python benchmarks/netadapt.py --keep /tmp/netadapt                     3 seeds at 0.5 and 0.7 of the latency, int8
    python benchmarks/netadapt.py --keep /tmp/netadapt --seeds 0 --targets 0.5 --alone
    python benchmarks/netadapt.py --keep /tmp/netadapt --data ../shared/cifar10-samples
    python benchmarks/netadapt.py --keep /tmp/netadapt --quick             a network that has learned nothing, for tests

A parent, half of MobileNetV1's blocks (``--plan`` takes another), is trained from random weights: on drawn images
(``drawn_surfaces.py``), or on those in ``--data``, a folder with train/<class>/ and test/<class>/. For each seed and
target, ``mobilenets-tf search --method netadapt`` makes the parent faster. The width multiplier is the other contender:
all groups of channels of the same parent lose the same share, in multiples of 8, those with the smallest L2 norm. Of
all such networks the fastest is taken that is, measured in the same rounds, not faster than NetAdapt's. Then the same
recipe trains that network for as many steps as NetAdapt has had in all: in its last training, and in the short
trainings of all candidates, those that were not taken too. The test images have no part in any of this. At ``--alone``
NetAdapt is compared with the parent only.

Printed for each network: its latency, measured in turn with the parent's, as a share of the parent's; parts of the
graph that XNNPACK runs; top-1 of the float32 and the int8 file; on how many images both give the same answer. Then the
points that NetAdapt gains, with the 95 % interval of a bootstrap over test images, pair by pair, and over seeds.

``--check`` fails (exit 1) unless NetAdapt, at half of the latency, gains 2 points with an interval above 0, and at 0.7
loses at most 1.5 points of the parent; each result's latency is within 5 % of what was asked for; it is one part; and
int8 and float32 agree on 90 % of the images. ``--keep`` has every step's result: the command goes on where it was.
"""

import argparse
import bisect
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from bootstrap import gain
from drawn_surfaces import draw

from mobilenets_tf import (
    DeployRequest,
    ImageInput,
    LatencyRequest,
    LatencyTable,
    ModelSource,
    Plan,
    Preprocessing,
    SearchRequest,
    TrainRequest,
    channel_groups,
    create_model,
    deploy,
    load_model,
    prune,
    reach_latency,
    train,
)
from mobilenets_tf.answers.predictor import predictor
from mobilenets_tf.answers.reading import Reading
from mobilenets_tf.data import images
from mobilenets_tf.drawing import ACCENT, FAINT, INK, SECOND, drawing, finish, to_svg
from mobilenets_tf.export import to_tflite
from mobilenets_tf.export.speed import timing
from mobilenets_tf.manifest import manifest_of
from mobilenets_tf.progress import Display, Progress
from mobilenets_tf.search.latency.file_widths import FileWidths
from mobilenets_tf.search.latency.variants import multiple

# Half of MobileNetV1's blocks, and a smaller map from the first one on: two processors train the network in minutes.
ROWS = ((64, 1, 2), (128, 1, 2), (256, 1, 2), (512, 3, 1), (1024, 1, 2))
PLAN = Plan("mobilenet_v1", {"alpha": 0.5, "resolution": 64, "rows": ROWS})
NETADAPT, UNIFORM, PARENT = "NetAdapt", "width multiplier", "parent"
SHARES = 200  # of the width, that the width multiplier is tried at
LEAST_GAIN, MOST_LOST = 0.02, 0.015
MOST_OFF, LEAST_AGREEMENT = 0.05, 0.90


@dataclass(frozen=True)
class Contender:
    """A network of the comparison: how it was made, for which share of the parent's latency, and with which seed.

    folder: has its ``.keras`` file and its deployed file.
    """

    method: str
    target: float
    seed: int
    folder: Path

    def __str__(self):
        return PARENT if self.method == PARENT else f"{self.method} {self.target:g} seed {self.seed}"

    @property
    def keras(self) -> Path:
        return self.folder / "parent.keras"

    def file(self, scheme: str) -> Path:
        return self.folder / f"parent_{scheme}.tflite"


def trained_parent(keep: Path, data: Path, chosen: argparse.Namespace, progress: Progress) -> Contender:
    """Give the parent, trained unless it is there."""
    import keras

    parent = Contender(PARENT, 1.0, 0, keep / "parent")
    if not parent.keras.exists():
        start = keep / "start" / "parent.keras"
        if not start.exists():
            plan = Plan.read(chosen.plan) if chosen.plan else PLAN
            classes = sum(path.is_dir() for path in (data / "train").iterdir())
            keras.utils.set_random_seed(0)
            model = create_model(replace(plan, options={**plan.options, "classes": classes}))
            start.parent.mkdir(exist_ok=True)
            model.save(start)
        request = TrainRequest(
            ModelSource(str(start), mean=127.5, std=127.5), data / "train", keep / "scratch", evaluate=_watched(data),
            recipe="scratch", epochs=chosen.parent_epochs, batch_size=chosen.batch_size, threads=chosen.threads,
        )  # fmt: skip
        trained = train(request, progress).path
        parent.folder.mkdir(exist_ok=True)
        for suffix in (".keras.json", ".keras"):  # the manifest first: with the network the parent is there
            parent.keras.with_suffix(suffix).write_bytes(trained.with_suffix(suffix).read_bytes())
    return parent


def _watched(data: Path) -> Path:
    return data / "validation" if (data / "validation").is_dir() else data / "test"


def table_of(parent: Contender, keep: Path, chosen: argparse.Namespace, progress: Progress) -> Path:
    """Give the path of a table of the parent's latencies, measured unless it is there."""
    path = keep / f"table_{chosen.scheme}.json"
    if not path.exists():
        LatencyTable.measure(
            LatencyRequest(str(parent.keras), str(path), chosen.scheme, networks=chosen.table_networks), progress
        )
    return path


def searching(contender: Contender, parent: Contender, data: Path, table: Path, chosen) -> SearchRequest:
    """The search of a contender; its last training is that of the width multiplier too."""
    return SearchRequest(
        str(parent.keras), str(data / "train"), str(data / "test"), str(contender.folder), target=contender.target,
        scheme=chosen.scheme, table=str(table), train_threads=chosen.threads, steps=chosen.steps, tried=chosen.tried,
        step=chosen.step, epochs=chosen.epochs, batch_size=chosen.batch_size, learning_rate=chosen.learning_rate,
        seed=contender.seed,
    )  # fmt: skip


def history_of(contender: Contender) -> dict:
    return json.loads((contender.folder / "parent.search.json").read_text())


def steps_of(contender: Contender) -> tuple[int, int]:
    """Give the steps of NetAdapt's last training, and those of all its short trainings."""
    history = history_of(contender)
    short = sum(1 + sum("score" in each for each in row["proposals"]) for row in history["rows"])
    last = manifest_of(contender.keras)["epochs"][-1]["step"]
    return last, short * history["options"]["steps"]


def uniform_widths(groups: dict[str, int]) -> list[tuple[float, dict[str, int]]]:
    """Give all networks of which each group has the same share, in multiples of 8: the largest such share, the widths;
    the narrowest first."""
    found: dict[tuple, tuple[float, dict[str, int]]] = {}
    for number in range(1, SHARES + 1):
        share = number / SHARES
        widths = {name: min(width, multiple(share * width)) for name, width in groups.items()}
        found[tuple(widths.values())] = share, widths
    return list(found.values())


def as_slow(rival: Path, parent: Contender, chosen: argparse.Namespace, progress: Progress) -> dict:
    """Find the fastest uniform network that is not faster than a file.

    Files for this are made from the parent's by giving its groups of channels other widths. Each is measured alone with
    the rival: among many files the caches are cold, which costs a network the more the more weights it has.
    """
    file = FileWidths(parent.file(chosen.scheme).read_bytes())
    networks = uniform_widths(file.groups)
    ratios: dict[float, float] = {}

    def ratio(place: int) -> float:
        share, widths = networks[place]
        if share not in ratios:
            timed = timing.side_by_side({"rival": rival, "own": file.with_widths(widths)}, chosen.calls)
            ratios[share] = timing.ratio(timed["own"], timed["rival"]).median
            progress(f"{share:.3f} of the width: {ratios[share]:.3f} of NetAdapt's latency", 1, 1)
        return ratios[share]

    place = bisect.bisect_left(range(len(networks) - 1), 1.0, key=ratio)
    return {"share": networks[place][0], "ratios": ratios}


def train_uniform(contender: Contender, rival: Contender, parent: Contender, request: SearchRequest, chosen, progress):
    """Make the width multiplier's network for a target, and train it for as many steps as NetAdapt had."""
    work = contender.folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    choice = work / "share.json"
    if not choice.exists():
        choice.write_text(json.dumps(as_slow(rival.file(chosen.scheme), parent, chosen, progress), indent=1))
    share = json.loads(choice.read_text())["share"]
    last, short = steps_of(rival)
    per_epoch = last // len(manifest_of(rival.keras)["epochs"])
    pruned = work / "parent.keras"
    if not pruned.exists():
        model = load_model(parent.keras)
        groups = {name: group.width for name, group in channel_groups(model).groups.items()}
        smaller = prune(model, {name: min(width, multiple(share * width)) for name, width in groups.items()})
        manifest = manifest_of(parent.keras)
        facts = {key: manifest[key] for key in ("task", "preprocessing", "labels")}
        pruned.with_suffix(".keras.json").write_text(json.dumps(facts))
        smaller.save(work / "unfinished.keras")
        (work / "unfinished.keras").replace(pruned)
    if not contender.keras.exists():
        epochs = -(-(last + short) // per_epoch)
        train(
            replace(request.last_training(), source=ModelSource(str(pruned)), out=str(contender.folder), epochs=epochs),
            progress,
        )
    if not contender.file(chosen.scheme).exists():
        deploy(replace(request.deployment(contender.keras), out=str(contender.folder)), progress)


def answers(contender: Contender, scheme: str, data: Path, progress: Progress) -> np.ndarray:
    """Give which class a contender's file gives each test image, computed unless they are there."""
    path = contender.folder / f"answers_{scheme}.npy"
    if not path.exists():
        file = contender.file(scheme)
        asked = predictor(file, Reading.of(file))
        found = images.find_images(str(data / "test"))
        given = []
        for number, scores in enumerate(asked(map(images.decode, found.paths)), 1):
            given.append(int(np.argmax(scores)))
            progress(f"answers of {contender}, {scheme}", number, len(found.paths))
        np.save(path, np.array(given))
    return np.load(path)


def judged(contenders: Sequence[Contender], data: Path, chosen: argparse.Namespace, progress: Progress) -> dict:
    """Measure and judge all contenders. The first is the parent."""
    labels = np.array(images.find_images(str(data / "test")).labels)
    rows, right = {}, {}
    schemes = tuple(dict.fromkeys((chosen.scheme, "float32")))
    timed = {}
    for scheme in schemes:
        contents = {str(each): each.file(scheme) for each in contenders}
        timed[scheme] = timing.side_by_side(contents, chosen.calls, progress=progress)
    for each in contenders:
        name = str(each)
        given = {scheme: answers(each, scheme, data, progress) for scheme in schemes}
        right[name] = {scheme: values == labels for scheme, values in given.items()}
        own, base = timed[chosen.scheme][name], timed[chosen.scheme][PARENT]
        floats, float_base = timed["float32"][name], timed["float32"][PARENT]
        rows[name] = {
            "method": each.method, "target": each.target, "seed": each.seed,
            "latency": vars(timing.ratio(own, base)), "ms": own.median_ms,
            "float32_latency": vars(timing.ratio(floats, float_base)),
            "parts": own.delegated_partitions, "outside": dict(own.outside),
            "top1": {scheme: float(values.mean()) for scheme, values in right[name].items()},
            "agreement": float((given[chosen.scheme] == given["float32"]).mean()),
            "steps": manifest_of(each.keras)["epochs"][-1]["step"],
        }  # fmt: skip
        if each.method == NETADAPT:
            history = history_of(each)
            rows[name] |= {
                "predicted": history["ms"] / history["base_ms"], "short_steps": steps_of(each)[1],
                "rounds": len(history["rows"]),
                "widths": history["widths"],
            }  # fmt: skip
        elif each.method == UNIFORM:
            rows[name]["share"] = json.loads((each.folder / "work" / "share.json").read_text())["share"]
    gains = {}
    for target in sorted({each.target for each in contenders[1:]}):
        for scheme in schemes:
            here = [each for each in contenders[1:] if each.target == target]
            of = {
                method: [right[str(each)][scheme] for each in here if each.method == method]
                for method in (NETADAPT, UNIFORM)
            }
            ours = np.stack(of[NETADAPT])
            base = np.broadcast_to(right[PARENT][scheme], ours.shape)
            gains[f"{target:g} {scheme}"] = {"seeds": len(ours), "over_parent": gain(base, ours)}
            if of[UNIFORM]:
                gains[f"{target:g} {scheme}"]["over_uniform"] = gain(np.stack(of[UNIFORM]), ours)
    return {"images": len(labels), "scheme": chosen.scheme, "rows": rows, "gains": gains}


def show(result: dict) -> None:
    """Print the table."""
    scheme = result["scheme"]
    print(f"{'':<30}{'latency':>8}{'asked':>7}{'float32':>9}{'parts':>7}{'top-1 ' + scheme:>13}{'float32':>9}", end="")
    print(f"{'agreement':>11}{'steps':>7}{'short':>7}")
    for name, row in result["rows"].items():
        asked = "" if row["method"] == PARENT else f"{row['target']:.2f}"
        print(
            f"{name:<30}{row['latency']['median']:>8.3f}{asked:>7}{row['float32_latency']['median']:>9.3f}"
            f"{row['parts']:>7}{row['top1'][scheme]:>13.1%}{row['top1']['float32']:>9.1%}{row['agreement']:>11.1%}"
            f"{row['steps']:>7}{row.get('short_steps', ''):>7}"
        )
    for name, each in result["gains"].items():
        target, of_scheme = name.split()
        for key, what in (("over_uniform", "the width multiplier"), ("over_parent", "the parent")):
            if key not in each:
                continue
            mean, low, high = (100 * value for value in each[key])
            print(
                f"At {target} of the latency, {of_scheme}, NetAdapt is {mean:+.2f} points from {what} "
                f"({low:+.2f} to {high:+.2f}; {each['seeds']} seeds, {result['images']} images)"
            )


def broken_promises(result: dict) -> Iterator[str]:
    """What NetAdapt should do and does not."""
    scheme = result["scheme"]
    for name, row in result["rows"].items():
        if row["method"] != NETADAPT:
            continue
        if abs(row["latency"]["median"] / row["target"] - 1) > MOST_OFF:
            yield f"{name}: {row['latency']['median']:.3f} of the parent's latency, more than 5 % off"
        if (row["parts"], row["outside"]) != (1, result["rows"][PARENT]["outside"]):  # an int8 softmax always is
            yield f"{name}: XNNPACK runs {row['parts']} parts, and {row['outside'] or 'nothing'} is outside"
        if row["agreement"] < LEAST_AGREEMENT:
            yield f"{name}: {scheme} and float32 agree on {row['agreement']:.1%}, fewer than 90 %"
    for name, each in result["gains"].items():
        target, of_scheme = name.split()
        mean, low, _ = each.get("over_uniform", (0, 0, 0))
        if of_scheme == scheme and target == "0.5" and (mean < LEAST_GAIN or low <= 0):
            yield f"at half of the latency NetAdapt gains {100 * mean:.2f} points, from {100 * low:.2f}; 2 are wanted"
        lost = -each["over_parent"][0]
        if of_scheme == scheme and target == "0.7" and lost > MOST_LOST:
            yield f"at 0.7 of the latency NetAdapt loses {100 * lost:.2f} points of the parent, more than 1.5"


def drawn(result: dict) -> str:
    """Draw top-1 against the measured latency."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    scheme, rows = result["scheme"], result["rows"]
    with drawing():
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        top = rows[PARENT]["top1"][scheme]
        axes.axhline(top, color=FAINT, linewidth=0.8, linestyle="--")
        axes.plot([1], [top], "s", color=INK, label="parent")
        for method, colour, marker in ((NETADAPT, ACCENT, "o"), (UNIFORM, SECOND, "D")):
            own = [row for row in rows.values() if row["method"] == method]
            if not own:
                continue
            places = [(row["latency"]["median"], row["top1"][scheme]) for row in own]
            axes.plot(*zip(*places, strict=True), marker, color=colour, markersize=5, label=method)
            means = [
                np.mean([place for place, row in zip(places, own, strict=True) if row["target"] == target], axis=0)
                for target in sorted({row["target"] for row in own})
            ]
            axes.plot(*np.transpose([*means, (1, top)]), "-", color=colour, linewidth=1)
        finish(axes, "measured latency, as a share of the parent's", f"top-1 of the {scheme} file")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.legend(loc="lower right")
        return to_svg(figure)


def compare(keep: Path, chosen: argparse.Namespace, progress: Progress) -> dict:
    """Do all the work that is not there, and give the figures."""
    data = Path(chosen.data) if chosen.data else keep / "surfaces"
    if not chosen.data:
        counts = {"train": chosen.images, "test": chosen.test_images, "validation": 200}
        for done in draw(data, counts):
            progress("drawing images", done, sum(counts.values()))
    parent = trained_parent(keep, data, chosen, progress)
    if not parent.file(chosen.scheme).exists():
        deploy(
            DeployRequest(
                str(parent.keras), str(parent.folder), chosen.scheme, calibration=str(data / "train"),
                calibration_count=128, evaluate=str(data / "test"),
            ), progress,
        )  # fmt: skip
    table = table_of(parent, keep, chosen, progress)
    contenders = [parent]
    for seed in chosen.seeds:
        for target in dict.fromkeys([*chosen.targets, *chosen.alone]):
            ours, theirs = (
                Contender(method, target, seed, keep / f"{folder}_{chosen.scheme}_{target:g}_{seed}")
                for method, folder in ((NETADAPT, "netadapt"), (UNIFORM, "uniform"))
            )
            request = searching(ours, parent, data, table, chosen)
            if not (ours.folder / "parent.search.json").exists():
                reach_latency(request, progress)
            contenders.append(ours)
            if target in chosen.targets:
                train_uniform(theirs, ours, parent, request, chosen, progress)
                contenders.append(theirs)
    for each in contenders:
        if not each.file("float32").exists():
            image = ImageInput(Preprocessing.of(manifest_of(each.keras), str(each.keras)))
            to_tflite(str(each.keras), "float32", path=each.file("float32"), image=image, progress=progress)
    return judged(contenders, data, chosen, progress)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", metavar="FOLDER", help="keep all results there, and take those that are there")
    parser.add_argument("--data", metavar="FOLDER", help="with train/<class>/ and test/<class>/; else drawn images")
    parser.add_argument("--images", type=int, default=6000, help="drawn images to train with")
    parser.add_argument("--test-images", type=int, default=2000, help="drawn images to test with")
    parser.add_argument("--plan", metavar="FILE", help="JSON of the parent; else half of MobileNetV1, at 64 pixels")
    parser.add_argument("--parent-epochs", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=8, help="of the last training")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, help="the highest of the last training")
    parser.add_argument("--step", type=float, default=SearchRequest.step, help="the first round's share of the latency")
    parser.add_argument("--steps", type=int, default=SearchRequest.steps, help="of a candidate's training")
    parser.add_argument("--tried", type=int, default=SearchRequest.tried, help="candidates trained in a round")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--targets", type=float, nargs="*", default=[0.5], help="to compare the two methods at")
    parser.add_argument("--alone", type=float, nargs="*", default=[0.7], help="to compare NetAdapt with the parent at")
    parser.add_argument("--scheme", choices=("int8", "float32"), default="int8", help="of the latency to reach")
    parser.add_argument("--table-networks", type=int, default=96)
    parser.add_argument("--threads", type=int, help="of TensorFlow")
    parser.add_argument("--calls", type=int, default=2000, help="inferences of each file that are timed")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    parser.add_argument("--svg", metavar="FILE", help="write the chart there")
    parser.add_argument("--check", action="store_true", help="exit 1 unless the promises are kept")
    parser.add_argument("--quick", action="store_true", help="as little work as possible")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.images, chosen.test_images, chosen.parent_epochs, chosen.epochs, chosen.steps = 400, 40, 1, 1, 1
        chosen.seeds, chosen.targets, chosen.alone, chosen.table_networks, chosen.calls = [0], [0.5], [], 8, 20
    with tempfile.TemporaryDirectory() as temporary, Display() as progress:
        keep = Path(chosen.keep or temporary)
        keep.mkdir(parents=True, exist_ok=True)
        result = compare(keep, chosen, progress)
    show(result)
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(result, indent=1) + "\n")
    if chosen.svg:
        Path(chosen.svg).write_text(drawn(result))
    problems = list(broken_promises(result))
    if chosen.check and problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
