"""Find which tensors share a scale, and which values it has to hold where constants or the model's outputs are there.

Ops of ``integers.SAME_SCALE`` write their result with the scale of their input. A constant that such an op brings in (a
class token, coordinates, a border, the limit of a clamp) may lie far outside of what the input holds, or make most of
what the input holds irrelevant. Then the result gets a form of its own.

In a chain of concatenations, as in a DenseNet, each result holds the values of the one before. With a form for each,
the values are rounded anew at each link. Links whose ranges are about the same share a form.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from mobilenets_tf.quantize import integers
from mobilenets_tf.quantize.schemes import Scheme
from mobilenets_tf.quantize.steps.ranges import Range
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema

# Ops that make new values of several; every other op of SAME_SCALE gives values that it was given.
_AVERAGING = {"AVERAGE_POOL_2D", "RESIZE_BILINEAR"}
_CLAMPS = {"MAXIMUM", "MINIMUM"}
# A clamp's result gets a form of its own if the input's form spans this many times what the clamp lets through.
_WASTEFUL = 2


@dataclass(frozen=True)
class SharedForms:
    """Which tensors share a form, and what the forms of some groups have to hold.

    integer: the places of the operators that compute in integers.
    own_form: the places of the operators of SAME_SCALE whose result does not have the form of its input.
    chained: (place, position) of the inputs of concatenations that have the result's form although others read them.
    roots: tensor -> the tensor whose range decides the form, as in ``integers.IntegerPlan``.
    least: root -> what the range has to contain: constants, and all that was seen of the model's outputs and of chains.
    most: root -> the range beyond which the model does not tell values apart. For groups with constants only.
    """

    integer: frozenset[int]
    own_form: frozenset[int]
    chained: frozenset[tuple[int, int]]
    roots: dict[int, int]
    least: dict[int, Range] = field(default_factory=dict)
    most: dict[int, Range] = field(default_factory=dict)

    def leaves_choice(self, root: int, extremes: Range) -> bool:
        """Tell whether clipping a group's values may help: not all of them have to stay, and most of them matter."""
        needed, least = (bounds.get(root) for bounds in (self.most, self.least))
        if needed is not None and _width(extremes) > _WASTEFUL * _width(needed):
            return False
        return least is None or _union(least, extremes) != least

    def bounded(self, root: int, span: Range) -> Range:
        """Change a range of a group so that it contains ``least``, and of the rest nothing outside of ``most``."""
        if root in self.most:
            span = _common(span, self.most[root])
        return _union(span, self.least[root]) if root in self.least else span


def shared_forms(
    tree: schema.ModelT, seen: Mapping[int, Range], scheme: Scheme, islands: Collection[int]
) -> SharedForms:
    """Decide which operators' results get a form of their own, and what each group of tensors has to hold.

    Args:
        tree: the float model.
        seen: of each activation all values seen, low <= 0 <= high.
        scheme: a calibrated scheme.
        islands: the places of operators that stay float.
    """
    graph, own_form = flatbuffer.Graph(tree), set()
    needed = needed_ranges(graph, seen)
    # In the graph's order: a form of its own may be the input's form of a later operator.
    while True:
        plan = integers.plan(tree, seen, scheme, islands, own_form)
        constants = {
            place: values
            for place in sorted(plan.integer)
            if (values := _shared_constants(graph, graph.operators[place], needed)) is not None
        }
        unfit = [p for p in constants if p not in own_form and not _fits(graph, plan, p, constants[p], needed)]
        if not unfit:
            break
        own_form.add(unfit[0])
    chained = _chained(graph, plan, seen, {*own_form, *constants})
    plan = integers.plan(tree, seen, scheme, islands, own_form, chained)
    found = SharedForms(frozenset(plan.integer), frozenset(own_form), frozenset(chained), plan.roots)
    for place, values in constants.items():
        root = plan.roots.get(graph.operators[place].outputs[0])
        if root is not None:
            found.least[root] = _union(found.least.get(root, (0.0, 0.0)), values)
            found.most[root] = needed[root]
    # The search of ranges would try what clipping does behind the last link of a chain only.
    links = {plan.roots[graph.operators[place].inputs[position]] for place, position in chained}
    for index in (*graph.outputs, *(index for index, root in plan.roots.items() if root in links)):
        root = plan.roots.get(index)
        if root is not None:
            found.least[root] = _union(found.least.get(root, (0.0, 0.0)), seen[index])
    return found


def _chained(
    graph: flatbuffer.Graph, plan: integers.IntegerPlan, seen: Mapping[int, Range], without: Collection[int]
) -> set[tuple[int, int]]:
    """Choose the inputs of concatenations that get the result's form, though other operators read them too.

    The input is what another concatenation made. In a form of its own, its values are rounded once more at the
    result. In the result's form, which has wider steps, what else reads the input gets more noise, and so does what
    reads the links that already share the input's form. The sum of the noise decides, each tensor's in proportion to
    the square of its range. So links of equal range always share a form.

    Args:
        graph: the float model.
        plan: the plan in which each link has a form of its own.
        seen: of each activation all values seen.
        without: the places of operators that bring in constants, or whose result has a form of its own.
    """
    group_of: dict[int, set[int]] = {}  # tensor -> the tensors of its form
    for index, root in plan.roots.items():
        group_of[index] = group_of.setdefault(root, {root})
        group_of[index].add(index)
    kept = {*graph.inputs, *graph.outputs, *(index for place in without for index in graph.operators[place].outputs)}

    def width(group: Iterable[int]) -> float:
        return _width(_union(*(seen[index] for index in group)))

    chained = set()
    for place, position in sorted(plan.demanded):
        link, (result,) = graph.operators[place].inputs[position], graph.operators[place].outputs
        if not all(_is_concatenated(graph, plan.roots.get(index)) for index in (link, result)):
            continue
        groups = group_of[link], group_of[result]
        together = groups[0] | groups[1]
        if groups[0] is groups[1] or together & kept:
            continue
        added = 0.0
        for group in groups:
            read = (i for i in group if any(together.isdisjoint(reader.outputs) for reader in graph.readers[i]))
            more = width(together) ** 2 - width(group) ** 2
            added += sum(more / width([index]) ** 2 for index in read)
        share = math.prod(graph.shape(link)) / math.prod(graph.shape(result))
        if added < share * (width(groups[0]) / width([result])) ** 2:
            chained.add((place, position))
            group_of |= dict.fromkeys(together, together)
    return chained


def _is_concatenated(graph: flatbuffer.Graph, index: int | None) -> bool:
    return index in graph.writer and graph.name(graph.writer[index]) == "CONCATENATION"


def needed_ranges(graph: flatbuffer.Graph, seen: Mapping[int, Range]) -> dict[int, Range]:
    """Find the range of each activation beyond which the rest of the model does not tell values apart.

    A maximum, a minimum, a rectifier and ops that move values give the same whether values are clipped before or after
    them. So the input of a clamp needs no more than the clamp lets through, and a border of -1e9 that a max pool
    removes needs no room.

    Args:
        graph: the float model.
        seen: of each activation all values seen, low <= 0 <= high.
    """
    needed: dict[int, Range] = {index: seen[index] for index in graph.outputs if index in seen}
    for operator in reversed(graph.operators):
        results = [needed.setdefault(index, seen[index]) for index in operator.outputs if index in seen]
        for index in graph.activations(operator.inputs):
            passed = _common(seen[index], _union(*results)) if _passes_clipping(graph, operator) else seen[index]
            needed[index] = _union(needed.get(index, (0.0, 0.0)), passed)
    return needed


def _passes_clipping(graph: flatbuffer.Graph, operator: schema.OperatorT) -> bool:
    name = graph.name(operator)
    if name == "MUL":  # by one: a rectifier (steps/integer_forms.py)
        factors = [values for index in operator.inputs if (values := graph.constant(index)) is not None]
        return any(bool((values == 1).all()) for values in factors)
    return name in integers.SAME_SCALE - _AVERAGING or name in ("RELU", "RELU6")


def _shared_constants(graph: flatbuffer.Graph, operator: schema.OperatorT, needed: Mapping[int, Range]) -> Range | None:
    """Give the range of an operator's constants that share its result's form, as far as the model tells them apart;
    None if there are no such constants.
    """
    if graph.name(operator) not in integers.SAME_SCALE:
        return None
    constants = [graph.constant(index) for index in operator.inputs if index >= 0]
    values = [part.ravel() for part in constants if part is not None]
    if not values:
        return None
    together = np.concatenate(values)
    return _common((float(together.min(initial=0.0)), float(together.max(initial=0.0))), needed[operator.outputs[0]])


def _fits(
    graph: flatbuffer.Graph,
    plan: integers.IntegerPlan,
    place: int,
    constants: Range,
    needed: Mapping[int, Range],
) -> bool:
    """Tell whether the form that an operator's result has in the plan suits the constants, and a clamp's result."""
    operator = graph.operators[place]
    (result,) = operator.outputs
    form = plan.forms[result]
    ends = np.float32(constants)
    if np.abs(form.rounded(ends, plan.dtype) - ends).max() > form.scale:
        return False
    wasteful = _width(form.span(plan.dtype)) > _WASTEFUL * _width(needed[result])
    return not (wasteful and graph.name(operator) in _CLAMPS)


def _union(*spans: Range) -> Range:
    return min(low for low, _ in spans), max(high for _, high in spans)


def _common(*spans: Range) -> Range:
    return max(low for low, _ in spans), min(high for _, high in spans)


def _width(span: Range) -> float:
    return span[1] - span[0]
