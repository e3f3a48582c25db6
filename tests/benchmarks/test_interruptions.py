"""benchmarks/interruptions.py in its shortest form: a training that is killed, and two at a time on one folder."""

import sys

import pytest

from benchmarks import interruptions


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_training_leaves_nothing_and_two_do_not_mix(tmp_path):
    interruptions.make_inputs(tmp_path / "inputs")
    whole = interruptions.undisturbed(tmp_path, "train")
    assert "net.keras" in whole[1]
    cases = [
        *interruptions.ends(tmp_path, "train", whole, 1, ["KILL"]),
        *interruptions.checkpoints(tmp_path, "train"),
        *interruptions.pairs(tmp_path, "train"),
    ]
    assert len(cases) == 4
    assert {label: case.wrong for label, case in cases if case.wrong} == {}
