"""Results of experiments as data: a record for each training, and what is computed from the records of all seeds."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bootstrap import accuracy, gain

from experiments.variants import Experiment, Variant

COMMITTED = Path(__file__).parent / "results"
Interval = tuple[float, float, float]  # the mean, and the lower and the upper end of its 95 % interval


def as_text(right: np.ndarray) -> str:
    """Write bool (images,) as hexadecimal digits, four images each, the number of images first."""
    return f"{len(right)}:{np.packbits(right).tobytes().hex()}"


def as_array(text: str) -> np.ndarray:
    """Read what ``as_text`` wrote."""
    count, _, digits = text.partition(":")
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8), count=int(count)).astype(bool)


def write(path: Path, document: dict) -> None:
    """Write a JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(document, indent=1) + "\n")
    unfinished.replace(path)


def read(path: Path) -> dict:
    """Read a JSON file; an empty one if it is not there."""
    return json.loads(path.read_text()) if path.exists() else {}


@dataclass(frozen=True)
class Line:
    """A variant's row of the table.

    seeds: how many trainings; the other fields are None where there is none.
    top1: of the small network. difference: from the variant that it is compared with, None for the baseline; over so
    many ``pairs`` of trainings.
    integers: kind of int8 file -> its difference from the float network; without kinds that LiteRT refused.
    """

    variant: Variant
    base: Variant | None
    seeds: int
    small: dict | None
    top1: Interval | None
    difference: Interval | None
    pairs: int
    integers: dict[str, Interval]


def lines(experiment: Experiment, trainings: dict[str, dict[str, dict]]) -> Iterator[Line]:
    """Give the rows. trainings: key of a variant -> seed -> record."""
    for variant in experiment.variants:
        own, base = trainings.get(variant.key, {}), experiment.base(variant)
        seeds = sorted(own)
        theirs = trainings.get(base.key, {}) if base else {}
        shared = [seed for seed in seeds if seed in theirs]
        integers = {}
        for kind in own[seeds[0]].get("int8", {}) if seeds else ():
            if any(kind not in own[seed]["int8"] for seed in seeds):
                continue
            files = np.stack([as_array(own[seed]["int8"][kind]) for seed in seeds])
            integers[kind] = gain(_right(own, seeds), files)
        yield Line(
            variant, base, len(seeds), own[seeds[0]]["counts"] if seeds else None,
            accuracy(_right(own, seeds)) if seeds else None,
            gain(_right(theirs, shared), _right(own, shared)) if shared else None, len(shared), integers,
        )  # fmt: skip


def _right(records: dict[str, dict], seeds: list[str]) -> np.ndarray:
    return np.stack([as_array(records[seed]["right"]) for seed in seeds])
