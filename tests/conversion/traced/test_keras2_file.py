"""Model files of Keras 2 that Keras 3 cannot load: with Keras 2, after a check of all that they name."""

import json
import re
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorflow as tf

from mobilenets_tf.conversion.frozen_graph import run_frozen
from mobilenets_tf.conversion.traced.keras2_file import frozen_keras2_file
from mobilenets_tf.errors import RequestError
from mobilenets_tf.models.traced_model import TracedModel
from mobilenets_tf.modelsource import ModelSource

tf_keras = pytest.importorskip("tf_keras", reason="tf_keras, of the extra qat, is missing")
L = tf_keras.layers
pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")


@pytest.fixture(scope="module")
def model():
    """With what Keras 3 computes otherwise, or does not have."""
    tf_keras.utils.set_random_seed(0)
    image = tf_keras.Input((12, 12, 3), name="image")
    x = L.Conv2D(4, 3, activation="hard_sigmoid", kernel_regularizer="l2")(image)
    x = tf.concat([L.ThresholdedReLU(0.1)(x), tf.nn.relu6(x[:, :, :, :2])], axis=-1)
    x = tf.image.resize(x, (5, 6))
    model = tf_keras.Model(image, L.Dense(3, "softmax", name="scores")(tf.reduce_mean(x, (1, 2))))
    model.compile("adam", "mse")
    return model


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras2")
    for suffix in ("h5", "keras"):
        model.save(folder / f"m.{suffix}")
    return folder


BATCH = np.random.default_rng(0).uniform(-1, 1, (1, 12, 12, 3)).astype("float32")


@pytest.mark.parametrize("name", ["m.h5", "m.keras"])
def test_what_keras3_cannot_load_is_traced(model, folder, name):
    graph = frozen_keras2_file(folder / name, "why")
    assert (graph.inputs[0].name, graph.outputs[0].name) == ("image", "scores")
    np.testing.assert_allclose(run_frozen(graph)([BATCH])[0], model(BATCH), atol=1e-6)


FILES = np.load(Path(__file__).parents[2] / "support" / "tf_keras_files.npz")


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("calling ")])
def test_keras_files_of_tf_keras_of_earlier_versions(tmp_path, name):
    """As those versions wrote them (tests/support/make_tf_keras_files.py)."""
    (tmp_path / "m.keras").write_bytes(FILES[name].tobytes())
    graph = frozen_keras2_file(tmp_path / "m.keras", "why")
    np.testing.assert_allclose(run_frozen(graph)([FILES["image"]])[0], FILES["calling"], atol=1e-5)


def test_what_keras3_fails_to_load_is_tried_with_keras2(tmp_path, monkeypatch):
    """A tensor that is given by name, which Keras 3 does not look up in a configuration of Keras 2."""
    monkeypatch.setattr("mobilenets_tf.worker._inside", True)
    inputs = tf_keras.Input((6, 8))
    other = L.Dense(8)(inputs)
    model = tf_keras.Model(inputs, L.MultiHeadAttention(2, 4)(inputs, value=other))
    model.save(tmp_path / "m.h5")
    opened, sample = ModelSource(str(tmp_path / "m.h5")).open(), np.random.default_rng(0).normal(size=(1, 6, 8))
    assert isinstance(opened, TracedModel)
    np.testing.assert_allclose(opened.answers([sample.astype("float32")])[0], model(sample), atol=1e-5)


def test_a_source_tries_keras3_first(model, folder, monkeypatch):
    monkeypatch.setattr("mobilenets_tf.worker._inside", True)  # as in the child of a verb
    source = ModelSource(str(folder / "m.keras"))
    source.check()
    opened = source.open()
    assert isinstance(opened, TracedModel) and opened.name == "m" and opened.ends[0].activation == "softmax"
    np.testing.assert_allclose(opened.answers([np.repeat(BATCH, 3, 0)])[0][2:], model(BATCH), atol=1e-6)


def test_what_keras3_can_load_stays_there(tmp_path):
    plain = tf_keras.Sequential([tf_keras.Input((8, 8, 3)), L.Conv2D(2, 3), L.GlobalAveragePooling2D()])
    plain.save(tmp_path / "plain.h5")
    assert type(ModelSource(str(tmp_path / "plain.h5")).open()).__name__ == "KerasModel"


def changed(folder, tmp_path, name, old, new):
    """Write a copy of a model file in whose configuration some text is another."""
    path = tmp_path / name
    if name.endswith("h5"):
        path.write_bytes((folder / name).read_bytes())
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = re.sub(old, new, file.attrs["model_config"])
        return path
    with zipfile.ZipFile(folder / name) as given, zipfile.ZipFile(path, "w") as made:
        for each in given.namelist():
            content = given.read(each)
            made.writestr(each, re.sub(old, new, content.decode()) if each == "config.json" else content)
    return path


@pytest.mark.parametrize("name", ["m.h5", "m.keras"])
@pytest.mark.parametrize(
    "old, new, said",
    [
        ('"nn.relu6"', '"io.gfile.remove"', "calls the TensorFlow function 'io.gfile.remove', which may do more"),
        ('"ThresholdedReLU"', '"Lambda"', "has a Lambda layer, which can run code"),
        ('"ThresholdedReLU"', '"TFSMLayer"', "has a TFSMLayer layer"),
        ('"ThresholdedReLU"', '"Absent"', "Absent', which is not one of Keras' own layers"),
        ('"class_name": "L2"', '"class_name": "L2", "module": "os"', "needs os.'L2'"),
        ('"filters": 4', '"filters": 400000000', "have more weights than"),
        ('"filters": 4', '"filters": -4', "cannot be loaded by Keras 2 either"),
    ],
)
def test_hostile_configurations_are_refused(folder, tmp_path, name, old, new, said):
    path = changed(folder, tmp_path, name, old, new)
    with pytest.raises(RequestError, match=said):
        frozen_keras2_file(path, "why")


@pytest.mark.parametrize("hidden", ["{}", '{"name": "x"}', '{"name": ["_CONSTANT_VALUE", -1, ["image", 0, 0], {}]}'])
def test_a_call_with_constants_only_is_refused(folder, tmp_path, hidden):
    """Keras would compute it while the file is loaded; linalg.eye of 40000 takes 6.4 GB."""
    text = h5py.File(folder / "m.h5").attrs["model_config"]
    config = json.loads(text)
    call = next(each for each in config["config"]["layers"] if each["config"].get("function") == "nn.relu6")
    call["config"]["function"] = "linalg.eye"
    call["inbound_nodes"] = [["_CONSTANT_VALUE", -1, 40000, json.loads(hidden)]]
    path = changed(folder, tmp_path, "m.h5", "", "")
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(RequestError, match="calls the layer 'tf.nn.relu6' with constants only"):
        frozen_keras2_file(path, "why")


def test_constants_beside_tensors(tmp_path):
    image = tf_keras.Input((4, 4, 3))
    mean = tf.reduce_mean(1 - image, (1, 2))
    tf_keras.Model(image, tf.stack([tf.ones((1, 3)), mean], axis=1)).save(tmp_path / "m.h5")
    assert h5py.File(tmp_path / "m.h5").attrs["model_config"].count("_CONSTANT_VALUE") == 2
    sample = np.arange(48, dtype="float32").reshape(1, 4, 4, 3)
    (found,) = run_frozen(frozen_keras2_file(tmp_path / "m.h5", "why"))([sample])
    np.testing.assert_allclose(found[:, 1], 1 - sample.mean((1, 2)))


def test_without_keras2_the_remedy_is_to_install_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    with pytest.raises(RequestError, match="The reason. Or install Keras 2, .*: pip install tf_keras"):
        frozen_keras2_file(folder / "m.h5", "The reason.")


def test_an_ellipsis_in_an_index(tmp_path):
    image = tf_keras.Input((4, 4, 3))
    tf_keras.Model(image, tf.reduce_mean(image[..., 1:], (1, 2))).save(tmp_path / "m.h5")
    assert "__ellipsis__" in json.dumps(h5py.File(tmp_path / "m.h5").attrs["model_config"])
    graph = frozen_keras2_file(tmp_path / "m.h5", "why")
    sample = np.arange(48, dtype="float32").reshape(1, 4, 4, 3)
    np.testing.assert_allclose(run_frozen(graph)([sample])[0], sample[..., 1:].mean((1, 2)))
