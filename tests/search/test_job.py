"""``mobilenets-tf search`` as a user meets it: the result, kills, the same bytes."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

from mobilenets_tf import (
    ModelSource,
    Plan,
    QatRequest,
    SearchRequest,
    create_model,
    load_model,
    qat,
    reach_latency,
)
from mobilenets_tf.files import sha256_of, to_json
from mobilenets_tf.search.latency.base_file import file_of
from tests.conftest import photographs
from tests.support.synthetic_machine import table_of

pytestmark = pytest.mark.slow
SIZE = 32
# Of few layers: most of the time goes into building, tracing and converting, and an interrupted search does so again.
PLAN = Plan("mobilenet_v1", {"alpha": 0.5, "rows": [[96, 1, 1], [128, 1, 2]], "resolution": SIZE, "classes": 3})


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
    """A short MobileNetV1 with a manifest that has its plan, as of a network that was trained twice."""
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("network") / "mine.keras"
    create_model(PLAN).save(path)
    path.with_name("mine.keras.json").write_text(to_json({"plan": PLAN.plain()}))
    return path


@pytest.fixture(scope="module")
def asked(network, folder, worker, tmp_path_factory):
    """Options of a request with a table that a synthetic machine has made."""
    table = tmp_path_factory.mktemp("table") / "table.json"
    table_of(file_of(str(network), "float32", worker), "float32").write(table)
    return {
        "source": ModelSource(str(network), mean=127.5, std=127.5), "data": str(folder), "evaluate": str(folder),
        "scheme": "float32", "table": str(table), "target": 0.6, "step": 0.1, "steps": 3, "tried": 2, "epochs": 1,
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
    assert len(found.rows) >= 2
    assert "<svg" in whole.chart.read_text()
    assert whole.deployed.path.is_file()
    assert whole.measured is not None
    planned = Plan.read(whole.plan)
    assert (planned.network, planned.options) == (PLAN.network, PLAN.options)
    assert [w.shape for w in create_model(planned).weights] == [w.shape for w in smaller.weights]
    assert ModelSource(str(whole.path)).plan == planned  # from which another search of the result goes on


def test_the_result_can_be_fine_tuned_for_int8(whole, asked, tmp_path):
    pytest.importorskip("tensorflow_model_optimization")
    tuned = qat(
        QatRequest(str(whole.path), asked["data"], str(tmp_path), epochs=1, batch_size=32, calibration_count=16)
    )
    training = tuned.manifest["fine_tuning"]
    score = training["validation_accuracies"][training["best_epoch"]]
    assert tuned.fine_tuned.score == pytest.approx(score, abs=1e-9)  # the file answers as the model in training did
    assert tuned.passed


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
