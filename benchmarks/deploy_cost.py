"""Time and peak memory of `mobilenets-tf deploy` beside a plain TFLiteConverter script: whole processes.

    python benchmarks/deploy_cost.py --images ../shared/imagenet-samples/labels.csv
    python benchmarks/deploy_cost.py --images ... mobilenet_v2 mobilenet_v3_large --rounds 1

Of each network the whole of ``deploy`` is to take at most the script's time and memory, and of KerasHub's DeepLabv3+ at
96 pixels (where KerasHub is installed) at most twice as much; ``--check`` fails otherwise.

Both start from nothing, build the network (with its ImageNet weights where the machine has them), calibrate on the same
images and write an int8 file; deploy also verifies it and writes its manifest and report. They run in turn, so that the
machine's mood meets both; printed is the median of each and their ratio: of the wall time, of the processor time of all
processes, which other load on the machine changes less, and of the peak memory. That is the sum over the process tree
of each process's proportional share (PSS), read twenty times a second. Linux only.
"""

import argparse
import importlib.util
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mobilenets_tf.errors import RequestError
from mobilenets_tf.modelsource import RANDOM, ModelSource

DEEPLAB = "deeplab_v3_plus"  # KerasHub's, as an object
NETWORKS = ("efficientnet_lite0", "mobilenet_v2", "mobilenet_v3_large", "mobileone_s1", DEEPLAB)
MOST = {DEEPLAB: 2.0}  # times the script's time and memory; of the others once

# What the converter's documentation tells a user to write.
PLAIN = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
import tensorflow as tf
import mobilenets_tf
from mobilenets_tf.data.images import decode, find_images
from mobilenets_tf.modelsource import ModelSource

name, weights, source, count, out = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]
model = mobilenets_tf.create_model(name, weights=weights if weights == "imagenet" else None)
preprocessing = ModelSource(name, weights=weights).preprocessing(model)
images = find_images(source).sample(count)
"""
CONVERT = """
converter = tf.lite.TFLiteConverter.from_keras_model(model)
converter.optimizations = [tf.lite.Optimize.DEFAULT]
converter.representative_dataset = lambda: ([preprocessing(decode(path))[None]] for path in images.paths)
converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
converter.inference_input_type = converter.inference_output_type = tf.int8
open(out, "wb").write(converter.convert())
"""

# DeepLabv3+ on a ResNet-18, random weights, 21 classes.
HUB = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras, keras_hub
import tensorflow as tf
from mobilenets_tf.data.images import decode, find_images
from mobilenets_tf.export import DeployRequest, deploy
from mobilenets_tf.modelsource import ModelSource

source, count, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
keras.utils.set_random_seed(0)
encoder = keras_hub.models.ResNetBackbone(
    input_conv_filters=[64], input_conv_kernel_sizes=[7], stackwise_num_filters=[64, 128, 256, 512],
    stackwise_num_blocks=[2, 2, 2, 2], stackwise_num_strides=[1, 2, 2, 2], block_type="basic_block",
    image_shape=(96, 96, 3),
)
backbone = keras_hub.models.DeepLabV3Backbone(
    image_encoder=encoder, spatial_pyramid_pooling_key="P4", upsampling_size=4, dilation_rates=[6, 12, 18],
    low_level_feature_key="P2", image_shape=(96, 96, 3),
)
model = keras_hub.models.DeepLabV3ImageSegmenter(backbone=backbone, num_classes=21)
described = ModelSource(model, mean=(127.5,) * 3, std=(127.5,) * 3)
preprocessing = described.preprocessing(model)
images = find_images(source).sample(count)
"""
HUB_DEPLOY = """
request = DeployRequest(
    described, out=out, calibration=source, calibration_count=count, min_agreement=0.0, overwrite=True
)
deploy(request)
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


def measure(command: list[str]) -> tuple[float, float, float]:
    """(seconds, processor seconds, peak megabytes) of a command and all it starts.

    Raises:
        SystemExit: the command failed; its last words are shown.
    """
    with tempfile.TemporaryFile() as log:
        started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.Popen(command, stdout=log, stderr=log)
        peak = 0
        while process.poll() is None:
            peak = max(peak, proportional_memory(process.pid))
            time.sleep(0.05)
        seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        if process.returncode:
            log.seek(0)
            sys.exit(f"{command} failed:\n{log.read().decode(errors='replace')[-2000:]}")
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, processor, peak / 1e6


def has_weights(name: str) -> bool:
    """Whether the network's ImageNet weights are on this machine."""
    try:
        ModelSource(name, weights="imagenet").check()
    except RequestError:
        return False
    return True


def commands(name: str, weights: str, images: str, count: str, folder: str) -> tuple[list[str], list[str]]:
    """The commands of the plain script and of deploy."""
    out, deployed = f"{folder}/plain.tflite", f"{folder}/deploy"
    if name == DEEPLAB:
        return tuple(
            [sys.executable, "-c", HUB + rest, images, count, where]
            for rest, where in ((CONVERT, out), (HUB_DEPLOY, deployed))
        )
    deploy = shutil.which("mobilenets-tf", path=str(Path(sys.executable).parent))
    command = [deploy, "deploy", name, "--weights", weights, "--calibration", images]
    command += ["--calibration-count", count, "--out", deployed, "--quiet", "--overwrite"]
    return [sys.executable, "-c", PLAIN + CONVERT, name, weights, images, count, out], command


def compare(name: str, images: str, count: int, rounds: int) -> list[float]:
    """Print the medians of both, and return the ratios of wall time, processor time and memory."""
    weights = "imagenet" if name != DEEPLAB and has_weights(name) else RANDOM
    script, ours = [], []
    with tempfile.TemporaryDirectory() as folder:
        plain, command = commands(name, weights, images, str(count), folder)
        for _ in range(rounds):
            script.append(measure(plain))
            ours.append(measure(command))
    medians = [[statistics.median(column) for column in zip(*runs, strict=True)] for runs in (script, ours)]
    for label, figures in zip(("plain converter script", "mobilenets-tf deploy"), medians, strict=True):
        seconds, processor, megabytes = figures
        print(f"{label:<24} {seconds:6.1f} s  {processor:6.1f} s of processors  {megabytes:6.0f} MB peak")
    ratios = [a / b for a, b in zip(medians[1], medians[0], strict=True)]
    title = f"{name} ({weights})"
    print(f"{title:<24} {ratios[0]:6.2f}    {ratios[1]:6.2f}                  {ratios[2]:6.2f}", flush=True)
    return ratios


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NETWORKS, help="networks")
    parser.add_argument("--images", required=True, help="a folder or CSV of images")
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--check", action="store_true", help="exit 1 if deploy takes more time or memory than the script"
    )
    chosen = parser.parse_args()
    ratios = {}
    for name in chosen.names:
        if name == DEEPLAB and not importlib.util.find_spec("keras_hub"):
            print(f"{name}: left out, KerasHub is not installed (pip install keras-hub)")
            continue
        ratios[name] = compare(name, chosen.images, chosen.count, chosen.rounds)
    dear = [name for name, (seconds, _, memory) in ratios.items() if max(seconds, memory) > MOST.get(name, 1.0)]
    if chosen.check and dear:
        sys.exit(f"deploy costs more than the plain script: {', '.join(dear)}")


if __name__ == "__main__":
    main()
