"""An Android project that runs a deployed file: camera, photographs, answers drawn over them, and tests.

The templates compile with Kotlin 1.3 as well, the newest compiler in Debian, with which the tests compile them.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.data.text_files import read_json
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.android_app.expected import expected
from mobilenets_tf.export.page import android, kotlin
from mobilenets_tf.files import check_folder, digests, sha256_of, to_json, write_together

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
# The project's own list of its files, by which an earlier project is known.
LIST = "mobilenets-tf.json"
_TYPES = ("float32", "int8", "uint8")
# Template -> where its text goes; "." is the folder of the package.
_FILES = {
    "settings.gradle.kts": "settings.gradle.kts",
    "build.gradle.kts": "build.gradle.kts",
    "gradle.properties": "gradle.properties",
    "gradle-wrapper.properties": "gradle/wrapper/gradle-wrapper.properties",
    "README.md": "README.md",
    "app.build.gradle.kts": "app/build.gradle.kts",
    "AndroidManifest.xml": "app/src/main/AndroidManifest.xml",
    "strings.xml": "app/src/main/res/values/strings.xml",
}
_KOTLIN = ("MainActivity", "Network", "Input", "Photo", "Photographs", "Values", "Overlay")
_MAIN, _TEST = "app/src/main/kotlin", "app/src/test/kotlin"
_ANSWERS = {"classify": "List<Answer>", "detect": "List<Answer>", "segment": "Answer", "outputs": "List<Answer>"}
# Weights reach so many pixels of the result in Pillow's filters.
_SUPPORT = {"bilinear": 1, "bicubic": 2, "lanczos": 3}


def check(folder: Path, overwrite: bool, request: dict) -> None:
    """Refuse, before any work, a folder for a project that has anything else in it.

    Args:
        overwrite: allow everything. request: the "model" and "options" of which the project is made.

    Raises:
        RequestError: the folder cannot be written; or has files that are no project, a project of another request, or
            a file of the project that was changed since.
    """
    check_folder(folder)
    if overwrite or not folder.is_dir() or not any(folder.iterdir()):
        return
    remedy = "choose another folder, or pass --overwrite (overwrite=True) to write over its files"
    if not (folder / LIST).is_file():
        raise RequestError(f"--android-app {folder} (android_app=): the folder is not empty; {remedy}.")
    known = read_json(folder / LIST)
    if not isinstance(known, dict) or {key: known.get(key) for key in request} != request:
        raise RequestError(f"--android-app {folder} (android_app=): the project there is of another request; {remedy}.")
    for entry in known.get("files", ()):
        path = folder / entry["file"]
        if path.is_file() and sha256_of(path) != entry["sha256"]:
            raise RequestError(f"--android-app {folder} (android_app=): {entry['file']} was changed; {remedy}.")


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
    folder: Path, file: Path, manifest: dict, labels: Sequence[str], request: dict, others: Mapping[str, str | bytes]
) -> None:
    """Write the project, whole or not at all.

    Args:
        file: the deployed ``.tflite`` file. manifest: as ``deploy`` wrote it beside the file.
        labels: names of the classes; may be empty.
        request: as in ``check``.
        others: name -> content of files that the app reads beside it, such as the anchors.

    Raises:
        RequestError: as ``check_manifest``, or the folder cannot be written.
    """
    contents = files_of(file.name, file.read_bytes(), manifest, labels, others)
    contents[LIST] = to_json({**request, "files": digests(contents)})
    write_together(folder, contents)


def files_of(
    file_name: str,
    content: bytes,
    manifest: dict,
    labels: Sequence[str],
    others: Mapping[str, str | bytes] | None = None,
) -> dict[str, str | bytes]:
    """Return the project's files: path -> content.

    Args:
        file_name, content: of the ``.tflite`` file. manifest, labels, others: as in ``write``.

    Raises:
        RequestError: as ``check_manifest``.
    """
    check_manifest(manifest)
    facts = android.facts(file_name, manifest, bool(labels))
    numbers, about = expected(content, manifest, facts)
    facts = facts | about | _own_facts(file_name, facts, Preprocessing.of(manifest))
    texts = kotlin.environment("mobilenets_tf.export.android_app")
    package = facts["package"].replace(".", "/")
    places = dict(_FILES)
    places |= {f"{name}.kt": f"{_MAIN}/{package}/{name}.kt" for name in _KOTLIN}
    places[f"Answers_{facts['task']}.kt"] = f"{_MAIN}/{package}/Answers.kt"
    places["ExpectedTest.kt"] = f"{_TEST}/{package}/ExpectedTest.kt"
    contents: dict[str, str | bytes] = {
        place: texts.get_template(template).render(**facts) for template, place in places.items()
    }
    assets = {file_name: content, **(others or {})}
    if labels:
        assets["labels.txt"] = "\n".join(labels) + "\n"
    contents |= {f"app/src/main/assets/{name}": data for name, data in assets.items()}
    contents |= {f"app/src/test/resources/expected/{name}.bin": data for name, data in numbers.items()}
    return contents


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
