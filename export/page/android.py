"""What an Android developer pastes into a project to use one file: Gradle lines, Kotlin, adb commands, as Markdown.

Versions are those that the artifacts' own pages gave in November 2026.
"""

import functools

from mobilenets_tf.export.forms.detector import ANCHORS_FILE
from mobilenets_tf.quantize import schemes
from mobilenets_tf.tasks.postprocess import SCALES, Postprocess

LITERT = "com.google.ai.edge.litert:litert:2.3.0"
LITERT_MIN_SDK = 24
MEDIAPIPE = "com.google.mediapipe:tasks-vision:1.0.0"
_MEDIAPIPE_TYPES = {"uint8", "float32"}
_MEDIAPIPE_FORMS = ("nms", "full", "stride")


def render(file_name: str, manifest: dict, labels: bool) -> str:
    """Markdown for one deployed file.

    Args:
        file_name: of the ``.tflite`` file. manifest: what ``deploy`` writes beside it.
        labels: whether there is a ``labels.txt``.
    """
    (taken,), given = manifest["inputs"], manifest["outputs"]
    task, form, preprocessing = manifest.get("task", "classify"), manifest.get("form"), manifest["preprocessing"]
    anchors = f"{file_name}.{ANCHORS_FILE}"
    types = {end["dtype"] for end in (taken, *given)}
    template = _environment().get_template(f"android_{task}.md")
    return template.render(
        file=file_name,
        others=["labels.txt"] * labels + [anchors] * (form == "raw"),
        taken=taken,
        given=given,
        form=form,
        size=preprocessing["size"],
        kept=preprocessing["size"] / preprocessing["resize"],
        mean=preprocessing["mean"][0],
        std=preprocessing["std"][0],
        classes=_classes(manifest),
        rows=given[0]["shape"][1],
        columns=given[0]["shape"][-1 if form == "mask" else -2],
        anchors=anchors,
        scales=SCALES,
        overlap=Postprocess.iou_threshold,
        labels=labels,
        kotlin_class={"classify": "Classifier", "detect": "Detector", "segment": "Segmenter"}[task],
        mediapipe_form=form in (None, *_MEDIAPIPE_FORMS),
        mediapipe_types=types <= _MEDIAPIPE_TYPES,
        integers=schemes.get(manifest["scheme"]).calibrated,
        litert=LITERT,
        min_sdk=LITERT_MIN_SDK,
        mediapipe=MEDIAPIPE,
    )


def _classes(manifest: dict) -> int:
    """How many there are; a detector's, without the background."""
    if manifest.get("task", "classify") == "classify":
        return manifest["outputs"][0]["shape"][-1]
    return len(manifest["labels"])


@functools.cache
def _environment():
    import jinja2

    loader = jinja2.PackageLoader("mobilenets_tf.export.page")
    environment = jinja2.Environment(
        loader=loader,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["kotlin"] = _float_literal
    return environment


def _float_literal(value: float) -> str:
    """A Kotlin Float with all the digits that it can hold."""
    return f"{value:.9g}f"
