"""Requests of ``evaluate`` and ``predict``: models and paths in every form."""

from pathlib import Path

import keras
import pytest
from keras import layers

from mobilenets_tf import EvaluateRequest, ModelSource, PredictRequest, RequestError, evaluate, predict
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
