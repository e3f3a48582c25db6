import json

import pytest

from tests.support.forked import command as run
from tests.training.test_job import folder, network  # noqa: F401 (fixtures)


@pytest.mark.slow
def test_a_classifier_is_tuned_and_deployed(network, folder, tmp_path):  # noqa: F811
    words = ["--mean", 127.5, "--std", 127.5, "--epochs", 1, "--calibration-count", 32, "--input", "uint8", "--quiet"]
    done = run("qat", network, "--data", folder, *words, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "mine_int8_qat.tflite.json").read_text())
    assert manifest["passed"] and manifest["inputs"][0]["dtype"] == "uint8"
    assert len(manifest["fine_tuning"]["validation_accuracies"]) == 2
