"""The Kotlin that a developer pastes: it compiles, feeds what Python feeds, and says what Python says."""

import functools
import shutil
import subprocess

import numpy as np
import pytest

from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.export import to_tflite
from mobilenets_tf.export.delegates import gpu
from mobilenets_tf.export.forms import detector as detector_forms
from mobilenets_tf.export.forms import segmenter as segmenter_forms
from mobilenets_tf.export.page import android
from mobilenets_tf.networks.heads.anchors import ssd_anchors
from mobilenets_tf.quantize import Calibration
from mobilenets_tf.quantize.post_training import prepare
from mobilenets_tf.tasks.postprocess import Postprocess
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.tflite.runtime import Runner, describe_tensor
from tests.conftest import photographs
from tests.support import colour_files

PER_CHANNEL = Preprocessing(
    64, 72, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), crop="crop_then_resize"
)
BADGE = {"colour": "green", "headline": "Verified on 9 images.", "remarks": ["They are few."]}
CASES = {  # scheme, form of the input
    "uint8": ("int8", "uint8"),
    "int8": ("int8", "normalised"),
    "float32": ("float32", "normalised"),
}
# Stand-ins for Android's and LiteRT's classes: a bitmap of pixels in memory, a model that notes its input in a file and
# takes its outputs from others, and so much of JSON as an array of arrays needs.
STUBS = {
    "context": """
        package android.content
        class Assets { fun open(name: String) = java.io.File(name).inputStream() }
        class Context { val assets = Assets() }
    """,
    "bitmap": """
        package android.graphics
        class Bitmap(val width: Int, val height: Int, private val pixels: IntArray) {
            fun getPixels(into: IntArray, offset: Int, stride: Int, x: Int, y: Int, width: Int, height: Int) {
                pixels.copyInto(into)
            }
            companion object {
                fun createBitmap(source: Bitmap, x: Int, y: Int, width: Int, height: Int): Bitmap {
                    println("crop $x $y $width $height")
                    return source
                }
                fun createScaledBitmap(source: Bitmap, width: Int, height: Int, filter: Boolean) = source
            }
        }
        class RectF(val left: Float, val top: Float, val right: Float, val bottom: Float) {
            fun width() = right - left
            fun height() = bottom - top
        }
    """,
    "json": """
        package org.json
        class JSONObject(private val text: String) {
            fun getJSONArray(name: String) = JSONArray(text.substringAfter("\\"$name\\": [").trim())
        }
        class JSONArray(private val text: String) {
            fun getJSONArray(place: Int) = JSONArray(text.split("[")[place + 1].substringBefore("]"))
            fun getDouble(place: Int) = text.split(",")[place].trim().toDouble()
        }
    """,
    "litert": """
        package com.google.ai.edge.litert
        enum class Accelerator { CPU, GPU, NPU }
        class TensorBuffer(place: Int) : AutoCloseable {
            override fun close() {}
            private val file = java.io.File("output$place.bin")
            private var bytes = ByteArray(0)
            fun load() { bytes = file.readBytes() }
            fun writeInt8(data: ByteArray) = java.io.File("input.bin").writeBytes(data)
            fun writeFloat(data: FloatArray) {
                val buffer = java.nio.ByteBuffer.allocate(4 * data.size).order(java.nio.ByteOrder.LITTLE_ENDIAN)
                data.forEach { buffer.putFloat(it) }
                java.io.File("input.bin").writeBytes(buffer.array())
            }
            fun readInt8() = bytes
            fun readFloat(): FloatArray {
                val buffer = java.nio.ByteBuffer.wrap(bytes).order(java.nio.ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
                return FloatArray(buffer.remaining()) { buffer.get(it) }
            }
        }
        class CompiledModel : AutoCloseable {
            class Options(vararg accelerators: Accelerator)
            fun createInputBuffers() = listOf(TensorBuffer(-1))
            fun createOutputBuffers() =
                (0..3).filter { java.io.File("output$it.bin").exists() }.map { TensorBuffer(it) }
            fun run(inputs: List<TensorBuffer>, outputs: List<TensorBuffer>) = outputs.forEach { it.load() }
            override fun close() {}
            companion object {
                fun create(assets: android.content.Assets, name: String, options: Options) = CompiledModel()
            }
        }
    """,
}
MAIN = """
    fun main() {
        val values = java.io.File("pixels.txt").readText().split(" ").map { it.toInt() }
        val side = Math.sqrt(values.size.toDouble()).toInt()
        val photo = android.graphics.Bitmap(side, side, values.toIntArray())
        %s
    }
"""
CALLS = {
    "classify": """
        for ((label, score) in Classifier(android.content.Context()).classify(photo, 3)) println("$label $score")
    """,
    "detect": """
        for (detection in Detector(android.content.Context()).detect(photo, 0.3f)) {
            val box = detection.box
            print("${detection.index} ${detection.label} ${detection.score} ")
            println("${box.top} ${box.left} ${box.bottom} ${box.right}")
        }
    """,
    "segment": """
        val segmenter = Segmenter(android.content.Context())
        println(segmenter.segment(photo).joinToString(" ") + " " + segmenter.label(2))
    """,
}


@pytest.fixture(scope="module")
def deployed(small, tmp_path_factory):
    """Case -> (the snippets, the file's runner, how it takes its image)."""
    folder = tmp_path_factory.mktemp("android")
    pixels = ((photographs(100, 64) + 1) * 127.5).astype(np.uint8)
    found = {}
    for case, (scheme, form) in CASES.items():
        image = ImageInput(PER_CHANNEL, form)
        calibration = Calibration(image.given.normalise(pixels), image.given.value_range)
        path = folder / f"{case}.tflite"
        to_tflite(small, scheme, None if scheme == "float32" else calibration, path, image=image)
        runner = Runner(path)
        manifest = {
            "scheme": scheme,
            "passed": True,
            "badge": BADGE,
            "inputs": list(map(describe_tensor, runner.inputs)),
            "outputs": list(map(describe_tensor, runner.outputs)),
            "preprocessing": vars(image.given),
        }
        found[case] = android.render(path.name, manifest, labels=case != "float32"), runner, image
    return found


def blocks(text: str) -> list[str]:
    return [part.split("```")[0] for part in text.split("```kotlin\n")[1:]]


@pytest.mark.parametrize("case", CASES)
def test_the_page_names_the_file_and_says_how_to_feed_it(deployed, case):
    text, runner, _ = deployed[case]
    assert f'CompiledModel.create(context.assets, "{case}.tflite"' in text
    assert f"as {case} `[1, 64, 64, 3]`" in text
    assert ("ImageClassifier.createFromOptions" in text) == (case != "int8")
    assert ("deploy the model with `--input uint8`" in text) == (case == "int8")
    assert "{{" not in text and "{%" not in text
    scale = runner.outputs[0]["quantization"][0]
    assert (f"score = {scale:.8g}" in text) == (case != "float32")


def test_the_verdict_is_on_the_page_and_a_file_that_failed_has_nothing_to_paste():
    end = {"dtype": "float32", "shape": [1, 64, 64, 3], "scale": 0.0, "zero_point": 0}
    manifest = {"scheme": "float32", "inputs": [end], "outputs": [end], "preprocessing": vars(Preprocessing(64))}
    passed = android.render("net.tflite", manifest | {"passed": True, "badge": BADGE}, labels=True)
    assert "> Verified on 9 images. They are few." in passed and "adb push" in passed
    verdict = {"passed": False, "badge": BADGE | {"headline": "A check failed."}, "failures": ["It is bad."]}
    failed = android.render("net.tflite", manifest | verdict, labels=True)
    assert "> A check failed.\n> It is bad.\n" in failed and "adb" not in failed and "kotlin" not in failed


def test_the_page_says_of_gpus_what_inspect_says():
    end = {"dtype": "float32", "shape": [1, 64, 64, 3], "scale": 0.0, "zero_point": 0}
    manifest = {"inputs": [end], "outputs": [end], "preprocessing": vars(Preprocessing(64)), "passed": True}
    pages = {
        scheme: android.render("net.tflite", manifest | {"scheme": scheme, "badge": BADGE}, labels=True)
        for scheme in ("int8_float_io", "float16")
    }
    assert gpu.ON_INTEGERS in pages["int8_float_io"] and gpu.ON_INTEGERS not in pages["float16"]
    assert "litert-gpu" in pages["float16"] and "litert-gpu" not in pages["int8_float_io"]


@pytest.mark.parametrize("crop", ["stretch", "crop_then_resize"])
def test_the_page_crops_what_the_evaluation_crops(crop):
    preprocessing = Preprocessing(64, None if crop == "stretch" else 72, crop=crop)
    end = {"dtype": "float32", "shape": [1, 64, 64, 3], "scale": 0.0, "zero_point": 0}
    manifest = {"scheme": "float32", "inputs": [end], "outputs": [end], "preprocessing": vars(preprocessing)}
    manifest |= {"passed": True, "badge": BADGE}
    text = android.render("net.tflite", manifest, labels=True)
    assert f"From a photograph: {preprocessing.described()}." in text
    assert ("createScaledBitmap(photo, 64, 64, true)" in text) == (crop == "stretch")
    assert ("minOf(photo.width, photo.height)" in text) == ("pass the centre crop" in text) == (crop != "stretch")


KOTLIN = pytest.mark.skipif(not shutil.which("kotlinc"), reason="kotlinc is not installed (Debian: apt install kotlin)")


def package(case) -> str:
    return f"case_{case if isinstance(case, str) else '_'.join(case)}"


def own_pages() -> dict[str, str]:
    """The pages of models of one's own: a value for two classes, values, several outputs; images that are grey or have
    an alpha channel, and are not square."""

    def output(name, shape, kind, dtype="int8"):
        scale, zero_point = (0.0, 0) if dtype == "float32" else (0.1, -3)
        return {
            "name": name, "shape": shape, "dtype": dtype, "scale": scale, "zero_point": zero_point, "kind": kind
        }  # fmt: skip

    models = {
        "own_binary": ("classify", [output("p", [1, 1], "binary")]),
        "own_logit": ("classify", [output("p", [1, 1], "binary_logit", "float32")]),
        "own_values": ("regress", [output('a"$b', [1, 4], "undecided"), output("e", [1, 9], "embedding", "float32")]),
        "own_heads": ("classify", [output("n", [1, 1], "values"), output("s", [1, 3], "classes", "uint8")]),
        "own_grey": ("classify", [output("s", [1, 3], "classes")]),
        "own_alpha": ("classify", [output("s", [1, 3], "classes")]),
    }
    inputs = {
        "own_grey": Preprocessing((24, 40), 28, mean=(0.0,), std=(255.0,), crop="crop_then_resize"),
        "own_alpha": Preprocessing((40, 24), mean=(0.0,) * 4, std=(255.0,) * 4),
    }
    shared = {
        "scheme": "int8", "inputs": [output("image", [1, 8, 8, 3], None)], "passed": True, "failures": [],
        "badge": {"colour": "amber", "headline": "", "remarks": []},
    }  # fmt: skip
    pages = {}
    for name, (task, outputs) in models.items():
        preprocessing = vars(inputs.get(name, Preprocessing(8, 8)))
        manifest = {"task": task, "outputs": outputs, "preprocessing": preprocessing, **shared}
        pages[name] = android.render("net.tflite", manifest, labels=name == "own_heads")
    return pages


def test_the_page_of_ones_own_outputs_names_each():
    pages = own_pages()
    assert "floatArrayOf(1f - second, second)" in pages["own_binary"] and "Math.exp" not in pages["own_binary"]
    assert "Math.exp" in pages["own_logit"] and "createFromOptions" not in pages["own_logit"]
    assert '"a\\"\\$b" to ' in pages["own_values"] and "the cosine" in pages["own_values"]
    assert "private val labels" not in pages["own_values"] and "labels.txt" in pages["own_heads"]


def test_the_page_of_an_image_that_is_not_square_and_not_rgb():
    grey, alpha = own_pages()["own_grey"], own_pages()["own_alpha"]
    assert "Input: one grey image of 24x40 (height x width) pixels" in grey and "ByteArray(1 * pixels.size)" in grey
    assert "bitmap.getPixels(pixels, 0, 40, 0, 0, 40, 24)" in grey and "createScaledBitmap(crop, 40, 24, true)" in grey
    assert "19595 * red + 38470 * green + 7471 * blue" in grey
    assert "minOf(photo.width / 40f, photo.height / 24f)" in grey  # the largest part with the input's aspect ratio
    assert "bitmap.getPixels(pixels, 0, 24, 0, 0, 24, 40)" in alpha and "intArrayOf(16, 8, 0, 24)[index % 4]" in alpha
    for page in (grey, alpha):
        assert "MediaPipe Tasks take images of three channels" in page and "createFromOptions" not in page


@pytest.mark.slow
@KOTLIN
def test_the_kotlin_of_ones_own_outputs_compiles(jar):
    import zipfile

    names = zipfile.ZipFile(jar).namelist()
    assert {"own_binary/Classifier.class", "own_values/Network.class", "own_heads/Network.class"} <= {*names}
    assert {"own_grey/Classifier.class", "own_alpha/Classifier.class"} <= {*names}


@pytest.fixture(scope="module")
def jar(deployed, made_once, tmp_path_factory):
    """Every case's class in a package of its own, compiled at once: the compiler takes many seconds to start."""
    folder = tmp_path_factory.mktemp("kotlin")

    def compiled():
        sources = {f"{name}.kt": text for name, text in STUBS.items()}
        pages = {case: (deployed[case][0], "classify") for case in CASES}
        pages |= {case: (dense(*case)[0], case[0]) for case in DENSE}
        for case, (page, task) in pages.items():
            (source,) = [block for block in blocks(page) if "AutoCloseable" in block]
            for name, text in (("net", source), ("main", MAIN % CALLS[task])):
                sources[f"{package(case)}/{name}.kt"] = f"package {package(case)}\n{text}"
        for name, page in own_pages().items():
            (source,) = [block for block in blocks(page) if "AutoCloseable" in block]
            sources[f"{name}/net.kt"] = f"package {name}\n{source}"
        for name, text in sources.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        command = ["kotlinc", *sources, "-include-runtime", "-d", "compiled.jar"]
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
        return (folder / "compiled.jar").read_bytes()

    path = folder / "all.jar"
    path.write_bytes(made_once("kotlin", compiled))
    return path


def ran(folder, jar, case, picture, runner, taken, labels):
    """What the page's Kotlin prints for a picture when the network gives what ``runner`` gives for ``taken``; and the
    outputs as real numbers."""
    words = picture.astype(int) @ [1 << 16, 1 << 8, 1] + (255 << 24) - (1 << 32)
    (folder / "pixels.txt").write_text(" ".join(map(str, words.ravel())))
    (folder / "labels.txt").write_text("\n".join(labels) + "\n")
    outputs = runner(taken)
    for place, details in enumerate(runner.outputs):
        runner.raw(details["index"]).tofile(folder / f"output{place}.bin")
    fed = runner.raw(runner.inputs[0]["index"]).copy()
    printed = subprocess.run(
        ["java", "-cp", str(jar), f"{package(case)}.MainKt"], check=True, capture_output=True, text=True, cwd=folder
    ).stdout.splitlines()
    given = np.frombuffer((folder / "input.bin").read_bytes(), fed.dtype).reshape(fed.shape)
    if fed.dtype == np.float32:
        np.testing.assert_allclose(given, fed, atol=1e-6)
    else:
        np.testing.assert_array_equal(given, fed)
    return printed, outputs


@pytest.mark.slow
@KOTLIN
@pytest.mark.parametrize("case", CASES)
def test_the_kotlin_compiles_and_does_what_python_does(deployed, jar, tmp_path, case):
    _, runner, image = deployed[case]
    picture = ((photographs(1, 64, seed=3)[0] + 1) * 127.5).astype(np.uint8)
    taken = image.given.for_input(picture, runner.inputs[0]["dtype"])
    labels = [f"label {index}" for index in range(10)]
    printed, ((scores,),) = ran(tmp_path, jar, case, picture, runner, taken, labels)
    assert printed[0] == "crop 4 4 56 56"  # 64 / 72 of the side, in the middle
    best = np.argsort(-scores, kind="stable")[:3]
    word = "class" if case == "float32" else "label"
    assert [line.rsplit(" ", 1)[0] for line in printed[1:]] == [f"{word} {index}" for index in best]
    np.testing.assert_allclose([float(line.rsplit(" ", 1)[1]) for line in printed[1:]], scores[best], rtol=1e-5)


DENSE = [  # task, form, scheme, form of the input
    ("detect", "nms", "float32", "normalised"),
    ("detect", "decoded", "int8", "uint8"),
    ("detect", "raw", "int8", "normalised"),
    ("segment", "full", "float32", "normalised"),
    ("segment", "full", "int8", "uint8"),
    ("segment", "stride", "int8", "normalised"),
    ("segment", "mask", "int8", "uint8"),
]
POST = Postprocess(ssd_anchors(colour_files.GRIDS), 3, score_threshold=0.3)


@functools.cache
def dense(task, form, scheme, given):
    """The page of a small detector or segmenter, its file's runner and how that takes its image."""
    image = ImageInput(Preprocessing(8, 8, mean=(0,) * 3, std=(255,) * 3, crop="stretch"), given)
    content = colour_files.detector() if task == "detect" else colour_files.segmenter()
    if scheme == "int8":
        content = prepare(content, scheme, Calibration((photographs(100, 8) + 1) / 2, (0, 1))).write()
    content = image.finish(content)
    if task == "detect":
        content = detector_forms.with_form(content, form, POST)
    else:
        content = segmenter_forms.with_form(content, form, 16 if form == "full" else 8)
    runner = Runner(content)
    manifest = {
        "task": task,
        "form": form,
        "labels": colour_files.LABELS,
        "scheme": scheme,
        "passed": True,
        "badge": BADGE,
        "inputs": list(map(describe_tensor, runner.inputs)),
        "outputs": list(map(describe_tensor, runner.outputs)),
        "preprocessing": vars(image.given),
    }
    return android.render("net.tflite", manifest, labels=True), runner, image


@pytest.mark.parametrize("case", DENSE, ids=" ".join)
def test_the_page_of_a_detector_and_of_a_segmenter(case):
    task, form, _, _ = case
    text, runner, _ = dense(*case)
    assert "{{" not in text and "{%" not in text and "{#" not in text
    types = {details["dtype"] for details in (*runner.inputs, *runner.outputs)}
    for_mediapipe = form in ("nms", "full", "stride") and types <= {np.uint8, np.float32}
    name = {"detect": "ObjectDetector", "segment": "ImageSegmenter"}[task]
    assert (f"{name}.createFromOptions" in text) == for_mediapipe
    remedy = {"raw": "--output nms", "decoded": "--output nms", "mask": "--output full"}.get(form, "--input uint8")
    assert (f"deploy the model with `{remedy}`" in text) == (not for_mediapipe)
    assert ("and `net.tflite.anchors.json` into" in text) == (form == "raw")
    for details in runner.outputs:
        scale = details["quantization"][0]
        zero_point = details["quantization"][1]
        level = f"(q {'+-'[zero_point > 0]} {abs(zero_point)})" if zero_point else "q"
        assert not scale or f"{scale:.8g} * {level}" in text


@pytest.mark.slow
@KOTLIN
@pytest.mark.parametrize("case", DENSE, ids=" ".join)
def test_the_kotlin_finds_what_python_finds(jar, tmp_path, case):
    task, form, _, _ = case
    _, runner, image = dense(*case)
    picture = np.asarray(colour_files.quarters("red", "blue", "green", "red", size=(8, 8)))
    taken = image.given.for_input(picture, runner.inputs[0]["dtype"])
    (tmp_path / "net.tflite.anchors.json").write_text(detector_forms.anchors_file(POST.anchors))
    printed, outputs = ran(tmp_path, jar, case, picture, runner, taken, colour_files.LABELS)
    if task == "segment":
        *found, last = printed[0].split()
        classes = outputs[0][0] if form == "mask" else outputs[0][0].argmax(-1)
        assert last == "blue" and list(map(int, found)) == classes.ravel().tolist() and len({*found}) == 3
        return
    if form == "nms":
        boxes, classes, scores = (output[0, : int(outputs[3][0])] for output in outputs[:3])
    else:
        raw = outputs[0][0]
        if form == "decoded":  # encoded again, against the image itself
            begin, end = raw[:, :2], raw[:, 2:]
            raw = np.hstack([(begin + end) / 2, np.log(end - begin)]) * [10, 10, 5, 5]
        whole = np.float32([[0, 0, 1, 1]] * len(raw))
        post = POST if form == "raw" else Postprocess(whole, 3, score_threshold=0.3)
        boxes, classes, scores = vars(post(raw.astype(np.float32), outputs[1][0])).values()
    rows = [line.split() for line in printed]
    assert len(rows) == len(scores) == 4 and {label for _, label, *_ in rows} == {*colour_files.LABELS}
    assert all(colour_files.LABELS[int(index)] == label for index, label, *_ in rows)
    found = np.array([[index, *numbers] for index, _, *numbers in rows], float)
    found[:, 2:] = found[:, 2:].clip(0, 8)
    wanted = np.c_[classes, scores, 8 * boxes]
    in_order = [each[np.lexsort(each.round(2).T)] for each in (found, wanted)]  # equal scores may have come otherwise
    np.testing.assert_allclose(*in_order, atol=1e-3)
