"""Draw pictures for the tutorials, annotated for every task.

    python examples/draw_shapes.py shapes/

writes three kinds of annotated images, each with a part to train with and a part to judge with:

    shapes/classes/train/dots/000.png ...            checks, dots and stripes: a sub-folder for each class
    shapes/scenes/train/images/00.png                discs and squares,
    shapes/scenes/train/annotations/00.xml           their boxes (Pascal VOC),
    shapes/scenes/train/masks/00.png                 and their masks: 1 for a disc, 2 for a square
    shapes/scenes/classes.txt                        the names of the masks' classes

Without a folder, it draws into one that is deleted, and says what it has drawn. The same pictures each time.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

NAMES = ("disc", "square")  # in the masks 1 and 2, beside the background
SIDE = 96  # pixels of a scene
SMALL_SIDE = 64  # pixels of a picture of a class


# A class is a pattern: where it is above 0, the picture has the pattern's colour.
PATTERNS = {
    "checks": lambda x, y: np.sin(x) * np.sin(y),
    "dots": lambda x, y: np.cos(x) + np.cos(y) - 0.9,
    "stripes": lambda x, y: np.sin(x),
}


def scenes(folder: Path, count: int, seed: int) -> str:
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


def classes(folder: Path, per_class: int, seed: int) -> str:
    """Patterns in two colours, of any period and direction, with noise: a sub-folder for each class."""
    random = np.random.default_rng(seed)
    for name, pattern in PATTERNS.items():
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            turn, period = random.uniform(0, np.pi), random.uniform(9, 16)
            down, across = np.mgrid[:SMALL_SIDE, :SMALL_SIDE] * (2 * np.pi / period)
            x, y = across * np.cos(turn) + down * np.sin(turn), down * np.cos(turn) - across * np.sin(turn)
            dark, bright = random.uniform(0, 110, 3), random.uniform(145, 255, 3)
            pixels = np.where(pattern(x, y)[..., None] > 0, bright, dark) + random.normal(0, 15, (*x.shape, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number:03}.png")
    return str(folder)


def draw(folder: Path) -> None:
    """Everything that the tutorials need."""
    classes(folder / "classes" / "train", 100, seed=0)
    classes(folder / "classes" / "test", 60, seed=1)
    scenes(folder / "scenes" / "train", 48, seed=0)
    scenes(folder / "scenes" / "test", 12, seed=1)
    (folder / "scenes" / "classes.txt").write_text("\n".join(("background", *NAMES)))
    for path in sorted(folder.glob("*/*/")):
        print(f"{path}: {sum(1 for _ in path.rglob('*.png'))} pictures")


def main():
    if len(sys.argv) > 1:
        draw(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder))


if __name__ == "__main__":
    main()
