"""A model whose file is to be proved, and how its inputs and outputs are to be read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.tasks import task_of
from mobilenets_tf.tasks.task import Decoder, Meter, Task, class_name
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.tflite.runtime import Runner

# The outputs of one image, without the batch axis; and a function that returns the outputs of several images, uint8
# (n, size, size, 3).
Outputs = list[np.ndarray]
Answering = Callable[[np.ndarray], list[Outputs]]


@dataclass(frozen=True)
class Subject:
    """A model whose file is to be proved.

    model: the ``keras.Model``. image: how the file takes its image. labels: names of the classes; may be empty.
    void: of masks, the value of pixels of no class. grids: of a detector, see ``task.Task.grids``.
    decoder: of the model's own outputs.
    """

    model: object
    task: Task
    image: ImageInput
    labels: tuple[str, ...]
    void: int
    classes: int
    grids: tuple[tuple[int, int], ...]
    decoder: Decoder

    @staticmethod
    def of(source: ModelSource, model, image: ImageInput, void: int | None = None) -> "Subject":
        """Make the subject of a model that was built from a source.

        Args:
            void: None for the void value of the model's training.

        Raises:
            RequestError: the labels do not fit the model, or the outputs are not those of the task.
        """
        task = task_of(source.task)
        classes, grids = task.classes(model), task.grids(model)
        shapes = [tuple(output.shape[1:]) for output in model.outputs]
        return Subject(
            model=model,
            task=task,
            image=image,
            labels=tuple(source.label_names(classes)),
            void=source.void if void is None else void,
            classes=classes,
            grids=grids,
            decoder=task.decoder(model.name, shapes, None, grids),
        )

    @property
    def size(self) -> int:
        """Height and width of the input in pixels."""
        return self.image.given.size

    @property
    def class_names(self) -> list[str]:
        """A name for each class: its label, or its number where there is none."""
        return [class_name(self.labels, index) for index in range(self.classes)]

    def meter(self) -> Meter:
        """Return a meter of the task for the model's classes."""
        return self.task.meter(self.class_names, self.void)

    def in_keras(self) -> Answering:
        """Return the function that runs the Keras model on a batch of images."""
        import keras

        def answer(pixels: np.ndarray) -> list[Outputs]:
            outputs = keras.tree.flatten(self.model.predict_on_batch(self.image.wanted.normalise(pixels)))
            return [[np.asarray(output)[i] for output in outputs] for i in range(len(pixels))]

        return answer

    def in_tflite(self, content: bytes) -> Answering:
        """Return the function that runs a TFLite file of the model on images. The file has the model's own outputs."""
        runner = Runner(content)
        dtype = runner.inputs[0]["dtype"]

        def answer(pixels: np.ndarray) -> list[Outputs]:
            inputs = (self.image.given.for_input(each, dtype) for each in pixels)
            return [[output[0] for output in runner(each)] for each in inputs]

        return answer

    def answer(self, outputs: Sequence[np.ndarray], height: int, width: int):
        """Decode the outputs of one image to an answer, see ``task.Task``."""
        return self.decoder(outputs, height, width)
