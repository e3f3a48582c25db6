"""Record the sha256 of every file that a dozen and more commands write, and compare two such records.

    python benchmarks/same_bytes.py record before.json --inputs inputs/
    ... change the code ...
    python benchmarks/same_bytes.py record after.json --inputs inputs/
    python benchmarks/same_bytes.py compare before.json after.json

The first run draws its own pictures and builds its own small models in the folder of --inputs; later runs read them
there. Each command runs in a process of its own. Left out of a digest are measured times, and reports, which hold
measured times: of a report its manifest is recorded. The search has a table of latencies that nobody measured.

With ``--elsewhere`` the commands run with another hash seed, locale, time zone, home, working directory and number of
processors, on which no byte may depend: ``record a.json``, ``record b.json --elsewhere``, ``compare a.json b.json``.
"""

# ruff: noqa: E501 (a command is a line)
import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent

# Fields of manifests that hold a measured time; of tables of latencies also how many processors there were.
_TIMES = ("images_per_second", "seconds", "input_wait", "waiting")
_TIMES += ("line", "error", "multiply_adds_error", "processors")
# Files that hold measured times or their sha256.
_SKIPPED = re.compile(r"\.html$|\.logs/|events\.out")

_SIZE = 64
_BUILD = """
import keras
from mobilenets_tf import create_model
from pathlib import Path
keras.utils.set_random_seed(1)
for name, options in (("mobilenet_v3_small", {}), ("ssdlite_mobilenet_v3_small", {}), ("lraspp_mobilenet_v3_small", {}),
                      ("mobileone_s0", {})):
    model = create_model(name, resolution=SIZE if "ssd" not in name else 96, classes=3, **options)
    for layer in model.layers:
        for weight in layer.weights:
            if "moving_variance" in weight.path:
                weight.assign(keras.random.uniform(weight.shape, 0.5, 1.5, seed=3))
            elif "moving_mean" in weight.path or "bias" in weight.path or "beta" in weight.path:
                weight.assign(keras.random.uniform(weight.shape, -0.2, 0.2, seed=4))
    model.save(Path(FOLDER) / f"{name}.keras")
"""
_BUILD_SEARCHED = """
import sys; sys.path.insert(0, ROOT)
import keras
from mobilenets_tf import create_model
from mobilenets_tf.search.latency.base_file import file_of
from pathlib import Path
from tests.support.synthetic_machine import table_of
keras.utils.set_random_seed(1)
rows = [[(3, 1, 16, True, "relu", 2)], [(3, 4, 24, False, "relu", 2), (5, 3, 24, True, "hard_swish", 1)]]
model = create_model("mobilenet_v3_small", rows=rows, resolution=32, classes=3, stem_filters=16)
model.save(Path(FOLDER) / "searched.keras")
table_of(file_of(model, "int8"), "int8").write(Path(FOLDER) / "table.json")
"""

_MODEL = ["--mean", "127.5", "--std", "127.5", "--labels", "{inputs}/labels.txt"]
_CLASSIFIER = ["{inputs}/mobilenet_v3_small.keras", *_MODEL]
_CALIBRATED = ["--calibration", "{inputs}/classify", "--calibration-count", "12"]
# Name of a command -> its words. {inputs} and {out} are folders.
COMMANDS = {
    "deploy_int8": ["deploy", *_CLASSIFIER, *_CALIBRATED, "--evaluate", "{inputs}/classify", "--out", "{out}"],
    "deploy_uint8_input": ["deploy", *_CLASSIFIER, *_CALIBRATED, "--input", "uint8", "--out", "{out}"],
    "deploy_float16": ["deploy", *_CLASSIFIER, "--scheme", "float16", "--evaluate", "{inputs}/classify", "--out", "{out}"],
    "deploy_per_tensor": ["deploy", *_CLASSIFIER, *_CALIBRATED, "--per-tensor", "--out", "{out}"],
    "deploy_max_drop": ["deploy", *_CLASSIFIER, *_CALIBRATED, "--evaluate", "{inputs}/classify", "--max-drop", "0.0", "--out", "{out}"],
    "deploy_mobileone": ["deploy", "{inputs}/mobileone_s0.keras", *_MODEL, *_CALIBRATED, "--out", "{out}"],
    "deploy_detector": [
        "deploy", "ssdlite_mobilenet_v3_small", "--weights", "{inputs}/ssdlite_mobilenet_v3_small.keras", "--classes", "3",
        "--resolution", "96", *_MODEL, "--calibration", "{inputs}/detect/images", "--calibration-count", "6", "--evaluate", "{inputs}/detect", "--min-agreement", "0", "--out", "{out}",
    ],
    "deploy_detector_raw": [
        "deploy", "ssdlite_mobilenet_v3_small", "--weights", "{inputs}/ssdlite_mobilenet_v3_small.keras", "--classes", "3",
        "--resolution", "96", *_MODEL, "--calibration", "{inputs}/detect", "--output", "raw", "--min-agreement", "0", "--out", "{out}",
    ],
    "deploy_segmenter": [
        "deploy", "lraspp_mobilenet_v3_small", "--weights", "{inputs}/lraspp_mobilenet_v3_small.keras", "--classes", "3",
        "--resolution", "64", *_MODEL, "--calibration", "{inputs}/segment", "--calibration-count", "6", "--evaluate", "{inputs}/segment", "--output", "mask", "--min-agreement", "0", "--out", "{out}",
    ],
    "export_int16x8": ["export", *_CLASSIFIER, "--scheme", "int16x8", *_CALIBRATED, "--out", "{out}/net.tflite"],
    "export_float32": ["export", *_CLASSIFIER, "--scheme", "float32", "--out", "{out}/net.tflite"],
    "train_two_epochs": [
        "train", "mobilenet_v3_small", "--weights", "{inputs}/mobilenet_v3_small.keras", "--resolution", "64", "--mean", "127.5", "--std", "127.5",
        "--data", "{inputs}/classify", "--epochs", "2", "--batch-size", "8", "--out", "{out}",
    ],
    "train_detector": [
        "train", "ssdlite_mobilenet_v3_small", "--weights", "{inputs}/ssdlite_mobilenet_v3_small.keras", "--resolution", "96", "--mean", "127.5", "--std", "127.5",
        "--classes", "3", "--labels", "{inputs}/labels.txt", "--data", "{inputs}/detect", "--epochs", "1", "--batch-size", "8", "--out", "{out}",
    ],
    "train_segmenter": [
        "train", "lraspp_mobilenet_v3_small", "--weights", "{inputs}/lraspp_mobilenet_v3_small.keras", "--resolution", "64", "--mean", "127.5", "--std", "127.5",
        "--classes", "3", "--labels", "{inputs}/labels.txt", "--data", "{inputs}/segment", "--epochs", "1", "--batch-size", "8", "--out", "{out}",
    ],
    "qat_one_epoch": [
        "qat", *_CLASSIFIER, "--data", "{inputs}/classify", "--epochs", "1", "--batch-size", "8", "--calibration-count", "12", "--out", "{out}",
    ],
    "qat_segmenter": [
        "qat", "lraspp_mobilenet_v3_small", "--weights", "{inputs}/lraspp_mobilenet_v3_small.keras", "--classes", "3", "--resolution", "64", *_MODEL, "--data", "{inputs}/segment", "--epochs", "1", "--batch-size", "8", "--calibration-count", "8", "--out", "{out}",
    ],
    "report": ["report", *_CLASSIFIER, *_CALIBRATED, "--evaluate", "{inputs}/classify", "--schemes", "float32", "float16", "dynamic", "int8", "--calls", "2", "--out", "{out}"],
    "latency": ["latency", "{inputs}/searched.keras", "--networks", "5", "--minutes", "0", "--out", "{out}/table.json"],
    "search": [
        "search", "{inputs}/searched.keras", "--mean", "127.5", "--std", "127.5", "--data", "{inputs}/small", "--evaluate", "{inputs}/small", "--table", "{inputs}/table.json", "--elsewhere",
        "--target", "0.7", "--step", "0.15", "--steps", "2", "--tried", "2", "--epochs", "1", "--batch-size", "32", "--train-threads", "1", "--out", "{out}",
    ],
    "sensitivity": ["sensitivity", *_CLASSIFIER, *_CALIBRATED, "--out", "{out}"],
    "evaluate_classifier": ["evaluate", *_CLASSIFIER, "--data", "{inputs}/classify", "--json"],
    "info": ["info", "mobilenet_v2", "--alpha", "0.5", "--json"],
    "list": ["list", "--json"],
}  # fmt: skip
# Commands on what other commands wrote: {made} is the folder of their results.
COMMANDS_ON_RESULTS = {
    "inspect": ["inspect", "{made}/deploy_int8/mobilenet_v3_small_int8.tflite", "--json"],
    "inspect_detector": ["inspect", "{made}/deploy_detector/ssdlite_mobilenet_v3_small_int8.tflite", "--json"],
    "evaluate_int8": ["evaluate", "{made}/deploy_int8/mobilenet_v3_small_int8.tflite", "--data", "{inputs}/classify", "--json"],
    "evaluate_detector": ["evaluate", "{made}/deploy_detector/ssdlite_mobilenet_v3_small_int8.tflite", "--data", "{inputs}/detect", "--json"],
    "evaluate_segmenter": ["evaluate", "{made}/deploy_segmenter/lraspp_mobilenet_v3_small_int8.tflite", "--data", "{inputs}/segment", "--json"],
    "predict_detector": ["predict", "{made}/deploy_detector/ssdlite_mobilenet_v3_small_int8.tflite", "{inputs}/detect/images/0.png", "--threshold", "0.1", "--json", "--out", "{out}/"],
    "predict_segmenter": ["predict", "{made}/deploy_segmenter/lraspp_mobilenet_v3_small_int8.tflite", "{inputs}/segment/images/0.png", "--json", "--out", "{out}/"],
    "verify": ["verify", "{made}/deploy_int8/mobilenet_v3_small_int8.tflite", "--model", *_CLASSIFIER, "--images", "{inputs}/classify", "--json"],
    "verify_detector_raw": [
        "verify", "{made}/deploy_detector_raw/ssdlite_mobilenet_v3_small_int8.tflite", "--model", "ssdlite_mobilenet_v3_small", "--weights", "{inputs}/ssdlite_mobilenet_v3_small.keras",
        "--classes", "3", "--resolution", "96", *_MODEL, "--images", "{inputs}/detect", "--min-agreement", "0", "--json",
    ],
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    record = verbs.add_parser("record")
    record.add_argument("record", help="JSON file to write")
    record.add_argument("--inputs", required=True, help="folder of the pictures and models; made where it is missing")
    record.add_argument("--only", nargs="+", metavar="NAME", help="of the commands; left out, all")
    record.add_argument("--elsewhere", action="store_true", help="in other surroundings")
    compare = verbs.add_parser("compare")
    compare.add_argument("before")
    compare.add_argument("after")
    arguments = parser.parse_args()
    if arguments.verb == "compare":
        return _compare(arguments.before, arguments.after)
    inputs = Path(arguments.inputs).resolve()
    if not inputs.exists():
        _make_inputs(inputs)
    record = _record(inputs, arguments.only, arguments.elsewhere)
    Path(arguments.record).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    return 0


def _compare(before: str, after: str) -> int:
    first, second = (json.loads(Path(path).read_text()) for path in (before, after))
    different = 0
    for command in sorted(first.keys() | second.keys()):
        one, other = first.get(command, {}), second.get(command, {})
        changed = [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]
        different += len(changed)
        print(f"{command:<24} {len(one):>3} digests, {'equal' if not changed else 'DIFFERENT: ' + ', '.join(changed)}")
    print(f"{different} digests differ")
    return 1 if different else 0


def elsewhere(folder: str) -> dict:
    """Return options of ``subprocess.run`` for surroundings on which no byte of a result may depend.

    Args:
        folder: the working directory and home of the process.
    """
    other = {"PYTHONHASHSEED": "1234", "LC_ALL": "C", "LANG": "C", "TZ": "Asia/Kathmandu", "HOME": folder}
    return {"env": os.environ | other, "cwd": folder, "preexec_fn": _on_one_processor}


def _on_one_processor() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _record(inputs: Path, only, other: bool) -> dict[str, dict[str, str]]:
    found = {}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as home:
        for name, words in (COMMANDS | COMMANDS_ON_RESULTS).items():
            if only and name not in only:
                continue
            out = Path(folder) / name
            out.mkdir()
            places = {"inputs": inputs, "out": out, "made": folder}
            words = [word.format(**places) for word in words]
            words += [] if words[0] in ("info", "list", "inspect") else ["--quiet"]
            code = "import sys; from mobilenets_tf.cli import main; sys.exit(main())"
            place = elsewhere(home) if other else {"cwd": folder}
            done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, **place)
            print(f"{name}: exit status {done.returncode}", file=sys.stderr)
            if done.returncode == 2:
                print(done.stderr, file=sys.stderr)
            digests = {"exit status": str(done.returncode)}
            if "--json" in words:
                digests["standard output"] = _sha256(done.stdout.replace(folder, "MADE").encode())
            found[name] = digests | digests_of(out, folder)
    return found


def digests_of(out: Path, folder: str) -> dict[str, str]:
    """Return the sha256 of each file that a command wrote, by the file's path inside of ``out``.

    Args:
        folder: a path that may be another in the next run; JSON is compared without it.
    """
    written = [path for path in sorted(out.rglob("*")) if path.is_file() and not _SKIPPED.search(str(path))]
    return {str(path.relative_to(out)): _digest(path, folder) for path in written}


def _digest(path: Path, folder: str) -> str:
    content = path.read_bytes()
    if path.suffix == ".json":
        document = _without_times(json.loads(content))
        if "entries" in document:  # of a table of latencies: the time of each operator
            document["entries"] = sorted(document["entries"])
        content = json.dumps(document, sort_keys=True).replace(folder, "MADE").encode()
    return _sha256(content)


def _without_times(value):
    if isinstance(value, dict):
        return {key: _without_times(each) for key, each in value.items() if key not in _TIMES}
    return list(map(_without_times, value)) if isinstance(value, list) else value


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _make_inputs(folder: Path) -> None:
    """Pictures of a coloured rectangle: in folders by class, with boxes, with masks; and small models."""
    import numpy as np
    from PIL import Image

    names = ("red", "green", "blue")
    colours = np.array([(230, 40, 40), (40, 200, 40), (40, 40, 230)])
    random = np.random.default_rng(0)
    for part in ("detect/images", "detect/annotations", "segment/images", "segment/masks"):
        (folder / part).mkdir(parents=True)
    (folder / "labels.txt").write_text("\n".join(names) + "\n")
    for index in range(48):
        which = index % 3
        coarse = Image.fromarray(random.integers(60, 190, (6, 6, 3), np.uint8))
        pixels = np.array(coarse.resize((_SIZE + 32, _SIZE), Image.Resampling.BILINEAR))
        y, x = random.integers(4, 30, 2)
        height, width = random.integers(16, 30, 2)
        pixels[y : y + height, x : x + width] = colours[which]
        picture = Image.fromarray(pixels)
        place = folder / "classify" / names[which]
        place.mkdir(parents=True, exist_ok=True)
        picture.save(place / f"{index}.png")
        if index >= 16:
            continue
        picture.save(folder / "detect" / "images" / f"{index}.png")
        picture.save(folder / "segment" / "images" / f"{index}.png")
        box = f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + width}</xmax><ymax>{y + height}</ymax>"
        text = f"<annotation><object><name>{names[which]}</name><bndbox>{box}</bndbox></object></annotation>"
        (folder / "detect" / "annotations" / f"{index}.xml").write_text(text)
        mask = np.full(pixels.shape[:2], 255 if index == 0 else 0, np.uint8)
        mask[y : y + height, x : x + width] = which
        Image.fromarray(mask).save(folder / "segment" / "masks" / f"{index}.png")
    for index in range(270):
        place = folder / "small" / names[index % 3]
        place.mkdir(parents=True, exist_ok=True)
        pixels = (random.integers(60, 190, (4, 4, 3)) + colours[index % 3]).clip(0, 255)
        coarse = Image.fromarray(pixels.astype(np.uint8))
        coarse.resize((40, 40), Image.Resampling.BILINEAR).save(place / f"{index}.png")
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    for code in (_BUILD.replace("SIZE", str(_SIZE)), _BUILD_SEARCHED.replace("ROOT", repr(str(_ROOT)))):
        code = code.replace("FOLDER", repr(str(folder)))
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)


if __name__ == "__main__":
    sys.exit(main())
