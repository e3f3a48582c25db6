"""BatchNormalization that follows its batches for some epochs more, although it is folded into kernel and bias.

A layer's kernel and bias already contain gamma, beta and the moving statistics. A live normalisation adds what the
batches have changed since: with u the layer's output before its bias,

    training:   y = (u - batch mean) gain / batch deviation + reference + bias
    inference:  y = k u + (reference - moving mean k) + bias,    k = gain / moving deviation

The moving statistics begin as those of the calibration data; gain is their deviation and reference their mean, so at
first y = u + bias. Beta, which is in the bias, is trained; gamma, which is in the gain, is not while the normalisation
is live. Freezing (Krishnamoorthi 2018, arXiv 1806.08342, section 3.2.2) puts k and the shift into kernel and bias.
"""

import numpy as np
import tensorflow as tf
import tf_keras

from mobilenets_tf.quantize.integers import WEIGHTED
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.runtime import Runner

_MOMENTUM = 0.95
_EPSILON = 1e-6


class LiveNorm:
    """The live normalisation of one layer.

    live: whether training normalises by batches now.

    Args:
        mean, variance: the first statistics of the layer's output before its bias; one number for each output.
    """

    def __init__(self, mean: list[float], variance: list[float]):
        self._initial = {"reference": mean, "moving_mean": mean, "moving_variance": variance}
        self._initial["gain"] = np.sqrt(np.asarray(variance) + _EPSILON).tolist()
        self._kernel, self._bias, self._variables = None, None, {}
        self.live = False

    def build(self, owner: tf_keras.layers.Layer, kernel: tf.Variable, bias: tf.Variable) -> None:
        """Make the variables of the statistics.

        Args:
            owner: the layer that has them.
            kernel, bias: the variables of the normalised layer.
        """
        self._kernel, self._bias = kernel, bias
        for name, values in self._initial.items():
            initializer = tf.constant_initializer(values)
            shape = (len(values),)
            self._variables[name] = owner.add_weight(name=name, shape=shape, initializer=initializer, trainable=False)

    def thaw(self) -> None:
        """Normalise by batches from now on."""
        self.live = True

    def freeze(self) -> None:
        """Put the normalisation into kernel and bias. Freezing a second time changes nothing."""
        self.live = False
        factor, shift = self._factor_and_shift()
        self._kernel.assign(self._along_outputs(factor) * self._kernel)
        self._bias.assign_add(shift)
        variables = self._variables
        variables["moving_mean"].assign(factor * variables["moving_mean"])
        variables["reference"].assign(variables["moving_mean"])
        variables["moving_variance"].assign(tf.square(variables["gain"]) - _EPSILON)

    def normalize(self, outputs: tf.Tensor) -> tf.Tensor:
        """Normalise the layer's outputs in training, and update the moving statistics.

        outputs: without the bias, shape (..., outputs); the result has the bias.
        """
        variables = self._variables
        mean, variance = tf.nn.moments(outputs, list(range(len(outputs.shape) - 1)))
        for name, value in (("moving_mean", mean), ("moving_variance", variance)):
            variables[name].assign_add((1 - _MOMENTUM) * (value - variables[name]))
        scale = variables["gain"] * tf.math.rsqrt(variance + _EPSILON)
        return outputs * scale + (variables["reference"] - mean * scale + self._bias)

    def kernel(self, kernel: tf.Tensor) -> tf.Tensor:
        """Give the kernel of inference, which contains the normalisation."""
        return tf.stop_gradient(self._along_outputs(self._factor_and_shift()[0])) * kernel

    def bias(self, bias: tf.Tensor) -> tf.Tensor:
        """Give the bias of inference, which contains the normalisation."""
        return bias + self._factor_and_shift()[1]

    def _factor_and_shift(self) -> tuple[tf.Tensor, tf.Tensor]:
        variables = self._variables
        factor = variables["gain"] / tf.sqrt(variables["moving_variance"] + _EPSILON)
        return factor, variables["reference"] - variables["moving_mean"] * factor

    def _along_outputs(self, factor: tf.Tensor) -> tf.Tensor:
        """Reshape to the kernel's axes of outputs: the last axis, or, for a depthwise kernel, the last two."""
        shape = self._kernel.shape
        return tf.reshape(factor, shape[2:] if len(shape) == 4 and shape[3] * shape[2] == factor.shape[0] else [-1])


def output_moments(
    model: bytes, places: list[int], samples: list[list[np.ndarray]]
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Measure mean and variance of each output channel of some layers, before bias and activation.

    Args:
        model: the float file's content.
        places: the places of the layers' operators.
        samples: each a list of arrays in the order of the model's inputs.

    Returns:
        Place -> mean and variance, each of shape (outputs).
    """
    tree = flatbuffer.read(model)
    graph = flatbuffer.Graph(tree)
    probes = {}
    for place in places:
        operator = graph.operators[place]
        shape = graph.shape(operator.outputs[0])
        probes[place] = flatbuffer.add_tensor(tree, f"probe{place}", shape)
        linear = {"fusedActivationFunction": schema.ActivationFunctionType.NONE}
        options = flatbuffer.with_fields(operator.builtinOptions, **linear)
        graph.operators.append(flatbuffer.with_fields(operator, outputs=[probes[place]], builtinOptions=options))
    runner = Runner(flatbuffer.with_outputs(tree, list(probes.values())), trusted=True)
    sums, squares, count = dict.fromkeys(places, 0.0), dict.fromkeys(places, 0.0), dict.fromkeys(places, 0)
    for arrays in samples:
        runner.invoke(*arrays)
        for place, index in probes.items():
            rows = np.array(runner.raw(index), np.float64)
            rows = rows.reshape(-1, rows.shape[-1])
            sums[place] += rows.sum(0)
            squares[place] += np.square(rows).sum(0)
            count[place] += len(rows)
    moments = {}
    for place in places:
        operator = graph.operators[place]
        bias = graph.constant(operator.inputs[WEIGHTED[graph.name(operator)].bias])
        mean = sums[place] / count[place]
        moments[place] = mean - bias, squares[place] / count[place] - np.square(mean)
    return moments
