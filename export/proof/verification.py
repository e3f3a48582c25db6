"""Does the file do what the model does? Compared on real images, not assumed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.proof.dense_judging import Differences
from mobilenets_tf.manifest import manifest_of
from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.quantize.calibration import one_by_one
from mobilenets_tf.tflite.runtime import Runner

# Largest difference allowed between Keras and a float32 file, relative to the largest output.
FLOAT_TOLERANCE = 1e-4
# Half precision keeps 11 bits of each weight.
HALF_TOLERANCE = 2e-2
# The forms of a detector's and a segmenter's files whose outputs are the Keras model's own.
COMPARABLE = ("raw", "stride")


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

    @property
    def agreement(self) -> float:
        """The share of images with the reference's answer."""
        return self.top1_agreement

    @property
    def drop(self) -> float:
        """What is lost: of the accuracy, or without labels of the answers."""
        return 1 - self.top1_agreement if self.top1 is None else self.reference_top1 - self.top1

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


@dataclass(frozen=True)
class OutputDifference:
    """One output of a candidate beside the reference's.

    name: the file's for it. shape: without the batch axis. The others as in ``Comparison``.
    """

    name: str
    shape: tuple[int, ...]
    largest_difference: float
    relative_difference: float
    snr_db: float


@dataclass(frozen=True)
class OutputsComparison:
    """A candidate's outputs beside the reference's, where no single one of them names a class: boxes and scores, maps.

    images: how many. outputs: in the model's order.
    """

    images: int
    outputs: tuple[OutputDifference, ...]

    @property
    def relative_difference(self) -> float:
        """The greatest of all outputs'."""
        return max(output.relative_difference for output in self.outputs)

    @property
    def snr_db(self) -> float:
        """The lowest of all outputs'."""
        return min(output.snr_db for output in self.outputs)

    def as_dict(self) -> dict:
        """For JSON; an infinite ratio (equal outputs) is None."""
        values = asdict(self)
        for output in values["outputs"]:
            output["snr_db"] = None if np.isinf(output["snr_db"]) else output["snr_db"]
        return values

    def lines(self) -> list[str]:
        """For people."""
        width = max(len(output.name) for output in self.outputs)
        return [
            f"{output.name:<{width}}  largest difference {output.largest_difference:.3g} "
            f"({output.relative_difference:.2g} of the largest value), signal to noise {output.snr_db:.1f} dB, on "
            f"{self.images} images"
            for output in self.outputs
        ]


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
    progress: Progress = silent,
) -> Comparison | OutputsComparison:
    """Compare a TFLite file with the Keras model that it was made from.

    Args:
        file: path or content of the ``.tflite`` file.
        model: a ``keras.Model`` with one input. All its outputs are compared; a single one of (N, classes) is a
            classifier's.
        images: preprocessed samples in any form that calibration takes. A generator that calibration has used up is
            empty here.
        labels: the right class of each image, for a classifier's accuracies.
        for_model, for_file: what each of the two takes for a batch of ``images``, where that is not the same: with
            uint8 pixels as images for instance ``ImageInput.wanted.normalise`` and, for a file that takes pixels,
            nothing.
        threads: for LiteRT.

    Raises:
        RequestError: a file that cannot be run, no images, shapes that do not fit, or a file whose outputs are not
            those of its network: see ``check_form``.
    """
    if not isinstance(file, bytes):
        check_form(Path(file))
    runner = Runner(file, threads)
    check_outputs(runner, model)
    classifies = len(model.outputs) == 1 and len(model.outputs[0].shape) == 2
    differences = [Differences() for _ in model.outputs]
    reference, candidate, count = [], [], 0
    samples = one_by_one(images, len(model.inputs[0].shape))
    total = len(images) if hasattr(images, "__len__") else None
    for batch in in_batches(track(samples, "verifying", progress, total)):
        count += len(batch)
        for wanted, sample in zip(_by_image(model, for_model(batch)), for_file(batch), strict=True):
            found = [output[0] for output in runner(sample)]
            if classifies:
                reference += wanted
                candidate += found
            else:
                for place, difference in enumerate(differences):
                    difference.add(wanted[place : place + 1], found[place : place + 1])
    if not count:
        raise RequestError("There are no images to verify with.")
    if classifies:
        return compare(np.array(reference), np.array(candidate), labels)
    ends = [(details["name"], tuple(map(int, details["shape"][1:]))) for details in runner.outputs]
    outputs = (OutputDifference(*end, **found.result()) for end, found in zip(ends, differences, strict=True))
    return OutputsComparison(count, tuple(outputs))


def check_form(file: Path) -> None:
    """Refuse a file whose outputs are not its network's own, as the manifest beside it says.

    Raises:
        RequestError: which form it has, and what to do.
    """
    form = manifest_of(file).get("form")
    if form not in (None, *COMPARABLE):
        own = "stride" if form in ("full", "mask") else "raw"
        raise RequestError(
            f"{file} gives its answers in the form {form!r}, and the Keras model gives {own!r} outputs: they cannot be "
            "compared. deploy did compare this file before it took that form, and its answers after (see its report). "
            f"Judge it with:  mobilenets-tf evaluate {file} --images DATA  Or deploy with --output {own}, and verify "
            "that file."
        )


def check_outputs(runner: Runner, model) -> None:
    """Refuse a file whose outputs are not the model's.

    Raises:
        RequestError: both are given.
    """
    wanted = [tuple(output.shape[1:]) for output in model.outputs]
    found = [tuple(map(int, details["shape"][1:])) for details in runner.outputs]
    decoded = runner.outputs[0]["name"] == "decoded_boxes"  # of the encoded ones' shape
    if decoded or len(wanted) != len(found) or not all(map(_fits, wanted, found)):
        shown = (", ".join(map(str, shapes)) for shapes in (wanted, found))
        raise RequestError(
            "The model's outputs are {}, the file's are {}. Is it another model's? Or does the file give what a "
            "detector has found, or a segmenter's logits or classes at the image's size: then judge it with "
            "mobilenets-tf evaluate.".format(*shown)
        )


def _fits(wanted: tuple[int | None, ...], found: tuple[int, ...]) -> bool:
    return len(wanted) == len(found) and all(side in (None, other) for side, other in zip(wanted, found, strict=True))


def _by_image(model, batch: np.ndarray) -> Iterator[list[np.ndarray]]:
    """All of the model's outputs for each image of a batch."""
    return map(list, zip(*_keras_outputs(model, batch), strict=True))


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
    return _keras_outputs(model, batch)[0]


def _keras_outputs(model, batch: np.ndarray) -> list[np.ndarray]:
    import keras

    return [np.asarray(output) for output in keras.tree.flatten(model.predict_on_batch(batch))]
