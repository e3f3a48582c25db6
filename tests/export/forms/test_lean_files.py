"""Files of every scheme, in every form, have no tensor that nothing uses, and no name twice."""

import pytest

from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.export.forms import detector, segmenter
from mobilenets_tf.export.tflite import convert_model
from mobilenets_tf.networks.heads.anchors import ssd_anchors
from mobilenets_tf.quantize import Calibration, Recipe
from mobilenets_tf.quantize.schemes import SCHEMES
from mobilenets_tf.tasks.detection import Detection
from mobilenets_tf.tasks.postprocess import Postprocess
from mobilenets_tf.tasks.segmentation import Segmentation
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.tflite.runtime import Runner
from tests.conftest import photographs
from tests.support import drawn_networks
from tests.support.lean_files import assert_lean

WANTED = Preprocessing(64, 64, crop="stretch", mean=(120.0, 110.0, 100.0), std=(58.0, 57.0, 56.0))
POST = Postprocess(ssd_anchors(((8, 8), (4, 4))), len(drawn_networks.NAMES))
# (task, form of the input) -> forms of the outputs
FILES = {
    "detector": (
        ImageInput(WANTED, "uint8"),
        Detection.forms,
        lambda content, form: detector.with_form(content, form, POST),
    ),
    "segmenter": (ImageInput(WANTED), Segmentation.forms, lambda content, form: segmenter.with_form(content, form, 64)),
}


PLAIN = {("detector", "int8"), ("segmenter", "dynamic"), ("segmenter", "int16x8")}


@pytest.mark.parametrize(
    ("task", "scheme"),
    [
        pytest.param(task, scheme, marks=() if (task, scheme) in PLAIN else pytest.mark.slow)
        for task in FILES
        for scheme in SCHEMES
    ],
)
def test_nothing_is_for_nothing_and_names_are_different(worker, task, scheme):
    image, forms, with_form = FILES[task]
    calibration = Calibration(image.given.normalise((photographs(100, 64) + 1) * 127.5), image.given.value_range)
    recipe = Recipe(ranges="min_max", rounding="nearest") if SCHEMES[scheme].calibrated else None
    network = getattr(drawn_networks, task)()
    content = convert_model(network, SCHEMES[scheme], calibration, worker, recipe=recipe, image=image).content
    for form in forms:
        written = with_form(content, form)
        assert_lean(written)
        names = [details["name"] for details in Runner(written).inputs + Runner(written).outputs]
        assert not [name for name in names if name.endswith("_1")]  # the ends keep theirs
