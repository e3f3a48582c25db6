"""The form in which a TFLite file takes its image: normalised, or as bytes 0-255 as a camera gives them.

MediaPipe and the TFLite Task Library normalise with one mean and one standard deviation, or pass pixels unchanged to a
uint8 input. So a file takes either (pixel - mean) / std with one mean and one std, or uint8. Where the network was
trained with another normalisation, such as a mean for each channel, the file's own graph does the rest:
``renormalised`` puts it before the network, and ``input_fold`` folds it into the first convolution.
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
    """How a file takes its image.

    wanted: the preprocessing with which the network was trained.
    form: "normalised" or "uint8".

    Raises:
        RequestError: there is no such form; the message has the nearest form.
    """

    wanted: Preprocessing
    form: str = "normalised"

    def __post_init__(self):
        check(self.form)

    @property
    def given(self) -> Preprocessing:
        """The preprocessing from pixels to the values with which the graph begins.

        With "uint8" the file's first op computes it: the bytes minus a whole zero point, times a scale. With
        "normalised" the application computes it. Where the network was trained with a mean or a standard deviation for
        each channel, both are 128 here, at which every pixel value has an 8-bit level of its own.
        """
        wanted = self.wanted
        if self.form == "uint8":
            zero_point = float(np.clip(np.round(np.mean(wanted.mean)), 0, 255))
            std = float(np.mean(wanted.std))
            return replace(wanted, mean=(zero_point,) * wanted.channels, std=(std,) * wanted.channels)
        alike = len(set(wanted.mean)) == len(set(wanted.std)) == 1
        if alike:
            return wanted
        return replace(wanted, mean=(128.0,) * wanted.channels, std=(128.0,) * wanted.channels)

    def begin(self, content: bytes, folded: bool = True) -> bytes:
        """Let a float file take images normalised as in ``given`` instead of ``wanted``.

        Args:
            content: the float file's content.
            folded: fold the difference into the first convolution, exact to float32 rounding. Quantisation folds by
                itself.

        Returns:
            The new file's content.
        """
        content = renormalised(content, self.wanted, self.given)
        return fold_input(content, half_level=0.0) if folded else content

    def finish(self, content: bytes) -> bytes:
        """Make the file for the application of a float or quantised file: with "uint8", its inputs and outputs change.

        content: the file's content; its input is float32 or int8, normalised as in ``given``.
        """
        return with_byte_ends(content, self.given) if self.form == "uint8" else content


def check(form: str) -> None:
    """Check the name of a form.

    Raises:
        RequestError: there is no such form; the message has the nearest form.
    """
    if form not in FORMS:
        raise unknown("input", form, FORMS)


def renormalised(content: bytes, wanted: Preprocessing, given: Preprocessing) -> bytes:
    """Put a MUL and an ADD at the beginning of a float file that turn images normalised as ``given`` into ``wanted``.

    Args:
        content: the float file's content.
        wanted: the preprocessing that the file's graph needs.
        given: the preprocessing of the new file's input.

    Returns:
        The new file's content.
    """
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
    """Make the input of a float or quantised file uint8, so that it takes pixels unchanged.

    int8 outputs become uint8 too: MediaPipe knows no int8 inputs or outputs.

    Args:
        content: the file's content.
        given: how the file's input was normalised, with one std and one whole mean: the new input has the scale
            1 / std and the mean as zero point.

    Returns:
        The new file's content.
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


def _shift_outputs(tree: schema.ModelT) -> None:
    """Let a QUANTIZE turn each int8 output into uint8."""
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


def _type(graph: flatbuffer.Graph, operator: schema.OperatorT) -> int:
    return graph.tensors[operator.outputs[0]].type
