"""Answers of files whose answers are known, in every form that outputs have."""

from dataclasses import asdict

import numpy as np
import pytest

from mobilenets_tf.answers.predictor import KerasNetwork, Predictor, ScaledNetworks, predictor, scaled
from mobilenets_tf.answers.reading import Reading
from mobilenets_tf.data.preprocessing import Preprocessing, sides
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export import metadata
from mobilenets_tf.export.forms import detector as detector_forms
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.networks.heads.anchors import ssd_anchors
from mobilenets_tf.tasks.detection import Detection
from mobilenets_tf.tasks.postprocess import Postprocess
from mobilenets_tf.tasks.segmentation import classes_at
from mobilenets_tf.tflite.image_input import ImageInput
from tests.support import colour_files
from tests.support.colour_files import GRIDS, LABELS, PREPROCESSING, quarters, write

AS_THEY_ARE = Preprocessing(size=64, resize=64, mean=(0,) * 3, std=(255,) * 3)


def enlarged(logits, height, width):
    """By the formula: between pixels' middles, the border's beyond them."""

    def weights(length, wanted):
        middle = np.clip((np.arange(wanted) + 0.5) * length / wanted - 0.5, 0, length - 1)
        return np.maximum(0, 1 - np.abs(middle[:, None] - np.arange(length)))

    return np.einsum("yh,xw,hwc->yxc", weights(logits.shape[0], height), weights(logits.shape[1], width), logits)


def test_logits_are_enlarged_before_the_highest_is_taken():
    logits = np.random.default_rng(0).normal(size=(5, 4, 7)).astype(np.float32)
    found, wanted = classes_at(logits, 33, 50), enlarged(logits, 33, 50)
    assert found.dtype == np.uint8 and found.shape == (33, 50)
    two = np.sort(wanted, axis=-1)[..., -2:]
    clear = two[..., 1] - two[..., 0] > 1e-5  # else rounding may have it the other way
    assert clear.mean() > 0.99 and np.array_equal(found[clear], wanted.argmax(-1)[clear])
    # Not the same as the highest enlarged.
    assert not np.array_equal(found, classes_at(logits.argmax(-1), 33, 50))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_classes_are_enlarged_by_the_nearest(dtype):
    mask = np.array([[0, 3], [255, 1]], dtype)
    assert np.array_equal(classes_at(mask, 4, 6), mask.repeat(2, 0).repeat(3, 1))


@pytest.mark.parametrize(
    "shape, dtype", [((4, 4), "float32"), ((4, 4, 3), "int8"), ((4,), "float32"), ((2, 2, 300), "float32")]
)
def test_what_is_no_mask_is_refused(shape, dtype):
    with pytest.raises(RequestError, match="segmenter's output has the shape"):
        classes_at(np.zeros(shape, dtype), 8, 8)


def test_the_whole_photograph_is_segmented_whatever_the_manifest_crops(tmp_path):
    cropped = PREPROCESSING | {"crop": "crop_then_resize", "resize": 16, "size": 8}
    file = write(tmp_path / "net.tflite", colour_files.segmenter(), task="segment", preprocessing=cropped)
    photographs = quarters("red", "green", "blue", "red"), quarters("blue", "blue", "green", "red", size=(9, 90))
    for photograph, mask in zip(photographs, predictor(file)(photographs), strict=True):
        assert mask.shape == photograph.size[::-1]
        assert agreement(mask, photograph) > 0.98  # colours mix where all four meet


def agreement(mask, photograph):
    return (mask == np.asarray(photograph).argmax(-1)).mean()


def test_a_classifier_crops_and_needs_no_manifest_that_says_its_task(tmp_path):
    file = write(tmp_path / "net.tflite", colour_files.classifier())
    network = predictor(file, Reading(preprocessing=AS_THEY_ARE, labels=tuple(LABELS)))
    (scores,) = network([quarters("red", "red", "blue", "blue", size=(24, 24))])
    assert network.task.name == "classify" and network.classes == 3
    assert scores == pytest.approx([0.5, 0, 0.5], abs=0.01)


@pytest.mark.parametrize("form", Detection.forms)
def test_every_form_of_a_detector_says_the_same(tmp_path, form):
    anchors = ssd_anchors(GRIDS)
    content = detector_forms.with_form(colour_files.detector(), form, Postprocess(anchors, 3))
    told = {"form": form, "anchors": {"grids": GRIDS}} if form == "raw" else {"form": form}
    file = write(tmp_path / "net.tflite", content, task="detect", labels=LABELS, preprocessing=PREPROCESSING, **told)
    network = predictor(file)
    (found,) = network([quarters("black", "blue", "red", "black")])
    assert network.classes == (None if form == "nms" else 3)
    assert sorted(zip(found.classes.tolist(), found.boxes.round(4).tolist(), strict=True)) == [
        (0, [0.5, 0, 1, 0.5]), (2, [0, 0.5, 0.5, 1]),
    ]  # fmt: skip
    assert found.scores == pytest.approx([0.84, 0.84], abs=0.01)


def test_a_keras_model_says_what_its_file_says(tmp_path):
    reading = Reading("detect", AS_THEY_ARE)
    network = Predictor(KerasNetwork(colour_files.keras_detector()), reading)
    file = predictor(
        write(tmp_path / "net.tflite", colour_files.detector()), Reading("detect", AS_THEY_ARE, (), "raw", GRIDS)
    )
    photographs = [quarters("blue", "black", "black", "green")] * 9 + [quarters("black", "red", "black", "black")]
    answers = list(network(photographs))
    assert len(answers) == 10 and len(answers[-1]) == 1  # more than go in together
    for found, wanted in zip(answers, file(photographs), strict=True):
        assert np.array_equal(found.classes, wanted.classes)
        assert found.boxes == pytest.approx(wanted.boxes, abs=1e-5)
    segmenter = Predictor(KerasNetwork(colour_files.keras_segmenter()), Reading("segment", AS_THEY_ARE))
    photograph = quarters("blue", "red", "red", "green")
    assert agreement(*segmenter([photograph]), photograph) > 0.98


@pytest.mark.parametrize(
    ("content", "reading", "told"),
    [
        ("detector", Reading(preprocessing=AS_THEY_ARE), "Pass --task classify, detect or segment"),
        ("detector", Reading("segment", AS_THEY_ARE), "a segmenter has one of"),
        ("detector", Reading("detect", AS_THEY_ARE), "nothing says whether its boxes are encoded"),
        ("detector", Reading("detect", AS_THEY_ARE, form="raw"), "names no grids"),
        ("detector", Reading("detect", AS_THEY_ARE, form="raw", grids=((3, 2),)), "of another file"),
        ("detector", Reading("detect", AS_THEY_ARE, form="row"), "Did you mean 'raw'"),
        ("segmenter", Reading("detect", AS_THEY_ARE, form="nms"), "scores (1, k) and their number"),
        ("segmenter", Reading("segment", AS_THEY_ARE, ("sky", "road")), "tells 3 classes apart, and there are 2"),
        ("segmenter", Reading("segment"), "Pass --mean and --std"),
    ],
)
def test_what_is_not_known_or_does_not_fit_is_named(tmp_path, content, reading, told):
    file = write(tmp_path / "net.tflite", getattr(colour_files, content)())
    with pytest.raises(RequestError) as caught:
        predictor(file, reading)
    assert told in str(caught.value) and str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        ({"task": "detct"}, "Did you mean 'detect'"), ({"anchors": {"grids": [4]}}, "expected {\"grids\""),
        ({"preprocessing": {"mean": [0, 0, 0]}}, "is {'mean': [0, 0, 0]} (KeyError: 'std'). Write the file"),
        ({"preprocessing": {"mean": [0, 0, 0], "std": [1, 1, 1], "crop": "centre"}}, "Unknown crop 'centre'"),
    ],
)  # fmt: skip
def test_a_manifest_that_says_nonsense_is_named(tmp_path, manifest, told):
    with pytest.raises(RequestError, match=r"net.tflite.json") as caught:
        Reading.of(write(tmp_path / "net.tflite", b"", **manifest))
    assert told in str(caught.value)


@pytest.mark.parametrize("text", [b'{"labels": ["cat", "d', b"", b"\xff\xfe{", b"[" * 5000])
def test_a_damaged_manifest_is_no_missing_one(tmp_path, text):
    """A manifest that was cut off would lose labels and preprocessing in silence."""
    file = write(tmp_path / "net.tflite", colour_files.classifier())
    (tmp_path / "net.tflite.json").write_bytes(text)
    with pytest.raises(RequestError, match=r"net.tflite.json is .*remove the manifest"):
        Reading.of(file)


def test_damaged_labels_in_a_file_are_warned_of_whatever_the_manifest_says(tmp_path):
    described = metadata.describe("net", ImageInput(AS_THEY_ARE), LABELS, "classify")
    content = metadata.add(colour_files.classifier(), described)[:-30]
    for manifest in ({}, {"labels": LABELS, "preprocessing": asdict(AS_THEY_ARE)}):
        file = write(tmp_path / "net.tflite", content, **manifest)
        with pytest.warns(UserWarning, match="the archive of files behind the model is damaged.*Write the file again"):
            labels = Reading.of(file).labels
        assert labels == tuple(manifest.get("labels", ()))


def test_labels_are_the_manifests_or_the_file_beside_it(tmp_path):
    file = write(tmp_path / "net.tflite", colour_files.classifier(), labels=LABELS)
    write(tmp_path / "another.tflite", colour_files.classifier())
    (tmp_path / "labels.txt").write_text("other\n")
    assert Reading.of(file).labels == tuple(LABELS)
    assert Reading.of(tmp_path / "another.tflite").labels == ("other",)


def test_broken_numbers_are_no_answer(tmp_path):
    file = write(tmp_path / "net.tflite", colour_files.segmenter())
    network = predictor(file, Reading("segment", Preprocessing(size=8, resize=8, mean=(0,) * 3, std=(7.6e-37,) * 3)))
    with np.errstate(over="ignore"), pytest.raises(RequestError, match="NaN or infinite"):
        list(network([quarters("red", "red", "red", "red")]))


def test_several_sizes_and_mirrored_are_the_mean_of_what_each_says():
    import keras
    import tensorflow as tf

    def network(size):
        """It sees edges to one side, so that mirroring matters."""
        image = keras.Input((size, size, 3))
        kernel = keras.initializers.Constant(np.random.default_rng(0).normal(size=(3, 3, 3, 3)))
        return keras.Model(image, keras.layers.Conv2D(3, 3, padding="same", kernel_initializer=kernel)(image))

    models = [network(16), network(8)]
    batch = np.random.default_rng(1).uniform(size=(2, 16, 16, 3)).astype(np.float32)
    small = tf.image.resize(batch, (8, 8), antialias=True).numpy()
    wanted = []
    for model, pictures in zip(models, (batch, small), strict=True):
        for turned in (pictures, pictures[:, :, ::-1]):
            logits = np.asarray(model(turned))
            shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            shares = shares[:, :, ::-1] if turned is not pictures else shares
            wanted.append(tf.image.resize(shares, (16, 16)).numpy())
    (found,) = ScaledNetworks(models, True, "both")(batch)
    np.testing.assert_allclose(found, np.mean(wanted, 0), atol=1e-5)
    (alone,) = ScaledNetworks(models[:1], False, "one")(batch)
    np.testing.assert_allclose(alone, wanted[0], atol=1e-5)


def test_both_sides_are_scaled(monkeypatch):
    import keras

    built = []

    def build(source, **options):
        built.append(options.get("resolution", source.resolution))
        image = keras.Input((*sides(built[-1]), 3))
        return keras.Model(image, keras.layers.Conv2D(2, 1)(image))

    monkeypatch.setattr(ModelSource, "build", build)
    source = ModelSource("lraspp_mobilenet_v2", resolution=(64, 128), weights="random")
    found = scaled(source, Reading("segment"), (0.5, 1.0, 1.5), mirrored=False)
    assert built == [(64, 128), (32, 64), (96, 192)] and found.preprocessing.size == (96, 192)
