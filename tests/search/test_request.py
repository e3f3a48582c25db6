"""What a search refuses before any work is done."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image

from mobilenets_tf import (
    LatencyTable,
    ModelSource,
    Plan,
    RequestError,
    SearchRequest,
    TrainRequest,
    channel_groups,
    create_model,
    reach_latency,
)
from mobilenets_tf.files import to_json
from mobilenets_tf.progress import silent
from mobilenets_tf.search.finding import check_model, plan_of
from mobilenets_tf.search.job import _measured, _own_table
from mobilenets_tf.search.netadapt import Course
from mobilenets_tf.search.request import check
from mobilenets_tf.search.saved import course_of, trials_of
from mobilenets_tf.training.checkpoints import Checkpoint
from mobilenets_tf.training.request import _teacher
from tests.conftest import photographs
from tests.support.synthetic_machine import table_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of two classes that differ in brightness: 300, for too few 30, and three of three classes."""
    folder = tmp_path_factory.mktemp("pictures")
    for index, pixels in enumerate(photographs(300, size=16)):
        for part, count in (("many", 300), ("few", 30), ("other", 3)):
            if index < count:
                place = folder / part / ("dark", "light", "other")[index % (3 if part == "other" else 2)]
                place.mkdir(parents=True, exist_ok=True)
                content = ((pixels + 1) * 60 + 100 * (index % 2)).astype(np.uint8)
                Image.fromarray(content).save(place / f"{index:03}.png")
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(16, 3, activation="relu")(inputs))
    path = tmp_path_factory.mktemp("network") / "mine.keras"
    keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(x)).save(path)
    return path


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"target": None}, "--target SHARE or --target-ms MS"),
        ({"target_ms": 3.0}, "--target SHARE or --target-ms MS"),
        ({"target": 1.5}, r"target=1.5: expected more than 0 and less than 1. For 1.5 % give 0.015"),
        ({"target": 0.0}, "target=0"),
        ({"step": 1.0}, "step=1"),
        ({"decay": 0.1}, "decay=0.1"),
        ({"steps": 0}, "steps=0"),
        ({"tried": 0}, "tried=0"),
        ({"scheme": "int16x8"}, "Unknown scheme to search for 'int16x8'"),
        ({"importance": "los"}, "Did you mean 'loss'"),
        ({"distill": 2.0}, "distill=2"),
        ({"method": "netadap"}, "Did you mean 'netadapt'"),
        ({"method": "random", "vary": ("width",)}, "Did you mean 'widths'"),
        ({"vary": ("widths",)}, "NetAdapt changes widths alone"),
        ({"method": "random", "reward": "tunas"}, "is for the method pareto"),
        ({"method": "pareto", "reward": "tuna"}, "Did you mean 'tunas'"),
        ({"trials": 0}, "trials=0"),
        ({"table": "nowhere.json"}, "nowhere.json cannot be read"),
        ({"elsewhere": True}, "elsewhere"),
        ({"data": "few"}, "expected at least 50"),
        ({"data": "nowhere"}, "nowhere"),
        ({"evaluate": "nowhere"}, "nowhere"),
        ({"evaluate": "other"}, "sub-folder"),
        ({"source": "mobilenet_v1"}, "Not on this machine|would be random"),
        ({"source": "mobilenet_v1", "weights": "random"}, "would be random"),
    ],
)
def test_wrong_requests_are_refused_before_any_work(wrong, words, folder, network, tmp_path):
    options = {"source": str(network), "data": "many", "target": 0.5} | wrong
    for name in ("data", "evaluate"):
        if (folder / options.setdefault(name, "many")).is_dir():
            options[name] = str(folder / options[name])
    source = ModelSource(options.pop("source"), options.pop("weights", None), mean=127.5, std=127.5)
    with pytest.raises(RequestError, match=words):
        request = SearchRequest(source, out=str(tmp_path / "out"), **options)
        reach_latency(request)
    assert not list((tmp_path / "out").rglob("*.tflite"))


@pytest.fixture
def asked(folder, network, tmp_path):
    """A function: options -> a request that can be met."""
    source, many = ModelSource(str(network), mean=127.5, std=127.5), str(folder / "many")
    return lambda **options: SearchRequest(source, many, many, str(tmp_path / "out"), **{"target": 0.5} | options)


def test_a_right_request_passes_the_check(asked):
    task = check(asked())
    assert len(task.job.validation) == 60
    assert len(task.job.training) == 240


def test_an_unfinished_search_of_another_request_is_not_taken_up(asked, contents):
    table = table_of(contents["float32"], "float32", networks=5)
    check(asked(steps=3)).checkpoint(table).write({"kept/a": np.ones(2, bool)}, {"rounds": []})
    assert check(asked(steps=3)).checkpoint(table).read()[1]["rounds"] == []
    with pytest.raises(RequestError, match="steps=3, not 4"):
        check(asked(steps=4)).checkpoint(table).read()
    with pytest.raises(RequestError, match="sha256 of the table"):
        check(asked(steps=3)).checkpoint(table_of(contents["float32"], "float32", networks=6)).read()


def test_a_registered_network_gets_a_plan_and_a_network_of_other_rows_does_not(tmp_path):
    source = ModelSource("mobilenet_v1", alpha=0.25, resolution=32, classes=3)
    model = source.build()
    widths = {name: (group.width, group.width) for name, group in channel_groups(model).groups.items()}
    widths["stem_conv"] = (8, 4)
    plan = plan_of(source, widths)
    assert plan == Plan("mobilenet_v1", {"alpha": 0.25, "resolution": 32, "classes": 3}, {"stem_conv": 4})
    assert plan_of(source, widths | {"stem_conv": (16, 8)}) is None
    assert plan_of(ModelSource(model), widths) is None
    # A file of this network that was trained twice and searched: its manifest has the plan of what it began with.
    path = tmp_path / "again.keras"
    path.touch()
    again = {"model": {"model": "somewhere/first.keras"}, "plan": plan.plain()}
    path.with_name("again.keras.json").write_text(to_json(again))
    assert ModelSource(str(path)).plan == plan
    last = next(reversed(widths))
    fewer = {"stem_conv": (4, 4), last: (widths[last][0], 8)}
    assert plan_of(ModelSource(str(path)), widths | fewer).channels == {"stem_conv": 4, last: 8}
    assert plan_of(ModelSource(str(path)), widths | {"stem_conv": (8, 4)}) is None  # it has 4 already
    for damaged, told in (({"format": "?"}, "The plan in .*again.keras.json is not a plan"), ([], "plan is")):
        path.with_name("again.keras.json").write_text(to_json(again | {"plan": damaged}))
        with pytest.raises(RequestError, match=told):
            plan_of(ModelSource(str(path)), widths)


def test_trials_go_on_where_more_are_asked_for_or_another_latency(asked, contents):
    table = table_of(contents["float32"], "float32", networks=5)
    first = asked(method="random", trials=3)
    check(first).checkpoint(table).write({}, {"trials": []})
    for changed in ({"trials": 5}, {"target": 0.7}, {"epochs": 3}):
        assert check(asked(method="random", **{"trials": 3} | changed)).checkpoint(table).read() is not None
    with pytest.raises(RequestError, match="steps=40, not 3"):
        check(asked(method="random", steps=3)).checkpoint(table).read()


@pytest.mark.parametrize("name", ["mine.keras", "mine.plan.json", "mine.search.json"])
def test_a_file_in_the_place_of_the_result_is_refused_before_the_search(name, asked):
    request = asked()
    Path(request.out).mkdir()
    Path(request.out, name).write_text("mine")
    with pytest.raises(RequestError, match=f"{name} is there and is not an earlier result.*--overwrite"):
        check(request)
    check(asked(overwrite=True))


def test_the_result_of_a_search_for_another_latency_is_not_replaced(asked):
    request = asked()
    about = {"files": [], "model": request.source.facts(), "options": request.options()}
    Path(request.out).mkdir()
    Path(request.out, "mine.search.json").write_text(to_json(about))
    check(request)
    with pytest.raises(RequestError, match="result of another request .target=0.5, not 0.7"):
        check(asked(target=0.7))


def test_a_network_whose_head_would_be_fresh_for_the_images_is_refused(folder, tmp_path):
    weights = tmp_path / "three.weights.h5"
    create_model("mobilenet_v1", alpha=0.25, resolution=32, classes=3).save_weights(weights)
    source = ModelSource("mobilenet_v1", str(weights), alpha=0.25, resolution=32)
    many = str(folder / "many")
    with pytest.raises(RequestError, match="the head of 2 classes of mobilenet_v1 would be random"):
        check(SearchRequest(source, many, many, str(tmp_path / "out"), target=0.5))


def test_masks_have_the_void_of_the_training(network, tmp_path):
    path = tmp_path / "mine.keras"
    path.write_bytes(network.read_bytes())
    path.with_name("mine.keras.json").write_text(to_json({"task": "segment", "options": {"void": 7}}))
    request = SearchRequest(str(path), "masks", "masks", str(tmp_path / "out"), target=0.5)
    assert request.training().void == request.last_training().void == 7
    assert replace(request, void=9).training().void == 9


def test_the_task_of_a_network_from_elsewhere_can_be_said(network, tmp_path, monkeypatch):
    """Pictures of 16 pixels with masks in two classes; whether the network fits is seen when it is built."""
    monkeypatch.setattr("mobilenets_tf.search.request._LEAST_IMAGES", 2)
    for number in range(16):
        for part, pixels in (("images", np.zeros((16, 16, 3))), ("masks", np.arange(256).reshape(16, 16) // 128)):
            (tmp_path / part).mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / part / f"{number}.png")
    source, data = ModelSource(str(network), mean=127.5, std=127.5), str(tmp_path)
    task = check(SearchRequest(source, data, data, str(tmp_path / "out"), target=0.5, task="segment", scheme="float32"))
    assert (task.job.request.task, task.job.classes) == ("segment", 2)
    with pytest.raises(RequestError, match="Unknown task 'segmen'. Did you mean 'segment'"):
        check(SearchRequest(source, data, data, str(tmp_path / "out"), target=0.5, task="segmen"))
    with pytest.raises(RequestError, match="a segmenter of 2 classes has one of .None, height, width, 2."):
        check_model(task)


def test_the_table_of_an_interrupted_search_is_used_again_if_it_is_of_the_same_model(asked, contents, monkeypatch):
    measured = []
    monkeypatch.setattr(LatencyTable, "measure", lambda request, progress: measured.append(request))
    monkeypatch.setattr("mobilenets_tf.search.job._check_model", lambda task: None)
    monkeypatch.setattr("mobilenets_tf.worker._inside", True)  # no child process, which has the real one
    task = check(asked(scheme="float32"))
    request = task.request
    table, path = table_of(contents["float32"], "float32", networks=5), Path(str(request.tabling().out))
    for model, machine, again in (
        (request.source.facts(), table.machine, False),
        (request.source.facts() | {"weights_sha256": "another"}, table.machine, True),
        (request.source.facts(), replace(table.machine, processor="another"), True),
    ):
        measured.clear()
        replace(table, model=model, machine=machine).write(path)
        _own_table(task, silent)
        assert bool(measured) == again


@pytest.mark.parametrize(
    ("arrays", "about"),
    [
        ({}, {"rounds": []}),
        ({"kept/a": np.ones(3, bool), "state/w": np.ones(4)}, {"rounds": []}),
        ({"kept/a": np.ones(2), "state/w": np.ones(4)}, {"rounds": []}),
        ({"kept/a": np.ones(2, bool), "state/w": np.array(list("abcd"))}, {"rounds": []}),
        ({"kept/a": np.ones(2, bool), "state/w": np.ones(4)}, {}),
        ({"kept/a": np.ones(2, bool), "state/w": np.ones(4)}, {"rounds": [{"ms": 1.0}]}),
        ({"kept/a": np.ones(2, bool), "state/w": np.ones(4)}, {"rounds": [{"ms": 1, "score": 1, "proposals": [3]}]}),
        (
            {"kept/a": np.ones(2, bool), "state/w": np.ones(4)},
            {"rounds": [{"ms": np.nan, "score": 1, "proposals": []}]},
        ),
        ({"kept/a": np.zeros(2, bool), "state/w": np.ones(4)}, {"rounds": []}),
    ],
)
def test_a_checkpoint_that_no_netadapt_leaves_is_refused(arrays, about, tmp_path):
    start = Course({"a": np.ones(2, bool)}, {"w": np.zeros(4)})
    with pytest.raises(RequestError, match="x.npz is damaged.*Remove it"):
        course_of(start, (arrays, about), Checkpoint(tmp_path / "x.npz", {}, ""))


@pytest.mark.parametrize(
    "trials",
    [
        3,
        [3],
        [{"number": 0}],
        [{"number": 0, "point": [], "score": {"loss": 1, "score": 1}, "ms": 1}],
        [{"number": 0, "point": {}, "score": {"loss": 1, "score": 1}, "ms": 10**400}],
    ],
)
def test_a_checkpoint_that_no_trials_leave_is_refused(trials, tmp_path):
    with pytest.raises(RequestError, match="x.npz is damaged.*Remove it"):
        trials_of(({}, {"trials": trials}), Checkpoint(tmp_path / "x.npz", {}, ""))


def test_a_damaged_checkpoint_is_refused_before_any_work(asked):
    request = asked()
    request.checkpoint.parent.mkdir(parents=True)
    request.checkpoint.write_bytes(b"PK")
    with pytest.raises(RequestError, match="search.npz is damaged or not a checkpoint of a search .*Remove it"):
        check(request)
    check(replace(request, restart=True))


def test_the_checkpoint_of_another_search_is_refused_before_any_work(asked, contents, tmp_path):
    table = table_of(contents["float32"], "float32", networks=5)
    table.write(tmp_path / "table.json")
    given = {"scheme": "float32", "table": str(tmp_path / "table.json")}
    check(asked(**given)).checkpoint(table).write({}, {"rounds": []})
    check(asked(**given))
    with pytest.raises(RequestError, match="is of an unfinished search with steps=.*--restart"):
        check(asked(**given, steps=7))


def test_a_trial_that_diverged_is_one_after_an_interruption_too(tmp_path):
    row = {"number": 0, "point": {"widths/a": 8}, "score": {"loss": None, "score": 0.5}, "ms": 1.0}
    (trial,) = trials_of(({}, {"trials": [row]}), Checkpoint(tmp_path / "x.npz", {}, ""))
    assert not trial.finite


def test_a_network_whose_input_is_not_known_is_refused_before_a_table_is_measured(folder, network, tmp_path):
    many = str(folder / "many")
    task = check(SearchRequest(str(network), many, many, str(tmp_path / "out"), target=0.5))
    with pytest.raises(RequestError, match="does not say how its input is normalised"):
        check_model(task)


def test_a_kind_of_change_that_the_network_does_not_have_is_refused_before_a_table_is_measured(asked):
    with pytest.raises(RequestError, match="'depth' may change of registered networks only"):
        check_model(check(asked(method="random", vary=("depth",))))


@pytest.mark.parametrize(("task", "timed"), [("classify", b"deployed"), ("detect", b"bare"), ("segment", b"bare")])
def test_the_result_is_timed_without_what_deploy_appends(task, timed, asked, tmp_path, monkeypatch):
    contents = []

    def benchmark(request, progress):
        contents.extend(Path(file).read_bytes() for file in request.files)
        ratio = SimpleNamespace(median=0.5, low=0.4, high=0.6)
        return SimpleNamespace(files=[SimpleNamespace(ratio=ratio)])

    monkeypatch.setattr("mobilenets_tf.search.job.benchmark", benchmark)
    monkeypatch.setattr("mobilenets_tf.search.job._bare_file", lambda source, scheme: b"bare")
    path = tmp_path / "mine_int8.tflite"
    path.write_bytes(b"deployed")
    trained = SimpleNamespace(path=tmp_path / "mine.keras", manifest={"task": task})
    measured = _measured(asked(), SimpleNamespace(base=b"base"), SimpleNamespace(path=path), trained, silent)
    assert measured == (0.5, 0.4, 0.6)
    assert contents == [b"base", timed]


def test_a_file_that_has_an_objects_name_says_nothing_about_the_object(network, tmp_path, monkeypatch):
    model = keras.models.load_model(network)
    Path(tmp_path, f"{model.name}.json").write_text('{"task": "detect", "model": {"model": "mobilenet_v1"}}')
    monkeypatch.chdir(tmp_path)
    source = ModelSource(model)
    assert plan_of(source, {}) is None
    request = TrainRequest("mobilenet_v1", "photos", "out", task="classify", teacher=source)
    assert _teacher(request) == source
