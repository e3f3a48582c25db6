"""The numbers that the tests of an Android project compare with: a photograph, and what Python makes of it."""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.networks.heads.anchors import ssd_anchors
from mobilenets_tf.tasks import task_of
from mobilenets_tf.tasks.outputs import ends_of_file, kind_of
from mobilenets_tf.tflite.runtime import Runner, quantised

# Of the drawn photograph: sides that are no multiples of anything, wider than high.
_HEIGHT, _WIDTH = 149, 211
_MOST_OBJECTS = 20


def expected(content: bytes, manifest: Mapping, facts: Mapping) -> tuple[dict[str, bytes], dict]:
    """Compute what a project's tests expect.

    Args:
        content: of the ``.tflite`` file. manifest: as ``deploy`` wrote it. facts: those of ``android.facts``.

    Returns:
        Name -> little-endian numbers: "photo" (height, width, 3) uint8; "levels", the resized photograph (height,
        width, channels) uint8; "table", the input for each value of a pixel; "output0" and so on, the outputs as the
        file stores them; "answers": of a classifier rows of class and score, of a detector of class, score, top,
        left, bottom and right in pixels, float32; of a segmenter the class of each place, int32; "anchors" of a raw
        detector. And facts for the test: "photo" with its width and height, "threshold" of a detector's scores.
    """
    preprocessing, runner = Preprocessing.of(manifest), Runner(content)
    photo = drawn_photograph()
    levels = preprocessing.geometry(Image.fromarray(photo))
    (details,) = runner.inputs
    outputs = [output.copy() for output in runner(preprocessing.for_input(levels, details["dtype"]))]
    stored = [runner.raw(output["index"]).copy() for output in runner.outputs]
    numbers = {"photo": photo, "levels": levels, "table": _table(preprocessing, details)}
    numbers |= {f"output{place}": output for place, output in enumerate(stored)}
    about: dict = {"photo": {"width": _WIDTH, "height": _HEIGHT}}
    match facts["task"]:
        case "classify":
            numbers["answers"] = _highest(outputs[0][0], facts["kinds"], min(5, facts["classes"]))
        case "detect":
            numbers["answers"], about["threshold"] = _objects(content, outputs, manifest)
            if facts["form"] == "raw":
                numbers["anchors"] = ssd_anchors(_grids(manifest)).astype(np.float32)
        case "segment":
            numbers["answers"] = _areas(outputs[0][0], facts)
    return {name: np.ascontiguousarray(array).tobytes() for name, array in numbers.items()}, about


def drawn_photograph() -> np.ndarray:
    """Draw a photograph with soft and hard edges and some noise, uint8 (149, 211, 3); the same each time."""
    y, x = np.mgrid[:_HEIGHT, :_WIDTH].astype(np.float64)
    waves = [127 + 90 * np.sin(x / (9 + 7 * each) + each) * np.cos(y / (13 + 5 * each)) for each in range(3)]
    picture = np.stack(waves, -1) + np.random.default_rng(0).integers(-20, 21, (_HEIGHT, _WIDTH, 3))
    picture[30:90, 50:120] = (230, 40, 60)
    picture[70:140, 110:200] = (20, 80, 220)
    return picture.clip(0, 255).astype(np.uint8)


def _table(preprocessing: Preprocessing, details: dict) -> np.ndarray:
    """Return the input that each value 0 to 255 of a pixel becomes, in the input's type."""
    values = np.arange(256, dtype=np.uint8)
    if details["dtype"] == np.uint8:
        return values
    real = preprocessing.normalise(np.repeat(values[:, None], preprocessing.channels, axis=1))[:, 0]
    return quantised(real, details)


def _highest(scores: np.ndarray, kinds, count: int) -> np.ndarray:
    scores = (kinds[0].scores(scores[None])[0] if kinds else scores).astype(np.float32)
    order = np.argsort(-scores, kind="stable")[:count]
    return np.stack([order.astype(np.float32), scores[order]], -1)


def _objects(content: bytes, outputs, manifest: Mapping) -> tuple[np.ndarray, float]:
    """Return the objects with a score above a threshold, the highest first, and the threshold: one that no score is
    near to, for at most 20 objects."""
    task = task_of("detect")
    kinds = [kind_of(output["kind"]) for output in manifest["outputs"] if "kind" in output]
    decoder = task.decoder("network", ends_of_file(content), kinds, manifest["form"], _grids(manifest))
    found = decoder([output[0] for output in outputs], _HEIGHT, _WIDTH)
    threshold = _between(found.scores)
    sure = found.scores > threshold
    boxes = found.boxes[sure] * np.float32([_HEIGHT, _WIDTH] * 2)
    rows = np.c_[found.classes[sure], found.scores[sure], boxes].astype(np.float32)
    return rows[np.lexsort((rows[:, 3], rows[:, 2], rows[:, 0], -rows[:, 1]))], threshold


def _between(scores: np.ndarray) -> float:
    """Return the middle of the widest gap between the 20 highest scores; above all where there are no two scores."""
    highest = np.unique(scores)[::-1][: _MOST_OBJECTS + 1].astype(np.float64)
    if len(highest) < 2:
        return float(highest[0] - 1e-3) if len(highest) else 0.5
    place = int(np.argmax(highest[:-1] - highest[1:]))
    return float(highest[place] + highest[place + 1]) / 2


def _areas(values: np.ndarray, facts: Mapping) -> np.ndarray:
    if facts["form"] == "mask":
        return values.astype(np.int32)
    return ((values[..., 0] > facts["cut"]) if facts["single"] else values.argmax(-1)).astype(np.int32)


def _grids(manifest: Mapping) -> tuple[tuple[int, int], ...]:
    return tuple(map(tuple, (manifest.get("anchors") or {}).get("grids", ())))
