"""Files that take pixels as they are answer as the model that takes them normalised."""

import keras
import numpy as np
import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.export import to_tflite
from mobilenets_tf.quantize import Calibration
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.tflite.runtime import Runner
from tests.conftest import photographs

WANTED = {
    "[-1, 1]": Preprocessing(size=64, resize=64),
    "whole mean": Preprocessing(size=64, resize=64, mean=(127.0,) * 3, std=(128.0,) * 3),
    "[0, 1]": Preprocessing(size=64, resize=64, mean=(0.0,) * 3, std=(255.0,) * 3),
    "each channel": Preprocessing(size=64, resize=64, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
}
PIXELS = ((photographs(120, 64) + 1) * 127.5).astype(np.uint8)


def make(model, scheme, image, folder):
    samples = image.given.normalise(PIXELS[:100])
    calibration = Calibration(samples, image.given.value_range) if scheme.startswith("int") else None
    path = folder / f"{model.name}_{scheme}.tflite"
    to_tflite(model, scheme, calibration, path, image=image, overwrite=True)
    return Runner(path)


def answers(runner, image):
    dtype = runner.inputs[0]["dtype"]
    return np.stack([runner(image.given.for_input(pixels, dtype))[0][0] for pixels in PIXELS[100:]])


@pytest.mark.parametrize("wanted", WANTED.values(), ids=WANTED)
@pytest.mark.parametrize("form", ["normalised", "uint8"])
def test_a_float_file_equals_keras(small, tmp_path, wanted, form):
    image = ImageInput(wanted, form)
    runner = make(small, "float32", image, tmp_path)
    expected = small.predict(wanted.normalise(PIXELS[100:]), verbose=0)
    np.testing.assert_allclose(answers(runner, image), expected, atol=1e-5)
    assert runner.inputs[0]["dtype"] == (np.uint8 if form == "uint8" else np.float32)


@pytest.fixture(scope="module")
def confident(small):
    """The small classifier with scores as far apart as those of a trained one, so that probabilities do not tie."""
    model = keras.models.clone_model(small)
    model.set_weights(small.get_weights())
    for variable in model.layers[-1].weights:
        variable.assign(6 * variable)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("wanted", WANTED.values(), ids=WANTED)
def test_int8_has_nothing_more_to_compute_than_with_an_int8_input(confident, tmp_path, wanted):
    runner = make(confident, "int8", ImageInput(wanted, "uint8"), tmp_path)
    usual = make(confident, "int8", ImageInput(WANTED["[-1, 1]"]), tmp_path)
    assert runner.inputs[0]["dtype"] == runner.outputs[0]["dtype"] == np.uint8
    found = answers(runner, ImageInput(wanted, "uint8"))
    expected = confident.predict(wanted.normalise(PIXELS[100:]), verbose=0)
    second, first = np.sort(expected, axis=-1)[:, -2:].T
    clear = first - second > 0.2  # eight bits may turn round two classes that are nearly equal
    assert clear.mean() > 0.5 and (found.argmax(-1) == expected.argmax(-1))[clear].mean() > 0.9
    more = {op: count - usual.execution_plan().get(op, 0) for op, count in runner.execution_plan().items()}
    assert {op: count for op, count in more.items() if count} == {"QUANTIZE": 2}  # the bytes' other names


@pytest.mark.parametrize(
    "scheme", ["dynamic", *(pytest.param(s, marks=pytest.mark.slow) for s in ("float16", "int8_float_io", "int16x8"))]
)
def test_every_scheme_takes_pixels(small, tmp_path, scheme):
    image = ImageInput(WANTED["each channel"], "uint8")
    runner = make(small, scheme, image, tmp_path)
    expected = small.predict(image.wanted.normalise(PIXELS[100:]), verbose=0)
    found = answers(runner, image)
    assert runner.inputs[0]["dtype"] == np.uint8 and runner.outputs[0]["dtype"] == np.float32
    second, first = np.sort(expected, axis=-1)[:, -2:].T
    clear = first - second > 0.2  # eight bits may turn round two classes that are nearly equal
    assert clear.mean() > 0.5 and (found.argmax(-1) == expected.argmax(-1))[clear].mean() > 0.9


@pytest.mark.slow
def test_a_model_that_rescales_by_itself_loses_its_rescaling_in_int8(small, tmp_path):
    inputs = keras.Input((64, 64, 3))
    model = keras.Model(inputs, small(keras.layers.Rescaling(1 / 127.5, -1)(inputs)), name="rescaling")
    image = ImageInput(Preprocessing(size=64, resize=64, mean=(0.0,) * 3, std=(1.0,) * 3), "uint8")
    path = tmp_path / "rescaling.tflite"
    to_tflite(model, "int8", Calibration(PIXELS[:100].astype(np.float32), (0, 255)), path, image=image)
    plain = tmp_path / "plain.tflite"
    to_tflite(small, "int8", photographs(100, 64), plain)
    rescaling, without = (flatbuffer.operator_counts(flatbuffer.read(file.read_bytes())) for file in (path, plain))
    assert {op: rescaling.get(op, 0) - without.get(op, 0) for op in ("MUL", "ADD")} == {"MUL": 0, "ADD": 0}
    found, expected = answers(Runner(path), image), small.predict(PIXELS[100:] / 127.5 - 1.0, verbose=0)
    second, first = np.sort(expected, axis=-1)[:, -2:].T
    # Eight bits may turn round two classes that are nearly equal: of the images, the half that is clearest.
    clear = first - second >= np.median(first - second)
    assert (found.argmax(-1) == expected.argmax(-1))[clear].mean() > 0.9


def test_an_unknown_form_is_refused():
    with pytest.raises(RequestError, match="unit8.*uint8"):
        ImageInput(WANTED["[0, 1]"], "unit8")
