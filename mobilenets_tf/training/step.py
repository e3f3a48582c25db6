"""The training step of a Keras model: compiled once for each input size, under any tf.distribute strategy; moving
averages of the weights, answers with them, and the state that a checkpoint keeps. An ``Objective`` defines the task
of the training.

Its own step and not ``keras.Model.fit``: batches differ in size from step to step where a recipe says so, a training
goes on in the middle of an epoch, and ``fit`` of Keras 3.15 fails under ``MultiWorkerMirroredStrategy`` (it takes the
first batch, a value a replica, for a tensor). Layers, losses, optimizers and strategies are Keras' and TensorFlow's.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.layer_names import is_head
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.training import optimizers
from mobilenets_tf.training.distribution import Distribution
from mobilenets_tf.training.input.pipeline import Reader, normalised
from mobilenets_tf.training.input.plan import Plan
from mobilenets_tf.training.objectives.objective import Objective, Teacher, training_loss

PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Settings:
    """Settings of a training's speed, which change its result only by rounding.

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
        objective: what the model is trained for.
        model_at: builds the network for an input size in pixels. Called within the strategy's scope.
        plan: the steps.
        size: the network's input in pixels.
        preprocessing: of its input.
        teacher: another network to learn from; None for the annotations alone.

    Raises:
        RequestError: the precision is unknown, XLA is asked for with several workers (its collectives do not run on
            processors), or the model's outputs are not those of the objective.
    """

    def __init__(
        self,
        objective: Objective,
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
            raise RequestError(
                "XLA compiles the step of one replica; leave --jit-compile (jit_compile=) out, or train with one."
            )
        self.objective, self.plan, self.preprocessing, self.distribution = objective, plan, preprocessing, distribution
        self._size, self._settings, self._model_at, self._recipe = size, settings, model_at, plan.recipe
        self._teacher = teacher
        with self._scope():
            self.model = model_at(size)
            self._before = [(layer, _attributes(layer)) for layer in _layers(self.model)]
            self._adjust(self.model)
            self._trained = {size: objective.trained(self.model)}
            self.optimizer = optimizers.build(
                plan.recipe, self.model, plan.steps_per_epoch, loss_scaling=settings.precision == "float16"
            )
            self._averaged = [v for v in self.model.weights if np.issubdtype(v.dtype, np.floating)]
            self._averages = []
            if self._recipe.ema is not None:
                self._averages = [tf.Variable(_numpy(v), trainable=False) for v in self._averaged]
        self._step = tf.function(self._all_replicas, autograph=False)
        self._sums = tf.function(self._summed, autograph=False)
        self._answer = tf.function(self._answers, autograph=False, reduce_retracing=True)

    def _scope(self):
        return self.distribution.strategy.scope()

    def _adjust(self, model) -> None:
        """Apply the recipe's and the settings' changes to the layers; ``finished`` undoes them."""
        policy = "float32" if self._settings.precision == "float32" else f"mixed_{self._settings.precision}"
        for layer in _layers(model):
            layer.dtype_policy = policy
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = self._settings.sync_batchnorm
                if self._recipe.frozen_batchnorm and not is_head(layer.name):
                    layer.trainable = False
                if self._recipe.batchnorm_momentum is not None:
                    layer.momentum = self._recipe.batchnorm_momentum

    def step(self, batch) -> tuple[float, float, float]:
        """Train on (pixels, targets), a value a replica where there are several."""
        loss, correct, count = self._step(*batch)
        return float(loss), float(correct), float(count)

    @property
    def accuracy(self) -> str:
        return self.objective.accuracy

    def facts(self, step: int) -> dict:
        """Return the facts of a step for the curves: its learning rate, and the size of its images in pixels."""
        return {"rate": float(self.optimizer.learning_rate), "size": self.plan[step].size}

    def losses_of(self, variables: Sequence) -> "Callable[[tuple], tuple[float, list[np.ndarray]]]":
        """Return a function that gives a batch's mean loss, and its gradients for some of the model's variables.

        Nothing is trained, and BatchNormalization uses its running statistics. One replica computes.
        """

        def losses(pixels, targets):
            outputs = _float32(self._trained[self._size](normalised(pixels, self.preprocessing), training=False))
            loss = tf.reduce_mean(training_loss(self.objective, self._teacher, pixels, targets, outputs))
            aggregation = tf.AggregationMethod.EXPERIMENTAL_TREE  # as in ``_replica``
            return loss, tf.gradients(loss, [each.value for each in variables], aggregation_method=aggregation)

        compiled = tf.function(losses, autograph=False)

        def of_batch(batch):
            loss, gradients = compiled(*batch)
            return float(loss), [_numpy(gradient) for gradient in gradients]

        return of_batch

    def _all_replicas(self, pixels, targets):
        compiled = self._replica
        if self._settings.jit_compile:
            compiled = tf.function(self._replica, autograph=False, jit_compile=True)
        strategy = self.distribution.strategy
        sums = strategy.run(compiled, args=(pixels, targets))
        if self._averages:
            # As TensorFlow's ExponentialMovingAverage with num_updates: the first values are forgotten at once, above
            # all BatchNorm's variances, which begin a hundred times too large.
            done = keras.ops.cast(self.optimizer.iterations, "float32")
            share = 1 - keras.ops.minimum(self._recipe.ema, (1 + done) / (10 + done))
            for average, variable in zip(self._averages, self._averaged, strict=True):
                average.assign_add(share * (variable.value - average))
        return tuple(strategy.reduce("SUM", value, axis=None) for value in sums)

    def _replica(self, pixels, targets):
        outputs = _float32(self._trained_at(pixels.shape[1])(normalised(pixels, self.preprocessing), training=True))
        loss = training_loss(self.objective, self._teacher, pixels, targets, outputs)
        # Gradients are added up over the replicas.
        loss = (tf.reduce_mean(loss) + sum(self.model.losses, 0.0)) / self.distribution.replicas
        # Two by two: of three gradients, AddN on a processor begins with the one whose memory happens to be free, and a
        # BatchNorm's input has three. A tape knows only AddN; ``deterministic`` keeps Grappler from restoring it.
        gradients = tf.gradients(
            self.optimizer.scale_loss(loss),
            [variable.value for variable in self.model.trainable_variables],
            aggregation_method=tf.AggregationMethod.EXPERIMENTAL_TREE,
        )
        self.optimizer.apply_gradients(zip(gradients, self.model.trainable_variables, strict=True))
        return loss, tf.reduce_sum(self.objective.right(targets, outputs)), tf.cast(tf.shape(pixels)[0], tf.float32)

    def _trained_at(self, size: int):
        """Return the network for another input size. It shares its weights with the network for its own size."""
        if size not in self._trained:
            with self._scope(), tf.init_scope():
                twin = self._model_at(size)
                own = {layer.name: layer for layer in _layers(self.model) if layer.variables}
                shared = keras.models.clone_model(twin, clone_function=lambda layer: own.get(layer.name, layer))
                self._adjust(shared)
            self._trained[size] = self.objective.trained(shared)
        return self._trained[size]

    def judge(self, reader: Reader, progress: Progress = silent) -> dict[str, float]:
        """Return the objective's scores on all images of a reader, with the moving averages where there are any."""
        with self.averaged():
            return self.objective.judge(self, reader, progress)

    @contextmanager
    def averaged(self):
        """Give the model the moving averages as its weights inside the ``with`` block."""
        if not self._averages:
            yield
            return
        own = [_numpy(variable) for variable in self._averaged]
        for variable, average in zip(self._averaged, self._averages, strict=True):
            variable.assign(average.numpy())
        try:
            yield
        finally:
            for variable, value in zip(self._averaged, own, strict=True):
                variable.assign(value)

    def sums(self, batches, progress: Progress = silent, total: int | None = None) -> np.ndarray:
        """Add up ``objective.sums`` for batches of (pixels, truth), over all batches and all replicas.

        total: the number of batches.
        """
        sums = np.float64(0)
        for done, batch in enumerate(batches, 1):
            sums = sums + np.asarray(self._sums(*batch), np.float64)
            progress("validation", done, total)
        return sums

    def _summed(self, pixels, truth):
        strategy = self.distribution.strategy
        sums = strategy.run(lambda x, y: self.objective.sums(y, self._answers(x)), args=(pixels, truth))
        return strategy.reduce("SUM", sums, axis=None)

    def answers(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Return the network's outputs, without training, for a batch of pixels of its input size: an array for each
        output. Only one replica computes."""
        return [np.asarray(output) for output in keras.tree.flatten(self._answer(tf.constant(pixels)))]

    def _answers(self, pixels):
        return _float32(self._trained[self._size](normalised(pixels, self.preprocessing), training=False))

    def state(self) -> dict[str, np.ndarray]:
        """Return everything that a step changes, by name. With several workers, all of them must call this."""
        return {name: _numpy(variable) for name, variable in self._variables().items()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Restore a state.

        Raises:
            RequestError: the state is of another network or another optimizer.
        """
        variables = self._variables()
        for name in sorted(variables.keys() | state.keys()):
            here = tuple(variables[name].shape) if name in variables else None
            there = state[name].shape if name in state else None
            if here != there:
                raise RequestError(
                    f"The checkpoint does not fit this training: {name} has the shape {there} there and {here} here. "
                    "Train with the options that it was made with, or anew with --restart (restart=True)."
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
        """Return the weights to judge and keep, in the order of ``model.weights``: moving averages if there are any."""
        averages = {id(v): a for v, a in zip(self._averaged, self._averages, strict=True)} if self._averages else {}
        return [_numpy(averages.get(id(variable), variable)) for variable in self.model.weights]

    def finished(self, weights: list[np.ndarray]) -> keras.Model:
        """Return the model with these weights, and with the layers' attributes as they were before training."""
        self.model.set_weights(weights)
        for layer, attributes in self._before:
            for name, value in attributes.items():
                setattr(layer, name, value)
        return self.model


def deterministic() -> None:
    """Make TensorFlow compute the same bits for the same steps, for the rest of this process.

    Does nothing if there is a GPU: with tf.config.experimental.enable_op_determinism, some gradients raise an error
    there.
    """
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
        tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})


def _float32(outputs):
    return keras.tree.map_structure(lambda output: tf.cast(output, tf.float32), outputs)


def _layers(model):
    return [layer for layer in model._flatten_layers() if not isinstance(layer, keras.Model)]


def _attributes(layer) -> dict:
    """Return the attributes of a layer that ``Training`` may change."""
    names = ("dtype_policy", "trainable", "synchronized", "momentum")
    return {name: getattr(layer, name) for name in names if hasattr(layer, name)}


def _name(variable) -> str:
    """Return a variable's name without the names of seed generators and optimizers, which Keras numbers globally."""
    name = getattr(variable, "path", variable.name)
    if "seed_generator" in name:
        return "seed"
    return re.sub(r"^(sgd|rmsprop|adamw|loss_scale)\w*/", "", name)


def _numpy(variable) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable))
