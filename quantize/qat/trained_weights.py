"""Bring weights that were trained in a TFLite graph back into the Keras 3 model from which the graph was made.

On the way into the graph a layer's kernel is multiplied by factors of its outputs (BatchNormalization, equalisation)
and of its inputs (a normalisation's gamma, the 1/6 of a hard-swish, equalisation again). This module finds the layer of
a kernel, and the factors, by comparing numbers, so that it need not know the rewrites; then it divides the trained
kernel by the factors.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.quantize.integers import WEIGHTED
from mobilenets_tf.quantize.qat.keras_kernels import Kernel, kernels_of
from mobilenets_tf.tflite import flatbuffer

_TOLERANCE = 1e-3  # of a channel's largest weight: float32 rounding of a few products
# A change of a variable: its values before training -> after training.
_Change = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Trait:
    """What the Keras model says of an operator with weights.

    kernel, bias: whether training changes them. normalized: whether a BatchNormalization is folded into them that is
    trained. shared: the place of the first operator that has the same kernel, where a layer is used more than once;
    shares_bias: whether that has the same bias too.
    """

    kernel: bool = True
    bias: bool = True
    normalized: bool = False
    shared: int | None = None
    shares_bias: bool = False


@dataclass(frozen=True)
class Origin:
    """The origin of a kernel of the graph: kernel = (outputs ``start`` and following of the layer's kernel) x factors.

    out_factor: shape (outputs). in_factor: shape (inputs).
    """

    kernel: Kernel
    start: int
    out_factor: np.ndarray
    in_factor: np.ndarray


def give_back(model: keras.Model, before: bytes, after: bytes, names: Sequence[str]) -> None:
    """Assign to a model the changes that training has made in its graph. What has not changed is not assigned.

    Args:
        model: the Keras 3 model, with the weights from which ``before`` was made.
        before, after: the contents of float TFLite files of the same operators, before and after training.
        names: the layer name of each operator.

    Raises:
        RequestError: a changed kernel of the graph belongs to no layer; no weights have been assigned then.
    """
    old, new = flatbuffer.read(before), flatbuffer.read(after)
    graph = flatbuffer.Graph(old)
    assignments: list[tuple[keras.Variable, _Change]] = []
    given: set[tuple[int, int]] = set()  # (variable, start) of layers that are used more than once
    for place, origin in _origins(model, graph, names).items():
        kernels, biases = (_of_operator(graph, place, tree) for tree in (old, new))
        (weights, trained), (old_bias, new_bias) = zip(kernels, biases, strict=True)
        if np.array_equal(weights, trained) and np.array_equal(old_bias, new_bias):
            continue
        if origin is None:
            raise RequestError(
                f"The trained weights of {names[place]!r} are those of no layer that is known here, or of one that is "
                "used twice and whose uses were trained apart. The trained file is not affected, but these weights "
                "cannot be brought back."
            )
        if (id(origin.kernel.variable), origin.start) in given:
            continue
        given.add((id(origin.kernel.variable), origin.start))
        op = graph.name(graph.operators[place])
        if not np.array_equal(weights, trained):
            assignments.append(_kernel_assignment(op, origin, trained))
        if old_bias is not None and not origin.kernel.adds_elsewhere:
            assignments += _bias_assignment(model, op, origin, weights, trained, old_bias, new_bias)
    for variable, changed in assignments:
        variable.assign(changed(np.asarray(variable)))


def _of_operator(
    graph: flatbuffer.Graph, place: int, tree: flatbuffer.schema.ModelT
) -> tuple[np.ndarray, np.ndarray | None]:
    """Give the constant weights and bias of an operator in a file that has the graph's operators."""
    inputs, places = tree.subgraphs[0].operators[place].inputs, WEIGHTED[graph.name(graph.operators[place])]
    has_bias = len(inputs) > places.bias and inputs[places.bias] >= 0
    return (
        flatbuffer.constant(tree, inputs[places.weights]),
        flatbuffer.constant(tree, inputs[places.bias]) if has_bias else None,
    )


def find_origins(model: keras.Model, graph_model: bytes, names: Sequence[str]) -> dict[int, Origin | None]:
    """Find the kernel of which each operator's weights were made; None where there is none.

    Args:
        model: the Keras 3 model.
        graph_model: the content of the float TFLite file that was made from it.
        names: the layer name of each operator.

    Returns:
        The origins by the operators' places.
    """
    return _origins(model, flatbuffer.Graph(flatbuffer.read(graph_model)), names)


def traits(
    model: keras.Model, graph_model: bytes, names: Sequence[str], origins: Mapping[int, Origin | None]
) -> dict[int, Trait]:
    """Tell of each operator with weights what the Keras model says of them.

    Args:
        model, graph_model, names: as for ``find_origins``.
        origins: its result.

    Returns:
        The traits by the operators' places.
    """
    tree = flatbuffer.read(graph_model)
    graph = flatbuffer.Graph(tree)
    trained = {id(variable) for variable in model.trainable_variables}
    found: dict[int, Trait] = {}
    first: dict[tuple[int, int], int] = {}
    for place, origin in origins.items():
        _, bias = _of_operator(graph, place, tree)
        if origin is None:
            frozen = _is_frozen(model, names[place], trained)
            found[place] = Trait(kernel=not frozen, bias=not frozen and bias is not None)
            continue
        kernel = origin.kernel
        moves = id(kernel.variable) in trained
        # Without a bias in the graph, another operator adds it, or it is zero and can be added.
        terms = bias is not None or not _offset(origin)[1].any()
        terms = terms and any(id(variable) in trained for variable in kernel.terms)
        same = first.setdefault((id(kernel.variable), origin.start), place)
        # The statistics of a normalisation go into the kernel, so a frozen kernel needs frozen statistics.
        normalized = moves and terms and kernel.norm is not None and kernel.norm.trainable and same == place
        twin = None if same == place else same
        equal = twin is not None and np.array_equal(bias, _of_operator(graph, twin, tree)[1])
        found[place] = Trait(moves, terms, normalized, twin, equal)
    uses = {trait.shared for trait in found.values()}
    return {
        place: replace(trait, normalized=False, shared=place, shares_bias=True) if place in uses else trait
        for place, trait in found.items()
    }


def kept(
    model: keras.Model, names: Sequence[str], origins: Mapping[int, Origin | None], found: Mapping[int, Trait]
) -> list[str]:
    """List the weights that Keras would train and that training keeps, because the graph has them inside of constants.

    Args:
        model, names: as for ``find_origins``. origins: its result. found: the traits.
    """
    trained: set[int] = set()
    for place, origin in origins.items():
        if origin is None:  # whatever the layer has may be in these weights
            layers = [layer for layer in model._flatten_layers() if layer.name == names[place].split("/")[-1]]
            trained.update(id(variable) for layer in layers for variable in layer.weights)
            continue
        kernel, trait = origin.kernel, found[place]
        if trait.kernel:
            gamma = kernel.norm.gamma if kernel.norm is not None and kernel.norm.scale else None
            trained |= {id(kernel.variable), id(gamma)}
        if trait.bias:
            trained.update(map(id, kernel.terms))
    return [variable.path for variable in model.trainable_variables if id(variable) not in trained]


def _is_frozen(model: keras.Model, name: str, trained: set[int]) -> bool:
    """Tell whether the layer of that name, "outer/inner" for one inside another, has weights and trains none."""
    names = name.split("/")
    layers = [layer for layer in model._flatten_layers(include_self=False) if layer.name == names[-1]]
    variables = [variable for layer in layers for variable in layer.weights]
    return bool(variables) and not any(id(variable) in trained for variable in variables)


def _origins(model: keras.Model, graph: flatbuffer.Graph, names: Sequence[str]) -> dict[int, Origin | None]:
    """Find the origin of each operator's weights, by the operator's place; None where there is none.

    Kernels with the most outputs come first: with few outputs, factors for each input can turn any kernel into any
    other. Then the layers' names, the outputs that have no kernel yet and the order of the layers decide.
    """
    kernels = list(kernels_of(model))
    found: dict[int, tuple[str, np.ndarray]] = {}
    for place, operator in enumerate(graph.operators):
        op = graph.name(operator)
        weights = graph.constant(operator.inputs[WEIGHTED[op].weights]) if op in WEIGHTED else None
        if weights is not None:
            found[place] = (op, weights)
    assigned: dict[int, set[int]] = {id(kernel.variable): set() for kernel in kernels}
    origins: dict[int, Origin | None] = {}
    for place in sorted(found, key=lambda place: -_rows(*found[place]).shape[-1]):
        op, weights = found[place]
        twin = next((p for p in origins if names[p] == names[place] and _equal(graph, p, place)), None)
        if twin is not None:  # a layer that is used twice
            origins[place] = origins[twin]
            continue
        own = set(names[place].split("/"))
        likeliest = sorted(kernels, key=lambda kernel: kernel.layer.name not in own)
        origins[place] = origin = _find(op, weights, likeliest, assigned)
        if origin:
            outputs = range(origin.start, origin.start + len(origin.out_factor))
            assigned[id(origin.kernel.variable)].update(outputs)
    return dict(sorted(origins.items()))


def _equal(graph: flatbuffer.Graph, place: int, other: int) -> bool:
    """Tell whether two operators have the same kernel."""
    one, two = graph.operators[place], graph.operators[other]
    kernels = (_of_operator(graph, each, graph.model)[0] for each in (place, other))
    return graph.name(one) == graph.name(two) and np.array_equal(*kernels)


def _rows(op: str, weights: np.ndarray) -> np.ndarray:
    """Reshape TFLite weights to (positions, inputs, outputs); the channels of a depthwise kernel are its outputs."""
    if op == "DEPTHWISE_CONV_2D":
        return weights.reshape(-1, 1, weights.shape[-1])
    return np.moveaxis(weights.reshape(len(weights), -1, weights.shape[-1]), 0, -1)


def _find(op: str, weights: np.ndarray, kernels: list[Kernel], assigned: dict[int, set[int]]) -> Origin | None:
    """Find the origin of some weights among the outputs of the kernels that are not assigned yet."""
    rows = _rows(op, weights).astype(np.float64)
    depthwise = op == "DEPTHWISE_CONV_2D"
    for kernel in kernels:
        if kernel.depthwise != depthwise:
            continue
        own = kernel.rows(np.asarray(kernel.variable))
        # A convolution whose outputs were split is several operators: each has some of the outputs.
        if own.shape[:2] != rows.shape[:2] or own.shape[2] < rows.shape[2]:
            continue
        for start in range(own.shape[2] - rows.shape[2] + 1):
            if assigned[id(kernel.variable)].intersection(range(start, start + rows.shape[2])):
                continue
            factors = _factors(rows, own[..., start : start + rows.shape[2]])
            if factors is not None:
                return Origin(kernel, start, *factors)
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


def _kernel_assignment(op: str, origin: Origin, trained: np.ndarray) -> tuple[keras.Variable, _Change]:
    rows = _rows(op, trained).astype(np.float64)
    factors = origin.in_factor[:, None] * origin.out_factor
    outputs = slice(origin.start, origin.start + rows.shape[-1])

    def changed(kernel: np.ndarray) -> np.ndarray:
        flat = origin.kernel.rows(kernel)
        used = factors != 0  # a channel that is always zero keeps its weights
        flat[..., outputs] = np.where(used, rows / np.where(used, factors, 1), flat[..., outputs])
        return origin.kernel.values(flat)

    return origin.kernel.variable, changed


def _bias_assignment(
    model: keras.Model,
    op: str,
    origin: Origin,
    old_weights: np.ndarray,
    new_weights: np.ndarray,
    old_bias: np.ndarray,
    new_bias: np.ndarray,
) -> list[tuple[keras.Variable, _Change]]:
    """Turn the change of the graph's bias into one of the BatchNormalization's beta or of the layer's own bias."""
    own, offset = _offset(origin)
    outputs = slice(origin.start, origin.start + len(old_bias))
    factor = np.where(origin.out_factor, origin.out_factor, 1) / np.where(own, own, 1)
    if op == "DEPTHWISE_CONV_2D":
        # The kernel has the factors of the input's and the output's channel in one; the bias has only the output's.
        nonzero = (offset != 0) & (old_bias != 0)
        factor, extra, shift = np.where(nonzero, old_bias / np.where(nonzero, offset, 1), factor), 0.0, 0.0
    else:
        scale, extra, shift = _scale_and_shift(model, op, origin, factor * offset, old_weights, old_bias)
        factor = scale * factor
    change = (new_bias - extra - _through(op, new_weights, shift)) / factor - offset
    terms = origin.kernel.terms
    variable = next((term for term in terms if term.trainable), terms[0] if terms else None)
    if variable is None:
        if np.abs(change).max() > 1e-6:
            raise RequestError(
                f"The layer {origin.kernel.layer.name!r} has no bias and nothing behind it that could take one."
            )
        return []
    if variable is origin.kernel.bias:
        change = change / np.where(own, own, 1)

    def changed(values: np.ndarray) -> np.ndarray:
        flat = values.astype(np.float64).reshape(-1)
        flat[outputs] += change
        return flat.reshape(values.shape)

    return [(variable, changed)]


def _offset(origin: Origin) -> tuple[np.ndarray, np.ndarray]:
    """Compute what the layer and its BatchNormalization do with what the kernel gives: (factor, what is added)."""
    kernel = origin.kernel
    bias = np.zeros(1) if kernel.bias is None else np.asarray(kernel.bias, np.float64).reshape(-1)
    factor, added = np.ones(1), bias
    if kernel.norm is not None:
        norm = kernel.norm
        gamma = np.asarray(norm.gamma) if norm.scale else 1.0
        factor = gamma / np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)
        added = (np.asarray(norm.beta) if norm.center else 0.0) - (np.asarray(norm.moving_mean) - bias) * factor
    outputs = slice(origin.start, origin.start + len(origin.out_factor))
    every = math.prod(kernel.variable.shape[axis] for axis in kernel.outputs)
    return np.broadcast_to(factor, every)[outputs], np.broadcast_to(added, every)[outputs]


def _through(op: str, weights: np.ndarray, shift: np.ndarray | float) -> np.ndarray:
    """Compute how much a shift of a layer's inputs shifts its outputs."""
    rows = _rows(op, weights).sum(axis=0)
    return np.einsum("io,i->o", rows, np.broadcast_to(shift, rows.shape[0]))


def _scale_and_shift(
    model: keras.Model, op: str, origin: Origin, own_bias: np.ndarray, weights: np.ndarray, bias: np.ndarray
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
        f"The bias of the layer {origin.kernel.layer.name!r} took in more on its way into the graph than is known "
        "here; the trained file is not affected, but these weights cannot be brought back."
    )
