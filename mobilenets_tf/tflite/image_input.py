"""In which form a TFLite file takes its picture: normalised, or as the bytes 0-255 that a camera gives.

MediaPipe and the TFLite Task Library normalise with one mean and one standard deviation, and feed a uint8 input with
pixels as they are. So a file takes either (pixel - mean) / std with one of each, or uint8. What the network wants
beyond that, such as a mean for each channel, is done by the file's own graph: ``renormalised`` puts it in front, and
``input_fold`` takes it into the first convolution.
"""

from dataclasses import dataclass, replace

import numpy as np

from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.errors import unknown
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.input_fold import fold_input

FORMS = ("normalised", "uint8")


@dataclass(frozen=True)
class ImageInput:
    """How a file takes its picture.

    wanted: how pixels become what the network was trained with.
    form: "normalised" or "uint8".

    Raises:
        RequestError: no such form.
    """

    wanted: Preprocessing
    form: str = "normalised"

    def __post_init__(self):
        check(self.form)

    @property
    def given(self) -> Preprocessing:
        """How pixels become the values that the graph begins with.

        With "uint8" these are the bytes less a whole zero point, times a scale; the file's first op makes them. With
        "normalised" the application does, and where the network wants more than one mean and one standard deviation
        they are 128 and 128, at which every pixel has an 8-bit level of its own.
        """
        wanted = self.wanted
        if self.form == "uint8":
            zero_point = float(np.clip(np.round(np.mean(wanted.mean)), 0, 255))
            return replace(wanted, mean=(zero_point,) * 3, std=(float(np.mean(wanted.std)),) * 3)
        alike = len(set(wanted.mean)) == len(set(wanted.std)) == 1
        return wanted if alike else replace(wanted, mean=(128.0,) * 3, std=(128.0,) * 3)

    def begin(self, content: bytes, folded: bool = True) -> bytes:
        """A float file's content that takes what is ``given`` instead of what the network ``wanted``.

        folded: with the normalisation in the first convolution, to float32 rounding; quantisation does that by itself.
        """
        content = renormalised(content, self.wanted, self.given)
        return fold_input(content, half_level=0.0) if folded else content

    def finish(self, content: bytes) -> bytes:
        """The content of the file that an application gets."""
        return with_byte_ends(content, self.given) if self.form == "uint8" else content


def check(form: str) -> None:
    """
    Raises:
        RequestError: no such form.
    """
    if form not in FORMS:
        raise unknown("input", form, FORMS)


def renormalised(content: bytes, wanted: Preprocessing, given: Preprocessing) -> bytes:
    """A float file's content with what it takes from the pixels as ``given`` to ``wanted`` in front of it."""
    factor = np.divide(given.std, wanted.std)
    term = (np.subtract(given.mean, wanted.mean)) / wanted.std
    if np.all(factor == 1) and np.all(term == 0):
        return content
    tree = flatbuffer.read(content)
    graph = flatbuffer.Graph(tree)
    (source,) = graph.inputs
    tensor, last, steps = graph.tensors[source], source, []
    for name, options, values in (("MUL", schema.MulOptionsT, factor), ("ADD", schema.AddOptionsT, term)):
        if np.all(values == (name == "MUL")):
            continue
        label = f"{tensor.name.decode()}/{name.lower()}"
        constant = flatbuffer.add_constant(tree, f"{label}/constant", values if len(set(values)) > 1 else values[0])
        result = flatbuffer.add_tensor(tree, label, tensor.shape)
        steps.append(flatbuffer.make_operator(tree, name, [last, constant], [result], options()))
        last = result
    for operator in graph.readers[source]:
        operator.inputs = [last if index == source else index for index in operator.inputs]
    tree.subgraphs[0].operators = [*steps, *graph.operators]
    return flatbuffer.write(tree)


def with_byte_ends(content: bytes, given: Preprocessing) -> bytes:
    """A file's content, float or quantised, with its input made uint8: pixels as they are. int8 outputs become
    uint8 too, since MediaPipe takes no int8 at either end.

    given: how the input was normalised: the scale is 1 / std, the zero point the mean, a whole number.
    """
    tree = flatbuffer.read(content)
    graph = flatbuffer.Graph(tree)
    (source,) = graph.inputs
    tensor = graph.tensors[source]
    name = tensor.name.decode()
    pixels = flatbuffer.add_tensor(tree, name, tensor.shape)
    tensor.name = f"{name}/{'normalised' if tensor.type == schema.TensorType.FLOAT32 else 'int8'}".encode()
    graph.tensors[pixels].type = schema.TensorType.UINT8
    graph.tensors[pixels].quantization = parameters = schema.QuantizationParametersT()
    parameters.scale, parameters.zeroPoint = [1 / given.std[0]], [int(given.mean[0])]
    first = []
    if tensor.type == schema.TensorType.INT8:
        first = [flatbuffer.make_operator(tree, "QUANTIZE", [pixels], [source])]
    else:
        others = []
        for operator in graph.readers[source]:
            eight_bits = graph.name(operator) == "QUANTIZE" and _type(graph, operator) == schema.TensorType.INT8
            if eight_bits:
                operator.inputs = [pixels]
            else:
                others.append(operator)
        if others:
            first = [flatbuffer.make_operator(tree, "DEQUANTIZE", [pixels], [source])]
    tree.subgraphs[0].operators = [*first, *graph.operators]
    tree.subgraphs[0].inputs = [pixels]
    _shift_outputs(tree)
    signature = tree.signatureDefs[0]
    names = ([entry.name.decode() for entry in ends] for ends in (signature.inputs, signature.outputs))
    flatbuffer.set_signature(tree, *names)
    return flatbuffer.write(tree)


def _shift_outputs(tree) -> None:
    graph = tree.subgraphs[0]
    outputs = []
    for index in graph.outputs:
        tensor = graph.tensors[index]
        if tensor.type == schema.TensorType.INT8:
            shifted = flatbuffer.add_tensor(tree, tensor.name.decode(), tensor.shape)
            tensor.name += b"/int8"
            graph.tensors[shifted].type = schema.TensorType.UINT8
            zero_point = [int(tensor.quantization.zeroPoint[0]) + 128]
            graph.tensors[shifted].quantization = flatbuffer.with_fields(tensor.quantization, zeroPoint=zero_point)
            graph.operators.append(flatbuffer.make_operator(tree, "QUANTIZE", [index], [shifted]))
            index = shifted
        outputs.append(index)
    graph.outputs = outputs


def _type(graph: flatbuffer.Graph, operator) -> int:
    return graph.tensors[operator.outputs[0]].type
