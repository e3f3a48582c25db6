"""One contract, kept by every registered network."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from mobilenets_tf import RequestError, create_model, features, list_models

NAMES = list_models()


@pytest.mark.parametrize("name", NAMES)
def test_contract(name, tmp_path):
    model = create_model(name, resolution=64, classes=7, classifier_activation=None)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    answer = model(images, training=False)
    assert answer.shape == (2, 7)

    by_stride = features(model)
    assert list(by_stride) == [2, 4, 8, 16, 32]
    assert [tensor.shape[1] for tensor in by_stride.values()] == [32, 16, 8, 4, 2]

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images, training=False), answer)
    assert {k: t.shape for k, t in features(loaded).items()} == {k: t.shape for k, t in by_stride.items()}

    before = [np.array(weight) for weight in model.trainable_variables]
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    loss = model.train_on_batch(images, np.array([0, 1]))
    assert np.isfinite(loss)
    moved = sum(bool(np.any(a != np.array(b))) for a, b in zip(before, model.trainable_variables, strict=True))
    assert moved > 0.9 * len(before)

    headless = create_model(name, resolution=96, include_top=False)
    assert headless.output.shape[1:3] == (3, 3)
    pooled = create_model(name, resolution=64, include_top=False, pooling="max")
    assert pooled.output.shape == (None, headless.output.shape[-1])


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_lite0"])
def test_saved_file_loads_where_this_package_is_not(name, tmp_path):
    model = create_model(name, resolution=64, classes=7)
    model.save(tmp_path / "model.keras")
    image = np.linspace(-1, 1, 64 * 64 * 3, dtype=np.float32).reshape(1, 64, 64, 3)
    np.savez(tmp_path / "expected.npz", image=image, answer=model(image, training=False))
    script = """
import sys
sys.modules["mobilenets_tf"] = None  # importing it raises
import keras, numpy as np
expected = np.load("expected.npz")
model = keras.models.load_model("model.keras")
np.testing.assert_array_equal(model(expected["image"], training=False), expected["answer"])
print("loaded", len(model.layers))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["loaded", str(len(model.layers))]


@pytest.mark.parametrize(("output_stride", "strides"), [(16, [2, 4, 8, 16]), (8, [2, 4, 8])])
@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "efficientnet_lite0"])
def test_output_stride(name, output_stride, strides):
    model = create_model(name, resolution=64, include_top=False, output_stride=output_stride)
    assert list(features(model)) == strides
    assert model.output.shape[1] == 64 // output_stride


def test_dilation_keeps_what_the_weights_compute():
    """At output stride 16 every second pixel of the last feature is what stride 32 gives, away from the border."""
    dense = create_model("mobilenet_v2", resolution=256, include_top=False)
    dilated = create_model("mobilenet_v2", resolution=256, include_top=False, output_stride=16)
    dilated.set_weights(dense.get_weights())
    image = np.random.default_rng(0).uniform(-1, 1, (1, 256, 256, 3)).astype(np.float32)
    coarse, fine = np.asarray(dense(image))[0], np.asarray(dilated(image))[0]
    # "same" pads stride 2 at the bottom right alone, so the strided grid starts at the second pixel.
    matching = fine[1::2, 1::2][3:-3, 3:-3]
    np.testing.assert_allclose(matching, coarse[3:-3, 3:-3], atol=2e-3 * np.abs(coarse).max())


def test_stochastic_depth_skips_whole_samples():
    model = create_model("efficientnet_lite0", resolution=32, include_top=False, drop_connect_rate=0.9)
    drops = [layer for layer in model.layers if layer.name.endswith("_drop")]
    rates = [layer.rate for layer in drops]
    assert rates == sorted(rates) and 0 < rates[0] < rates[-1] < 0.9
    dropped = np.asarray(drops[-1](np.ones((64, 2, 2, 8), np.float32), training=True))
    per_sample = dropped.reshape(64, -1)
    assert (per_sample == per_sample[:, :1]).all()
    assert 0 < (per_sample[:, 0] == 0).sum() < 64


@pytest.mark.parametrize(
    ("wrong", "quoted"),
    [
        ({"name": "mobilenet_v3_large"}, "'mobilenet_v"),
        ({"name": "efficientnet_lite5"}, "Did you mean 'efficientnet_lite"),
        ({"name": "mobilenet_v2", "alpha": 0}, "alpha=0"),
        ({"name": "mobilenet_v2", "alpha": -1.0}, "alpha=-1.0"),
        ({"name": "efficientnet_lite0", "alpha": 0.5}, "no width multiplier"),
        ({"name": "mobilenet_v2", "resolution": 8}, "resolution=8"),
        ({"name": "mobilenet_v2", "pooling": "mean"}, "pooling='mean'"),
        ({"name": "mobilenet_v2", "classes": 0}, "classes=0"),
        ({"name": "mobilenet_v2", "dropout_rate": 1.5}, "dropout_rate=1.5"),
        ({"name": "mobilenet_v2", "output_stride": 4}, "output_stride=4"),
        ({"name": "mobilenet_v2", "input_shape": (224, 224)}, "(224, 224)"),
        ({"name": "mobilenet_v2", "widths": 3}, "widths"),
        ({"name": "mobilenet_v2", "weights": "imagenett"}, "Did you mean 'imagenet'"),
        ({"name": "mobilenet_v2", "weights": "nowhere.pth"}, "nowhere.pth"),
    ],
)
def test_wrong_requests_are_quoted(wrong, quoted):
    with pytest.raises(RequestError) as caught:
        create_model(**wrong)
    assert quoted in str(caught.value)


def test_list_models_wildcards_and_order():
    assert list_models("mobilenet*") == ["mobilenet_v1", "mobilenet_v2"]
    assert list_models("*lite*") == [f"efficientnet_lite{size}" for size in range(5)]
    assert list_models("resnet*") == []
