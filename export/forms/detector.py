"""Give a detector's file the outputs of a form, and write the anchors for apps that decode boxes themselves.

"raw": two tensors with a scale each, boxes (1, A, 4) encoded against the anchors and scores (1, A, classes + 1).
"decoded": decoded_boxes (1, A, 4) as ymin, xmin, ymax, xmax in shares of the image, float32, by builtin operators; the
scores as they are. For applications with a non-maximum suppression of their own.
"nms": TFLite_Detection_PostProcess behind the network. Its four outputs, in this order, are what MediaPipe's
ObjectDetector, the TFLite Task Library and applications made for the TF detection API's files read.
"""

import json
from dataclasses import replace

import numpy as np

from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.networks.heads.anchors import ssd_anchors
from mobilenets_tf.tasks.detection import Detection
from mobilenets_tf.tasks.postprocess import SCALES, Postprocess
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema

# The names of the operator's outputs in the TF detection API.
DETECTIONS = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")
ANCHORS_FILE = "anchors.json"
_DEQUANTIZE_VERSIONS = {schema.TensorType.INT8: 2, schema.TensorType.INT16: 3}


class DetectorForms:
    """The forms of a detector's file. See ``forms.Forms``."""

    own, with_threshold = "raw", ("nms",)

    def apply(self, content: bytes, form: str, network, score_threshold: float | None = None) -> bytes:
        postprocess = Postprocess(ssd_anchors(network.grids), network.classes)
        if score_threshold is not None:
            postprocess = replace(postprocess, score_threshold=score_threshold)
        return with_form(content, form, postprocess)

    def companions(self, file_name: str, form: str, network) -> dict[str, str]:
        if form != "raw":
            return {}
        return {f"{file_name}.{ANCHORS_FILE}": anchors_file(ssd_anchors(network.grids))}


def with_form(content: bytes, form: str, postprocess: Postprocess) -> bytes:
    """Give the outputs of a detector's file, float or quantised, another form.

    Args:
        content: a file in the form "raw", without metadata, since metadata describe the outputs.
        form: one of ``Detection.forms``.
        postprocess: with the model's anchors and classes; "nms" puts it into the file with all its settings.

    Raises:
        RequestError: there is no such form, or the file's outputs do not fit the anchors and classes.
    """
    if form not in Detection.forms:
        raise unknown("form of a detector's outputs", form, Detection.forms)
    tree = flatbuffer.read(content)
    boxes, scores = _outputs(tree, postprocess)
    if form == "raw":
        return content
    graph = tree.subgraphs[0]
    boxes = _in_float(tree, boxes)
    if form == "decoded":
        outputs = {"decoded_boxes": _decoded(tree, boxes, np.asarray(postprocess.anchors)), "scores": scores}
    else:
        outputs = dict(zip(DETECTIONS, postprocess.append(tree, boxes, _in_float(tree, scores)), strict=True))
    graph.outputs = list(outputs.values())
    inputs = [entry.name.decode() for entry in tree.signatureDefs[0].inputs]
    flatbuffer.set_signature(tree, inputs, list(outputs))
    return flatbuffer.write(tree)


def anchors_file(anchors: np.ndarray) -> str:
    """Return the anchors of a "raw" file as JSON, with a description of the decoding."""
    y, x, height, width = map(int, SCALES)
    head = {
        "anchors": "rows of y centre, x centre, height, width, as shares of the image, in the order of the outputs",
        "decoding": [
            "An anchor (y, x, h, w) and its row of the boxes (ty, tx, th, tw) give a box in shares of the image:",
            f"y centre = y + ty / {y} * h, x centre = x + tx / {x} * w,",
            f"height = h * exp(th / {height}), width = w * exp(tw / {width}).",
            "Column 0 of the output scores is the background.",
        ],
        "scales": SCALES,
    }
    rows = ("[" + ", ".join(map(str, row)) + "]" for row in np.asarray(anchors, np.float32))
    head["rows"] = []
    return json.dumps(head, indent=2).replace("[]", "[\n" + ",\n".join(rows) + "\n]") + "\n"


def _outputs(tree, postprocess: Postprocess) -> list[int]:
    graph = tree.subgraphs[0]
    shapes = [tuple(graph.tensors[index].shape) for index in graph.outputs]
    count = len(postprocess.anchors)
    wanted = [(1, count, 4), (1, count, postprocess.classes + 1)]
    if shapes != wanted:
        raise RequestError(
            f"The file's outputs have the shapes {shapes}; those of a detector with {count} anchors and "
            f"{postprocess.classes} classes are {wanted}: boxes, and scores with a column for the background."
        )
    return graph.outputs


def _in_float(tree, index: int) -> int:
    graph = flatbuffer.Graph(tree)
    types = [tensor.type for tensor in graph.tensors]
    writer = graph.writer.get(index)
    if writer and (types[writer.inputs[0]], types[index]) == (schema.TensorType.INT8, schema.TensorType.UINT8):
        # image_input.with_byte_ends added this operator for applications, which do not see its output now.
        tree.subgraphs[0].operators.remove(writer)
        index = writer.inputs[0]
    tensor = tree.subgraphs[0].tensors[index]
    if tensor.type == schema.TensorType.FLOAT32:
        return index
    label, version = f"{tensor.name.decode()}/float32", _DEQUANTIZE_VERSIONS.get(tensor.type, 1)
    return flatbuffer.append_operator(tree, label, "DEQUANTIZE", [index], tensor.shape, version=version)


def _decoded(tree, boxes: int, anchors: np.ndarray) -> int:
    """Decode float32 boxes (1, A, 4): append the operators that give corners in shares of the image."""
    whole, half = (1, len(anchors), 4), (1, len(anchors), 2)
    centres, sides = anchors[None, :, :2], anchors[None, :, 2:]

    def constant(name, values):
        return flatbuffer.add_constant(tree, f"decoding/{name}", values)

    def add(name, inputs, shape, options):
        return flatbuffer.append_operator(tree, f"decoding/{name.lower()}", name, inputs, shape, options)

    ratios = np.concatenate([sides, np.ones_like(sides)], axis=2) / np.float32(SCALES)
    scaled = add("MUL", [boxes, constant("ratios", ratios)], whole, schema.MulOptionsT())
    moves, logarithms = (flatbuffer.add_tensor(tree, f"decoding/{part}", half) for part in ("moves", "logarithms"))
    options = schema.SplitOptionsT()
    options.numSplits = 2
    inputs = [constant("axis", np.int32([2])), scaled]
    operator = flatbuffer.make_operator(tree, "SPLIT", inputs, [moves, logarithms], options)
    tree.subgraphs[0].operators.append(operator)
    middle = add("ADD", [moves, constant("centres", centres)], half, schema.AddOptionsT())
    growth = add("EXP", [logarithms], half, schema.ExpOptionsT())
    reach = add("MUL", [growth, constant("half_sides", sides / 2)], half, schema.MulOptionsT())
    corners = [
        add("SUB", [middle, reach], half, schema.SubOptionsT()),
        add("ADD", [middle, reach], half, schema.AddOptionsT()),
    ]
    options = schema.ConcatenationOptionsT()
    options.axis = 2
    return add("CONCATENATION", corners, whole, options)
