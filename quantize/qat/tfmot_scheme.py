"""The quantisation scheme that tensorflow-model-optimization applies for us. The only module that imports it.

tfmot's own registry knows neither hard-swish nor products nor attention, and it places its nodes by the layers' types.
Here every node's place and form come from ``integers.plan``, the plan that the file is written by: a layer is annotated
with the form of its output, and the registry has nothing to add.
"""

import contextvars
import functools
import os

import tensorflow as tf

from mobilenets_tf.quantize.integers import LARGEST_WEIGHT, SMALLEST_SCALE
from mobilenets_tf.quantize.qat.integer_arithmetic import Levels, given, rounded, spanning, store
from mobilenets_tf.quantize.qat.live_norms import LiveNorm

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

# Tensors of one scale have one trained range: group -> ``TrainedRange``, while a model is being quantised.
_shared: contextvars.ContextVar[dict] = contextvars.ContextVar("shared ranges")
# Layer -> its normalisation, likewise.
_norms: contextvars.ContextVar[dict] = contextvars.ContextVar("normalisations")
_LEAST_FACTOR = 0.05


def once_a_graph(method):
    """Have a method make its tensors once while a graph is traced; its readers are many, and tracing takes its time.

    Only the last graph's are kept. The arguments must be hashable.
    """
    name = f"_made_by_{method.__name__}"

    @functools.wraps(method)
    def made(self, *arguments):
        if tf.executing_eagerly():
            return method(self, *arguments)
        graph = tf.compat.v1.get_default_graph()
        last, found = getattr(self, name, (None, None))
        if last is not graph:
            found = {}
            setattr(self, name, (graph, found))
        if arguments not in found:
            found[arguments] = method(self, *arguments)
        return found[arguments]

    return made


class WeightQuantizer(Quantizer):
    """Symmetric int8 weights as whole numbers, each rounded to the nearest; the scale follows the largest weight.

    Args:
        per_tensor: one scale for all output channels.
        kind: the layer's class, which says where the kernel has its output channels.
    """

    def __init__(self, per_tensor: bool, kind: str):
        self.per_tensor, self.kind = per_tensor, kind
        self.norm, self._kernel, self._bias = None, None, None

    def use(self, norm: LiveNorm | None, kernel, bias=None) -> None:
        """Work for a layer: its variables, and its normalisation if that can be live."""
        self.norm, self._kernel, self._bias = norm, kernel, bias

    def build(self, tensor_shape, name, layer):
        if self.norm:
            self.norm.build(layer, self._kernel, self._bias)
            _norms.get()[layer.layer.name] = self.norm
        return {}

    def __call__(self, inputs, training, weights, **kwargs):
        scale = self.scale(training)
        if self.kind == "DepthwiseConv2D" and not self.per_tensor:  # (rows, columns, channels, multiplier)
            scale = tf.reshape(scale, inputs.shape[2:])
        elif self.kind == "Conv2DTranspose":  # (rows, columns, outputs, inputs)
            scale = scale[:, None]
        return rounded(self._effective(training) / scale)

    @once_a_graph
    def scale(self, training):
        """Of one step of the weights: one for each output, or one alone; shape (outputs) or (1)."""
        magnitude = tf.abs(self._effective(training))
        if self.per_tensor:
            largest = tf.reshape(tf.reduce_max(magnitude), [1])
        elif self.kind == "DepthwiseConv2D":
            largest = tf.reshape(tf.reduce_max(magnitude, [0, 1]), [-1])
        else:
            outputs = -2 if self.kind == "Conv2DTranspose" else -1
            axes = range(-len(magnitude.shape), 0)
            largest = tf.reduce_max(magnitude, [axis for axis in axes if axis != outputs])
        # In double precision, since TensorFlow makes a product with a reciprocal of it, which float32 would show.
        scale = tf.cast(tf.cast(largest, tf.float64) / LARGEST_WEIGHT, tf.float32)
        return tf.stop_gradient(tf.maximum(scale, SMALLEST_SCALE))

    def _effective(self, training):
        """The kernel that the file would have now; in training a live normalisation comes after it instead."""
        live = self.norm and self.norm.live and not training
        return self.norm.kernel(self._kernel) if live else tf.convert_to_tensor(self._kernel)

    def get_config(self):
        return {"per_tensor": self.per_tensor, "kind": self.kind}


class BiasQuantizer(Quantizer):
    """A bias as a whole number of steps of (input scale x weight scale)."""

    def __init__(self, weights: WeightQuantizer, source: "ActivationRange"):
        self._weights, self._source = weights, source

    def build(self, tensor_shape, name, layer):
        return {}

    def __call__(self, inputs, training, weights, **kwargs):
        norm = self._weights.norm
        if norm and norm.live:
            if training:  # ``LiveNorm.normalize`` adds it
                return tf.zeros_like(inputs)
            inputs = norm.bias(inputs)
        # The file's are divided in double precision.
        step = tf.cast(self._source.levels().scale * self._weights.scale(training), tf.float64)
        return tf.cast(rounded(tf.cast(inputs, tf.float64) / step), tf.float32)

    def get_config(self):
        return {}  # PlannedConfig makes it anew


class TrainedRange:
    """A range whose ends are ``low`` and ``high`` times two factors that are trained, at first 1, so that a learning
    rate means the same for every tensor. ``owner`` is the layer that has the variables.
    """

    def __init__(self, low: float, high: float, owner):
        self.low, self.high = low, high
        self.factors = {
            end: owner.add_weight(
                name=f"output_{end}",
                shape=(),
                initializer=tf.constant_initializer(1.0),
                constraint=lambda factor: tf.maximum(factor, _LEAST_FACTOR),
            )
            for end in ("low", "high")
        }

    @once_a_graph
    def levels(self) -> Levels:
        """As they are now."""
        ends = ((self.low, self.factors["low"]), (self.high, self.factors["high"]))
        return spanning(*(end * tf.cast(factor, tf.float64) for end, factor in ends))


class ActivationRange:
    """The levels of an activation, as plain data: given by ``scale`` and ``zero_point``; or trained, beginning from
    ``low`` and ``high``, the ``group`` being what tensors of one range have in common.
    """

    def __init__(self, scale=None, zero_point=None, low=None, high=None, group=None):
        self.scale, self.zero_point = scale, zero_point
        self.low, self.high, self.group = low, high, group
        self._trained = None

    def build(self, layer) -> None:
        """Find the group's range, or have ``layer`` own it."""
        if self.group is None:
            return
        shared = _shared.get()
        if self.group not in shared:
            shared[self.group] = TrainedRange(self.low, self.high, layer)
        self._trained = shared[self.group]

    def levels(self) -> Levels:
        """As they are now."""
        return self._trained.levels() if self._trained else given(self.scale, self.zero_point)


class OutputQuantizer(Quantizer):
    """Rounds and clips a layer's output to levels.

    Args:
        result: of the output.
        activation: what is fused into the op.
        only_at_inference: no rounding in training, for the model's answer: a loss needs it fine.
        rescale: a function of what the layer computes, and of whether that is training, to levels; None for neither.
    """

    def __init__(self, result: ActivationRange, activation: str, only_at_inference: bool, rescale=None):
        self._result, self._activation, self._only_at_inference = result, activation, only_at_inference
        self._rescale = rescale

    def build(self, tensor_shape, name, layer):
        self._result.build(layer)
        return {}

    def __call__(self, inputs, training, weights, **kwargs):
        if self._rescale:
            inputs = self._rescale(inputs, training)
        if training and self._only_at_inference:
            return inputs
        return store(inputs, self._result.levels(), self._activation)

    def get_config(self):
        return {}  # PlannedConfig makes it anew


class PlannedConfig(QuantizeConfig):
    """How one layer computes in integers.

    Args:
        sources: ``ActivationRange``'s options for each input, None for one of real values.
        result: the same for the output; None if it is real values.
        weights: the ``WeightQuantizer``'s options, or None for an ``OperatorLayer``.
        norm: the ``LiveNorm``'s options, or None for a layer that has none.
        activation: what is fused into the op.
        only_at_inference: see ``OutputQuantizer``.
    """

    def __init__(self, sources, result, weights=None, norm=None, activation="linear", only_at_inference=False):
        self.options = {
            "sources": sources,
            "result": result,
            "weights": weights,
            "norm": norm,
            "activation": activation,
            "only_at_inference": only_at_inference,
        }
        self._norm = norm and LiveNorm(**norm)
        self._sources = [source and ActivationRange(**source) for source in sources]
        self._result = result and ActivationRange(**result)
        self._weights = weights and WeightQuantizer(**weights)

    def _variables(self, layer) -> list[str]:
        """The names of the layer's quantised variables."""
        if not self._weights:
            return []
        kernel = "depthwise_kernel" if self._weights.kind == "DepthwiseConv2D" else "kernel"
        return [kernel, "bias"] if layer.use_bias else [kernel]

    def get_weights_and_quantizers(self, layer):
        if not self._weights:
            return []
        variables = [getattr(layer, name) for name in self._variables(layer)]
        self._weights.use(self._norm, *variables)
        return list(zip(variables, [self._weights, BiasQuantizer(self._weights, self._sources[0])], strict=False))

    def set_quantize_weights(self, layer, quantize_weights):
        """Called before each call of the layer, which from here on computes with levels."""
        for name, value in zip(self._variables(layer), quantize_weights, strict=True):
            setattr(layer, name, value)
        if self._weights:
            layer.activation = None  # OutputQuantizer's
        else:
            layer.sources = [source and source.levels() for source in self._sources]
            layer.result = self._result and self._result.levels()

    def get_activations_and_quantizers(self, layer):
        return []

    def set_quantize_activations(self, layer, quantize_activations):
        pass

    def get_output_quantizers(self, layer):
        """Called when the layer is built, its sources' layers having been built before."""
        for source in filter(None, self._sources):
            source.build(layer)
        if not self._result:
            return []
        options = self.options["activation"], self.options["only_at_inference"]
        return [OutputQuantizer(self._result, *options, self._rescale if self._weights else None)]

    def _rescale(self, accumulators, training):
        """From steps of (input scale x weight scale) to levels of the result, past a live normalisation."""
        step = self._sources[0].levels().scale * self._weights.scale(training)
        if training and self._norm and self._norm.live:
            return self._norm.normalize(accumulators * step) / self._result.levels().scale
        return accumulators * (step / self._result.levels().scale)

    def get_config(self):
        return self.options


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
    """The tf_keras model that computes with levels; its trained ranges, group -> ``TrainedRange``; and the
    normalisations that can be live, layer -> ``LiveNorm``."""
    ranges, norms = _shared.set({}), _norms.set({})
    try:
        with quantize_scope({"PlannedConfig": PlannedConfig, **custom_objects}):
            return quantize_apply(annotated, PlannedScheme()), _shared.get(), _norms.get()
    finally:
        _shared.reset(ranges)
        _norms.reset(norms)
