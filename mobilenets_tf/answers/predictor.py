"""Answers of a network about images: scores of classes, boxes, or a class for every pixel."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mobilenets_tf.answers.reading import Reading, check_file
from mobilenets_tf.data import images
from mobilenets_tf.data.preprocessing import Preprocessing, image_shape
from mobilenets_tf.errors import RequestError
from mobilenets_tf.modelsource import NORMALISATION, TFLITE, ModelSource
from mobilenets_tf.modelsource import opened as open_model
from mobilenets_tf.tasks import task_of
from mobilenets_tf.tasks.outputs import VALUES, OutputKind, ends_of_file, kind_of
from mobilenets_tf.tasks.task import Task
from mobilenets_tf.tflite.runtime import Runner

_BATCH = 8  # images that a Keras model takes at a time


class OpenedNetwork(Protocol):
    """A model of any kind as ``Predictor`` uses it. Shapes are without the batch axis.

    batch: how many images the model takes at a time. dtype: of the input. inputs: their shapes. ends: the outputs,
    ``outputs.End`` each.
    """

    name: str
    batch: int
    dtype: Any
    inputs: Any
    ends: Any

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for a batch of prepared images."""

    def grids(self, task: Task) -> tuple[tuple[int, int], ...]:
        """Return rows and columns of the feature maps with anchors, where a detector itself shows them; else ()."""


class Predictor:
    """Answers of one network about images.

    An answer is, for a classifier, the scores float (classes,), of a yes or no the probabilities of both; for a
    detector ``Detections``, found by the network's own non-maximum suppression or else by ``Postprocess``; for a
    segmenter the class of each pixel of the photograph, uint8 (height, width); for a regression the outputs by name.

    task, labels: as the ``Reading`` says. classes: how many there are; None where the outputs do not show the number.
    preprocessing: of the input, at its size.

    Raises:
        RequestError: the input is not one image, the outputs are not those of the task, or the normalisation
            of the input is not known; when called: the outputs are NaN or infinite.
    """

    def __init__(self, network: OpenedNetwork, reading: Reading):
        self._network, self.labels = network, reading.labels
        self.task = _task(network, reading.task)
        kinds = self._kinds(reading)
        shape = input_shape(network.name, network.inputs)
        if reading.preprocessing is None:
            raise RequestError(
                f"Nothing in {network.name} or beside it says how its input is normalised. {NORMALISATION}"
            )
        self.preprocessing = self.task.framed(reading.preprocessing).of_image(shape, reading.resize)
        grids = reading.grids or network.grids(self.task)
        self._decoder = self.task.decoder(network.name, network.ends, kinds, reading.form, grids)
        self.classes = self._decoder.classes
        if self.labels and self.classes not in (None, len(self.labels)):
            one_more = not self.task.forms and self.classes == len(self.labels) + 1
            background = " Is its first output the background? Then that is the first line of its labels."
            raise RequestError(
                f"{network.name} tells {self.classes} classes apart, and there are {len(self.labels)} labels "
                f"({', '.join(self.labels[:3])}, ...). Give its own with --labels (labels=)."
                f"{background * one_more}"
            )

    def _kinds(self, reading: Reading) -> tuple[OutputKind, ...]:
        """Return the kinds of the outputs that the manifest has; else those that the outputs show."""
        ends = self._network.ends
        if len(reading.kinds) == len(ends):
            return tuple(map(kind_of, reading.kinds))
        return self.task.kinds(ends, True, len(self.labels) or None)

    def __call__(self, photographs: Iterable) -> Iterator[Any]:
        """Yield the answer about each ``PIL.Image``; the images have to be upright, in RGB, or in RGBA for a
        network with an alpha channel."""
        pixels, sizes = [], []
        for photograph in photographs:
            pixels.append(self.preprocessing.geometry(photograph))
            sizes.append((photograph.height, photograph.width))
            if len(pixels) == self._network.batch:
                yield from self._answers(pixels, sizes)
                pixels, sizes = [], []
        if pixels:
            yield from self._answers(pixels, sizes)

    def _answers(self, pixels: list[np.ndarray], sizes: list[tuple[int, int]]):
        outputs = self._network(self.preprocessing.for_input(np.stack(pixels), self._network.dtype))
        for place, size in enumerate(sizes):
            yield self._decoder([output[place] for output in outputs], *size)


class LiteRTNetwork:
    """A TFLite file, by its path or its content, as ``Predictor`` uses it. Shapes are without the batch axis.

    Raises:
        RequestError: there is no such file, or LiteRT cannot run the file.
    """

    batch = 1

    def __init__(self, file, name: str | None = None):
        self.name, self._runner = name or str(file), Runner(file)
        self.inputs, shapes = self._runner.input_shapes, self._runner.output_shapes
        # LiteRT knows the shapes of a custom op's results, which the file may leave open.
        ends = zip(ends_of_file(file if isinstance(file, bytes) else Path(file).read_bytes()), shapes, strict=True)
        self.ends = [replace(end, shape=shape) for end, shape in ends]
        self.dtype = self._runner.inputs[0]["dtype"]

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        return self._runner(batch)

    def grids(self, task: Task) -> tuple[tuple[int, int], ...]:
        """Return (): a TFLite file does not show its anchors."""
        return ()


class KerasNetwork:
    """A ``FloatModel``, or a model object, as ``Predictor`` uses it. Shapes are without the batch axis."""

    batch, dtype = _BATCH, np.float32

    def __init__(self, model, name: str | None = None):
        self.name, self._model = name or model.name, open_model(model)
        self.inputs, self.ends = [each.shape[1:] for each in self._model.inputs], self._model.ends

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        return self._model.answers([batch])

    def grids(self, task: Task) -> tuple[tuple[int, int], ...]:
        """Return the grids of an SSD of this package; else ()."""
        return self._model.grids(task)


class ScaledNetworks:
    """One segmenter at several sizes, as ``Predictor`` uses it. The result is the mean of the softmax outputs, not of
    the logits (the "MF" of arXiv 1801.04381, table 7).

    models: ``keras.Model``s with the same weights, each of its own size. mirrored: also average the answers
        about the mirrored image.
    """

    batch, dtype = _BATCH, np.float32

    def __init__(self, models: Sequence, mirrored: bool, name: str):
        self.name, self._mirrored = name, mirrored
        self._models = sorted(models, key=lambda model: model.inputs[0].shape[1:3])
        largest = KerasNetwork(self._models[-1])
        # The answers are averaged after the softmax.
        self.inputs, self.ends = largest.inputs, [replace(end, activation="softmax") for end in largest.ends]

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        import tensorflow as tf

        shares = []
        for model in self._models:
            pictures = tf.image.resize(batch, model.inputs[0].shape[1:3], antialias=True)
            for step in (1, -1) if self._mirrored else (1,):
                logits = tf.nn.softmax(model.predict_on_batch(pictures[:, :, ::step]))
                shares.append(tf.image.resize(logits[:, :, ::step], self.ends[0].shape[:2]))
        return [np.mean(shares, 0)]

    def grids(self, task: Task) -> tuple[tuple[int, int], ...]:
        """Return (): a segmenter has no anchors."""
        return ()


def predictor(file: str | Path, reading: Reading | None = None) -> Predictor:
    """Open a ``.tflite``, ``.keras`` or full-model ``.h5`` file or a SavedModel folder, ready to answer. Open a file
    from a stranger in a ``Worker``.

    Args:
        reading: how to read the outputs; None: as the manifest beside the file says.

    Raises:
        RequestError: there is no such file, it is of another kind or cannot be loaded, or ``Predictor`` refuses it.
    """
    file = check_file(file)
    reading = reading or Reading.of(file)
    if file.suffix == TFLITE and file.is_file():
        return Predictor(LiteRTNetwork(file), reading)
    return Predictor(KerasNetwork(ModelSource(str(file)).open(), str(file)), reading)


def opened(source: ModelSource, reading: Reading) -> Predictor:
    """Open a model: a registered network or a file.

    Raises:
        RequestError: the model cannot be built or loaded, or ``Predictor`` refuses it.
    """
    if source.is_tflite:
        return predictor(source.model, reading)
    model = source.open()
    reading = replace(reading, preprocessing=source.preprocessing(model))
    return Predictor(KerasNetwork(model, source.model), reading)


def scaled_side(side: int, scale: float) -> int:
    """Give a share of a side of the input, in pixels, as the multiple of 32 that is nearest."""
    return max(32, round(side * scale / 32) * 32)


def scaled(source: ModelSource, reading: Reading, scales: Sequence[float], mirrored: bool) -> Predictor:
    """Open a segmenter at several sizes, see ``ScaledNetworks``.

    Args:
        scales: of the height and width of the input, which are rounded to multiples of 32 pixels. mirrored: and
            mirrored photographs.

    Raises:
        RequestError: the model cannot be built or loaded, or ``Predictor`` refuses it.
    """
    first = source.build()
    height, width = first.inputs[0].shape[1:3]
    models = [first] if 1.0 in scales else []
    for scale in scales:
        if scale != 1.0:
            size = scaled_side(height, scale), scaled_side(width, scale)
            models.append(replace(source, resolution=size).build())
    reading = replace(reading, preprocessing=source.preprocessing(first))
    return Predictor(ScaledNetworks(models, mirrored, source.model), reading)


def input_shape(name: str, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int, int]:
    """Return height, width and channels of the one image that a network takes; ``shapes`` of its inputs without the
    batch axis.

    Raises:
        RequestError: the network does not take one image of a fixed size.
    """
    shape = image_shape(shapes)
    if shape is None:
        raise RequestError(
            f"{name} takes inputs of shape {[(1, *shape) for shape in shapes]}; images are for files that take "
            "(1, height, width, channels) with 1, 3 or 4 channels."
        )
    return shape


def file_inputs(
    name: str, runner: Runner, preprocessing: Preprocessing, paths: Iterable[Path], resize: int | None = None
) -> Iterator[np.ndarray]:
    """Yield, for each image file, the array that ``Runner`` passes to the single input of a TFLite file.

    Args:
        preprocessing: at any size. resize: as in ``Preprocessing.at``.

    Raises:
        RequestError: the file does not take one image.
    """
    prepare = preprocessing.of_image(input_shape(name, runner.input_shapes), resize)
    for path in paths:
        yield prepare.for_input(prepare.geometry(images.decode(path, alpha=prepare.alpha)), runner.inputs[0]["dtype"])


def _task(network: OpenedNetwork, name: str | None) -> Task:
    """Return the task with this name; without a name, the task that the network's outputs show.

    Raises:
        RequestError: the outputs are not those of the task, or they show no task.
    """
    shapes = [end.shape for end in network.ends]
    outputs = f"{network.name} has outputs of shape {[(1, *shape) for shape in shapes]}"
    if name is None:
        if len(shapes) == 1 and len(shapes[0]) == 1:
            (end,) = network.ends
            return task_of("regress" if end.kind is VALUES or end.activation == "unit" else "classify")
        raise RequestError(
            f"{outputs}, and no manifest ({network.name}.json) says what they mean. Pass --task classify, detect or "
            "segment (task=), with --labels (labels=) for the classes' names."
        )
    task = task_of(name)
    if expected := task.accepts(shapes):
        raise RequestError(f"{outputs}; {expected}.")
    return task
