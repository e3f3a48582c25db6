"""What a report shows beside the manifest."""

import io
import os
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from mobilenets_tf.export.proof.evidence import AnswerChange, changed_answers, layer_fidelity
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.quantize.post_training import Recipe, prepare
from mobilenets_tf.tasks.outputs import BINARY
from mobilenets_tf.tflite import flatbuffer
from tests.conftest import photographs

NAMES = ["ant", "bee", "cow"]


@pytest.fixture
def paths(tmp_path):
    """Five pictures, wide and red in the middle, blue at their ends."""
    made = [tmp_path / "photos" / f"{number}.png" for number in range(5)]
    made[0].parent.mkdir()
    for path in made:
        image = Image.new("RGB", (300, 100), "blue")
        image.paste("red", (90, 0, 210, 100))
        image.save(path)
    return made


def scores(*rows):
    return np.array(rows, np.float32)


REFERENCE = scores((0.9, 0.1, 0.0), (0.5, 0.4, 0.1), (0.1, 0.8, 0.1), (0.3, 0.6, 0.1), (0.2, 0.2, 0.6))
CANDIDATE = scores((0.4, 0.6, 0.0), (0.4, 0.5, 0.1), (0.1, 0.8, 0.1), (0.5, 0.4, 0.1), (0.2, 0.2, 0.6))


def test_what_changed_is_told_with_the_surest_first(paths):
    found = changed_answers(paths, [0, 1, 1, 2, 2], NAMES, REFERENCE, CANDIDATE)
    assert [image.file for image in found.shown] == ["0.png", "3.png", "1.png"]
    assert (found.total, found.images, found.lost, found.won, found.are_probabilities) == (3, 5, 1, 1, True)
    assert found.confusions == (AnswerChange("ant", "bee", 2), AnswerChange("bee", "ant", 1))
    first, second, third = found.shown
    assert (first.float_answer, first.answer, first.label) == ("ant", "bee", "ant")
    assert (first.float_score, first.score) == pytest.approx((0.9, 0.6))
    assert [(image.float_is_right, image.is_right) for image in (first, second, third)] == [
        (True, False), (False, False), (False, True),
    ]  # fmt: skip


def test_a_thumbnail_is_a_small_square_out_of_the_middle_without_what_the_photograph_says_of_itself(paths):
    image = Image.open(paths[0])
    exif = image.getexif()
    exif[0x010E] = "taken at home"
    image.save(paths[0], exif=exif)
    content = changed_answers(paths, None, NAMES, REFERENCE, CANDIDATE).shown[0].thumbnail
    assert b"home" not in content and len(content) < 20_000
    thumbnail = Image.open(io.BytesIO(content))
    assert thumbnail.format == "JPEG" and thumbnail.size == (128, 128)
    red = np.asarray(thumbnail)[:, :, 0]
    assert red.min() > 200  # nothing of the blue ends


def test_without_labels_or_names_and_no_more_than_asked_for(paths):
    found = changed_answers(paths, None, ["ant"], 10 * REFERENCE, 10 * CANDIDATE, limit=1)
    (image,) = found.shown
    assert (image.float_answer, image.answer, image.label, image.is_right) == ("ant", "class 1", None, None)
    assert found.total == 3 and found.lost is None and not found.are_probabilities


def test_a_file_name_that_is_no_text_can_be_written_into_a_page(paths):
    strange = paths[0].rename(os.fsdecode(os.fsencode(paths[0].parent) + b"/caf\xe9.png"))
    found = changed_answers([strange, *paths[1:]], None, NAMES, REFERENCE, CANDIDATE)
    assert found.shown[0].file == "caf?.png"


def test_one_output_is_two_answers(paths):
    reference, candidate = (
        scores((0.9,), (0.6,), (0.1,), (0.2,), (0.3,)),
        scores((0.8,), (0.4,), (0.1,), (0.2,), (0.3,)),
    )
    found = changed_answers(paths, None, [], *map(BINARY.scores, (reference, candidate)))
    (image,) = found.shown
    assert (image.float_answer, image.answer, image.score) == ("class 1", "class 0", pytest.approx(0.6))


@pytest.fixture(scope="module")
def prepared(float_file):
    """A small network with random weights, ready to be written in int8."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="stem")(x)
    x = layers.Conv2D(8, 3, activation="relu", name="inner")(x)
    x = layers.Conv2D(8, 1, activation="tanh", name="last")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(4, name="scores")(x)
    model = keras.Model(inputs, layers.Softmax(name="answer")(x))
    samples = photographs(24, 16)
    return prepare(float_file(model), "int8", Calibration(samples), Recipe(ranges="min_max", rounding="nearest"))


def test_layers_are_compared_with_the_float_model_that_the_integers_were_written_from(prepared):
    content, samples = prepared.write(), prepared.samples[:4]
    found = layer_fidelity(prepared.uncorrected, content, samples)
    assert [row.snr_db for row in found] == sorted(row.snr_db for row in found)
    ordered = [row.layer for row in sorted(found, key=lambda row: row.place)]
    assert ordered == ["stem", "inner", "last", "pool", "scores", "answer"]
    assert all(15 < row.snr_db < 80 for row in found)
    assert found == layer_fidelity(prepared.uncorrected, content, samples)
    same = layer_fidelity(prepared.uncorrected, prepared.uncorrected, samples)
    assert len(same) == len(found) and all(row.snr_db == np.inf for row in same)


def test_a_layer_whose_weights_are_damaged_is_the_first_that_loses(prepared):
    tree = flatbuffer.read(prepared.write())
    graph = tree.subgraphs[0]
    inner = [op for op in graph.operators if flatbuffer.operator_name(tree, op) == "CONV_2D"][1]
    weights = tree.buffers[graph.tensors[inner.inputs[1]].buffer]
    weights.data = np.array(weights.data)[::-1].copy()
    found = {row.layer: row for row in layer_fidelity(prepared.uncorrected, flatbuffer.write(tree), prepared.samples)}
    assert found["stem"].snr_db > 20 and found["stem"].cut_off < 0.01
    assert found["inner"].snr_db < 6


def test_noise_of_values_beyond_the_range_is_told_apart(prepared):
    graph = flatbuffer.read(prepared.model).subgraphs[0]
    cut = next(
        index for index, tensor in enumerate(graph.tensors) if b"/inner" in tensor.name and index in prepared.ranges
    )
    low, high = prepared.ranges[cut]
    content = replace(prepared, ranges=prepared.ranges | {cut: (low, high / 3)}).write()
    found = {row.layer: row for row in layer_fidelity(prepared.uncorrected, content, prepared.samples)}
    assert found["inner"].cut_off > 0.9 and found["inner"].snr_db < 15
    assert found["stem"].cut_off < 0.01
