"""benchmarks/interruptions.py in its shortest form: a training that is killed, and two at a time on one folder."""

import sys

import pytest

from benchmarks import interruptions


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_training_leaves_nothing_and_two_do_not_mix(tmp_path):
    """That a training gives the same bytes after an interruption is in tests/training/test_job.py."""
    interruptions.make_inputs(tmp_path / "inputs")
    case = interruptions.Case(tmp_path / "train")
    checkpoint = interruptions.killed_at_checkpoint(case, "train")
    assert checkpoint is not None and case.status == -9
    interruptions.offer_damaged(case, "train", checkpoint)
    interruptions.run_twice(case, "train")  # one goes on, the other is refused, or comes when the first has ended
    assert case.wrong == [] and "net.keras" in interruptions.results(case.out) and not checkpoint.exists()
