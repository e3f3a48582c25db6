"""Folded models give the numbers of the models they were folded from."""

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf import Convention, RequestError, create_model, reparameterize
from tests.support.classifiers import filled

# A kind of stage each: of MobileOne's sizes only the widths and numbers of blocks are others.
ROWS = {
    "mobileone_mu0": [(8, 2, 2, 0), (8, 1, 2, 0), (16, 1, 2, 0), (16, 2, 2, 0)],
    "mobileone_s4": [(8, 1, 2, 0), (16, 2, 2, 1), (16, 1, 2, 1)],
}


def small(name="mobileone_mu0", **options):
    """A MobileOne of few channels and blocks."""
    return create_model(name, rows=ROWS[name], **options)


def answer(model, size=64, seed=0):
    images = np.random.default_rng(seed).uniform(-1, 1, (2, size, size, 3)).astype(np.float32)
    return np.asarray(model(images, training=False))


def assert_folded(model, size=64):
    folded, expected = reparameterize(model), answer(model, size)
    assert np.abs(answer(folded, size) - expected).max() <= 1e-5 * np.abs(expected).max()
    names = {layer.name for layer in folded._flatten_layers(include_self=False)}
    assert not any("_branch" in name or name.endswith("_bn") for name in names)
    return folded


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_folded_is_the_same_function_and_the_inference_form(name):
    model = filled(small(name, resolution=64, classes=10, classifier_activation=None))
    folded = assert_folded(model)
    built = small(name, resolution=64, classes=10, classifier_activation=None, reparameterized=True)
    assert [(layer.name, type(layer)) for layer in folded.layers] == [(x.name, type(x)) for x in built.layers]
    assert [v.shape for v in folded.weights] == [v.shape for v in built.weights]


@pytest.mark.slow
def test_after_training_has_moved_the_statistics():
    model = small(resolution=32, classes=3, branches=1)
    before = np.array(model.get_layer("stem_branch1_bn").moving_mean)
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    images = np.random.default_rng(0).uniform(0, 4, (8, 32, 32, 3))
    model.fit(images, np.arange(8) % 3, epochs=2, verbose=0)
    assert np.abs(np.array(model.get_layer("stem_branch1_bn").moving_mean) - before).max() > 0.01
    assert_folded(model, 32)


def test_the_model_that_was_folded_is_left_alone():
    model = filled(small(resolution=32, classes=3, branches=1))
    weights, expected = model.get_weights(), answer(model, 32)
    folded = reparameterize(model)
    for variable in folded.weights:
        variable.assign(np.zeros(variable.shape))
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(answer(model, 32), expected)
    assert reparameterize(folded) is folded


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nested", "taken apart", "sequential"])
def test_inside_a_larger_model(kind):
    backbone = filled(small(resolution=32, include_top=False, branches=2))
    if kind == "sequential":
        stack = [keras.Input((32, 32, 3)), layers.Rescaling(0.5), backbone, layers.Flatten(), layers.Dense(3)]
        model = keras.Sequential(stack)
    else:
        inputs = keras.Input((32, 32, 3))
        x = backbone.output if kind == "taken apart" else backbone(layers.Rescaling(0.5)(inputs))
        x = layers.Conv2D(8, 1, name="neck")(x)
        x = layers.BatchNormalization(name="neck_norm")(x)
        x = layers.Concatenate()([x, keras.ops.relu(x)])
        model = keras.Model(backbone.input if kind == "taken apart" else inputs, layers.Dense(3)(layers.Flatten()(x)))
    folded = assert_folded(model, 32)
    assert folded.output_shape == (None, 3) and folded.count_params() < model.count_params() / 1.5


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 65])
def test_tensorflows_padding_folds_too(size):
    """There the 1x1 branch lies under another tap of the strided kernel, which depends on the input's size."""
    assert_folded(filled(small(resolution=size, classes=3, branches=1, convention=Convention("same", 1e-3))), size)
    assert_folded(filled(small(resolution=64, include_top=False, branches=1, output_stride=8)))


def test_what_cannot_be_folded_is_refused():
    class Detector(keras.Model):
        def __init__(self, backbone):
            super().__init__(name="detector")
            self.backbone = backbone

        def call(self, x):
            return self.backbone(x)

    backbone = small(resolution=32, include_top=False, branches=1)
    with pytest.raises(RequestError, match="'detector' has MobileOne units where they cannot be reached"):
        reparameterize(Detector(backbone))
    wrapped = keras.Sequential([keras.Input((4, 32, 32, 3)), layers.TimeDistributed(backbone)])
    with pytest.raises(RequestError, match=r"cannot be reached .*wrapper layer. .* reparameterize\(backbone\)"):
        reparameterize(wrapped)
    branches = [backbone.get_layer(f"stem_{branch}_bn").output for branch in ("branch1", "scale")]
    with pytest.raises(RequestError, match="'stem' of .* is not whole, or something reads its insides"):
        reparameterize(keras.Model(backbone.input, branches))
    with pytest.raises(RequestError, match="reads its insides"):
        reparameterize(keras.Model(backbone.input, [backbone.output, branches[0]]))
    anysize = small(input_shape=(None, None, 3), include_top=False, branches=1, convention=Convention("same", 1e-3))
    with pytest.raises(RequestError, match="depends on the input size"):
        reparameterize(anysize)


def test_names_that_are_alike_by_chance_are_left_alone():
    inputs = keras.Input((32, 32, 3))
    x = layers.BatchNormalization(name="decoder1_skip_bn")(layers.Conv2D(8, 1, name="decoder1_skip_conv")(inputs))
    model = keras.Model(inputs, x)
    assert reparameterize(model) is model


@pytest.mark.slow
def test_folded_weight_files(tmp_path):
    """Either form's file loads where it can; the inference form cannot be unfolded, and that is said."""
    options = {"resolution": 32, "classes": 3, "branches": 2}
    model = filled(small(**options))
    folded = reparameterize(model)
    model.save_weights(tmp_path / "training.weights.h5")
    folded.save(tmp_path / "folded.keras")
    for file in ("training.weights.h5", "folded.keras"):
        again = small(weights=tmp_path / file, reparameterized=True, **options)
        np.testing.assert_allclose(answer(again, 32), answer(folded, 32), rtol=1e-5)
    with pytest.raises(RequestError, match="inference form .* reparameterized=True"):
        small(weights=tmp_path / "folded.keras", **options)
