"""The training loop of quantisation-aware fine-tuning: early stop, best weights kept, resumable."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras

from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import Report, silent
from mobilenets_tf.quantize.aware import Aware


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
        report: called with ("training", step, steps).

    Raises:
        RequestError: an option out of range, or the loss became NaN.
    """
    for name, value, least in (
        ("epochs", epochs, 1),
        ("patience", patience, 1),
        ("freeze_norms_after", freeze_norms_after, 0),
    ):
        if value < least:
            raise RequestError(f"{name}={value}: expected at least {least}.")
    if not learning_rate > 0:
        raise RequestError(f"learning_rate={learning_rate}: expected more than 0.")
    if not 0 <= distill <= 1:
        raise RequestError(f"distill={distill}: expected 0 to 1.")
    steps = int(training.cardinality())
    if steps < 1:
        raise RequestError("The training data is empty or does not know its length.")
    schedule = tf_keras.optimizers.schedules.CosineDecay(learning_rate, epochs * steps)
    aware.model.compile(
        optimizer=tf_keras.optimizers.Adam(schedule),
        loss=tf_keras.losses.CategoricalCrossentropy(from_logits=not aware.ends_in_softmax),
        metrics=["accuracy"],
    )
    # Variables that the first step had to make would have it traced twice.
    aware.model.optimizer.build(aware.model.trainable_variables)
    training, validation = _with_targets(aware, training, distill), _with_targets(aware, validation)
    best = _Best(validation, patience, Path(checkpoint) / "best.npz" if checkpoint is not None else None)
    if freeze_norms_after:
        aware.thaw_norms()
    callbacks = [best, _Freeze(aware, freeze_norms_after), _Progress(report, steps, epochs * steps)]
    if checkpoint is not None:  # in front: what it restores is what the others begin with
        callbacks.insert(0, tf_keras.callbacks.BackupAndRestore(str(Path(checkpoint))))
    aware.model.fit(training, epochs=epochs, verbose=0, callbacks=callbacks)
    aware.model._training_state = None  # BackupAndRestore deletes it, and the next fit would look for it
    best.forget()
    aware.model.set_weights(best.weights)
    aware.freeze_norms()  # which may have been live in the best epoch
    # From here on the labels are the caller's again.
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=not aware.ends_in_softmax)
    aware.model.compile(loss=loss, metrics=["accuracy"])
    return FineTuning(tuple(best.accuracies), best.epoch)


def _with_targets(aware: Aware, data, distill: float = 0.0):
    """Class indices made distributions, mixed with the float model's answers."""
    classes = aware.float_model.output_shape[-1]

    def add(images, labels):
        targets = tf.one_hot(labels, classes)
        if distill:
            answers = aware.float_model(images, training=False)
            targets += distill * ((answers if aware.ends_in_softmax else tf.nn.softmax(answers)) - targets)
        return images, targets

    return data.map(add)


class _Best(tf_keras.callbacks.Callback):
    """Keeps the weights of the epoch with the best validation accuracy, the state before training among them.

    file: where to keep them too, for a training that goes on after an interruption; None for nowhere.
    """

    def __init__(self, validation, patience: int, file: Path | None):
        super().__init__()
        self._validation, self._patience, self._file = validation, patience, file
        self.accuracies: list[float] = []
        self.epoch, self.weights = 0, None

    def forget(self) -> None:
        """Remove the file."""
        if self._file:
            self._file.unlink(missing_ok=True)

    def on_train_begin(self, logs=None):
        if self._file and self._file.is_file():
            kept = np.load(self._file, allow_pickle=False)
            self.accuracies, self.epoch = kept["accuracies"].tolist(), int(kept["epoch"])
            self.weights = [kept[f"weights_{i}"] for i in range(len(kept.files) - 2)]
        else:
            self._judge()

    def on_epoch_end(self, epoch, logs=None):
        if not np.isfinite(logs["loss"]):
            raise RequestError(
                f"The loss became {logs['loss']} in epoch {epoch + 1}; try a tenth of the learning rate."
            )
        self._judge()
        if len(self.accuracies) - 1 - self.epoch >= self._patience:
            self.model.stop_training = True

    def _judge(self) -> None:
        _, accuracy = self.model.evaluate(self._validation, verbose=0)
        if not self.accuracies or accuracy > max(self.accuracies):
            self.epoch, self.weights = len(self.accuracies), self.model.get_weights()
        self.accuracies.append(accuracy)
        if self._file:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            whole = self._file.with_suffix(".part.npz")
            weights = {f"weights_{i}": values for i, values in enumerate(self.weights)}
            np.savez(whole, accuracies=self.accuracies, epoch=self.epoch, **weights)
            whole.replace(self._file)


class _Freeze(tf_keras.callbacks.Callback):
    def __init__(self, aware: Aware, after: int):
        super().__init__()
        self._aware, self._after, self._live = aware, after, after > 0

    def on_epoch_begin(self, epoch, logs=None):
        if self._live and epoch >= self._after:
            self._live = False
            self._aware.freeze_norms()


class _Progress(tf_keras.callbacks.Callback):
    def __init__(self, report: Report, steps: int, total: int):
        super().__init__()
        self._report, self._steps, self._total, self._epoch = report, steps, total, 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self._report("training", self._epoch * self._steps + batch + 1, self._total)
