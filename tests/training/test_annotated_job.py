"""``mobilenets-tf train`` of detectors and segmenters: results, interruptions, faults."""

import json
import os
import signal

import pytest

from mobilenets_tf import RequestError, create_model
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.training import checkpoints
from mobilenets_tf.training.request import TrainRequest, check
from tests.support.drawn_networks import NAMES, SIZE, detector, segmenter, write
from tests.support.forked import command as run
from tests.training.test_job import started, wait_for


@pytest.fixture(scope="module", params=["detect", "segment"])
def task(request):
    return request.param


@pytest.fixture(scope="module")
def words(task, tmp_path_factory):
    """A network from elsewhere, pictures, and what to type."""
    folder = tmp_path_factory.mktemp(task)
    (detector() if task == "detect" else segmenter()).save(folder / "mine.keras")
    labels = folder / "labels.txt"
    labels.write_text("\n".join(NAMES if task == "detect" else ("background", *NAMES)))
    data = write(folder / "data", 40, task)
    network = [folder / "mine.keras", "--task", task, "--mean", 127.5, "--std", 127.5, "--labels", labels]
    course = ["--epochs", 12, "--batch-size", 8, "--learning-rate", 0.01, "--recipe", "scratch"]
    return ["train", *network, "--data", data, *course]


@pytest.mark.slow
def test_it_learns_and_goes_on_to_the_same_bytes(task, words, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = run(*words, "--out", whole)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((whole / "mine.keras.json").read_text())
    first, last = manifest["epochs"][0], manifest["epochs"][-1]
    metric = {"detect": "val_map50", "segment": "val_miou"}[task]
    assert last["loss"] < 0.5 * first["loss"] and last[metric] > first[metric]
    assert manifest["task"] == task and manifest["preprocessing"]["crop"] == "stretch"
    assert manifest["labels"] == [*(() if task == "detect" else ("background",)), *NAMES]
    assert f"{last[metric]:.1%}" in done.stdout and (whole / "mine.curves.svg").is_file()

    words = [*words, "--out", broken, "--save-every", 1]
    process = started(words)
    wait_for((broken / "mine.checkpoint.npz").is_file, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 1 <= checkpoints.read(broken / "mine.checkpoint.npz")[1]["progress"]["step"] < 48
    assert run(*words).returncode == 0
    assert (broken / "mine.keras").read_bytes() == (whole / "mine.keras").read_bytes()


@pytest.mark.slow
def test_it_learns_from_a_teacher(task, words, tmp_path):
    """All of the loss is the teacher's, here the untrained network's; a network with other outputs cannot teach."""
    teacher = words[1]
    preprocessing = {"size": SIZE, "resize": SIZE, "mean": [127.5] * 3, "std": [127.5] * 3}
    manifest = {"task": task, "preprocessing": preprocessing}
    described = tmp_path / "teacher.keras"
    described.write_bytes(teacher.read_bytes())
    described.with_name("teacher.keras.json").write_text(json.dumps(manifest))
    done = run(*words, "--teacher", described, "--distill", 1, "--epochs", 4, "--out", tmp_path / "out", "--quiet")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out" / "mine.keras.json").read_text())["epochs"]
    assert rows[-1]["loss"] < rows[0]["loss"]
    other = create_model("lraspp_mobilenet_v3_small" if task == "segment" else "ssdlite_mobilenet_v2", resolution=SIZE)
    other.save(described)
    done = run(*words, "--teacher", described, "--out", tmp_path / "other")
    assert done.returncode == 2 and "teacher.keras cannot be the teacher" in done.stderr


@pytest.mark.parametrize(
    ("wrong", "quoted"),
    [
        ({"task": "detection"}, "Unknown task 'detection'. Did you mean 'detect'"),
        ({"task": "segment"}, "is for the task 'detect', not 'segment'. For that there are deeplabv3"),
        ({"recipe": "paper"}, "No paper's recipe is known for ssdlite_mobilenet_v2. The recipes to detect"),
        ({"label_offset": 0}, "label_offset=0 is for"),
        ({"teacher": "mobilenet_v2"}, "The teacher mobilenet_v2 is for the task 'classify', and"),
        ({"teacher": "nothing.keras"}, "No such model file: nothing.keras"),
        ({"teacher": "ssdlite_efficientnet_lite0"}, "are its backbone's alone"),
        ({"labels": "red"}, "Unknown class 'blue'"),
        ({"labels": "red,blue,green"}, "no image of class 2 ('green')"),
        ({"data": "nowhere"}, "nowhere"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_requests_are_quoted(wrong, quoted, tmp_path):
    data = write(tmp_path / "data", 6, "detect")
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(wrong.get("labels", "blue,red").split(",")))
    options = {"recipe": "scratch", "data": str(data)} | {key: value for key, value in wrong.items() if key != "labels"}
    source = ModelSource("ssdlite_mobilenet_v2", alpha=0.35, resolution=64, labels=str(labels))
    with pytest.raises(RequestError) as caught:
        check(TrainRequest(source, out=str(tmp_path / "out"), **options))
    assert quoted in str(caught.value)
