"""BatchNormalization that goes on following its batches for some epochs although it is folded into kernel and bias.

A layer's kernel and bias already have gamma, beta and the moving statistics in them. What a live normalisation adds is
what batches have changed since: with u the layer's output before its bias,

    training:   y = (u - batch mean) gain / batch deviation + reference + bias
    inference:  y = k u + (reference - moving mean k) + bias,    k = gain / moving deviation

where the moving statistics begin as those of the calibration data, gain is their deviation and reference their mean, so
that at first y = u + bias. Beta, in the bias, is trained; gamma, in the gain, is not while the normalisation is live.
Freezing (Krishnamoorthi 2018, arXiv 1806.08342, section 3.2.2) puts k and the shift into kernel and bias for good.
"""

import numpy as np
import tensorflow as tf

from mobilenets_tf.quantize.integers import WEIGHTED
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.runtime import Runner

_MOMENTUM = 0.95
_EPSILON = 1e-6


class LiveNorm:
    """One layer's, its arrays of shape (outputs).

    Args:
        mean, variance: of the layer's output before its bias, to begin with.
    """

    def __init__(self, mean, variance):
        self._initial = {"reference": mean, "moving_mean": mean, "moving_variance": variance}
        self._initial["gain"] = np.sqrt(np.asarray(variance) + _EPSILON).tolist()
        self._kernel, self._bias, self._variables = None, None, {}
        self.live = False

    def build(self, owner, kernel, bias) -> None:
        """Make the variables.

        owner: the layer that has them. kernel, bias: its variables.
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
        """Put what was learned into kernel and bias. A second time changes nothing."""
        self.live = False
        factor, shift = self._factor_and_shift()
        self._kernel.assign(self._along_outputs(factor) * self._kernel)
        self._bias.assign_add(shift)
        variables = self._variables
        variables["moving_mean"].assign(factor * variables["moving_mean"])
        variables["reference"].assign(variables["moving_mean"])
        variables["moving_variance"].assign(tf.square(variables["gain"]) - _EPSILON)

    def normalize(self, outputs: tf.Tensor) -> tf.Tensor:
        """In training: the layer's output, given without its bias."""
        variables = self._variables
        mean, variance = tf.nn.moments(outputs, list(range(len(outputs.shape) - 1)))
        for name, found in (("moving_mean", mean), ("moving_variance", variance)):
            variables[name].assign_add((1 - _MOMENTUM) * (found - variables[name]))
        scale = variables["gain"] * tf.math.rsqrt(variance + _EPSILON)
        return outputs * scale + (variables["reference"] - mean * scale + self._bias)

    def kernel(self, kernel) -> tf.Tensor:
        """At inference."""
        return tf.stop_gradient(self._along_outputs(self._factor_and_shift()[0])) * kernel

    def bias(self, bias) -> tf.Tensor:
        """At inference."""
        return bias + self._factor_and_shift()[1]

    def _factor_and_shift(self):
        variables = self._variables
        factor = variables["gain"] / tf.sqrt(variables["moving_variance"] + _EPSILON)
        return factor, variables["reference"] - variables["moving_mean"] * factor

    def _along_outputs(self, factor):
        """As the kernel has its outputs: last, or, if it is a depthwise one, in its last two axes."""
        shape = self._kernel.shape
        return tf.reshape(factor, shape[2:] if len(shape) == 4 and shape[3] * shape[2] == len(factor) else [-1])


def output_moments(model: bytes, places: list[int], samples: list[list[np.ndarray]]) -> dict[int, tuple]:
    """Mean and variance of each output channel of some layers, before bias and activation.

    model: the float file's content. places: of the layers' operators.
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
    tree.subgraphs[0].outputs, tree.signatureDefs = list(probes.values()), []
    runner = Runner(flatbuffer.write(tree))
    sums, squares, count = dict.fromkeys(places, 0.0), dict.fromkeys(places, 0.0), dict.fromkeys(places, 0)
    for arrays in samples:
        runner.invoke(*arrays)
        for place, index in probes.items():
            rows = np.array(runner.raw(index), np.float64)
            rows = rows.reshape(-1, rows.shape[-1])
            sums[place] += rows.sum(0)
            squares[place] += np.square(rows).sum(0)
            count[place] += len(rows)
    found = {}
    for place in places:
        operator = graph.operators[place]
        bias = graph.constant(operator.inputs[WEIGHTED[graph.name(operator)].bias])
        mean = sums[place] / count[place]
        found[place] = mean - bias, squares[place] / count[place] - np.square(mean)
    return found
