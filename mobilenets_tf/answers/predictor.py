"""What a network says of an image: scores of classes, boxes, or a class for every pixel."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mobilenets_tf.data.boxes import Detections
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.manifest import manifest_of
from mobilenets_tf.networks.anchors import ssd_anchors
from mobilenets_tf.registry import TASKS
from mobilenets_tf.tasks.postprocess import SCALES, Postprocess
from mobilenets_tf.tflite.runtime import Runner

FORMS = ("raw", "decoded", "nms")
_KERAS = (".keras", ".h5")
_BATCH = 8  # images that a Keras model takes at a time


@dataclass(frozen=True)
class Reading:
    """How a network's input is made of an image, and what its outputs mean. Plain data.

    task: one of ``registry.TASKS``; None: a classifier, if its only output is (1, classes).
    preprocessing: at any size. Detectors and segmenters are given the whole photograph, whatever its crop.
    labels: the classes' names; may be empty.
    form: of a detector's outputs. "raw": boxes (A, 4) encoded against anchors, and scores (A, classes + 1), column 0
        the background. "decoded": the boxes as ymin, xmin, ymax, xmax in shares of the image. "nms": TFLite's four,
        boxes (k, 4), classes (k,), scores (k,) and how many of them there are.
    grids: of a raw detector, (rows, columns) of each map that its anchors are laid on.
    """

    task: str | None = None
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] = ()
    form: str | None = None
    grids: tuple[tuple[int, int], ...] = ()

    @staticmethod
    def of(file: Path) -> "Reading":
        """What the manifest beside a file says of it, and for its labels the file ``labels.txt`` there.

        Raises:
            RequestError: a manifest with an unknown task or with anchors that are no grids, or labels that are no text.
        """
        manifest = manifest_of(file)
        task, anchors, labels = manifest.get("task"), manifest.get("anchors") or {}, manifest.get("labels")
        if task not in (None, *TASKS):
            raise RequestError(f"{file}.json: {unknown('task', task, TASKS)}")
        try:
            grids = tuple((int(rows), int(columns)) for rows, columns in anchors.get("grids", ()))
        except (AttributeError, TypeError, ValueError):
            raise RequestError(
                f'{file}.json: anchors are {str(anchors)[:80]}; expected {{"grids": [[rows, columns], ...]}}.'
            ) from None
        if not isinstance(labels, list):
            labels = _lines(file.with_name("labels.txt"))
        return Reading(task, Preprocessing.of(manifest), tuple(map(str, labels)), manifest.get("form"), grids)


class Predictor:
    """Answers of one network about images.

    An answer is, for a classifier, the scores float (classes,); for a detector ``Detections``, found by the network's
    own non-maximum suppression or else by ``Postprocess``; for a segmenter the class of each pixel of the photograph,
    uint8 (height, width).

    task, labels: as its ``Reading`` says. classes: how many it tells apart; None where its outputs do not show it.

    Raises:
        RequestError: the input is not one square RGB image, the outputs are not those of the task, or something is not
            known that is needed; when called, outputs that are NaN or infinite.
    """

    def __init__(self, network: "LiteRTNetwork | KerasNetwork", reading: Reading):
        self._network, self.labels = network, reading.labels
        self.task = _task(network, reading.task)
        size = input_size(network.name, network.inputs)
        self._input = _input(network.name, reading.preprocessing, size, self.task)
        self._detections = None
        if self.task == "detect":
            self._detections, self.classes = _detector(network, reading)
        else:
            self.classes = network.outputs[0][-1] if self.task == "classify" or len(network.outputs[0]) == 3 else None
        if self.labels and self.classes not in (None, len(self.labels)):
            raise RequestError(
                f"{network.name} tells {self.classes} classes apart, and there are {len(self.labels)} labels "
                f"({', '.join(self.labels[:3])}, ...). Give its own with --labels."
            )

    def __call__(self, images: Iterable) -> Iterator[np.ndarray | Detections]:
        """The answer about each ``PIL.Image``, which is in RGB and upright."""
        pixels, sizes = [], []
        for image in images:
            pixels.append(self._input.geometry(image))
            sizes.append((image.height, image.width))
            if len(pixels) == self._network.batch:
                yield from self._answers(pixels, sizes)
                pixels, sizes = [], []
        if pixels:
            yield from self._answers(pixels, sizes)

    def _answers(self, pixels: list[np.ndarray], sizes: list[tuple[int, int]]):
        outputs = self._network(self._input.for_input(np.stack(pixels), self._network.dtype))
        for place, size in enumerate(sizes):
            of_image = [output[place] for output in outputs]
            if self._detections is not _suppressed:  # there, anything may stand behind what was found
                self._check(of_image)
            if self.task == "classify":
                yield of_image[0].reshape(-1)
            elif self.task == "segment":
                yield classes_at(of_image[0], *size)
            else:
                found = self._detections(*of_image)
                self._check((found.boxes, found.scores))
                yield found

    def _check(self, arrays: Iterable[np.ndarray]) -> None:
        if not all(np.isfinite(array).all() for array in arrays):
            raise RequestError(f"{self._network.name} gives NaN or infinite values.")


class LiteRTNetwork:
    """A TFLite file, by its path or its content, as ``Predictor`` uses it. Shapes are without the batch axis.

    Raises:
        RequestError: no such file, or one that cannot be run.
    """

    batch = 1

    def __init__(self, file, name: str | None = None):
        self.name, self._runner = name or str(file), Runner(file)
        self.inputs, self.outputs = (
            [tuple(map(int, details["shape"][1:])) for details in ends]
            for ends in (self._runner.inputs, self._runner.outputs)
        )
        self.dtype = self._runner.inputs[0]["dtype"]

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        return self._runner(batch)

    def grids(self) -> tuple[tuple[int, int], ...]:
        """None that could be read from the file."""
        return ()


class KerasNetwork:
    """A ``keras.Model`` as ``Predictor`` uses it. Shapes are without the batch axis."""

    batch, dtype = _BATCH, np.float32

    def __init__(self, model, name: str | None = None):
        self.name, self._model = name or model.name, model
        self.inputs, self.outputs = ([tuple(end.shape[1:]) for end in ends] for ends in (model.inputs, model.outputs))

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        import keras

        return [np.asarray(output) for output in keras.tree.flatten(self._model.predict_on_batch(batch))]

    def grids(self) -> tuple[tuple[int, int], ...]:
        """Of an SSD of this package; else empty."""
        from mobilenets_tf.networks import ssd

        return ssd.grids(self._model)


class ScaledNetworks:
    """One segmenter at several sizes, mirrored too if asked for, as ``Predictor`` uses it: the mean of what all say, in
    shares of the classes and not in logits (the "MF" of arXiv 1801.04381, table 7).

    models: ``keras.Model``s with the same weights, each of its own square size.
    """

    batch, dtype = _BATCH, np.float32

    def __init__(self, models: Sequence, mirrored: bool, name: str):
        self.name, self._mirrored = name, mirrored
        self._models = sorted(models, key=lambda model: model.inputs[0].shape[1])
        self.inputs, self.outputs = KerasNetwork(self._models[-1]).inputs, KerasNetwork(self._models[-1]).outputs

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        import tensorflow as tf

        shares = []
        for model in self._models:
            pictures = tf.image.resize(batch, model.inputs[0].shape[1:3], antialias=True)
            for step in (1, -1) if self._mirrored else (1,):
                found = tf.nn.softmax(model.predict_on_batch(pictures[:, :, ::step]))
                shares.append(tf.image.resize(found[:, :, ::step], self.outputs[0][:2]))
        return [np.mean(shares, 0)]

    def grids(self) -> tuple:
        """None: no detector."""
        return ()


def predictor(file, reading: Reading | None = None) -> Predictor:
    """A ``.tflite``, ``.keras`` or full-model ``.h5`` file, ready to answer. For a file from a stranger call it in a
    ``Worker``.

    reading: left out, what the manifest beside the file says.

    Raises:
        RequestError: no such file, another kind of file, or what ``Predictor`` and the file's loader raise.
    """
    file = check_file(file)
    reading = reading or Reading.of(file)
    if file.suffix == ".tflite":
        return Predictor(LiteRTNetwork(file), reading)
    from mobilenets_tf.weights.saved_models import load_model

    return Predictor(KerasNetwork(load_model(file), str(file)), reading)


def check_file(file) -> Path:
    """The path of a file that ``predictor`` takes, without opening it.

    Raises:
        RequestError: no such file, or another kind of file.
    """
    file = Path(file)
    if not file.is_file():
        raise RequestError(f"No such model file: {file}")
    if file.suffix not in (".tflite", *_KERAS):
        raise RequestError(f"{file}: expected a .tflite, .keras or full-model .h5 file.")
    return file


def class_name(labels: Sequence[str], index: int) -> str:
    """What a class is called."""
    return labels[index] if 0 <= index < len(labels) else f"class {index}"


def input_size(name: str, shapes: Sequence[tuple[int, ...]]) -> int:
    """Height and width of the one image that a network takes; ``shapes`` of its inputs without the batch axis.

    Raises:
        RequestError: it does not take one square RGB image of a fixed size.
    """
    if len(shapes) != 1 or len(shapes[0]) != 3 or shapes[0][0] is None or shapes[0] != (shapes[0][0],) * 2 + (3,):
        raise RequestError(
            f"{name} takes inputs of shape {[(1, *shape) for shape in shapes]}; images are for files that take "
            "(1, size, size, 3)."
        )
    return shapes[0][0]


def classes_at(output: np.ndarray, height: int, width: int) -> np.ndarray:
    """A segmenter's output as the class of each pixel of an image, uint8 (height, width).

    output: logits, float (h, w, classes), which are resized bilinearly between pixels' middles before the highest is
        taken; or classes, integers (h, w), of which each pixel takes the nearest.

    Raises:
        RequestError: an array of neither form, or more than 256 classes.
    """
    from PIL import Image

    output, size = np.asarray(output), (width, height)
    if output.ndim == 2 and np.issubdtype(output.dtype, np.integer) and output.min() >= 0 and output.max() <= 255:
        return np.asarray(Image.fromarray(output.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
    if output.ndim != 3 or not np.issubdtype(output.dtype, np.floating) or not 1 <= output.shape[2] <= 256:
        raise RequestError(
            f"A segmenter's output has the shape {output.shape} and the type {output.dtype}; expected float logits "
            "(height, width, classes) of at most 256 classes, or integers (height, width) from 0 to 255."
        )
    # One plane after the other: together they may be gigabytes at a photograph's size.
    classes, highest = np.zeros((height, width), np.uint8), np.full((height, width), -np.inf, np.float32)
    for index in range(output.shape[2]):
        plane = Image.fromarray(np.ascontiguousarray(output[:, :, index], np.float32))
        plane = np.asarray(plane.resize(size, Image.Resampling.BILINEAR))
        classes[plane > highest] = index
        np.maximum(highest, plane, out=highest)
    return classes


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{file} is not a text file in UTF-8 ({error}).") from error


def _task(network, task: str | None) -> str:
    """The task, whose outputs the network has.

    Raises:
        RequestError: others, or none that is known.
    """
    shapes = network.outputs
    told = f"{network.name} has outputs of shape {[(1, *shape) for shape in shapes]}"
    if task is None:
        if len(shapes) == 1 and len(shapes[0]) == 1:
            return "classify"
        raise RequestError(
            f"{told}, and no manifest ({network.name}.json) says what they mean. Pass --task detect or --task segment, "
            "with --labels for the classes' names."
        )
    if task == "classify" and not shapes[0]:
        raise RequestError(f"{told}; a classifier has one of (1, classes).")
    if task == "segment" and (len(shapes) != 1 or len(shapes[0]) not in (2, 3)):
        raise RequestError(f"{told}; a segmenter has one of (1, height, width, classes) or (1, height, width).")
    return task


def _input(name: str, preprocessing: Preprocessing | None, size: int, task: str) -> Preprocessing:
    if preprocessing is None:
        raise RequestError(f"No manifest beside {name} says how its input is normalised; pass --mean and --std.")
    if task == "classify":
        return preprocessing.at(size)
    return replace(preprocessing, size=size, resize=size, crop="stretch")


def _detector(network, reading: Reading):
    """What makes ``Detections`` of a detector's outputs; and how many classes there are, None where they do not say.

    Raises:
        RequestError: the outputs are not a detector's, or it is not known how its boxes are encoded.
    """
    shapes, grids = network.outputs, reading.grids or network.grids()
    form = reading.form or ("nms" if len(shapes) == 4 else "raw" if grids else None)
    told = f"{network.name} has outputs of shape {[(1, *shape) for shape in shapes]}"
    if form not in (None, *FORMS):
        raise RequestError(f"{network.name}.json: {unknown('form', form, FORMS)}")
    if form == "nms":
        if [len(shape) for shape in shapes] != [2, 1, 1, 0] or shapes[0][1] != 4:
            raise RequestError(
                f"{told}; expected boxes (1, k, 4), classes (1, k), scores (1, k) and their number (1,)."
            )
        return _suppressed, None
    pair = len(shapes) == 2 and all(len(shape) == 2 for shape in shapes)
    if not pair or shapes[0][1] != 4 or shapes[0][0] != shapes[1][0] or shapes[1][1] < 2:
        raise RequestError(
            f"{told}; a detector has boxes (1, A, 4) and scores (1, A, classes + 1), or TFLite's four outputs."
        )
    if form is None:
        raise RequestError(
            f"{told}, and nothing says whether its boxes are encoded, and against which anchors. The manifest that was "
            f"written with it does ({network.name}.json); a file with TFLite's four outputs needs none."
        )
    count, columns = shapes[1]
    anchors = ssd_anchors(grids) if form == "raw" and grids else np.array([[0, 0, 1, 1]] * count, np.float32)
    if form == "raw" and (not grids or len(anchors) != count):
        known = f"the grids {list(grids)} have {len(anchors)} anchors" if grids else "it names no grids for anchors"
        raise RequestError(f"{told}; {known}. The manifest beside it is of another file.")
    postprocess = Postprocess(anchors, columns - 1)
    if form == "raw":
        return postprocess, columns - 1
    return lambda boxes, scores: postprocess(_encoded(boxes), scores), columns - 1


def _suppressed(boxes, classes, scores, number) -> Detections:
    found = slice(max(0, int(np.nan_to_num(number))))
    return Detections(boxes[found], classes[found].round().astype(np.int32), scores[found])


def _encoded(corners: np.ndarray) -> np.ndarray:
    """Corners, encoded against an anchor that is the whole image with its centre in the upper left corner."""
    begin, end = corners[:, :2], corners[:, 2:]
    sides = np.log(np.maximum(end - begin, 1e-6))
    return (np.concatenate([(begin + end) / 2, sides], axis=1) * SCALES).astype(np.float32)
