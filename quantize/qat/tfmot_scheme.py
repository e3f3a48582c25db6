"""The quantisation scheme for tensorflow-model-optimization (tfmot). No other module imports tfmot.

tfmot's own registry knows neither hard-swish nor products nor attention, and chooses by a layer's type what is rounded.
Here ``integers.plan``, by which the file is written, decides where values are rounded and to which form: each layer is
annotated with the forms of its inputs and its output, and the registry adds nothing.
"""

import contextvars
import functools
import os
from collections.abc import Callable, Sequence

import tensorflow as tf
import tf_keras

from mobilenets_tf.quantize.integers import LARGEST_WEIGHT, SMALLEST_SCALE
from mobilenets_tf.quantize.qat.integer_arithmetic import Levels, fixed, not_converted, rounded, spanning, store
from mobilenets_tf.quantize.qat.live_norms import LiveNorm

tf.keras  # noqa: B018  # TensorFlow decides on first use which Keras this is, and the import of tfmot would change that

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
    # tfmot sets the variable when it is imported; the rest of the process must not see that.
    if _before is None:
        os.environ.pop("TF_USE_LEGACY_KERAS", None)
    else:
        os.environ["TF_USE_LEGACY_KERAS"] = _before

# While a model is being quantised: group of tensors that share a scale -> their ``TrainedRange``.
_ranges: contextvars.ContextVar[dict] = contextvars.ContextVar("shared ranges")
# While a model is being quantised: layer -> its normalisation.
_norms: contextvars.ContextVar[dict] = contextvars.ContextVar("normalisations")
# While a model is being quantised: name of a set of weights that several layers share -> its variables.
_shared: contextvars.ContextVar[dict] = contextvars.ContextVar("shared weights")
_LEAST_FACTOR = 0.05


def once_a_graph(method: Callable) -> Callable:
    """Decorate a method so that it makes its tensors once for each graph that is traced: tracing them for every layer
    that reads them would take long.

    Only the tensors of the last graph are kept. The arguments must be hashable.
    """
    name = f"_results_of_{method.__name__}"

    @functools.wraps(method)
    def cached(self, *arguments):
        if tf.executing_eagerly():
            return method(self, *arguments)
        graph = tf.compat.v1.get_default_graph()
        last, results = getattr(self, name, (None, None))
        if last is not graph:
            results = {}
            setattr(self, name, (graph, results))
        if arguments not in results:
            results[arguments] = method(self, *arguments)
        return results[arguments]

    return cached


class WeightQuantizer(Quantizer):
    """Rounds weights to symmetric int8 levels, each to the nearest; the largest weight decides the scale.

    Args:
        per_tensor: one scale for all output channels.
        kind: the name of the layer's class, which tells the axis of the kernel's output channels.
    """

    def __init__(self, per_tensor: bool, kind: str):
        self.per_tensor, self.kind = per_tensor, kind
        self.norm, self._kernel, self._bias = None, None, None

    def use(self, norm: LiveNorm | None, kernel: tf.Variable, bias: tf.Variable | None = None) -> None:
        """Set the layer's variables, and its normalisation if that can be live."""
        self.norm, self._kernel, self._bias = norm, kernel, bias

    def build(self, tensor_shape: tf.TensorShape, name: str, layer: tf_keras.layers.Layer) -> dict:
        if self.norm:
            self.norm.build(layer, self._kernel, self._bias)
            _norms.get()[layer.layer.name] = self.norm
        return {}

    @not_converted
    def __call__(self, inputs: tf.Tensor, training: bool, weights: dict, **kwargs) -> tf.Tensor:
        scale = self.scale(training)
        if self.kind == "DepthwiseConv2D" and not self.per_tensor:  # (rows, columns, channels, multiplier)
            scale = tf.reshape(scale, inputs.shape[2:])
        elif self.kind == "Conv2DTranspose":  # (rows, columns, outputs, inputs)
            scale = scale[:, None]
        return rounded(self._effective(training) / scale)

    @once_a_graph
    def scale(self, training: bool) -> tf.Tensor:
        """Compute the scale of the weights' levels, shape (outputs), or (1) with one scale for all outputs."""
        magnitude = tf.abs(self._effective(training))
        if self.per_tensor:
            largest = tf.reshape(tf.reduce_max(magnitude), [1])
        elif self.kind == "DepthwiseConv2D":
            largest = tf.reshape(tf.reduce_max(magnitude, [0, 1]), [-1])
        else:
            outputs = -2 if self.kind == "Conv2DTranspose" else -1
            axes = range(-len(magnitude.shape), 0)
            largest = tf.reduce_max(magnitude, [axis for axis in axes if axis != outputs])
        # In double precision: TensorFlow makes a product with the reciprocal of the division, which differs in float32.
        scale = tf.cast(tf.cast(largest, tf.float64) / LARGEST_WEIGHT, tf.float32)
        return tf.stop_gradient(tf.maximum(scale, SMALLEST_SCALE))

    def _effective(self, training: bool) -> tf.Tensor:
        """Return the kernel that the file would have now. Training applies a live normalisation to the outputs."""
        live = self.norm and self.norm.live and not training
        return self.norm.kernel(self._kernel) if live else tf.convert_to_tensor(self._kernel)

    def get_config(self) -> dict:
        return {"per_tensor": self.per_tensor, "kind": self.kind}


class BiasQuantizer(Quantizer):
    """Rounds a bias to whole steps of (input scale x weight scale)."""

    def __init__(self, weights: WeightQuantizer, source: "ActivationRange"):
        self._weights, self._source = weights, source

    def build(self, tensor_shape: tf.TensorShape, name: str, layer: tf_keras.layers.Layer) -> dict:
        return {}

    @not_converted
    def __call__(self, inputs: tf.Tensor, training: bool, weights: dict, **kwargs) -> tf.Tensor:
        norm = self._weights.norm
        if norm and norm.live:
            if training:  # ``LiveNorm.normalize`` adds the bias
                return tf.zeros_like(inputs)
            inputs = norm.bias(inputs)
        # In double precision, as when the file is written.
        step = tf.cast(self._source.levels().scale * self._weights.scale(training), tf.float64)
        return tf.cast(rounded(tf.cast(inputs, tf.float64) / step), tf.float32)

    def get_config(self) -> dict:
        return {}  # PlannedConfig makes the quantiser anew


class TrainedRange:
    """A range whose ends are ``low`` and ``high`` times two trained factors, which begin at 1. So a learning rate means
    the same for every tensor.

    factors: the variables, "low" and "high".

    Args:
        low, high: the ends at the beginning, low <= 0 <= high.
        owner: the layer that has the variables.
    """

    def __init__(self, low: float, high: float, owner: tf_keras.layers.Layer):
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
        """Make the levels of the range as it is now."""
        ends = ((self.low, self.factors["low"]), (self.high, self.factors["high"]))
        return spanning(*(end * tf.cast(factor, tf.float64) for end, factor in ends))


class ActivationRange:
    """The levels of an activation: fixed, or with a trained range.

    Args:
        scale, zero_point: of fixed levels.
        low, high: the ends of a trained range at the beginning.
        group: the name that all tensors of one trained range have in common; None for fixed levels.
    """

    def __init__(
        self,
        scale: float | None = None,
        zero_point: int | None = None,
        low: float | None = None,
        high: float | None = None,
        group: str | None = None,
    ):
        self.scale, self.zero_point = scale, zero_point
        self.low, self.high, self.group = low, high, group
        self._trained = None

    def build(self, layer: tf_keras.layers.Layer) -> None:
        """Find the group's range, or make it with ``layer`` as the owner of its variables."""
        if self.group is None:
            return
        ranges = _ranges.get()
        if self.group not in ranges:
            ranges[self.group] = TrainedRange(self.low, self.high, layer)
        self._trained = ranges[self.group]

    def levels(self) -> Levels:
        """Make the levels as they are now."""
        return self._trained.levels() if self._trained else fixed(self.scale, self.zero_point)


class OutputQuantizer(Quantizer):
    """Rounds and clips a layer's output to levels.

    Args:
        result: the levels of the output.
        activation: the activation that is fused into the op.
        only_at_inference: do not round in training. For the model's answer, which a loss needs unrounded.
        rescale: a function of (what the layer computes, whether it is training) that gives levels; None for a layer
            that computes levels.
    """

    def __init__(
        self,
        result: ActivationRange,
        activation: str,
        only_at_inference: bool,
        rescale: Callable[[tf.Tensor, bool], tf.Tensor] | None = None,
    ):
        self._result, self._activation, self._only_at_inference = result, activation, only_at_inference
        self._rescale = rescale

    def build(self, tensor_shape: tf.TensorShape, name: str, layer: tf_keras.layers.Layer) -> dict:
        self._result.build(layer)
        return {}

    @not_converted
    def __call__(self, inputs: tf.Tensor, training: bool, weights: dict, **kwargs) -> tf.Tensor:
        if self._rescale:
            inputs = self._rescale(inputs, training)
        if training and self._only_at_inference:
            return inputs
        return store(inputs, self._result.levels(), self._activation)

    def get_config(self) -> dict:
        return {}  # PlannedConfig makes the quantiser anew


class PlannedConfig(QuantizeConfig):
    """The quantisation of one layer.

    Args:
        sources: the options of an ``ActivationRange`` for each input; None for an input of real values.
        result: the same for the output; None if it is real values.
        weights: the options of the ``WeightQuantizer``; None for an ``OperatorLayer``.
        norm: the options of the ``LiveNorm``; None for a layer without one.
        shared: a name for the kernel and one for the bias; all layers that give that name share the variable. None for
            a variable of its own.
        activation: the activation that is fused into the op.
        only_at_inference: see ``OutputQuantizer``.
    """

    def __init__(
        self,
        sources: list[dict | None],
        result: dict | None,
        weights: dict | None = None,
        norm: dict | None = None,
        shared: Sequence[str | None] = (None, None),
        activation: str = "linear",
        only_at_inference: bool = False,
    ):
        self.options = {
            "sources": sources,
            "result": result,
            "weights": weights,
            "norm": norm,
            "shared": list(shared),
            "activation": activation,
            "only_at_inference": only_at_inference,
        }
        self._norm = norm and LiveNorm(**norm)
        self._sources = [source and ActivationRange(**source) for source in sources]
        self._result = result and ActivationRange(**result)
        self._weights = weights and WeightQuantizer(**weights)
        self.replaced: list[tf.Variable] = []  # variables of the layer, in whose place it uses shared ones

    def _variables(self, layer: tf_keras.layers.Layer) -> list[str]:
        """Give the names of the layer's quantised variables."""
        if not self._weights:
            return []
        kernel = "depthwise_kernel" if self._weights.kind == "DepthwiseConv2D" else "kernel"
        return [kernel, "bias"] if layer.use_bias else [kernel]

    def get_weights_and_quantizers(self, layer: tf_keras.layers.Layer) -> list[tuple[tf.Variable, Quantizer]]:
        if not self._weights:
            return []
        own = [getattr(layer, name) for name in self._variables(layer)]
        pairs = list(zip(self.options["shared"], own, strict=False))
        variables = [mine if name is None else _shared.get().setdefault(name, mine) for name, mine in pairs]
        self.replaced = [mine for mine, used in zip(own, variables, strict=True) if used is not mine]
        self._weights.use(self._norm, *variables)
        return list(zip(variables, [self._weights, BiasQuantizer(self._weights, self._sources[0])], strict=False))

    @not_converted
    def set_quantize_weights(self, layer: tf_keras.layers.Layer, quantize_weights: list[tf.Tensor]) -> None:
        """Give the layer its rounded weights, or its levels. tfmot calls this before each call of the layer."""
        for name, value in zip(self._variables(layer), quantize_weights, strict=True):
            setattr(layer, name, value)
        if self._weights:
            layer.activation = None  # OutputQuantizer applies it
        else:
            layer.sources = [source and source.levels() for source in self._sources]
            layer.result = self._result and self._result.levels()

    def get_activations_and_quantizers(self, layer: tf_keras.layers.Layer) -> list:
        return []

    def set_quantize_activations(self, layer: tf_keras.layers.Layer, quantize_activations: list) -> None:
        pass

    def get_output_quantizers(self, layer: tf_keras.layers.Layer) -> list[Quantizer]:
        """Make the output's quantiser. tfmot calls this when the layer is built, after the layers that it reads."""
        for source in filter(None, self._sources):
            source.build(layer)
        if not self._result:
            return []
        options = self.options["activation"], self.options["only_at_inference"]
        return [OutputQuantizer(self._result, *options, self._rescale if self._weights else None)]

    def _rescale(self, accumulators: tf.Tensor, training: bool) -> tf.Tensor:
        """Turn accumulators, in steps of (input scale x weight scale), into levels of the result.

        A live normalisation is applied on the way.
        """
        step = self._sources[0].levels().scale * self._weights.scale(training)
        if training and self._norm and self._norm.live:
            return self._norm.normalize(accumulators * step) / self._result.levels().scale
        return accumulators * (step / self._result.levels().scale)

    def get_config(self) -> dict:
        return self.options


class _NoTransform(quantize_layout_transform.QuantizeLayoutTransform):
    """Changes nothing: the graph is that of the file already."""

    def apply(self, model: tf_keras.Model, layer_quantize_map: dict) -> tuple[tf_keras.Model, dict]:
        return model, layer_quantize_map


class _EmptyRegistry(QuantizeRegistry):
    """Quantises no layer that is not annotated."""

    def supports(self, layer: tf_keras.layers.Layer) -> bool:
        return False

    def get_quantize_config(self, layer: tf_keras.layers.Layer) -> None:
        return None


class PlannedScheme(QuantizeScheme):
    """Quantises each layer as its annotation says, and no other layer."""

    def get_layout_transformer(self) -> quantize_layout_transform.QuantizeLayoutTransform:
        return _NoTransform()

    def get_quantize_registry(self) -> QuantizeRegistry:
        return _EmptyRegistry()


def annotate(layer: tf_keras.layers.Layer, config: PlannedConfig) -> tf_keras.layers.Layer:
    """Wrap a layer with its configuration, for ``apply``."""
    return quantize_annotate_layer(layer, config)


def apply(
    annotated: tf_keras.Model, custom_objects: dict[str, type]
) -> tuple[tf_keras.Model, dict[str, TrainedRange], dict[str, LiveNorm]]:
    """Make the model that computes with levels.

    Args:
        annotated: a model some of whose layers are annotated.
        custom_objects: class name -> class of the model's own layers.

    Returns:
        The model; its trained ranges by group; the normalisations that can be live, by layer name.
    """
    tokens = [(variable, variable.set({})) for variable in (_ranges, _norms, _shared)]
    try:
        with quantize_scope({"PlannedConfig": PlannedConfig, **custom_objects}):
            model = quantize_apply(annotated, PlannedScheme())
        for wrapper in model.layers:
            if isinstance(config := getattr(wrapper, "quantize_config", None), PlannedConfig):
                _take_out(wrapper, config.replaced)
        return model, _ranges.get(), _norms.get()
    finally:
        for variable, token in tokens:
            variable.reset(token)


def weights_of(layer: tf_keras.layers.Layer) -> list[tf.Variable]:
    """Give the kernel of a layer of ``apply``'s model, and its bias if there is one, not rounded."""
    # A wrapped layer's own attributes hold the rounded values. Layers of float islands are not wrapped.
    wrapped = getattr(layer, "_weight_vars", None)
    return layer.weights if wrapped is None else [variable for variable, _, _ in wrapped]


def freeze(layer: tf_keras.layers.Layer, variables: list[tf.Variable]) -> None:
    """Keep some weights of a layer of ``apply``'s model as they are in training."""
    _take_out(layer, variables)
    layer._non_trainable_weights.extend(variables)


def _take_out(layer: tf_keras.layers.Layer, variables: list[tf.Variable]) -> None:
    """Take variables out of a layer's trained weights. Keras has flags for whole layers only."""
    out = {id(variable) for variable in variables}
    for owner in {id(each): each for each in (layer, getattr(layer, "layer", layer))}.values():
        owner._trainable_weights = [variable for variable in owner._trainable_weights if id(variable) not in out]
