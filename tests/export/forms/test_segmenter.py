"""A segmenter with one channel, the foreground: its mask, its answers and its Kotlin."""

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from mobilenets_tf.answers.predictor import KerasNetwork, LiteRTNetwork, Predictor
from mobilenets_tf.answers.reading import Reading
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.export.forms.segmenter import with_form
from mobilenets_tf.export.page import android
from mobilenets_tf.quantize import Calibration
from mobilenets_tf.quantize.post_training import prepare
from mobilenets_tf.tflite.runtime import Runner, describe_tensor
from tests.conftest import photographs

SIZE = 8
INPUT = Preprocessing(SIZE, SIZE, mean=(0.0,) * 3, std=(255.0,) * 3, crop="stretch")


def network(activation):
    """Bright places are the foreground: their logit is above 0, of the darkest bright place 0.3."""
    image = keras.Input((SIZE, SIZE, 3))
    last = layers.Conv2D(1, 1, activation=activation)
    model = keras.Model(image, last(image))
    last.set_weights([np.full((1, 1, 3, 1), 2.0, np.float32), np.full(1, -3.0, np.float32)])
    return model


PHOTO = Image.fromarray(np.repeat(np.repeat(np.uint8([[[140] * 3, [0] * 3]] * 2), 4, 0), 4, 1))
LEFT = np.repeat([[1] * 4 + [0] * 4], SIZE, 0)


@pytest.fixture(params=["sigmoid", None], scope="module")
def made(request, float_file):
    model = network(request.param)
    return model, float_file(model), 0.5 if request.param else 0.0


@pytest.mark.parametrize("form", ["stride", "full", "mask"])
@pytest.mark.parametrize("scheme", ["float32", "int8"])
def test_bright_places_are_class_1_in_every_form(made, form, scheme):
    model, content, cut = made
    if scheme == "int8":
        content = prepare(content, scheme, Calibration((photographs(100, SIZE) + 1) / 2)).write()
    reading = Reading("segment", INPUT, ("ground", "figure"))
    for opened in (KerasNetwork(model), LiteRTNetwork(with_form(content, form, SIZE, cut))):
        (answer,) = Predictor(opened, reading)([PHOTO])
        np.testing.assert_array_equal(answer, LEFT)
    shares = Predictor(KerasNetwork(model), reading).task.described(answer, reading.labels, SIZE, SIZE, 5)
    assert [(row["name"], row["share"]) for row in shares] == [("ground", 0.5), ("figure", 0.5)]


def test_the_kotlin_cuts_where_python_cuts(made):
    _, content, cut = made
    runner = Runner(content)
    manifest = {
        "task": "segment", "form": "stride", "labels": ["ground", "figure"], "scheme": "float32",
        "inputs": list(map(describe_tensor, runner.inputs)),
        "outputs": [describe_tensor(runner.outputs[0]) | {"kind": "binary" if cut else "binary_logit"}],
        "preprocessing": vars(INPUT), "badge": {"colour": "amber", "headline": "", "remarks": []}, "passed": True,
        "failures": [],
    }  # fmt: skip
    text = android.render("net.tflite", manifest, labels=True)
    assert f"if (logits[position] > {cut:.9g}f) 1 else 0" in text and "createFromOptions" not in text
