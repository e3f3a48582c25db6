"""The same weights give the same numbers as timm and keras.applications (tests/make_goldens.py)."""

import keras
import numpy as np
import pytest

from mobilenets_tf import Convention, create_model, features
from mobilenets_tf.conventions import PYTORCH, TENSORFLOW
from mobilenets_tf.weights.checkpoints import Checkpoint
from mobilenets_tf.weights.load import _assign
from mobilenets_tf.weights.spellings import SPELLINGS
from tests.make_goldens import GOLDENS, KERAS, SIZE, TIMM, generated, input_image, spread


@pytest.fixture(scope="module")
def goldens():
    return dict(np.load(GOLDENS))


def checkpoint(goldens, key, framework):
    """The source's weights, made again from their names and shapes."""
    shapes = [tuple(map(int, shape.split())) for shape in goldens[f"{key}/shapes"]]
    tensors = {
        name: generated(name, shape) for name, shape in zip(goldens[f"{key}/names"].tolist(), shapes, strict=True)
    }
    return Checkpoint("golden", "", framework, tensors)


def build(name, alpha, convention):
    return create_model(name, alpha=alpha, resolution=SIZE, classifier_activation=None, convention=convention)


def assert_close(actual, expected):
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(("name", "alpha"), TIMM)
def test_timm(goldens, name, alpha):
    key = f"timm/{name}/{alpha}"
    # timm's "tf_" networks keep TensorFlow's convention, its own have PyTorch's.
    model = build(name, alpha, TENSORFLOW if TIMM[name, alpha].startswith("tf_") else PYTORCH)
    _assign(model, checkpoint(goldens, key, "torch"), SPELLINGS["timm"])
    outputs = {"logits": model.output} | {f"stride{s}": tensor for s, tensor in features(model).items()}
    answers = keras.Model(model.inputs, outputs)(input_image()[None], training=False)
    assert_close(np.ravel(answers["logits"]), goldens[f"{key}/logits"])
    strides = {entry.rsplit("/", 1)[-1] for entry in goldens if entry.startswith(f"{key}/stride")}
    assert strides == {"stride2", "stride4", "stride8", "stride16", "stride32"}
    for stride in strides:
        assert_close(spread(np.asarray(answers[stride])[0]), goldens[f"{key}/{stride}"])


@pytest.mark.parametrize(("name", "alpha"), KERAS)
def test_keras_applications(goldens, name, alpha):
    key = f"keras/{name}/{alpha}"
    model = build(name, alpha, TENSORFLOW)
    _assign(model, checkpoint(goldens, key, "keras"), SPELLINGS[f"keras_{name}"])
    assert_close(np.ravel(model(input_image()[None], training=False)), goldens[f"{key}/logits"])


def test_the_convention_matters(goldens):
    """With the other framework's padding the numbers are others: the tests above would see it."""
    key = "timm/mobilenet_v2/1.0"
    model = build("mobilenet_v2", 1.0, Convention("same", 1e-5))
    _assign(model, checkpoint(goldens, key, "torch"), SPELLINGS["timm"])
    logits, expected = np.ravel(model(input_image()[None], training=False)), goldens[f"{key}/logits"]
    assert np.abs(logits - expected).max() > 1e-2 * np.abs(expected).max()
