"""Small float TFLite files as other converters write them, built op by op."""

import numpy as np

from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema

VALID, SAME = schema.Padding.VALID, schema.Padding.SAME
RELU, RELU6 = schema.ActivationFunctionType.RELU, schema.ActivationFunctionType.RELU6


class Draft:
    """A graph in the making; each method adds an operator and returns its result.

    random: draws the weights.
    """

    def __init__(self, shape=(1, 16, 16, 3), seed=0):
        self.tree = schema.ModelT()
        self.tree.version, self.tree.operatorCodes, self.tree.metadata = 3, [], []
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []
        self.tree.subgraphs, self.tree.buffers, self.tree.signatureDefs = [graph], [schema.BufferT()], []
        self.random = np.random.default_rng(seed)
        self.x = self.input("image", shape)

    @property
    def graph(self):
        return self.tree.subgraphs[0]

    def input(self, name, shape):
        index = flatbuffer.add_tensor(self.tree, name, shape)
        self.graph.inputs.append(index)
        return index

    def shape(self, index):
        return tuple(self.graph.tensors[index].shape)

    def constant(self, values):
        return flatbuffer.add_constant(self.tree, f"constant{len(self.graph.tensors)}", np.asarray(values))

    def floats(self, values):
        return self.constant(np.asarray(values, np.float32))

    def integers(self, values):
        return self.constant(np.asarray(values, np.int32))

    def op(self, name, inputs, shape, options=None, label=None):
        label = label or f"{name.lower()}{len(self.graph.operators)}"
        return flatbuffer.append_operator(self.tree, label, name, inputs, shape, options)

    def binary(self, name, x, y, fused=0):
        """y: an index of a tensor, or the values of a constant."""
        other = y if isinstance(y, int) else self.floats(y)
        options = {"ADD": schema.AddOptionsT, "SUB": schema.SubOptionsT, "MUL": schema.MulOptionsT}
        options = options.get(name, schema.DivOptionsT)()
        options.fusedActivationFunction = fused
        shape = np.broadcast_shapes(self.shape(x), self.shape(other))
        return self.op(name, [x, other], shape, options)

    def transpose(self, x, order):
        shape = [self.shape(x)[axis] for axis in order]
        return self.op("TRANSPOSE", [x, self.integers(order)], shape, schema.TransposeOptionsT())

    def pad(self, x, sizes=((0, 0), (1, 1), (1, 1), (0, 0)), value=None):
        shape = [side + sum(size) for side, size in zip(self.shape(x), sizes, strict=True)]
        if value is None:
            return self.op("PAD", [x, self.integers(sizes)], shape, schema.PadOptionsT())
        return self.op("PADV2", [x, self.integers(sizes), self.floats(value)], shape, schema.PadV2OptionsT())

    def conv(self, x, filters, kernel=3, stride=1, padding=SAME, fused=RELU6, label=None):
        _, height, width, channels = self.shape(x)
        options = schema.Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = padding, stride, stride
        options.dilationHFactor = options.dilationWFactor = 1
        options.fusedActivationFunction = fused
        weights = self.random.normal(0, (2 / (kernel * kernel * channels)) ** 0.5, (filters, kernel, kernel, channels))
        less = kernel - 1 if padding == VALID else 0
        shape = (1, -(-(height - less) // stride), -(-(width - less) // stride), filters)
        inputs = [x, self.floats(weights), self.floats(self.random.normal(0, 0.1, filters))]
        return self.op("CONV_2D", inputs, shape, options, label)

    def mean(self, x, axes, keep=False):
        options = schema.ReducerOptionsT()
        options.keepDims = keep
        shape = [1 if i in axes else side for i, side in enumerate(self.shape(x)) if keep or i not in axes]
        return self.op("MEAN", [x, self.integers(axes)], shape, options)

    def dense(self, x, units):
        options = schema.FullyConnectedOptionsT()
        weights = self.random.normal(0, self.shape(x)[-1] ** -0.5, (units, self.shape(x)[-1]))
        inputs = [x, self.floats(weights), self.floats(np.zeros(units))]
        return self.op("FULLY_CONNECTED", inputs, (*self.shape(x)[:-1], units), options)

    def softmax(self, x):
        options = schema.SoftmaxOptionsT()
        options.beta = 1.0
        return self.op("SOFTMAX", [x], self.shape(x), options, "scores")

    def finished(self, *outputs, signature=True):
        """The file's content."""
        self.graph.outputs = list(outputs)
        if signature:
            names = [self.graph.tensors[index].name.decode() for index in self.graph.inputs]
            flatbuffer.set_signature(self.tree, names, [f"output_{place}" for place in range(len(outputs))])
        return flatbuffer.write(self.tree)


def classifier(size=16, classes=4, *, signature=True, seed=0):
    """A classifier of stock ops, channels last."""
    draft = Draft((1, size, size, 3), seed)
    x = draft.conv(draft.x, 8, stride=2, label="stem")
    x = draft.conv(x, 16, kernel=1, label="expand")
    x = draft.mean(x, (1, 2))
    return draft.finished(draft.softmax(draft.dense(x, classes)), signature=signature)


def from_torch(size=16, classes=4):
    """A classifier as litert-torch writes one: channels first, a TRANSPOSE around each convolution, PADs before valid
    convolutions, a hard-swish in ops, a layer normalisation in ops."""
    draft = Draft((1, 3, size, size))
    last, first = (0, 2, 3, 1), (0, 3, 1, 2)
    x = draft.transpose(draft.x, last)
    x = draft.conv(draft.pad(x), 8, padding=VALID, fused=RELU)
    x = draft.transpose(x, first)
    gate = draft.binary("ADD", x, 3.0, RELU6)
    x = draft.binary("DIV", draft.binary("MUL", x, gate), 6.0)
    y = draft.transpose(draft.conv(draft.transpose(x, last), 8, kernel=1, fused=0), first)
    x = draft.binary("ADD", x, y)
    x = draft.transpose(x, last)
    mean = draft.mean(x, (3,), keep=True)
    centred = draft.binary("SUB", x, mean)
    variance = draft.mean(draft.binary("MUL", centred, centred), (3,), keep=True)
    root = draft.op("SQRT", [draft.binary("ADD", variance, 1e-5)], draft.shape(variance))
    x = draft.binary("DIV", centred, root)
    x = draft.binary("ADD", draft.binary("MUL", x, np.linspace(0.5, 2, 8)), np.linspace(-1, 1, 8))
    x = draft.transpose(draft.conv(x, 16, kernel=1), first)
    x = draft.mean(x, (2, 3))
    return draft.finished(draft.softmax(draft.dense(x, classes)))
