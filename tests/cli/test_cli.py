"""The commands as a user types them: in a process of their own, right and wrong."""

import ast
import importlib.metadata
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import pytest

from mobilenets_tf import cli, list_models
from mobilenets_tf.cli import VERBS, _Warnings
from mobilenets_tf.export import project_folder
from tests.support.forked import command as run

COMMAND = [sys.executable, "-c", "import sys; from mobilenets_tf.cli import main; sys.exit(main())"]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory, small):
    path = tmp_path_factory.mktemp("model") / "mine.keras"
    small.save(path)
    return path


@pytest.mark.parametrize("arguments", [["--help"], ["deploy", "--help"], ["list"], ["--version"]])
def test_light_commands_do_not_import_tensorflow(arguments):
    script = f"""
import sys
from mobilenets_tf.cli import main
try:
    status = main({arguments!r})
except SystemExit as exit:
    status = exit.code
heavy = sorted({{"tensorflow", "keras", "numpy.random"}} & set(sys.modules))
print(status or 0, heavy, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    status, heavy = done.stderr.strip().split(" ", 1)
    assert status == "0"
    assert "tensorflow" not in heavy and "keras" not in heavy
    assert done.stdout


def test_no_command_imports_tensorflow_into_its_own_process():
    """TensorFlow is imported in a child, whose standard error is shown only if the child dies. In the process of the
    command, TensorFlow would write lines about CPU features and CUDA on the terminal, and take seconds to import."""
    modules = {
        node.module
        for file in Path(cli.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("mobilenets_tf")
    }
    assert len(modules) > 20
    script = "import sys, importlib\nsys.modules['tensorflow'] = sys.modules['keras'] = None\n"
    script += f"for name in {sorted(modules)!r}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_begins_with_an_example():
    assert run("--help").stdout.startswith("mobilenets-tf deploy efficientnet_lite0 --weights imagenet")
    for verb in VERBS:
        assert run(verb, "--help").stdout.startswith(f"mobilenets-tf {verb}")


def test_list_and_info_print_one_json_document():
    names = json.loads(run("list", "efficientnet*", "--json").stdout)
    assert names == [f"efficientnet_lite{size}" for size in range(5)]
    info = json.loads(run("info", "mobilenet_v1", "--alpha", 0.5, "--resolution", 160, "--json").stdout)
    assert (info["params_trainable"], info["params_total"], info["macs"]) == (1331592, 1342536, 76524800)
    assert "76,524,800" in run("info", "mobilenet_v1", "--alpha", 0.5, "--resolution", 160).stdout
    wide = run("info", "mobilenet_v1", "--alpha", 0.5, "--resolution", "160x320").stdout
    assert "mobilenet_v1 alpha 0.5 at 160x320" in wide and "152,537,600" in wide


def test_deploy_verify_and_evaluate_a_users_model(model_file, image_folder, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(["a", "b", *(f"class {i}" for i in range(8))]))
    options = ["--mean", 127.5, "--std", 127.5, "--labels", tmp_path / "names.txt"]
    out = tmp_path / "out"
    arguments = [model_file, *options, "--calibration", image_folder, "--calibration-count", 8, "--out", out]
    arguments += ["--evaluate", image_folder, "--min-agreement", 0]
    done = run("deploy", *arguments)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == [
        "labels.txt", "mine_int8.tflite", "mine_int8.tflite.android.md", "mine_int8.tflite.html",
        "mine_int8.tflite.json",
    ]  # fmt: skip
    assert "Only 8 calibration samples" in done.stderr
    manifest = json.loads((out / "mine_int8.tflite.json").read_text())
    assert manifest["passed"] and manifest["scheme"] == "int8"
    assert manifest["comparison"]["images"] == 2  # ten, less the eight that calibrated
    assert "int8 against float32, on the images of --evaluate (8 others were used for calibration):" in done.stdout
    assert manifest["parity"]["relative_difference"] < 1e-4
    assert len(manifest["calibration"]["files"]) == 8
    file = out / "mine_int8.tflite"
    assert manifest["bytes"] == file.stat().st_size
    assert str(file) in done.stdout and "mobilenets-tf verify" in done.stdout
    page = (out / "mine_int8.tflite.html").read_text()
    assert "Of the annotated images 8 more were used for calibration" in page
    assert "ame answer as float32" in page and "not a phone" in page
    assert "on 2 images,\nthe largest value of this file is" in page and "No value passes half precision" in page
    assert '"mine_int8.tflite"' in (out / "mine_int8.tflite.android.md").read_text()

    before = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix != ".html"}  # which has times in it
    # A second scheme beside the first, which takes pixels as they are.
    other = run("deploy", *arguments, "--quiet", "--scheme", "float16", "--input", "uint8")
    assert other.returncode == 0, other.stderr
    pixels = json.loads((out / "mine_float16.tflite.json").read_text())
    assert pixels["inputs"][0]["dtype"] == "uint8" and pixels["preprocessing"]["mean"] == [128.0] * 3
    images = ["--images", image_folder, "--json", "--min-agreement", 1]
    same = run("verify", out / "mine_float16.tflite", "--model", model_file, *options, *images)
    assert same.returncode == 0 and json.loads(same.stdout)["relative_difference"] < 0.02, same.stderr
    told = run("verify", out / "mine_float16.tflite", *images)  # the manifest names the model
    assert told.returncode == 0 and json.loads(told.stdout)["model"] == str(model_file), told.stderr
    for path in out.glob("mine_float16*"):
        path.unlink()
    project_folder.write(out / "mine_int8.tflite.npu", {"net_SM8750.tflite": b"of an earlier file"}, {})
    assert run("deploy", *arguments, "--quiet").returncode == 0  # which takes the folder with it
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.suffix != ".html"} == before

    verified = run(
        "verify", file, "--model", model_file, *options, "--images", image_folder, "--json", "--min-agreement", 0
    )
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["images"] == 10
    evaluated = run("evaluate", file, "--data", image_folder, "--json")
    assert json.loads(evaluated.stdout)["images"] == 10
    keras_evaluated = run("evaluate", model_file, *options, "--data", image_folder, "--json")
    assert 0 <= json.loads(keras_evaluated.stdout)["top5"] <= 1


@pytest.mark.parametrize("scheme", ["float32", "int8"])
def test_a_failed_check_exits_with_1_and_offers_nothing_to_ship(scheme, image_folder, tmp_path):
    same = keras.layers.Dense(4, kernel_initializer="zeros", bias_initializer="ones")
    pool = keras.layers.GlobalAveragePooling2D()
    keras.Sequential([keras.Input((64, 64, 3)), pool, same]).save(tmp_path / "mine.keras")
    options = ["--mean", 127.5, "--std", 127.5, "--scheme", scheme, "--calibration", image_folder]
    done = run("deploy", tmp_path / "mine.keras", *options, "--out", tmp_path / "out")
    assert done.returncode == 1 and "[red] A check failed" in done.stdout, (done.stdout, done.stderr)
    assert "FAILED: The output of the file is the same for all 10 images." in done.stdout
    assert "For Android" not in done.stdout and "adb push" not in done.stdout
    file = tmp_path / "out" / f"mine_{scheme}.tflite"
    manifest = json.loads(file.with_name(f"{file.name}.json").read_text())
    assert not manifest["passed"] and manifest["badge"]["colour"] == "red"
    android = file.with_name(f"{file.name}.android.md").read_text()
    assert "the same for all 10 images" in android and "adb" not in android and "Kotlin" not in android
    page = file.with_name(f"{file.name}.html").read_text()
    assert '<div class="verdict red">' in page and manifest["badge"]["headline"] in page


def test_export_writes_one_file_and_its_manifest(model_file, tmp_path):
    done = run(
        "export", model_file, "--mean", 127.5, "--std", 127.5, "--scheme", "float16", "--out", tmp_path / "mine.tflite"
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.tflite", "mine.tflite.json"]
    manifest = json.loads((tmp_path / "mine.tflite.json").read_text())
    assert manifest["preprocessing"]["mean"] == [127.5] * 3
    assert f"--model {model_file} --mean 127.5 --std 127.5" in done.stdout
    assert "[grey] Converted, not judged." in done.stdout and manifest["refused_by_litert"] is None


def test_doctor():
    done = run("doctor")
    assert done.returncode == 0 and "All good." in done.stdout and "tensorflow" in done.stdout
    for extra in importlib.metadata.metadata("mobilenets-tf").get_all("Provides-Extra"):
        assert f"  extra {extra} " in done.stdout


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran",)


def lambda_model():
    return keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Lambda(lambda x: x)])


@pytest.fixture
def bad_files(tmp_path, image_folder, model_file):
    """One of each kind of wrong input, in the working directory of the commands."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.tflite").write_bytes(b"\x1c\x00\x00\x00TFL3" + b"\xff" * 99)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    lambda_model().save(tmp_path / "lambda.keras")
    (tmp_path / "taken").write_text("mine")
    good = (image_folder / "a" / "0.png").read_bytes()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "good.png").write_bytes(good)
    (tmp_path / "broken" / "cut.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "table.csv").write_text("file,class_index\nnowhere.png,0\n")
    (tmp_path / "other.csv").write_text("path,label\nx.png,0\n")
    (tmp_path / "mine.keras").write_bytes(model_file.read_bytes())
    return tmp_path


MINE = ["deploy", "mine.keras", "--mean", "127.5", "--std", "127.5"]
PHOTOS = ["--calibration", "photos"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["deploy", "efficientnet_lit0", *PHOTOS], "Did you mean 'efficientnet_lite0'"),
        (["deploy", "mobilenet_v2", *PHOTOS, "--scheme", "int9"], "Did you mean 'int8'"),
        (["deploy", "mobilenet_v2", *PHOTOS, "--alpha", "9"], "alpha=9.0 is out of range"),
        (["deploy", "mobilenet_v2", *PHOTOS, "--resolution", "7"], "resolution=7 is out of range"),
        (["deploy", "mobilenet_v2", *PHOTOS, "--weights", "imagenett"], "Did you mean 'imagenet'"),
        (["deploy", "mobilenet_v2", *PHOTOS, "--weights", "absent.pth"], "No such weight file: absent.pth"),
        (["deploy", "mobilenet_v2", *PHOTOS, "--weights", "evil.pth"], "system, which is not needed"),
        (["deploy", "absent.keras", *PHOTOS], "No such model file"),
        (["deploy", "mine.keras", *PHOTOS], "Pass --mean and --std"),
        (["deploy", "lambda.keras", *PHOTOS, "--mean", "0", "--std", "1"], "Lambda layer"),
        ([*MINE], "needs --calibration"),
        ([*MINE, "--calibration", "empty"], "empty has no images"),
        ([*MINE, "--calibration", "absent"], "No such folder or CSV"),
        ([*MINE, "--calibration", "broken"], "cut.png is not a readable image"),
        ([*MINE, "--calibration", "table.csv"], "line 2: no such image"),
        ([*MINE, "--calibration", "other.csv"], "expected file and class_index"),
        (
            ["evaluate", "mine.keras", "--mean", "0", "--std", "1", "--data", "photos", "--count", "-1"],
            "take -1 images",
        ),
        (["deploy", "mobilenet_v2", *PHOTOS, "--evaluate", "photos"], "'a', 'b' are none of the model's 1000 classes"),
        ([*MINE, *PHOTOS, "--calibration-count", "0"], "--calibration-count 0"),
        (
            [*MINE, *PHOTOS, "--min-agreement", "99"],
            "min_agreement=99: expected a share from 0 to 1; for 99 % pass 0.99",
        ),
        (["report", *MINE[1:], *PHOTOS, "--out", "out", "--min-agreement", "99"], "for 99 % pass 0.99"),
        (["verify", "x.tflite", "--model", "mine.keras", "--images", "photos", "--min-agreement", "99"], "pass 0.99"),
        ([*MINE, *PHOTOS, "--evaluate", "broken"], "has no labels"),
        ([*MINE, *PHOTOS, "--alpha", "0.5"], "--alpha (alpha=) is for registered networks"),
        ([*MINE, *PHOTOS, "--labels", "taken"], "gives 1 labels; the model has 10"),
        (
            ["verify", "bad.tflite", "--model", "mine.keras", "--mean", "0", "--std", "1", "--images", "photos"],
            "bad.tflite",
        ),
        (["verify", "absent.tflite", "--model", "mine.keras", "--images", "photos"], "No such TFLite file"),
        (["verify", "absent.tflite", "--images", "photos"], "No such TFLite file"),
        (
            ["evaluate", "bad.tflite", "--mean", "0", "--std", "1", "--data", "photos"],
            "bad.tflite: a damaged TFLite file",
        ),
        (["info", "mobilenet_v9"], "Did you mean 'mobilenet_v"),
        (["info", "mobilenet_v2", "--resolution", "100000x96"], "(100000, 96) is out of range: 32 to 2048 pixels"),
        (["list", "resnet*"], "Unknown model 'resnet*'"),
    ],
)
def test_wrong_requests(bad_files, arguments, told):
    out = ["--out", "out"] if arguments[0] == "deploy" else []
    done = run(*arguments, *out, cwd=bad_files)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (bad_files / "out").exists() and not (bad_files / "ran").exists()


@pytest.mark.parametrize("out", ["taken", "taken/deeper", "/proc/self/out"])
def test_output_paths_that_cannot_be_written(bad_files, out):
    done = run(*MINE, *PHOTOS, "--out", out, cwd=bad_files)
    assert done.returncode == 2 and "Cannot write" in done.stderr, done.stderr
    assert (bad_files / "taken").read_text() == "mine"


def test_files_of_the_users_are_not_replaced(bad_files):
    (bad_files / "out").mkdir()
    (bad_files / "out" / "labels.txt").write_text("mine")
    done = run(*MINE, *PHOTOS, "--out", "out", cwd=bad_files)
    assert done.returncode == 2 and "--overwrite" in done.stderr
    assert [path.name for path in (bad_files / "out").iterdir()] == ["labels.txt"]


@pytest.mark.parametrize("moment", ["importlib.import_module", "mobilenets_tf.cli._parser"])
def test_ctrl_c_while_the_command_starts(monkeypatch, capsys, moment):
    monkeypatch.setattr(moment, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        assert cli.main(["list"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "mobilenets-tf: interrupted; no file was left half-written.\n"


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGINT to send to one process")
@pytest.mark.parametrize(
    ("moment", "name", "status"),
    [
        pytest.param("building", "SIGTERM", 143, marks=pytest.mark.slow),
        pytest.param("converting", "SIGINT", 130, marks=pytest.mark.slow),
        pytest.param("building", "SIGINT", 130, marks=pytest.mark.slow),
        pytest.param("calibrating", "SIGINT", 130, marks=pytest.mark.slow),
        pytest.param("calibrating", "SIGHUP", 129, marks=pytest.mark.slow),
    ],
)
def test_a_signal_leaves_nothing_behind(bad_files, moment, name, status):
    temporary = bad_files / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        [*COMMAND, *MINE, *PHOTOS, "--out", "out"],
        cwd=bad_files,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
        start_new_session=True,
        preexec_fn=lambda: [signal.signal(one, signal.SIG_DFL) for one in (signal.SIGINT, signal.SIGHUP)],  # nohup
    )
    for line in process.stderr:
        if line.startswith(moment):
            break
    if name == "SIGINT":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the children too
    else:
        process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert "interrupted; no file was left half-written" in errors and "Traceback" not in errors
    assert not (bad_files / "out").exists() and not any(temporary.iterdir())
    time.sleep(0.1)
    assert not _children_left(temporary)


def _children_left(marker) -> list[str]:
    """Processes that were started with this TMPDIR and still run."""
    found = []
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        try:
            with open(f"/proc/{entry}/environ", "rb") as stream:
                if entry.isdigit() and str(marker).encode() in stream.read():
                    found.append(entry)
        except OSError:
            continue
    return found


def test_a_pipe_that_closes_is_no_error(tmp_path):
    done = subprocess.run(
        f"{sys.executable} -c 'import sys; from mobilenets_tf.cli import main; sys.exit(main())' list | head -1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split()[0] in list_models(), done
    assert "Traceback" not in done.stderr


def test_a_warning_is_shown_once(capsys):
    shown = _Warnings()
    for text in ("1 file is left out: 1 .heic.", "1 file is left out: 1 .heic.", "another"):
        shown.show(text, UserWarning)
    assert capsys.readouterr().err.splitlines() == ["warning: 1 file is left out: 1 .heic.", "warning: another"]
