"""What of the table of a registered network may change: the number of blocks, and columns that stand in its rows."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

from mobilenets_tf import registry
from mobilenets_tf.factory import create_model
from mobilenets_tf.networks.plan import Plan
from mobilenets_tf.networks.rows import staged_table, table
from mobilenets_tf.weights.keras_config import shapes_alone

# What may change -> the column of the rows. Depth is the column "blocks", or of a staged table the number of rows.
COLUMNS = {"depth": "blocks", "kernels": "kernel", "squeeze_excite": "squeeze", "activation": "activation"}
# Behind such blocks stand others, whose names would change with the number of blocks.
_BLOCKS_BEHIND = "dim"
_BLOCK = re.compile(r"stage(\d+)_block(\d+)_")


class Table:
    """The rows of a plan's network, or the published ones.

    A place is "stage3", or in a staged table, where each row is a block, "stage3_block2".

    columns: what may change by the rows of this network: keys of ``COLUMNS``.
    stages: of each stage, from the first, its rows as lists.

    Raises:
        RequestError: the rows of the plan are no table of its network.
    """

    def __init__(self, plan: Plan):
        network = registry.get(plan.network)
        options = {**network.options, **plan.options}
        build = registry.builder(network.backbone or network.name).func
        published = inspect.signature(build).parameters["rows"].default
        self._staged = not hasattr(published[0], "_fields")
        kind = type(published[0][0] if self._staged else published[0])
        self._fields: tuple[str, ...] = kind._fields
        rows = (staged_table if self._staged else table)(kind, options.get("rows", published))
        self.stages = [[list(row) for row in (stage if self._staged else [stage])] for stage in rows]
        self.columns = [name for name in COLUMNS if self._has(name, options)]

    def _has(self, name: str, options: Mapping[str, Any]) -> bool:
        if name == "depth":
            return self._staged or (COLUMNS[name] in self._fields and _BLOCKS_BEHIND not in self._fields)
        if COLUMNS[name] not in self._fields or options.get("minimalistic"):  # whose rows do not say these three
            return False
        if name == "activation":
            return options.get("hard_swish_from") is None
        return name != "squeeze_excite" or options.get("squeeze_ratio") != 0

    def cells(self, name: str) -> dict[str, Any]:
        """Return the fields of a column: place -> value."""
        column = self._fields.index(COLUMNS[name])
        return {
            self._place(stage, block): row[column]
            for stage, rows in enumerate(self.stages, 1)
            for block, row in enumerate(rows, 1)
        }

    def depths(self) -> dict[str, tuple[int, ...]]:
        """Return how many blocks each stage may have, up to its own number: "stage3" -> (1, 2, 3).

        A block goes only if its input has the shape of its output, so that the next stage finds what it was trained on.
        """
        return {f"stage{stage}": tuple(range(*self._span(rows))) for stage, rows in enumerate(self.stages, 1)}

    def _span(self, rows: list[list]) -> tuple[int, int]:
        if not self._staged:
            return 1, rows[0][self._fields.index("blocks")] + 1
        filters, stride = (self._fields.index(name) for name in ("filters", "stride"))
        least = len(rows)
        while least > 1 and rows[least - 1][stride] == 1 and rows[least - 1][filters] == rows[least - 2][filters]:
            least -= 1
        return least, len(rows) + 1

    def stage_of(self, place: str) -> tuple[str, int]:
        """Return the stage of a place, and how many blocks the stage has at least if the place is in the network."""
        stage, _, block = place.partition("_block")
        return stage, int(block or 1)

    def changed(self, values: Mapping[str, Mapping[str, Any]]) -> list:
        """Return the rows with other values: what changes -> place -> value."""
        stages = [[list(row) for row in rows] for rows in self.stages]
        for name, by_place in values.items():
            for place, value in by_place.items():
                stage, _, block = place.partition("_block")
                rows = stages[int(stage.removeprefix("stage")) - 1]
                if name != "depth":
                    rows[int(block or 1) - 1][self._fields.index(COLUMNS[name])] = value
                elif not self._staged:
                    self._set_blocks(rows[0], value)
        if self._staged:
            for stage, depth in values.get("depth", {}).items():
                del stages[int(stage.removeprefix("stage")) - 1][depth:]
            return stages
        return [row for (row,) in stages]

    def _set_blocks(self, row: list, blocks: int) -> None:
        column = self._fields.index("blocks")
        if "squeezed" in self._fields:  # how many of the last blocks have a squeeze-and-excite: those keep it
            squeezed = self._fields.index("squeezed")
            row[squeezed] = max(0, row[squeezed] - (row[column] - blocks))
        row[column] = blocks

    def _place(self, stage: int, block: int) -> str:
        return f"stage{stage}_block{block}" if self._staged else f"stage{stage}"

    def built_blocks(self, plan: Plan) -> dict[tuple[str, int], int]:
        """Return how many blocks are built: (stage, its number of blocks in the table) -> number.

        They are more where a network scales its depth (EfficientNet-Lite1 to 4), which is found by building it.
        """
        depths = self.depths()
        own = _blocks(plan)
        if self._staged or all(own.get(stage) == choices[-1] for stage, choices in depths.items()):
            return {(stage, depth): depth for stage, choices in depths.items() for depth in choices}
        built = {}
        for depth in range(1, max(map(max, depths.values())) + 1):
            asked = {stage: depth for stage, choices in depths.items() if depth in choices}
            options = {**plan.options, "rows": self.changed({"depth": asked})}
            blocks = _blocks(Plan(plan.network, options))
            built |= {(stage, depth): blocks[stage] for stage in asked}
        return built


def block_of(layer: str) -> tuple[str, int] | None:
    """Return the stage and the number of the block that a layer is in; None if it is in none."""
    found = _BLOCK.match(layer)
    return (f"stage{found[1]}", int(found[2])) if found else None


def _blocks(plan: Plan) -> dict[str, int]:
    """Build a plan's network without weights, and count the blocks of each stage."""
    with shapes_alone():
        model = create_model(plan)
    blocks: dict[str, int] = {}
    for layer in model.layers:
        if found := block_of(layer.name):
            stage, block = found
            blocks[stage] = max(block, blocks.get(stage, 0))
    return blocks
