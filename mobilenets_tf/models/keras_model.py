"""A functional or sequential Keras 3 model as the verbs use it."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mobilenets_tf.conversion.convert import check_exportable, float_file
from mobilenets_tf.conversion.intake import taken_in
from mobilenets_tf.conversion.own_normalisation import OwnNormalisation, own_normalisation
from mobilenets_tf.conversion.reparameterization import fold
from mobilenets_tf.data.preprocessing import Size
from mobilenets_tf.models.float_model import FloatFile, Input
from mobilenets_tf.tasks.outputs import End, ends_of_model
from mobilenets_tf.tasks.task import Task
from mobilenets_tf.tflite.file_metadata import Origin
from mobilenets_tf.worker import Worker

if TYPE_CHECKING:
    import keras


class KerasModel:
    """A Keras model, see ``FloatModel``.

    Args:
        model: of anyone's; what ``intake.taken_in`` makes of it is used. resolution: as there.

    Raises:
        RequestError: as ``intake.taken_in``.
    """

    origin, has_layers, preload = Origin(), True, "tensorflow"

    def __init__(self, model: "keras.Model", resolution: Size | None = None):
        self.model, self.name = taken_in(model, resolution), model.name

    @property
    def inputs(self) -> Sequence[Input]:
        """The inputs, as Keras calls them."""
        return [Input(tensor.name, tuple(tensor.shape)) for tensor in self.model.inputs]

    @cached_property
    def ends(self) -> tuple[End, ...]:
        """The outputs."""
        return ends_of_model(self.model)

    @cached_property
    def own_normalisation(self) -> OwnNormalisation | None:
        """The normalisation in the model's first layers."""
        return own_normalisation(self.model)

    def check(self) -> None:
        """Refuse a model that cannot become a file, see ``check_exportable``."""
        check_exportable(self.model)

    def float_file(self, worker: Worker, rewrite: Callable | None = None) -> FloatFile:
        """Convert the model."""
        layers, content, stored = float_file(rewrite(self.model) if rewrite else self.model, worker)
        return FloatFile(content, layers, stored)

    def answers(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run the model in TensorFlow."""
        import keras

        inputs = {each.name: array for each, array in zip(self.inputs, batch, strict=True)}
        given = batch[0] if len(batch) == 1 else inputs
        return [np.asarray(output) for output in keras.tree.flatten(self.model.predict_on_batch(given))]

    def grids(self, task: Task) -> tuple[tuple[int, int], ...]:
        """Find the feature maps of an SSD of this package."""
        return task.grids(self.model)

    def in_training(self) -> "keras.Model":
        """Return the model, its branches folded."""
        return fold(self.model, share=True)
