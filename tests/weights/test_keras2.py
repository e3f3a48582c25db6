"""Models of Keras 2: loaded with the outputs that Keras 2 gives, or refused with the reason."""

import os
from pathlib import Path

import numpy as np
import pytest

from mobilenets_tf import RequestError, load_model

tf_keras = pytest.importorskip("tf_keras", reason="tf_keras, of the extra qat, is missing")
L = tf_keras.layers
IMAGE = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype("float32")


def nested():
    """As Teachable Machine nests its models, with the layers whose arguments Keras 3 does not know."""
    inputs = tf_keras.Input((16, 16, 3))
    x = L.BatchNormalization()(L.DepthwiseConv2D(3)(L.Conv2D(4, 3, 2, activation="relu")(inputs)))
    base = tf_keras.Model(inputs, L.Conv2DTranspose(5, 2, 2)(x))
    head = tf_keras.Sequential([tf_keras.Input((5,)), L.Dense(3, activation="softmax", use_bias=False)])
    body = tf_keras.Sequential([tf_keras.Input((16, 16, 3)), L.RandomFlip(), base, L.GlobalAveragePooling2D()])
    return tf_keras.Sequential([tf_keras.Input((16, 16, 3)), body, head])


@pytest.fixture(scope="module")
def model():
    tf_keras.utils.set_random_seed(0)
    return nested()


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("name", ["m.h5", "m.hdf5", "m.keras"])
def test_models_load_with_the_same_outputs(model, tmp_path, name):
    model.save(tmp_path / name)
    loaded = load_model(tmp_path / name)
    np.testing.assert_allclose(loaded(IMAGE, training=False), model(IMAGE, training=False), atol=1e-6)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("name", ["m.h5", "m.keras"])
def test_calls_of_models_inside_of_a_model(tmp_path, name):
    """Keras 2 numbers them from 1 where the model inside has an input of its own, and the others from 0."""
    inputs = tf_keras.Input((16, 16, 3))
    base = tf_keras.Model(inputs, L.GlobalAveragePooling2D()(L.Conv2D(4, 3)(inputs)))
    with_input = tf_keras.Sequential([tf_keras.Input((4,)), L.Dense(4)])
    without = tf_keras.Sequential([L.Dense(4)])
    inputs = tf_keras.Input((16, 16, 3))
    first, second = base(inputs), base(L.ReLU()(inputs))
    both = L.Concatenate()([with_input(first), without(second), with_input(without(first))])
    model = tf_keras.Model(inputs, [base(L.ReLU(1.0)(inputs)), with_input(second), both])
    model.save(tmp_path / name)
    for found, wanted in zip(load_model(tmp_path / name)(IMAGE), model(IMAGE), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


FILES = np.load(Path(__file__).parents[1] / "support" / "tf_keras_files.npz")


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("nested ")])
def test_keras_files_of_tf_keras_of_earlier_versions(tmp_path, name):
    """As those versions wrote them (tests/support/make_tf_keras_files.py)."""
    (tmp_path / "m.keras").write_bytes(FILES[name].tobytes())
    np.testing.assert_allclose(
        load_model(tmp_path / "m.keras")(FILES["image"], training=False), FILES["nested"], atol=1e-5
    )


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_arithmetic_with_constants_becomes_a_layer(tmp_path):
    inputs = tf_keras.Input((16, 16, 3))
    model = tf_keras.Model(inputs, L.Flatten()(inputs / 127.5 - 1.0))
    model.save(tmp_path / "m.h5")
    np.testing.assert_allclose(load_model(tmp_path / "m.h5")(IMAGE), model(IMAGE), atol=1e-6)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_an_activation_of_another_formula_is_refused(tmp_path):
    tf_keras.Sequential([tf_keras.Input((4,)), L.Dense(2, activation="hard_sigmoid")]).save(tmp_path / "m.h5")
    with pytest.raises(RequestError, match=r"of Keras 2: the hard_sigmoid of its layer 'dense.*0.2 x \+ 0.5"):
        load_model(tmp_path / "m.h5")


def test_a_saved_model_folder_has_no_layers_to_load(tmp_path):
    os.makedirs(tmp_path / "saved")
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"")
    with pytest.raises(
        RequestError, match="a SavedModel folder, a graph without layers; expected a .keras.*make or judge files take"
    ):
        load_model(tmp_path / "saved")
