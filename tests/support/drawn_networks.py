"""A small detector, a small segmenter, and pictures of what they are to find: a rectangle in one of two colours."""

import keras
import numpy as np
from keras import layers
from PIL import Image

from tests.conftest import photographs

SIZE = 64
NAMES = ("red", "blue")
_COLOURS = np.array([(230, 40, 40), (40, 40, 230)])


def detector():
    """An SSD with two maps, as ``networks.heads.ssd`` names and orders its parts."""
    maps = _body()
    maps.append(_conv(maps[-1], 24))
    boxes, logits = [], []
    for level, (anchors, x) in enumerate(zip((3, 6), maps[-2:], strict=True), 1):
        for part, depth, found in (("boxes", 4, boxes), ("classifier", len(NAMES) + 1, logits)):
            y = layers.Conv2D(anchors * depth, 1, name=f"ssd_level{level}_{part}")(x)
            found.append(layers.Reshape((-1, depth))(y))
    scores = layers.Activation("sigmoid", name="scores")(layers.Concatenate(axis=1)(logits))
    return keras.Model(maps[0], [layers.Concatenate(axis=1, name="boxes")(boxes), scores])


def segmenter():
    """Logits at stride 4, background first."""
    inputs, x, y = _body()
    y = layers.UpSampling2D(interpolation="bilinear")(layers.Conv2D(16, 1, activation="relu6")(y))
    logits = layers.Conv2D(len(NAMES) + 1, 1, name="logits")(layers.Concatenate()([x, y]))
    return keras.Model(inputs, logits)


def _body():
    """The input and maps of stride 4 and 8."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIZE, SIZE, 3))
    fine = _conv(inputs, 16, strides=4)
    return [inputs, fine, _conv(fine, 24)]


def _conv(x, filters, strides=2):
    x = layers.Conv2D(filters, 2 * strides - 1, strides, padding="same", use_bias=False)(x)
    return layers.ReLU(6.0)(layers.BatchNormalization()(x))


def pictures(count, seed=0):
    """uint8 (count, 64, 64, 3); of the rectangle in each: corners in shares (count, 1, 4), and its class (count, 1)."""
    random = np.random.default_rng(seed)
    pixels = ((photographs(count, SIZE, seed) + 1) * 50).astype(np.uint8)
    sides = random.choice([(9, 18), (18, 9)], count)
    begin = random.integers(0, SIZE - sides + 1)
    classes = random.integers(0, len(NAMES), count)
    for picture, (y, x), (height, width), which in zip(pixels, begin, sides, classes, strict=True):
        picture[y : y + height, x : x + width] = _COLOURS[which]
    corners = np.concatenate([begin, begin + sides], 1, dtype=np.float32) / SIZE
    return pixels, corners[:, None], classes[:, None]


def masks(corners, classes):
    """uint8 (count, 64, 64): 0 the background, then the classes."""
    found = np.zeros((len(corners), SIZE, SIZE), np.uint8)
    for mask, ((y, x, bottom, right),), (which,) in zip(found, (corners * SIZE).astype(int), classes, strict=True):
        mask[y:bottom, x:right] = 1 + which
    return found


def write(folder, count, task, seed=0):
    """The pictures as files with VOC's annotations, or with masks."""
    pixels, corners, classes = pictures(count, seed)
    kind = {"detect": "annotations", "segment": "masks"}[task]
    for name in ("images", kind):
        (folder / name).mkdir(parents=True)
    found = masks(corners, classes)
    for index in range(count):
        Image.fromarray(pixels[index]).save(folder / "images" / f"{index}.png")
        if task == "segment":
            Image.fromarray(found[index]).save(folder / "masks" / f"{index}.png")
            continue
        places = zip(("ymin", "xmin", "ymax", "xmax"), (corners[index, 0] * SIZE).astype(int), strict=True)
        box = "".join(f"<{place}>{value}</{place}>" for place, value in places)
        name = f"<name>{NAMES[classes[index, 0]]}</name>"
        text = f"<annotation><object>{name}<bndbox>{box}</bndbox></object></annotation>"
        (folder / "annotations" / f"{index}.xml").write_text(text)
    return folder
