"""benchmarks/experiments: variants, their results, and the page."""

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from experiments import page, paper_size, results, run, spiral, streets
from experiments.networks import multipliers, v1, v2
from experiments.variants import Experiment, Variant

from mobilenets_tf import counts
from mobilenets_tf.progress import silent

SCRIPT = Path(run.__file__)


def nothing(small: bool, side: int):
    raise AssertionError("no network is built for this")


def record(right: np.ndarray, **more) -> dict:
    return {
        "counts": {"params_trainable": 1000, "macs": 2_000_000}, "right": results.as_text(right), "images": 64,
        "epochs": 2, "batch_size": 8, "steps": 16,
    } | more  # fmt: skip


EXPERIMENT = Experiment(
    "some", "Some networks", "A claim.", "A paper", "top-1",
    (Variant("a", "first", nothing, "70 %"), Variant("b", "second", nothing), Variant("c", "third", nothing)),
    against={"c": "b"},
)  # fmt: skip


@pytest.fixture
def trainings():
    random = np.random.default_rng(0)
    hard = random.random(1000) < 0.5
    better = hard.copy()
    better[:200] = True
    return {
        "a": {str(seed): record(hard) for seed in range(3)},
        "b": {str(seed): record(better) for seed in range(3)},
        "c": {"0": record(better, int8={"ours": results.as_text(hard)})},
    }


@pytest.mark.parametrize("count", [0, 1, 8, 1001])
def test_right_answers_as_text(count):
    right = np.random.default_rng(0).random(count) < 0.5
    assert (results.as_array(results.as_text(right)) == right).all()


def test_a_variant_is_compared_with_its_base(trainings):
    first, second, third = results.lines(EXPERIMENT, trainings)
    assert first.difference is None and first.base is None
    assert second.base.key == "a" and second.difference[1] > 0.05
    assert third.base.key == "b" and third.seeds == 1
    assert third.difference == (0, 0, 0)  # of the seed that both have
    assert third.integers["ours"][2] < -0.05
    assert page.verdict(second) == "better" and page.verdict(third) == "one training"
    assert page.verdict(replace(third, pairs=3)) == "not shown" and page.verdict(first) == ""


def test_the_page_has_what_there_is(trainings):
    documents = {"some": {"trainings": trainings, "paper_size": {"a": {"params": 4_231_976, "macs": 568_740_352}}}}
    written, images = page.text({"some": EXPERIMENT}, documents)
    row = next(line for line in written.splitlines() if line.startswith("| first"))
    assert [cell.strip() for cell in row.split("|")][2:4] == ["4.23 M", "569 M"] and "70 %" in row
    assert page.short(153_349_206_856) == "153 B" and page.short(401_408) == "401 K" and page.short(999) == "0.999 K"
    assert "64 images, 2 epochs, batches of 8 (16 steps)" in written and "1,000 other images" in written
    assert "| third | -" in written  # the table of int8 files
    assert list(images) == ["some.svg"] and images == page.text({"some": EXPERIMENT}, documents)[1]
    empty, images = page.text({"some": EXPERIMENT}, {})
    assert "Not run yet" in empty and "| first" not in empty and not images


def test_results_of_two_commands_stand_side_by_side():
    old = {"trainings": {"a": {}}, "paper_size": {"a": {"params": 1}, "b": {"params": 2}}}
    new = run.merged(old, {"paper_size": {"a": {"int8": 3}}})
    assert new == {"trainings": {"a": {}}, "paper_size": {"a": {"params": 1, "int8": 3}, "b": {"params": 2}}}
    assert run.merged({}, {"rows": []}) == {"rows": []}


def test_keys_name_one_network_each():
    named: dict[str, Variant] = {}
    for experiment in run.EXPERIMENTS.values():
        keys = [variant.key for variant in experiment.variants]
        assert len(set(keys)) == len(keys)
        assert set(experiment.against) | set(experiment.against.values()) <= set(keys)
        for variant in experiment.variants:
            first = named.setdefault(variant.key, variant)
            assert (first.recipe, first.side, first.crop) == (variant.recipe, variant.side, variant.crop)
    assert {each.key for each in multipliers.EXPERIMENTS[0].variants} >= {v1.BASE.key, v2.BASE.key}


@pytest.fixture
def streets_found():
    """Two photographs, three seeds, two classes in equal parts: a quarter of each class is wrong, or all is right."""
    counts = {"16": [[30, 30], [40, 40], [40, 40]], "8": [[40, 40]] * 3}  # right, true, predicted
    found = {key: [[each, each]] * 3 for key, each in counts.items()}
    found["8"] = [found["8"][0], found["8"][0], found["16"][0]]
    return found


def test_miou_and_its_difference_have_intervals_over_photographs_and_seeds(streets_found):
    rows = streets.intervals(streets_found)
    assert rows["16"]["miou"] == pytest.approx([0.6] * 3)  # 30 / (40 + 40 - 30)
    mean, low, high = rows["8"]["difference"]
    assert mean == pytest.approx((0.4 + 0.4 + 0) / 3) and low == pytest.approx(0) and high == pytest.approx(0.4)
    assert "difference" not in rows["16"]


def test_a_class_that_no_photograph_has_does_not_count():
    assert streets.mean_iou(np.array([[30, 0], [40, 0], [40, 0]], np.float64)) == pytest.approx(0.6)


def test_trainings_with_other_settings_are_not_taken(tmp_path, monkeypatch):
    epochs = []
    monkeypatch.setattr(streets, "trained", lambda data, folder, rates, chosen, *_: epochs.append(chosen.epochs))
    monkeypatch.setattr(streets, "judged", lambda file, data, variant, side: [[[side]] * 3])
    for given in (1, 1, 2):
        chosen = argparse.Namespace(keep=tmp_path, side=96, epochs=given, seeds=[0])
        assert streets.records(tmp_path, chosen, silent)["8_aspp"] == [[[[96]] * 3]]
    assert epochs == [1] * 4 + [2] * 4


def test_the_section_of_the_streets(streets_found):
    document = {"side": 96, "epochs": 2, "seeds": 3, "rows": streets.intervals(streets_found)}
    written = page.streets_section(document)
    assert "96 x 96" in written and "| stride 16 | 60.0 (60.0 to 60.0) |  | 75.32 |" in written
    assert "| stride 8, multi-scale, mirrored | 86.7 (60.0 to 100.0) | +26.7 (+0.0 to +40.0) | 77.33 |" in written


@pytest.mark.parametrize("dimensions", spiral.DIMENSIONS)
def test_the_spiral_loses_as_much_as_expected(dimensions):
    # A matrix loses whole arcs, so the mean of the draws scatters.
    assert spiral.lost(dimensions, draws=300) == pytest.approx(spiral.expected(dimensions), abs=0.04)


def test_what_is_found_again_comes_back_where_all_values_are_above_zero():
    points = np.array([[1.0, 2.0]])
    random = np.random.default_rng(3)
    for _ in range(20):
        back, found = spiral.through_relu(points, 2, random)
        assert found[0] == np.allclose(back, points)


def test_a_part_of_a_network_is_counted_alone():
    def network(units):
        return lambda small, side: keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(n) for n in units)])

    whole, head = (
        Variant(key, key, network((8, 3)), without=without) for key, without in (("a", None), ("b", network((8,))))
    )
    found = paper_size.count(replace(EXPERIMENT, variants=(whole, head)), silent)
    assert found == {"a": {"params": 40 + 27, "macs": 32 + 24}, "b": {"params": 27, "macs": 24}}


@pytest.mark.parametrize(
    ("scale", "params", "macs"),
    [(0.5, None, 38e6), (1.0, None, 137e6), (1.5, 3.4e6, 292e6), (2.0, 5.4e6, 524e6)],
)
def test_shufflenet_has_the_published_counts(scale, params, macs):
    from experiments.networks.shufflenet import ShuffleNet

    found = counts(ShuffleNet(scale))
    assert round(found["macs"], -6) == macs
    assert params is None or found["params_trainable"] == pytest.approx(params, abs=0.06e6)


def test_full_convolutions_have_the_published_counts():
    found = counts(v1.full_convolutions(False, 0))
    assert found["macs"] == pytest.approx(4866e6, abs=2e6) and found["params_trainable"] == pytest.approx(
        29.3e6, abs=5e4
    )


def test_dynamic_activations_give_their_shape():
    import keras
    from experiments.networks import activations

    inputs = keras.Input((8, 8, 6))
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 6)).astype(np.float32)
    for activation in (activations.dynamic_relu, activations.dynamic_relu_b, activations.dynamic_shift_max):
        model = keras.Model(inputs, activation(inputs, "act"))
        assert model(x).shape == x.shape
    model = keras.Model(inputs, activations.dynamic_relu(inputs, "act"))
    for name in ("act_parameters_inner", "act_parameters"):  # parameters of 0: the slopes are 1 and 0
        layer = model.get_layer(name)
        layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
    assert np.allclose(model(x), np.maximum(x, 0), atol=1e-6)


@pytest.mark.slow
def test_an_experiment_runs_and_goes_on(tmp_path):
    command = [sys.executable, str(SCRIPT), "v1_resolution", "--quick"]
    command += ["--keep", str(tmp_path / "kept"), "--results", str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "40 pixels" in done.stdout
    kept = {path.name: path.read_bytes() for path in (tmp_path / "kept" / "quick").glob("*.json")}
    assert set(kept) == {f"v1_side_{side}_0.json" for side in (48, 40, 32)}
    assert not list((tmp_path / "kept").glob("*.json"))  # which would be taken for whole trainings
    document = results.read(tmp_path / "results" / "v1_resolution.json")
    assert len(results.as_array(document["trainings"]["v1_side_48"]["0"]["right"])) == 40
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout == done.stdout
    assert kept == {path.name: path.read_bytes() for path in (tmp_path / "kept" / "quick").glob("*.json")}
