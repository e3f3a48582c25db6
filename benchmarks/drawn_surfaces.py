"""Draw labelled images of known difficulty: as many as a comparison of networks needs.

    python benchmarks/drawn_surfaces.py surfaces/ --training 8000 --test 2000 --validation 400

writes ``surfaces/train/<class>/<number>.png``, and the same in ``surfaces/test/`` and ``surfaces/validation/``, which
every verb takes as annotated images. The class is the surface of the largest object of a scene, one of 20 patterns such
as ``bricks``, ``waves`` or ``zigzag``. Shape, place, size, colours, the pattern's period, direction and phase, and the
background are drawn at random; so are up to three smaller objects with patterns of other classes, some of them in front
of the largest one. Blur and noise are added: ``--noise`` makes the task harder.

An image depends on the seed, the noise, its split and its number alone: a larger set begins with the images of a
smaller one. The same arguments give the same pixels, and with one version of Pillow the same bytes.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SPLITS = ("train", "test", "validation")
SIDE = 64  # pixels
LARGEST, SMALLER = (17.0, 26.0), (3.0, 7.0)  # half of an object's size, in pixels
CENTRES = (0.36, 0.64)  # of the largest object, as shares of the side
PERIODS = (6.5, 12.0)  # of a pattern, in pixels
DARK, BRIGHT = (0.05, 0.5), (0.45, 0.95)  # red, green and blue of backgrounds and marks, and of objects
NOISE = 0.08  # the largest standard deviation


def _tooth(x: np.ndarray) -> np.ndarray:
    """A triangular wave of period 1: 0 at whole numbers, 0.5 in the middle."""
    return abs(x - np.rint(x))


def _cos(x: np.ndarray) -> np.ndarray:
    return np.cos(2 * np.pi * x)


def _bricks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    row = np.floor(v)
    return np.maximum(0.12 - _tooth(v), 0.12 - 1.6 * _tooth(u / 1.6 + row / 2))


def _weave(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    turned = (np.floor(u) + np.floor(v)) % 2 == 0
    return 0.25 - _tooth(2 * np.where(turned, u, v))


def _crosses(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    across, down = _tooth(u), _tooth(v)
    return np.minimum(0.38 - np.maximum(across, down), 0.12 - np.minimum(across, down))


# A pattern: how far a place is inside of a mark, above 0 inside; places are in periods.
PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "plain": lambda u, v: np.full_like(u, -1.0),
    "stripes": lambda u, v: 0.25 - _tooth(u),
    "lines": lambda u, v: 0.12 - _tooth(u),
    "double_lines": lambda u, v: np.minimum(0.28 - _tooth(u), _tooth(u) - 0.1),
    "dashes": lambda u, v: np.minimum(0.2 - _tooth(u), 2 * (0.3 - _tooth(v / 2 + np.rint(u) / 2))),
    "checks": lambda u, v: 0.3 * np.sin(2 * np.pi * u) * np.sin(2 * np.pi * v),
    "diamonds": lambda u, v: 0.3 - _tooth(u) - _tooth(v),
    "tiles": lambda u, v: 0.3 - np.maximum(_tooth(u), _tooth(v)),
    "frames": lambda u, v: 0.1 - abs(np.maximum(_tooth(u), _tooth(v)) - 0.28),
    "grid": lambda u, v: 0.12 - np.minimum(_tooth(u), _tooth(v)),
    "bricks": _bricks,
    "weave": _weave,
    "dots": lambda u, v: 0.3 - np.hypot(_tooth(u), _tooth(v)),
    "circles": lambda u, v: 0.09 - abs(np.hypot(_tooth(u), _tooth(v)) - 0.3),
    "honeycomb": lambda u, v: -0.12 * (_cos(u) + _cos(u / 2 + v * 0.866) + _cos(u / 2 - v * 0.866) + 0.6),
    "crosses": _crosses,
    "waves": lambda u, v: 0.25 - _tooth(u + 0.3 * np.sin(np.pi * v)),
    "zigzag": lambda u, v: 0.25 - _tooth(u + 1.2 * _tooth(v / 2)),
    "rings": lambda u, v: 0.25 - _tooth(np.hypot(u, v)),
    "rays": lambda u, v: 0.4 * (0.25 - _tooth(np.arctan2(v, u) * 5 / np.pi)),
}  # fmt: skip
CLASSES = tuple(PATTERNS)
SHAPES: tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], ...] = (
    np.hypot,
    lambda x, y: np.maximum(abs(x), abs(y)) / 0.9,
    lambda x, y: np.maximum(abs(x) * 0.866 + y / 2, -y) / 0.75,
    lambda x, y: np.hypot(x / 1.2, y / 0.8),
)


def scene(seed: int, split: str, number: int, noise: float = NOISE) -> tuple[np.ndarray, int]:
    """Draw an image, uint8 (64, 64, 3), and give the number of its class. Classes take turns."""
    random = np.random.default_rng([seed, SPLITS.index(split), number])
    label = number % len(CLASSES)
    objects = [(int(random.integers(len(CLASSES))), SMALLER, (0.0, 1.0)) for _ in range(random.integers(4))]
    objects.insert(random.integers(len(objects) + 1), (label, LARGEST, CENTRES))
    canvas = _background(random)
    for each in objects:
        canvas = _with_object(canvas, random, *each)
    canvas = _blurred(canvas, random.uniform(0.0, 0.5))
    canvas = canvas + random.normal(0, random.uniform(0.01, noise), canvas.shape)
    return np.clip(np.rint(255 * canvas), 0, 255).astype(np.uint8), label


def _grid() -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    return columns, rows


def _background(random: np.random.Generator) -> np.ndarray:
    """A slope from one dark colour to another."""
    x, y = _grid()
    first, second = random.uniform(*DARK, (2, 3))
    angle = random.uniform(0, 2 * np.pi)
    along = 0.5 + ((x - SIDE / 2) * np.cos(angle) + (y - SIDE / 2) * np.sin(angle)) / (1.5 * SIDE)
    return first + (second - first) * along[..., None]


def _with_object(
    canvas: np.ndarray,
    random: np.random.Generator,
    label: int,
    sizes: tuple[float, float],
    centres: tuple[float, float],
) -> np.ndarray:
    """Draw an object with the pattern of a class over a canvas."""
    x, y = _grid()
    left, top = SIDE * random.uniform(*centres, 2)
    size, period = random.uniform(*sizes), random.uniform(*PERIODS)
    shape = SHAPES[random.integers(len(SHAPES))]
    x, y = _turned(x - left, y - top, random.uniform(0, 2 * np.pi))
    inside = _sharp(size - size * shape(x / size, y / size))
    u, v = _turned(x / period, y / period, random.uniform(0, 2 * np.pi))
    if CLASSES[label] not in ("rings", "rays"):  # whose centre shows
        shift = random.uniform(0, 1, 2)
        u, v = u + shift[0], v + shift[1]
    marked = _sharp(period * PATTERNS[CLASSES[label]](u, v))
    colour, mark = random.uniform(*BRIGHT, 3), random.uniform(*DARK, 3)
    return canvas * (1 - inside) + (colour * (1 - marked) + mark * marked) * inside


def _turned(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _sharp(distance: np.ndarray) -> np.ndarray:
    """How much of each pixel lies inside an edge, from its distance to the edge in pixels."""
    return np.clip(0.5 + distance, 0, 1)[..., None]


def _blurred(canvas: np.ndarray, share: float) -> np.ndarray:
    """Mix each pixel with its four neighbours. share: of the neighbours."""
    padded = np.pad(canvas, ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return (1 - share) * canvas + share * around / 4


def draw(folder: Path, counts: dict[str, int], seed: int = 0, noise: float = NOISE) -> Iterator[int]:
    """Write the images that are not there. counts: of each split. Yields how many there are, after each."""
    done = 0
    for split, count in counts.items():
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            path = folder / split / CLASSES[number % len(CLASSES)] / f"{number:06}.png"
            if not path.exists():
                unfinished = path.with_suffix(".part")
                Image.fromarray(scene(seed, split, number, noise)[0]).save(unfinished, "PNG")
                unfinished.replace(path)
            done += 1
            yield done


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--training", type=int, default=8000, help="images to train with")
    parser.add_argument("--test", type=int, default=2000, help="images to test with")
    parser.add_argument("--validation", type=int, default=400, help="images to watch a training with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", type=float, default=NOISE, help="the largest standard deviation")
    chosen = parser.parse_args()
    counts = {"train": chosen.training, "test": chosen.test, "validation": chosen.validation}
    for done in draw(chosen.folder, counts, chosen.seed, chosen.noise):
        print(f"\r{done} of {sum(counts.values())} images", end="", file=sys.stderr)
    print(file=sys.stderr)


if __name__ == "__main__":
    main()
