"""When two files give the same objects."""

import numpy as np
import pytest

from mobilenets_tf.data.boxes import Detections
from mobilenets_tf.tasks import task_of
from mobilenets_tf.tasks.postprocess import Postprocess
from tests.tasks.test_metrics import LEFT, RIGHT, TOP, found

AGREE = task_of("detect").agree


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (found((LEFT, 0, 0.9)), found((LEFT, 0, 0.9)), True),
        (found((LEFT, 0, 0.9)), found((RIGHT, 1, 0.9)), False),
        (found((LEFT, 0, 0.9)), found((LEFT, 1, 0.9)), False),
        (found((LEFT, 0, 0.9)), found(), False),
        (found(), found((LEFT, 0, 0.9)), False),
        (found(), found(), True),
        (found((LEFT, 0, 0.5), (RIGHT, 1, 0.5)), found((RIGHT, 1, 0.5), (LEFT, 0, 0.5)), True),
        (found((LEFT, 0, 0.5), (RIGHT, 1, 0.5)), found((LEFT, 0, 0.5), (TOP, 1, 0.5)), False),
    ],
)
def test_the_same_objects_in_any_order(one, other, same):
    assert AGREE(one, other) is same


def test_objects_below_the_threshold_are_in_the_first_file_only():
    every, few = found((LEFT, 0, 0.9), (RIGHT, 1, 0.3)), found((LEFT, 0, 0.9))
    assert AGREE(every, few, 0.5) and not AGREE(every, few, 0.2)
    assert not AGREE(every, every, 0.5)  # the file was to leave the second object out


def test_a_full_list_of_objects_below_the_threshold_is_nothing_in_the_other_file():
    full = found((RIGHT, 1, 0.4), *[(LEFT, 0, 0.2)] * Postprocess.max_detections)
    assert AGREE(full, found(), 0.5) and not AGREE(full, found(), 0.3)


def test_of_equal_scores_at_the_end_of_a_full_list_any_may_be_there():
    random = np.random.default_rng(0)
    boxes = np.sort(random.random((101, 2, 2)), axis=1).reshape(101, 4).astype(np.float32)
    scores = np.array([0.9] * 50 + [0.4] * 51, np.float32)
    every = Detections(boxes, np.zeros(101, np.int32), scores)

    def without(place):
        return Detections(*(np.delete(values, place, axis=0) for values in vars(every).values()))

    assert AGREE(without(100), without(60)) and not AGREE(without(100), without(3))
