"""Models of one's own, through deploy: several outputs, values, one yes or no."""

import json

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from mobilenets_tf import RequestError
from mobilenets_tf.answers.prediction import PredictRequest, predict
from mobilenets_tf.export import DeployRequest, VerifyRequest, deploy, to_tflite, verify, verify_file
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.tflite.runtime import Runner

SIZE = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """photos/: pictures of one colour each, in the sub-folders dark and light."""
    folder, random = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    for number in range(24):
        name = "light" if number % 2 else "dark"
        path = folder / "photos" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = random.integers(128 if number % 2 else 0, 256 if number % 2 else 128, 3)
        pixels = colour + random.integers(-3, 4, (SIZE, SIZE, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return folder


def pooled(image):
    x = layers.Conv2D(3, 1, name="mix")(image)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return x


def built(**heads):
    """A model that mixes nothing and pools, with these layers on it; their weights from ``kernels``."""
    image = keras.Input((SIZE, SIZE, 3))
    x = pooled(image)
    model = keras.Model(image, {name: layer(x) for name, (layer, _, _) in heads.items()}, name="own")
    model.get_layer("mix").set_weights([np.eye(3, dtype=np.float32)[None, None], np.zeros(3, np.float32)])
    for layer, kernel, bias in heads.values():
        layer.set_weights([np.float32(kernel), np.float32(bias)])
    return model


def colours_and_share():
    """Three colours from 0 to 255, and the mean brightness from 0 to 1, in one output: one scale in int8."""
    kernel = np.c_[np.eye(3) * 127.5, np.full(3, 1 / 6)]
    return built(colour_share=(layers.Dense(4, name="values"), kernel, [127.5] * 3 + [0.5]))


def alive(activation):
    """Whether a picture is light: one output value."""
    return built(light=(layers.Dense(1, activation=activation, name="last"), np.full((3, 1), 4.0), [0.0]))


def request(model, folder, out, **options):
    source = ModelSource(**{**vars(ModelSource.of(model)), "mean": (127.5,), "std": (127.5,)})
    return DeployRequest(source, str(out), calibration=str(folder / "photos"), **options)


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr("mobilenets_tf.worker._inside", True)


def test_a_share_beside_colours_is_not_the_same_answer(folder, tmp_path, in_this_process):
    deployed = deploy(request(colours_and_share(), folder, tmp_path / "out"))
    (output,) = deployed.comparison.outputs
    assert (output.name, output.kind, deployed.manifest["task"]) == ("colour_share", "undecided", "regress")
    worst = output.elements[0]
    assert worst.index == 3 and worst.levels < 2 and worst.r2 < 0.9
    assert all(each.r2 > 0.99 for each in output.elements[1:])
    assert deployed.comparison.agreement == pytest.approx(max(0, worst.r2)) and deployed.comparison.drop > 0.1
    text = "\n".join(deployed.comparison.lines())
    assert "differ in scale" in text and "--scheme int8_float_io" in text
    page = deployed.report.read_text()
    assert "Elements of colour_share" in page and "differ in scale" in page and not deployed.passed
    assert deployed.manifest["outputs"][0]["kind"] == "undecided"
    (found,) = predict(PredictRequest(deployed.path, str(folder / "photos/dark/0.png")))[0].answers[0]["found"]
    assert found["name"] == "colour_share" and len(found["values"]) == 4 and found["text"].count(",") == 3


def test_a_bound_holds_for_every_element(folder, tmp_path, in_this_process):
    model = colours_and_share()
    with pytest.raises(RequestError, match="loses .*int8_float_io"):
        deploy(request(model, folder, tmp_path / "int8", max_drop=0.02))
    bounded = deploy(request(model, folder, tmp_path / "out", max_drop=0.02, scheme="int8_float_io"))
    assert bounded.comparison.drop <= 0.02 and bounded.comparison.outputs[0].elements[0].r2 >= 0.98
    assert "values" in {layer["layer"] for layer in bounded.manifest["mixed_precision"]["left"]}
    kotlin = (tmp_path / "out/own_int8_float_io.tflite.android.md").read_text()
    assert "fun run(photo: Bitmap): Map<String, FloatArray>" in kotlin and "`colour_share`: values" in kotlin


def test_a_bound_without_a_subject_sees_all_outputs(tmp_path, in_this_process):
    random = np.random.default_rng(0)
    samples = random.uniform(-1, 1, (40, 1, 1, 3)) + random.normal(size=(40, SIZE, SIZE, 3)) / 100
    with pytest.raises(RequestError, match="max_drop=0.02"):
        to_tflite(colours_and_share(), "int8", samples.astype(np.float32), tmp_path / "own.tflite", max_drop=0.02)


def two_heads():
    return built(
        species=(layers.Dense(3, activation="softmax", name="s"), 5 * np.eye(3), [0] * 3),
        amount=(layers.Dense(1, name="a"), np.full((3, 1), 1.0), [0]),
    )


def test_every_output_is_shown_and_verified(folder, tmp_path, in_this_process):
    model = two_heads()
    deployed = deploy(request(model, folder, tmp_path / "out"))
    assert [(each.name, each.kind) for each in deployed.comparison.outputs] == [
        ("amount", "undecided"), ("species", "classes")
    ]  # fmt: skip
    assert deployed.comparison.answer == 1 and deployed.comparison.top1_agreement > 0.5
    assert [end["name"] for end in deployed.manifest["outputs"]] == ["amount", "species"]
    page, kotlin = deployed.report.read_text(), (tmp_path / "out/own_int8.tflite.android.md").read_text()
    for name in ("amount", "species"):
        assert name in page and f'"{name}" to ' in kotlin
    verified = verify_file(
        VerifyRequest(str(deployed.path), request(model, folder, "").source, str(folder / "photos"), min_agreement=0.9)
    )
    assert verified.passed == (verified.comparison.agreement >= 0.9) and len(verified.comparison.outputs) == 2
    # A head that is wrong makes the file wrong, though the classes are right.
    model.get_layer("a").bias.assign([9.0])
    assert verify(deployed.path, model, np.zeros((2, SIZE, SIZE, 3), np.float32)).agreement < 0.5


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_one_output_value_has_two_labels(folder, tmp_path, in_this_process, activation):
    (tmp_path / "labels.txt").write_text("dark\nlight\n")
    model = alive(activation)
    asked = request(model, folder, tmp_path / "out", evaluate=str(folder / "photos"), calibration_count=8)
    labelled = ModelSource(**{**vars(asked.source), "labels": str(tmp_path / "labels.txt")})
    deployed = deploy(DeployRequest(**{**vars(asked), "source": labelled}))
    assert deployed.comparison.outputs[0].kind == ("binary" if activation else "binary_logit")
    assert (deployed.comparison.reference_top1, deployed.comparison.top5) == (1.0, None)
    assert "top-5" not in "\n".join(deployed.comparison.lines())
    assert deployed.manifest["task"] == "classify" and "Top-5" not in deployed.report.read_text()
    kotlin = (tmp_path / "out/own_int8.tflite.android.md").read_text()
    assert "floatArrayOf(1f - second, second)" in kotlin and ("Math.exp" in kotlin) == (activation is None)
    for name in ("dark", "light"):
        photo = next((folder / "photos" / name).iterdir())
        best, other = predict(PredictRequest(deployed.path, str(photo)))[0].answers[0]["found"]
        assert best["name"] == name and best["score"] > 0.5 and best["score"] + other["score"] == pytest.approx(1)


def test_logits_are_cut_at_0(folder, tmp_path, in_this_process):
    """At 0.5 a light grey picture would be dark."""
    content = to_tflite(alive(None), "float32", path=tmp_path / "net.tflite").path.read_bytes()
    grey = np.full((SIZE, SIZE, 3), 0.02, np.float32)
    assert 0 < Runner(content)(grey)[0][0, 0] < 0.5
    told = {"preprocessing": {"size": SIZE, "resize": SIZE, "mean": [127.5] * 3, "std": [127.5] * 3, "crop": "stretch"}}
    (tmp_path / "net.tflite.json").write_text(json.dumps({**told, "task": "classify", "labels": ["dark", "light"]}))
    Image.fromarray(((grey + 1) * 127.5).round().astype(np.uint8)).save(tmp_path / "grey.png")
    found = predict(PredictRequest(tmp_path / "net.tflite", str(tmp_path / "grey.png")))[0].answers[0]["found"]
    assert [row["name"] for row in found] == ["light", "dark"]


@pytest.mark.parametrize("scheme", ["int8", "int16x8", "int8_float_io"])
def test_an_output_may_be_constant(scheme, tmp_path, in_this_process):
    image = keras.Input((16, 16, 3))
    found = layers.Conv2D(2, 3, 2)(image)
    model = keras.Model(image, {"found": found, "four": keras.ops.zeros_like(found) + 4.0})
    pixels = np.random.default_rng(0).normal(size=(40, 4, 4, 3)).repeat(4, 1).repeat(4, 2).astype(np.float32)
    run = Runner(to_tflite(model, scheme, pixels, tmp_path / "m.tflite").path)
    answers = dict(zip((details["name"] for details in run.outputs), run(pixels[:1]), strict=True))
    np.testing.assert_allclose(answers["four"], 4.0, rtol=1e-4)
