"""The Keras optimizer that runs a recipe: its update, its learning rate and its weight decay.

Keras' own parts, but for four things. Its RMSprop begins with mean squares of zero. Its SGD multiplies each gradient by
the learning rate of its own step, where PyTorch and TensorFlow 1 multiply their sum by the current one. None of its
optimizers has a weight decay that is part of the gradient. And under tf.distribute it clips, and checks for infinities,
what one replica alone has computed.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from keras.optimizers.schedules import CosineDecay, ExponentialDecay, LearningRateSchedule

from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.layer_names import is_head
from mobilenets_tf.training import recipes
from mobilenets_tf.training.recipes import Decay, Rate, Recipe

_KINDS = ("depthwise", "norm", "bias", "kernel")
_NORMS = (
    keras.layers.BatchNormalization, keras.layers.GroupNormalization, keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)  # fmt: skip
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)


def build(recipe: Recipe, model, steps_per_epoch: int, *, loss_scaling: bool = False) -> keras.optimizers.Optimizer:
    """Build the optimizer of a recipe, with its variables made for ``model.trainable_variables``.

    Gradients are summed over the replicas of a tf.distribute strategy, so each replica's loss is to be divided by the
    global batch; model and optimizer are made under the same ``strategy.scope()``. Which weights decay is not part of
    the optimizer's configuration: make it anew with this function, then restore its variables.

    Args:
        recipe: its ``optimizer``, ``rate``, ``head_rate``, ``decay``, ``clip_norm``, ``batch_size`` and ``epochs``; the
            moving average is not the optimizer's.
        model: a built ``keras.Model``.
        steps_per_epoch: updates in an epoch.
        loss_scaling: for float16: the loss goes through ``scale_loss``, and a step with infinite gradients is left out.

    Raises:
        RequestError: the optimizer lacks that decay, a kind of weight is unknown, or the learning rate is out of range.
    """
    rate = learning_rate(recipe.rate, recipe.batch_size, recipe.epochs, steps_per_epoch)
    decay = _decay(recipe.decay, recipe.epochs * steps_per_epoch)
    common = {"learning_rate": rate, "global_clipnorm": recipe.clip_norm}
    record = recipe.optimizer
    if isinstance(record, recipes.AdamW):
        if not isinstance(decay, float):
            raise RequestError(
                f"AdamW with a weight decay from {recipe.decay.value} to {recipe.decay.last}: only SGD's and RMSprop's "
                "can change. Give Decay(last=None), or another optimizer."
            )
        optimizer = AdamW(
            weight_decay=decay, beta_1=record.beta_1, beta_2=record.beta_2, epsilon=record.epsilon, **common
        )
    elif isinstance(record, recipes.SGD):
        optimizer = SGD(momentum=float(record.momentum), nesterov=record.nesterov, **common)
        optimizer.coupled_decay = decay
    else:
        optimizer = RMSprop(rho=record.decay, momentum=record.momentum, epsilon=record.epsilon, **common)
        optimizer.initial = record.initial
        optimizer.coupled_decay = decay
    kind = kinds(model)
    without = [weight for weight in model.trainable_variables if kind[id(weight)] in recipe.decay.without]
    optimizer.exclude_from_weight_decay(var_list=without)
    layers = [layer for layer in model._flatten_layers() if layer._trainable_variables]
    head = [layer for layer in layers if is_head(layer.name)] or layers[-1:]
    optimizer.head = frozenset(id(weight) for layer in head for weight in layer._trainable_variables)
    optimizer.head_rate = recipe.head_rate
    if loss_scaling:
        optimizer = LossScaleOptimizer(optimizer)
    optimizer.build(model.trainable_variables)
    return optimizer


def learning_rate(rate: Rate, batch_size: int, epochs: int, steps_per_epoch: int) -> LearningRateSchedule:
    """Return the learning rate, float64, as a function of the step, which counts from 0.

    The warm-up leaves ``rate.start`` at step 0 and is at the peak when it ends. A cosine is at ``rate.last`` one step
    (or, ``by_epoch``, one epoch) after the training, and stays there. ``by_epoch`` it is that of the epochs since the
    training began, warm-up or not, as in [cvnets] (optim/scheduler/cosine.py); otherwise that of the steps since the
    warm-up.

    Raises:
        RequestError: ``steps_per_epoch``, ``rate.every`` or a warm-up out of range, or two warm-ups.
    """
    if steps_per_epoch < 1:
        raise RequestError(f"steps_per_epoch={steps_per_epoch}: expected at least 1. Is there a full batch of images?")
    if rate.warmup_steps and rate.warmup_epochs:
        raise RequestError(
            f"warmup_steps={rate.warmup_steps} and warmup_epochs={rate.warmup_epochs}: give one, the other as 0."
        )
    for name in ("warmup_steps", "warmup_epochs"):
        if getattr(rate, name) < 0:
            raise RequestError(f"{name}={getattr(rate, name)}: expected 0 or more.")
    if not rate.every > 0:
        raise RequestError(f"every={rate.every}: expected more than 0 epochs.")
    # Keras computes a schedule in the type of its first number, and takes Python's for float32. In that its cosine is
    # 0.3 % off a thousand steps before the end of a million, and zero for the last ten.
    peak = np.float64(rate.peak * batch_size / rate.batch if rate.batch else rate.peak)
    warmup = rate.warmup_steps or round(rate.warmup_epochs * steps_per_epoch)
    if rate.kind == "cosine" and not rate.by_epoch:
        return CosineDecay(
            np.float64(rate.start) if warmup else peak, max(epochs * steps_per_epoch - warmup, 1),
            alpha=rate.last / peak, warmup_target=peak if warmup else None, warmup_steps=warmup,
        )  # fmt: skip
    if rate.kind == "cosine":
        course, unit = CosineDecay(peak, epochs, alpha=rate.last / peak), steps_per_epoch
    else:
        factor = np.float64(rate.factor if rate.kind == "exponential" else 1.0)
        # A fall is due when step / every is whole. Without this a rounded quotient is now and then just below, and the
        # fall one step late.
        every = np.float64(rate.every * steps_per_epoch * (1 - 1e-12))
        course, unit = ExponentialDecay(peak, every, factor, staircase=rate.staircase), 1
    return _Course(course, unit, float(rate.start), peak, warmup)


def kinds(model) -> dict[int, str]:
    """Classify each weight of a model, and of models inside it, by the type of its layer.

    Returns:
        ``id(variable)`` -> "norm" (all that normalisation layers have), "bias" (any other variable of that name),
        "depthwise" (the kernels of depthwise convolutions and of a separable one's first half) or "kernel" (the rest).
    """
    result = {}
    for layer in model._flatten_layers():  # Keras' one list that also has layers inside of layers that are no models
        for weight in layer._trainable_variables + layer._non_trainable_variables:
            if isinstance(layer, _NORMS):
                kind = "norm"
            elif weight.name == "bias":
                kind = "bias"
            elif isinstance(layer, _DEPTHWISE) or weight.name == "depthwise_kernel":
                kind = "depthwise"
            else:
                kind = "kernel"
            result[id(weight)] = kind
    return result


def _decay(decay: Decay, steps: int):
    """Return the weight decay as a number, or as a schedule over the steps."""
    for kind in decay.without:
        if kind not in _KINDS:
            raise unknown("kind of weight", kind, _KINDS)
    if decay.value < 0:
        raise RequestError(f"A weight decay of {decay.value}: expected 0 or more.")
    if decay.last is None or decay.last == decay.value:
        return float(decay.value)
    if not decay.value:
        raise RequestError(f"A weight decay from 0 to {decay.last}: it can only fall. Give last=None for none at all.")
    return CosineDecay(np.float64(decay.value), steps, alpha=decay.last / decay.value)


class _Course(LearningRateSchedule):
    """Rises linearly for ``warmup`` steps, then follows ``course``, which counts units of ``unit`` steps from 0."""

    def __init__(self, course: LearningRateSchedule, unit: int, start: float, peak: float, warmup: int):
        self.course = course
        self.unit = unit
        self.start = start
        self.peak = peak
        self.warmup = warmup

    def __call__(self, step):
        after = self.course(ops.floor_divide(step, self.unit))
        if not self.warmup:
            return after
        done = ops.cast(step, "float64") / self.warmup
        return ops.where(done < 1, self.start + (self.peak - self.start) * done, after)

    def get_config(self):
        own = {"unit": self.unit, "start": self.start, "peak": float(self.peak), "warmup": self.warmup}
        return {"course": self.course.get_config(), **own}


class _Own:
    """Clips the sum of all replicas' gradients, as one process with the whole batch would, has a learning rate of its
    own for some variables, and computes the schedule once a step.

    Keras clips each replica's before they are summed: on two replicas, up to twice the limit. Its weight decay computes
    the schedule again for each variable, which makes a graph that takes TensorFlow seconds to trace and to optimise.

    head, head_rate: variables (by ``id``) and what their learning rate is multiplied by.
    """

    head: frozenset = frozenset()
    head_rate = 1.0
    _rate = None  # of the step that is being taken

    def apply(self, grads, trainable_variables=None):
        self._rate = self._get_current_learning_rate()
        try:
            super().apply(grads, trainable_variables)
        finally:
            self._rate = None

    def _get_current_learning_rate(self):
        return super()._get_current_learning_rate() if self._rate is None else self._rate

    def update_step(self, gradient, variable, learning_rate):
        if id(self._trainable_variables[self._get_variable_index(variable)]) in self.head:
            learning_rate = learning_rate * self.head_rate
        super().update_step(gradient, variable, learning_rate)

    def _clip_gradients(self, grads):
        return super()._clip_gradients(tf.distribute.get_replica_context().all_reduce("sum", grads))

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars  # they are


class _Coupled(_Own):
    """Weight decay in the gradient, not clipped: ``coupled_decay``, a number or a schedule, times the weight."""

    coupled_decay = 0.0

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        decay = self.coupled_decay
        if decay:
            decay = decay(self.iterations) if callable(decay) else decay
            grads = [
                gradient + ops.cast(decay, variable.dtype) * variable if self._use_weight_decay(variable) else gradient
                for gradient, variable in zip(grads, trainable_variables, strict=True)
            ]
        super()._backend_update_step(grads, trainable_variables, learning_rate)


class RMSprop(_Coupled, keras.optimizers.RMSprop):
    """Keras', with mean squares that begin at ``initial``."""

    initial = 1.0

    def add_optimizer_variables(self, trainable_variables, name, initializer="zeros"):
        if name == "velocity":
            initializer = keras.initializers.Constant(self.initial)
        return super().add_optimizer_variables(trainable_variables, name, initializer)


class _SGD(keras.optimizers.SGD):
    """Keras', but that the learning rate multiplies the sum of the gradients."""

    def update_step(self, gradient, variable, learning_rate):
        if not self.momentum:
            super().update_step(gradient, variable, learning_rate)
            return
        total = self.momentums[self._get_variable_index(variable)]
        self.assign(total, self.momentum * total + gradient)
        ahead = gradient + self.momentum * total if self.nesterov else total
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * ahead)


class SGD(_Coupled, _SGD):
    """PyTorch's."""


class _AdamW(keras.optimizers.AdamW):
    """Keras', but that what is the same for all variables is computed once a step."""

    _corrections = None  # of the means and of their squares, which begin at zero

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        step = ops.cast(self.iterations + 1, "float32")
        powers = [ops.power(ops.cast(beta, "float32"), step) for beta in (self.beta_1, self.beta_2)]
        self._corrections = 1 - powers[0], ops.sqrt(1 - powers[1])
        super()._backend_update_step(grads, trainable_variables, learning_rate)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        mean, square = self._momentums[index], self._velocities[index]
        first, second = self._corrections
        alpha = ops.cast(learning_rate, variable.dtype) * second / first
        self.assign_add(mean, (gradient - mean) * (1 - self.beta_1))
        self.assign_add(square, (ops.square(gradient) - square) * (1 - self.beta_2))
        self.assign_sub(variable, mean * alpha / (ops.sqrt(square) + self.epsilon))


class AdamW(_Own, _AdamW):
    """Keras', on the sum of all replicas' gradients."""


class LossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Keras', but that replicas agree: it would ask the first one whether its own gradients are finite."""

    def check_finite(self, grads):
        infinite = ops.cast(ops.logical_not(super().check_finite(grads)), "float32")
        return tf.distribute.get_replica_context().all_reduce("sum", infinite) == 0
