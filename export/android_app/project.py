"""An Android project that runs a deployed file: camera, photographs, answers drawn over them, and tests.

The templates compile with Kotlin 1.3 as well, the newest compiler in Debian, with which the tests compile them.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export import project_folder
from mobilenets_tf.export.android_app.expected import expected
from mobilenets_tf.export.page import android, kotlin

# The newest of November 2026. Version 9 of the Gradle plugin needs Gradle 9 and has Kotlin built in.
VERSIONS = {
    "litert": android.LITERT,
    "litert_gpu": android.LITERT_GPU,
    "min_sdk": android.LITERT_MIN_SDK,
    "sdk": 36,
    "gradle": "9.5.1",
    "gradle_plugin": "9.2.1",
    "activity": "1.12.1",
    "camera": "1.6.1",
}
_TYPES = ("float32", "int8", "uint8")
# Template -> where its text goes; "." is the folder of the package.
_FILES = {
    "settings.gradle.kts": "settings.gradle.kts",
    "build.gradle.kts": "build.gradle.kts",
    "gradle.properties": "gradle.properties",
    "gradle-wrapper.properties": "gradle/wrapper/gradle-wrapper.properties",
    "PROJECT.md": "README.md",
    "app.build.gradle.kts": "app/build.gradle.kts",
    "AndroidManifest.xml": "app/src/main/AndroidManifest.xml",
    "strings.xml": "app/src/main/res/values/strings.xml",
}
_KOTLIN = ("MainActivity", "Network", "Input", "Photo", "Photographs", "Values", "Overlay")
_MAIN, _TEST = "app/src/main/kotlin", "app/src/test/kotlin"
_ANSWERS = {"classify": "List<Answer>", "detect": "List<Answer>", "segment": "Answer", "outputs": "List<Answer>"}
# Weights reach so many pixels of the result in Pillow's filters.
_SUPPORT = {"bilinear": 1, "bicubic": 2, "lanczos": 3}


def check_manifest(manifest: Mapping) -> None:
    """Refuse a file that LiteRT's Kotlin API cannot feed or read.

    Raises:
        RequestError: an input or output is neither float32 nor an integer of eight bits, or there are several inputs.
    """
    if len(manifest["inputs"]) != 1:
        raise RequestError(f"--android-app is for networks that take one image; this takes {len(manifest['inputs'])}.")
    for end in (*manifest["inputs"], *manifest["outputs"]):
        if end["dtype"] not in _TYPES:
            raise RequestError(
                f"--android-app: {end['name']} is {end['dtype']}, which LiteRT's Kotlin API does not read. Deploy with "
                "the scheme int8, int8_float_io, float16 or float32."
            )


def write(
    folder: Path,
    file: Path,
    manifest: dict,
    labels: Sequence[str],
    request: dict,
    others: Mapping[str, str | bytes],
    overwrite: bool = False,
    pack: Mapping[str, bytes] | None = None,
) -> None:
    """Write the project, whole or not at all.

    Args:
        file: the deployed ``.tflite`` file. manifest: as ``deploy`` wrote it beside the file.
        labels: names of the classes; may be empty.
        request: the "model" and "options" of which the project is made, as for ``project_folder.check``.
        overwrite: write over files of the user's own.
        others: name -> content of the files that ``deploy`` wrote beside it; the app reads the anchors.
        pack: path -> content of the AI pack for NPUs, see ``npu.compiler.compile_for``.

    Raises:
        RequestError: as ``check_manifest``, or the folder cannot be written.
    """
    contents = files_of(file.name, file.read_bytes(), manifest, labels, others, pack)
    project_folder.write(folder, contents, request, overwrite)


def files_of(
    file_name: str,
    content: bytes,
    manifest: dict,
    labels: Sequence[str],
    others: Mapping[str, str | bytes] | None = None,
    pack: Mapping[str, bytes] | None = None,
) -> dict[str, str | bytes]:
    """Return the project's files: path -> content.

    Args:
        file_name, content: of the ``.tflite`` file. manifest, labels, others, pack: as in ``write``.

    Raises:
        RequestError: as ``check_manifest``.
    """
    check_manifest(manifest)
    facts = android.facts(file_name, manifest, bool(labels))
    numbers, about = expected(content, manifest, facts)
    facts |= about | {"shares": android.gives_shares(content, facts["cut"])}
    facts["packed"] = _chips_of(pack or {})
    facts |= _own_facts(file_name, facts, Preprocessing.of(manifest))
    texts = kotlin.environment("mobilenets_tf.export.android_app")
    package = facts["package"].replace(".", "/")
    places = dict(_FILES)
    places |= {f"{name}.kt": f"{_MAIN}/{package}/{name}.kt" for name in _KOTLIN}
    places[f"Answers_{facts['task']}.kt"] = f"{_MAIN}/{package}/Answers.kt"
    places["ExpectedTest.kt"] = f"{_TEST}/{package}/ExpectedTest.kt"
    if pack:
        places["ai_pack.build.gradle.kts"] = "ai_pack/build.gradle.kts"
    contents: dict[str, str | bytes] = {
        place: texts.get_template(template).render(**facts) for template, place in places.items()
    }
    assets = {file_name: content} | {name: data for name, data in (others or {}).items() if name == facts["anchors"]}
    if labels:
        assets["labels.txt"] = "\n".join(labels) + "\n"
    contents |= {f"app/src/main/assets/{name}": data for name, data in assets.items()}
    # The configuration that says which phones are meant is the app's.
    contents |= {path if path.startswith("ai_pack/") else f"app/{path}": data for path, data in (pack or {}).items()}
    contents |= {f"app/src/test/resources/expected/{name}.bin": data for name, data in numbers.items()}
    return contents


def _chips_of(pack: Mapping[str, bytes]) -> list[str]:
    """List the chips for which a pack has files, as the names of its folders say them."""
    groups = (re.search("#group_([^/]+)/", path) for path in pack)
    return sorted({group[1].replace("_", " ", 1) for group in groups if group and group[1] != "other"})


def _own_facts(file_name: str, facts: dict, preprocessing: Preprocessing) -> dict:
    name = file_name.removesuffix(".tflite")
    interpolation = preprocessing.interpolation
    covered = preprocessing.covered if preprocessing.crop == "resize_then_crop" else None
    return {
        "name": name,
        # A part of a package begins with a letter and is no word of Kotlin's; none of these has a "_" in it.
        "package": "com.example.net_" + re.sub("[^a-z0-9]+", "_", name.lower()).strip("_"),
        "versions": VERSIONS,
        "crop": preprocessing.crop,
        "interpolation": interpolation,
        "filter": interpolation if interpolation in _SUPPORT else None,
        "support": _SUPPORT.get(interpolation),
        "shorter": min(preprocessing.height, preprocessing.width),
        "share": preprocessing.share,
        "covered": covered,
        "array": "FloatArray" if facts["input"]["dtype"] == "float32" else "ByteArray",
        "answers": _ANSWERS[facts["task"]],
    }
