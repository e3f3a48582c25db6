"""The verbs take Keras models as people build them: open sides, grey images, several inputs."""

import json

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from mobilenets_tf import export
from mobilenets_tf.answers.predictor import KerasNetwork, Predictor
from mobilenets_tf.answers.reading import Reading
from mobilenets_tf.cli import main
from mobilenets_tf.data import images
from mobilenets_tf.export.tflite import convert_model
from mobilenets_tf.modelsource import ModelSource, opened
from mobilenets_tf.quantize import Calibration, Recipe, schemes
from mobilenets_tf.tflite.runtime import Runner

pytestmark = pytest.mark.filterwarnings("ignore:Only .* calibration samples", "ignore:.*normalises pixel values")


def grey_model(height, width):
    """Tells whether the left half of a grey image is brighter than its right half."""
    inputs = keras.Input((height, width, 1))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.AveragePooling2D(4)(x)
    x = layers.Conv2D(4, 3, padding="same", kernel_initializer="ones")(x)
    left, right = (layers.Cropping2D(((0, 0), sides))(x) for sides in ((0, 4), (4, 0)))
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(each) for each in (left, right)])
    kernel = np.zeros((8, 2), np.float32)
    kernel[:4, 0] = kernel[4:, 1] = 0.3
    dense = layers.Dense(2, activation="softmax")
    model = keras.Model(inputs, dense(x), name="halves")
    dense.set_weights([kernel, np.zeros(2, np.float32)])
    return model


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("halves")
    random = np.random.default_rng(0)
    for number in range(8):
        for label in ("left", "right"):
            columns = np.mgrid[:40, :60][1] * 3.0 + random.uniform(-20, 20) + 5 * np.sin(np.mgrid[:40, :60][0] / 3)
            pixels = columns if label == "right" else columns[:, ::-1]
            (folder / label).mkdir(exist_ok=True)
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / label / f"{number}.png")
    return folder


def test_a_grey_image_that_is_not_square_is_loaded_so(photos):
    predictor = Predictor(
        KerasNetwork(opened(grey_model(24, 32))), Reading("classify", ModelSource("x", mean=0, std=1).asked(None))
    )
    assert (predictor.preprocessing.size, predictor.preprocessing.channels) == ((24, 32), 1)
    for index, label in enumerate(("left", "right")):
        (answer,) = predictor([images.decode(photos / label / "0.png")])
        assert answer.argmax() == index and answer.max() > 0.6


@pytest.mark.slow
def test_deploy_an_open_grey_model_from_the_command_line(photos, tmp_path, capsys):
    model = keras.Sequential([keras.Input((None, None, 1)), layers.Resizing(24, 32), grey_model(24, 32)], name="open")
    model.save(tmp_path / "open.keras")
    given = [str(tmp_path / "open.keras"), "--resolution", "48x64"]
    assert main(["deploy", *given, "--calibration", str(photos), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    manifest = json.loads((tmp_path / "out" / "open_int8.tflite.json").read_text())
    assert manifest["inputs"][0]["shape"] == [1, 48, 64, 1] and manifest["model"]["resolution"] == [48, 64]
    assert manifest["preprocessing"]["size"] == [48, 64] and manifest["preprocessing"]["std"] == [1.0]
    assert manifest["parity"]["relative_difference"] < 1e-5 and manifest["comparison"]["agreement"] == 1.0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "out" / "open_int8.tflite"), "--data", str(photos), "--quiet"]) == 0
    assert "100.0" in capsys.readouterr().out


def two_inputs():
    keras.utils.set_random_seed(0)
    ids, image = keras.Input((6,), dtype="int32", name="ids"), keras.Input((16, 16, 3), name="image")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(50, 8, embeddings_initializer="normal")(ids))
    y = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, activation="relu")(image))
    x = layers.Concatenate()([x, y])
    outputs = {"label": layers.Dense(4, activation="softmax")(x), "score": layers.Dense(1)(x)}
    return keras.Model({"ids": ids, "image": image}, outputs, name="two")


@pytest.mark.slow
def test_several_inputs_and_outputs_go_by_their_names(tmp_path):
    random, model = np.random.default_rng(0), two_inputs()
    rows, columns = np.mgrid[:16, :16]
    waves = [np.sin(rows / 3 + random.uniform(0, 6)) * np.cos(columns / 4 + random.uniform(0, 6)) for _ in range(24)]
    data = {"ids": random.integers(0, 50, (24, 6)), "image": np.stack(waves)[..., None] * np.float32([1, 0.5, 0.2])}
    path = export.to_tflite(model, "int8", data, tmp_path / "two.tflite").path
    assert {details["name"]: details["dtype"] for details in Runner(path).inputs} == {"ids": np.int32, "image": np.int8}
    compared = export.verify(path, model, data)
    assert [output.name for output in compared.outputs] == ["label", "score"] and compared.relative_difference < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, options", [("MobileNet", {"alpha": 0.25}), ("MobileNetV3Small", {"minimalistic": True})]
)
def test_networks_of_keras_applications(name, options, worker):
    """benchmarks/models.py has the others."""
    keras.utils.set_random_seed(0)
    options |= {"weights": None, "input_shape": (32, 32, 3), "classes": 10, "classifier_activation": None}
    model = opened(getattr(keras.applications, name)(**options))
    own = model.own_normalisation
    assert (own and (own.mean, own.std)) == ((0, 1) if name == "MobileNetV3Small" else None)
    random, (rows, columns) = np.random.default_rng(0), np.mgrid[:32, :32]
    waves = [np.sin(rows / 5 + random.uniform(0, 6)) * np.cos(columns / 7 + random.uniform(0, 6)) for _ in range(8)]
    samples = np.stack(waves)[..., None].astype(np.float32) * np.float32([0.9, 0.6, 0.3])
    samples = 127.5 * (samples + 1) if own else samples
    recipe = Recipe(ranges="min_max", rounding="nearest")
    converted = convert_model(model, schemes.get("int8"), Calibration(samples), worker, recipe=recipe)
    expected = np.concatenate(model.answers([samples]))
    found = np.concatenate([Runner(converted.float_content)(sample)[0] for sample in samples])
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert Runner(converted.content).execution_plan() == {"DELEGATE": 1}
