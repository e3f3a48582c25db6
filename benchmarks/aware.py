"""Does the quantisation-aware model in Keras answer as its int8 file does? On real images, one network after the other.

    python benchmarks/cifar10.py --data ../shared/cifar10-samples --keep NETWORKS
    python benchmarks/aware.py --data ../shared/cifar10-samples --networks NETWORKS [--per-tensor] [--check]

Prints for each network top-1 in float, of the aware model and of its file (before any training), and the share of the
1000 test images on which the last two agree. ``--check`` fails if it is under 99 %.
"""

import argparse
import sys
from pathlib import Path

import keras
import numpy as np
from cifar10 import load

from mobilenets_tf.quantize import quantize_aware
from mobilenets_tf.runtime import Runner

LEAST = 0.99


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--networks", required=True, help="a folder of .keras files, as cifar10.py --keep leaves it")
    parser.add_argument("--per-tensor", action="store_true")
    parser.add_argument("--check", action="store_true", help="exit 1 if a network agrees on fewer than 99 %%")
    chosen = parser.parse_args()
    training, _ = load(chosen.data, "train")
    pictures, labels = load(chosen.data, "test")
    calibration = training[np.random.default_rng(0).permutation(len(training))[:128]]
    missed = False
    for path in sorted(Path(chosen.networks).glob("*.keras")):
        model = keras.models.load_model(path, compile=False)
        aware = quantize_aware(model, calibration, per_tensor=chosen.per_tensor)
        runner = Runner(aware.to_tflite())
        answers = [
            model.predict(pictures, verbose=0).argmax(-1),
            aware.model.predict(pictures, verbose=0).argmax(-1),
            np.array([runner(picture)[0][0].argmax() for picture in pictures]),
        ]
        top1 = [f"{(answer == labels).mean():6.1%}" for answer in answers]
        agreement = (answers[1] == answers[2]).mean()
        missed |= agreement < LEAST
        print(
            f"{path.stem:<20} float {top1[0]}  aware {top1[1]}  file {top1[2]}  aware = file {agreement:6.1%}",
            flush=True,
        )
    return 1 if missed and chosen.check else 0


if __name__ == "__main__":
    sys.exit(main())
