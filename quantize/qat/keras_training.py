"""What Keras does in training besides following gradients: dropout, regularisers, constraints.

The TFLite graph is one of inference and has none of them. What belongs to a kernel is brought to the operator of the
kernel; what cannot be is refused or named in a warning, so that training never leaves something out in silence.
"""

import math
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from mobilenets_tf.errors import RequestError
from mobilenets_tf.quantize.qat.trained_weights import Origin

# Layers that only reshape, so that what is dropped before them is dropped behind them.
_RESHAPING = (keras.layers.Flatten, keras.layers.Reshape, keras.layers.Identity)
_FUNCTION = Callable[[tf.Tensor], tf.Tensor]


@dataclass(frozen=True)
class Dropped:
    """A dropout: the share of values that training sets to zero, and the shape of its mask, None for the values' own.

    seed: different for each layer.
    """

    rate: float
    noise_shape: tuple[int | None, ...] | None
    seed: int


@dataclass(frozen=True)
class InTraining:
    """What training does at an operator with weights.

    dropped_inputs, dropped_outputs: the dropouts between the operator and the ones before and behind.
    penalty: the regulariser's loss of the operator's kernel. constraint: the kernel that a kernel becomes after a step.
    Both take the kernel in the shape that tf_keras gives it.
    """

    dropped_inputs: tuple[Dropped, ...] = ()
    dropped_outputs: tuple[Dropped, ...] = ()
    penalty: _FUNCTION | None = None
    constraint: _FUNCTION | None = None


def in_training(model: keras.Model, origins: Mapping[int, Origin | None]) -> dict[int, InTraining]:
    """Tell what training does at each operator with weights. Warn of layers that training leaves out.

    Args:
        model: the Keras 3 model.
        origins: of the operators' weights, see ``trained_weights.find_origins``.

    Raises:
        RequestError: a regulariser or a constraint cannot be brought to an operator.
    """
    trained = {id(variable) for variable in model.trainable_variables}
    known = {place: origin for place, origin in origins.items() if origin is not None}
    _refuse_terms(model, known.values(), trained)
    first, penalties = set(), {}
    for place, origin in known.items():
        variable = origin.kernel.variable
        if id(variable) in trained and (variable.regularizer or variable.constraint):
            again = (id(variable), origin.start) in first  # a layer that is used twice is regularised once
            first.add((id(variable), origin.start))
            penalties[place] = _functions(origin, penalised=not again)
    before, behind, left_out = _dropouts(model, known)
    if left_out:
        warnings.warn(
            f"Layers that are active in training only, and that this training leaves out: {', '.join(left_out)}. "
            "Augment the images before they are given to the model.",
            stacklevel=4,
        )
    return {
        place: InTraining(
            tuple(before.get(place, ())), tuple(behind.get(place, ())), *penalties.get(place, (None,) * 2)
        )
        for place in known
    }


def _refuse_terms(model: keras.Model, origins: Iterable[Origin], trained: set[int]) -> None:
    """Refuse what has no counterpart in the graph: regularisers and constraints of trained biases and norms, and those
    of results.
    """
    kernels = {id(origin.kernel.variable): origin.kernel for origin in origins}
    for kernel in kernels.values():
        gamma = kernel.norm.gamma if kernel.norm is not None and kernel.norm.scale else None
        for variable in (*kernel.terms, *([] if gamma is None else [gamma])):
            what = [name for name in ("regularizer", "constraint") if getattr(variable, name) is not None]
            if id(variable) in trained and what:
                raise RequestError(
                    f"{variable.path!r} has a {what[0]}, which quantisation-aware training cannot apply: the file has "
                    f"this variable inside of others. Remove it (variable.{what[0]} = None) or freeze the variable "
                    "(variable.trainable = False)."
                )
    for layer in model._flatten_layers(include_self=False):
        if getattr(layer, "activity_regularizer", None) is not None:
            raise RequestError(
                f"The layer {layer.name!r} has an activity regulariser, which quantisation-aware training cannot "
                "apply. Remove it (layer.activity_regularizer = None)."
            )


def _functions(origin: Origin, penalised: bool) -> tuple[_FUNCTION | None, _FUNCTION | None]:
    """Make the penalty and the constraint of an operator's kernel of those of the Keras layer's kernel."""
    kernel, variable = origin.kernel, origin.kernel.variable
    shape = tuple(variable.shape)
    if len(origin.out_factor) != math.prod(shape[axis] for axis in kernel.outputs):
        raise RequestError(
            f"{variable.path!r} has a regulariser or a constraint, but the file has the layer in several parts: remove "
            "it (variable.regularizer = None, variable.constraint = None)."
        )
    rows = np.broadcast_to(origin.in_factor[:, None] * origin.out_factor, kernel.rows(np.zeros(shape)).shape)
    factor = kernel.values(rows).astype(np.float32)
    factor[factor == 0] = 1

    def own(values: tf.Tensor) -> tf.Tensor:
        return tf.reshape(values, shape) / factor

    def penalty(values: tf.Tensor) -> tf.Tensor:
        return variable.regularizer(own(values))

    def constraint(values: tf.Tensor) -> tf.Tensor:
        return tf.reshape(variable.constraint(own(values)) * factor, values.shape)

    return penalty if variable.regularizer and penalised else None, constraint if variable.constraint else None


def _dropouts(
    model: keras.Model, known: Mapping[int, Origin]
) -> tuple[dict[int, list[Dropped]], dict[int, list[Dropped]], list[str]]:
    """Find the operators right behind each dropout, else the operator right before.

    Returns:
        The dropouts of the inputs, and of the outputs, by the operators' places; the names of the layers that are
        active in training only and that have no such operator.
    """
    places: dict[int, list[int]] = {}
    for place, origin in known.items():
        places.setdefault(id(origin.kernel.layer), []).append(place)
    before: dict[int, list[Dropped]] = {}
    behind: dict[int, list[Dropped]] = {}
    left_out = []
    for layer in model._flatten_layers(include_self=False):
        dropped = _dropped(layer)
        if dropped is None:
            if _only_in_training(layer):
                left_out.append(f"{layer.name!r} ({type(layer).__name__})")
            continue
        readers = list(_readers(layer, reshaped=dropped.noise_shape is None))
        writer = _writer(layer)
        if readers and all(id(reader) in places for reader in readers):
            for place in {place for reader in readers for place in places[id(reader)]}:
                before.setdefault(place, []).append(dropped)
        elif writer is not None and len(places.get(id(writer), [])) == 1:
            behind.setdefault(places[id(writer)][0], []).append(dropped)
        else:
            left_out.append(f"{layer.name!r} ({type(layer).__name__})")
    return before, behind, left_out


def _dropped(layer: keras.Layer) -> Dropped | None:
    """Describe a layer that is a dropout and drops anything."""
    if isinstance(layer, keras.layers.Dropout) and layer.rate:  # spatial dropouts too
        shape = layer.noise_shape
        if isinstance(layer, keras.src.layers.regularization.spatial_dropout.BaseSpatialDropout):
            shape = layer._get_noise_shape(layer.input)
            shape = (None, *shape[1:])
        return Dropped(float(layer.rate), shape and tuple(shape), zlib.crc32(layer.name.encode()))
    return None


def _only_in_training(layer: keras.Layer) -> bool:
    """Tell whether a layer changes values in training and passes them on at inference."""
    kinds = (
        keras.layers.GaussianNoise,
        keras.layers.GaussianDropout,
        keras.layers.AlphaDropout,
        keras.src.layers.preprocessing.image_preprocessing.base_image_preprocessing_layer.BaseImagePreprocessingLayer,
    )
    inert = (keras.layers.CenterCrop, keras.layers.Resizing)
    return isinstance(layer, kinds) and not isinstance(layer, inert)


def _readers(layer: keras.Layer, reshaped: bool) -> Iterator[keras.Layer]:
    """Yield the layers that read a layer's result, behind other dropouts and, if ``reshaped``, behind reshapings."""
    for node in layer._outbound_nodes:
        reader = node.operation
        passes = isinstance(reader, keras.layers.Dropout) or (reshaped and isinstance(reader, _RESHAPING))
        if passes:
            yield from _readers(reader, reshaped)
        else:
            yield reader


def _writer(layer: keras.Layer) -> keras.Layer | None:
    """Find the layer with weights whose result a dropout reads, perhaps through a BatchNormalization; None if another
    layer reads the result too.
    """
    while True:
        (tensor, *others) = layer._inbound_nodes[0].input_tensors
        layer = tensor._keras_history.operation
        if others or len(layer._outbound_nodes) != 1:
            return None
        if not isinstance(layer, (keras.layers.BatchNormalization, keras.layers.Dropout)):
            return layer
