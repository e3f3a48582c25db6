"""Segmentation: the class of every pixel."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mobilenets_tf.data.annotated import photographs_of
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.data.masks import MaskedImages, find_masks
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.data.sources import Source
from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import silent
from mobilenets_tf.tasks import intervals
from mobilenets_tf.tasks.metrics import Confusion, intersection_over_union, mean_of_known
from mobilenets_tf.tasks.outputs import BINARY, BINARY_LOGIT, CLASSES, End, OutputKind
from mobilenets_tf.tasks.task import Task, class_name, percent, refuse_label_offset, refuse_not_finite

# The share of equal pixels from which two masks agree. A mask is made at the network's size and then enlarged, which
# moves borders by about a pixel.
_SAME_PIXELS = 0.97


class Segmentation(Task):
    """The class of every pixel. See ``task.Task``.

    forms: "full": logits at the input's size; "mask": the class of each pixel; "stride": logits as the head gives them.
    """

    name, measure, key, scales = "segment", "mIoU", "miou", True
    forms: tuple[str, ...] = ("full", "mask", "stride")

    def check_installed(self) -> None:
        """Do nothing: segmentation needs only the dependencies of this package."""

    def find(self, spec, class_names=(), *, void=255, classes=None, progress=silent) -> MaskedImages:
        return find_masks(spec, class_names, void, classes, progress)

    def training_source(
        self, spec, class_names=(), *, classes=None, void=255, label_offset=None, progress=silent
    ) -> Source:
        refuse_label_offset(label_offset)
        names = tuple(class_names)
        masks = find_masks(spec, names, void, None if names else classes, progress)
        return replace(masks, class_names=names or tuple(class_name((), i) for i in range(masks.seen.shape[1])))

    def check_annotated(self, name: str) -> None:
        """Do nothing: annotated images can be scored."""

    def photographs(self, spec: str) -> ImageSet:
        return photographs_of(spec)

    def framed(self, preprocessing: Preprocessing) -> Preprocessing:
        return preprocessing.whole()  # pixels at the border count too

    def kinds(self, ends: Sequence[End], known: bool = False, classes: int | None = None) -> tuple[OutputKind, ...]:
        # One channel is the foreground: a probability, or its logit.
        single = BINARY if ends[0].activation == "sigmoid" else BINARY_LOGIT
        return tuple(CLASSES if end.elements > 1 else single for end in ends)

    def settled(self, ends: Sequence[End], kinds: Sequence[OutputKind]) -> Task:
        return self

    def unscored(self, ends: Sequence[End], kinds: Sequence[OutputKind]) -> tuple[int, ...]:
        return ()

    def accepts(self, shapes: Sequence[tuple[int, ...]]) -> str | None:
        if len(shapes) == 1 and len(shapes[0]) in (2, 3):
            return None
        return "a segmenter has one of (1, height, width, classes) or (1, height, width)"

    def grids(self, model) -> tuple[tuple[int, int], ...]:
        return ()

    def decoder(self, name, ends, kinds, form=None, grids=()) -> "SegmentationDecoder":
        end, kind = ends[0], kinds[0]
        return SegmentationDecoder(name, max(2, end.elements) if len(end.shape) == 3 else None, kind.cut)

    def meter(self, class_names: Sequence[str], void: int = 255) -> "SegmentationMeter":
        return SegmentationMeter(class_names, void)

    def as_truth(self, answer: np.ndarray) -> np.ndarray:
        return answer

    def agree(self, expected: np.ndarray, answer: np.ndarray, score_threshold: float = 0.0) -> bool:
        return bool((expected == answer).mean() > _SAME_PIXELS)

    def shown(self, answer: np.ndarray, threshold: float) -> np.ndarray:
        return answer

    def described(self, answer: np.ndarray, labels: Sequence[str], height: int, width: int, top: int) -> list[dict]:
        shares = np.bincount(answer.ravel()) / answer.size
        largest = [i for i in np.argsort(-shares, kind="stable") if shares[i]]
        return [{"class": int(i), "name": class_name(labels, i), "share": float(shares[i])} for i in largest]

    def draw(self, image, answer: np.ndarray, labels: Sequence[str], top: int = 5):
        from mobilenets_tf.tasks import pictures

        return pictures.with_mask(image, answer, labels)

    def headline(self, scores: dict) -> str:
        return f"mIoU {percent(scores['miou'])}, pixels {percent(scores['pixel_accuracy'])}"


@dataclass(frozen=True)
class SegmentationDecoder:
    """The output as the class of each pixel of the photograph. See ``task.Decoder`` and ``classes_at``.

    cut: of an output with one channel, the value above which a pixel is of class 1.
    """

    name: str
    classes: int | None
    cut: float | None = None

    def __call__(self, outputs: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
        refuse_not_finite(self.name, outputs)
        return classes_at(outputs[0], height, width, 0.0 if self.cut is None else self.cut)


class SegmentationMeter:
    """Measures the mean intersection over union of the classes. See ``task.Meter``."""

    def __init__(self, class_names: Sequence[str], void: int):
        self._names, self._void = tuple(class_names), void
        self._confusion = Confusion(len(class_names), void)
        self._counts: list[np.ndarray] = []  # ``Confusion.counts`` of each image

    def add(self, answer: np.ndarray, truth: np.ndarray) -> None:
        image = Confusion(len(self._names), self._void)
        image.add(truth, answer)
        self._confusion.matrix += image.matrix
        self._counts.append(image.counts)

    def lost(self, reference: "SegmentationMeter | None" = None) -> float:
        return (1.0 if reference is None else reference.scores()["miou"]) - self.scores()["miou"]

    def interval(self, reference: "SegmentationMeter") -> intervals.Interval | None:
        def mean_iou(meter: SegmentationMeter, weights: np.ndarray) -> np.ndarray:
            counts = np.tensordot(weights, np.array(meter._counts), 1)  # (n, 3, classes)
            return np.array([mean_of_known(row) for row in intersection_over_union(counts)])

        def change(weights: np.ndarray) -> np.ndarray:
            return mean_iou(self, weights) - mean_iou(reference, weights)

        return intervals.of_resamples(change, len(self._counts))

    def scores(self) -> dict:
        return {
            "images": len(self._counts),
            "miou": self._confusion.miou,
            "pixel_accuracy": self._confusion.pixel_accuracy,
            "per_class": dict(zip(self._names, self._confusion.iou.tolist(), strict=True)),
        }


def classes_at(output: np.ndarray, height: int, width: int, cut: float = 0.0) -> np.ndarray:
    """Return a segmenter's output as the class of each pixel of an image, uint8 (height, width).

    Args:
        output: logits, float (h, w, classes), which are resized bilinearly between pixels' centres before the highest
            is taken; of one channel, the foreground, a pixel is of class 1 above the cut. Or classes, integers (h, w),
            of which each pixel takes the nearest.
        cut: 0 for a logit, 0.5 for a probability.

    Raises:
        RequestError: the array has neither form, or more than 256 classes.
    """
    from PIL import Image

    output, size = np.asarray(output), (width, height)
    if output.ndim == 2 and np.issubdtype(output.dtype, np.integer) and output.min() >= 0 and output.max() <= 255:
        return np.asarray(Image.fromarray(output.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
    if output.ndim != 3 or not np.issubdtype(output.dtype, np.floating) or not 1 <= output.shape[2] <= 256:
        raise RequestError(
            f"A segmenter's output has the shape {output.shape} and the type {output.dtype}; expected float logits "
            "(height, width, classes) of at most 256 classes, or integers (height, width) from 0 to 255."
        )
    # Class by class: the logits of all classes at a photograph's size may take gigabytes. One channel is the score of
    # class 1, which has to be higher than the cut.
    single = output.shape[2] == 1
    classes = np.zeros((height, width), np.uint8)
    highest = np.full((height, width), cut if single else -np.inf, np.float32)
    for index in range(output.shape[2]):
        logits = Image.fromarray(np.ascontiguousarray(output[:, :, index], np.float32))
        plane = np.asarray(logits.resize(size, Image.Resampling.BILINEAR))
        classes[plane > highest] = index + single
        np.maximum(highest, plane, out=highest)
    return classes
