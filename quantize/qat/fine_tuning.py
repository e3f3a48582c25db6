"""Quantisation-aware fine-tuning: it stops early, keeps the best weights and can be resumed (``training.loop``)."""

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from mobilenets_tf import files
from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.quantize.qat.aware import Aware
from mobilenets_tf.quantize.qat.integer_arithmetic import not_converted
from mobilenets_tf.tasks.outputs import decided, ends_of_file
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.training import loop
from mobilenets_tf.training.checkpoints import Checkpoint, of_fine_tuning
from mobilenets_tf.training.objectives.objective import (
    Objective,
    Teacher,
    logits_of_classes,
    soft_cross_entropy,
    training_loss,
)


@dataclass(frozen=True)
class FineTuning:
    """The course of a fine-tuning.

    accuracies: on the validation data, before the first epoch and after each; the scores of ``validation`` where that
        is a function.
    best_epoch: the epoch whose weights were kept; 0 for the weights before training.
    post_training: the same of the file of post-training quantisation, ``Aware.post_training``.
    """

    accuracies: tuple[float, ...]
    best_epoch: int
    post_training: float

    @property
    def gained(self) -> bool:
        """Whether the fine-tuned file is the one to keep: better than that of post-training quantisation, or as good
        after some training."""
        best = self.accuracies[self.best_epoch]
        return best > self.post_training or (best == self.post_training and self.best_epoch > 0)

    @property
    def outcome(self) -> str:
        """What was gained, a sentence."""
        best = f"{self.accuracies[self.best_epoch]:.1%}"
        epochs = len(self.accuracies) - 1
        weights = f"the weights of epoch {self.best_epoch} of {epochs}"
        if self.best_epoch == 0:
            tried = "the one epoch did not improve" if epochs == 1 else f"none of {epochs} epochs improved"
            weights = f"the weights before training, which {tried}"
        against = f"{best} with {weights}, against {self.post_training:.1%} of post-training quantisation"
        return f"Fine-tuning gained: {against}." if self.gained else f"Fine-tuning gained nothing: {against}."


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
    """Train a network with its rounding in place; afterwards ``aware.model`` has the best weights. Warn if these are
    worse than what post-training quantisation gave: ``aware.post_training`` is the file to use then.

    The learning rate falls to zero along a cosine. Good values are a hundredth of the rate with which the network was
    trained: with Adam, which is used here, 1e-4 to 1e-5 for weights that are good already, and up to 1e-3 where
    post-training quantisation has lost most of the accuracy, as with ``per_tensor``. A few epochs are enough.

    Args:
        aware: the model, see ``quantize_aware``.
        training: a ``tf.data.Dataset`` of known length of batches (images, targets), the images preprocessed as for the
            model. The targets are class indices, or those of ``objective.targets``. For a network with several outputs:
            class indices for each output, in a tuple, or for the first output only; the others then learn to stay as
            the float model's are.
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
        RequestError: an option is out of range, the targets are not those of the model's outputs, the loss became NaN,
            or the checkpoint is damaged, of another training, or in use.
    """
    steps = int(training.cardinality())
    if steps < 1:
        raise RequestError("The training data is empty or does not know its length.")
    options = FineTuningOptions(epochs, learning_rate, patience, distill, freeze_norms_after)
    if objective is None:
        _check_targets(aware, training)
    tuning = fine_tune_steps(
        aware,
        lambda first: training.repeat().skip(first % steps),
        steps,
        validation,
        options,
        progress,
        objective,
        None if checkpoint is None else of_fine_tuning(checkpoint, _identity(aware, options, steps, objective)),
    )
    if not tuning.gained:
        warnings.warn(
            f"{tuning.outcome} Use aware.post_training, or train with more images, more epochs or another "
            f"learning_rate than {learning_rate:g}.",
            stacklevel=2,
        )
    return tuning


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
    progress: Progress = silent,
    objective: Objective | None = None,
    checkpoint: Checkpoint | None = None,
) -> FineTuning:
    """Fine-tune as ``fine_tune`` does, with batches that are a function of the step.

    Args:
        aware, validation, options, progress, objective: as for ``fine_tune``.
        batches: a function of a step's number that gives the batches from that step on.
        steps: how many steps make an epoch.
        checkpoint: where the state is kept after each epoch.

    Raises:
        RequestError: the loss became NaN; the checkpoint is damaged, or of another training; or another fine-tuning
            uses its folder.
    """
    with files.only_user(checkpoint.path.parent, "fine-tuning") if checkpoint else contextlib.nullcontext():
        return _fine_tune(aware, batches, steps, validation, options, progress, objective, checkpoint)


def _identity(aware: Aware, options: FineTuningOptions, steps: int, objective: Objective | None) -> dict:
    """Describe a fine-tuning. A fine-tuning does not go on from a checkpoint with another description."""
    return asdict(options) | {
        "steps per epoch": steps,
        "objective": type(objective).__name__,
        "sha256 of the float file": hashlib.sha256(aware.float_content).hexdigest(),
        "sha256 of the post-training file": hashlib.sha256(aware.post_training).hexdigest(),
    }


def _fine_tune(
    aware: Aware,
    batches: Callable[[int], Iterable],
    steps: int,
    validation: tf.data.Dataset | Callable[[Callable], float],
    options: FineTuningOptions,
    progress: Progress,
    objective: Objective | None,
    checkpoint: Checkpoint | None,
) -> FineTuning:
    goal = objective or _OneClass()
    teacher = None
    if options.distill:
        teacher = Teacher(lambda images: aware.float_logits(images, training=False), options.distill)
    tuned = _Tuned(
        aware, goal, teacher, options.learning_rate, options.epochs * steps, options.freeze_norms_after * steps
    )
    if checkpoint and (found := checkpoint.read()):
        arrays, about = found
        weights = [arrays.pop(f"best/{index}") for index in range(about["best_arrays"])]
        course, best = loop.Course(**about["progress"]), _Best(about["accuracies"], about["best_epoch"], weights)
        tuned.restore(arrays, course.step)
    else:
        course, best = loop.Course(), _Best([tuned.judge(validation, tuned.answer)], 0, aware.model.get_weights())

    def judge() -> dict[str, float]:
        best.note(tuned.judge(validation, tuned.answer), aware.model)
        return {goal.metric: best.accuracies[-1]}

    def save(course) -> None:
        if checkpoint:
            best_arrays = {f"best/{index}": values for index, values in enumerate(best.weights)}
            about = {
                "progress": asdict(course), "accuracies": best.accuracies, "best_epoch": best.epoch,
                "best_arrays": len(best_arrays),
            }  # fmt: skip
            checkpoint.write(tuned.state() | best_arrays, about)

    loop.run(
        tuned, batches, course, epochs=options.epochs, steps_per_epoch=steps,
        judge=judge, save=save, enough=lambda _: len(best.accuracies) - 1 - best.epoch >= options.patience,
        progress=progress,
    )  # fmt: skip
    if checkpoint:
        checkpoint.path.unlink(missing_ok=True)
    aware.model.set_weights(best.weights)
    aware.freeze_norms()  # the best epoch may have had live normalisations
    if objective is None and len(aware.model.outputs) == 1:
        aware.model.compile(**_loss_and_metrics(aware))
    return FineTuning(tuple(best.accuracies), best.epoch, tuned.judge(validation, _answers_of(aware.post_training)))


def _loss_and_metrics(aware: Aware) -> dict:
    """Return the arguments of ``compile`` for a classifier of class indices."""
    (kind,) = decided(ends_of_file(aware.float_content), classifies=True)
    if kind.classes and kind.cut is not None:
        loss = tf_keras.losses.BinaryCrossentropy(from_logits=kind.cut == 0)
        return {"loss": loss, "metrics": [tf_keras.metrics.BinaryAccuracy("accuracy", threshold=kind.cut)]}
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=not aware.ends_in_softmax)
    return {"loss": loss, "metrics": ["accuracy"]}


def _answers_of(content: bytes) -> Callable[[tf.Tensor], list[np.ndarray]]:
    """Return the function that gives a file's outputs for a batch of images."""
    runner = Runner(content)
    return lambda images: [np.concatenate(output) for output in zip(*map(runner, np.asarray(images)), strict=True)]


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
    """The part of an ``Objective`` that fine-tuning needs, for a classifier whose targets are class indices: of each
    output, or of the first one.
    """

    accuracy, metric = "top1", "val_top1"

    def loss(self, labels: Any, logits: Any) -> tf.Tensor:
        pairs = zip(tf.nest.flatten(labels), tf.nest.flatten(logits), strict=False)
        pairs = ((each, logits_of_classes(one)) for each, one in pairs)
        return sum(tf.nn.softmax_cross_entropy_with_logits(tf.one_hot(each, one.shape[-1]), one) for each, one in pairs)

    def distillation(self, labels: Any, logits: Any, teacher_logits: Any, temperature: float) -> tf.Tensor:
        pairs = zip(tf.nest.flatten(labels), tf.nest.flatten(logits), tf.nest.flatten(teacher_logits), strict=False)
        return sum(
            soft_cross_entropy(logits_of_classes(one), logits_of_classes(wanted), temperature)
            for _, one, wanted in pairs
        )

    def right(self, labels: Any, outputs: Any) -> tf.Tensor:
        outputs = map(logits_of_classes, tf.nest.flatten(outputs))
        pairs = list(zip(tf.nest.flatten(labels), outputs, strict=False))
        return sum(tf.cast(tf.argmax(one, -1, tf.int32) == tf.cast(each, tf.int32), tf.float32) for each, one in pairs
                   ) / len(pairs)  # fmt: skip


def _check_targets(aware: Aware, training: tf.data.Dataset) -> None:
    """Refuse targets that are neither for all outputs nor for the first one.

    Raises:
        RequestError: see above.
    """
    _, targets = training.element_spec
    told, outputs = len(tf.nest.flatten(targets)), len(aware.model.outputs)
    if told not in (1, outputs):
        raise RequestError(
            f"The training data has targets for {told} outputs; the model has {outputs}. Give class indices for each "
            "output, (images, (first, second, ...)), or for the first output only."
        )


def _check_classes(labels: Any, outputs: Any) -> None:
    for each, one in zip(tf.nest.flatten(labels), tf.nest.flatten(outputs), strict=False):
        largest = int(tf.reduce_max(each))
        if largest >= one.shape[-1]:
            raise RequestError(f"Class {largest} among the targets; the output has {one.shape[-1]} classes.")


def _distance(output: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
    """Compute how far an output is from the wanted one for each image, (n,), in units of the batch's variance."""
    square = tf.math.squared_difference(output, tf.stop_gradient(wanted)) / (tf.math.reduce_variance(wanted) + 1e-9)
    return tf.reduce_mean(tf.reshape(square, [tf.shape(output)[0], -1]), 1)


class _Tuned:
    """The aware model with its optimizer, as ``loop.run`` trains it.

    answer: a function of images that gives the model's outputs as the file would.

    Args:
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
        self._ends = ends_of_file(aware.float_content)
        self._kinds = decided(self._ends, classifies=True)
        self.accuracy = objective.accuracy
        self._schedule = tf_keras.optimizers.schedules.CosineDecay(learning_rate, steps)
        self._optimizer = tf_keras.optimizers.Adam(self._schedule)
        self._optimizer.build(aware.model.trainable_variables)
        self._live = freeze_at > 0
        if self._live:
            aware.thaw_norms()
        self._trace()

    def _trace(self) -> None:
        answer = not_converted(lambda images: self._aware.model(images, training=False))
        self._step = tf.function(not_converted(self._train))
        self.answer = tf.function(answer, reduce_retracing=True)

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
            loss = tf.reduce_mean(losses + self._held(images, targets, outputs)) + sum(model.losses, 0.0)
        variables = model.trainable_variables
        self._optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss, tf.reduce_sum(self._objective.right(targets, outputs))

    def _held(self, images, targets, outputs):
        """Compute how far the outputs without targets are from the float model's, for each image."""
        outputs, told = tf.nest.flatten(outputs), len(tf.nest.flatten(targets))
        if not isinstance(self._objective, _OneClass) or told == len(outputs):
            return 0.0
        wanted = tf.nest.flatten(self._aware.float_logits(images, training=False))
        return sum(_distance(*pair) for pair in zip(outputs[told:], wanted[told:], strict=True))

    def facts(self, step: int) -> dict[str, float]:
        """Give what the curves record of a step: its learning rate."""
        return {"rate": float(self._schedule(step))}

    def judge(
        self, validation: tf.data.Dataset | Callable[[Callable], float], answer: Callable[[tf.Tensor], Any]
    ) -> float:
        """Give the score of a validation function, or the share of right answers on batches (images, targets).

        answer: a function of images that gives the outputs to judge.

        Raises:
            RequestError: a batch has a class that the outputs do not have.
        """
        if callable(validation):
            return validation(answer)
        right, count = 0.0, 0
        for images, targets in validation:
            outputs = self._scores(answer(images))
            if isinstance(self._objective, _OneClass):
                _check_classes(targets, outputs)
            right += float(tf.reduce_sum(self._objective.right(targets, outputs)))
            count += len(images)
        return right / max(1, count)

    def _scores(self, outputs: Any) -> Any:
        """Return the outputs with a score for each class: one value for two classes is cut as its kind says."""
        scores = [
            tf.constant(kind.scores(np.asarray(each))) if kind.classes and len(end.shape) == 1 else each
            for end, kind, each in zip(self._ends, self._kinds, tf.nest.flatten(outputs), strict=True)
        ]
        return tf.nest.pack_sequence_as(outputs, scores)

    def state(self) -> dict[str, np.ndarray]:
        """Copy all variables of model and optimizer."""
        return {str(index): variable.numpy() for index, variable in enumerate(self._variables())}

    def restore(self, state: dict[str, np.ndarray], step: int) -> None:
        """Continue from a state after so many steps."""
        self._done = step
        if self._live and step >= self._freeze_at:
            self._freeze()
        for index, variable in enumerate(self._variables()):
            variable.assign(state[str(index)])

    def _variables(self) -> list[tf.Variable]:
        return [*self._aware.model.variables, *self._optimizer.variables]
