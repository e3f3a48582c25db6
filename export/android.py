"""What an Android developer pastes into a project to use one file: Gradle lines, Kotlin, adb commands, as Markdown.

Versions are those that the artifacts' own pages gave in November 2026.
"""

import functools

from mobilenets_tf.quantize import schemes

LITERT = "com.google.ai.edge.litert:litert:2.3.0"
LITERT_MIN_SDK = 24
MEDIAPIPE = "com.google.mediapipe:tasks-vision:1.0.0"
_MEDIAPIPE_TYPES = ("uint8", "float32")


def render(file_name: str, manifest: dict, labels: bool) -> str:
    """Markdown for one deployed file.

    Args:
        file_name: of the ``.tflite`` file. manifest: what ``deploy`` writes beside it.
        labels: whether there is a ``labels.txt``.
    """
    (taken,), given = manifest["inputs"], manifest["outputs"][0]
    preprocessing = manifest["preprocessing"]
    return _template().render(
        file=file_name,
        taken=taken,
        given=given,
        size=preprocessing["size"],
        kept=preprocessing["size"] / preprocessing["resize"],
        mean=preprocessing["mean"][0],
        std=preprocessing["std"][0],
        classes=given["shape"][-1],
        labels=labels,
        for_mediapipe=taken["dtype"] in _MEDIAPIPE_TYPES and given["dtype"] in _MEDIAPIPE_TYPES,
        integers=schemes.get(manifest["scheme"]).calibrated,
        litert=LITERT,
        min_sdk=LITERT_MIN_SDK,
        mediapipe=MEDIAPIPE,
    )


@functools.cache
def _template():
    import jinja2

    loader = jinja2.PackageLoader("mobilenets_tf.export")
    environment = jinja2.Environment(
        loader=loader,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["kotlin"] = _float_literal
    return environment.get_template("android.md")


def _float_literal(value: float) -> str:
    """A Kotlin Float with all the digits that it can hold."""
    return f"{value:.9g}f"
