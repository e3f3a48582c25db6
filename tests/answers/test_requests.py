"""Requests of ``evaluate`` and ``predict``: models and paths in every form."""

from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf import (
    EvaluateRequest,
    ModelSource,
    PredictRequest,
    Preprocessing,
    RequestError,
    evaluate,
    predict,
)
from mobilenets_tf.answers import evaluation
from mobilenets_tf.answers.reading import Reading
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.export import metadata
from mobilenets_tf.progress import silent
from mobilenets_tf.tasks import task_of
from mobilenets_tf.tflite.image_input import ImageInput
from tests.support import colour_files
from tests.support.colour_files import LABELS, PREPROCESSING, quarters, write


@pytest.fixture
def photo(tmp_path):
    quarters("red", "red", "red", "red").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def classifier():
    inputs = keras.Input((16, 16, 3))
    return keras.Model(inputs, layers.Softmax()(layers.GlobalAveragePooling2D()(inputs)), name="no_such_file")


def test_a_keras_model_is_judged_and_asked(photo, tmp_path):
    """Its outputs are the channels' means: the class is the colour."""
    for name in ("a red", "b green"):
        (tmp_path / "data" / name).mkdir(parents=True)
    photo.rename(tmp_path / "data" / "a red" / "0.png")
    quarters("green", "green", "green", "green").save(tmp_path / "data" / "b green" / "1.png")
    source = ModelSource("no_such_file", mean=0, std=255, content=ModelSource.of(classifier()).content)
    assert source.mean == (0,)
    evaluation = evaluate(EvaluateRequest(source, str(tmp_path / "data")))
    assert evaluation.task == "classify" and evaluation.scores["top1"] == 1
    (prediction,) = predict(PredictRequest(source, tmp_path / "data" / "b green" / "1.png", top=1))
    assert prediction.answers[0]["found"][0]["class"] == 1
    with pytest.raises(RequestError, match="--mean and --std"):
        evaluate(EvaluateRequest(classifier(), str(tmp_path / "data")))


def test_paths_may_be_paths_and_one_photograph_needs_no_list(photo, tmp_path):
    file = write(tmp_path / "net.tflite", colour_files.classifier(), labels=LABELS, preprocessing=PREPROCESSING)
    request = PredictRequest(file, photo, out=tmp_path / "drawn.png")
    assert request.images == (str(photo),)
    (prediction,) = predict(request)
    assert Path(prediction.picture).is_file()
    with pytest.raises(RequestError, match="at least one photograph"):
        predict(PredictRequest(file, ()))
    with pytest.raises(RequestError, match="labels is a list"):
        ModelSource(str(file), labels=["a"])


def test_a_file_without_a_manifest_says_its_input_and_labels_itself(photo, tmp_path):
    """Not the labels.txt of another file that stands beside it."""
    image = ImageInput(Preprocessing(8, mean=(0.0,) * 3, std=(255.0,) * 3))
    content = metadata.add(colour_files.classifier(), metadata.describe("net", image, LABELS))
    file = tmp_path / "net.tflite"
    file.write_bytes(content)
    (tmp_path / "labels.txt").write_text("other\n")
    assert Reading.of(file) == Reading("classify", image.given, tuple(LABELS), kinds=("classes",))
    (prediction,) = predict(PredictRequest(file, photo, top=1))
    assert prediction.answers[0]["found"][0]["name"] == LABELS[0]


@pytest.mark.parametrize("first", [0, 1])
def test_annotations_that_do_not_count_the_background_are_noticed(photo, monkeypatch, first):
    """1001 outputs, and classes from 0 to 999."""
    truths = (0, 5, 998)

    def predictor(photographs):
        for truth, _ in zip(truths, photographs, strict=True):
            yield np.eye(1001)[truth + first]

    network = SimpleNamespace(task=task_of("classify"), classes=1001, preprocessing=Preprocessing(8))
    opened = type("Opened", (SimpleNamespace,), {"__call__": lambda _, photographs: predictor(photographs)})
    monkeypatch.setattr(evaluation, "opened", lambda *_: opened(**vars(network)))
    request = EvaluateRequest("net.tflite", "labels.csv")
    annotated = ImageSet((photo,) * 3, truths)
    if first:
        with pytest.warns(UserWarning, match=r"1001 outputs.* 0 to 998.*\+ 1 the result is top-1 100.0%.*background"):
            result = evaluation._evaluate(request, Reading("classify"), annotated, silent)
    else:
        result = evaluation._evaluate(request, Reading("classify"), annotated, silent)
    assert result.scores["top1"] == 1 - first
