"""Take in a Keras model of anyone's: fixed sides, float32 computation, channels last; the weights stay the same.

A phone computes so, and TensorFlow convolves on a CPU with the channels last only. The layers that have to change are
built anew from their configuration, and get the weights of the layers of the model; all others are shared with it.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mobilenets_tf.conversion.own_normalisation import image_layers
from mobilenets_tf.conversion.rewriting import (
    copied,
    copy_weights,
    default_layers,
    is_elementwise_function,
    is_functional,
)
from mobilenets_tf.data.input_shapes import fixed_shapes
from mobilenets_tf.data.preprocessing import CHANNELS, Size, shown_size, sides
from mobilenets_tf.errors import RequestError

if TYPE_CHECKING:
    import keras

_HALF = ("float16", "bfloat16", "mixed_float16", "mixed_bfloat16")
_FIRST = "channels_first"
# Layers and operations that compute each value by itself, if all their operands have one layout.
_ELEMENTWISE = {
    "Activation", "ReLU", "LeakyReLU", "ELU", "Dropout", "GaussianDropout", "GaussianNoise", "AlphaDropout", "Identity",
    "ActivityRegularization", "Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Rescaling", "TrueDivide",
    "Relu", "Relu6", "Sigmoid", "Silu", "HardSigmoid", "HardSilu", "Gelu", "Tanh", "Elu", "Selu", "LeakyRelu", "Clip",
}  # fmt: skip
# Layers with an axis in their configuration, and nothing else that the layout changes.
_WITH_AXIS = {
    "BatchNormalization", "LayerNormalization", "GroupNormalization", "UnitNormalization", "Softmax", "Concatenate",
    "Normalization",
}  # fmt: skip


def taken_in(model: "keras.Model", resolution: Size | None = None) -> "keras.Model":
    """Return a functional model of the same function and weights with fixed sides, in float32, channels last; ``model``
    itself if it is so already, or is no functional or sequential model.

    An image that the model takes with its channels first is taken channels last, as are outputs of that layout. What
    has changed is said in a warning. Where the sides of the image are open and nothing says their length, the size to
    which the model itself resizes every image is taken.

    Args:
        resolution: of the image, where the model leaves its sides open: one number, or (height, width).

    Raises:
        RequestError: a side is open and nothing says how long it is, or ``resolution`` differs from a fixed side or is
            too large for a file; a layer cannot be copied, or not be turned to channels last.
    """
    if not is_functional(model) or not model.built:
        return model
    given, rebuilding = model, _Rebuilding(model)
    size = _size(model, resolution, rebuilding.turns)
    if not (size or rebuilding.turns or rebuilding.is_half):
        return model
    with default_layers():
        model = rebuilding.of(model, size)
    if rebuilding.is_half:
        warnings.warn(
            f"{given.name} computes in {rebuilding.is_half}; what is made of it has the same weights and computes in "
            "float32.",
            stacklevel=4,
        )
    for old, new in zip(given.inputs, model.inputs, strict=True):
        if rebuilding.turns and len(old.shape) == 4 and old.shape[1] != new.shape[1]:
            warnings.warn(
                f"{given.name} takes its image channels first, {tuple(old.shape[1:])}; what is made of it takes the "
                f"image channels last, {tuple(new.shape[1:])}, as Android and MediaPipe have it.",
                stacklevel=4,
            )
    return model


def _size(model: "keras.Model", resolution: Size | None, turns: bool) -> tuple[int, int] | None:
    """Return height and width for the open sides of the model's images; None if there are none.

    Raises:
        RequestError: as ``taken_in``.
    """
    images = [tensor for tensor in model.inputs if len(tensor.shape) == 4]
    is_open = any(None in tensor.shape[1:] for tensor in images)
    if resolution is None:
        if not is_open:
            return None
        resolution = _own_size(model)
    given = {tensor.name: (tensor.name, (1, *tensor.shape[1:])) for tensor in images}
    fixed_shapes(given, model.name, resolution, "Build the model again", lambda shape: turns and _is_first(shape))
    return sides(resolution) if is_open and resolution is not None else None


def _own_size(model: "keras.Model") -> tuple[int, int] | None:
    """Return the size to which a model resizes every image before any layer with weights; None if it does not."""
    for layer in image_layers(model):
        if type(layer).__name__ == "Resizing":
            size = layer.height, layer.width
            warnings.warn(
                f"The sides of {model.name}'s image are open, and its layer {layer.name!r} resizes every image to "
                f"{shown_size(size)}: what is made of it takes that size. Another size: --resolution (resolution=).",
                stacklevel=6,
            )
            return size
    return None


def _is_first(shape: Sequence[int | None]) -> bool:
    """Tell whether an input of this shape is an image, channels first as the layers that the model has."""
    return len(shape) == 4 and shape[1] in CHANNELS and shape[3] not in CHANNELS


class _Rebuilding:
    """Builds a model anew.

    turns: whether layers have their channels first. is_half: the policy of less than float32 that a layer has, or "".
    """

    def __init__(self, model: "keras.Model"):
        layers = list(model._flatten_layers(include_self=False))
        self.turns = any(getattr(layer, "data_format", None) == _FIRST for layer in layers)
        policies = [layer.dtype_policy.name for layer in layers if layer.dtype_policy.name in _HALF]
        self.is_half = max(policies, key=policies.count, default="")
        self._copies: dict[tuple, Any] = {}
        self._unfinished: list[tuple[Any, Any]] = []  # layers and their copies, which get weights once they are built
        self._turned: dict[int, Any] = {}  # tensors that are channels last where the model has channels first
        self._kept: list[Any] = []  # so that no other tensor gets the id of one of these

    def of(self, model: "keras.Model", size: tuple[int, int] | None = None, nested: bool = False) -> "keras.Model":
        """Build one model, and the models in it, whose layers are built once however often they are called."""
        import keras

        trainable = model.trainable
        if isinstance(model, keras.Sequential):  # its graph, under its name
            model = keras.Model(model.inputs, model.outputs, name=model.name)
        inputs = keras.tree.map_structure(lambda tensor: self._input(tensor, size, nested), model.input)
        outputs = model._run_through_graph(inputs, operation_fn=lambda operation: operation, call_fn=self._call)
        outputs = keras.tree.map_structure(self._output, outputs)
        while self._unfinished:
            copy_weights(*self._unfinished.pop())
        rebuilt = keras.Model(inputs, outputs, name=model.name)
        rebuilt._trainable = trainable
        return rebuilt

    def _input(self, tensor: Any, size: tuple[int, int] | None, nested: bool) -> Any:
        import keras

        shape, is_image = list(tensor.shape), len(tensor.shape) == 4
        turned = self.turns and is_image and (nested or _is_first(tensor.shape))
        if turned:
            shape = [shape[0], *shape[2:], shape[1]]
        if size and is_image:
            shape[1:3] = [side or wanted for side, wanted in zip(shape[1:3], size, strict=True)]
        dtype = "float32" if tensor.dtype in _HALF else tensor.dtype
        new = keras.Input(batch_shape=shape, dtype=dtype, name=tensor.name)
        return self._mark(new) if turned else new

    def _output(self, tensor: Any) -> Any:
        return tensor if len(tensor.shape) == 4 else self._to_first(tensor)

    def _mark(self, tensor: Any) -> Any:
        self._turned[id(tensor)] = tensor
        return tensor

    def _is_turned(self, tensor: Any) -> bool:
        return id(tensor) in self._turned

    def _to_last(self, tensor: Any) -> Any:
        import keras

        if self._is_turned(tensor) or len(tensor.shape) < 3:
            return tensor
        rank = len(tensor.shape)
        return self._mark(keras.layers.Permute((*range(2, rank), 1), name=self._name(tensor, "last"))(tensor))

    def _to_first(self, tensor: Any) -> Any:
        import keras

        if not self._is_turned(tensor):
            return tensor
        rank = len(tensor.shape)
        return keras.layers.Permute((rank - 1, *range(1, rank - 1)), name=self._name(tensor, "first"))(tensor)

    def _name(self, tensor: Any, layout: str) -> str:
        self._kept.append(tensor)
        return f"channels_{layout}_{len(self._kept)}"

    def _call(self, layer: Any, *args, **kwargs) -> Any:
        """Call what stands for a layer or an operation, on tensors of the layout that it needs."""
        import keras

        tensors = [each for each in keras.tree.flatten((args, kwargs)) if isinstance(each, keras.KerasTensor)]
        kind, turned = type(layer).__name__, any(map(self._is_turned, tensors))
        if is_functional(layer):
            return self._call_model(layer, args, kwargs)
        if not self.turns:
            return self._copy(layer)(*args, **kwargs)
        if getattr(layer, "data_format", None) == _FIRST:
            return self._call_channels_first(layer, args, kwargs)
        self._refuse_inner(layer)
        if kind == "Permute" and (turned, layer.dims) in ((True, (2, 3, 1)), (False, (3, 1, 2))):
            # What brings an image from one layout to the other has nothing to do.
            same = keras.layers.Identity(name=layer.name)(tensors[0])
            return same if turned else self._mark(same)
        ranks = {len(tensor.shape) for tensor in tensors}
        if turned and len(ranks) == 1 and _is_elementwise(layer, args, kwargs):
            args, kwargs = self._mapped(self._to_last, (args, kwargs))
            return self._marked(self._copy(layer)(*args, **kwargs))
        # A bare operation, such as keras.ops.softmax, has no configuration that could be changed.
        if turned and len(ranks) == 1 and kind in _WITH_AXIS and isinstance(layer, keras.Layer):
            axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0] if len(layer.axis) == 1 else None
            if axis is not None:
                args, kwargs = self._mapped(self._to_last, (args, kwargs))
                place = {"axis": _moved(axis, ranks.pop())}
                return self._marked(self._copy(layer, place)(*args, **kwargs))
        args, kwargs = self._mapped(self._to_first, (args, kwargs))
        return self._copy(layer)(*args, **kwargs)

    def _call_model(self, layer: Any, args: Sequence, kwargs: dict) -> Any:
        import keras

        key = (id(layer),)
        if key not in self._copies:
            self._copies[key] = self.of(layer, nested=True) if self._is_changed(layer) else layer
        model = self._copies[key]
        is_turned = iter([self._is_turned(tensor) for tensor in model.inputs])
        args = keras.tree.map_structure(
            lambda tensor: self._to_last(tensor) if next(is_turned) else self._to_first(tensor), args
        )
        found = model(*args, **kwargs)
        marks = iter([self._is_turned(tensor) for tensor in model.outputs])
        return keras.tree.map_structure(lambda tensor: self._mark(tensor) if next(marks) else tensor, found)

    def _call_channels_first(self, layer: Any, args: Sequence, kwargs: dict) -> Any:
        """Call a layer of channels first as one of channels last."""
        function = getattr(layer, "activation", None)
        config = getattr(layer, "get_config", dict)()
        if not is_elementwise_function(function):
            name = getattr(function, "__name__", type(function).__name__)
            raise RequestError(_not_turned(layer, f" and the activation {name}, which may depend on the layout"))
        if "data_format" not in config or "ConvLSTM" in type(layer).__name__:
            raise RequestError(_not_turned(layer, ""))
        args, kwargs = self._mapped(self._to_last, (args, kwargs))
        return self._marked(self._copy(layer, {"data_format": "channels_last"})(*args, **kwargs))

    def _refuse_inner(self, layer: Any) -> None:
        inner = getattr(layer, "_flatten_layers", lambda **_: ())(include_self=False)
        if any(getattr(each, "data_format", None) == _FIRST for each in inner):
            raise RequestError(_not_turned(layer, " inside"))

    def _mapped(self, function: Callable, structure: Any) -> Any:
        import keras

        return keras.tree.map_structure(
            lambda each: function(each) if isinstance(each, keras.KerasTensor) else each, structure
        )

    def _marked(self, result: Any) -> Any:
        return self._mapped(lambda tensor: self._mark(tensor) if len(tensor.shape) > 2 else tensor, result)

    def _is_changed(self, layer: Any) -> bool:
        """Tell whether a model has something in it that is built anew."""
        return any(
            layer.dtype_policy.name in _HALF or getattr(layer, "data_format", None) == _FIRST
            for layer in layer._flatten_layers()
        )

    def _copy(self, layer: Any, changes: dict | None = None) -> Any:
        """Return the layer itself, or what takes its place: a layer in float32 with these changes."""
        import keras

        if type(layer).__name__ == "Cast" and layer.dtype in _HALF:  # a bare operation
            return lambda tensor: tensor if tensor.dtype == "float32" else keras.ops.cast(tensor, "float32")
        if not isinstance(layer, keras.Layer) or not (changes or self._is_changed(layer)):
            return layer
        key = id(layer), *(changes or {}).items()
        if key not in self._copies:
            self._copies[key] = copied(layer, lambda config: _in_float32(config) | (changes or {}))
            self._unfinished.append((layer, self._copies[key]))
        return self._copies[key]


def _is_elementwise(layer: Any, args: Sequence, kwargs: dict) -> bool:
    """Tell whether a layer or operation computes each value by itself, with numbers that are the same for all."""
    import keras
    import numpy as np

    # The operation keras.ops.average has an axis, and the layer Average has not.
    if type(layer).__name__ not in _ELEMENTWISE or hasattr(layer, "axis"):
        return False
    own = [getattr(layer, name, 0) for name in ("scale", "offset", "noise_shape")]
    others = [each for each in keras.tree.flatten((args, kwargs)) if not isinstance(each, keras.KerasTensor)]
    if any(np.ndim(each) for each in (*own, *others)):
        return False
    return is_elementwise_function(getattr(layer, "activation", None))


def _moved(axis: int, rank: int) -> int:
    """Return the place that an axis of a tensor with its channels first has with its channels last."""
    axis %= rank
    return axis if axis == 0 else rank - 1 if axis == 1 else axis - 1


def _in_float32(config: Any) -> Any:
    """Return the configuration of a layer with every policy of less than float32 replaced."""
    if isinstance(config, dict):
        return {
            key: "float32" if key in ("dtype", "name") and value in _HALF else _in_float32(value)
            for key, value in config.items()
        }
    return [_in_float32(each) for each in config] if isinstance(config, list) else config


def _not_turned(layer: Any, what: str) -> str:
    return (
        f"The layer {layer.name!r} ({type(layer).__name__}) has channels_first{what}, and cannot be turned to "
        "channels_last, which phones and TensorFlow on a CPU need. Build the model with "
        "keras.config.set_image_data_format('channels_last') and give it the same weights."
    )
