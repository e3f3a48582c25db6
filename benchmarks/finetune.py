"""What fine-tuning owes to each choice of its recipe: EfficientNet-Lite0 on CIFAR-10 samples, one changed at a time.

    python benchmarks/finetune.py --data ../shared/cifar10-samples                  three epochs at 96 pixels, minutes
    python benchmarks/finetune.py --data ... --resolution 128 --epochs 8

Top-1 on the test pictures, which have no part in training. One seed, and one picture of 1000 is 0.1 points: differences
below two points mean nothing.
"""

import argparse
import sys
import tempfile
from dataclasses import replace

from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.training import TrainRequest, job, recipes
from mobilenets_tf.worker import Worker

AS_IT_IS = recipes.FINETUNE
CHANGES = {
    "the recipe": {},
    "BatchNorm follows the batches": {"frozen_batchnorm": False},
    "  and quickly (momentum 0.9)": {"frozen_batchnorm": False, "batchnorm_momentum": 0.9},
    "the classifier at everyone's rate": {"head_rate": 1.0},
    "three times the learning rate": {"rate": replace(AS_IT_IS.rate, peak=3 * AS_IT_IS.rate.peak)},
    "a third of the learning rate": {"rate": replace(AS_IT_IS.rate, peak=AS_IT_IS.rate.peak / 3)},
    "bilinear crops, bicubic when judged": {"augment": replace(AS_IT_IS.augment, interpolation="bilinear")},
}


def top1(changes: dict, data: str, resolution: int, epochs: int) -> tuple[float, float]:
    """Of training (as augmented) and of the test pictures, after the last epoch."""
    with tempfile.TemporaryDirectory() as folder, Worker() as worker:
        source = ModelSource("efficientnet_lite0", resolution=resolution)
        request = TrainRequest(source, f"{data}/train", folder, evaluate=f"{data}/test", epochs=epochs)
        checked = job.check(request)
        changed = replace(AS_IT_IS, **changes).changed(epochs=epochs)
        _, manifest, _ = worker.call(job._train, replace(checked, recipe=changed))
    last = manifest["epochs"][-1]
    return last["top1"], last["val_top1"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder with train/<class>/ and test/<class>/")
    parser.add_argument("--resolution", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=3)
    chosen = parser.parse_args()
    print(f"{'':<38} training   test", flush=True)
    for name, changes in CHANGES.items():
        training, test = top1(changes, chosen.data, chosen.resolution, chosen.epochs)
        print(f"{name:<38} {training:8.1%} {test:6.1%}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
