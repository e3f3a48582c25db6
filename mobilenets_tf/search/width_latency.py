"""Predict the latency of a Keras model with fewer channels, thousands of times a minute: without pruning or converting.

The model is converted twice: as it is, and with another share of each group of channels, all shares different. So each
tensor of the file shows by its share which group it follows. From then on the latency of any widths is a sum over the
operators. Of 16 channels there are 15 shares: a model with more groups of one small width is converted more often.
"""

import functools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from fractions import Fraction

import keras

from mobilenets_tf.errors import RequestError
from mobilenets_tf.pruning.prune import prune
from mobilenets_tf.search.latency.base_file import file_of
from mobilenets_tf.search.latency.file_widths import FileWidths
from mobilenets_tf.search.latency.table import LatencyTable
from mobilenets_tf.search.latency.variants import MULTIPLE
from mobilenets_tf.search.latency.workloads import Workload, workload, workloads
from mobilenets_tf.tflite.operators import Call
from mobilenets_tf.worker import Worker

# Of the latency of the second file: what the prediction without converting may differ from the one of the file. Where
# the widths follow the groups in another way than is known here, it differs by much more.
_TOLERANCE = 0.02


class WidthLatency:
    """The latency of a model by the widths of its groups of channels.

    groups: name -> number of slices, of the groups whose widths the file shows. fixed: those whose widths it does not
        show, which a search has to leave whole. Narrow groups, which no search makes smaller, may be in neither.
    content: the file of the model as it is, calibrated with noise: to be timed, not to be used.

    Args:
        model: functional or sequential, built.
        groups: its groups: name -> number of slices, as ``channel_groups`` finds them.
        table: of latencies.
        worker: the child process in which the converter runs; None: a new one each time.

    Raises:
        RequestError: the table has no such operators or is of another scheme, or the latency of a smaller model cannot
            be told without converting it.
        ConversionError: the converter refused the model.
    """

    def __init__(
        self, model: keras.Model, groups: Mapping[str, int], table: LatencyTable, worker: Worker | None = None
    ):
        self._table = table
        self.content = file_of(model, table.scheme, worker)
        file = FileWidths(self.content)
        self._operators = [(workload(call), *_groups_of(call, file)) for call in file.operators()]
        probes = list(_probes(groups))
        others = [file_of(prune(model, probe), table.scheme, worker) for probe in probes]
        self._parts = _agreed(
            [_followed(file, FileWidths(other), groups, probe) for probe, other in zip(probes, others, strict=True)]
        )
        shown = {group for group, _ in self._parts.values()}
        self.groups = {name: width for name, width in groups.items() if name in shown}
        self.fixed = sorted({name for probe in probes for name in probe} - shown)
        for probe, other in zip(probes, others, strict=True):
            if seen := {name: count for name, count in probe.items() if name in shown}:
                content = other if seen == probe else file_of(prune(model, seen), table.scheme, worker)
                self._check(seen, table.of_operators(tuple(workloads(content))))

    def __call__(self, widths: Mapping[str, int]) -> float:
        """Predict the latency in ms. widths: name of a group -> slices that stay; groups left out stay whole."""
        channels = {name: factor * widths[group] for name, (group, factor) in self._parts.items() if group in widths}
        operators = []
        for each, read, written in self._operators:
            before, after = each.channels
            operators.append(_resized(each, channels.get(read, before), channels.get(written, after)))
        return self._table.of_operators(tuple(operators))

    def _check(self, probe: Mapping[str, int], converted: float) -> None:
        predicted = self(probe)
        if not abs(predicted - converted) <= _TOLERANCE * abs(converted):
            raise RequestError(
                f"The latency of a smaller model cannot be told from the file of the whole model: {predicted:.3f} ms, "
                f"and {converted:.3f} ms for the file of the smaller model. Please report this with the model."
            )


@functools.lru_cache(maxsize=100_000)
def _resized(each: Workload, read: int, written: int) -> Workload:
    return each._replace(channels=(read, written))


def _groups_of(call: Call, file: FileWidths) -> tuple[str | None, str | None]:
    """Give the file's groups of the channels that an operator reads and writes."""
    data = next((tensor for tensor in call.inputs if tensor is not None and not tensor.known), None)
    result = call.outputs[0] if call.outputs else None
    return tuple(None if tensor is None else file.group_of(tensor.index) for tensor in (data, result))


def _probes(groups: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Choose how many slices of each group stay, for one model after the other; groups that are left out stay whole.
    Each group that is wide enough for a search to make smaller has its turn."""
    left = dict(groups)
    while chosen := _different_shares(left):
        yield chosen
        left = {name: width for name, width in left.items() if name not in chosen}
        if all(width <= MULTIPLE for width in left.values()):
            break


def _different_shares(groups: Mapping[str, int]) -> dict[str, int]:
    """Choose how many slices of each group stay, so that no two groups keep the same share; leave out groups for which
    no share is left, narrow ones first."""
    taken: set[Fraction] = set()
    chosen = {}
    for name, width in sorted(groups.items(), key=lambda item: (item[1] <= MULTIPLE, item[1])):
        shares = (count for count in range(width - 1, 0, -1) if Fraction(count, width) not in taken)
        if (count := next(shares, None)) is not None:
            chosen[name] = count
            taken.add(Fraction(count, width))
    return chosen


def _followed(
    file: FileWidths, other: FileWidths, groups: Mapping[str, int], probe: Mapping[str, int]
) -> dict[str, tuple[str, int]]:
    """Find which group of the model each group of the file follows, and how many channels a slice has there."""
    by_share = {Fraction(count, groups[name]): name for name, count in probe.items()}
    votes: dict[str, Counter] = defaultdict(Counter)
    for call, twin in _same_operators(file.operators(), other.operators()):
        for tensor, after in zip(call.outputs, twin.outputs, strict=False):
            group = file.group_of(tensor.index)
            if group is None or not after.shape:
                continue
            before = tensor.shape[-1]
            name = by_share.get(Fraction(after.shape[-1], before))
            if name is not None and before % groups[name] == 0:
                votes[group][name, before // groups[name]] += 1
    return {group: counted.most_common(1)[0][0] for group, counted in votes.items()}


def _agreed(found: Sequence[dict[str, tuple[str, int]]]) -> dict[str, tuple[str, int]]:
    """Join what several smaller models show. A group of the file that changed in several follows no group alone."""
    times = Counter(group for parts in found for group in parts)
    return {group: part for parts in found for group, part in parts.items() if times[group] == 1}


def _same_operators(operators: Sequence[Call], others: Sequence[Call]) -> Iterator[tuple[Call, Call]]:
    """Pair the operators of two files. The converter numbers tensors in its own way, so their names do not help."""
    matcher = SequenceMatcher(None, [call.name for call in operators], [call.name for call in others], autojunk=False)
    for first, second, length in matcher.get_matching_blocks():
        yield from zip(operators[first : first + length], others[second : second + length], strict=True)
