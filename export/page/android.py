"""The Android page of a deployed file: Markdown with Gradle lines, Kotlin and adb commands to paste into a project.

The versions below were the newest in November 2026.
"""

from mobilenets_tf.data.preprocessing import COLOURS, Preprocessing, shown_size
from mobilenets_tf.export.delegates import gpu
from mobilenets_tf.export.forms.detector import ANCHORS_FILE
from mobilenets_tf.export.page import kotlin
from mobilenets_tf.quantize import schemes
from mobilenets_tf.tasks.outputs import CLASSES, ends_of_file, kind_of
from mobilenets_tf.tasks.postprocess import SCALES, Postprocess

LITERT = "com.google.ai.edge.litert:litert:2.3.0"
LITERT_GPU = LITERT.replace("litert:2", "litert-gpu:2")
LITERT_MIN_SDK = 24
MEDIAPIPE = "com.google.mediapipe:tasks-vision:1.0.0"
_MEDIAPIPE_TYPES = {"uint8", "float32"}
_MEDIAPIPE_FORMS = ("nms", "full", "stride")
_KOTLIN_CLASSES = {"classify": "Classifier", "detect": "Detector", "segment": "Segmenter"}
_PACKAGE = "mobilenets_tf.export.page"


def render(file_name: str, manifest: dict, labels: bool) -> str:
    """Write the page of one deployed file; of a file that failed a check, without lines to paste.

    Args:
        file_name: name of the ``.tflite`` file.
        manifest: the manifest that ``deploy`` writes beside the file.
        labels: whether the file has a ``labels.txt`` beside it.
    """
    texts, badge = kotlin.environment(_PACKAGE), manifest["badge"]
    if not manifest["passed"]:
        failed = texts.get_template("android_failed.md")
        return failed.render(file=file_name, badge=badge, failures=manifest["failures"])
    given = facts(file_name, manifest, labels)
    return texts.get_template(f"android_{given['task']}.md").render(given)


def facts(file_name: str, manifest: dict, labels: bool) -> dict:
    """Return what the templates of Android code say of a file that passed its checks.

    Args:
        file_name, manifest, labels: as in ``render``.
    """
    (input_,), outputs = manifest["inputs"], manifest["outputs"]
    task, form, preprocessing = manifest.get("task", "classify"), manifest.get("form"), Preprocessing.of(manifest)
    height, width = preprocessing.height, preprocessing.width
    kinds = [kind_of(output["kind"]) for output in outputs if "kind" in output]
    shape = outputs[0]["shape"]
    vector = len(shape) == 2
    if form is None and (
        task not in _KOTLIN_CLASSES or (kinds and not (len(kinds) == 1 and kinds[0].classes and vector))
    ):
        task = "outputs"
    anchors, crop = f"{file_name}.{ANCHORS_FILE}", preprocessing.crop
    # Of a segmenter with one channel, the foreground.
    single = len(kinds) == 1 and kinds[0].cut is not None
    types = {end["dtype"] for end in (input_, *outputs)}
    return {
        "task": task,
        "file": file_name,
        "badge": manifest["badge"],
        "others": ["labels.txt"] * labels + [anchors] * (form == "raw"),
        "input": input_,
        "outputs": outputs,
        "form": form,
        "height": height,
        "width": width,
        "size": shown_size(preprocessing.size) + ("" if height == width else " (height x width)"),
        "channels": preprocessing.channels,
        "colours": COLOURS[preprocessing.channels],
        "crop_share": None if crop == "stretch" else preprocessing.share,
        "geometry": preprocessing.described(),
        "filtered": "false" if preprocessing.interpolation == "nearest" else "true",
        "mean": preprocessing.mean[0],
        "std": preprocessing.std[0],
        "classes": max(2, _classes(manifest)),
        "cut": kinds[0].cut if len(kinds) == 1 else None,
        "kinds": kinds,
        "single": single,
        "cut_level": _level(kinds[0].cut or 0.0, outputs[0]) if single else None,
        "rows": shape[1] if len(shape) > 2 else None,
        "columns": shape[-1 if form == "mask" else -2] if len(shape) > 2 else None,
        "anchors": anchors,
        "scales": SCALES,
        "overlap": Postprocess.iou_threshold,
        "labels": labels,
        "kotlin_class": _KOTLIN_CLASSES.get(task, "Network"),
        "mediapipe_form": not single and (form in _MEDIAPIPE_FORMS if form else kinds in ([], [CLASSES])),
        "mediapipe_types": types <= _MEDIAPIPE_TYPES,
        "on_gpu": gpu.ON_INTEGERS if schemes.get(manifest["scheme"]).calibrated else None,
        "litert": LITERT,
        "min_sdk": LITERT_MIN_SDK,
        "mediapipe": MEDIAPIPE,
    }


def gives_shares(content: bytes, cut: float | None) -> bool:
    """Tell whether a classifier's scores are probabilities, 0 to 1, rather than logits.

    Args:
        content: of the file. cut: of the facts; a value for two classes is turned into probabilities.
    """
    return cut is not None or ends_of_file(content)[0].activation == "softmax"


def _classes(manifest: dict) -> int:
    """Return the number of classes; a detector's background does not count."""
    labels = manifest.get("labels")  # of a classifier, these stand in a file of their own
    return manifest["outputs"][0]["shape"][-1] if labels is None else len(labels)


def _level(value: float, output: dict) -> float:
    """Return the level at which an output's tensor stores a real value, not rounded; of a float tensor the value."""
    return value / output["scale"] + output["zero_point"] if output["scale"] else value
