"""Fine-tune a network on your own classes, from Python, and ship it: a folder of photographs -> an int8 file.

    python examples/train.py PHOTOS/

PHOTOS/ has one sub-folder a class. Without it, the classes are the photographs that scikit-image ships, and the images
are random crops of them. From the command line the same is ``mobilenets-tf train ... --deploy int8``.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from mobilenets_tf import DeployRequest, ModelSource, TrainRequest, deploy, train
from mobilenets_tf.data import decode, demo_photos


def crops_of_demo_photos(folder: Path, a_class: int = 24, size: int = 96) -> Path:
    from PIL import Image

    random = np.random.default_rng(0)
    for path in demo_photos().paths:
        photo = np.asarray(decode(path))
        (folder / path.stem).mkdir(parents=True)
        for number in range(a_class):
            top, left = (random.integers(side - 2 * size) for side in photo.shape[:2])
            crop = photo[top : top + 2 * size : 2, left : left + 2 * size : 2]
            Image.fromarray(crop).save(folder / path.stem / f"{number}.png")
    return folder


def main():
    with tempfile.TemporaryDirectory() as temporary:
        photos = sys.argv[1] if len(sys.argv) > 1 else str(crops_of_demo_photos(Path(temporary, "photos")))
        # Small images and two epochs, so that this takes less than a minute; left out, the recipe's and the network's.
        network = ModelSource("efficientnet_lite0", resolution=96)
        trained = train(TrainRequest(network, data=photos, out="trained", epochs=2, overwrite=True), print_epochs)
        print(f"{trained.path}, its curves in {trained.curves}")
        request = DeployRequest(ModelSource(str(trained.path)), out="trained", calibration=photos, overwrite=True)
        result = deploy(request)
        print(f"{result.path}: {result.manifest['bytes'] / 1e6:.2f} MB, the float model's answer on "
              f"{result.comparison.top1_agreement:.0%} of the images")  # fmt: skip


def print_epochs(label: str, done: int, total: int | None) -> None:
    """Progress comes as a label, how much is done and how much there is; an epoch's line comes when it is over."""
    if "loss" in label:
        print(label)


if __name__ == "__main__":
    main()
