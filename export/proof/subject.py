"""A model whose file is to be proved, and how its inputs and outputs are to be read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mobilenets_tf.data import images
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.data.preprocessing import Size
from mobilenets_tf.models.float_model import FloatModel
from mobilenets_tf.modelsource import AnyModel, ModelSource, opened
from mobilenets_tf.tasks import task_of
from mobilenets_tf.tasks.outputs import End, OutputKind
from mobilenets_tf.tasks.task import Decoder, Meter, Task, class_name
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.tflite.runtime import Runner

# The outputs of one image, without the batch axis; and a function that returns the outputs of several images, uint8
# (n, height, width, channels).
Outputs = list[np.ndarray]
Answering = Callable[[np.ndarray], list[Outputs]]


@dataclass(frozen=True)
class Subject:
    """A model whose file is to be proved.

    model: in float. image: how the file takes its image. labels: names of the classes; may be empty.
    void: of masks, the value of pixels of no class. grids: of a detector, see ``task.Task.grids``.
    reference_kernels: integer files run in LiteRT's reference kernels, as on a microcontroller.
    ends, kinds: the model's outputs, and what each says, see ``tasks.outputs``. decoder: of these outputs.
    """

    model: FloatModel
    task: Task
    image: ImageInput
    labels: tuple[str, ...]
    void: int
    grids: tuple[tuple[int, int], ...]
    ends: tuple[End, ...]
    kinds: tuple[OutputKind, ...]
    decoder: Decoder
    reference_kernels: bool = False

    @staticmethod
    def of(
        source: ModelSource, model: AnyModel, image: ImageInput, void: int | None = None, *, annotated: bool = False
    ) -> "Subject":
        """Make the subject of a model that was built from a source.

        Args:
            void: None for the void value of the model's training.
            annotated: images are there whose annotations are of the source's task. So a model of one's own whose
                outputs do not show it is a classifier.

        Raises:
            RequestError: the labels do not fit the model, or the outputs are not those of the task.
        """
        model = opened(model)
        task, ends, names = task_of(source.task), model.ends, source.label_names()
        kinds = task.kinds(ends, source.says_its_task or bool(names) or annotated, len(names) or None)
        task = task.settled(ends, kinds)
        grids = model.grids(task)
        decoder = task.decoder(model.name, ends, kinds, None, grids)
        if annotated:
            task.check_annotated(source.model)
        return Subject(
            model=model,
            task=task,
            image=image,
            labels=tuple(source.label_names(decoder.classes)) if decoder.classes else (),
            void=source.void if void is None else void,
            grids=grids,
            ends=ends,
            kinds=kinds,
            decoder=decoder,
        )

    @property
    def classes(self) -> int:
        """How many classes the model tells apart; 0 where its outputs name none."""
        return self.decoder.classes or 0

    @property
    def final_kinds(self) -> tuple[OutputKind, ...]:
        """The kinds of the outputs of the model's file; none where a form gives the file other outputs."""
        return () if self.task.forms else self.kinds

    @property
    def size(self) -> Size:
        """Height and width of the input in pixels, one number if they are equal."""
        return self.image.given.size

    @property
    def class_names(self) -> list[str]:
        """A name for each class: its label, or its number where there is none."""
        return [class_name(self.labels, index) for index in range(self.classes)]

    def check_annotated(self, *image_sets: ImageSet) -> None:
        """Refuse images of a class that the model does not have.

        Raises:
            RequestError: a label is not below the number of the model's classes.
        """
        for image_set in image_sets:
            images.check_classes(image_set, self.classes)

    def meter(self) -> Meter:
        """Return a meter of the task for the model's classes."""
        return self.task.meter(self.class_names, self.void)

    def in_model(self) -> Answering:
        """Return the function that runs the model itself on a batch of images."""

        def answer(pixels: np.ndarray) -> list[Outputs]:
            outputs = self.model.answers([self.image.wanted.normalise(pixels)])
            return [[output[i] for output in outputs] for i in range(len(pixels))]

        return answer

    def in_tflite(self, content: bytes, threads: int = 2) -> Answering:
        """Return the function that runs a TFLite file of the model on images. The file has the model's own outputs.

        threads: for LiteRT.
        """
        reference = self.reference_kernels and flatbuffer.is_integer(flatbuffer.read(content))
        runner = Runner(content, threads, reference=reference)
        dtype = runner.inputs[0]["dtype"]

        def answer(pixels: np.ndarray) -> list[Outputs]:
            inputs = (self.image.given.for_input(each, dtype) for each in pixels)
            return [[output[0] for output in runner(each)] for each in inputs]

        return answer

    def answer(self, outputs: Sequence[np.ndarray], height: int, width: int):
        """Decode the outputs of one image to an answer, see ``task.Task``."""
        return self.decoder(outputs, height, width)
