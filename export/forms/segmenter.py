"""The forms of a segmenter's file: logits at the head's or the picture's size, or the class of every pixel."""

import numpy as np

from mobilenets_tf.data.preprocessing import Size, sides
from mobilenets_tf.errors import RequestError
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema


class SegmenterForms:
    """The forms of a segmenter's file. See ``forms.Forms``."""

    own, with_threshold = "stride", ()

    def apply(self, content: bytes, form: str, network, score_threshold: float | None = None) -> bytes:
        return with_form(content, form, network.size, network.kinds[0].cut or 0.0)

    def companions(self, file_name: str, form: str, network) -> dict[str, str]:
        return {}


def with_form(content: bytes, form: str, size: Size, cut: float = 0.0) -> bytes:
    """Give a segmenter's file another form.

    Args:
        content: a file with one output, logits (1, h, w, classes), real or quantised.
        form: "stride": unchanged. "full": ``logits`` (1, height, width, classes), resized bilinearly between
            pixels' centres, with the same scale. "mask": ``mask`` (1, height, width), uint8: the class of each pixel,
            the lowest where several logits are equal.
        size: of the picture. cut: of an output with one channel, the value above which a pixel is of
            class 1.
    """
    if form == "stride":
        return content
    tree, size = flatbuffer.read(content), sides(size)
    graph = tree.subgraphs[0]
    (logits,) = graph.outputs
    given = graph.tensors[logits]
    classes = given.shape[-1]
    operators, result = [], logits
    if tuple(given.shape[1:3]) != size:
        result = flatbuffer.add_tensor(tree, "logits", (1, *size, classes))
        graph.tensors[result].type, graph.tensors[result].quantization = given.type, given.quantization
        wanted = flatbuffer.add_constant(tree, "sides", np.array(size, np.int32))
        options = schema.ResizeBilinearOptionsT()
        options.halfPixelCenters, options.alignCorners = True, False
        operators.append(flatbuffer.make_operator(tree, "RESIZE_BILINEAR", [logits, wanted], [result], options, 3))
    if form == "mask" and classes > 256:
        raise RequestError(
            f'The form "mask" has a byte for each pixel, and there are {classes} classes; take the form "full".'
        )
    if form == "mask" and classes == 1:
        result = _above(tree, operators, result, cut, size)
    elif form == "mask":
        highest = flatbuffer.add_tensor(tree, "highest", (1, *size))
        mask = flatbuffer.add_tensor(tree, "mask", (1, *size))
        graph.tensors[highest].type, graph.tensors[mask].type = schema.TensorType.INT32, schema.TensorType.UINT8
        axis = flatbuffer.add_constant(tree, "axis", np.array(3, np.int32))
        options = schema.ArgMaxOptionsT()
        options.outputType = schema.TensorType.INT32
        operators.append(flatbuffer.make_operator(tree, "ARG_MAX", [result, axis], [highest], options, 2))
        options = schema.CastOptionsT()
        options.inDataType, options.outDataType = schema.TensorType.INT32, schema.TensorType.UINT8
        operators.append(flatbuffer.make_operator(tree, "CAST", [highest], [mask], options))
        result = mask
    graph.operators = [*graph.operators, *operators]
    graph.outputs = [result]
    (signature,) = tree.signatureDefs
    taken = [entry.name.decode() for entry in signature.inputs]
    graph.tensors[logits].name += b"/stride"
    flatbuffer.set_signature(tree, taken, ["mask" if form == "mask" else "logits"])
    return flatbuffer.write(tree)


def _above(tree, operators: list, result: int, cut: float, size: tuple[int, int]) -> int:
    """Append the operators that tell where one channel is above a cut: a mask (1, *size), uint8."""
    graph, shape = tree.subgraphs[0], (1, *size, 1)
    if graph.tensors[result].type != schema.TensorType.FLOAT32:
        real = flatbuffer.add_tensor(tree, "real", shape)
        operators.append(flatbuffer.make_operator(tree, "DEQUANTIZE", [result], [real], version=2))
        result = real
    above, mask = flatbuffer.add_tensor(tree, "above", (1, *size)), flatbuffer.add_tensor(tree, "mask", shape[:3])
    flat = flatbuffer.add_tensor(tree, "flat", shape[:3])
    graph.tensors[above].type, graph.tensors[mask].type = schema.TensorType.BOOL, schema.TensorType.UINT8
    sides = flatbuffer.add_constant(tree, "flat/shape", np.array(shape[:3], np.int32))
    operators.append(flatbuffer.make_operator(tree, "RESHAPE", [result, sides], [flat]))
    limit = flatbuffer.add_constant(tree, "cut", np.array(cut, np.float32))
    operators.append(flatbuffer.make_operator(tree, "GREATER", [flat, limit], [above], schema.GreaterOptionsT()))
    options = schema.CastOptionsT()
    options.inDataType, options.outDataType = schema.TensorType.BOOL, schema.TensorType.UINT8
    operators.append(flatbuffer.make_operator(tree, "CAST", [above], [mask], options))
    return mask
