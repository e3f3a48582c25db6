"""What may change of a network, as data: the space that a search draws networks from."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mobilenets_tf import registry
from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.factory import create_model
from mobilenets_tf.networks.plan import Plan
from mobilenets_tf.pruning.channels import ChannelGroups, channel_groups
from mobilenets_tf.search.candidates.tables import COLUMNS, Table, block_of
from mobilenets_tf.search.choices import KINDS
from mobilenets_tf.search.latency.variants import SHARES, multiple
from mobilenets_tf.weights.keras_config import shapes_alone

if TYPE_CHECKING:
    import keras

KERNELS = (3, 5, 7)
_UNORDERED = {"squeeze_excite": (False, True), "activation": ("relu", "hard_swish")}
_RESOLUTIONS = (1.0, 0.875, 0.75, 0.625, 0.5)  # shares of the parent's
_LEAST_SIDE = 32  # pixels; resolutions are multiples of it, so that each stride halves an even side

Value = int | bool | str
# Name of a dimension -> what was chosen; JSON can hold a point. Dimensions with one choice, and those of parts that the
# network of the point does not have, are left out.
Point = Mapping[str, Value]


@dataclass(frozen=True)
class Dimension:
    """One thing that may change.

    name: "kind/place", such as "widths/stage3_block2_expand_conv" or "kernels/stage3_block2"; or "resolution".
    choices: in rising order if ``ordered``; the first is the cheapest, as a rule.
    own: the parent's.
    needs: dimension -> its values with which the network has the place at all.
    """

    name: str
    choices: tuple[Value, ...]
    own: Value
    needs: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Which of ``KINDS`` the dimension is."""
        return self.name.partition("/")[0]

    @property
    def place(self) -> str:
        """The group of channels, row or stage that changes."""
        return self.name.partition("/")[2]

    @property
    def ordered(self) -> bool:
        """Whether choices that are neighbours are alike."""
        return self.kind not in _UNORDERED


@dataclass(frozen=True, eq=False)
class Space:
    """The networks that a search may choose.

    plan: the parent's, of a registered network; None for any other model, of which only the widths may change.
    dimensions: by name. A dimension comes after those that it needs.
    whole: group of channels -> its width before any is taken away.
    """

    plan: Plan | None
    dimensions: Mapping[str, Dimension]
    whole: Mapping[str, int]

    @staticmethod
    def of(
        parent: "str | os.PathLike[str] | Plan | keras.Model",
        kinds: Sequence[str] | None = None,
        *,
        kernels: Sequence[int] = KERNELS,
        shares: Sequence[float] = SHARES,
    ) -> "Space":
        """Find what may change of a network.

        * "widths": each group of ``channel_groups``, at ``shares`` of the parent's width, in multiples of 8;
        * "depth": each stage; blocks go from its end, and one stays at least. MobileNetV1 to V3, EfficientNet-Lite and
          MobileOne;
        * "kernels": the depthwise kernel of each row. MobileNetV3 and EfficientNet-Lite (there of a whole stage);
        * "squeeze_excite", "activation" (ReLU or hard-swish): of each row of a MobileNetV3 that is not minimalistic;
        * "resolution": shares of the parent's, in multiples of 32.

        A detector or segmenter has the dimensions of its backbone, and those of the widths of its head.

        Args:
            parent: a registered name, a plan or the path of its file; or any functional Keras model, of which only
                the widths may change.
            kinds: what may change; None: all that the network has, except the resolution.
            kernels: depthwise kernels to choose from, beside the parent's own.
            shares: of the channels of a group.

        Raises:
            RequestError: a kind is unknown, or the network does not have it; a kernel or share is out of range; or
                nothing is left that may change.
        """
        import keras

        if kinds is not None:
            kinds = [kinds] if isinstance(kinds, str) else list(kinds)
            for kind in kinds:
                if kind not in KINDS:
                    raise unknown("kind of change", kind, KINDS)
        for kernel in kernels:
            if kernel not in (1, 3, 5, 7, 9):
                raise RequestError(f"kernels: {kernel!r}: expected 1, 3, 5, 7 or 9.")
        for share in shares:
            if not isinstance(share, (int, float)) or not 0 < share <= 1:
                raise RequestError(f"shares: {share!r}: expected numbers above 0, at most 1.")
        if isinstance(parent, keras.Model):
            made = _of_model(parent, kinds, shares)
        else:
            made = _of_plan(Plan.of(parent), kinds, kernels, shares)
        if not any(len(dimension.choices) > 1 for dimension in made.dimensions.values()):
            raise RequestError("Nothing may change: each dimension that was asked for has the parent's value alone.")
        return made

    def drawn(self, choose: Callable[[Dimension], Value]) -> Point:
        """Make a point: ``choose`` is called for each dimension that has a choice in the network so far."""
        values = self._values(choose)
        return {name: value for name, value in values.items() if len(self.dimensions[name].choices) > 1}

    @property
    def parent(self) -> Point:
        """The point of the parent."""
        return self.drawn(lambda dimension: dimension.own)

    @property
    def smallest(self) -> Point:
        """The point with the first choice everywhere: as a rule that of the fastest network."""
        return self.drawn(lambda dimension: dimension.choices[0])

    def at(self, share: float) -> Point:
        """Return the parent's point with each group of channels at a share of its width, or the choice next to it."""

        def choose(dimension: Dimension) -> Value:
            if dimension.kind != "widths":
                return dimension.own
            return min(dimension.choices, key=lambda width: abs(width - share * dimension.own))

        return self.drawn(choose)

    def check(self, point: Point) -> None:
        """Refuse what is no point of the space.

        Raises:
            RequestError: a dimension is unknown, missing, or not there in the point's network; or a value is no choice.
        """
        for name, value in point.items():
            if name not in self.dimensions:
                raise unknown("dimension", name, self.dimensions)
            choices = self.dimensions[name].choices
            if not any(value == choice and type(value) is type(choice) for choice in choices):
                raise RequestError(f"{name}={value!r}: expected {' or '.join(map(repr, choices))}.")
        expected = self.drawn(lambda dimension: point.get(dimension.name, dimension.own))
        if wrong := sorted(set(expected) ^ set(point)):
            what = "is missing" if wrong[0] in expected else "is not there with the other values"
            raise RequestError(f"The point is none of this space: {wrong[0]!r} {what}.")

    def channels(self, point: Point) -> dict[str, int]:
        """Return how many channels each group keeps, of those that are not whole."""
        return {group: number for group, number in self.widths(point).items() if number != self.whole[group]}

    def widths(self, point: Point) -> dict[str, int]:
        """Return the width of each group of channels."""
        return self._places(point).get("widths", {})

    def plan_of(self, point: Point) -> Plan:
        """Return the plan of a point's network.

        Raises:
            RequestError: the space is not of a registered network.
        """
        return Plan(self._known_plan.network, self._options(point), self.channels(point))

    def structure_of(self, point: Point) -> Plan:
        """Return the plan of a point's network with the parent's widths.

        Raises:
            RequestError: the space is not of a registered network.
        """
        own = {group: int(self.dimensions[f"widths/{group}"].own) for group in self.widths(point)}
        channels = {group: width for group, width in own.items() if width != self.whole[group]}
        return Plan(self._known_plan.network, self._options(point), channels)

    @property
    def _known_plan(self) -> Plan:
        if self.plan is None:
            raise RequestError("The model is not a registered network: there are numbers of channels, and no plan.")
        return self.plan

    def _options(self, point: Point) -> dict[str, Any]:
        plan, values = self._known_plan, self._places(point)
        options, parent = dict(plan.options), self._places(self.parent)
        changed = {kind: places for kind, places in values.items() if kind in COLUMNS}
        if changed != {kind: places for kind, places in parent.items() if kind in COLUMNS}:
            options["rows"] = Table(plan).changed(changed)
        if "resolution" in values:
            options["resolution"] = values["resolution"][""]
        return options

    def _values(self, choose: Callable[[Dimension], Value]) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for name, dimension in self.dimensions.items():
            if all(values.get(other) in allowed for other, allowed in dimension.needs.items()):
                values[name] = choose(dimension) if len(dimension.choices) > 1 else dimension.own
        return values

    def _places(self, point: Point) -> dict[str, dict[str, Any]]:
        """Return all values of a point's network, also those without a choice: kind -> place -> value."""
        places: dict[str, dict[str, Any]] = {}
        for name, value in self._values(lambda dimension: point[dimension.name]).items():
            dimension = self.dimensions[name]
            places.setdefault(dimension.kind, {})[dimension.place] = value
        return places


def _of_model(model: "keras.Model", kinds: Sequence[str] | None, shares: Sequence[float]) -> Space:
    others = [kind for kind in kinds or () if kind != "widths"]
    if others:
        raise RequestError(
            f"{others[0]!r} may change of registered networks only; of {model.name!r}, a Keras model, the widths may."
        )
    found = channel_groups(model)
    if not found.groups:
        raise RequestError(f"Nothing in {model.name!r} can shrink. {_reasons(found)}")
    whole = {name: group.width for name, group in found.groups.items()}
    dimensions = (Dimension(f"widths/{name}", _widths(width, shares), width) for name, width in whole.items())
    return Space(None, {each.name: each for each in dimensions}, whole)


def _of_plan(plan: Plan, kinds: Sequence[str] | None, kernels: Sequence[int], shares: Sequence[float]) -> Space:
    table = Table(plan)
    has = [*table.columns, "widths", "resolution"]
    kinds = [kind for kind in has if kind != "resolution"] if kinds is None else kinds
    for kind in kinds:
        if kind not in has:
            raise RequestError(f"{plan.network} has no {kind!r} that may change in its rows; it has {', '.join(has)}.")
    dimensions = [*_of_rows(table, kinds, kernels)]
    if "resolution" in kinds:
        own = plan.options.get("resolution") or registry.get(plan.network).resolution
        sides = {max(_LEAST_SIDE, round(own * share / _LEAST_SIDE) * _LEAST_SIDE) for share in _RESOLUTIONS}
        choices = tuple(sorted({own, *(side for side in sides if side < own)}))
        dimensions.append(Dimension("resolution", choices, own))
    options = dict(plan.options)
    if "squeeze_excite" in kinds:  # the groups of each squeeze-and-excite that there may be
        options["rows"] = table.changed({"squeeze_excite": dict.fromkeys(table.cells("squeeze_excite"), True)})
    with shapes_alone():
        whole = {
            name: group.width
            for name, group in channel_groups(create_model(Plan(plan.network, options))).groups.items()
        }
    if unknown_groups := sorted(set(plan.channels) - set(whole)):
        raise unknown("group of channels", unknown_groups[0], whole)
    built = table.built_blocks(plan) if "depth" in kinds else {}
    squeezes = {each.place for each in dimensions if each.kind == "squeeze_excite"}
    for name, width in whole.items():
        own = min(plan.channels.get(name, width), width)
        choices = _widths(own, shares) if "widths" in kinds else (own,)
        needs = _needs_of_group(name, built, squeezes)
        dimensions.append(Dimension(f"widths/{name}", choices, own, needs))
    return Space(plan, {each.name: each for each in dimensions}, whole)


def _of_rows(table: Table, kinds: Sequence[str], kernels: Sequence[int]) -> Iterator[Dimension]:
    depths = table.depths() if "depth" in kinds else {}
    for stage, choices in depths.items():
        yield Dimension(f"depth/{stage}", choices, choices[-1])
    for kind in ("kernels", "squeeze_excite", "activation"):
        for place, own in table.cells(kind).items() if kind in kinds else ():
            choices = tuple(sorted({own, *kernels})) if kind == "kernels" else _with(own, _UNORDERED[kind])
            stage, block = table.stage_of(place)
            needs = {f"depth/{stage}": _at_least(block, depths[stage])} if stage in depths else {}
            yield Dimension(f"{kind}/{place}", choices, own, needs)


def _with(own: Value, choices: tuple[Value, ...]) -> tuple[Value, ...]:
    return choices if own in choices else (*choices, own)


def _at_least(block: int, depths: Iterable[int]) -> tuple[int, ...]:
    return tuple(depth for depth in depths if depth >= block)


def _needs_of_group(
    name: str, built: Mapping[tuple[str, int], int], squeezes: set[str]
) -> dict[str, tuple[Value, ...]]:
    """Find which numbers of blocks, and which squeeze-and-excite, bring a group about."""
    found = block_of(name)
    if found is None:
        return {}
    stage, block = found
    needs: dict[str, tuple[Value, ...]] = {}
    depths = [depth for of, depth in built if of == stage]
    enough = tuple(depth for depth in depths if built[stage, depth] >= block)
    if len(enough) < len(depths):
        needs[f"depth/{stage}"] = enough
    place = f"{stage}_block{block}"
    if place in squeezes and name == f"{place}_squeeze_conv":
        needs[f"squeeze_excite/{place}"] = (True,)
    return needs


def _widths(own: int, shares: Sequence[float]) -> tuple[int, ...]:
    return tuple(sorted({own, *(width for share in shares if (width := multiple(own * share)) < own)}))


def _reasons(found: ChannelGroups) -> str:
    reasons = [f"{layer!r}: {reason}" for layer, reason in found.fixed.items()]
    return f"The channels of {'; of '.join(reasons[:4])}."
