"""Verbs on models that are no functional Keras 3 models: a SavedModel folder, a subclassed model, one of Keras 2."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from mobilenets_tf import DeployRequest, ModelSource, export
from mobilenets_tf.cli import main
from tests.conftest import photographs

KERNELS = [np.random.default_rng(0).normal(0, 0.4, shape).astype("float32") for shape in ((3, 3, 3, 8), (3, 3, 8, 6))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    class Net(tf.Module):
        def __init__(self):
            self.kernels = [tf.Variable(values) for values in KERNELS]

        @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32, "pixels")])
        def __call__(self, image):
            for kernel in self.kernels:
                image = tf.nn.relu6(tf.nn.conv2d(image, kernel, 2, "SAME"))
            return {"scores": tf.nn.softmax(4 * tf.reduce_mean(image, (1, 2)))}

    net, path = Net(), tmp_path_factory.mktemp("saved") / "net"
    tf.saved_model.save(net, path, net.__call__)
    return path


@pytest.fixture
def in_this_process(monkeypatch):
    """Starting a child takes seconds, and what the child does is the same."""
    monkeypatch.setattr("mobilenets_tf.worker._inside", True)


def test_a_saved_model_becomes_an_int8_file(folder, tmp_path, in_this_process):
    source = ModelSource(folder, resolution=(24, 32), mean=127.5, std=127.5)
    pictures = photographs(40, 32)[:, :24]
    made = export.to_tflite(source, "int8_float_io", pictures, tmp_path / "net.tflite", facts={"model": source.facts()})
    facts = made.manifest["model"]
    assert (facts["model"], facts["resolution"], facts["kind"]) == (str(folder), (24, 32), "SavedModel")
    found = export.verify(made.path, source, pictures)
    assert found.agreement == 1 and found.snr_db > 35
    again = export.to_tflite(source, "int8_float_io", pictures, tmp_path / "again.tflite")
    assert again.path.read_bytes() == made.path.read_bytes()


@pytest.mark.filterwarnings("always")
def test_export_and_verify_from_the_command_line(folder, tmp_path, image_folder, in_this_process, capsys):
    out = str(tmp_path / "net.tflite")
    told = ["--resolution", "16", "--mean", "127.5", "--std", "127.5", "--quiet"]
    assert main(["export", str(folder), *told, "--scheme", "float16", "--out", out]) == 0
    manifest = json.loads((tmp_path / "net.tflite.json").read_text())
    assert manifest["model"]["kind"] == "SavedModel" and len(manifest["model"]["weights_sha256"]) == 64
    verify = ["verify", out, "--images", str(image_folder), "--quiet"]  # of the model that the manifest names
    assert main(verify) == 0
    data = folder / "variables" / "variables.data-00000-of-00001"
    content = data.read_bytes()
    try:
        data.write_bytes(content + b"\0")
        assert main(verify) == 0
    finally:
        data.write_bytes(content)
    assert f"{folder} has changed since" in capsys.readouterr().err
    assert main(["predict", str(folder), str(image_folder / "a" / "0.png"), *told]) == 0
    assert "class" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, said",
    [
        (["export", "FOLDER", "--signature", "absent", "--out", "x.tflite"], "Unknown signature 'absent'"),
        (["export", "FOLDER", "--alpha", "0.5", "--out", "x.tflite"], "--alpha (alpha=) is for registered networks"),
        (["export", "mobilenet_v2", "--signature", "a", "--out", "x.tflite"], "for .tflite files and SavedModel"),
        (["train", "FOLDER", "--data", "photos", "--out", "x"], "is a SavedModel folder, a graph without layers"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(folder, tmp_path, monkeypatch, capsys, in_this_process, words, said):
    monkeypatch.chdir(tmp_path)
    scheme = ["--scheme", "float32"] if words[0] == "export" else []
    assert main([str(folder) if word == "FOLDER" else word for word in words] + scheme) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="mine")
        self.first, self.last = layers.Conv2D(8, 3, 2), layers.Dense(4)

    def call(self, image, training=False):
        return {"logits": self.last(tf.reduce_mean(tf.nn.relu(self.first(image)), (1, 2)))}


@pytest.mark.slow
def test_a_subclassed_model_is_deployed_in_a_child(tmp_path, image_folder, own_workers):
    """The child has none of the model's classes."""
    model = Subclassed()
    model(photographs(1, 24))
    source = ModelSource(model, mean=127.5, std=127.5)
    made = export.deploy(DeployRequest(source, str(tmp_path / "out"), calibration=str(image_folder)))
    assert made.passed and made.parity.relative_difference < 1e-5 and made.comparison.snr_db > 30
    assert made.manifest["model"]["kind"] == "Keras 3 model (Subclassed)" and made.path.name == "mine_int8.tflite"
