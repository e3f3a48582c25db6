"""What the requests of several commands have in common, found and checked without TensorFlow."""

from pathlib import Path

from mobilenets_tf.data import images
from mobilenets_tf.data.boxes import find_boxes
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.data.masks import find_masks
from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.tasks import metrics

# What a file of a detector or a segmenter may give; the first is what MediaPipe takes. "nms": the objects that are left
# by TFLite's own op; "decoded": all anchors' boxes; "raw": the network's outputs, for an app's own decoding. "full":
# logits at the input's size; "mask": the class of each pixel; "stride": logits as the network's head gives them.
OUTPUTS = {"detect": ("nms", "decoded", "raw"), "segment": ("full", "mask", "stride")}


def annotated(source: ModelSource, spec: str, void: int | None = None) -> ImageSet:
    """The images that ``spec`` names, with what is known of them for the model's task: ``labels``, or ``read``.

    void: of masks; None for that of the model's training.

    Raises:
        RequestError: nothing there, or no annotations.
    """
    names = source.label_names()
    if source.task == "detect":
        return find_boxes(spec, names)
    if source.task == "segment":
        return find_masks(spec, names, source.void if void is None else void)
    found = images.find_images(spec, names)
    if found.labels is None:
        raise RequestError(f"{spec} has no labels: give a CSV with file and class_index, or a sub-folder a class.")
    return found


def check_output(source: ModelSource, output: str | None, score_threshold: float | None) -> None:
    """
    Raises:
        RequestError: the model's file cannot give its answers in that form, or they could not be judged here.
    """
    if source.task == "detect":
        metrics.check_installed()
    forms = OUTPUTS.get(source.task, ())
    if output is not None and not forms:
        raise RequestError(f"output={output!r} is for detectors and segmenters; {source.model} is neither.")
    if output not in (None, *forms):
        raise unknown("output", output, forms)
    if score_threshold is None:
        return
    if source.task != "detect" or output not in (None, "nms"):
        form = f"with output={output!r}" if source.task == "detect" else "no detector"
        raise RequestError(
            f"score_threshold={score_threshold} is of a detector's file with output='nms'; {source.model} is {form}."
        )
    if not 0 < score_threshold <= 1:
        raise RequestError(f"score_threshold={score_threshold} must be above 0 and at most 1.")


def photographs(spec: str, task: str) -> ImageSet:
    """Images to calibrate with. Those of an annotated data set stand in a folder of their own, beside what are none."""
    if task != "classify":
        if Path(spec).suffix == ".json":
            return ImageSet(find_boxes(spec).paths)
        for name in ("images", "JPEGImages"):
            if (Path(spec) / name).is_dir():
                return images.find_images(Path(spec) / name)
    return images.find_images(spec)
