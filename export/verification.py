"""Does the file do what the model does? Compared on real images, not assumed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import Report, silent, track
from mobilenets_tf.quantize.calibration import one_by_one
from mobilenets_tf.runtime import Runner

# Largest difference allowed between Keras and a float32 file, relative to the largest output.
FLOAT_TOLERANCE = 1e-4
# Half precision keeps 11 bits of each weight.
HALF_TOLERANCE = 2e-2


@dataclass(frozen=True)
class Comparison:
    """A candidate's outputs beside the reference's, on the same images.

    images: how many. largest_difference: max |candidate - reference|, and relative_difference the same divided by
        max |reference|.
    snr_db: 10 log10(sum reference^2 / sum (candidate - reference)^2); infinite when they are equal.
    top1_agreement: share of images with the same first answer (for a model with one output value: on the same side of
        0.5); top5_agreement: share whose reference answer is among the candidate's first five.
    ties: share of images where the candidate's highest value is shared by several classes.
    reference_top1, reference_top5, top1, top5: accuracies, where labels were given.
    """

    images: int
    largest_difference: float
    relative_difference: float
    snr_db: float
    top1_agreement: float
    top5_agreement: float
    ties: float
    reference_top1: float | None = None
    reference_top5: float | None = None
    top1: float | None = None
    top5: float | None = None

    def as_dict(self) -> dict:
        """For the manifest; an infinite ratio (equal outputs) is None, as JSON has no infinity."""
        values = asdict(self)
        values["snr_db"] = None if np.isinf(self.snr_db) else self.snr_db
        return values

    def lines(self) -> list[str]:
        """For people."""
        lines = [
            f"largest difference  {self.largest_difference:.3g} ({self.relative_difference:.2g} of the largest output)",
            f"signal to noise     {self.snr_db:.1f} dB",
            f"same answer         {self.top1_agreement:.1%} of {self.images} images"
            f" (among the first five: {self.top5_agreement:.1%}; tied: {self.ties:.1%})",
        ]
        if self.top1 is not None:
            change = 100 * (self.top1 - self.reference_top1)
            lines.append(
                f"accuracy            top-1 {self.reference_top1:.1%} -> {self.top1:.1%} ({change:+.1f} points), "
                f"top-5 {self.reference_top5:.1%} -> {self.top5:.1%}"
            )
        return lines


def compare(reference: np.ndarray, candidate: np.ndarray, labels=None) -> Comparison:
    """Compare two (images, classes) arrays of outputs; ``labels`` holds the right class of each image.

    Outputs of any other shape are flattened; the agreement then means little, the differences mean all.

    Raises:
        RequestError: the shapes differ, there are no images, or an output is NaN or infinite.
    """
    if len(reference) == 0:
        raise RequestError("There are no images to verify with.")
    if reference.shape != candidate.shape:
        raise RequestError(f"The model's output is {reference.shape[1:]}, the file's is {candidate.shape[1:]}.")
    reference = reference.reshape(len(reference), -1).astype(np.float64)
    candidate = candidate.reshape(len(candidate), -1).astype(np.float64)
    for outputs, whose in ((reference, "model"), (candidate, "file")):
        if not np.isfinite(outputs).all():
            broken = int((~np.isfinite(outputs)).any(-1).sum())
            raise RequestError(f"The {whose} gives NaN or infinite values on {broken} of {len(outputs)} images.")
    reference_answer, candidate_answer = answers(reference), answers(candidate)
    difference = np.abs(candidate - reference)
    noise, signal = float((difference**2).sum()), float((reference**2).sum())
    five = _first_five(candidate)
    accuracies = {}
    if labels is not None:
        labels = np.asarray(labels)
        accuracies = {
            "reference_top1": float((reference_answer == labels).mean()),
            "reference_top5": float((_first_five(reference) == labels[:, None]).any(-1).mean()),
            "top1": float((candidate_answer == labels).mean()),
            "top5": float((five == labels[:, None]).any(-1).mean()),
        }
    return Comparison(
        images=len(reference),
        largest_difference=float(difference.max()),
        relative_difference=float(difference.max() / max(np.abs(reference).max(), 1e-12)),
        snr_db=float(10 * np.log10(max(signal, 1e-30) / noise)) if noise else float("inf"),
        top1_agreement=float((candidate_answer == reference_answer).mean()),
        top5_agreement=float((five == reference_answer[:, None]).any(-1).mean()) if five.shape[1] > 1 else 1.0,
        ties=float(((candidate == candidate.max(-1, keepdims=True)).sum(-1) > 1).mean()),
        **accuracies,
    )


def answers(outputs: np.ndarray) -> np.ndarray:
    """The class that each row of (images, classes) outputs names."""
    # One value, such as a sigmoid's: two classes.
    return outputs[:, 0] > 0.5 if outputs.shape[1] == 1 else outputs.argmax(-1)


class Judge:
    """What files lose against a float file, on the same samples for all of them.

    Args:
        reference: the float file's content.
        samples: arrays in the order of the file's inputs; gone through once a file.
        labels: the right class of each. The loss is then one of accuracy; without, the share of other answers.
    """

    def __init__(self, reference: bytes, samples: Iterable[list[np.ndarray]], labels: Sequence[int] | None = None):
        self._samples, self._labels = samples, None if labels is None else np.asarray(labels)
        self._reference = self._answers(reference)

    def __call__(self, content: bytes) -> float:
        """The drop: below zero where a file names more classes rightly than the float file does."""
        found = self._answers(content)
        if self._labels is None:
            return float((found != self._reference).mean())
        right, kept = (int((given == self._labels).sum()) for given in (self._reference, found))
        return (right - kept) / len(found)

    def _answers(self, content: bytes) -> np.ndarray:
        runner = Runner(content)
        return np.concatenate([answers(runner(*arrays)[0].reshape(1, -1)) for arrays in self._samples])


def _first_five(outputs: np.ndarray) -> np.ndarray:
    # Stable, so that classes that tie come in the order of their index, as argmax has them.
    return np.argsort(-outputs, axis=-1, kind="stable")[:, :5]


def _as_it_is(sample: np.ndarray) -> np.ndarray:
    return sample


def verify(
    file,
    model,
    images: Iterable,
    labels=None,
    *,
    for_model: Callable[[np.ndarray], np.ndarray] = _as_it_is,
    for_file: Callable[[np.ndarray], np.ndarray] = _as_it_is,
    threads: int = 2,
    report: Report = silent,
) -> Comparison:
    """Compare a TFLite file with the Keras model that it was made from.

    Args:
        file: path or content of the ``.tflite`` file.
        model: a ``keras.Model`` with one input; its first output is compared.
        images: preprocessed samples in any form that calibration takes. A generator that calibration has used up is
            empty here.
        labels: the right class of each image, for accuracies.
        for_model, for_file: what each of the two takes for a batch of ``images``, where that is not the same: with
            uint8 pixels as images for instance ``ImageInput.wanted.normalise`` and, for a file that takes pixels,
            nothing.
        threads: for LiteRT.

    Raises:
        RequestError: a file that cannot be run, no images, or shapes that do not fit.
    """
    runner = Runner(file, threads)
    reference, candidate = [], []
    samples = one_by_one(images, len(model.inputs[0].shape))
    total = len(images) if hasattr(images, "__len__") else None
    for batch in in_batches(track(samples, "verifying", report, total)):
        candidate += runner.first_outputs(for_file(batch))
        reference.append(keras_outputs(model, for_model(batch)))
    if not reference:
        raise RequestError("There are no images to verify with.")
    return compare(np.concatenate(reference), np.array(candidate), labels)


def in_batches(samples: Iterable, size: int = 16) -> Iterator[np.ndarray]:
    """Samples without a batch axis as batches of at most ``size``: float32, or uint8 if they are that."""
    batch = []
    for sample in samples:
        sample = np.asarray(sample)
        batch.append(sample if sample.dtype == np.uint8 else sample.astype(np.float32))
        if len(batch) == size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def keras_outputs(model, batch: np.ndarray) -> np.ndarray:
    """The model's first output for a batch, at inference."""
    import keras

    return np.asarray(keras.tree.flatten(model.predict_on_batch(batch))[0])
