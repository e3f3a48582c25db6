"""The quantisation scheme that tensorflow-model-optimization applies for us. The only module that imports it.

tfmot's own registry knows neither hard-swish nor products nor attention, and it places its nodes by the layers' types.
Here every node's place and form come from ``integers.plan``, the plan that the file is written by: a layer is annotated
with the form of its output, and the registry has nothing to add.
"""

import contextvars
import os

import tensorflow as tf

from mobilenets_tf.quantize.integers import LARGEST_WEIGHT, SMALLEST_SCALE, Form

tf.keras  # noqa: B018  # TensorFlow decides on first use which Keras this is; tfmot below would change the answer

_before = os.environ.get("TF_USE_LEGACY_KERAS")
try:
    from tensorflow_model_optimization.python.core.quantization.keras import quantize_layout_transform
    from tensorflow_model_optimization.python.core.quantization.keras.quantize import (
        quantize_annotate_layer,
        quantize_apply,
        quantize_scope,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.quantize_config import QuantizeConfig
    from tensorflow_model_optimization.python.core.quantization.keras.quantize_registry import QuantizeRegistry
    from tensorflow_model_optimization.python.core.quantization.keras.quantize_scheme import QuantizeScheme
    from tensorflow_model_optimization.python.core.quantization.keras.quantizers import Quantizer
finally:
    # tfmot sets it for itself when imported; what the process does next must not depend on that.
    if _before is None:
        os.environ.pop("TF_USE_LEGACY_KERAS", None)
    else:
        os.environ["TF_USE_LEGACY_KERAS"] = _before

# Tensors of one scale have one pair of variables: group -> variables, while a model is being quantised.
_shared: contextvars.ContextVar[dict] = contextvars.ContextVar("shared ranges")
_LEAST_FACTOR = 0.05


class WeightQuantizer(Quantizer):
    """Symmetric int8 weights, each rounded to the nearest; the scale follows the largest as training moves it.

    Args:
        per_tensor: one scale for all output channels.
        kind: the layer's class, which says where the kernel has its output channels.
    """

    def __init__(self, per_tensor: bool, kind: str):
        self.per_tensor, self.kind = per_tensor, kind

    def build(self, tensor_shape, name, layer):
        return {}

    def __call__(self, inputs, training, weights, **kwargs):
        kernel, largest = self._outputs_last(inputs), self._largest(inputs)
        if self.per_tensor:
            rounded = tf.quantization.fake_quant_with_min_max_vars(kernel, -largest, largest, narrow_range=True)
        else:
            fake_quant = tf.quantization.fake_quant_with_min_max_vars_per_channel
            rounded = fake_quant(kernel, -largest, largest, narrow_range=True)
        if self.kind == "Conv2DTranspose":
            rounded = tf.transpose(rounded, (0, 1, 3, 2))
        return tf.reshape(rounded, inputs.shape)

    def scale(self, kernel):
        """Of one step of the weights: one for each output, or one alone."""
        return self._largest(kernel) / LARGEST_WEIGHT

    def _outputs_last(self, kernel):
        if self.kind == "DepthwiseConv2D":  # (rows, columns, channels, multiplier)
            return tf.reshape(kernel, [*kernel.shape[:2], -1])
        if self.kind == "Conv2DTranspose":  # (rows, columns, outputs, inputs)
            return tf.transpose(kernel, (0, 1, 3, 2))
        return tf.convert_to_tensor(kernel)

    def _largest(self, kernel):
        kernel = self._outputs_last(kernel)
        axes = None if self.per_tensor else list(range(len(kernel.shape) - 1))
        return tf.stop_gradient(tf.maximum(tf.reduce_max(tf.abs(kernel), axes), LARGEST_WEIGHT * SMALLEST_SCALE))

    def get_config(self):
        return {"per_tensor": self.per_tensor, "kind": self.kind}


class ActivationQuantizer(Quantizer):
    """An activation's 256 levels.

    Trained are two factors of the range's ends, at first 1, so that a learning rate means the same for every tensor.

    Args:
        low, high: the range to begin with.
        group: tensors of the same group have the same range.
        trainable: False for the ranges that the runtime or the input's nature dictates.
        only_at_inference: no rounding in training, for the model's answer: a loss needs it fine.
    """

    def __init__(self, low: float, high: float, group: str, trainable: bool, only_at_inference: bool = False):
        self.low, self.high, self.group, self.trainable = low, high, group, trainable
        self.only_at_inference = only_at_inference

    def build(self, tensor_shape, name, layer):
        if not self.trainable:
            return {}
        shared = _shared.get()
        if self.group not in shared:
            shared[self.group] = {
                end: layer.add_weight(
                    name=f"{name}_{end}",
                    shape=(),
                    initializer=tf.constant_initializer(1.0),
                    constraint=lambda factor: tf.maximum(factor, _LEAST_FACTOR),
                )
                for end in ("low", "high")
            }
        return shared[self.group]

    def __call__(self, inputs, training, weights, **kwargs):
        if training and self.only_at_inference:
            return inputs
        if weights:
            return tf.quantization.fake_quant_with_min_max_vars(inputs, *self.ends(weights))
        # Half to even, as whoever fills the file's input rounds: in [-1, 1] every pixel lies half between two levels.
        form = Form.spanning(self.low, self.high, "int8")
        lowest, highest = ((limit - form.zero_point) * form.scale for limit in (-128, 127))
        rounded = tf.clip_by_value(tf.round(inputs / form.scale) * form.scale, lowest, highest)
        return inputs + tf.stop_gradient(rounded - inputs)

    def ends(self, weights: dict):
        """The range as it is now, given the variables that ``build`` made."""
        return (self.low * weights["low"], self.high * weights["high"]) if weights else (self.low, self.high)

    def get_config(self):
        return {
            "low": self.low,
            "high": self.high,
            "group": self.group,
            "trainable": self.trainable,
            "only_at_inference": self.only_at_inference,
        }


class BiasQuantizer(Quantizer):
    """A bias in steps of (input scale x weight scale), as the file has it.

    Small as these steps are, leaving them out turns one level in a few hundred over, and each of those turns others
    over behind it: after some layers the model's rounding noise and the file's would have little in common.
    """

    def __init__(self, kernel, weights: WeightQuantizer, source: "ActivationQuantizer"):
        self._kernel, self._weights, self._source = kernel, weights, source

    def build(self, tensor_shape, name, layer):
        return self._source.build(tensor_shape, name, layer)

    def __call__(self, inputs, training, weights, **kwargs):
        low, high = self._source.ends(weights)
        step = tf.stop_gradient((high - low) / 255.0 * self._weights.scale(self._kernel))
        return inputs + tf.stop_gradient(tf.round(inputs / step) * step - inputs)

    def get_config(self):
        return {}  # PlannedConfig makes it anew


class PlannedConfig(QuantizeConfig):
    """What is fake-quantised of one layer.

    Args:
        weights: the ``WeightQuantizer``'s options, or None for a layer without weights.
        source: the ``ActivationQuantizer``'s options for what a layer with weights reads.
        output: the same for its output, or None where the output is as exact as the input.
    """

    def __init__(self, weights: dict | None = None, source: dict | None = None, output: dict | None = None):
        self.weights, self.source, self.output = weights, source, output
        self._output_quantizer = ActivationQuantizer(**output) if output else None

    def _names(self, layer) -> list[str]:
        """Of the layer's quantised variables."""
        kernel = "depthwise_kernel" if self.weights["kind"] == "DepthwiseConv2D" else "kernel"
        return [kernel, "bias"] if layer.use_bias else [kernel]

    def get_weights_and_quantizers(self, layer):
        if not self.weights:
            return []
        variables = [getattr(layer, name) for name in self._names(layer)]
        weights = WeightQuantizer(**self.weights)
        quantizers = [weights, BiasQuantizer(variables[0], weights, ActivationQuantizer(**self.source))]
        return list(zip(variables, quantizers, strict=False))

    def set_quantize_weights(self, layer, quantize_weights):
        for name, value in zip(self._names(layer) if self.weights else [], quantize_weights, strict=True):
            setattr(layer, name, value)

    def get_activations_and_quantizers(self, layer):
        return []

    def set_quantize_activations(self, layer, quantize_activations):
        pass

    def get_output_quantizers(self, layer):
        return [self._output_quantizer] if self._output_quantizer else []

    def get_config(self):
        return {"weights": self.weights, "source": self.source, "output": self.output}


class _AsItIs(quantize_layout_transform.QuantizeLayoutTransform):
    """The graph is the file's already: nothing to fuse."""

    def apply(self, model, layer_quantize_map):
        return model, layer_quantize_map


class _NothingToAdd(QuantizeRegistry):
    def supports(self, layer):
        return False

    def get_quantize_config(self, layer):
        return None


class PlannedScheme(QuantizeScheme):
    """Every layer as its annotation says, no other layer touched."""

    def get_layout_transformer(self):
        return _AsItIs()

    def get_quantize_registry(self):
        return _NothingToAdd()


def annotate(layer, config: PlannedConfig):
    """The layer with its configuration, for ``apply``."""
    return quantize_annotate_layer(layer, config)


def apply(annotated, custom_objects: dict):
    """The tf_keras model with fake-quantisation in it, and the factors of its ranges: group -> {"low", "high"}."""
    token = _shared.set({})
    try:
        with quantize_scope({"PlannedConfig": PlannedConfig, **custom_objects}):
            return quantize_apply(annotated, PlannedScheme()), _shared.get()
    finally:
        _shared.reset(token)
