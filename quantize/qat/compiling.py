"""A tf_keras model that is compiled with Keras 3's optimizers, losses and metrics as well as with those of tf_keras."""

from typing import Any

import keras
import tensorflow as tf
import tf_keras

from mobilenets_tf.errors import RequestError

# What Keras 3's optimizers have and those of tf_keras do not: refused unless it is not used.
_ONLY_KERAS_3 = ("loss_scale_factor", "gradient_accumulation_steps")


class CompiledModel(tf_keras.Model):
    """A tf_keras model whose ``compile`` takes objects of Keras 3 too."""

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, metrics: Any = None, **options) -> None:
        """Compile as ``tf_keras.Model.compile`` does.

        Args:
            optimizer, loss, metrics: names, objects of tf_keras, or objects of Keras 3.
            options: of ``tf_keras.Model.compile``.

        Raises:
            RequestError: tf_keras has no such optimizer, or not all of its options.
        """
        if options.get("weighted_metrics") is not None:
            options["weighted_metrics"] = tf.nest.map_structure(_metric, options["weighted_metrics"])
        loss, metrics = (tf.nest.map_structure(*each) for each in ((_loss, loss), (_metric, metrics)))
        super().compile(_optimizer(optimizer), loss, metrics, **options)


def _optimizer(given: Any) -> Any:
    """Make tf_keras' form of an optimizer of Keras 3, with the same options; its state begins anew."""
    if not isinstance(given, keras.optimizers.Optimizer):
        return given
    name, options = type(given).__name__, given.get_config()
    kind = getattr(tf_keras.optimizers, name, None)
    unknown = [option for option in _ONLY_KERAS_3 if options.pop(option, None) is not None]
    if getattr(given, "_exclude_from_weight_decay_names", None):
        unknown.append("exclude_from_weight_decay")
    if kind is None or type(given).__module__.split(".")[0] != "keras" or unknown:
        what = f"with {', '.join(unknown)}" if kind is not None and unknown else "among its optimizers"
        raise RequestError(
            f"A quantisation-aware model trains with tf_keras, which has no {name} {what}. Pass another optimizer, for "
            "example keras.optimizers.Adam(1e-4), or apply yours in a loop of your own: the gradients of "
            "aware.model.trainable_variables."
        )
    rate = getattr(given, "_learning_rate", None)
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        options["learning_rate"] = _Schedule(rate)
    return kind(**options)


def _loss(given: Any) -> Any:
    return _Loss(given) if isinstance(given, keras.losses.Loss) else given


def _metric(given: Any) -> Any:
    return _Metric(given) if isinstance(given, keras.metrics.Metric) else given


class _Schedule(tf_keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate schedule of Keras 3."""

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule):
        self._schedule = schedule

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        return self._schedule(step)

    def get_config(self) -> dict:
        return {"schedule": self._schedule}


class _Loss(tf_keras.losses.Loss):
    """A loss of Keras 3. tf_keras takes the mean or the sum of what the loss gives for each sample."""

    def __init__(self, loss: keras.losses.Loss):
        reductions = {"sum": "sum", "none": "none", None: "none"}
        super().__init__(reductions.get(loss.reduction, "sum_over_batch_size"), loss.name)
        self._loss = loss

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        return self._loss.call(y_true, y_pred)


class _Metric(tf_keras.metrics.Metric):
    """A metric of Keras 3."""

    def __init__(self, metric: keras.metrics.Metric):
        super().__init__(metric.name)
        self._metric = metric

    def update_state(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None) -> None:
        self._metric.update_state(y_true, y_pred, sample_weight=sample_weight)

    def result(self) -> tf.Tensor:
        return self._metric.result()

    def reset_state(self) -> None:
        self._metric.reset_state()
