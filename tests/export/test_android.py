"""The Kotlin that a developer pastes: it compiles, feeds what Python feeds, and reads the scores that Python reads."""

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from mobilenets_tf.export import android, to_tflite
from mobilenets_tf.export.judging import described
from mobilenets_tf.image_input import ImageInput
from mobilenets_tf.preprocessing import Preprocessing
from mobilenets_tf.quantize import Calibration
from mobilenets_tf.runtime import Runner
from tests.conftest import photographs

PER_CHANNEL = Preprocessing(64, 72, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
CASES = {  # scheme, form of the input
    "uint8": ("int8", "uint8"),
    "int8": ("int8", "normalised"),
    "float32": ("float32", "normalised"),
}
# Stand-ins for Android's and LiteRT's classes: a bitmap of pixels in memory, a model that notes its input in a file and
# takes its output from another.
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
    """,
    "litert": """
        package com.google.ai.edge.litert
        enum class Accelerator { CPU, GPU, NPU }
        class TensorBuffer {
            private var bytes = ByteArray(0)
            fun load() { bytes = java.io.File("output.bin").readBytes() }
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
            fun createInputBuffers() = listOf(TensorBuffer())
            fun createOutputBuffers() = listOf(TensorBuffer())
            fun run(inputs: List<TensorBuffer>, outputs: List<TensorBuffer>) = outputs.forEach { it.load() }
            override fun close() {}
            companion object {
                fun create(assets: android.content.Assets, name: String, options: Options) = CompiledModel()
            }
        }
    """,
    "main": """
        fun main() {
            val values = java.io.File("pixels.txt").readText().split(" ").map { it.toInt() }
            val bitmap = android.graphics.Bitmap(64, 64, values.toIntArray())
            for ((label, score) in Classifier(android.content.Context()).classify(bitmap, 3)) println("$label $score")
        }
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
            "inputs": list(map(described, runner.inputs)),
            "outputs": list(map(described, runner.outputs)),
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
    assert ("deploy it with `--input uint8`" in text) == (case == "int8")
    assert "{{" not in text and "{%" not in text
    scale = runner.outputs[0]["quantization"][0]
    assert (f"score = {scale:.8g}" in text) == (case != "float32")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("kotlinc"), reason="kotlinc is not installed (Debian: apt install kotlin)")
@pytest.mark.parametrize("case", CASES)
def test_the_kotlin_compiles_and_does_what_python_does(deployed, tmp_path, case):
    text, runner, image = deployed[case]
    (source,) = [block for block in blocks(text) if "class Classifier" in block]
    (tmp_path / "Classifier.kt").write_text(source)
    for name, stub in STUBS.items():
        (tmp_path / f"{name}.kt").write_text(stub)
    sources = [str(path) for path in tmp_path.glob("*.kt")]
    jar = tmp_path / "app.jar"
    subprocess.run(["kotlinc", *sources, "-include-runtime", "-d", str(jar)], check=True, capture_output=True)
    picture = Image.fromarray(((photographs(1, 64, seed=3)[0] + 1) * 127.5).astype(np.uint8))
    pixels = np.asarray(picture).astype(int)
    words = (255 << 24) - (1 << 32) + (pixels[..., 0] << 16) + (pixels[..., 1] << 8) + pixels[..., 2]
    (tmp_path / "pixels.txt").write_text(" ".join(map(str, words.ravel())))
    (tmp_path / "labels.txt").write_text("\n".join(f"label {index}" for index in range(10)) + "\n")
    taken = image.given.for_input(np.asarray(picture), runner.inputs[0]["dtype"])
    scores = runner(taken)[0][0]
    runner.raw(runner.outputs[0]["index"]).tofile(tmp_path / "output.bin")
    fed = runner.raw(runner.inputs[0]["index"]).copy()
    printed = subprocess.run(
        ["java", "-cp", str(jar), "MainKt"], check=True, capture_output=True, text=True, cwd=tmp_path
    ).stdout.splitlines()
    assert printed[0] == "crop 4 4 56 56"  # 64 / 72 of the side, in the middle
    given = np.frombuffer((tmp_path / "input.bin").read_bytes(), fed.dtype).reshape(fed.shape)
    if case == "float32":
        np.testing.assert_allclose(given, fed, atol=1e-6)
    else:
        np.testing.assert_array_equal(given, fed)
    best = np.argsort(-scores, kind="stable")[:3]
    word = "class" if case == "float32" else "label"
    assert [line.rsplit(" ", 1)[0] for line in printed[1:]] == [f"{word} {index}" for index in best]
    np.testing.assert_allclose([float(line.rsplit(" ", 1)[1]) for line in printed[1:]], scores[best], rtol=1e-5)
