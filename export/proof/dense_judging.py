"""What a detector's or a segmenter's file does on images beside the model that it was made of."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from mobilenets_tf.answers.predictor import classes_at
from mobilenets_tf.data import images
from mobilenets_tf.data.boxes import Boxes, Detections
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.tasks import metrics
from mobilenets_tf.tasks.postprocess import Postprocess
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.tflite.runtime import Runner

# A detection that the float file is surer of than this is one that the other file should have too.
_SURE = 0.5


@dataclass(frozen=True)
class DenseComparison:
    """A candidate's answers beside the reference's, on the same images.

    images: how many. largest_difference: max |candidate - reference| over all outputs; relative_difference: the
        greatest of each output's, divided by its max |reference|; snr_db: the lowest of each output's, infinite when
        they are equal.
    measure: what the scores are, "mAP at IoU 0.5" or "mIoU". agreement: the same of the candidate with the reference's
        answers for the truth; of a detector, those that it is sure of.
    reference_score, score: where the images are annotated; reference_classes, classes: of each class, by its name.
    """

    images: int
    largest_difference: float
    relative_difference: float
    snr_db: float
    measure: str
    agreement: float
    reference_score: float | None = None
    score: float | None = None
    reference_classes: dict[str, float] = field(default_factory=dict)
    classes: dict[str, float] = field(default_factory=dict)

    @property
    def drop(self) -> float:
        """What is lost: of the score, or without annotations of the agreement."""
        return 1 - self.agreement if self.score is None else self.reference_score - self.score

    def as_dict(self) -> dict:
        """For the manifest: JSON has no infinity (equal outputs) and no NaN (a class that no image has)."""
        values = asdict(self) | {"snr_db": None if np.isinf(self.snr_db) else self.snr_db}
        for name in ("reference_classes", "classes"):
            values[name] = {key: None if np.isnan(value) else value for key, value in values[name].items()}
        return values

    def lines(self) -> list[str]:
        """For people."""
        lines = [
            f"largest difference  {self.largest_difference:.3g} ({self.relative_difference:.2g} of the largest output)",
            f"signal to noise     {self.snr_db:.1f} dB",
            f"agreement           {self.agreement:.1%} {self.measure} with float32's answers on {self.images} images",
        ]
        if self.score is not None:
            before, after = self.reference_score, self.score
            change = 100 * (after - before)
            lines.append(f"accuracy            {self.measure} {before:.1%} -> {after:.1%} ({change:+.1f} points)")
        return lines


class Answers:
    """What files answer, added up image by image.

    Args:
        class_names: of objects or pixels. void: of masks.
        postprocess: of a detector; None for a segmenter.
    """

    def __init__(self, class_names: Sequence[str], void: int, postprocess: Postprocess | None):
        self._names, self._void, self._postprocess = tuple(class_names), void, postprocess

    def of(self, outputs: Sequence[np.ndarray], height: int, width: int):
        """``Detections``, or the class of each pixel, of one image's outputs without their batch axis."""
        return self._postprocess(*outputs) if self._postprocess else classes_at(outputs[0], height, width)

    @property
    def measure(self) -> str:
        return "mAP at IoU 0.5" if self._postprocess else "mIoU"

    def meter(self) -> "Meter":
        """Of a file against truths."""
        return Meter(self._names, self._void, bool(self._postprocess))


class Meter:
    """The score of answers against truths: boxes, or masks."""

    def __init__(self, names: Sequence[str], void: int, detects: bool):
        self._names, self._confusion = names, None if detects else metrics.Confusion(len(names), void)
        self._found: list[Detections] = []
        self._truths: list[Boxes] = []

    def add(self, answer, truth) -> None:
        if self._confusion:
            self._confusion.add(truth, answer)
        else:
            self._found.append(answer)
            self._truths.append(truth)

    def result(self) -> tuple[float, dict[str, float]]:
        """The score, and that of each class."""
        if self._confusion:
            return self._confusion.miou, dict(zip(self._names, self._confusion.iou.tolist(), strict=True))
        found = metrics.average_precision(self._found, self._truths, self._names)
        return found["map50"], found["per_class"]


def sure(detections: Detections) -> Boxes:
    """Those above the threshold, as if they were the truth."""
    found = detections.above(_SURE)
    return Boxes(found.boxes, found.classes, np.zeros(len(found), bool))


class Differences:
    """How far a file's outputs are from another's, over all images."""

    def __init__(self):
        self._largest, self._greatest, self._signal, self._noise = (np.zeros(0) for _ in range(4))

    def add(self, reference: Sequence[np.ndarray], candidate: Sequence[np.ndarray]) -> None:
        """The outputs of both for one image.

        Raises:
            RequestError: shapes that differ, NaN or infinite values.
        """
        if not len(self._largest):
            self._largest, self._greatest, self._signal, self._noise = (np.zeros(len(reference)) for _ in range(4))
        for place, (wanted, found) in enumerate(zip(reference, candidate, strict=True)):
            if wanted.shape != found.shape:
                raise RequestError(f"The model's output is {wanted.shape}, the file's is {found.shape}.")
            for values, whose in ((wanted, "model"), (found, "file")):
                if not np.isfinite(values).all():
                    raise RequestError(f"The {whose} gives NaN or infinite values.")
            difference = found.astype(np.float64) - wanted
            self._largest[place] = max(self._largest[place], np.abs(difference).max())
            self._greatest[place] = max(self._greatest[place], np.abs(wanted).max())
            self._signal[place] += float((wanted.astype(np.float64) ** 2).sum())
            self._noise[place] += float((difference**2).sum())

    def result(self) -> dict[str, float]:
        """largest_difference, relative_difference, snr_db."""
        with np.errstate(divide="ignore"):
            decibels = 10 * np.log10(np.maximum(self._signal, 1e-30) / self._noise)
        return {
            "largest_difference": float(self._largest.max()),
            "relative_difference": float((self._largest / np.maximum(self._greatest, 1e-30)).max()),
            "snr_db": float(decibels.min()),
        }


def compare(
    reference: Callable[[np.ndarray], list[np.ndarray]],
    candidate: Callable[[np.ndarray], list[np.ndarray]],
    chosen: ImageSet,
    image: ImageInput,
    answers: Answers,
    progress: Progress = silent,
) -> DenseComparison:
    """Compare two models on images; where these are annotated (``BoxedImages``, ``MaskedImages``), score both.

    reference, candidate: take uint8 pixels (size, size, 3) and give an image's outputs without the batch axis.
    """
    differences, same, meters = Differences(), answers.meter(), (answers.meter(), answers.meter())
    annotated = hasattr(chosen, "read")
    for place, (height, width, pixels) in enumerate(track(_load(chosen, image), "verifying", progress, len(chosen))):
        outputs = reference(pixels), candidate(pixels)
        differences.add(*outputs)
        wanted, found = (answers.of(values, height, width) for values in outputs)
        same.add(found, sure(wanted) if isinstance(wanted, Detections) else wanted)
        if annotated:
            _, truth = chosen.read(place)
            for meter, answer in zip(meters, (wanted, found), strict=True):
                meter.add(answer, truth)
    if not len(chosen):
        raise RequestError("There are no images to verify with.")
    agreement, _ = same.result()
    scores = {}
    if annotated:
        (scores["reference_score"], scores["reference_classes"]), (scores["score"], scores["classes"]) = (
            meter.result() for meter in meters
        )
    if np.isnan(agreement):  # the reference is sure of nothing, so nothing can be missed
        agreement = 1.0
    return DenseComparison(
        images=len(chosen), measure=answers.measure, agreement=agreement, **differences.result(), **scores
    )


def of_file(content: bytes, image: ImageInput) -> Callable[[np.ndarray], list[np.ndarray]]:
    """A TFLite file as ``compare`` wants it."""
    runner = Runner(content)
    dtype = runner.inputs[0]["dtype"]
    return lambda pixels: [output[0] for output in runner(image.given.for_input(pixels, dtype))]


def of_keras(model, image: ImageInput) -> Callable[[np.ndarray], list[np.ndarray]]:
    """A Keras model likewise."""
    import keras

    def answer(pixels):
        outputs = model.predict_on_batch(image.wanted.normalise(pixels)[None])
        return [np.asarray(output)[0] for output in keras.tree.flatten(outputs)]

    return answer


def _load(chosen: ImageSet, image: ImageInput) -> Iterator[tuple[int, int, np.ndarray]]:
    for path in chosen.paths:
        photograph = images.decode(path)
        yield photograph.height, photograph.width, image.given.geometry(photograph)
