"""Wall time and peak memory of `mobilenets-tf deploy` beside a plain TFLiteConverter script: whole processes.

    python benchmarks/deploy_cost.py --images ../shared/imagenet-samples/labels.csv

Both start from nothing, build EfficientNet-Lite0 with its ImageNet weights, calibrate on the same images and write an
int8 file; deploy also verifies it and writes its manifest and report. They run in turn, so that the machine's mood
meets both; printed is the median of each and their ratio. Peak memory is the sum over the process tree of each
process's proportional share (PSS), read twenty times a second. Linux only.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# What the converter's documentation tells a user to write.
PLAIN = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
import tensorflow as tf
import mobilenets_tf
from mobilenets_tf.data.images import decode, find_images
from mobilenets_tf.weights import catalog

source, count, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
preprocessing = catalog.find("efficientnet_lite0", "imagenet").preprocessing
model = mobilenets_tf.create_model("efficientnet_lite0", weights="imagenet")
images = find_images(source).sample(count)
converter = tf.lite.TFLiteConverter.from_keras_model(model)
converter.optimizations = [tf.lite.Optimize.DEFAULT]
converter.representative_dataset = lambda: ([preprocessing(decode(path))[None]] for path in images.paths)
converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
converter.inference_input_type = converter.inference_output_type = tf.int8
open(out, "wb").write(converter.convert())
"""


def proportional_memory(pid: int) -> int:
    """Bytes of a process and its descendants, shared pages counted once."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(proportional_memory(int(child)) for child in (task / "children").read_text().split())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass  # it ended while we looked
    return total


def measure(command: list[str]) -> tuple[float, float]:
    """(seconds, peak megabytes) of a command and all it starts.

    Raises:
        SystemExit: the command failed; its last words are shown.
    """
    with tempfile.TemporaryFile() as log:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=log, stderr=log)
        peak = 0
        while process.poll() is None:
            peak = max(peak, proportional_memory(process.pid))
            time.sleep(0.05)
        seconds = time.monotonic() - started
        if process.returncode:
            log.seek(0)
            sys.exit(f"{command} failed:\n{log.read().decode(errors='replace')[-2000:]}")
    return seconds, peak / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="a folder or CSV of images")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--check", action="store_true", help="exit 1 if deploy takes more time or memory than the script"
    )
    chosen = parser.parse_args()
    deploy = shutil.which("mobilenets-tf", path=str(Path(sys.executable).parent))
    results = {"plain converter script": [], "mobilenets-tf deploy": []}
    with tempfile.TemporaryDirectory() as folder:
        plain = [sys.executable, "-c", PLAIN, chosen.images, str(chosen.count), f"{folder}/plain.tflite"]
        ours = [deploy, "deploy", "efficientnet_lite0", "--weights", "imagenet", "--calibration", chosen.images]
        ours += ["--calibration-count", str(chosen.count), "--out", f"{folder}/deploy", "--quiet"]
        for _ in range(chosen.rounds):
            results["plain converter script"].append(measure(plain))
            results["mobilenets-tf deploy"].append(measure(ours))
    medians = {
        name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in results.items()
    }
    for name, (seconds, megabytes) in medians.items():
        print(f"{name:<24} {seconds:6.1f} s  {megabytes:6.0f} MB peak")
    plain, ours = medians["plain converter script"], medians["mobilenets-tf deploy"]
    ratios = [a / b for a, b in zip(ours, plain, strict=True)]
    print(f"{'deploy / script':<24} {ratios[0]:6.2f}    {ratios[1]:6.2f}")
    if chosen.check and max(ratios) > 1:
        sys.exit("deploy costs more than the plain script")


if __name__ == "__main__":
    main()
