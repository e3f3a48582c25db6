"""The Android page of a deployed file: Markdown with Gradle lines, Kotlin and adb commands to paste into a project.

The versions below were the newest in November 2026.
"""

import functools
import json

from mobilenets_tf.data.preprocessing import COLOURS, Preprocessing, shown_size
from mobilenets_tf.export.delegates import gpu
from mobilenets_tf.export.forms.detector import ANCHORS_FILE
from mobilenets_tf.progress import printable
from mobilenets_tf.quantize import schemes
from mobilenets_tf.tasks.outputs import CLASSES, kind_of
from mobilenets_tf.tasks.postprocess import SCALES, Postprocess

LITERT = "com.google.ai.edge.litert:litert:2.3.0"
LITERT_MIN_SDK = 24
MEDIAPIPE = "com.google.mediapipe:tasks-vision:1.0.0"
_MEDIAPIPE_TYPES = {"uint8", "float32"}
_MEDIAPIPE_FORMS = ("nms", "full", "stride")
_KOTLIN_CLASSES = {
    "android_classify.md": "Classifier", "android_detect.md": "Detector", "android_segment.md": "Segmenter"
}  # fmt: skip


def render(file_name: str, manifest: dict, labels: bool) -> str:
    """Write the page of one deployed file; of a file that failed a check, without lines to paste.

    Args:
        file_name: name of the ``.tflite`` file.
        manifest: the manifest that ``deploy`` writes beside the file.
        labels: whether the file has a ``labels.txt`` beside it.
    """
    badge = manifest["badge"]
    if not manifest["passed"]:
        failed = _environment().get_template("android_failed.md")
        return failed.render(file=file_name, badge=badge, failures=manifest["failures"])
    (input_,), outputs = manifest["inputs"], manifest["outputs"]
    task, form, preprocessing = manifest.get("task", "classify"), manifest.get("form"), Preprocessing.of(manifest)
    height, width = preprocessing.height, preprocessing.width
    kinds = [kind_of(output["kind"]) for output in outputs if "kind" in output]
    page = f"android_{task}.md"
    if form is None and kinds and not (len(kinds) == 1 and kinds[0].classes):
        page = "android_outputs.md"
    anchors, crop = f"{file_name}.{ANCHORS_FILE}", preprocessing.crop
    # Of a segmenter with one channel, the foreground.
    single = len(kinds) == 1 and kinds[0].cut is not None
    types = {end["dtype"] for end in (input_, *outputs)}
    template = _environment().get_template(page)
    return template.render(
        file=file_name,
        badge=badge,
        others=["labels.txt"] * labels + [anchors] * (form == "raw"),
        input=input_,
        outputs=outputs,
        form=form,
        height=height,
        width=width,
        size=shown_size(preprocessing.size) + ("" if height == width else " (height x width)"),
        channels=preprocessing.channels,
        colours=COLOURS[preprocessing.channels],
        crop_share=None if crop == "stretch" else preprocessing.share,
        geometry=preprocessing.described(),
        filtered="false" if preprocessing.interpolation == "nearest" else "true",
        mean=preprocessing.mean[0],
        std=preprocessing.std[0],
        classes=max(2, _classes(manifest)),
        cut=kinds[0].cut if len(kinds) == 1 else None,
        kinds=kinds,
        single=single,
        cut_level=_level(kinds[0].cut or 0.0, outputs[0]) if single else None,
        rows=outputs[0]["shape"][1],
        columns=outputs[0]["shape"][-1 if form == "mask" else -2],
        anchors=anchors,
        scales=SCALES,
        overlap=Postprocess.iou_threshold,
        labels=labels,
        kotlin_class=_KOTLIN_CLASSES.get(page, "Network"),
        mediapipe_form=not single and (form in _MEDIAPIPE_FORMS if form else kinds in ([], [CLASSES])),
        mediapipe_types=types <= _MEDIAPIPE_TYPES,
        on_gpu=gpu.ON_INTEGERS if schemes.get(manifest["scheme"]).calibrated else None,
        litert=LITERT,
        min_sdk=LITERT_MIN_SDK,
        mediapipe=MEDIAPIPE,
    )


def _classes(manifest: dict) -> int:
    """Return the number of classes; a detector's background does not count."""
    labels = manifest.get("labels")  # of a classifier, these stand in a file of their own
    return manifest["outputs"][0]["shape"][-1] if labels is None else len(labels)


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
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters |= {"kotlin": _float_literal, "kotlin_text": _text_literal}
    return environment


def _level(value: float, output: dict) -> float:
    """Return the level at which an output's tensor stores a real value, not rounded; of a float tensor the value."""
    return value / output["scale"] + output["zero_point"] if output["scale"] else value


def _text_literal(text: str) -> str:
    """Write a text as a Kotlin string."""
    return json.dumps(text).replace("$", "\\$")


def _float_literal(value: float) -> str:
    """Write a number as a Kotlin Float with all its digits."""
    return f"{value:.9g}f"
