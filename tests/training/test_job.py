"""``mobilenets-tf train`` as a user meets it: results, interruptions, faults."""

import json
import os
import signal
import subprocess
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mobilenets_tf import RequestError, load_model
from mobilenets_tf.data.images import decode
from mobilenets_tf.files import digests, sha256_of, to_json, write_together
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.training import checkpoints
from mobilenets_tf.training.request import TrainRequest, check
from mobilenets_tf.training.run import Run
from tests.cli.test_cli import COMMAND
from tests.conftest import photographs
from tests.support.forked import command as run

SIZE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixty pictures of three classes that differ in brightness."""
    folder = tmp_path_factory.mktemp("data")
    for index, pixels in enumerate(photographs(60, size=40)):
        name = ("dark", "grey", "light")[index % 3]
        (folder / name).mkdir(exist_ok=True)
        pixels = (pixels + 1) * 40 + 70 * (index % 3)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index:02}.png")
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A classifier of a user's own, small, with dropout, whose random numbers a checkpoint must keep."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = x = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(8, 3, strides=2, use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    path = tmp_path_factory.mktemp("network") / "mine.keras"
    keras.Model(inputs, layers.Dense(3, activation="softmax")(x)).save(path)
    return path


def arguments(network, folder, out, *more):
    return ["train", network, "--mean", 127.5, "--std", 127.5, "--data", folder, "--out", out, "--epochs", 4,
            "--batch-size", 8, "--learning-rate", 0.02, *more]  # fmt: skip


@pytest.fixture(scope="module")
def trained(network, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    done = run(*arguments(network, folder, out))
    assert done.returncode == 0, done.stderr
    return out, done


def manifest_of(out):
    return json.loads((out / "mine.keras.json").read_text())


def test_it_learns_and_says_so(trained):
    out, done = trained
    manifest = manifest_of(out)
    first, last = manifest["epochs"][0], manifest["epochs"][-1]
    assert last["loss"] < first["loss"] and last["val_top1"] > 0.8
    assert (manifest["images"]["training"], manifest["images"]["validation"]) == (48, 12)
    assert f"validation top-1 {last['val_top1']:.1%}" in done.stdout
    assert "mobilenets-tf deploy" in done.stdout and "epoch 4/4" in done.stderr
    assert (out / "labels.txt").read_text().split() == manifest["labels"] == ["dark", "grey", "light"]
    assert {file["file"] for file in manifest["files"]} == {"mine.keras", "mine.curves.svg", "labels.txt"}
    assert not list(out.glob("*.npz"))


def test_curves_are_drawn_and_logged(trained):
    out, _ = trained
    curves = (out / "mine.curves.svg").read_text()
    assert curves.startswith("<?xml") and "validation" in curves and "learning rate" in curves
    (events,) = out.glob("mine.logs/*/events*")
    logged = {}
    for record in tf.data.TFRecordDataset(str(events)):
        for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value:
            logged.setdefault(value.tag, []).append(float(tf.make_ndarray(value.tensor)))
    for key in ("loss", "val_top1", "rate"):
        np.testing.assert_allclose(logged[key], [row[key] for row in manifest_of(out)["epochs"]], rtol=1e-5)


def test_the_trained_file_knows_its_input_and_labels(trained, tmp_path):
    out, _ = trained
    source = ModelSource(str(out / "mine.keras"))
    assert source.label_names(3) == ["dark", "grey", "light"]
    assert source.preprocessing(source.build()).mean == (127.5, 127.5, 127.5)
    assert all(layer.trainable for layer in load_model(out / "mine.keras").layers)


def test_the_same_request_gives_the_same_bytes(trained, network, folder, tmp_path):
    out, _ = trained
    assert run(*arguments(network, folder, tmp_path, "--quiet")).returncode == 0
    for name in ("mine.keras", "mine.curves.svg", "labels.txt"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), name


def started(words, **environment):
    return subprocess.Popen(
        [*COMMAND, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(condition, process, seconds=300):
    for _ in range(seconds * 50):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("it did not happen")


@pytest.mark.slow
def test_killed_in_mid_epoch_it_goes_on_to_the_same_bytes(trained, network, folder, tmp_path):
    whole, _ = trained
    words = arguments(network, folder, tmp_path, "--save-every", 1)
    checkpoint = tmp_path / "mine.checkpoint.npz"
    process = started(words)
    wait_for(checkpoint.is_file, process)  # the first step of six is done
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    step = checkpoints.read(checkpoint)[1]["progress"]["step"]
    assert 1 <= step < 24
    done = run(*words)
    assert done.returncode == 0, done.stderr
    for name in ("mine.keras", "mine.curves.svg"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
def test_interrupted_with_ctrl_c(network, folder, tmp_path):
    process = started(arguments(network, folder, tmp_path, "--epochs", 2000))
    wait_for((tmp_path / "mine.checkpoint.npz").is_file, process)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.checkpoint.npz", "mine.logs"]

    other = run(*arguments(network, folder, tmp_path, "--epochs", 3))
    assert other.returncode == 2
    assert "unfinished training with epochs=2000, not 3" in other.stderr and "--restart" in other.stderr
    assert run(*arguments(network, folder, tmp_path, "--epochs", 1, "--restart", "--quiet")).returncode == 0
    assert not list(tmp_path.glob("*.npz"))


def test_a_damaged_checkpoint_is_named(network, folder, tmp_path):
    (tmp_path / "mine.checkpoint.npz").write_bytes(b"PK\x03\x04 nothing")
    done = run(*arguments(network, folder, tmp_path))
    assert done.returncode == 2
    assert "mine.checkpoint.npz is damaged" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="Windows has no RLIMIT_FSIZE, which stands in for a full disk")
def test_a_full_disk_at_a_checkpoint(network, folder, tmp_path):
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); from mobilenets_tf.cli import main; sys.exit(main())"
    )
    words = [COMMAND[0], "-c", script, *map(str, arguments(network, folder, tmp_path))]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "Cannot write" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*.npz")) and not list(tmp_path.glob("*.keras"))


def test_a_loss_that_is_no_number(network, folder, tmp_path):
    done = run(*arguments(network, folder, tmp_path, "--learning-rate", 1e30))
    assert done.returncode == 2
    assert "The loss became" in done.stderr and "--learning-rate" in done.stderr and "Traceback" not in done.stderr


def test_the_best_epoch_is_kept_when_asked(network, folder, tmp_path):
    words = arguments(network, folder, tmp_path, "--learning-rate", 0.3, "--epochs", 6, "--keep", "best", "--quiet")
    assert run(*words).returncode == 0
    manifest = manifest_of(tmp_path)
    scores = [row["val_top1"] for row in manifest["epochs"]]
    assert manifest["kept_epoch"] == scores.index(max(scores)) + 1
    source = ModelSource(str(tmp_path / "mine.keras"))
    model, found = (
        source.build(),
        check(TrainRequest(source, str(folder), str(tmp_path / "other"), epochs=1)).validation,
    )
    pixels = np.stack([source.preprocessing(model)(decode(path)) for path in found.images.paths])
    answers = model.predict(pixels, verbose=0).argmax(-1)
    assert (answers == found.images.labels).mean() == pytest.approx(max(scores))


def test_a_broken_image_fails_or_is_skipped(network, folder, tmp_path):
    copy = tmp_path / "data"
    for path in folder.rglob("*.png"):
        (copy / path.parent.name).mkdir(parents=True, exist_ok=True)
        (copy / path.parent.name / path.name).write_bytes(path.read_bytes()[: 100 if path.name == "07.png" else None])
    done = run(*arguments(network, copy, tmp_path / "out"))
    assert done.returncode == 2
    assert "07.png is not a readable image" in done.stderr and "--broken skip" in done.stderr
    assert not (tmp_path / "out").exists()
    done = run(*arguments(network, copy, tmp_path / "out", "--broken", "skip", "--epochs", 1))
    assert done.returncode == 0, done.stderr
    assert "Left out" in done.stderr and "07.png" in done.stderr


def request(folder, tmp_path, **changes):
    options = {"source": ModelSource("mobilenet_v2", resolution=SIZE), "data": str(folder),
               "out": str(tmp_path / "out"), "recipe": "scratch"}  # fmt: skip
    return TrainRequest(**(options | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recipe": "fintune"}, "Unknown recipe 'fintune'. Did you mean 'finetune'"),
        ({"keep": "worst"}, "Unknown choice of weights to keep 'worst'"),
        ({"broken": "ignore"}, "Unknown rule for broken images 'ignore'"),
        ({"epochs": 0}, "epochs=0"),
        ({"save_every": 0}, "save_every=0"),
        ({"data": "nowhere"}, "No such folder or CSV of images: nowhere"),
        (
            {"source": ModelSource("mobilenet_v2", classes=5)},
            "has 3 classes (dark, grey, light, ...), and classes is 5",
        ),
        ({"source": ModelSource("mobilenet_v9")}, "Unknown model 'mobilenet_v9'"),
        (
            {"source": ModelSource("mobileone_mu0"), "recipe": "finetune"},
            "Nobody publishes ImageNet weights of mobileone_mu0",
        ),
        ({"teacher": ModelSource("nothing.keras")}, "No such model file: nothing.keras"),
        ({"teacher": ModelSource("mobilenet_v2"), "distill": 2.0}, "distill=2.0 must be 0 to 1"),
    ],
)
def test_wrong_requests(folder, tmp_path, changes, words):
    with pytest.raises(RequestError) as error:
        check(request(folder, tmp_path, **changes))
    assert words in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_resolution_of_a_file_is_refused(folder, tmp_path, network):
    with pytest.raises(RequestError, match="--resolution 96x96 .*at its own size. Leave the option out"):
        check(request(folder, tmp_path, source=ModelSource(str(network), resolution=96)))
    with pytest.raises(RequestError, match="--resolution 96x96 .*mine.keras"):
        check(request(folder, tmp_path, teacher=ModelSource(str(network), resolution=96)))


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 16, 3)])
def test_images_that_no_training_takes_are_refused(folder, tmp_path, shape):
    layers, inputs = keras.layers, keras.Input(shape)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(inputs)), name="theirs")
    job = check(request(folder, tmp_path, source=ModelSource(model, mean=127.5, std=127.5)))
    run = object.__new__(Run)  # without what Run sets for the whole process
    run._job, run._request, run._recipe = job, job.request, job.recipe
    with pytest.raises(RequestError) as error:
        run._build()
    assert str(error.value) == f"theirs takes images of shape {shape}, and networks are trained on square RGB images."


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["dark", "light", "grey"], "Class 1 is 'light' for the teacher"),
        (["dark", "light"], "has 2 classes, and"),
    ],
)
def test_a_teacher_of_other_classes(folder, tmp_path, network, labels, words):
    teacher = tmp_path / "teacher.keras"
    teacher.write_bytes(network.read_bytes())
    teacher.with_name("teacher.keras.json").write_text(json.dumps({"task": "classify", "labels": labels}))
    with pytest.raises(RequestError, match=words):
        check(request(folder, tmp_path, teacher=teacher))


def test_a_class_without_images(folder, tmp_path):
    (tmp_path / "labels.csv").write_text(
        "file,class_index\n"
        + "".join(f"{path},{index % 2 * 2}\n" for index, path in enumerate(sorted(folder.rglob("*.png"))))
    )
    source = ModelSource("mobilenet_v2", classes=3, resolution=SIZE)
    with pytest.raises(RequestError, match="has no image of class 1 to train with"):
        check(request(tmp_path / "labels.csv", tmp_path, source=source))
    with pytest.raises(RequestError, match="images of class 2; there are 2 classes"):
        check(request(tmp_path / "labels.csv", tmp_path, source=ModelSource("mobilenet_v2", classes=2)))
    with pytest.raises(RequestError, match="pass --classes N .classes=. or --labels FILE"):
        check(request(tmp_path / "labels.csv", tmp_path))


def test_a_checkpoint_of_other_classes_is_refused(folder, tmp_path):
    for name in ("dark", "light"):
        (tmp_path / "two" / name).mkdir(parents=True)
        for path in (folder / name).iterdir():
            (tmp_path / "two" / name / path.name).write_bytes(path.read_bytes())
    three, two = (check(request(data, tmp_path)) for data in (folder, tmp_path / "two"))
    three.checkpoint.write({}, {})
    assert three.checkpoint.read()
    with pytest.raises(RequestError) as error:
        two.checkpoint.read()
    assert (
        ".checkpoint.npz is of an unfinished training with class names=['dark', 'grey', 'light'], not ['dark', 'light']"
        in str(error.value)
    )


def test_a_checkpoint_of_a_model_that_was_replaced_is_refused(network, folder, tmp_path):
    source = tmp_path / "mine.keras"
    source.write_bytes(network.read_bytes())
    asked = request(folder, tmp_path, source=ModelSource(str(source), mean=(127.5,), std=(127.5,)), recipe="finetune")
    check(asked).checkpoint.write({}, {})
    check(asked)
    source.write_bytes(network.read_bytes() + b" ")
    with pytest.raises(RequestError, match="mine.checkpoint.npz is of an unfinished training with sha256 of source="):
        check(asked)


def test_every_class_is_on_both_sides_of_the_split(folder, tmp_path):
    job = check(request(folder, tmp_path))
    assert job.training.class_counts() == [16, 16, 16] and job.validation.class_counts() == [4, 4, 4]
    assert not set(job.training.images.paths) & set(job.validation.images.paths)


def test_a_wrong_number_of_outputs(folder, tmp_path, network):
    keras.utils.set_random_seed(0)
    model = load_model(network)
    other = tmp_path / "other.keras"
    keras.Model(model.inputs[0], keras.layers.Dense(7, activation="softmax")(model.layers[-2].output)).save(other)
    done = run(*arguments(other, folder, tmp_path / "out"))
    assert done.returncode == 2
    assert "has 7 outputs" in done.stderr and "3 classes" in done.stderr and "Traceback" not in done.stderr


def test_another_request_does_not_replace_a_trained_model(trained, network, folder, tmp_path):
    out, _ = trained
    for path in out.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    digest = sha256_of(tmp_path / "mine.keras")
    deployed = {"files": digests({"mine_int8.tflite": "made of it"}), "model": {"weights_sha256": digest}}
    write_together(tmp_path, {"mine_int8.tflite": "made of it", "mine_int8.tflite.json": to_json(deployed)})
    other = arguments(network, folder, tmp_path, "--epochs", 1, "--quiet")
    done = run(*other)
    assert done.returncode == 2 and "mine.keras is the result of another request (epochs=4, not 1)" in done.stderr
    assert sha256_of(tmp_path / "mine.keras") == digest
    done = run(*other, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert "mine_int8.tflite: it was made of the model that was replaced" in done.stderr
    assert not list(tmp_path.glob("*.tflite*"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--deploy", "int9"], "Did you mean 'int8'"),
        (["--deploy", "int8", "--input", "uint9"], "uint9"),
        (["--deploy", "int8", "--output", "mask"], "is for detectors and segmenters"),
        (["--threads", 0], "threads=0"),
    ],
)
def test_what_deploy_would_refuse_is_refused_before_the_training(network, folder, tmp_path, options, told):
    done = run(*arguments(network, folder, tmp_path / "out", *options))
    assert done.returncode == 2 and told in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_what_was_trained_is_deployed_too(network, folder, tmp_path):
    done = run(*arguments(network, folder, tmp_path, "--deploy", "int8", "--input", "uint8", "--quiet"))
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((tmp_path / "mine_int8.tflite.json").read_text())
    assert manifest["passed"] and manifest["parity"]["images"] > 0
    assert manifest["inputs"][0]["dtype"] == "uint8" == manifest["options"]["input"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilevit_v3_050"])  # the others': test_step.py
def test_the_papers_recipes_run(folder, tmp_path, name):
    # One step: each more may be of another size, for which the graph is traced again (test_step.py has that).
    done = run("train", name, "--recipe", "paper", "--resolution", 32, "--data", folder, "--epochs",
               1, "--batch-size", 48, "--out", tmp_path, "--quiet")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (manifest,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.keras.json"))
    (row,) = manifest["epochs"]
    assert np.isfinite(row["loss"]) and np.isfinite(row["val_loss"]) and row["step"] >= 1
    assert manifest["recipe"]["sources"]["optimizer"].startswith("[")


@pytest.mark.slow
def test_a_teacher_from_a_file(trained, network, folder, tmp_path):
    out, _ = trained
    words = arguments(network, folder, tmp_path, "--teacher", out / "mine.keras", "--distill", 0.9, "--temperature", 2)
    done = run(*words, "--quiet")
    assert done.returncode == 0, done.stderr
    manifest = manifest_of(tmp_path)
    assert manifest["options"]["teacher"]["model"].endswith("mine.keras") and manifest["epochs"][-1]["val_top1"] > 0.6
