"""The training step of a Keras model: compiled once for each input size, under any tf.distribute strategy; moving
averages of the weights, judging with them, and the state that a checkpoint keeps.

Its own step and not ``keras.Model.fit``: batches differ in size from step to step where a recipe says so, a training
goes on in the middle of an epoch, and ``fit`` of Keras 3.15 fails under ``MultiWorkerMirroredStrategy`` (it takes the
first batch, a value a replica, for a tensor). Layers, losses, optimizers and strategies are Keras' and TensorFlow's.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.preprocessing import Preprocessing
from mobilenets_tf.progress import Report, silent
from mobilenets_tf.training import optimizers
from mobilenets_tf.training.distribution import Distribution
from mobilenets_tf.training.plan import Plan

PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Teacher:
    """A network whose answers are taught too (Hinton et al. 2015, arXiv 1503.02531; MobileOne, arXiv 2206.04040, table
    10).

    model: a classifier with the same classes; its input has the student's size, or is resized to its own.
    preprocessing: of its input.
    share: of the loss that is the teacher's, 0 to 1; the rest is the right class's.
    temperature: by which both networks' logits are divided for the teacher's part.
    """

    model: keras.Model
    preprocessing: Preprocessing
    share: float = 0.5
    temperature: float = 1.0


@dataclass(frozen=True)
class Settings:
    """What changes how fast a training runs, not what it computes (but for rounding).

    precision: of activations and products: "float32", or "bfloat16", "float16" with float32 weights and, for float16, a
        loss that is scaled (arXiv 1710.03740).
    jit_compile: compile the step with XLA.
    sync_batchnorm: statistics of the whole batch rather than of each replica's share.
    """

    precision: str = "float32"
    jit_compile: bool = False
    sync_batchnorm: bool = False


class Training:
    """A model and its optimizer under a strategy: ``step`` trains on a batch, ``judge`` scores images.

    Args:
        model_at: builds the network for an input size in pixels. Called within the strategy's scope.
        plan: the steps.
        size: the network's input in pixels.
        preprocessing: of its input.

    Raises:
        RequestError: an unknown precision, or XLA with several workers (its collectives are not for processors).
    """

    def __init__(
        self,
        model_at: Callable[[int], keras.Model],
        plan: Plan,
        size: int,
        preprocessing: Preprocessing,
        distribution: Distribution,
        settings: Settings = Settings(),
        teacher: Teacher | None = None,
    ):
        if settings.precision not in PRECISIONS:
            raise unknown("precision", settings.precision, PRECISIONS)
        if settings.jit_compile and distribution.replicas > 1:
            raise RequestError("XLA compiles the step of one replica; leave --jit-compile out, or train with one.")
        self.plan, self._size, self._preprocessing, self._teacher = plan, size, preprocessing, teacher
        self._distribution, self._settings, self._model_at = distribution, settings, model_at
        self._recipe = plan.recipe
        with self._scope():
            self.model = model_at(size)
            self._adjust(self.model)
            self._logits = {size: logits(self.model)}
            self._teacher_logits = teacher and logits(teacher.model)
            self.optimizer = optimizers.build(
                plan.recipe, self.model, plan.steps_per_epoch, loss_scaling=settings.precision == "float16"
            )
            self._averaged = [v for v in self.model.weights if np.issubdtype(v.dtype, np.floating)]
            self._averages = []
            if self._recipe.ema is not None:
                self._averages = [tf.Variable(_numpy(v), trainable=False) for v in self._averaged]
        self._step = tf.function(self._all_replicas, autograph=False)
        self._judge = tf.function(self._judge_all, autograph=False)

    def _scope(self):
        return self._distribution.strategy.scope()

    def _adjust(self, model) -> None:
        """What the recipe and the settings change in layers; ``finished`` undoes what a saved model should not have."""
        policy = "float32" if self._settings.precision == "float32" else f"mixed_{self._settings.precision}"
        for layer in _layers(model):
            layer.dtype_policy = policy
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = self._settings.sync_batchnorm
                layer.trainable = not self._recipe.frozen_batchnorm
                if self._recipe.batchnorm_momentum is not None:
                    layer.momentum = self._recipe.batchnorm_momentum

    def step(self, batch) -> tuple[float, float, float]:
        """Train on (pixels, targets), a value a replica where there are several. The mean loss, how many images were
        answered right, and of how many."""
        loss, correct, count = self._step(*batch)
        return float(loss), float(correct), float(count)

    def facts(self, step: int) -> dict:
        """What the curves say of a step: its learning rate, and the size of its images."""
        return {"rate": float(self.optimizer.learning_rate), "size": self.plan[step].size}

    def _all_replicas(self, pixels, targets):
        compiled = self._replica
        if self._settings.jit_compile:
            compiled = tf.function(self._replica, autograph=False, jit_compile=True)
        strategy = self._distribution.strategy
        found = strategy.run(compiled, args=(pixels, targets))
        for average, variable in zip(self._averages, self._averaged, strict=True) if self._averages else ():
            average.assign(average + (1 - self._recipe.ema) * (variable.value - average))
        return tuple(strategy.reduce("SUM", value, axis=None) for value in found)

    def _replica(self, pixels, targets):
        with tf.GradientTape() as tape:
            outputs = self._logits_at(pixels.shape[1])(_normalised(pixels, self._preprocessing), training=True)
            outputs = tf.cast(outputs, tf.float32)
            loss = self._loss(pixels, targets, outputs)
            # Gradients are added up over the replicas.
            loss = (tf.reduce_mean(loss) + sum(self.model.losses, 0.0)) / self._distribution.replicas
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.model.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.model.trainable_variables, strict=True))
        correct = tf.reduce_sum(tf.cast(tf.argmax(outputs, -1) == tf.argmax(targets, -1), tf.float32))
        return loss, correct, tf.cast(tf.shape(targets)[0], tf.float32)

    def _logits_at(self, size: int):
        """The network for another input size: its layers with weights are those of the one for its own size."""
        if size not in self._logits:
            with self._scope(), tf.init_scope():
                twin = self._model_at(size)
                own = {layer.name: layer for layer in _layers(self.model) if layer.variables}
                shared = keras.models.clone_model(twin, clone_function=lambda layer: own.get(layer.name, layer))
                self._adjust(shared)
            self._logits[size] = logits(shared)
        return self._logits[size]

    def _loss(self, pixels, targets, outputs):
        loss = keras.losses.categorical_crossentropy(
            targets, outputs, from_logits=True, label_smoothing=self._recipe.label_smoothing
        )
        if self._teacher is None:
            return loss
        teacher, size = self._teacher, self._teacher.model.input_shape[1]
        seen = _normalised(pixels, teacher.preprocessing)
        if size not in (None, pixels.shape[1]):
            seen = tf.image.resize(seen, (size, size), antialias=True)
        answers = tf.cast(self._teacher_logits(seen, training=False), tf.float32)
        taught = tf.nn.softmax_cross_entropy_with_logits(
            tf.stop_gradient(tf.nn.softmax(answers / teacher.temperature)), outputs / teacher.temperature
        )
        # The square keeps the gradients' size whatever the temperature (section 2 of the paper).
        return (1 - teacher.share) * loss + teacher.share * teacher.temperature**2 * taught

    def judge(self, batches, report: Report = silent, total: int | None = None) -> dict[str, float]:
        """Loss, top-1 and top-5 of (pixels, classes), with the moving averages where there are any."""
        own = [_numpy(variable) for variable in self._averaged] if self._averages else []
        for variable, average in zip(self._averaged, self._averages, strict=True) if self._averages else ():
            variable.assign(average.numpy())
        try:
            sums = np.zeros(4)
            for done, (pixels, labels) in enumerate(batches, 1):
                sums += np.array([float(value) for value in self._judge(pixels, labels)])
                report("validation", done, total)
        finally:
            for variable, value in zip(self._averaged, own, strict=True) if own else ():
                variable.assign(value)
        count = max(1.0, sums[3])
        return {"val_loss": sums[0] / count, "val_top1": sums[1] / count, "val_top5": sums[2] / count}

    def _judge_all(self, pixels, labels):
        strategy = self._distribution.strategy
        found = strategy.run(self._judge_replica, args=(pixels, labels))
        return tuple(strategy.reduce("SUM", value, axis=None) for value in found)

    def _judge_replica(self, pixels, labels):
        outputs = self._logits[self._size](_normalised(pixels, self._preprocessing), training=False)
        outputs, real = tf.cast(outputs, tf.float32), labels >= 0
        labels = tf.maximum(labels, 0)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs)
        hits = [tf.math.in_top_k(labels, outputs, k) for k in (1, min(5, outputs.shape[-1]))]
        sums = [tf.reduce_sum(tf.where(real, tf.cast(value, tf.float32), 0.0)) for value in (loss, *hits)]
        return *sums, tf.reduce_sum(tf.cast(real, tf.float32))

    def state(self) -> dict[str, np.ndarray]:
        """Everything that a step changes, by name. On several workers all must call it."""
        return {name: _numpy(variable) for name, variable in self._variables().items()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a state.

        Raises:
            RequestError: it is another network's, or another optimizer's.
        """
        variables = self._variables()
        for name in sorted(variables.keys() | state.keys()):
            here = tuple(variables[name].shape) if name in variables else None
            there = state[name].shape if name in state else None
            if here != there:
                raise RequestError(
                    f"The checkpoint does not fit this training: {name} has the shape {there} there and {here} here. "
                    "Train with the options that it was made with, or anew with --restart."
                )
        for name, variable in variables.items():
            variable.assign(state[name])

    def _variables(self) -> dict:
        groups = {"model": self.model.variables, "optimizer": self.optimizer.variables, "average": self._averages}
        return {
            f"{group}/{index}/{_name(variable)}": variable
            for group, variables in groups.items()
            for index, variable in enumerate(variables)
        }

    def weights(self) -> list[np.ndarray]:
        """What is judged and kept: moving averages where there are any. In the order of ``model.weights``."""
        averages = {id(v): a for v, a in zip(self._averaged, self._averages, strict=True)} if self._averages else {}
        return [_numpy(averages.get(id(variable), variable)) for variable in self.model.weights]

    def finished(self, weights: list[np.ndarray]) -> keras.Model:
        """The model with these weights, in float32 and as stock layers have it."""
        self.model.set_weights(weights)
        for layer in _layers(self.model):
            layer.dtype_policy = "float32"
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized, layer.trainable = False, True
        return self.model


def logits(model) -> keras.Model:
    """A classifier without its softmax: what losses and half precision want.

    Raises:
        RequestError: not one output of (N, classes), or it ends in a sigmoid.
    """
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:
        shapes = [tuple(tensor.shape) for tensor in model.outputs]
        raise RequestError(f"{model.name!r} has outputs of shape {shapes}; a classifier has one of (None, classes).")
    last, node, _ = model.outputs[0]._keras_history
    activation = getattr(last, "activation", None)
    if isinstance(last, keras.layers.Softmax) or (
        isinstance(last, keras.layers.Activation) and activation is keras.activations.softmax
    ):
        return keras.Model(model.inputs[0], last._inbound_nodes[node].input_tensors[0])
    if activation is keras.activations.softmax:  # inside the last layer, so that only its logarithm can be had
        return keras.Model(model.inputs[0], keras.ops.log(keras.ops.maximum(model.outputs[0], 1e-7)))
    if activation is keras.activations.sigmoid:
        raise RequestError(
            f"{model.name!r} ends in a sigmoid: labels here are one class an image, so end in a softmax."
        )
    return model


def _normalised(pixels, preprocessing: Preprocessing):
    mean, std = (tf.constant(values, tf.float32) for values in (preprocessing.mean, preprocessing.std))
    return (tf.cast(pixels, tf.float32) - mean) / std


def _layers(model):
    return [layer for layer in model._flatten_layers() if not isinstance(layer, keras.Model)]


def _name(variable) -> str:
    """Without the names that are numbered through the whole process: of seed generators and optimizers."""
    name = getattr(variable, "path", variable.name)
    if "seed_generator" in name:
        return "seed"
    return re.sub(r"^(sgd|rmsprop|adamw|loss_scale)\w*/", "", name)


def _numpy(variable) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable))
