"""``mobilenets-tf search`` as a user meets it: the result, kills, the same bytes."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

from mobilenets_tf import ModelSource, SearchRequest, create_model, load_model, reach_latency
from mobilenets_tf.files import sha256_of
from mobilenets_tf.search.latency.base_file import file_of
from tests.conftest import photographs
from tests.support.synthetic_machine import table_of

pytestmark = pytest.mark.slow
SIZE = 32
ROWS = [[(3, 1, 16, True, "relu", 2)], [(3, 4, 24, False, "relu", 2), (5, 3, 24, True, "hard_swish", 1)]]


@pytest.fixture(scope="module", autouse=True)
def one_process():
    """Everything runs in this process: what a child process is for is tested elsewhere, and each takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mobilenets_tf.worker._inside", True)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of three classes that differ in brightness."""
    folder = tmp_path_factory.mktemp("pictures")
    for index, pixels in enumerate(photographs(270, size=SIZE)):
        place = folder / ("dark", "grey", "light")[index % 3]
        place.mkdir(exist_ok=True)
        Image.fromarray(((pixels + 1) * 50 + 70 * (index % 3)).astype(np.uint8)).save(place / f"{index:03}.png")
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A narrow MobileNetV3 with a manifest, as ``train`` writes it."""
    keras.utils.set_random_seed(0)
    model = create_model("mobilenet_v3_small", rows=ROWS, resolution=SIZE, classes=3, stem_filters=16)
    path = tmp_path_factory.mktemp("network") / "mine.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def asked(network, folder, worker, tmp_path_factory):
    """Options of a request with a table that a synthetic machine has made."""
    table = tmp_path_factory.mktemp("table") / "table.json"
    table_of(file_of(str(network), "float32", worker), "float32").write(table)
    return {
        "source": ModelSource(str(network), mean=127.5, std=127.5), "data": str(folder), "evaluate": str(folder),
        "scheme": "float32", "table": str(table), "target": 0.6, "step": 0.15, "steps": 3, "tried": 2, "epochs": 1,
        "batch_size": 16,
    }  # fmt: skip


@pytest.fixture(scope="module")
def whole(asked, tmp_path_factory):
    return reach_latency(SearchRequest(**asked, out=str(tmp_path_factory.mktemp("whole"))))


def test_the_result(whole):
    found = whole.found
    assert found.ms <= found.target_ms == pytest.approx(0.6 * found.base_ms)
    smaller = load_model(whole.path)
    for name, (before, after) in found.widths.items():
        assert smaller.get_layer(name).filters == after <= before if hasattr(smaller.get_layer(name), "filters") else 1
    assert sum(after for _, after in found.widths.values()) < sum(before for before, _ in found.widths.values())
    history = json.loads(whole.history.read_text())
    assert history["rows"] == found.rows
    assert len(found.rows) >= 3
    assert "<svg" in whole.chart.read_text()
    assert whole.deployed.path.is_file()
    assert whole.measured is not None
    assert whole.plan is None  # the rows are the user's own, so no registry name stands for the network


class _KilledError(Exception):
    pass


def test_killed_at_ten_moments_it_ends_in_the_same_bytes(asked, whole, tmp_path):
    out, moments = tmp_path / "killed", iter(range(3, 400, 9))
    kills = 0
    while True:
        left = [next(moments) if kills < 10 else None]

        def progress(label, done, total, left=left):
            if left[0] is not None:
                left[0] -= 1
                if left[0] <= 0:
                    raise _KilledError

        try:
            again = reach_latency(SearchRequest(**asked, out=str(out)), progress)
            break
        except _KilledError:
            kills += 1
    assert kills == 10
    assert again.found.rows == whole.found.rows
    assert sha256_of(again.path) == sha256_of(whole.path)
    assert sha256_of(again.deployed.path) == sha256_of(whole.deployed.path)


def test_the_other_methods_take_the_best_that_reaches_the_latency(asked, tmp_path):
    """The method pareto takes the same way but for the points that it asks for."""
    options = {name: value for name, value in asked.items() if name not in ("step", "tried")}
    searched = reach_latency(
        SearchRequest(**options | {"target": 0.9, "trials": 6}, method="random", out=str(tmp_path / "out"))
    )
    found = searched.found
    fast = [row for row in found.rows if row["ms"] <= found.target_ms]
    assert len(found.rows) == 6
    assert found.ms in [row["ms"] for row in fast]
    assert load_model(searched.path).count_params() < load_model(asked["source"].model).count_params()
