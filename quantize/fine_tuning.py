"""Quantisation-aware fine-tuning: early stop, best weights kept, resumable. Its loop is that of every training here."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras

from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import Report, silent
from mobilenets_tf.quantize.aware import Aware
from mobilenets_tf.training import checkpoints, loop

_CHECKPOINT = "fine_tuning.checkpoint.npz"


@dataclass(frozen=True)
class FineTuning:
    """What became of a training.

    accuracies: on the validation data, before the first epoch and after each.
    best_epoch: whose weights were kept; 0 for those before training.
    """

    accuracies: tuple[float, ...]
    best_epoch: int


def fine_tune(
    aware: Aware,
    training,
    validation,
    epochs: int = 10,
    *,
    learning_rate: float = 1e-4,
    patience: int = 3,
    distill: float = 0.0,
    freeze_norms_after: int = 0,
    checkpoint=None,
    report: Report = silent,
) -> FineTuning:
    """Train a classifier with its rounding in place; ``aware.model`` then has the best weights.

    The learning rate falls to zero along a cosine. Guidance: a hundredth of what the network was trained with, 1e-4 to
    1e-5 with Adam (the default here) for weights that are good already; up to 1e-3 where post-training quantisation
    has lost most of the accuracy, as with ``per_tensor``. A few epochs are enough: there is little to learn anew.

    Args:
        training, validation: ``tf.data.Dataset`` of batches (images, class indices), preprocessed as for the model; of
            known length.
        epochs: at most.
        patience: stop after that many epochs without a better validation accuracy.
        distill: how much of what is taught is the float model's answer, 0 to 1; the rest is the right class. An answer
            says more of an image than its class does, so that little data goes further, and data that the network knows
            by heart (Hinton et al. 2015, arXiv 1503.02531, at temperature 1; for quantised networks Mishra and Marr
            2017, arXiv 1711.05852).
        freeze_norms_after: for so many epochs BatchNormalization goes on with the statistics of the batches, for data
            that differ from what the network was trained on; then it is frozen. 0: frozen from the start.
        checkpoint: a folder for the state after each epoch; if it holds one, training goes on from there. It is
            emptied when training ends.
        report: called with the epoch and its steps.

    Raises:
        RequestError: an option out of range, or the loss became NaN.
    """
    steps = int(training.cardinality())
    if steps < 1:
        raise RequestError("The training data is empty or does not know its length.")
    options = Options(epochs, learning_rate, patience, distill, freeze_norms_after)
    return fine_tune_steps(
        aware, lambda first: training.repeat().skip(first % steps), steps, validation, options, checkpoint, report
    )


@dataclass(frozen=True)
class Options:
    """As in ``fine_tune``.

    Raises:
        RequestError: one is out of range.
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
    validation,
    options: Options,
    checkpoint=None,
    report: Report = silent,
) -> FineTuning:
    """``fine_tune`` with batches that are a function of the step: ``batches(first)`` are those from there on, and so
    many ``steps`` make an epoch."""
    path = None if checkpoint is None else Path(checkpoint) / _CHECKPOINT
    tuned = _Tuned(
        aware, options.learning_rate, options.epochs * steps, options.distill, options.freeze_norms_after * steps
    )  # fmt: skip
    if path and path.is_file():
        arrays, about = checkpoints.read(path)
        weights = [arrays.pop(f"best/{index}") for index in range(about["best_arrays"])]
        progress, best = loop.Progress(**about["progress"]), _Best(about["accuracies"], about["best_epoch"], weights)
        tuned.restore(arrays, progress.step)
    else:
        progress, best = loop.Progress(), _Best([tuned.judge(validation)], 0, aware.model.get_weights())

    def judge() -> dict[str, float]:
        best.note(tuned.judge(validation), aware.model)
        return {"val_top1": best.accuracies[-1]}

    def save(progress) -> None:
        if path:
            kept = {f"best/{index}": values for index, values in enumerate(best.weights)}
            about = {
                "progress": asdict(progress), "accuracies": best.accuracies, "best_epoch": best.epoch,
                "best_arrays": len(kept),
            }  # fmt: skip
            checkpoints.write(path, tuned.state() | kept, about)

    loop.run(
        tuned, batches, progress, epochs=options.epochs, steps_per_epoch=steps,
        judge=judge, save=save, enough=lambda _: len(best.accuracies) - 1 - best.epoch >= options.patience,
        report=report,
    )  # fmt: skip
    if path:
        path.unlink(missing_ok=True)
    aware.model.set_weights(best.weights)
    aware.freeze_norms()  # which may have been live in the best epoch
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=not aware.ends_in_softmax)
    aware.model.compile(loss=loss, metrics=["accuracy"])
    return FineTuning(tuple(best.accuracies), best.epoch)


@dataclass
class _Best:
    """Validation accuracies, before the first epoch and after each, and the weights of the best."""

    accuracies: list[float]
    epoch: int
    weights: list[np.ndarray]

    def note(self, accuracy: float, model) -> None:
        if accuracy > max(self.accuracies):
            self.epoch, self.weights = len(self.accuracies), model.get_weights()
        self.accuracies.append(accuracy)


class _Tuned:
    """What ``loop.run`` trains: the aware model with its optimizer.

    freeze_at: step from which normalisations are frozen.
    """

    accuracy = "top1"

    def __init__(self, aware: Aware, learning_rate: float, steps: int, distill: float, freeze_at: int):
        self._aware, self._distill, self._freeze_at, self._done = aware, distill, freeze_at, 0
        self._schedule = tf_keras.optimizers.schedules.CosineDecay(learning_rate, steps)
        self._optimizer = tf_keras.optimizers.Adam(self._schedule)
        self._optimizer.build(aware.model.trainable_variables)
        self._loss = tf_keras.losses.CategoricalCrossentropy(from_logits=not aware.ends_in_softmax)
        self._live = freeze_at > 0
        if self._live:
            aware.thaw_norms()
        self._trace()

    def _trace(self) -> None:
        self._step, self._judge = tf.function(self._train), tf.function(self._right)

    def _freeze(self) -> None:
        self._live = False
        self._aware.freeze_norms()
        self._trace()  # what was traced is another function now

    def step(self, batch) -> tuple[float, float, float]:
        if self._live and self._done >= self._freeze_at:
            self._freeze()
        self._done += 1
        loss, correct = self._step(*batch)
        return float(loss), float(correct), float(len(batch[1]))

    def _train(self, images, labels):
        model = self._aware.model
        with tf.GradientTape() as tape:
            outputs = model(images, training=True)
            loss = self._loss(self._targets(images, labels), outputs) + sum(model.losses, 0.0)
        variables = model.trainable_variables
        self._optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss, _correct(outputs, labels)

    def _targets(self, images, labels):
        """Class indices made distributions, mixed with the float model's answers."""
        targets = tf.one_hot(labels, self._aware.float_model.output_shape[-1])
        if self._distill:
            answers = self._aware.float_model(images, training=False)
            targets += self._distill * ((answers if self._aware.ends_in_softmax else tf.nn.softmax(answers)) - targets)
        return targets

    def facts(self, step: int) -> dict:
        return {"rate": float(self._schedule(step))}

    def judge(self, data) -> float:
        """Share of (images, class indices) that is answered right."""
        right = [(float(self._judge(images, labels)), len(labels)) for images, labels in data]
        return sum(correct for correct, _ in right) / max(1, sum(count for _, count in right))

    def _right(self, images, labels):
        return _correct(self._aware.model(images, training=False), labels)

    def state(self) -> dict[str, np.ndarray]:
        return {str(index): variable.numpy() for index, variable in enumerate(self._variables())}

    def restore(self, state: dict[str, np.ndarray], step: int) -> None:
        """Go on from a state after so many steps.

        Raises:
            RequestError: it is another model's.
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

    def _variables(self) -> list:
        return [*self._aware.model.variables, *self._optimizer.variables]


def _correct(outputs, labels):
    found = tf.argmax(outputs, -1, tf.int32) == tf.cast(labels, tf.int32)
    return tf.reduce_sum(tf.cast(found, tf.float32))
