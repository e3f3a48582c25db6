"""Accuracy of every family after deploy, on small networks trained here: CIFAR-10 samples, where chance is 10 %.

    python benchmarks/cifar10.py --data ../shared/cifar10-samples --keep /tmp/cifar           trains what is not there
    python benchmarks/cifar10.py --data ... --models mobilenet_v3_small --epochs 2            a quick look
    python benchmarks/cifar10.py --data ... --keep /tmp/cifar --check                         judges only

There are no trained weights here of most families, and the activations of untrained networks prove nothing. So one
network of each is trained for a few minutes on the 2500 pictures of ``train``, enlarged to 64 pixels: from random
weights, but MobileNetV2 and EfficientNet-Lite0 from ImageNet's. MobileOne trains in its training form, with one branch,
and is judged folded. ``--keep`` saves them there as ``<network>.keras`` and takes what is there as it is.

Printed for each network: top-1 of the float32 file on the 1000 pictures of ``test``; then for int8, int8 with one scale
per tensor, and int16x8, calibrated with 128 training pictures: change of top-1 in points, share of pictures with the
float file's first answer, signal to noise. ``--check`` fails if a float or int8 figure misses its gate.

For other benchmarks: ``load`` reads the pictures, ``train`` trains a model on them.
"""

import argparse
import os
import random
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from mobilenets_tf import create_model, load_model
from mobilenets_tf.data import images
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.export.proof.comparison import Comparison, compare
from mobilenets_tf.export.tflite import convert_model
from mobilenets_tf.quantize import schemes
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.quantize.post_training import Recipe, prepare
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.worker import Worker

RESOLUTION = 64  # the networks shrink their input 32 times: of 32 pixels one would be left
BATCH = 50
CALIBRATION = 128
# (least float top-1, least int8 agreement, most points of top-1 that int8 loses)
GATES = (0.40, 0.90, 2.0)


@dataclass(frozen=True)
class Plan:
    """How a network is built and trained: what came out best for a few minutes of two cores."""

    epochs: int
    rate: float = 2e-3
    options: dict = field(default_factory=dict)


PLANS = {
    "mobilenet_v3_small": Plan(45),
    "mobilenet_v3_large": Plan(30),
    "mobileone_s0": Plan(18, options={"branches": 1}),
    "mobilevit_v3_xxs": Plan(15),
    "mobilenet_v2": Plan(6, 1e-3, {"weights": "imagenet"}),
    "mobilenet_v1": Plan(40, options={"alpha": 0.5}),
    "efficientnet_lite0": Plan(6, 1e-3, {"weights": "imagenet"}),
}
# label: scheme and recipe
FILES = {
    "int8": ("int8", Recipe()),
    "int8 per tensor": ("int8", Recipe(per_tensor=True)),
    "int16x8": ("int16x8", Recipe()),
}


def load(data, split: str, resolution: int = RESOLUTION) -> tuple[np.ndarray, np.ndarray]:
    """The pictures of ``split`` ("train" or "test"), float32 in [-1, 1], which is what these networks take; and their
    labels."""
    found = images.find_images(Path(data) / split)
    preprocessing = Preprocessing(size=resolution, resize=resolution)
    return np.stack([preprocessing(images.decode(path)) for path in found.paths]), np.array(found.labels)


class Augmented(keras.utils.PyDataset):
    """Shuffled batches of random crops of half to all of a picture, half of them mirrored."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, seed: int = 0):
        super().__init__()
        self.pixels, self.labels, self.random = pixels, labels, np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self):
        return len(self.labels) // BATCH

    def on_epoch_end(self):
        self.order = self.random.permutation(len(self.labels))

    def __getitem__(self, index):
        import tensorflow as tf

        chosen = self.order[index * BATCH : (index + 1) * BATCH]
        area, aspect = self.random.uniform(0.5, 1, BATCH), np.exp(self.random.uniform(-0.2, 0.2, BATCH))
        height, width = (np.minimum(np.sqrt(area * ratio), 1) for ratio in (aspect, 1 / aspect))
        top, left = (self.random.uniform(0, 1, BATCH) * (1 - side) for side in (height, width))
        mirrored = self.random.random(BATCH) < 0.5
        first, last = np.where(mirrored, (left + width, left), (left, left + width))
        boxes = np.stack([top, first, top + height, last], -1)  # a box from right to left is a mirror
        crops = tf.image.crop_and_resize(self.pixels[chosen], boxes, np.arange(BATCH), self.pixels.shape[1:3])
        return crops, keras.utils.to_categorical(self.labels[chosen], self.labels.max() + 1)


def train(model, pixels: np.ndarray, labels: np.ndarray, epochs: int, rate: float = 2e-3, seed: int = 0) -> None:
    """Train in place: AdamW at ``rate`` after a warm-up, then down a cosine to zero; label smoothing."""
    batches = Augmented(pixels, labels, seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9  # an epoch has 50 steps; at 0.99 the statistics would lag two epochs behind
    steps, warm = epochs * len(batches), min(2, epochs // 2) * len(batches)
    schedule = keras.optimizers.schedules.CosineDecay(rate / 100, steps - warm, warmup_target=rate, warmup_steps=warm)
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.02),
        keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
    )
    model.fit(batches, epochs=epochs, verbose=0)


def _start_near_identity(model) -> None:
    """Turn down MobileOne's branches beside an identity: 43 convolutions deep, it hardly learns in so short a time."""
    layers = {layer.name: layer for layer in model.layers}
    for name in layers:
        if name.endswith("_skip_bn"):
            for branch in ("branch1", "scale"):
                if layer := layers.get(name.replace("_skip_bn", f"_{branch}_bn")):
                    layer.gamma.assign(0.3 * layer.gamma)


def trained(name: str, data, folder: Path):
    """The network of ``folder``, trained first if it is not there."""
    path = folder / f"{name}.keras"
    if not path.exists():
        plan = PLANS[name]
        keras.utils.set_random_seed(0)
        model = create_model(name, resolution=RESOLUTION, classes=10, **plan.options)
        _start_near_identity(model)
        started = time.monotonic()
        train(model, *load(data, "train"), plan.epochs, plan.rate)
        model.save(path)
        print(f"{name}: {plan.epochs} epochs in {time.monotonic() - started:.0f} s", flush=True)
    return load_model(path)


def judge(model, data, worker: Worker) -> dict[str, Comparison]:
    """Each quantised file beside the float32 file, on the test pictures."""
    pixels, labels = load(data, "test")
    samples, _ = load(data, "train")
    samples = samples[sorted(random.Random(0).sample(range(len(samples)), CALIBRATION))]
    content = convert_model(model, schemes.get("float32"), None, worker).content
    reference = np.array(list(Runner(content).first_outputs(pixels)))
    found = {}
    for label, (scheme, recipe) in FILES.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a picture or two of one colour
            quantised = prepare(content, scheme, Calibration(samples, (-1, 1)), recipe).write()
        found[label] = compare(reference, np.array(list(Runner(quantised).first_outputs(pixels))), labels)
    return found


def missed(name: str, found: Comparison):
    top1, agreement, most_lost = GATES
    if found.reference_top1 < top1:
        yield f"{name}: float top-1 {found.reference_top1:.1%}, the gate is {top1:.0%}"
    if found.top1_agreement < agreement:
        yield f"{name}: int8 agreement {found.top1_agreement:.1%}, the gate is {agreement:.0%}"
    if (lost := 100 * (found.reference_top1 - found.top1)) > most_lost:
        yield f"{name}: int8 loses {lost:.1f} points of top-1, the gate is {most_lost}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder with train/<class>/ and test/<class>/")
    parser.add_argument("--models", nargs="+", default=list(PLANS), choices=list(PLANS))
    parser.add_argument("--keep", metavar="FOLDER", help="where trained networks are, and are saved")
    parser.add_argument("--epochs", type=int, help="of every network, in place of its own number")
    parser.add_argument("--check", action="store_true", help="exit 1 if a gate is missed")
    chosen = parser.parse_args()
    problems = []
    with tempfile.TemporaryDirectory() as temporary, Worker() as worker:
        folder = Path(chosen.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{'':<26}" + "".join(f"   {label:<22}" for label in FILES))
        print(f"{'':<19} {'float':>6}" + f"   {'top-1   same    noise':<22}" * len(FILES), flush=True)
        for name in chosen.models:
            found = judge(trained(name, chosen.data, folder, chosen.epochs), chosen.data, worker)
            cells = [
                f"{100 * (c.top1 - c.reference_top1):+5.1f} {c.top1_agreement:6.1%} {c.snr_db:5.1f} dB"
                for c in found.values()
            ]
            line = f"{name:<19} {found['int8'].reference_top1:6.1%}" + "".join(f"   {cell:<22}" for cell in cells)
            print(line, flush=True)
            problems += missed(name, found["int8"])
    for line in problems:
        print(f"MISSED {line}")
    return 1 if problems and chosen.check else 0


if __name__ == "__main__":
    sys.exit(main())
