"""A machine whose times follow from the workloads of a file: what a table of latencies has to find out."""

import math
from pathlib import Path
from tempfile import TemporaryDirectory

from mobilenets_tf.search.latency.measuring import Machine, Run, measured, this_machine
from mobilenets_tf.search.latency.prediction import PredictionError, entries_of, line_of
from mobilenets_tf.search.latency.table import LatencyTable
from mobilenets_tf.search.latency.variants import variants
from mobilenets_tf.search.latency.workloads import workload
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.operators import calls

TILE = 16
OVERHEAD_MS, SHARE = 0.02, 1.1  # of a whole network, beside its operators


def ms_of(each) -> float:
    """The time of an operator: piecewise linear in the channels, with steps of the microkernel's tile."""
    read, written = each.channels
    tiles = math.ceil(written / TILE)
    taps = each.kernel[0] * each.kernel[1]
    if each.op in ("CONV_2D", "FULLY_CONNECTED"):
        return 1e-4 + each.positions * tiles * (1e-5 + 2e-6 * taps * read)
    if each.op == "DEPTHWISE_CONV_2D":
        return 1e-4 + each.positions * tiles * 3e-6 * taps
    return 1e-4 + each.positions * read * 1e-7


def table_of(content: bytes, scheme: str, networks: int = 12) -> LatencyTable:
    """The table that this machine has for a file's widths; it says that it is of the machine that runs the test."""
    device, known = SyntheticMachine(), []
    with TemporaryDirectory() as folder:
        for number, each in enumerate(variants(content, networks)):
            path = Path(folder, f"{number}.tflite")
            path.write_bytes(each)
            known.append(measured(each, [device.run(path)]))
    error = PredictionError(len(known), 0.0, 1.0, 1.0, 1.0)
    return LatencyTable(
        this_machine(), {"model": "synthetic"}, scheme, 1, len(known), line_of(known), error, error, entries_of(known)
    )


class SyntheticMachine:
    """A ``Device`` that runs nothing. ran: the names of the files that it was given, in their order."""

    machine = Machine("synthetic", 2, "none", "0.0", "none")

    def __init__(self, fail_after=None):
        self.ran, self._known, self._fail_after = [], {}, fail_after

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, path: Path) -> Run:
        if len(self.ran) == self._fail_after:
            raise KeyboardInterrupt
        self.ran.append(path.name)
        if path not in self._known:
            operators = calls(flatbuffer.read(path.read_bytes()))
            times = tuple(ms_of(workload(call)) for call in operators)
            ops = tuple((call.name, False) for call in operators)
            self._known[path] = Run(OVERHEAD_MS + SHARE * sum(times), ops, times)
        return self._known[path]
