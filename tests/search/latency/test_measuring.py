"""Passes, repeats, and the figures that count. No figure is a time of this machine."""

import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.search.latency import measuring
from mobilenets_tf.search.latency.measuring import (
    Here,
    OnPhone,
    Run,
    latency_of,
    measure_in_turn,
    measured,
    spread,
    this_machine,
)
from tests.support.fake_phone import Phone
from tests.support.small_files import additions
from tests.support.synthetic_machine import SyntheticMachine


class Scripted(SyntheticMachine):
    """Runs of the given latencies, in their order."""

    def __init__(self, *latencies, ops=(("ADD", False),)):
        super().__init__()
        self._latencies, self.ops = list(latencies), ops

    def run(self, path):
        self.ran.append(path.name)
        ms = self._latencies.pop(0)
        return Run(ms, tuple(self.ops), (ms,) * len(self.ops))


@pytest.fixture
def paths(tmp_path):
    paths = [tmp_path / f"{name}.tflite" for name in "abc"]
    for path in paths:
        path.write_bytes(additions(1, last=None))
    return paths


def test_each_file_runs_once_in_each_pass_in_another_order(paths):
    device, runs, reports = SyntheticMachine(), [[], [], []], []
    measure_in_turn(paths, device, runs, passes=4, progress=lambda *step: reports.append(step))
    rounds = [device.ran[start : start + 3] for start in range(0, 12, 3)]
    assert len(device.ran) == 12 and all(sorted(each) == sorted(path.name for path in paths) for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1
    assert reports[0] == ("measuring", 0, 12) and reports[-1] == ("measuring", 12, 12)


def test_passes_that_are_there_are_not_repeated(paths):
    done = SyntheticMachine().run(paths[0])
    device, runs = SyntheticMachine(), [[done], [done, done], []]
    measure_in_turn(paths, device, runs, passes=2)
    assert sorted(device.ran) == ["a.tflite", "c.tflite", "c.tflite"]


def test_a_disturbed_file_gets_more_passes(paths):
    device, runs = Scripted(1.0, 2.0, 1.5, 1.01), [[]]
    measure_in_turn(paths[:1], device, runs, passes=2)
    assert [run.ms for run in runs[0]] == [1.0, 2.0, 1.5, 1.01]
    assert spread(runs[0]) == pytest.approx(0.01)
    endless, runs = Scripted(*map(float, range(1, 99))), [[]]
    endless._latencies = [2.0**power for power in range(20)]
    measure_in_turn(paths[:1], endless, runs, passes=2)
    assert len(runs[0]) == 2 + measuring._MOST_REPEATS


def test_the_time_limit_leaves_one_pass(paths):
    device, runs = SyntheticMachine(), [[], [], []]
    measure_in_turn(paths, device, runs, minutes=0)
    assert [len(each) for each in runs] == [1, 1, 1]


def test_the_fastest_half_counts():
    def run(ms, *ops_ms):
        return Run(ms, (("ADD", False), ("ADD", False)), ops_ms)

    runs = [run(9, 1, 8), run(1, 7, 2), run(3, 3, 4), run(8, 9, 9)]
    assert latency_of(runs) == 2  # of 1 and 3
    network = measured(additions(2, last=None), runs)
    assert network.times == (2, 3)  # each operator's own fastest half
    assert network.ms == 2 and [each.op for each in network.workloads] == ["ADD", "ADD"]


def test_other_ops_in_the_next_pass(paths):
    device, runs = SyntheticMachine(), [[Run(1.0, (("MUL", True),), (1.0,))]]
    with pytest.raises(RequestError, match="does not run the same ops each time"):
        measure_in_turn(paths[:1], device, runs, passes=2)


def test_a_file_runs_here(paths):
    with Here() as device:
        run = device.run(paths[0])
        assert device.machine == this_machine()
    assert run.ops == (("Add (ND)", True),) and run.ms >= 0
    assert measured(paths[0].read_bytes(), [run]).workloads[0].op == "ADD"


@pytest.fixture
def phone(tmp_path, monkeypatch):
    monkeypatch.setenv("PHONE", str(tmp_path))
    return Phone(tmp_path)


def test_a_file_runs_on_a_phone(phone):
    phone.prints("op_profile")
    device = OnPhone(str(phone.binary), phone.adb, None, "f0", threads=2)
    with pytest.raises(RequestError, match="no file has run there yet"):
        _ = device.machine
    run = device.run(phone.model)
    assert run.ms == pytest.approx(2950.34)  # what the tool printed
    assert len(run.ops) == 31 and run.ops[0] == ("CONV_2D", False) and run.ops_ms[0] == 60.957
    machine = device.machine
    assert (machine.processor, machine.system, machine.architecture, machine.cores) == (
        "Fake Phone", "Android 14", "arm64-v8a", "f0",
    )  # fmt: skip
    assert machine.litert.startswith("benchmark_model ")
    arguments = (phone.folder / "arguments").read_text().splitlines()
    assert "--enable_op_profiling=true" in arguments and "--num_threads=2" in arguments
    assert not phone.left()


def test_a_tool_that_prints_no_profile(phone):
    with pytest.raises(RequestError, match="prints no profile of the ops"):
        OnPhone(str(phone.binary), phone.adb, None, None).run(phone.model)
