"""Files that are written without being judged: for microcontrollers they are proved all the same."""

import importlib.util
import json

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from mobilenets_tf import RequestError
from mobilenets_tf.export import ExportRequest, export_file
from mobilenets_tf.modelsource import ModelSource

needs_tflm = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="pip install --no-deps tflite-micro bitarray"
)


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """The path of a model of one channel, and a folder of photographs in colour."""
    folder = tmp_path_factory.mktemp("grey")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 1))
    x = layers.Conv2D(4, 3, strides=2, activation="relu")(inputs)
    keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x))).save(folder / "grey.keras")
    for number in range(4):
        blocks = np.random.default_rng(number).integers(0, 255, (4, 4, 3))
        pixels = np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8)
        place = folder / "photos" / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).resize((24, 24), Image.Resampling.BILINEAR).save(place)
    return folder


def request(folder, out, **options):
    source = ModelSource(str(folder / "grey.keras"), mean=(127.5,), std=(127.5,))
    options = {"calibration": str(folder / "photos"), "trust_calibration": True} | options
    return ExportRequest(source, str(out / "net.tflite"), **options)


@needs_tflm
@pytest.mark.parametrize("form", ["normalised", "uint8"])
def test_export_for_microcontrollers_of_a_grey_image(grey, tmp_path, form):
    exported = export_file(request(grey, tmp_path, target="micro", input=form))
    sources = {"net_main.cc", "net_model.cc", "net_model.h"}
    assert {path.name for path in tmp_path.iterdir()} == {"net.tflite", "net.tflite.json", *sources}
    manifest = json.loads((tmp_path / "net.tflite.json").read_text())
    assert manifest["micro"]["images"] == 4 and manifest["micro"]["different"] == 0 and exported.failures == ()
    assert {entry["file"] for entry in manifest["files"]} == {"net.tflite", *sources}
    assert any("equal to LiteRT's reference kernels on 4 of 4 images" in line for line in exported.target_lines)
    assert f"= {manifest['micro']['arena_bytes']};" in (tmp_path / "net_model.h").read_text()
    export_file(request(grey, tmp_path, overwrite=True))  # the sources are of the earlier file
    assert {path.name for path in tmp_path.iterdir()} == {"net.tflite", "net.tflite.json"}


def test_targets_that_export_refuses(grey, tmp_path):
    with pytest.raises(RequestError, match="Unknown target 'mirco'. Did you mean 'micro'"):
        export_file(request(grey, tmp_path, target="mirco"))
    with pytest.raises(RequestError, match="target='micro' is for the schemes int8, int8_float_io"):
        export_file(request(grey, tmp_path, target="micro", scheme="float16"))
    assert not list(tmp_path.iterdir())
