"""benchmarks/papers.py: records, 30-layer network, arithmetic, and a run from files to tables and pictures."""

import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import keras
import numpy as np
import pytest

from mobilenets_tf import create_model, registry
from mobilenets_tf.conversion.convert import float_file
from mobilenets_tf.export.speed.timing import Timing
from mobilenets_tf.networks.costs.complexity import counts
from mobilenets_tf.worker import Worker

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import charts
import papers
from published import COMPARISONS, THIRTY_LAYERS, Correlation, Row

RECORDS = list(COMPARISONS.values())
EVERY_ROW = [row for record in RECORDS for row in record.rows]


def test_rows_are_networks_at_published_widths():
    for row in EVERY_ROW:
        if row.network == THIRTY_LAYERS:
            assert row.options.keys() <= {"activation", "squeeze", "skip"}
        elif row.options:
            assert row.options.keys() == {"alpha"} and row.options["alpha"] in registry.get(row.network).alphas
        else:
            registry.get(row.network)


@pytest.mark.parametrize("record", RECORDS, ids=list(COMPARISONS))
def test_records_hang_together(record):
    rows = {row.label: row for row in record.rows}
    assert len(rows) == len(record.rows)
    assert len({papers.Job(row, 224).name for row in record.rows}) == len(record.rows)
    for row in record.rows:
        assert len(row.figures) == len(record.columns)
        assert row.base is None or rows[row.base].base is None
    quick = record.rows[: papers.QUICK_ROWS]
    assert {row.base for row in quick} - {None} <= {row.label for row in quick}
    if not isinstance(record, Correlation):
        assert any(row.base and row.figures[0] for row in record.rows)


def test_correlation_is_over_the_whole_registry():
    rows = COMPARISONS["correlation"].rows
    assert {row.network for row in rows} == set(registry.list_models(task="classify"))
    assert sum(None not in row.figures for row in rows) == 13


@pytest.fixture(scope="module")
def baseline():
    return papers.thirty_layers()


def weighted(model):
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
    return [layer for layer in model.layers if isinstance(layer, kinds)]


def test_thirty_layers_are_mobilenet_v1_and_a_pair_more(baseline):
    v1 = create_model("mobilenet_v1")
    assert (len(weighted(v1)), len(weighted(baseline))) == (28, 30)
    pair = {"params_trainable": 512 * 9 + 512 * 512 + 4 * 512, "macs": 14 * 14 * (512 * 9 + 512 * 512)}
    for kind, more in pair.items():
        assert counts(baseline)[kind] - counts(v1)[kind] == more


@pytest.mark.parametrize("options", [{"activation": "gelu"}, {"activation": "hard_swish"}, {"skip": True}], ids=str)
def test_activations_and_skips_have_no_weights(baseline, options):
    changed = papers.thirty_layers(**options)
    assert counts(changed) == counts(baseline)
    assert [layer.get_config() for layer in weighted(changed)] == [layer.get_config() for layer in weighted(baseline)]
    # One for each of the ten depthwise convolutions of stride 1 and each of the nine 1x1 ones that keep the channels.
    adds = sum(isinstance(layer, keras.layers.Add) for layer in changed.layers)
    assert adds == (19 if options.get("skip") else 0)


def test_squeeze_and_excite_is_before_each_activation(baseline):
    changed = papers.thirty_layers(squeeze=True)
    widths = [layer.output.shape[-1] for layer in baseline.layers if isinstance(layer, keras.layers.ReLU)]
    assert len(widths) == 29
    more = sum(2 * width * (width // 16) + width // 16 + width for width in widths)
    assert counts(changed)["params_trainable"] - counts(baseline)["params_trainable"] == more


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 1000], 1),
        ([1, 2, 3, 4], [9, 7, 5, 1], -1),
        ([1, 2, 3, 4, 5], [5, 6, 7, 8, 7], 0.8207826816681233),  # the example of scipy.stats.spearmanr
        ([1, 2, 3, 4, 5, 6], [2, 1, 4, 3, 6, 5], 1 - 6 * 6 / (6 * 35)),  # 1 - 6 sum(d^2) / (n (n^2 - 1))
        ([1, 2, 3], [1, 1, 1], np.nan),
    ],
)
def test_spearman(a, b, expected):
    assert papers.spearman(a, b) == pytest.approx(expected, nan_ok=True)


def test_published_ratios_are_to_each_rows_base():
    rows = [
        Row("a", "mobilenet_v1", (10, None)),
        Row("a int8", "mobilenet_v1", (4, 3), "a"),
        Row("b", "mobilenet_v2", (5, 8)),
        Row("b int8", "mobilenet_v2", (1, 6), "b"),
    ]
    assert papers.published_ratios(rows, 0) == [1, 0.4, 1, 0.2]
    assert papers.published_ratios(rows, 1) == [None, None, 1, 0.75]


def test_pairs_in_another_order():
    theirs, ours = [1.0, 0.5, 0.81, 0.8], [1.0, 0.9, 0.6, 0.7]  # 0.8 and 0.81 are as good as the same
    assert list(papers.reversed_pairs(theirs, ours)) == [(1, 2), (1, 3)]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder with tiny files under the names of those that a quick run would build."""
    folder = tmp_path_factory.mktemp("kept")
    contents = []
    with Worker() as worker:
        for width in (4, 8, 16):
            model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(width, 3, activation="relu")])
            contents.append(float_file(model, worker)[1])
    for record in RECORDS:
        for number, row in enumerate(record.rows[: papers.QUICK_ROWS]):
            name = papers.Job(row, papers.QUICK_RESOLUTION).name
            (folder / f"{name}.tflite").write_bytes(contents[number])
            (folder / f"{name}.json").write_text(json.dumps({"params_trainable": 10 + number, "macs": 30 - number}))
    return folder


@pytest.mark.slow
def test_a_quick_run_prints_tables_and_draws_pictures(kept, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["papers.py", "all", "--quick", "--keep", str(kept), "--out", str(tmp_path)])
    papers.main()
    printed = capfd.readouterr().out
    assert "building" not in printed
    for name, record in COMPARISONS.items():
        assert f"{name}: {record.title}\n  {record.source}\n" in printed
        picture = (tmp_path / f"{name}.svg").read_text()
        shown = "".join(ElementTree.fromstring(picture).itertext())
        assert record.title in shown and "This is not a phone." in shown
        document = json.loads((tmp_path / f"{name}.json").read_text())
        assert len(document["measured"]) == papers.QUICK_ROWS
    assert "0.80" in printed and "0.54" in printed  # MobileNetV3 large on a Pixel 1, and Lite0 in int8 on a Pixel 4
    assert "the paper's networks" in printed


def test_pictures_have_the_same_bytes_for_the_same_numbers():
    comparison, correlation = COMPARISONS["activations"], COMPARISONS["correlation"]
    series = {"iPhone 12": [1.0, 1.4, None], "here": [1.0, 1.2, 1.1]}
    bars = [charts.bars(comparison, comparison.rows[:3], series, ["caption"]) for _ in range(2)]
    assert bars[0] == bars[1] and "no figure to compare with" in bars[0]
    timings = [Timing((float(number),)) for number in range(1, 5)]
    counted = [{"params_trainable": 10**number, "macs": 10**number} for number in range(6, 10)]
    given = correlation, correlation.rows[:4], timings, counted, {"here, all 4 networks": [1.0, 1.0]}, ["caption"]
    assert charts.scatter(*given) == charts.scatter(*given)


def test_an_unknown_comparison_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["papers.py", "v4_against_v3"])
    with pytest.raises(SystemExit) as stopped:
        papers.main()
    assert stopped.value.code == 2 and "v3_against_v2" in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_not_there_is_built_a_file_and_its_counts(tmp_path, capfd):
    job = papers.Job(Row("", THIRTY_LAYERS, (), options={"squeeze": True}, scheme="int8"), 32)
    papers.build_missing([job, job], tmp_path)
    assert capfd.readouterr().out == f"building {job.name}\n"
    papers.build_missing([job], tmp_path)
    assert not capfd.readouterr().out
    (timing,) = papers.measure([job], tmp_path, 1, 1)
    assert timing.delegated_partitions == 1 and dict(timing.outside) == {"SOFTMAX": 1}
    found = json.loads((tmp_path / f"{job.name}.json").read_text())
    assert found == counts(papers.thirty_layers(squeeze=True, resolution=32))
