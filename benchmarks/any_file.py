"""Post-training int8 of float .tflite files: ours beside litert-quantizer's, from the same file and photographs.

    python benchmarks/any_file.py --images ../shared/imagenet-samples/labels.csv --check      torchvision's MobileNetV2
    python benchmarks/any_file.py --images ... --files theirs.tflite --mean 127.5 --std 127.5

Without ``--files``: the float file that TensorFlow's converter writes of MobileNetV2 with torchvision's weights.
litert-quantizer (0.11; ``pip install litert-quantizer``) makes its recipe static_wi8_ai8 with each of its ways to
choose the scales of weights: min-max, MSE, OCTAV. A way that refuses the file is left out, and named. 128 images,
chosen with seed 0, calibrate all tools; the rest judge.

Printed against the file that was given: signal to noise of the first output, same first answer, top-1 of annotated
images, XNNPACK's partitions, bytes, and the seconds that the tool takes. ``--check`` fails where ours has 0.5 dB less
than the best of the others, or more partitions.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from mobilenets_tf.data import images
from mobilenets_tf.decibels import signal_to_noise
from mobilenets_tf.export.tflite import convert_model
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.quantize import schemes
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.worker import Worker

NETWORK = "mobilenet_v2"
ALGORITHMS = {"min-max": "MIN_MAX_UNIFORM_QUANT", "MSE": "MSE", "OCTAV": "OCTAV"}
MOST_BEHIND = 0.5  # dB

Tool = Callable[[Path, list[np.ndarray]], bytes]


def default_file(folder: Path) -> ModelSource:
    """Convert MobileNetV2 with TensorFlow's converter; return the file with the network's preprocessing."""
    import tensorflow as tf

    network = ModelSource(NETWORK, weights="imagenet")
    model = network.build()
    told = network.preprocessing(model)
    path = folder / f"{NETWORK}.tflite"
    with contextlib.redirect_stdout(sys.stderr):
        path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return ModelSource(
        str(path), mean=told.mean, std=told.std, crop=told.crop, resize=told.resize, interpolation=told.interpolation
    )


def ours(value_range: tuple[float, float]) -> Tool:
    def make(file: Path, samples: list[np.ndarray]) -> bytes:
        calibration = Calibration(samples, value_range)
        with Worker(preload="") as worker:
            return convert_model(str(file), schemes.get("int8"), calibration, worker).content

    return make


def litert_quantizer(algorithm: str) -> Tool:
    def make(file: Path, samples: list[np.ndarray]) -> bytes:
        from litert_quantizer import quantizer, recipe

        content = file.read_bytes()
        key = getattr(recipe.AlgorithmName, algorithm)
        tool = quantizer.Quantizer(content, recipe.static_wi8_ai8(key))
        name = next(iter(_signature(content)))
        with contextlib.redirect_stdout(sys.stderr):
            return bytes(tool.quantize(tool.calibrate({"serving_default": _data(name, samples)})).quantized_model)

    return make


def _signature(content: bytes) -> list[str]:
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_content=content).get_signature_list()["serving_default"]["inputs"]


def _data(name: str, samples: list[np.ndarray]) -> list[dict]:
    return [{name: sample[None]} for sample in samples]


def compare(source: ModelSource, spec: str, count: int) -> dict[str, tuple[float, int]]:
    """Print a line for each tool; return its signal to noise and partitions."""
    model = source.open()
    preprocessing = source.preprocessing(model)
    found = images.find_images(spec)
    chosen = found.sample(count, seed=0)
    rest = found.without(chosen)
    calibration, judged = ([preprocessing(images.decode(path)) for path in part.paths] for part in (chosen, rest))
    expected = np.concatenate([model.answers([sample[None]])[0] for sample in judged])
    labels = None if rest.labels is None else np.array(rest.labels)
    if labels is not None and labels.max() < expected.shape[-1]:
        print(f"  the file itself                 top-1 {(expected.argmax(-1) == labels).mean():6.1%}")
    results = {}
    tools = {"ours": ours(preprocessing.value_range)}
    tools |= {f"litert-quantizer {name}": litert_quantizer(key) for name, key in ALGORITHMS.items()}
    for name, tool in tools.items():
        started = time.perf_counter()
        try:
            content = tool(Path(source.model), calibration)
        except Exception as error:  # another tool's
            if name == "ours":
                raise
            print(f"  {name:<26} refused: {str(error).splitlines()[0][:90]}")
            continue
        seconds = time.perf_counter() - started
        runner = Runner(content)
        outputs = np.concatenate([runner(sample)[0] for sample in judged])
        snr = signal_to_noise(float((expected**2).sum()), float(((outputs - expected) ** 2).sum()))
        plan = runner.execution_plan()
        results[name] = snr, plan.get("DELEGATE", 0)
        top1 = ""
        if labels is not None and labels.max() < expected.shape[-1]:
            top1 = f"  top-1 {(outputs.argmax(-1) == labels).mean():6.1%}"
        same = (outputs.argmax(-1) == expected.argmax(-1)).mean()
        print(
            f"  {name:<26} {snr:5.1f} dB  same {same:6.1%}{top1}  {plan.get('DELEGATE', 0)} partitions, "
            f"{sum(plan.values()) - plan.get('DELEGATE', 0)} other ops  {len(content):,} bytes  {seconds:.0f} s",
            flush=True,
        )
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="a folder or CSV, annotated or not")
    parser.add_argument("--files", nargs="+", help="float .tflite files")
    parser.add_argument("--mean", type=float, nargs="+")
    parser.add_argument("--std", type=float, nargs="+")
    parser.add_argument("--calibration-count", type=int, default=128)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        sources = (
            [ModelSource(file, mean=arguments.mean, std=arguments.std) for file in arguments.files]
            if arguments.files
            else [default_file(Path(folder))]
        )
        for source in sources:
            print(source.name)
            results = compare(source, arguments.images, arguments.calibration_count)
            own_snr, own_parts = results.pop("ours")
            for name, (snr, parts) in results.items():
                if own_snr < snr - MOST_BEHIND or own_parts > parts:
                    failed.append(f"{source.name}: {name} has {snr:.1f} dB and {parts} partitions")
    for line in failed:
        print("worse than", line)
    return 1 if failed and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
