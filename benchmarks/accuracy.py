"""Accuracy of the networks with real weights, in float and after deploy to int8, on labelled images.

    python benchmarks/accuracy.py --images ../shared/imagenet-samples/labels.csv [--check] [--seeds 0 1 2]

Float top-1 is of all images; for int8, 128 of them (chosen with each seed) calibrate and the rest judge. ``--check``
fails if a figure is under its gate: what a straightforward port of the weights reaches, less half a point, for float;
for int8 the agreement with float, the points of top-1 lost and the ties, each a mean over the seeds: with one seed a
single image is 0.27 points. Points lost are printed with the standard error that so many changed answers would have if
each were as likely to be a gain, and miss the gate if they are beyond it by more than that: float sums differ between
processors, nearly equal ranges win or lose by it, and the same commit lost 0.36 points on one and 0.81 on another.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile

from mobilenets_tf.export import DeployRequest, deploy
from mobilenets_tf.modelsource import ModelSource

# network: (least float top-1 on the 500 images, least int8 agreement, most points of top-1 lost)
GATES = {
    "efficientnet_lite0": (0.885, 0.985, 0.5),
    "efficientnet_lite1": (0.870, 0.985, 0.5),
    "efficientnet_lite2": (0.897, 0.985, 0.8),
    "mobilenet_v2": (0.825, 0.965, 0.8),
}
# The mean of four seeds is 2.0 % for MobileNetV2 on an Intel processor with AVX-512: an image is 0.27 % of one seed.
MOST_TIES = 0.025
CALIBRATION = 128


def float_top1(name: str, images: str) -> float:
    """Through the command line, as a user would."""
    command = [sys.executable, "-c", "import sys; from mobilenets_tf.cli import main; sys.exit(main())"]
    command += ["evaluate", name, "--weights", "imagenet", "--data", images, "--json", "--quiet"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["top1"]


def int8(name: str, images: str, seed: int):
    """The comparison that deploy reports."""
    source = ModelSource(name, weights="imagenet")
    with tempfile.TemporaryDirectory() as folder:
        request = DeployRequest(
            source, folder, calibration=images, calibration_count=CALIBRATION, evaluate=images, seed=seed
        )
        return deploy(request).comparison


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="a labelled folder or CSV")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", default=list(GATES), choices=list(GATES))
    parser.add_argument("--check", action="store_true", help="exit 1 if a gate is missed")
    chosen = parser.parse_args()
    missed = []
    for name in chosen.models:
        least, agreement, most_lost = GATES[name]
        top1 = float_top1(name, chosen.images)
        print(f"{name:<19} float32 top-1 {top1:.1%}", flush=True)
        if top1 < least:
            missed.append(f"{name}: float top-1 {top1:.1%}, the gate is {least:.1%}")
        lost, agreed, tied, changed, judged = [], [], [], 0, 0
        for seed in chosen.seeds:
            found = int8(name, chosen.images, seed)
            lost.append(100 * (found.reference_top1 - found.top1))
            agreed.append(found.top1_agreement)
            tied.append(found.ties)
            changed += round((1 - found.top1_agreement) * found.images)
            judged += found.images
            print(
                f"{'':<19} int8, seed {seed}: same answer {found.top1_agreement:.1%} of {found.images}, top-1 "
                f"{found.reference_top1:.1%} -> {found.top1:.1%}, ties {found.ties:.1%}, {found.snr_db:.1f} dB",
                flush=True,
            )
        agreed, lost, tied = map(statistics.mean, (agreed, lost, tied))
        error = 100 * math.sqrt(changed) / judged
        print(
            f"{'':<19} int8, mean: same answer {agreed:.1%}, lost {lost:.2f} +- {error:.2f} points, ties {tied:.2%}",
            flush=True,
        )
        if agreed < agreement:
            missed.append(f"{name}: int8 agreement {agreed:.1%}, the gate is {agreement:.1%}")
        if lost - error > most_lost:
            missed.append(f"{name}: int8 loses {lost:.2f} +- {error:.2f} points of top-1, the gate is {most_lost}")
        if tied > MOST_TIES:
            missed.append(f"{name}: int8 ties {tied:.2%}, the gate is {MOST_TIES:.1%}")
    for line in missed:
        print(f"MISSED {line}")
    return 1 if missed and chosen.check else 0


if __name__ == "__main__":
    sys.exit(main())
