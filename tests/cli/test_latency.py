"""mobilenets-tf latency. No figure is compared with a time."""

import json

import pytest

from mobilenets_tf import LatencyTable
from mobilenets_tf.cli import main
from mobilenets_tf.search.latency import table
from tests.support.synthetic_machine import SyntheticMachine


@pytest.fixture
def model(tmp_path, small):
    path = tmp_path / "small.keras"
    small.save(path)
    return str(path)


@pytest.mark.slow
def test_a_table_of_this_machine(model, tmp_path, capsys):
    out = tmp_path / "table.json"
    command = [
        "latency",
        model,
        "--scheme",
        "float32",
        "--networks",
        "5",
        "--minutes",
        "0",
        "--out",
        str(out),
        "--quiet",
    ]
    assert main(command) == 0
    head, litert, operators, _, columns, ours, others, written = capsys.readouterr().out.splitlines()
    assert head.startswith("Measured on ") and "1 thread, float32" in litert
    assert operators.endswith(" operators of 5 networks.")
    assert "rank correlation" in columns and ours.startswith("this table") and others.startswith("multiply-adds alone")
    assert written == f"Table: {out}"
    assert LatencyTable.read(out).predict(model) > 0


def test_one_json_document(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(table, "_device", lambda request: SyntheticMachine())
    out = tmp_path / "table.json"
    command = ["latency", model, "--networks", "6", "--kernels", "3", "5", "--out", str(out), "--json", "--quiet"]
    assert main(command) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["machine"]["processor"] == "synthetic" and document["networks"] == 6
    assert document["entries"] == len(json.loads(out.read_text())["entries"])
    assert set(document["error"]) == {"networks", "median", "within_5", "within_10", "rank_correlation"}


def test_wrong_requests(tmp_path, capsys):
    out = str(tmp_path / "table.json")
    for arguments, message in (
        (["mobilenet_v3_smal", "--out", out], "Did you mean 'mobilenet_v3_small'"),
        (["mobilenet_v3_small", "--out", out, "--scheme", "int9"], "Did you mean 'int8'"),
        (["mobilenet_v3_small", "--out", out, "--networks", "2"], "networks=2: expected 5 to 2000 (--networks)"),
        (["mobilenet_v3_small", "--out", out, "--serial", "X"], "needs android (--android)"),
        (["mobilenet_v3_small", "--out", out, "--resolution", "20"], "resolution=20 is out of range"),
        (["mobilenet_v3_small", "--out", "/proc/none/table.json"], "/proc/none"),
    ):
        assert main(["latency", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error
