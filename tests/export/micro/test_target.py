"""Files in TensorFlow Lite Micro's own interpreter."""

import importlib.util
import json

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf import ConversionError, DeployRequest, ModelSource, RequestError, deploy
from mobilenets_tf.cli import main
from mobilenets_tf.export.micro import interpreter, vela
from mobilenets_tf.export.micro.target import check_reference_kernels, prove_micro
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.arena import live_bytes
from mobilenets_tf.tflite.split import split_bottlenecks

needs_tflm = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="pip install 'mobilenets-tf[micro]'"
)
needs_vela = pytest.mark.skipif(not vela.is_installed(), reason="pip install ethos-u-vela")


@needs_tflm
def test_the_outputs_are_those_of_the_reference_kernels(small_files, pictures, monkeypatch):
    monkeypatch.setattr(vela, "is_installed", lambda: False)
    monkeypatch.setattr(interpreter, "least_arena", lambda content: 0)
    whole = small_files["int8"].content
    for content in (whole, split_bottlenecks(whole, 3).content):
        proof = prove_micro(content, [[picture] for picture in pictures[:3]])
        assert (proof.images, proof.different, proof.first_different, proof.failures) == (3, 0, None, ())
        assert proof.tensors == len(flatbuffer.read(content).subgraphs[0].operators)
        assert proof.vela is None and proof.file_bytes == len(content)
        json.dumps(proof.as_dict())


@needs_tflm
def test_a_difference_is_seen_and_its_operator_named(small_files, pictures, monkeypatch):
    """The outputs of an operator are changed on the way back from TFLM."""
    monkeypatch.setattr(vela, "is_installed", lambda: False)
    monkeypatch.setattr(interpreter, "least_arena", lambda content: 0)
    honest = interpreter.outputs

    def other(content, samples):
        found = honest(content, samples)
        for arrays in found:
            arrays[-1] = arrays[-1] ^ 2
        return found

    monkeypatch.setattr(interpreter, "outputs", other)
    proof = prove_micro(small_files["int8"].content, [[pictures[0]]], {"predictions"})
    assert proof.different == 1 and proof.largest == 2
    (failure,) = proof.failures
    assert "on 1 of 1 images, by up to 2 levels. The first operator that differs is SOFTMAX of predictions." in failure


@needs_tflm
def test_the_least_arena_is_the_least(small_files):
    content = small_files["int8"].content
    arena = interpreter.least_arena(content)
    assert arena > max(live_bytes(flatbuffer.read(content)))
    sample = [np.zeros((1, 64, 64, 3), np.int8)]
    assert interpreter._runs(content, sample, arena) and not interpreter._runs(content, sample, arena - 1024)


@needs_tflm
def test_what_it_refuses_has_its_own_words(float_file):
    inputs = keras.Input((8, 8, 3))
    content = float_file(keras.Model(inputs, layers.Activation("gelu")(layers.Conv2D(4, 1)(inputs))))
    with pytest.raises(RequestError, match="refuses the file: .*GELU"):
        interpreter.outputs(content, [[np.zeros((1, 8, 8, 3), np.float32)]])


@needs_tflm
def test_an_operator_whose_kernel_refuses_it_is_named_with_its_layer(float_file):
    """TFLM's TRANSPOSE takes at most five axes."""
    inputs = keras.Input((4, 4, 4, 4, 3))
    model = keras.Model(inputs, layers.Permute((5, 4, 3, 2, 1), name="turn")(layers.Dense(2, name="first")(inputs)))
    sample = [np.zeros((1, 4, 4, 4, 4, 3), np.float32)]
    with pytest.raises(ConversionError, match="kernel refuses TRANSPOSE of turn .*Remedy: replace the layer"):
        prove_micro(float_file(model), [sample], {"first", "turn"})


def test_a_file_that_ends_the_reference_kernels_is_refused(small_files):
    """Their softmax asserts a scale above 2**-26, which a network with random weights may not have."""
    tree = flatbuffer.read(small_files["int8"].content)
    graph = tree.subgraphs[0]
    softmax = next(each for each in graph.operators if flatbuffer.operator_name(tree, each) == "SOFTMAX")
    graph.tensors[softmax.inputs[0]].quantization.scale = [1e-9]
    with pytest.raises(RequestError, match="reference kernels ended on this file .*SIGABRT.*give trained weights"):
        check_reference_kernels(flatbuffer.write(tree))
    check_reference_kernels(small_files["int8"].content)


@needs_vela
def test_velas_summary(small_files):
    summary = vela.summary(small_files["int8"].content)
    assert summary.share == 1 and summary.on_npu > 0 and summary.sram_bytes > 1000 and summary.milliseconds > 0


@needs_vela
def test_vela_says_what_it_refuses():
    with pytest.raises(RequestError, match="Vela refuses the file"):
        vela.summary(b"nothing that it knows")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": "mirco"}, "Unknown target 'mirco'. Did you mean 'micro'"),
        (
            {"target": "micro", "scheme": "float32"},
            "target='micro' is for the schemes int8, int8_float_io; received 'f",
        ),
        ({"split": 1}, "split=1: expected 2 to 64 parts"),
        ({"split": 2, "scheme": "float16"}, "split is for the schemes float32, int8, int8_float_io; 'float16' is none"),
    ],
)
def test_a_target_or_split_that_makes_no_sense_is_refused(tmp_path, options, said, image_folder):
    request = DeployRequest(
        ModelSource("mobilenet_v2", weights="random"), str(tmp_path / "out"), calibration=str(image_folder), **options
    )
    with pytest.raises(RequestError) as error:
        deploy(request)
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()


def test_without_the_interpreter_the_remedy_is_named(monkeypatch, tmp_path, image_folder, capsys):
    monkeypatch.setattr(interpreter.importlib.util, "find_spec", lambda name: None)
    words = ["--calibration", str(image_folder), "--out", str(tmp_path / "out"), "--target", "micro"]
    assert main(["deploy", "mobilenet_v2", "--weights", "random", *words]) == 2
    assert "pip install 'mobilenets-tf[micro]'" in capsys.readouterr().err
    monkeypatch.setattr(interpreter.importlib.util, "find_spec", lambda name: None if name == "yaml" else name)
    with pytest.raises(RequestError, match=r"\(missing: yaml\): pip install .* bitarray pyyaml"):
        interpreter.check_installed()


@needs_tflm
@pytest.mark.slow
def test_deploy_for_a_microcontroller(tmp_path, image_folder, small, capsys):
    path = tmp_path / "small.keras"
    small.save(path)
    words = ["--calibration", str(image_folder), "--mean", "127.5", "--std", "127.5", "--out", str(tmp_path / "out")]
    assert main(["deploy", str(path), *words, "--target", "micro", "--split", "3", "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "equal to LiteRT's reference kernels on" in printed and "1 bottleneck split" in printed
    manifest = json.loads((tmp_path / "out" / "small_int8.tflite.json").read_text())
    assert manifest["micro"]["largest"] <= 1 and manifest["split"]["blocks"][0]["parts"] == 3
    sources = ", ".join(str(tmp_path / "out" / f"small_int8_{end}") for end in ("model.h", "model.cc", "main.cc"))
    assert f"For the microcontroller: {sources}" in printed and "adb" not in printed
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"small_int8_model.h", "small_int8_model.cc", "small_int8_main.cc"} <= written
    assert all(name in str(manifest["files"]) for name in ("small_int8_model.h", "small_int8_main.cc"))
