"""Find the channels of a Keras model that can be taken away, in the groups that have to shrink together.

Every channel that a layer makes gets a label. The labels are carried through the model by the rules of ``rules.py``: a
sum joins the labels of its terms, a concatenation puts them side by side, a ``Flatten`` repeats them. Labels that are
joined stay or go together; what no rule knows fixes the labels that reach it.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilenets_tf.conversion.rewriting import is_functional
from mobilenets_tf.errors import RequestError
from mobilenets_tf.pruning.labels import Channels, Labels
from mobilenets_tf.pruning.rules import Call, Part, rule_of, unknown

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that shrink together: an expansion, or all layers whose outputs are added to each other.

    The group has ``width`` slices, numbered from 0. A slice is what can be taken away alone: one channel of each of the
    producers, as a rule; of a grouped convolution, all channels of one of its groups. Layers of nested models are named
    "model/layer". The maps below give, for each channel, the slice to which the channel belongs; -1 if the channel
    belongs to another group or stays.

    Attributes:
        name: of the group's first producer. If this layer makes channels of several groups, with their places:
            "conv[0:16]", or "conv[0:4,8:12]" where others are between them.
        width: number of slices.
        producers: layer that makes channels of the group -> map of its output channels, (filters,).
        followers: layer that has weights for the channels that it passes on, such as a depthwise convolution or a
            BatchNormalization -> map of its input channels.
        consumers: layer that reads the channels and makes others -> map of its input channels. After a ``Flatten``
            these are the features, in each of which a slice may have several.
    """

    name: str
    width: int
    producers: dict[str, np.ndarray] = field(repr=False)
    followers: dict[str, np.ndarray] = field(repr=False)
    consumers: dict[str, np.ndarray] = field(repr=False)


@dataclass(frozen=True, eq=False)
class ChannelGroups:
    """What can shrink in a model, and what cannot.

    Attributes:
        groups: name -> group, in the order of the model.
        fixed: layer that makes channels which have to stay, or input -> why; a clause that calls the channels "they".
    """

    groups: dict[str, ChannelGroup]
    fixed: dict[str, str]


def channel_groups(model: "keras.Model") -> ChannelGroups:
    """Find the groups of channels of a model that have to shrink together, and name what cannot shrink.

    Channels are followed through the stock layers and operations of Keras: convolutions of all kinds, ``Dense``, sums,
    products and concatenations, normalisations, activations, pooling, padding, resizing, splits and reshapes, and
    models inside the model. The inputs and outputs of the model stay. So do channels from which a layer computes each
    result, such as those of LayerNormalization, softmax and attention, because the others would change if one is taken
    away; and channels that reach a layer which is not known: Lambda, layers of one's own, recurrent layers.

    Args:
        model: a functional or sequential model that is built.

    Returns:
        The groups, by name, and the layers whose channels stay, with the reason. ``prune`` takes channels away.

    Raises:
        RequestError: the model is of another kind, or not built.
    """
    return TracedModel(model).found


@dataclass(frozen=True, eq=False)
class Weighed:
    """The channels that an axis of a weight belongs to, and what the weight is to them."""

    variable: "keras.Variable"
    axis: int
    labels: np.ndarray
    part: Part


class TracedModel:
    """A model whose channels have labels.

    labels: the labels. calls: id of a node of the graph -> the call there.
    inner: id of a model inside the model -> the channels of its inputs; None if labels are not carried through it.
    weighed: what is known of the axes of weights.
    found: the groups. group_of, slice_of: of each label, the place of its group among the groups, and its slice; -1 if
    the label stays.

    Raises:
        RequestError: the model is not functional or sequential, or not built.
    """

    def __init__(self, model: "keras.Model"):
        if not is_functional(model):
            raise RequestError(
                f"{getattr(model, 'name', model)!r} is a {type(model).__name__}; channels are found in functional and "
                "sequential models only. Call its layers on a keras.Input, and make a keras.Model of the result."
            )
        if not model.built:
            raise RequestError(f"{model.name!r} is not built: give it an Input, or call it on an image first.")
        self.labels = Labels()
        self.calls: dict[int, Call] = {}
        self.inner: dict[int, list[Channels] | None] = {}
        self._weighed: dict[tuple[int, int], Weighed] = {}
        self._made: dict[int, np.ndarray] = {}
        self._again: dict[int, tuple[Channels, ...]] = {}
        self._parts: dict[Part, dict[str, np.ndarray]] = {"producers": {}, "followers": {}, "consumers": {}}
        names = [tensor._keras_history.operation.name for tensor in graph_of(model).inputs]
        inputs = {name: f"they are those of the input {name!r}" for name in names}
        for channels in self._run(model, [self.labels.fixed(reason) for reason in inputs.values()], ""):
            self.labels.join(channels.labels, self.labels.fixed("they are outputs of the model").labels)
        self.found = self._grouped(inputs)

    @property
    def weighed(self) -> dict[int, list[Weighed]]:
        """Id of a weight -> what is known of its axes."""
        by_weight: dict[int, list[Weighed]] = {}
        for each in self._weighed.values():
            by_weight.setdefault(id(each.variable), []).append(each)
        return by_weight

    def fix(self, channels: Channels, reason: str) -> Channels:
        if channels.axis is None:
            return channels
        fixed = self.labels.fixed(reason)
        self.labels.join(channels.labels, fixed.labels)
        return fixed

    def channels(self, axis: int, labels: np.ndarray, reason: str) -> Channels:
        channels = Channels(axis, labels)
        return self.fix(channels, reason) if len(labels) == 1 else channels

    def make(self, call: Call, count: int, axis: int) -> Channels:
        if id(call.operation) not in self._made:
            self._made[id(call.operation)] = self._parts["producers"][call.name] = self.labels.new(count)
        return self.channels(axis, self._made[id(call.operation)], "there is only one")

    def note(self, call: Call, labels: np.ndarray, part: Part) -> None:
        self._parts[part].setdefault(call.name, labels)

    def weigh(self, variable: "keras.Variable | None", axis: int, labels: np.ndarray, part: Part) -> None:
        if variable is not None:
            axis %= len(variable.shape)
            earlier = self._weighed.setdefault((id(variable), axis), Weighed(variable, axis, labels, part))
            self.labels.join(earlier.labels, labels)

    def again(self, operation: Any, *channels: Channels) -> None:
        for some, others in zip(self._again.setdefault(id(operation), channels), channels, strict=True):
            if some.axis != others.axis or len(some.labels) != len(others.labels):
                some, others = (self.fix(x, f"{operation.name!r} is called on several shapes") for x in (some, others))
            self.labels.join(some.labels, others.labels)

    def _run(self, model: Any, inputs: list[Channels], prefix: str) -> list[Channels]:
        """Carry labels through a model."""
        graph = graph_of(model)
        channels = dict(zip(map(id, graph.inputs), inputs, strict=True))
        for node in nodes_of(graph):
            call = Call(
                operation=node.operation,
                name=prefix + node.operation.name,
                arguments=node.arguments.args,
                input_shapes=[tensor.shape for tensor in node.input_tensors],
                output_shapes=[tensor.shape for tensor in node.outputs],
                inputs=[channels[id(tensor)] for tensor in node.input_tensors],
            )
            if is_functional(call.operation):
                call.outputs = self._run_inner(call)
            else:
                call.outputs = rule_of(call)(self, call)
            self.calls[id(node)] = call
            channels |= zip(map(id, node.outputs), call.outputs, strict=True)
        return [channels[id(tensor)] for tensor in graph.outputs]

    def _run_inner(self, call: Call) -> list[Channels]:
        """Carry labels through a model inside the model, unless a call gives the inputs in another structure than that
        of the model.

        Raises:
            RequestError: only some calls do so.
        """
        model = call.operation
        known = self.inner.setdefault(id(model), call.inputs if _has_own_structure(call) else None)
        if (known is None) == _has_own_structure(call):
            raise RequestError(f"{call.label} is called with inputs in several structures: call it in one way only.")
        if known is None:
            return unknown(self, call)
        self.again(model, *call.inputs)  # the model has one shape of its inputs, however often it is called
        return self._run(model, call.inputs, f"{call.name}/")

    def _grouped(self, inputs: dict[str, str]) -> ChannelGroups:
        """Put the classes of labels into groups: classes that are in the same tensors."""
        roots, reasons = self.labels.roots(), self.labels.reasons()
        alike = np.zeros(len(roots), int)
        for call in self.calls.values():
            for channels in call.outputs:
                here = np.unique(roots[channels.labels])
                _, parts = np.unique(alike[here], return_inverse=True)
                alike[here] = alike.max() + 1 + parts
        members: dict[int, list[int]] = {}  # of each group, the smallest labels of its classes
        for root in np.unique(roots).tolist():
            if root not in reasons:
                members.setdefault(int(alike[root]), []).append(root)
        alone = [group.pop() for group in members.values() if len(group) == 1]
        reasons |= dict.fromkeys(alone, "they can only go all together")
        of_roots = np.full((2, len(roots)), -1)
        for number, group in enumerate(filter(None, members.values())):
            of_roots[:, group] = np.full(len(group), number), np.arange(len(group))
        self.group_of, self.slice_of = of_roots[:, roots]
        fixed = {
            layer: reasons[int(roots[labels[self.group_of[labels] < 0][0]])]
            for layer, labels in self._parts["producers"].items()
            if (self.group_of[labels] < 0).any()
        }
        groups: dict[str, ChannelGroup] = {}
        for number in range(len(members) - len(alone)):
            found = self._group(number, groups)
            groups[found.name] = found
        return ChannelGroups(groups, inputs | fixed)

    def _group(self, number: int, taken: Collection[str]) -> ChannelGroup:
        parts = {
            part: {
                layer: np.where(self.group_of[labels] == number, self.slice_of[labels], -1)
                for layer, labels in layers.items()
                if (self.group_of[labels] == number).any()
            }
            for part, layers in self._parts.items()
        }
        first, slices = next(iter(parts["producers"].items()))
        name, places = first, f"[{_ranges(np.flatnonzero(slices >= 0))}]"
        if np.setdiff1d(self.group_of[self._parts["producers"][first]], [-1, number]).size:
            name += places
        while name in taken:  # a layer may be called "conv[0:16]"
            name += places
        return ChannelGroup(name, int(slices.max()) + 1, **parts)


def _ranges(places: np.ndarray) -> str:
    """Write places in rising order as ranges, "0:4,8:12"."""
    runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    return ",".join(f"{run[0]}:{run[-1] + 1}" for run in runs)


def graph_of(model: Any) -> Any:
    """Return the graph of a functional or sequential model."""
    return getattr(model, "_functional", None) or model  # a Sequential keeps its graph inside


def nodes_of(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph in the order of execution, without those of the inputs."""
    for _, nodes in sorted(graph._nodes_by_depth.items(), reverse=True):
        yield from (node for node in nodes if not node.is_input)


def _has_own_structure(call: Call) -> bool:
    """Tell whether a model is called with its inputs in the structure that it was made with."""
    import keras

    if len(call.arguments) != 1:
        return False
    inputs = graph_of(call.operation)._inputs_struct
    if len(call.inputs) == len(keras.tree.flatten(inputs)) == 1:
        return True
    try:
        keras.tree.assert_same_structure(call.arguments[0], inputs)
    except (TypeError, ValueError):
        return False
    return True
