"""Make tf_keras layers of a float TFLite graph: one layer for each op, the same weights, any batch size.

Quantisation-aware training works on the graph that becomes the file, not on the Keras model: which ops are fused, which
sums and products are left and where integers begin and end is then the same in the model and in the file.
"""

import itertools
import re
from collections.abc import Callable, Collection

import numpy as np
import tensorflow as tf
import tf_keras

from mobilenets_tf.errors import RequestError
from mobilenets_tf.quantize.integers import SAME_SCALE, WEIGHTED, constant_form
from mobilenets_tf.quantize.qat.integer_arithmetic import compute, fixed, not_converted, rounded, store
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema

_ACTIVATIONS = {
    schema.ActivationFunctionType.NONE: "linear",
    schema.ActivationFunctionType.RELU: "relu",
    schema.ActivationFunctionType.RELU6: "relu6",
    schema.ActivationFunctionType.TANH: "tanh",
}


class OperatorLayer(tf_keras.layers.Layer):
    """A TFLite op without trainable weights. It computes on real values, or on levels once ``sources`` are set.

    sources, result: the ``Levels`` of the inputs that are not constant, in their order, and of the result; None for
    real values.

    Args:
        op: the op's name in the schema, or one of this module's own.
        options: the op's options, plain data.
        constants: position among the inputs -> values of an input that is constant.
    """

    def __init__(self, op: str, options: dict | None = None, constants: dict | None = None, **kwargs):
        super().__init__(**kwargs)
        self.op, self.options = op, options or {}
        self.sources = self.result = None
        self.constants = {int(place): np.asarray(values, np.float32) for place, values in (constants or {}).items()}

    def call(self, inputs: tf.Tensor | list[tf.Tensor]) -> tf.Tensor:
        return self._computed(inputs)  # Keras looks at the signature, which a decorator hides

    @not_converted
    def _computed(self, inputs: tf.Tensor | list[tf.Tensor]) -> tf.Tensor:
        waiting = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        count = len(waiting) + len(self.constants)
        tensors = [self.constants[i] if i in self.constants else waiting.pop(0) for i in range(count)]
        real = _OPERATIONS[self.op]
        if self.sources is not None:
            inputs, sources = self._levels(tensors)
            return compute(self.op, inputs, sources, self.result, real, self.options)
        return tf_keras.activations.get(self.options.get("activation", "linear"))(real(*tensors, **self.options))

    def _levels(self, tensors: list) -> tuple[list, list]:
        """Give all inputs as levels, and their ``Levels``. Constants are rounded as in the file."""
        inputs, sources, waiting = [], [], list(self.sources)
        for place, values in enumerate(tensors):
            if place not in self.constants:
                inputs.append(values)
                sources.append(waiting.pop(0))
            elif self.op in SAME_SCALE:
                inputs.append(store(values / self.result.scale, self.result))
                sources.append(self.result)
            else:
                form = constant_form(values, "int8")
                inputs.append(form.integers(values, "int8").astype(np.float32) - form.zero_point)
                sources.append(fixed(form.scale, form.zero_point))
        return inputs, sources

    def get_config(self) -> dict:
        constants = {str(place): values.tolist() for place, values in self.constants.items()}
        return super().get_config() | {"op": self.op, "options": self.options, "constants": constants}


class DropoutLayer(tf_keras.layers.Layer):
    """A dropout whose masks depend on the number of training steps only, so that a resumed training has the same.

    Args:
        rate: the share of values that training sets to zero.
        noise_shape: the shape of the mask, which is repeated along sides of 1; None for that of the values.
        seed: of this layer.
        levels: whether the values are levels, which stay whole numbers.
    """

    def __init__(self, rate: float, noise_shape: list[int | None] | None, seed: int, levels: bool, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.noise_shape, self.seed, self.levels = rate, noise_shape, seed, levels

    def build(self, input_shape: tf.TensorShape) -> None:
        self._step = self.add_weight(name="step", shape=(), dtype=tf.int64, initializer="zeros", trainable=False)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self._dropped(inputs) if training else tf.identity(inputs)

    @not_converted
    def _dropped(self, inputs: tf.Tensor) -> tf.Tensor:
        sides = self.noise_shape or [None] * len(inputs.shape)
        shape = [tf.shape(inputs)[axis] if side is None else side for axis, side in enumerate(sides)]
        step = self._step.assign_add(1)
        kept = tf.random.stateless_uniform(shape, tf.stack([tf.constant(self.seed, tf.int64), step])) >= self.rate
        values = inputs * tf.cast(kept, inputs.dtype) / (1 - self.rate)
        return rounded(values) if self.levels else values

    def get_config(self) -> dict:
        options = {"rate": self.rate, "noise_shape": self.noise_shape, "seed": self.seed, "levels": self.levels}
        return super().get_config() | options


def _pool(function):
    def pool(x, size, strides, padding, activation=None):
        return function(x, size, strides, padding.upper())

    return pool


def _resize(operation):
    def resize(x, size, align_corners, half_pixel_centers):
        return operation(
            images=x, size=size, align_corners=align_corners, half_pixel_centers=half_pixel_centers
        )  # fmt: skip

    return resize


def _slices(begin, end, strides):
    return (slice(None), *(slice(*limits) for limits in zip(begin, end, strides, strict=True)))


def _concatenate(*tensors, axis, activation=None):
    """Concatenate; constants, which have the file's batch of 1, are repeated."""
    whole = next((tensor for tensor in tensors if tensor.shape[0] != 1), tensors[0])
    count = tf.shape(whole)[0]
    return tf.concat([tf.repeat(each, count, 0) if each.shape[0] == 1 else each for each in tensors], axis)


def _unpacked(x, axis, count, index):
    """Take one of the parts along an axis. Along the first axis of the file there are steps: samples are outermost."""
    if axis == 0:
        return tf.reshape(x, [-1, count, *x.shape[1:]])[:, index]
    return tf.gather(x, index, axis=axis)


def _plain(function):
    return lambda *tensors, activation=None: function(*tensors)


_OPERATIONS: dict[str, Callable] = {
    "ADD": _plain(tf.add),
    "SUB": _plain(tf.subtract),
    "MUL": _plain(tf.multiply),
    "DIV": _plain(tf.divide),
    "MAXIMUM": _plain(tf.maximum),
    "MINIMUM": _plain(tf.minimum),
    "SQUARED_DIFFERENCE": _plain(tf.math.squared_difference),
    "RSQRT": _plain(tf.math.rsqrt),
    "SQRT": _plain(tf.sqrt),
    "SQUARE": _plain(tf.square),
    "EXP": _plain(tf.exp),
    "NEG": _plain(tf.negative),
    "ABS": _plain(tf.abs),
    "RELU": _plain(tf.nn.relu),
    "RELU6": _plain(tf.nn.relu6),
    "TANH": _plain(tf.tanh),
    "LOGISTIC": _plain(tf.sigmoid),
    "ELU": _plain(tf.nn.elu),
    "HARD_SWISH": _plain(lambda x: x * tf.nn.relu6(x + 3.0) / 6.0),
    "GELU": lambda x, approximate: tf.nn.gelu(x, approximate),
    "LEAKY_RELU": lambda x, alpha: tf.nn.leaky_relu(x, alpha),
    "SOFTMAX": lambda x, beta: tf.nn.softmax(beta * x),
    "MEAN": lambda x, axes, keep_dims: tf.reduce_mean(x, axes, keep_dims),
    "SUM": lambda x, axes, keep_dims: tf.reduce_sum(x, axes, keep_dims),
    "REDUCE_MAX": lambda x, axes, keep_dims: tf.reduce_max(x, axes, keep_dims),
    "PAD": lambda x, paddings: tf.pad(x, paddings),
    "RESHAPE": lambda x, shape: tf.reshape(x, shape),
    "TILE": lambda x, multiples: tf.tile(x, multiples),
    "CUT": lambda x, begin, end, strides, shape: tf.reshape(x[_slices(begin, end, strides)], shape),
    "PRELU": _plain(lambda x, slopes: tf.nn.relu(x) - slopes * tf.nn.relu(-x)),
    "TRANSPOSE": lambda x, order: tf.transpose(x, order),
    "CONCATENATION": _concatenate,
    "BATCH_MATMUL": lambda x, y, adj_x, adj_y: tf.matmul(x, y, transpose_a=adj_x, transpose_b=adj_y),
    "AVERAGE_POOL_2D": _pool(tf.nn.avg_pool2d),
    "MAX_POOL_2D": _pool(tf.nn.max_pool2d),
    "RESIZE_BILINEAR": _resize(tf.raw_ops.ResizeBilinear),
    "RESIZE_NEAREST_NEIGHBOR": _resize(tf.raw_ops.ResizeNearestNeighbor),
    "PACK": lambda *tensors, axis, shape: tf.reshape(tf.stack(tensors, axis or 1), shape),
    "UNPACK_PART": lambda x, axis, index, count, shape: tf.reshape(_unpacked(x, axis, count, index), shape),
    "SPLIT_PART": lambda x, axis, start, size: tf.gather(x, tf.range(start, start + size), axis=axis),
    "INPUT": lambda x: x,
    "QUANTIZE": lambda x: x,
    "DEQUANTIZE": lambda x: x,
}
# Not in the schema, or not in float graphs.
_OURS = {"INPUT", "QUANTIZE", "DEQUANTIZE", "SPLIT_PART", "UNPACK_PART", "CUT"}
_OTHERS = {*WEIGHTED, "SPLIT", "SPLIT_V", "UNPACK", "SQUEEZE", "EXPAND_DIMS", "SLICE", "STRIDED_SLICE"}
SUPPORTED = sorted({*_OPERATIONS, *_OTHERS} - _OURS)


class Interpreter:
    """Makes layers of the operators of a float graph; the caller connects them.

    Args:
        tree: the float model, batch 1.
        layer_names: the name for the layer of each operator, by place; made unique here.
        without_bias: the places of the operators whose bias stays zero, and so gets no variable.

    Raises:
        RequestError: an op has no layer; the message names the op and the Keras layer.
    """

    def __init__(self, tree: schema.ModelT, layer_names: list[str], without_bias: Collection[int] = ()):
        self.tree, self.graph, self._without_bias = tree, flatbuffer.Graph(tree), without_bias
        self._layer_names, self._used = layer_names, set()
        self._refuse_unknown()

    def _refuse_unknown(self) -> None:
        for place, operator in enumerate(self.graph.operators):
            name = self.graph.name(operator)
            if name not in SUPPORTED:
                raise RequestError(
                    f"Quantisation-aware training does not know what the layer {self._layer_names[place]!r} becomes: "
                    f"{name}. Replace the layer by one made of these ops, or quantise after training "
                    f"(to_tflite(..., scheme='int8')), which leaves it in float: {', '.join(SUPPORTED)}."
                )

    def name(self, place: int) -> str:
        """Make a unique name for the layer of an operator."""
        return self.unique(self._layer_names[place])

    def unique(self, name: str) -> str:
        """Make a unique name of the characters that TensorFlow allows; a number is added to a name in use."""
        name = re.sub(r"[^A-Za-z0-9_.]", "_", name)
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        unused = next(candidate for candidate in itertools.chain([name], numbered) if candidate not in self._used)
        self._used.add(unused)
        return unused

    def layers(self, place: int) -> list[tuple[tf_keras.layers.Layer, list[np.ndarray], int]]:
        """Make the layers of an operator, one for each output: the layer, its weights, and the output's tensor."""
        operator = self.graph.operators[place]
        op, outputs = self.graph.name(operator), operator.outputs
        if op in ("SPLIT", "SPLIT_V"):
            return self._split(place, operator, outputs)
        if op == "UNPACK":
            return self._unpack(place, operator, outputs)
        (output,) = outputs
        if op in WEIGHTED and self._weights(operator, op) is not None:
            return [(*self._weighted(place, operator, op), output)]
        return [(self._operation(place, operator, op, output), [], output)]

    def _weights(self, operator: schema.OperatorT, op: str) -> np.ndarray | None:
        return self.graph.constant(operator.inputs[WEIGHTED[op].weights])

    def _weighted(
        self, place: int, operator: schema.OperatorT, op: str
    ) -> tuple[tf_keras.layers.Layer, list[np.ndarray]]:
        weights = self._weights(operator, op)
        bias = WEIGHTED[op].bias
        has_bias = bias < len(operator.inputs) and operator.inputs[bias] >= 0 and place not in self._without_bias
        kernel = to_keras_kernel(op, weights)
        terms = [self.graph.constant(operator.inputs[bias])] if has_bias else []
        options = operator.builtinOptions
        common = {
            "name": self.name(place),
            "use_bias": has_bias,
            "activation": fused_activation(options),
        }
        if op == "FULLY_CONNECTED":
            return tf_keras.layers.Dense(kernel.shape[-1], **common), [kernel, *terms]
        common |= {
            "padding": _padding(options),
            "strides": (options.strideH, options.strideW),
        }
        size = kernel.shape[:2]
        if op == "TRANSPOSE_CONV":
            return tf_keras.layers.Conv2DTranspose(kernel.shape[2], size, **common), [kernel, *terms]
        common["dilation_rate"] = (options.dilationHFactor, options.dilationWFactor)
        if op == "DEPTHWISE_CONV_2D":
            channels = self.graph.shape(operator.inputs[0])[-1]
            kernel = kernel.reshape(*size, channels, -1)
            return tf_keras.layers.DepthwiseConv2D(size, depth_multiplier=kernel.shape[-1], **common), [kernel, *terms]
        groups = self.graph.shape(operator.inputs[0])[-1] // kernel.shape[2]
        return tf_keras.layers.Conv2D(kernel.shape[3], size, groups=groups, **common), [kernel, *terms]

    def _split(
        self, place: int, operator: schema.OperatorT, outputs: list[int]
    ) -> list[tuple[tf_keras.layers.Layer, list[np.ndarray], int]]:
        data = 1 if self.graph.name(operator) == "SPLIT" else 0
        axis_input = 0 if data else 2
        (axis,) = self.graph.integers(operator.inputs[axis_input])
        parts, start = [], 0
        for output in outputs:
            size = self.graph.shape(output)[axis]
            options = {"axis": int(axis), "start": start, "size": size}
            parts.append((OperatorLayer("SPLIT_PART", options, name=self.name(place)), [], output))
            start += size
        return parts

    def _unpack(
        self, place: int, operator: schema.OperatorT, outputs: list[int]
    ) -> list[tuple[tf_keras.layers.Layer, list[np.ndarray], int]]:
        axis = operator.builtinOptions.axis % len(self.graph.shape(operator.inputs[0]))
        parts = []
        for index, output in enumerate(outputs):
            shape = [-1, *self.graph.shape(output)[1:]]
            options = {"axis": int(axis), "index": index, "count": len(outputs), "shape": shape}
            parts.append((OperatorLayer("UNPACK_PART", options, name=self.name(place)), [], output))
        return parts

    def _cut(self, operator: schema.OperatorT, op: str, integers: list[np.ndarray]) -> dict[str, list]:
        """Give where a slice begins and ends on each axis but the batch's; None for the axis' own begin or end."""
        if op == "SLICE":
            begin, size = (values.tolist()[1:] for values in integers)
            end = [start + count if count >= 0 else None for start, count in zip(begin, size, strict=True)]
            return {"begin": begin, "end": end, "strides": [1] * len(begin)}
        fields = operator.builtinOptions
        begin, end, strides = ([int(value) for value in values] for values in integers)
        for axis in range(len(begin)):
            begin[axis] = None if fields.beginMask >> axis & 1 else begin[axis]
            end[axis] = None if fields.endMask >> axis & 1 else end[axis]
            if fields.shrinkAxisMask >> axis & 1:
                end[axis] = begin[axis] + 1 or None
        return {"begin": begin[1:], "end": end[1:], "strides": strides[1:]}

    def _operation(self, place: int, operator: schema.OperatorT, op: str, output: int) -> OperatorLayer:
        constants = {}
        for position, index in enumerate(operator.inputs):
            values = self.graph.constant(index) if index >= 0 else None
            if values is not None and values.dtype == np.float32:
                constants[position] = values
        layer_op, options = self._options(operator, op, output)
        return OperatorLayer(layer_op, options, constants, name=self.name(place))

    def _options(self, operator: schema.OperatorT, op: str, output: int) -> tuple[str, dict]:
        """Give the op's name for ``OperatorLayer``, and its options."""
        fields = operator.builtinOptions
        integers = [self.graph.integers(i) for i in operator.inputs[1:]]
        shape = self.graph.shape(output)
        if op in ("RESHAPE", "SQUEEZE", "EXPAND_DIMS"):
            if len(shape) == 1:  # the file leaves the batch of 1 out, and broadcasts the result later
                sides = len(self.graph.shape(operator.inputs[0]))
                return "RESHAPE", {"shape": [-1, *[1] * (sides - 2), *shape]}
            # The file's batch of 1 is the outermost part of the first side, so -1 stands for any batch.
            return "RESHAPE", {"shape": [-1, *shape[1:]]}
        if op in ("MEAN", "SUM", "REDUCE_MAX"):
            axes = sorted(int(axis) % len(self.graph.shape(operator.inputs[0])) for axis in integers[0])
            return op, {"axes": axes, "keep_dims": bool(fields.keepDims)}
        if op == "PAD":
            return op, {"paddings": integers[0].reshape(-1, 2).tolist()}
        if op == "TILE":
            return op, {"multiples": integers[0].tolist()}
        if op in ("SLICE", "STRIDED_SLICE"):
            return "CUT", self._cut(operator, op, integers) | {"shape": [-1, *shape[1:]]}
        if op == "TRANSPOSE":
            return op, {"order": integers[0].tolist()}
        if op == "SOFTMAX":
            return op, {"beta": float(fields.beta)}
        if op == "GELU":
            return op, {"approximate": bool(fields.approximate)}
        if op == "LEAKY_RELU":
            return op, {"alpha": float(fields.alpha)}
        if op == "BATCH_MATMUL":
            return op, {"adj_x": bool(fields.adjX), "adj_y": bool(fields.adjY)}
        if op == "PACK":
            return op, {"axis": int(fields.axis % len(shape)), "shape": [-1, *shape[1:]]}
        if op == "CONCATENATION":
            return op, {"axis": int(fields.axis), "activation": fused_activation(fields)}
        if op in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"):
            centres = {"align_corners": bool(fields.alignCorners), "half_pixel_centers": bool(fields.halfPixelCenters)}
            return op, {"size": list(shape[1:3]), **centres}
        if op in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
            size, strides = [fields.filterHeight, fields.filterWidth], [fields.strideH, fields.strideW]
            return op, {
                "size": size,
                "strides": strides,
                "padding": _padding(fields),
                "activation": fused_activation(fields),
            }
        return op, {"activation": fused_activation(fields)}


def to_keras_kernel(op: str, weights: np.ndarray) -> np.ndarray:
    """Turn TFLite's weights into a tf_keras kernel; that of a depthwise layer still has one axis for all outputs."""
    if op == "FULLY_CONNECTED":
        return weights.T
    if op == "DEPTHWISE_CONV_2D":
        return weights[0]
    return weights.transpose(1, 2, 0, 3) if op == "TRANSPOSE_CONV" else weights.transpose(1, 2, 3, 0)


def to_tflite_weights(op: str, kernel: np.ndarray) -> np.ndarray:
    """Turn a layer's kernel into TFLite's weights."""
    if op == "FULLY_CONNECTED":
        return kernel.T
    if op == "DEPTHWISE_CONV_2D":
        return kernel.reshape(1, *kernel.shape[:2], -1)
    return kernel.transpose(2, 0, 1, 3) if op == "TRANSPOSE_CONV" else kernel.transpose(3, 0, 1, 2)


def fused_activation(options: object) -> str:
    """Give the name of the activation that is fused into an op; "linear" for none.

    options: the op's options in the schema.

    Raises:
        RequestError: training does not know the activation.
    """
    kind = getattr(options, "fusedActivationFunction", schema.ActivationFunctionType.NONE)
    if kind not in _ACTIVATIONS:
        raise RequestError(f"Quantisation-aware training does not know the fused activation {kind}.")
    return _ACTIVATIONS[kind]


def _padding(options: object) -> str:
    return "same" if options.padding == schema.Padding.SAME else "valid"
