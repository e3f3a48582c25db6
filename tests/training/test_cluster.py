"""What TF_CONFIG and Slurm say."""

import json

import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.training import cluster, distribution

TWO = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}


def test_workers(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_NTASKS", "SLURM_STEP_NODELIST"):
        monkeypatch.delenv(name, raising=False)
    assert cluster.workers() == 0
    monkeypatch.setenv("TF_CONFIG", json.dumps(TWO))
    assert cluster.workers() == 2
    monkeypatch.setenv("TF_CONFIG", " ")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert cluster.workers() == 0  # an allocation, but no step that runs
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[1-4]")
    assert cluster.workers() == 4


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '"cluster"',
        json.dumps(TWO | {"task": {"type": "ps", "index": 0}}),
        json.dumps(TWO | {"task": {"type": "worker", "index": 2}}),
        json.dumps(TWO | {"cluster": {"chief": ["a:1"], "worker": ["b:1"]}}),
        json.dumps(TWO | {"cluster": {"worker": 3}}),
    ],
)
def test_a_wrong_tf_config_is_quoted(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(RequestError, match="TF_CONFIG=.* is not as it should be .* For example: "):
        cluster.workers()


def test_no_cluster_and_unknown_kinds(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(RequestError, match="No cluster to be found: set TF_CONFIG"):
        distribution.set_up("multi_worker")
    with pytest.raises(RequestError, match="Unknown distribution 'mirored'. Did you mean 'mirrored'"):
        distribution.set_up("mirored")
    place = distribution.set_up("none")
    assert (place.replicas, place.worker, place.workers, place.writes) == (1, 0, 1, True)


def test_slurm_is_asked_for_the_cluster(monkeypatch):
    for name, value in (
        ("PROCID", "3"), ("NTASKS", "4"), ("STEP_NUM_TASKS", "4"), ("STEP_NODELIST", "node[1-2]"),
        ("STEP_TASKS_PER_NODE", "2(x2)"),
    ):  # fmt: skip
        monkeypatch.setenv(f"SLURM_{name}", value)
    config = json.loads(distribution._of_slurm())
    assert config["task"] == {"type": "worker", "index": 3}
    assert config["cluster"]["worker"] == ["node1:8888", "node1:8889", "node2:8888", "node2:8889"]
