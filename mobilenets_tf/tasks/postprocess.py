"""The postprocessing of a detector: decode the boxes, apply a score threshold, suppress non-maximum boxes.

All three are done by LiteRT's own operator, TFLite_Detection_PostProcess (its source is
tflite/kernels/detection_postprocess.cc), here as on a phone: ``Postprocess`` runs it in a file of its own, and
``append`` puts it behind a network. So there is a single non-maximum suppression, and a model is judged by the boxes
that an app gets.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from flatbuffers import flexbuffers

from mobilenets_tf.data.boxes import Detections
from mobilenets_tf.errors import RequestError
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.runtime import Runner

OPERATOR = "TFLite_Detection_PostProcess"
# Factors of ty, tx, th and tw in the encoding (TF detection API, faster_rcnn_box_coder).
SCALES = (10.0, 10.0, 5.0, 5.0)
# With several threads, LiteRT's regular suppression never looks at the class whose number is that of the threads
# (tensorflow/tensorflow#56058, in 2.3.0 still). So spare classes without any object stand in front,
# more than there are threads.
_SPARE = 32


@dataclass(frozen=True, eq=False)
class Postprocess:
    """Turns the boxes and scores of all anchors into the detections of an image.

    anchors: float32 (A, 4): y centre, x centre, height, width as shares of the image, in the order of the outputs.
    classes: how many there are, the background not counted.
    max_detections: the greatest number of detections, the best first.
    score_threshold: detections with a lower score are dropped.
    iou_threshold: of two boxes whose intersection is more than this share of their union, the box with the higher
        score is kept.
    regular: suppress class by class, as COCO's evaluation expects, so that one anchor may give several classes.
        Otherwise ("fast") each anchor gives its best class only, and boxes of all classes suppress each other; with 80
        classes this takes a fraction of the time.

    Raises:
        RequestError: the anchors have another shape, or a number is outside of its range.
    """

    anchors: np.ndarray
    classes: int
    max_detections: int = 100
    score_threshold: float = 0.01
    iou_threshold: float = 0.6
    regular: bool = True

    def __post_init__(self):
        shape = np.shape(self.anchors)
        if len(shape) != 2 or shape[1] != 4 or not shape[0]:
            raise RequestError(f"anchors have the shape {shape}; (anchors, 4) is wanted, as anchors.ssd_anchors gives.")
        for name in ("classes", "max_detections"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name}={getattr(self, name)} must be 1 or more.")
        if not 0 < self.score_threshold <= 1:
            raise RequestError(f"score_threshold={self.score_threshold} must be above 0 and at most 1.")
        if not 0 < self.iou_threshold <= 1:
            raise RequestError(
                f"iou_threshold={self.iou_threshold} must be above 0 and at most 1 (nothing suppressed)."
            )

    @staticmethod
    def of(model) -> "Postprocess":
        """Return the postprocessing of a Keras SSD of this package: its anchors and classes, and the
        defaults for everything else."""
        from mobilenets_tf.networks.heads.anchors import ssd_anchors
        from mobilenets_tf.networks.heads.ssd import grids

        return Postprocess(ssd_anchors(grids(model)), model.outputs[1].shape[-1] - 1)

    def __call__(self, boxes: np.ndarray, scores: np.ndarray) -> Detections:
        """Return the detections of one image, the best score first.

        Args:
            boxes: (A, 4), encoded: ty, tx, th, tw against the anchors.
            scores: (A, classes + 1), from 0 to 1, column 0 being the background.

        Raises:
            RequestError: the arrays have other shapes.
        """
        boxes, classes, scores, number = self._runner(boxes, scores)
        filled = slice(int(number[0]))  # the fast kernel leaves the places behind these as they were
        return Detections(boxes[0, filled], classes[0, filled].astype(np.int32), scores[0, filled])

    def append(self, tree, boxes: int, scores: int) -> list[int]:
        """Put the operator behind two float32 tensors of a model's first graph, (1, A, 4) and (1, A, classes + 1).

        Returns:
            The indices of the four outputs, all float32: boxes (1, N, 4), clipped to the image, classes (1, N), scores
            (1, N) and the number of detections (1,). N is ``max_detections``.
        """
        spare = _SPARE if self.regular else 0
        if spare:
            scores = self._behind_spare_classes(tree, scores)
        options = {
            "max_detections": self.max_detections,
            "max_classes_per_detection": 1,
            "detections_per_class": self.max_detections,  # more would not get through anyway
            "use_regular_nms": self.regular,
            "nms_score_threshold": float(self.score_threshold),
            "nms_iou_threshold": float(self.iou_threshold),
            "num_classes": spare + self.classes,
            **dict(zip(("y_scale", "x_scale", "h_scale", "w_scale"), SCALES, strict=True)),
        }
        anchors = flatbuffer.add_constant(tree, "anchors", np.asarray(self.anchors, np.float32))
        number = self.max_detections
        shapes = {"boxes": (1, number, 4), "classes": (1, number), "scores": (1, number), "number": (1,)}
        outputs = [flatbuffer.add_tensor(tree, f"{OPERATOR}/{name}", shape) for name, shape in shapes.items()]
        operator = flatbuffer.make_custom_operator(
            tree, OPERATOR, [boxes, scores, anchors], outputs, bytes(flexbuffers.Dumps(options))
        )
        tree.subgraphs[0].operators.append(operator)
        boxes, classes, *others = outputs
        return [self._inside(tree, boxes), self._without_spare_classes(tree, classes) if spare else classes, *others]

    def _behind_spare_classes(self, tree, scores: int) -> int:
        """Drop the background and put spare classes in front: scores (1, A, spare + classes)."""
        count = len(self.anchors)
        begin, size, padding = (
            flatbuffer.add_constant(tree, f"scores/{name}", np.array(values, np.int32))
            for name, values in (
                ("begin", [0, 0, 1]),
                ("size", [1, count, self.classes]),
                ("padding", [[0, 0], [0, 0], [_SPARE, 0]]),
            )
        )
        inputs, shape = [scores, begin, size], (1, count, self.classes)
        classes = flatbuffer.append_operator(tree, "scores/classes", "SLICE", inputs, shape, schema.SliceOptionsT())
        inputs, shape = [classes, padding], (1, count, _SPARE + self.classes)
        return flatbuffer.append_operator(tree, "scores/behind_spare", "PAD", inputs, shape, schema.PadOptionsT())

    def _without_spare_classes(self, tree, classes: int) -> int:
        """Subtract the spare classes from the class numbers; 0 behind the last detection, as the operator writes it."""
        spare = flatbuffer.add_constant(tree, "classes/spare", np.array([_SPARE], np.float32))
        options = schema.SubOptionsT()
        options.fusedActivationFunction = schema.ActivationFunctionType.RELU
        return flatbuffer.append_operator(tree, "classes", "SUB", [classes, spare], (1, self.max_detections), options)

    def _inside(self, tree, boxes: int) -> int:
        """Clip boxes to the image. MediaPipe would move a box that begins outside of the image."""
        options = schema.MaximumMinimumOptionsT()
        for name, limit in (("MAXIMUM", 0), ("MINIMUM", 1)):
            limit = flatbuffer.add_constant(tree, "boxes/limit", np.array([limit], np.float32))
            shape = (1, self.max_detections, 4)
            boxes = flatbuffer.append_operator(tree, "boxes/inside", name, [boxes, limit], shape, options)
        return boxes

    @cached_property
    def _runner(self) -> Runner:
        tree = schema.ModelT()
        tree.version, tree.operatorCodes, tree.buffers = 3, [], [schema.BufferT()]
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = [], []
        tree.subgraphs = [graph]
        count = len(self.anchors)
        shapes = {"boxes": (1, count, 4), "scores": (1, count, self.classes + 1)}
        graph.inputs = [flatbuffer.add_tensor(tree, name, shape) for name, shape in shapes.items()]
        graph.outputs = self.append(tree, *graph.inputs)
        return Runner(flatbuffer.write(tree), threads=1, trusted=True)
