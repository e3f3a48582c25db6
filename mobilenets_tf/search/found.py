"""What a search has found, as plain data that a process can hand to another."""

from dataclasses import dataclass
from typing import NamedTuple

from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.networks.plan import Plan


class Place(NamedTuple):
    """A network in the chart of a search: predicted latency in ms, and its score on the images that compare."""

    ms: float
    score: float


@dataclass(frozen=True)
class Found:
    """A faster network, and how it was found.

    content: of its ``.keras`` file, not yet trained to the end. preprocessing: of its input.
    base: the file of the network as it was, to be timed.
    plan: what ``create_model`` takes; None where the network is not one of the registry's.
    widths: name of a group of channels -> slices before and after; groups that one of the two does not have are left
        out. fixed: groups that had to stay whole.
    base_ms, target_ms, ms: predicted for the network as it was, asked for, and predicted for the result.
    metric: the key of the scores in the curves of trainings, such as "val_top1".
    base_score: of the network as it was.
    tried: all networks that were trained for a short while. path: those that led to the result, or that no other beats.
    rows: the history: of NetAdapt its rounds (``NetAdapt.run``), of other methods the trials (``pareto.Trial``).
    """

    content: bytes
    preprocessing: Preprocessing
    base: bytes
    plan: Plan | None
    widths: dict[str, tuple[int, int]]
    fixed: tuple[str, ...]
    base_ms: float
    target_ms: float
    ms: float
    metric: str
    base_score: float
    tried: tuple[Place, ...]
    path: tuple[Place, ...]
    rows: list[dict]
