"""Bring weights that were trained in a TFLite graph back into the Keras 3 model from which the graph was made.

On the way into the graph a layer's kernel is multiplied by factors of its outputs (BatchNormalization, equalisation)
and of its inputs (a normalisation's gamma, the 1/6 of a hard-swish, equalisation again). This module finds the layer of
a kernel, and the factors, by comparing numbers, so that it need not know the rewrites; then it divides the trained
kernel by the factors.
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.quantize.integers import WEIGHTED
from mobilenets_tf.tflite import flatbuffer

_TOLERANCE = 1e-3  # of a channel's largest weight: float32 rounding of a few products


@dataclass
class _Origin:
    """The origin of a kernel of the graph: kernel = (outputs ``start`` and following of the layer's kernel) x factors.

    out_factor: shape (outputs). in_factor: shape (inputs).
    """

    layer: keras.Layer
    start: int
    out_factor: np.ndarray
    in_factor: np.ndarray


def give_back(model: keras.Model, before: bytes, after: bytes) -> None:
    """Assign to a model the changes that training has made in its graph.

    Args:
        model: the Keras 3 model, with the weights from which ``before`` was made.
        before, after: the contents of float TFLite files of the same operators, before and after training.

    Raises:
        RequestError: a kernel of the graph belongs to no layer; no weights have been assigned then.
    """
    old, new = flatbuffer.read(before), flatbuffer.read(after)
    graph = flatbuffer.Graph(old)
    assignments = []
    for place, origin in _origins(model, graph).items():
        operator = graph.operators[place]
        op = graph.name(operator)
        weights = graph.constant(operator.inputs[WEIGHTED[op].weights])
        trained = flatbuffer.constant(new, new.subgraphs[0].operators[place].inputs[WEIGHTED[op].weights])
        if origin is None:
            raise RequestError(
                f"The weights behind {graph.tensors[operator.outputs[0]].name.decode()!r} are those of no layer "
                "of the model, or of one that is used twice and whose uses were trained apart. The trained file is not "
                "affected, but these weights cannot be brought back."
            )
        assignments += _kernel_assignment(op, origin, trained)
        biases = [
            flatbuffer.constant(tree, tree.subgraphs[0].operators[place].inputs[WEIGHTED[op].bias])
            for tree in (old, new)
            if len(operator.inputs) > WEIGHTED[op].bias
        ]
        if biases:
            assignments += _bias_assignment(model, op, origin, weights, trained, *biases)
    for variable, changed in assignments:
        variable.assign(changed(np.asarray(variable)))


def traits(model: keras.Model, graph_model: bytes) -> tuple[set[int], set[int]]:
    """Find the operators whose bias is zero only because their layer has none, and those into which a
    BatchNormalization is folded.

    Args:
        model: the Keras 3 model.
        graph_model: the content of the float TFLite file that was made from it.

    Returns:
        The places of the ones and of the others.
    """
    graph = flatbuffer.Graph(flatbuffer.read(graph_model))
    biasless, normalized = set(), set()
    for place, origin in _origins(model, graph).items():
        operator = graph.operators[place]
        position = WEIGHTED[graph.name(operator)].bias
        bias = graph.constant(operator.inputs[position]) if len(operator.inputs) > position else None
        if origin and bias is not None and not bias.any() and _bias_variable(origin.layer) is None:
            biasless.add(place)
        elif origin and bias is not None and _norm(origin.layer) is not None:
            normalized.add(place)
    return biasless, normalized


def _origins(model, graph: flatbuffer.Graph) -> dict[int, _Origin | None]:
    """Find the origin of each operator's weights, by the operator's place; None where there is none.

    Kernels with the most outputs come first: with few outputs, factors for each input can turn any kernel into any
    other. Then the outputs that have no kernel yet and the order of the layers decide.
    """
    layers = [layer for layer in model._flatten_layers() if _kernel(layer) is not None]
    kernels = {}
    for place, operator in enumerate(graph.operators):
        op = graph.name(operator)
        weights = graph.constant(operator.inputs[WEIGHTED[op].weights]) if op in WEIGHTED else None
        if weights is not None:
            kernels[place] = (op, weights)
    assigned: dict[int, set[int]] = {id(layer): set() for layer in layers}
    origins = {}
    for place in sorted(kernels, key=lambda place: -_rows(*kernels[place]).shape[-1]):
        origins[place] = origin = _find(*kernels[place], layers, assigned)
        if origin:
            assigned[id(origin.layer)].update(range(origin.start, origin.start + len(origin.out_factor)))
    return dict(sorted(origins.items()))


def _norm(layer: keras.Layer) -> keras.layers.BatchNormalization | None:
    """Find the BatchNormalization right behind a layer."""
    behind = next((node.operation for node in layer._outbound_nodes), None)
    return behind if isinstance(behind, keras.layers.BatchNormalization) else None


def _bias_variable(layer: keras.Layer) -> keras.Variable | None:
    """Find the variable that can hold a change of a layer's bias: the BatchNormalization's beta, or the bias."""
    norm = _norm(layer)
    if norm is not None:
        return norm.beta if norm.center else None
    return layer.bias if layer.use_bias else None


def _kernel(layer: keras.Layer) -> np.ndarray | None:
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return np.asarray(layer.kernel)
    kinds = (keras.layers.Conv2D, keras.layers.Dense)
    return np.asarray(layer.kernel) if isinstance(layer, kinds) and layer.built else None


def _rows(op: str, weights: np.ndarray) -> np.ndarray:
    """Reshape TFLite weights to (positions, inputs, outputs); the channels of a depthwise kernel are its outputs."""
    if op == "DEPTHWISE_CONV_2D":
        return weights.reshape(-1, 1, weights.shape[-1])
    return np.moveaxis(weights.reshape(len(weights), -1, weights.shape[-1]), 0, -1)


def _layer_rows(layer: keras.Layer, kernel: np.ndarray) -> np.ndarray:
    """Reshape a layer's kernel to (positions, inputs, outputs)."""
    inputs = 1 if isinstance(layer, keras.layers.DepthwiseConv2D) else kernel.shape[-2]
    positions = int(np.prod(kernel.shape[:-2]))
    return kernel.reshape(positions, inputs, -1).astype(np.float64)


def _find(op: str, weights: np.ndarray, layers: list[keras.Layer], assigned: dict[int, set[int]]) -> _Origin | None:
    """Find the origin of some weights among the outputs of the layers that are not assigned yet."""
    rows = _rows(op, weights).astype(np.float64)
    depthwise = op == "DEPTHWISE_CONV_2D"
    for layer in layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D) != depthwise:
            continue
        kernel = _layer_rows(layer, _kernel(layer))
        # A convolution whose outputs were split is several operators: each has some of the outputs.
        if kernel.shape[:2] != rows.shape[:2] or kernel.shape[2] < rows.shape[2]:
            continue
        for start in range(kernel.shape[2] - rows.shape[2] + 1):
            if assigned[id(layer)].intersection(range(start, start + rows.shape[2])):
                continue
            factors = _factors(rows, kernel[..., start : start + rows.shape[2]])
            if factors is not None:
                return _Origin(layer, start, *factors)
    return None


def _factors(rows: np.ndarray, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Find factors of outputs and inputs with rows = kernel x both; None if there are no such factors."""
    reference = int(np.abs(kernel).max(axis=0).min(axis=0).argmax())  # an output with a weight for every input
    column = kernel[..., reference]
    strongest = np.abs(column).argmax(axis=0), np.arange(kernel.shape[1])
    ratio = rows[..., reference][strongest] / np.where(column[strongest], column[strongest], np.inf)
    largest = np.abs(ratio).max()
    if not largest or not np.isfinite(largest):
        return None
    into = ratio / ratio[np.abs(ratio).argmax()]
    scaled = kernel * into[:, None]
    flat, flat_rows = scaled.reshape(-1, scaled.shape[-1]), rows.reshape(-1, rows.shape[-1])
    strongest = np.abs(flat).argmax(axis=0), np.arange(flat.shape[1])
    out = flat_rows[strongest] / np.where(flat[strongest], flat[strongest], np.inf)
    fits = np.abs(flat * out - flat_rows).max(axis=0) <= _TOLERANCE * np.abs(flat_rows).max(axis=0) + 1e-12
    return (out, into) if fits.all() else None


def _kernel_assignment(op: str, origin: _Origin, trained: np.ndarray) -> list[tuple[keras.Variable, Callable]]:
    rows = _rows(op, trained).astype(np.float64)
    factors = origin.in_factor[:, None] * origin.out_factor
    outputs = slice(origin.start, origin.start + rows.shape[-1])

    def changed(kernel: np.ndarray) -> np.ndarray:
        flat = _layer_rows(origin.layer, kernel)
        used = factors != 0  # a channel that is always zero keeps its weights
        flat[..., outputs] = np.where(used, rows / np.where(used, factors, 1), flat[..., outputs])
        return flat.reshape(kernel.shape)

    return [(origin.layer.kernel, changed)]


def _bias_assignment(
    model: keras.Model,
    op: str,
    origin: _Origin,
    old_weights: np.ndarray,
    new_weights: np.ndarray,
    old_bias: np.ndarray,
    new_bias: np.ndarray,
) -> list[tuple[keras.Variable, Callable]]:
    """Turn the change of the graph's bias into one of the BatchNormalization's beta or of the layer's own bias."""
    layer = origin.layer
    norm, variable = _norm(layer), _bias_variable(layer)
    outputs = slice(origin.start, origin.start + len(old_bias))
    if norm is not None:
        gamma = np.asarray(norm.gamma) if norm.scale else 1.0
        own = gamma / np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)
        beta = np.asarray(norm.beta) if norm.center else 0.0
        mean = np.asarray(norm.moving_mean) - (np.asarray(layer.bias) if layer.use_bias else 0.0)
        offset = np.broadcast_to(beta - mean * own, own.shape)
    else:
        own = np.ones(origin.start + len(old_bias))
        offset = np.asarray(layer.bias) if layer.use_bias else np.zeros(len(own))
    own, offset = own[outputs], offset[outputs]
    factor = np.where(origin.out_factor, origin.out_factor, 1) / np.where(own, own, 1)
    if op == "DEPTHWISE_CONV_2D":
        # The kernel has the factors of the input's and the output's channel in one; the bias has only the output's.
        nonzero = (offset != 0) & (old_bias != 0)
        factor, extra, shift = np.where(nonzero, old_bias / np.where(nonzero, offset, 1), factor), 0.0, 0.0
    else:
        scale, extra, shift = _scale_and_shift(model, op, origin, factor * offset, old_weights, old_bias)
        factor = scale * factor
    change = (new_bias - extra - _through(op, new_weights, shift)) / factor - offset
    if variable is None:
        if np.abs(change).max() > 1e-6:
            raise RequestError(f"The layer {layer.name!r} has no bias and nothing behind it that could take one.")
        return []

    def changed(values: np.ndarray) -> np.ndarray:
        values = values.astype(np.float64).copy()
        values[outputs] += change
        return values

    return [(variable, changed)]


def _through(op: str, weights: np.ndarray, shift: np.ndarray | float) -> np.ndarray:
    """Compute how much a shift of a layer's inputs shifts its outputs."""
    rows = _rows(op, weights).sum(axis=0)
    return np.einsum("io,i->o", rows, np.broadcast_to(shift, rows.shape[0]))


def _scale_and_shift(
    model: keras.Model, op: str, origin: _Origin, own_bias: np.ndarray, weights: np.ndarray, bias: np.ndarray
) -> tuple[float, float, np.ndarray | float]:
    """Find (scale, extra, shift) with bias = scale x own_bias + extra + weights x shift.

    The kernel alone does not tell how its factors are divided between inputs and outputs: ``scale`` is the part of the
    outputs' factors that the inputs' factors contain. ``extra`` is a constant, such as the 3 of a hard-sigmoid.
    ``shift`` is a normalisation's beta, which came into the bias through the weights; one number for each input.
    """
    close = 1e-3 * max(np.abs(bias).max(), 1e-6)
    terms = np.stack([own_bias, np.ones_like(own_bias)], axis=1)
    (scale, extra), *_ = np.linalg.lstsq(terms, bias, rcond=None)
    if np.abs(terms @ (scale, extra) - bias).max() <= close:
        return scale or 1.0, extra, 0.0
    inputs = len(origin.in_factor)
    norms = (keras.layers.LayerNormalization, keras.layers.GroupNormalization, keras.layers.BatchNormalization)
    for layer in model._flatten_layers():
        if not isinstance(layer, norms) or getattr(layer, "beta", None) is None or layer.beta.shape[0] > inputs:
            continue
        # Where the normalisation's result is concatenated with another tensor, it is the first inputs, or the last.
        for start in {0, inputs - layer.beta.shape[0]}:
            gamma, shift = np.ones(inputs), np.zeros(inputs)
            own = slice(start, start + layer.beta.shape[0])
            gamma[own] = np.asarray(layer.gamma) if layer.gamma is not None else 1
            shift[own] = np.asarray(layer.beta) / np.where(gamma[own], gamma[own], 1)
            scale = origin.in_factor @ gamma / (gamma @ gamma)
            if np.abs(scale * own_bias + _through(op, weights, shift) - bias).max() <= close:
                return scale, 0.0, shift
    raise RequestError(
        f"The bias of the layer {origin.layer.name!r} took in more on its way into the graph than is known here; the "
        "trained file is not affected, but these weights cannot be brought back."
    )
