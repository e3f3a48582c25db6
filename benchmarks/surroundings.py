"""Convert in the surroundings that users have, many times in one process, and with many calibration images.

    python benchmarks/surroundings.py                    # all parts
    python benchmarks/surroundings.py --parts places     # each place in a process of its own: settings, threads, ...
    python benchmarks/surroundings.py --parts conversions calibration images

``places`` makes the same int8 file everywhere. Each place has to give the bytes of the first one, or one line that says
what to do. The others print the memory of a process, which memory none of its child processes has exceeded (one that
has just been forked counts with its parent's), and how many files are open: ``conversions`` after each ten of 50
conversions, ``calibration`` after 100, 1000 and 10,000 calibration images, ``images`` after as many images evaluated
and predicted. Nothing may grow by more than 10 %.

The exit status is 1 if a place fails or something grows.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# Makes a file and prints its sha256. Without ``if __name__ == "__main__"``, as most people's scripts are.
SCRIPT = """
import hashlib, sys, tempfile
from pathlib import Path
import numpy as np
{before}
import keras
from mobilenets_tf.export import to_tflite

def model():
    layers = keras.layers
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3), name="image")
    x = layers.Conv2D(8, 3, 2, padding="same", name="conv", data_format="channels_last", dtype="float32")(inputs)
    x = layers.LayerNormalization(name="norm", dtype="float32")(x)
    x = layers.GlobalAveragePooling2D(name="pool", data_format="channels_last", dtype="float32")(x)
    return keras.Model(inputs, layers.Dense(4, name="out", dtype="float32")(x), name="net")

def pictures(count):
    random = np.random.default_rng(0)
    for _ in range(count):
        yield np.kron(random.uniform(-1, 1, (4, 4, 3)), np.ones((8, 8, 1))).astype(np.float32) \\
            + np.linspace(-0.1, 0.1, 32, dtype=np.float32)[:, None, None]

def convert(count=100, net=None):
    with tempfile.TemporaryDirectory() as folder:
        exported = to_tflite(net or model(), "int8", lambda: pictures(count), Path(folder) / "net.tflite")
        return hashlib.sha256(exported.path.read_bytes()).hexdigest()
{what}
"""
ONCE = "print(convert())"
THREADS = """
from concurrent.futures import ThreadPoolExecutor
net = model()
with ThreadPoolExecutor(2) as pool:
    found = set(pool.map(lambda _: convert(net=net), range(2)))
print(*found)
"""
SPAWN = """
import multiprocessing
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(convert))
"""
FORK = """
import multiprocessing
with multiprocessing.get_context("fork").Pool(1) as pool:  # TensorFlow has computed nothing in this process yet
    print(pool.apply(convert))
"""
SETTINGS = '{"floatx": "float16", "epsilon": 1e-5, "backend": "tensorflow", "image_data_format": "channels_first"}'
MEASURED = """
import os, resource

def measure(count):
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmRSS"))
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(count, int(line.split()[1]) // 1024, child // 1024, len(os.listdir("/proc/self/fd")), flush=True)
"""
CONVERSIONS = (
    MEASURED
    + """
net = model()
for number in range(1, 51):
    convert(net=net)
    if number % 10 == 0:
        measure(number)
"""
)
CALIBRATION = (
    MEASURED
    + """
net = model()
for count in (100, 1000, 10_000):
    convert(count, net)
    measure(count)
"""
)
IMAGES = (
    MEASURED
    + """
from PIL import Image
from mobilenets_tf import EvaluateRequest, ModelSource, PredictRequest, evaluate, predict

folder = Path(tempfile.mkdtemp(dir="."))
paths = []
for index, picture in enumerate(pictures(10_000)):
    paths.append(folder / "abcd"[index % 4] / f"{index}.png")
    paths[-1].parent.mkdir(exist_ok=True)
    Image.fromarray(((picture.clip(-1, 1) + 1) * 127.5).astype(np.uint8)).save(paths[-1])
file = to_tflite(model(), "int8", lambda: pictures(100), folder / "net.tflite").path
source = ModelSource(str(file), mean=(127.5,), std=(127.5,))
for count in (100, 1000, 10_000):
    assert evaluate(EvaluateRequest(source, str(folder), count=count)).scores["images"] == count
    assert len(predict(PredictRequest(source, [str(path) for path in paths[:count]]))) == count
    measure(count)
"""
)
COUNTED = {
    "conversions": (CONVERSIONS, "conversions in one process"),
    "calibration": (CALIBRATION, "calibration images"),
    "images": (IMAGES, "images evaluated and predicted"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["places", *COUNTED], choices=["places", *COUNTED])  # fmt: skip
    arguments = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "places" in arguments.parts:
            failed |= not places(folder)
        for part, (what, counted) in COUNTED.items():
            if part in arguments.parts:
                failed |= not grows_not(folder, what, counted)
    return 1 if failed else 0


def run(folder: Path, what: str = ONCE, before: str = "", environment: dict | None = None, **options):
    """Run the script in a process of its own. An environment variable that is None is left out."""
    script = folder / "script.py"
    script.write_text(SCRIPT.format(before=before, what=what), encoding="utf-8")
    variables = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})}
    variables = {key: value for key, value in variables.items() if value is not None}
    options = {"cwd": folder, **options}
    return subprocess.run([sys.executable, script], capture_output=True, text=True, env=variables, **options)


def places(folder: Path) -> bool:
    """Make the file in each place; tell whether all gave the same bytes or one line with a remedy."""
    home = folder / "home"
    (home / ".keras").mkdir(parents=True)
    (home / ".keras" / "keras.json").write_text(SETTINGS)
    fixed = folder / "read-only"
    fixed.mkdir(mode=0o555)
    one = {"preexec_fn": lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})}
    cases = {
        "plain": {},
        "keras.json: channels_first, float16": {"environment": {"HOME": str(home)}},
        "global policy mixed_float16": {"before": "import keras; keras.config.set_dtype_policy('mixed_float16')"},
        "KERAS_BACKEND=jax": {"environment": {"KERAS_BACKEND": "jax"}},
        "KERAS_BACKEND=torch": {"environment": {"KERAS_BACKEND": "torch"}},
        "TF_USE_LEGACY_KERAS=1": {"environment": {"TF_USE_LEGACY_KERAS": "1"}},
        "tf_keras imported before": {"before": "import tf_keras"},
        "tfmot imported before": {"before": "import tensorflow_model_optimization"},
        "two threads": {"what": THREADS},
        "fork": {"what": FORK},
        "spawn": {"what": SPAWN},
        "read-only working directory": {"cwd": fixed},
        "HOME unset": {"environment": {"HOME": None}},
        "C locale without UTF-8": {"environment": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}},
        "one processor": one if hasattr(os, "sched_setaffinity") else {},
    }
    expected, right = None, True
    for name, options in cases.items():
        done = run(folder, **options)
        expected = expected or done.stdout.strip()
        last = (done.stderr.strip().splitlines() or [""])[-1]
        if done.returncode == 0 and done.stdout.strip() == expected:
            verdict = "the same bytes"
        elif "RequestError" in last or "No module named" in last:  # Keras itself cannot be imported without its backend
            verdict = last[:160]
        else:
            verdict, right = f"WRONG: exit status {done.returncode}, {done.stdout.strip()[:16]} {last[:200]}", False
        print(f"{name:<38} {verdict}", flush=True)
    return right


def grows_not(folder: Path, what: str, counted: str) -> bool:
    """Print what is measured after each count; tell whether all of it stays within 10 % of the first."""
    done = run(folder, what)
    if done.returncode:
        print(done.stderr[-1000:])
        return False
    rows = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    for count, megabytes, child, files in rows:
        print(f"{count:>6} {counted}: {megabytes} MB, no child above {child} MB, {files} files open", flush=True)
    return all(last <= 1.1 * first for first, last in zip(rows[0][1:], rows[-1][1:], strict=True))


if __name__ == "__main__":
    sys.exit(main())
