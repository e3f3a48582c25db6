"""Average precision and intersection over union."""

import math

import numpy as np
import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.data.boxes import Boxes, Detections
from mobilenets_tf.tasks.metrics import Confusion, average_precision

LEFT, RIGHT, TOP = (0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1), (0, 0.6, 0.2, 0.9)
SHORT = (0.5, 0.5, 1, 0.86)  # 0.72 of RIGHT


def truth(*rows):
    """Of rows (corners, class) or (corners, class, ignored)."""
    corners = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
    classes, ignored = [row[1] for row in rows], [len(row) > 2 and row[2] for row in rows]
    return Boxes(corners, np.array(classes, np.int32), np.array(ignored, bool))


def found(*rows):
    """Of rows (corners, class, score)."""
    boxes = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
    classes, scores = ([row[place] for row in rows] for place in (1, 2))
    return Detections(boxes, np.array(classes, np.int32), np.array(scores, np.float32))


def test_average_precision_of_a_hand_computed_example(capfd):
    # By score: right (recall 1/2, precision 1), wrong, right (recall 1, precision 2/3). COCO takes, at 101 recalls, the
    # best precision at that recall or beyond: 51 times 1 and 50 times 2/3. Above an IoU of 0.72 the third is wrong too.
    truths = [truth((LEFT, 0), (RIGHT, 0)), truth((LEFT, 1))]
    detections = [found((SHORT, 0, 0.7), (LEFT, 0, 0.9), (TOP, 0, 0.8)), found((LEFT, 0, 0.1), (RIGHT, 1, 0.5))]
    both, one = (51 + 50 * 2 / 3) / 101, 51 / 101
    result = average_precision(detections, truths, ["a", "b", "c"])
    assert result["per_class"]["a"] == pytest.approx(both) and result["per_class"]["b"] == 0
    assert math.isnan(result["per_class"]["c"]) and result["images"] == 2
    assert result["map50"] == pytest.approx((both + 0) / 2)
    assert result["map"] == pytest.approx((5 * both + 5 * one) / 10 / 2)
    assert capfd.readouterr() == ("", "")


def test_a_perfect_detector_has_one_and_ignored_boxes_count_for_nothing():
    truths = [truth((LEFT, 0), (RIGHT, 1), (TOP, 0, True)), truth()]
    perfect = [found((LEFT, 0, 0.3), (RIGHT, 1, 0.2), (TOP, 0, 0.9)), found()]
    result = average_precision(perfect, truths, ["a", "b"])
    assert result["per_class"] == pytest.approx({"a": 1, "b": 1}) and result["images"] == 2
    assert (result["map50"], result["map"]) == pytest.approx((1, 1))
    without = [found((LEFT, 0, 0.3), (RIGHT, 1, 0.2)), found()]
    assert average_precision(without, truths, ["a", "b"]) == result
    wrong = [perfect[0], found((LEFT, 0, 0.95))]
    assert average_precision(wrong, truths, ["a", "b"])["per_class"]["a"] == pytest.approx(0.5)


def test_the_second_box_on_an_object_is_wrong():
    result = average_precision(
        [found((LEFT, 0, 0.9), (LEFT, 0, 0.8), (RIGHT, 0, 0.7))], [truth((LEFT, 0), (RIGHT, 0))], "a"
    )
    assert result["map50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_without_detections_or_truths():
    assert average_precision([found()], [truth((LEFT, 0))], ["a"])["map50"] == 0
    result = average_precision([found((LEFT, 0, 1))], [truth()], ["a"])
    assert math.isnan(result["map50"]) and math.isnan(result["map"])


@pytest.mark.filterwarnings("ignore:.*cast:RuntimeWarning")
def test_confusion_is_as_keras_counts():
    import keras

    random = np.random.default_rng(0)
    confusion, metric = Confusion(5, void=9), keras.metrics.MeanIoU(5, ignore_class=9)
    for _ in range(3):
        truth = random.choice([0, 1, 2, 3, 9], (13, 17)).astype(np.uint8)  # 4 occurs in predictions alone
        prediction = np.where(random.random((13, 17)) < 0.6, truth % 9, random.integers(0, 5, (13, 17))).astype(
            np.uint8
        )
        confusion.add(truth, prediction)
        metric.update_state(truth.astype(np.int32), prediction.astype(np.int32))
    assert confusion.miou == pytest.approx(float(metric.result()), rel=1e-6)
    assert confusion.iou[4] == 0 and confusion.matrix.sum() < 3 * 13 * 17


def test_confusion_of_a_hand_computed_example():
    confusion = Confusion(3)
    assert math.isnan(confusion.miou) and math.isnan(confusion.pixel_accuracy)
    confusion.add(np.array([[0, 0, 1], [1, 255, 255]]), np.array([[0, 1, 1], [1, 0, 2]]))
    assert confusion.matrix.tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert confusion.iou[:2].tolist() == [1 / 2, 2 / 3] and math.isnan(confusion.iou[2])
    assert confusion.miou == pytest.approx(7 / 12) and confusion.pixel_accuracy == 3 / 4


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        ([[0, 1]], [[0], [1]], r"The truth has the shape \(1, 2\), the prediction \(2, 1\)"),
        ([[0, 11]], [[0, 1]], "The truth has the value 11; classes are 0 to 1"),
        ([[0, 1]], [[0, 2]], "The prediction has the value 2; classes are 0 to 1"),
        ([[0, 1]], [[0, -1]], "The prediction has the value -1"),
    ],
)
def test_what_confusion_cannot_count(truth, prediction, message):
    with pytest.raises(RequestError, match=message):
        Confusion(2).add(np.array(truth), np.array(prediction))
