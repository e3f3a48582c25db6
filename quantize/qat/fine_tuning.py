"""Quantisation-aware fine-tuning: it stops early, keeps the best weights and can be resumed (``training.loop``)."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras

from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.quantize.qat.aware import Aware
from mobilenets_tf.training import checkpoints, loop
from mobilenets_tf.training.objectives.objective import Objective, Teacher, soft_cross_entropy, training_loss

_CHECKPOINT = "fine_tuning.checkpoint.npz"


@dataclass(frozen=True)
class FineTuning:
    """The course of a fine-tuning.

    accuracies: on the validation data, before the first epoch and after each; the scores of ``validation`` where that
        is a function.
    best_epoch: the epoch whose weights were kept; 0 for the weights before training.
    """

    accuracies: tuple[float, ...]
    best_epoch: int


def fine_tune(
    aware: Aware,
    training: tf.data.Dataset,
    validation: tf.data.Dataset | Callable[[Callable], float],
    epochs: int = 10,
    *,
    objective: Objective | None = None,
    learning_rate: float = 1e-4,
    patience: int = 3,
    distill: float = 0.0,
    freeze_norms_after: int = 0,
    checkpoint: str | Path | None = None,
    progress: Progress = silent,
) -> FineTuning:
    """Train a network with its rounding in place; afterwards ``aware.model`` has the best weights.

    The learning rate falls to zero along a cosine. Good values are a hundredth of the rate with which the network was
    trained: with Adam, which is used here, 1e-4 to 1e-5 for weights that are good already, and up to 1e-3 where
    post-training quantisation has lost most of the accuracy, as with ``per_tensor``. A few epochs are enough.

    Args:
        aware: the model, see ``quantize_aware``.
        training: a ``tf.data.Dataset`` of known length of batches (images, targets), the images preprocessed as for the
            model. The targets are class indices, or those of ``objective.targets``.
        validation: such a dataset, on which the share of right answers is measured; or a function that gives a score
            for a function which takes images and gives the model's outputs as the file would.
        epochs: how many at most.
        objective: the loss, and which answers are right: a ``DetectionObjective`` or ``SegmentationObjective`` of
            ``training.objectives``, or any object with their ``loss`` and ``distillation`` (of logits), ``right``,
            ``accuracy`` and ``metric``. None: one class an image.
        learning_rate: the first learning rate.
        patience: stop after so many epochs without a better validation accuracy.
        distill: the share of the loss that compares outputs with the float model's, 0 to 1; the rest is the
            objective's. Outputs tell more of an image than its annotation, which helps with little data, and with data
            on which the network was trained (Hinton et al. 2015, arXiv 1503.02531, at temperature 1; for quantised
            networks Mishra and Marr 2017, arXiv 1711.05852).
        freeze_norms_after: for so many epochs BatchNormalization uses the statistics of the batches, for data that
            differ from those on which the network was trained; then it is frozen. 0: frozen from the start.
        checkpoint: a folder for the state after each epoch; if it has a state, training continues from there. The
            state is removed when training ends.
        progress: called with the epoch and its steps.

    Raises:
        RequestError: an option is out of range, or the loss became NaN.
    """
    steps = int(training.cardinality())
    if steps < 1:
        raise RequestError("The training data is empty or does not know its length.")
    options = FineTuningOptions(epochs, learning_rate, patience, distill, freeze_norms_after)
    return fine_tune_steps(
        aware,
        lambda first: training.repeat().skip(first % steps),
        steps,
        validation,
        options,
        checkpoint,
        progress,
        objective,
    )


@dataclass(frozen=True)
class FineTuningOptions:
    """The options of ``fine_tune``, checked.

    Raises:
        RequestError: an option is out of range.
    """

    epochs: int = 10
    learning_rate: float = 1e-4
    patience: int = 3
    distill: float = 0.0
    freeze_norms_after: int = 0

    def __post_init__(self):
        for name, least in (("epochs", 1), ("patience", 1), ("freeze_norms_after", 0)):
            if getattr(self, name) < least:
                raise RequestError(f"{name}={getattr(self, name)}: expected at least {least}.")
        if not self.learning_rate > 0:
            raise RequestError(f"learning_rate={self.learning_rate}: expected more than 0.")
        if not 0 <= self.distill <= 1:
            raise RequestError(f"distill={self.distill}: expected 0 to 1.")


def fine_tune_steps(
    aware: Aware,
    batches: Callable[[int], Iterable],
    steps: int,
    validation: tf.data.Dataset | Callable[[Callable], float],
    options: FineTuningOptions,
    checkpoint: str | Path | None = None,
    progress: Progress = silent,
    objective: Objective | None = None,
) -> FineTuning:
    """Fine-tune as ``fine_tune`` does, with batches that are a function of the step.

    Args:
        aware, validation, options, checkpoint, progress, objective: as for ``fine_tune``.
        batches: a function of a step's number that gives the batches from that step on.
        steps: how many steps make an epoch.

    Raises:
        RequestError: the loss became NaN.
    """
    path = None if checkpoint is None else Path(checkpoint) / _CHECKPOINT
    goal = objective or _OneClass()
    teacher = None
    if options.distill:
        teacher = Teacher(lambda images: aware.float_logits(images, training=False), options.distill)
    tuned = _Tuned(
        aware, goal, teacher, options.learning_rate, options.epochs * steps, options.freeze_norms_after * steps
    )
    if path and path.is_file():
        arrays, about = checkpoints.read(path)
        weights = [arrays.pop(f"best/{index}") for index in range(about["best_arrays"])]
        course, best = loop.Course(**about["progress"]), _Best(about["accuracies"], about["best_epoch"], weights)
        tuned.restore(arrays, course.step)
    else:
        course, best = loop.Course(), _Best([tuned.judge(validation)], 0, aware.model.get_weights())

    def judge() -> dict[str, float]:
        best.note(tuned.judge(validation), aware.model)
        return {goal.metric: best.accuracies[-1]}

    def save(course) -> None:
        if path:
            best_arrays = {f"best/{index}": values for index, values in enumerate(best.weights)}
            about = {
                "progress": asdict(course), "accuracies": best.accuracies, "best_epoch": best.epoch,
                "best_arrays": len(best_arrays),
            }  # fmt: skip
            checkpoints.write(path, tuned.state() | best_arrays, about)

    loop.run(
        tuned, batches, course, epochs=options.epochs, steps_per_epoch=steps,
        judge=judge, save=save, enough=lambda _: len(best.accuracies) - 1 - best.epoch >= options.patience,
        progress=progress,
    )  # fmt: skip
    if path:
        path.unlink(missing_ok=True)
    aware.model.set_weights(best.weights)
    aware.freeze_norms()  # the best epoch may have had live normalisations
    if objective is None:
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=not aware.ends_in_softmax)
        aware.model.compile(loss=loss, metrics=["accuracy"])
    return FineTuning(tuple(best.accuracies), best.epoch)


@dataclass
class _Best:
    """The validation accuracies before the first epoch and after each, and the weights of the best epoch."""

    accuracies: list[float]
    epoch: int
    weights: list[np.ndarray]

    def note(self, accuracy: float, model: tf_keras.Model) -> None:
        """Add the accuracy of one more epoch, and keep the model's weights if it is the best so far."""
        if accuracy > max(self.accuracies):
            self.epoch, self.weights = len(self.accuracies), model.get_weights()
        self.accuracies.append(accuracy)


class _OneClass:
    """The part of an ``Objective`` that fine-tuning needs, for a classifier whose targets are class indices."""

    accuracy, metric = "top1", "val_top1"

    def loss(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax_cross_entropy_with_logits(tf.one_hot(labels, logits.shape[-1]), logits)

    def distillation(
        self, labels: tf.Tensor, logits: tf.Tensor, teacher_logits: tf.Tensor, temperature: float
    ) -> tf.Tensor:
        return soft_cross_entropy(logits, teacher_logits, temperature)

    def right(self, labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.argmax(outputs, -1, tf.int32) == tf.cast(labels, tf.int32), tf.float32)


class _Tuned:
    """The aware model with its optimizer, as ``loop.run`` trains it.

    freeze_at: the step from which normalisations are frozen.
    """

    def __init__(
        self,
        aware: Aware,
        objective: Objective | _OneClass,
        teacher: Teacher | None,
        learning_rate: float,
        steps: int,
        freeze_at: int,
    ):
        self._aware, self._objective, self._teacher = aware, objective, teacher
        self._freeze_at, self._done = freeze_at, 0
        self.accuracy = objective.accuracy
        self._schedule = tf_keras.optimizers.schedules.CosineDecay(learning_rate, steps)
        self._optimizer = tf_keras.optimizers.Adam(self._schedule)
        self._optimizer.build(aware.model.trainable_variables)
        self._live = freeze_at > 0
        if self._live:
            aware.thaw_norms()
        self._trace()

    def _trace(self) -> None:
        self._step = tf.function(self._train)
        self._answer = tf.function(lambda images: self._aware.model(images, training=False), reduce_retracing=True)

    def _freeze(self) -> None:
        self._live = False
        self._aware.freeze_norms()
        self._trace()  # the model computes something else now

    def step(self, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[float, float, float]:
        """Train on one batch: give the loss, how many answers are right, and how many there are."""
        if self._live and self._done >= self._freeze_at:
            self._freeze()
        self._done += 1
        loss, correct = self._step(*batch)
        return float(loss), float(correct), float(len(batch[0]))

    def _train(self, images, targets):
        model = self._aware.model
        with tf.GradientTape() as tape:
            outputs = self._aware.logits(images, training=True)
            losses = training_loss(self._objective, self._teacher, images, targets, outputs)
            loss = tf.reduce_mean(losses) + sum(model.losses, 0.0)
        variables = model.trainable_variables
        self._optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss, tf.reduce_sum(self._objective.right(targets, outputs))

    def facts(self, step: int) -> dict[str, float]:
        """Give what the curves record of a step: its learning rate."""
        return {"rate": float(self._schedule(step))}

    def judge(self, validation: tf.data.Dataset | Callable[[Callable], float]) -> float:
        """Give the score of a validation function, or the share of right answers on batches (images, targets)."""
        if callable(validation):
            return validation(self._answer)
        right = [
            (float(tf.reduce_sum(self._objective.right(targets, self._answer(images)))), len(images))
            for images, targets in validation
        ]
        return sum(correct for correct, _ in right) / max(1, sum(count for _, count in right))

    def state(self) -> dict[str, np.ndarray]:
        """Copy all variables of model and optimizer."""
        return {str(index): variable.numpy() for index, variable in enumerate(self._variables())}

    def restore(self, state: dict[str, np.ndarray], step: int) -> None:
        """Continue from a state after so many steps.

        Raises:
            RequestError: the state is of another model or of other options.
        """
        self._done = step
        if self._live and step >= self._freeze_at:
            self._freeze()
        variables = self._variables()
        if [value.shape for value in state.values()] != [tuple(variable.shape) for variable in variables]:
            raise RequestError(
                "The checkpoint is of another model or other options; remove it to train from the start."
            )
        for index, variable in enumerate(variables):
            variable.assign(state[str(index)])

    def _variables(self) -> list[tf.Variable]:
        return [*self._aware.model.variables, *self._optimizer.variables]
