"""The phone's own non-maximum suppression, against TensorFlow's and Keras' decoding."""

import numpy as np
import pytest

from mobilenets_tf.errors import RequestError
from mobilenets_tf.tasks.postprocess import Postprocess
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.runtime import Runner

CLASSES = 4


def random_anchors(count, seed=0):
    random = np.random.default_rng(seed)
    return np.hstack([random.uniform(0, 1, (count, 2)), random.uniform(0.05, 0.4, (count, 2))]).astype(np.float32)


def random_outputs(count, classes=CLASSES, seed=1):
    """Boxes (count, 4) and scores (count, classes + 1) as a detector gives them; no two scores are equal."""
    random = np.random.default_rng(seed)
    boxes = random.normal(0, 1.5, (count, 4)).astype(np.float32)
    return boxes, (random.permutation(count * (classes + 1)).reshape(count, -1) / count / (classes + 1)).astype(
        "float32"
    )


def decoded(anchors, boxes):
    """By Keras: ymin, xmin, ymax, xmax."""
    import keras

    corners = np.hstack([anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2])
    return np.array(
        keras.utils.bounding_boxes.decode_deltas_to_boxes(
            corners, boxes, "rel_yxyx", "rel_yxyx", variance=[0.1, 0.1, 0.2, 0.2], image_shape=(1, 1, 3)
        )
    )


@pytest.mark.parametrize("max_detections, score_threshold, iou_threshold", [(100, 0.01, 0.6), (7, 0.5, 0.3)])
def test_class_by_class_as_tensorflow_does_it(max_detections, score_threshold, iou_threshold):
    import tensorflow as tf

    anchors, (boxes, scores) = random_anchors(300), random_outputs(300)
    found = Postprocess(anchors, CLASSES, max_detections, score_threshold, iou_threshold)(boxes, scores)
    wanted = tf.image.combined_non_max_suppression(
        decoded(anchors, boxes)[None, :, None], scores[None, :, 1:], 1000, max_detections,
        iou_threshold, score_threshold, clip_boxes=True,
    )  # fmt: skip
    count = int(wanted.valid_detections[0])
    assert len(found) == count == max_detections
    assert (found.boxes.dtype, found.classes.dtype, found.scores.dtype) == ("float32", "int32", "float32")
    np.testing.assert_allclose(found.boxes, wanted.nmsed_boxes[0], atol=1e-6)
    np.testing.assert_array_equal(found.classes, wanted.nmsed_classes[0])
    np.testing.assert_array_equal(found.scores, wanted.nmsed_scores[0])


def test_fast_takes_the_best_class_of_an_anchor_and_suppresses_all_others():
    import tensorflow as tf

    anchors, (boxes, scores) = random_anchors(300), random_outputs(300)
    found = Postprocess(anchors, CLASSES, 50, 0.3, 0.4, regular=False)(boxes, scores)
    corners, best = decoded(anchors, boxes), scores[:, 1:].max(1)
    kept = tf.image.non_max_suppression(corners, best, 50, 0.4, 0.3).numpy()
    np.testing.assert_allclose(found.boxes, corners[kept].clip(0, 1), atol=1e-6)
    np.testing.assert_array_equal(found.classes, scores[kept, 1:].argmax(1))
    np.testing.assert_array_equal(found.scores, best[kept])


@pytest.mark.parametrize("regular", [True, False])
def test_what_lies_on_a_threshold(regular):
    """A score at the threshold finds something; two boxes that overlap by just the threshold stay."""
    anchors, boxes = np.float32([[0.5, 0.5, 1, 1], [0.5, 0.25, 1, 0.5]]), np.zeros((2, 4), np.float32)
    scores = np.float32([[0.9, 0.5], [0.9, 0.5]])  # of two that tie, the first is the better one
    exact = Postprocess(anchors, 1, score_threshold=0.5, iou_threshold=0.5, regular=regular)
    np.testing.assert_array_equal(exact(boxes, scores).boxes, [[0, 0, 1, 1], [0, 0, 1, 0.5]])
    stricter = Postprocess(anchors, 1, score_threshold=0.5, iou_threshold=0.499, regular=regular)
    np.testing.assert_array_equal(stricter(boxes, scores).boxes, [[0, 0, 1, 1]])
    below = np.nextafter(scores, np.float32(0))
    assert len(exact(boxes, below)) == 0  # nothing of the run before shows
    assert [len(exact(boxes, each)) for each in (scores, below)] == [2, 0]


def test_one_anchor_may_find_two_classes_but_for_fast():
    anchors, boxes = np.float32([[0.5, 0.5, 1, 1]]), np.zeros((1, 4), np.float32)
    scores = np.float32([[0.99, 0.3, 0.0, 0.8]])
    assert Postprocess(anchors, 3, score_threshold=0.2)(boxes, scores).classes.tolist() == [2, 0]
    assert Postprocess(anchors, 3, score_threshold=0.2, regular=False)(boxes, scores).classes.tolist() == [2]


@pytest.mark.parametrize("regular", [True, False])
def test_no_class_is_lost_with_several_threads(regular):
    """LiteRT loses one otherwise, and another with each number of threads."""
    anchors, (boxes, scores) = random_anchors(200), random_outputs(200, classes=7)
    post = Postprocess(anchors, 7, 150, 0.7, regular=regular)
    wanted = post(boxes, scores)
    assert set(wanted.classes) == set(range(7))
    tree = schema.ModelT()
    tree.version, tree.operatorCodes, tree.buffers = 3, [], [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors, graph.operators, tree.subgraphs = [], [], [graph]
    graph.inputs = [flatbuffer.add_tensor(tree, "boxes", (1, 200, 4)), flatbuffer.add_tensor(tree, "s", (1, 200, 8))]
    graph.outputs = post.append(tree, *graph.inputs)
    content = flatbuffer.write(tree)
    for threads in (2, 3, 4, 6):
        found = Runner(content, threads)(boxes, scores)
        assert found[3] == len(wanted), threads
        np.testing.assert_array_equal(found[1][0, : len(wanted)], wanted.classes)
        np.testing.assert_array_equal(found[2][0, : len(wanted)], wanted.scores)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"anchors": np.zeros((5, 3))}, r"\(5, 3\); \(anchors, 4\) is wanted"),
        ({"classes": 0}, "classes=0 must be 1 or more"),
        ({"max_detections": 0}, "max_detections=0"),
        ({"score_threshold": 0.0}, "score_threshold=0.0 must be above 0"),
        ({"iou_threshold": 0.0}, "iou_threshold=0.0 must be above 0"),
    ],
)
def test_what_the_operator_does_not_take_is_refused(wrong, message):
    with pytest.raises(RequestError, match=message):
        Postprocess(**{"anchors": random_anchors(5), "classes": 2} | wrong)


def test_outputs_of_another_network_are_refused():
    boxes, scores = random_outputs(5)
    with pytest.raises(RequestError, match=r"'scores' takes \(1, 5, 4\); received \(5, 5\)"):
        Postprocess(random_anchors(5), 3)(boxes, scores)
