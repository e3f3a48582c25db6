"""The same weights give the same numbers as timm, torchvision, keras.applications and a MobileViTv3 written apart.

What they answered is in tests/support/goldens.npz (tests/support/make_goldens.py).
"""

import keras
import numpy as np
import pytest

from mobilenets_tf import Convention, create_model, features, reparameterize
from mobilenets_tf.conventions import PYTORCH, TENSORFLOW
from mobilenets_tf.weights.checkpoints import Checkpoint
from mobilenets_tf.weights.load import _assign
from mobilenets_tf.weights.spellings import SPELLINGS, recognise
from tests.support.make_goldens import (
    GOLDENS,
    KERAS,
    MOBILEVIT_V3,
    SIZE,
    TIMM,
    TORCHVISION,
    generated,
    input_image,
    spread,
)


@pytest.fixture(scope="module")
def goldens():
    return dict(np.load(GOLDENS))


def checkpoint(goldens, key, framework):
    """The source's weights, made again from their names and shapes."""
    shapes = [tuple(map(int, shape.split())) for shape in goldens[f"{key}/shapes"]]
    tensors = {
        name: generated(name, shape) for name, shape in zip(goldens[f"{key}/names"].tolist(), shapes, strict=True)
    }
    return Checkpoint("golden", framework, tensors)


def loaded(goldens, key, name, spelling, convention=None, alpha=None, framework="torch"):
    """Our network with the source's weights."""
    weights = checkpoint(goldens, key, framework)
    assert recognise(weights.tensors) == {"": spelling}
    convention = convention or SPELLINGS[spelling].convention
    model = create_model(name, alpha=alpha, resolution=SIZE, classifier_activation=None, convention=convention)
    _assign(model, weights, SPELLINGS[spelling])
    return model


def logits(model):
    return np.ravel(model(input_image()[None], training=False))


def assert_close(actual, expected, tolerance=1e-4):
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


def assert_same(model, goldens, key):
    """Logits, and the features of all five strides."""
    outputs = {"logits": model.output} | {f"stride{s}": tensor for s, tensor in features(model).items()}
    answers = keras.Model(model.input, outputs)(input_image()[None], training=False)
    assert_close(np.ravel(answers["logits"]), goldens[f"{key}/logits"])
    strides = {entry.rsplit("/", 1)[-1] for entry in goldens if entry.startswith(f"{key}/stride")}
    assert strides == {"stride2", "stride4", "stride8", "stride16", "stride32"}
    for stride in strides:
        assert_close(spread(np.asarray(answers[stride])[0]), goldens[f"{key}/{stride}"])


def timm_spelling(name):
    if name.startswith("mobilevit"):
        return "timm_mobilevit_v2" if "_v2_" in name else "timm_mobilevit"
    return "timm_mobileone" if name.startswith("mobileone") else "timm"


# The sizes of a family differ in widths and depths (and MobileOne's S4 in squeeze-and-excite): most are CI's.
SIZES = {
    *(f"mobileone_s{size}" for size in range(5)), *(f"efficientnet_lite{size}" for size in range(1, 5)),
    "mobilevit_xs", "mobilevit_s", "mobilevit_v2_075", "mobilevit_v2_100",
    "mobilevit_v3_xs", "mobilevit_v3_s", "mobilevit_v3_075", "mobilevit_v3_100",
}  # fmt: skip


def widths(keys):
    """One test a network and width. Of a family's widths all but the first, and its other sizes, are CI's."""
    plain = {name: alpha for name, alpha in reversed(list(keys)) if name not in SIZES}
    return [pytest.param(*key, marks=[] if plain.get(key[0], "") == key[1] else [pytest.mark.slow]) for key in keys]


@pytest.mark.parametrize(("name", "alpha"), widths(TIMM))
def test_timm(goldens, name, alpha):
    # timm's "tf_" networks keep TensorFlow's convention, its own have PyTorch's.
    convention = TENSORFLOW if TIMM[name, alpha].startswith("tf_") else PYTORCH
    key = f"timm/{name}/{alpha}"
    model = loaded(goldens, key, name, timm_spelling(name), convention, alpha)
    assert_same(model, goldens, key)
    if name.startswith("mobileone"):  # the inference form gives timm's numbers too
        assert_close(logits(reparameterize(model)), goldens[f"{key}/logits"])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SIZES else []) for name in MOBILEVIT_V3]
)
def test_mobilevit_v3(goldens, name):
    spelling = "cvnets_mobilevit" if MOBILEVIT_V3[name] else "cvnets_mobilevit_v2"
    key = f"cvnets/{name}"
    assert_same(loaded(goldens, key, name, spelling), goldens, key)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(goldens, name):
    spelling = "torchvision_mobilenet_v3" if "v3" in name else "torchvision"
    key = f"torchvision/{name}"
    assert_close(logits(loaded(goldens, key, name, spelling, alpha=1.0)), goldens[f"{key}/logits"])


@pytest.mark.parametrize(("name", "alpha"), widths(KERAS))
def test_keras_applications(goldens, name, alpha):
    key = f"keras/{name}/{alpha}"
    spelling = "keras_mobilenet_v3" if "v3" in name else f"keras_{name}"
    assert_close(logits(loaded(goldens, key, name, spelling, alpha=alpha, framework="keras")), goldens[f"{key}/logits"])


def test_the_convention_matters(goldens):
    """With the other framework's padding the numbers are others: the tests above would see it."""
    key = "timm/mobilenet_v2/1.0"
    answer = logits(loaded(goldens, key, "mobilenet_v2", "timm", Convention("same", 1e-5), 1.0))
    expected = goldens[f"{key}/logits"]
    assert np.abs(answer - expected).max() > 1e-2 * np.abs(expected).max()
