"""DeepLabv3 on MobileNetV2, judged on real streets: MobileNetV2's table 7, on CamVid instead of VOC.

    python benchmarks/experiments/streets.py --data ../shared/camvid-samples --keep DIR
    python benchmarks/experiments/streets.py --data ../shared/camvid-samples --keep DIR --seeds 0 --epochs 1

Two networks are trained at output stride 16, one with ASPP and one without, from ImageNet's weights of the backbone
(docs/weights.md) and with the package's recipe; photographs are squeezed into a square. Each is judged as the paper
does: at stride 16, and with the same weights at stride 8 on six sizes, each photograph and its mirror image, whose
softmax outputs are averaged. ``--data`` has ``train`` and ``val``, each with ``images`` and ``masks``. ``--keep`` has
the networks and a JSON for each training: the command goes on where it was. mIoU has its 95 % interval over photographs
and seeds; a difference is taken photograph by photograph and seed by seed.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks/: this folder is a package there

import numpy as np
from bootstrap import RESAMPLES

from experiments import results
from experiments.networks.sizes import SCALES
from mobilenets_tf.progress import Display, Progress

if TYPE_CHECKING:
    import keras

TITLE = "DeepLabv3 on MobileNetV2: real streets"
NAME, NETWORK = "streets", "deeplabv3_mobilenet_v2"
CLASSES, VOID = 11, 11  # of CamVid: 11 classes, and 11 for pixels of none
ASPP = (6, 12, 18)


class Variant(NamedTuple):
    """A way to judge a network. published: the paper's mIoU on VOC. rates: of ASPP, () without. stride: output's."""

    label: str
    published: str
    rates: tuple[int, ...]
    stride: int
    scales: tuple[float, ...] = (1.0,)


VARIANTS = {
    "16": Variant("stride 16", "75.32", (), 16),
    "16_aspp": Variant("stride 16, ASPP", "75.70", ASPP, 16),
    "8": Variant("stride 8, multi-scale, mirrored", "77.33", (), 8, SCALES),
    "8_aspp": Variant("stride 8, ASPP, multi-scale, mirrored", "78.42", ASPP, 8, SCALES),
}


def network(side: int, rates: Sequence[int], stride: int, **options) -> "keras.Model":
    """Build the segmenter for a square of ``side`` pixels."""
    from mobilenets_tf import create_model

    shape = (side, side, 3)
    return create_model(
        NETWORK, input_shape=shape, classes=CLASSES, atrous_rates=rates, output_stride=stride, **options
    )


def trained(data: Path, folder: Path, rates: Sequence[int], chosen: argparse.Namespace, seed: int, progress: Progress):
    """Train a network unless the folder has it. Return its ``.keras`` file."""
    import keras

    from mobilenets_tf import ModelSource, TrainRequest, train

    out = folder / f"{'aspp' if rates else 'plain'}_{seed}"
    start, file = out / "start.keras", out / "trained" / "start.keras"
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        labels = out / "labels.txt"
        labels.write_text("\n".join(f"class {number}" for number in range(CLASSES)) + "\n")
        keras.utils.set_random_seed(seed)
        network(chosen.side, rates, 16, weights="imagenet").save(start)
        source = ModelSource(str(start), mean=127.5, std=127.5, labels=str(labels), crop="stretch")
        request = TrainRequest(
            source, str(data / "train"), str(file.parent), task="segment", evaluate=str(data / "val"), void=VOID,
            epochs=chosen.epochs, batch_size=8, seed=seed,
        )  # fmt: skip
        train(request, progress)
    return file


def judged(file: Path, data: Path, variant: Variant, side: int) -> list[list[list[int]]]:
    """Judge a trained network. Return for each photograph the pixels of each class: right, true, predicted."""
    from mobilenets_tf import ModelSource
    from mobilenets_tf.answers.predictor import Predictor, ScaledNetworks, scaled_side
    from mobilenets_tf.answers.reading import reading_of
    from mobilenets_tf.data import images
    from mobilenets_tf.tasks import task_of
    from mobilenets_tf.tasks.metrics import Confusion

    source = ModelSource(str(file))
    reading = replace(reading_of(source), preprocessing=source.preprocessing(source.open()))
    models = [
        network(scaled_side(side, scale), variant.rates, variant.stride, weights=str(file)) for scale in variant.scales
    ]
    predictor = Predictor(ScaledNetworks(models, len(variant.scales) > 1, str(file)), reading)
    annotated = task_of("segment").find(str(data / "val"), list(reading.labels), void=VOID)
    counts = []
    for index, answer in enumerate(predictor(images.decode(path) for path in annotated.paths)):
        confusion = Confusion(CLASSES, VOID)
        confusion.add(annotated.truth(index), answer)
        counts.append(confusion.counts.tolist())
    return counts


def records(data: Path, chosen: argparse.Namespace, progress: Progress) -> dict[str, list]:
    """Train and judge what the folder lacks. Return for each variant the counts, (seeds, photographs, 3, classes)."""
    found: dict[str, list] = {key: [] for key in VARIANTS}
    folder = chosen.keep / f"{chosen.side}_pixels_{chosen.epochs}_epochs"  # other settings are other trainings
    for seed in chosen.seeds:
        for key, variant in VARIANTS.items():
            path = folder / f"{key}_{seed}.json"
            if not path.exists():
                file = trained(data, folder, variant.rates, chosen, seed, progress)
                progress(f"judging {key}, seed {seed}", 0, 1)
                results.write(path, {"counts": judged(file, data, variant, chosen.side)})
            found[key].append(results.read(path)["counts"])
    return found


def mean_iou(counts: np.ndarray) -> np.ndarray:
    """Give the mean over the classes that there are. counts: (..., 3, classes)."""
    from mobilenets_tf.tasks.metrics import intersection_over_union

    return np.nanmean(intersection_over_union(counts), -1)


def intervals(found: dict[str, list]) -> dict[str, dict]:
    """Give each variant's mIoU and its difference from the first one, with 95 % intervals over photographs and seeds.

    Each resample draws the photographs, the same ones for all variants, and the seeds.
    """
    random = np.random.default_rng(0)
    arrays = {key: np.array(each, np.float64) for key, each in found.items()}
    seeds, photographs = next(iter(arrays.values())).shape[:2]
    weights = random.multinomial(photographs, np.full(photographs, 1 / photographs), RESAMPLES).astype(np.float64)
    of_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    drawn = {}
    for key, counts in arrays.items():
        resampled = np.stack([mean_iou(np.tensordot(weights, of_seed, 1)) for of_seed in counts], 1)
        drawn[key] = float(mean_iou(counts.sum(1)).mean()), (resampled * of_seeds).sum(1)
    first_mean, first = drawn[next(iter(drawn))]
    rows = {}
    for key, (mean, values) in drawn.items():
        rows[key] = {"miou": [mean, *np.percentile(values, (2.5, 97.5)).tolist()]}
        if values is not first:
            difference = np.percentile(values - first, (2.5, 97.5)).tolist()
            rows[key]["difference"] = [mean - first_mean, *difference]
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="FOLDER", type=Path, required=True, help="CamVid: train and val")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, required=True, help="of the trainings")
    parser.add_argument("--results", metavar="FOLDER", type=Path, default=results.COMMITTED, help="write them there")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--side", type=int, default=128, help="pixels of the input's sides, a multiple of 32")
    parser.add_argument("--epochs", type=int, default=12)
    chosen = parser.parse_args()
    with Display() as progress:
        rows = intervals(records(chosen.data, chosen, progress))
    print(f"{TITLE}: {chosen.side} pixels, {chosen.epochs} epochs, {len(chosen.seeds)} trainings of each network")
    for key, row in rows.items():
        mean, low, high = (100 * value for value in row["miou"])
        text = f"  {VARIANTS[key].label:<42} {mean:5.1f} % ({low:.1f} to {high:.1f})"
        if "difference" in row:
            mean, low, high = (100 * value for value in row["difference"])
            text += f"  {mean:+5.1f} ({low:+.1f} to {high:+.1f})"
        print(text)
    document = {"side": chosen.side, "epochs": chosen.epochs, "seeds": len(chosen.seeds), "rows": rows}
    results.write(chosen.results / f"{NAME}.json", document)


if __name__ == "__main__":
    main()
