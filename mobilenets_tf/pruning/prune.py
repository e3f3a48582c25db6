"""Take channels away from a Keras model: a new model with smaller layers, which inherit the weights that stay."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilenets_tf.conversion.rewriting import copied, copy_weights, is_functional, rebuild
from mobilenets_tf.errors import RequestError, first_line, unknown
from mobilenets_tf.pruning.channels import ChannelGroup, ChannelGroups, TracedModel, graph_of, nodes_of
from mobilenets_tf.pruning.labels import Channels
from mobilenets_tf.pruning.rules import OPERATIONS_OF_VALUES, Call, channel_axis, whole_key

if TYPE_CHECKING:
    import keras

# Scores of each slice of a group: an array by the group's name, or a function of the group.
Importance = Mapping[str, Sequence[float]] | Callable[[ChannelGroup], Sequence[float]]


def prune(
    model: "keras.Model", keep: Mapping[str, int | Sequence[int]], *, importance: Importance | None = None
) -> "keras.Model":
    """Make a model with fewer channels, whose layers have the weights of the channels that stay.

    Where each channel that is taken away is zero in what its consumers read, the outputs stay the same (to 1e-5 of the
    largest in float32). Names of layers, initializers, regularizers, constraints, flags ``trainable`` and types of
    numbers stay; models inside the model stay models. The result is not compiled.

    Args:
        model: a functional or sequential model that is built. It is not changed.
        keep: name of a group of ``channel_groups(model)`` -> the slices that stay: their indices, in any order, or how
            many. Groups that are not named stay whole.
        importance: which slices stay where ``keep`` has a number: those with the highest scores; of equal ones those
            with the lowest index. A function of a ``ChannelGroup``, or a dictionary from its name, that gives one score
            for each slice, (width,). None: the L2 norm of the kernels that make the slice's channels, which is what
            NetAdapt takes (arXiv 1804.03230, section 3.3).

    Returns:
        A functional model.

    Raises:
        RequestError: the model is neither functional nor sequential, not built, or has nothing that can shrink; a group
            is unknown; a number or an index is out of range; scores do not fit the group; a layer cannot be copied.
    """
    trace = TracedModel(model)
    kept = np.ones(len(trace.group_of), bool)
    names = list(trace.found.groups)
    if not names:
        reasons = [f"{layer!r}: {reason}" for layer, reason in trace.found.fixed.items()]
        raise RequestError(f"Nothing in {model.name!r} can shrink. The channels of {'; of '.join(reasons[:4])}.")
    for name, wanted in keep.items():
        group = _group(trace.found, name)
        scores = _scores(trace, group, importance)
        stays = np.zeros(group.width, bool)
        stays[_slices(group, wanted, scores)] = True
        members = trace.group_of == names.index(name)
        kept[members] = stays[trace.slice_of[members]]
    return _Pruning(trace, kept).of(model)


def _group(found: ChannelGroups, name: str) -> ChannelGroup:
    """Return the group of this name.

    Raises:
        RequestError: there is none; says where the channels of a layer of this name are.
    """
    if name in found.groups:
        return found.groups[name]
    homes = [group.name for group in found.groups.values() if name in {**group.producers, **group.followers}]
    if homes:
        raise RequestError(f"{name!r} is no group: its channels are in {' and '.join(map(repr, homes[:4]))}.")
    if name in found.fixed:
        raise RequestError(f"The channels of {name!r} cannot shrink: {found.fixed[name]}.")
    raise unknown("group of channels", name, found.groups)


def _slices(group: ChannelGroup, wanted: Any, scores: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the indices of the slices that stay.

    Raises:
        RequestError: ``wanted`` is no number or list of indices, or out of range.
    """
    whole = f"of {group.name!r}, whose width is {group.width}"
    if isinstance(wanted, (int, np.integer)) and not isinstance(wanted, bool):
        if not 1 <= wanted <= group.width:
            raise RequestError(f"keep: {wanted} channels {whole}: give a number from 1 to {group.width}.")
        return np.argsort(-scores(), kind="stable")[:wanted]
    slices = np.asarray(wanted) if isinstance(wanted, (Sequence, np.ndarray, range)) else np.array(None)
    if slices.ndim != 1 or (slices.size and not np.issubdtype(slices.dtype, np.integer)):
        raise RequestError(f"keep: {wanted!r} {whole}: expected how many channels stay, or a list of their indices.")
    if not slices.size:
        raise RequestError(f"keep: no channel {whole}: at least one has to stay.")
    outside = slices[(slices < 0) | (slices >= group.width)]
    if outside.size:
        raise RequestError(f"keep: index {outside[0]} {whole}: indices go from 0 to {group.width - 1}.")
    indices, times = np.unique(slices, return_counts=True)
    if times.max() > 1:
        raise RequestError(f"keep: index {indices[times.argmax()]} {whole} is given {times.max()} times; give it once.")
    return slices


def _scores(trace: TracedModel, group: ChannelGroup, importance: Importance | None) -> Callable[[], np.ndarray]:
    """Return a function that gives the score of each slice.

    Raises:
        RequestError: from the function; the scores do not fit the group.
    """

    def scores() -> np.ndarray:
        if importance is None:
            return kernel_norms(trace, group)
        if not callable(importance) and group.name not in importance:
            raise RequestError(f"importance has no scores of {group.name!r}, of which keep has a number.")
        given = importance(group) if callable(importance) else importance[group.name]
        values = np.asarray(given, np.float64)
        if values.shape != (group.width,) or np.isnan(values).any():
            what = "NaN among them" if values.shape == (group.width,) else f"the shape {values.shape}"
            raise RequestError(f"importance: the scores of {group.name!r} have {what}; expected {group.width} numbers.")
        return values

    return scores


def kernel_norms(trace: TracedModel, group: ChannelGroup) -> np.ndarray:
    """Return the L2 norm of the kernels that make each slice's channels, in float64."""
    number = list(trace.found.groups).index(group.name)
    squares = np.zeros(group.width)
    for each in (each for axes in trace.weighed.values() for each in axes):
        here = np.flatnonzero(trace.group_of[each.labels] == number)
        if here.size and each.part == "producers" and len(each.variable.shape) > 1:
            kernel = np.moveaxis(np.asarray(each.variable, np.float64), each.axis, 0)[here]
            sums = np.square(kernel).sum(axis=tuple(range(1, kernel.ndim)))
            np.add.at(squares, trace.slice_of[each.labels[here]], sums)
    return np.sqrt(squares)


class _Pruning:
    """Builds a model anew with the channels that stay. kept: of each label, whether it stays."""

    def __init__(self, trace: TracedModel, kept: np.ndarray):
        self._trace, self._kept, self._weighed = trace, kept, trace.weighed
        self._twins: dict[int, Any] = {}
        self._unfinished: list[tuple[Any, Any]] = []  # layers and their twins, which get weights once they are built

    def of(self, model: Any) -> "keras.Model":
        """Build one model, and the models in it."""
        import keras

        graph = graph_of(model)
        stay = [Channels(None, np.array([0]))] * len(graph.inputs)
        channels = self._trace.inner.get(id(model)) or stay
        inputs = [self._input(*each) for each in zip(graph.inputs, channels, strict=True)]
        tensors = dict(zip(map(id, graph.inputs), inputs, strict=True))
        for node in nodes_of(graph):
            results = self._called(self._trace.calls[id(node)], *node.arguments.fill_in(tensors))
            tensors |= zip(map(id, node.outputs), keras.tree.flatten(results), strict=True)
        while self._unfinished:
            layer, twin = self._unfinished.pop()
            copy_weights(layer, twin, self._taken)
        outputs = [tensors[id(tensor)] for tensor in graph.outputs]
        pruned = keras.Model(
            keras.tree.pack_sequence_as(graph._inputs_struct, inputs),
            keras.tree.pack_sequence_as(graph._outputs_struct, outputs),
            name=model.name,
        )
        pruned._trainable = model.trainable
        return pruned

    def _input(self, tensor: Any, channels: Channels) -> Any:
        layer = tensor._keras_history.operation
        shape = self._shape(tensor.shape, channels)
        return copied(layer, lambda config: config | {"batch_shape": shape}).output

    def _called(self, call: Call, args: tuple, kwargs: dict) -> Any:
        """Call what takes the place of a layer.

        Raises:
            RequestError: the layer cannot be built with fewer channels.
        """
        import keras

        kind = type(call.operation).__name__
        if not isinstance(call.operation, keras.Layer):
            if kind == "GetItem":
                args = args[0], self._key(call, args[1])
            elif kind in OPERATIONS_OF_VALUES:
                args = tuple(self._constant(argument, call) for argument in args)
        try:
            return self._twin(call)(*args, **kwargs)
        except RequestError:
            raise
        except Exception as error:  # an initializer of its own shape, for example
            raise RequestError(f"{call.label} cannot be built with fewer channels: {first_line(error)}") from error

    def _twin(self, call: Call) -> Any:
        operation = call.operation
        if id(operation) not in self._twins:
            self._twins[id(operation)] = self._made(call)
        return self._twins[id(operation)]

    def _made(self, call: Call) -> Any:
        import keras

        operation = call.operation
        if is_functional(operation):
            is_traced = self._trace.inner[id(operation)] is not None
            return self.of(operation) if is_traced else rebuild(operation, lambda part: {})
        changes = self._changes(call)
        if isinstance(operation, keras.Layer):
            twin = copied(operation, lambda config: config | changes)
            self._unfinished.append((operation, twin))
            return twin
        if changes:  # a bare operation has no state, and is shared if it stays as it is
            twin = type(operation)(**changes)
            twin.name = operation.name
            return twin
        return operation

    def _changes(self, call: Call) -> dict[str, Any]:
        """Return the arguments of a layer's or an operation's constructor that change."""
        inputs = [self._shape(*each) for each in zip(call.input_shapes, call.inputs, strict=True)]
        outputs = [self._shape(*each) for each in zip(call.output_shapes, call.outputs, strict=True)]
        if inputs == call.input_shapes and outputs == call.output_shapes:
            return {}
        changed = _CHANGES.get(type(call.operation).__name__)
        return changed(call, self._kept, inputs[0], outputs[0]) if changed else {}

    def _shape(self, shape: tuple, channels: Channels) -> tuple:
        """Return the shape of a tensor without the channels that go."""
        if channels.axis is None:
            return tuple(shape)
        count = int(self._kept[channels.labels].sum())
        return (*shape[: channels.axis], count, *shape[channels.axis + 1 :])

    def _taken(self, variable: "keras.Variable", values: np.ndarray) -> np.ndarray:
        """Return the values of a weight that stay."""
        for each in self._weighed.get(id(variable), ()):
            values = np.compress(self._kept[each.labels], values, each.axis)
        return values

    def _constant(self, argument: Any, call: Call) -> Any:
        """Return what stays of an operand with a value for each channel."""
        import keras

        out, shape = call.outputs[0], np.shape(argument) if not isinstance(argument, keras.KerasTensor) else ()
        place = (out.axis or 0) - len(call.output_shapes[0]) + len(shape)
        if out.axis is None or place < 0 or not shape or shape[place] != len(out.labels):
            return argument
        return np.compress(self._kept[out.labels], argument, place)

    def _key(self, call: Call, key: Any) -> Any:
        """Return the key that picks the channels of ``x[key]`` that stay."""
        (x,), keys = call.inputs, whole_key(key, len(call.input_shapes[0]))
        if x.axis is not None and call.outputs[0].axis is not None:
            place = [place for place, each in enumerate(keys) if each is not None][x.axis]
            first, end, _ = keys[place].indices(len(x.labels))
            keys[place] = slice(*(int(self._kept[x.labels[:border]].sum()) for border in (first, end)))
        return tuple(keys)


# Class of a layer or operation -> its constructor's arguments that depend on channels: a function of the call, of which
# labels stay, and of the new shapes of the first input and output.
_Changes = Callable[[Call, np.ndarray, tuple, tuple], dict[str, Any]]


def _convolution(call: Call, kept: np.ndarray, new: tuple, out: tuple) -> dict[str, Any]:
    axis, groups = channel_axis(call.operation, len(new)), call.operation.groups
    return {
        "filters": out[axis],
        "groups": groups if groups == 1 else groups * new[axis] // call.input_shapes[0][axis],
    }


def _filters(call: Call, kept: np.ndarray, new: tuple, out: tuple) -> dict[str, Any]:
    return {"filters": out[channel_axis(call.operation, len(out))]}


def _groups(call: Call, kept: np.ndarray, new: tuple, out: tuple) -> dict[str, Any]:
    layer, old = call.operation, call.input_shapes[0]
    return {"groups": layer.groups * new[layer.axis] // old[layer.axis]}


def _noise_shape(call: Call, kept: np.ndarray, new: tuple, out: tuple) -> dict[str, Any]:
    shape = call.operation.noise_shape
    if shape is None:
        return {}
    return {"noise_shape": [one if one in (None, 1) else side for one, side in zip(shape, new, strict=True)]}


def _factors(call: Call, kept: np.ndarray, new: tuple, out: tuple) -> dict[str, Any]:
    x, rank = call.inputs[0], len(call.input_shapes[0])
    changed = {}
    for name, value in (("scale", call.operation.scale), ("offset", call.operation.offset)):
        place = (x.axis or 0) - rank + np.ndim(value)
        if place >= 0 and np.shape(value)[place] != 1:
            changed[name] = np.compress(kept[x.labels], value, place).tolist()
    return changed


def _reshape(call: Call, kept: np.ndarray, new: tuple, out: tuple) -> dict[str, Any]:
    shape = tuple(-1 if side is None else side for side in out)
    return {"target_shape": shape[1:]} if hasattr(call.operation, "target_shape") else {"newshape": shape}


def _sections(call: Call, kept: np.ndarray, new: tuple, out: tuple) -> dict[str, Any]:
    x, operation = call.inputs[0], call.operation
    axis = operation.axis % len(new)
    if x.axis != axis:
        return {}
    borders = np.cumsum([shape[axis] for shape in call.output_shapes])[:-1]
    return {"indices_or_sections": [int(kept[x.labels[:border]].sum()) for border in borders], "axis": axis}


_CHANGES: dict[str, _Changes] = {
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), _convolution),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), _filters),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _filters),
    "Dense": lambda call, kept, new, out: {"units": out[-1]},
    "Embedding": lambda call, kept, new, out: {"output_dim": out[-1]},
    "GroupNormalization": _groups,
    **dict.fromkeys(("AlphaDropout", "Dropout"), _noise_shape),
    "Rescaling": _factors,
    "Reshape": _reshape,
    "Split": _sections,
}
