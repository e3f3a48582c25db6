"""Latency of the networks' TFLite files, side by side with what other tools make of the same networks.

    python benchmarks/latency.py                                       every network, float32 and int8
    python benchmarks/latency.py 'mobilenet_v3*' --keep /tmp/peers     some; the peers' files are built only once
    python benchmarks/latency.py --no-peers --check                    do ours keep the promises made for int8?

The peers: keras.applications and kimm through the stock TFLiteConverter, timm through litert-torch with
litert-quantizer for int8. What is not installed is left out (`pip install -e '.[peers]'` has it all); keras-cv is not
here because it fetches even a network without weights from Kaggle. No tool has MobileViTv3, so the MobileViT that
each was made from stands beside it.

All weights are random, all inputs are of our network's resolution and channels last. Each maker works in a process of
its own (torch and TensorFlow cannot share one), then a network's files are timed here call by call in turn: LiteRT
with XNNPACK, one thread, only the invocation. Printed are the 10th percentile and the median in ms, the median over
that of our own float32 file, and how many partitions XNNPACK cut the graph into (--why: what it left outside). Look at
the ratios; the milliseconds are the machine's.
"""

import argparse
import fnmatch
import importlib.metadata
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from mobilenets_tf import registry
from mobilenets_tf.export.speed import timing

SCHEMES = ("float32", "int8")
# The most that our int8 file may take, as a share of our float32 file's time.
LIMITS = {"mobilenet_v3_large": 0.6, "mobilenet_v3_small": 0.8, "mobilevit_v3_*": 0.8}
NOT_CONVOLUTIONAL = "mobilevit*"  # all others have to run as one partition in int8


def pictures(resolution: int, count: int = 16) -> list[np.ndarray]:
    """Smooth random pictures in [-1, 1]: our calibration refuses noise, for photographs are not noise."""
    random = np.random.default_rng(0)
    at = np.linspace(0, 1, resolution, dtype=np.float32)[:, None]
    waves = [np.sin(at * random.uniform(3, 25, 3) + random.uniform(0, 6, 3)) for _ in range(2 * count)]
    return [(a[:, None] * b).astype(np.float32) for a, b in zip(waves[::2], waves[1::2], strict=True)]


def settled(model, count: int = 4):
    """The model with BatchNorm statistics of some pictures: its activations are then about as large as if trained."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(np.stack(pictures(model.input_shape[1], count)), training=True)
    return model


# The makers: (name of the network, resolution, schemes) -> {scheme: the file's content}.


def build_ours(name: str, resolution: int, schemes: list[str]) -> dict[str, bytes]:
    import keras

    from mobilenets_tf import create_model
    from mobilenets_tf.export.tflite import convert_model
    from mobilenets_tf.quantize.schemes import get
    from mobilenets_tf.worker import Worker

    keras.utils.set_random_seed(0)
    model = settled(create_model(name))
    with Worker() as worker:
        return {scheme: convert_model(model, get(scheme), pictures(resolution), worker).content for scheme in schemes}


def build_keras(name: str, resolution: int, schemes: list[str]) -> dict[str, bytes]:
    import keras

    name, _, minimalistic = name.partition("_")
    # V3 would normalise its input in the graph, which no other file here does.
    options = {"minimalistic": bool(minimalistic), "include_preprocessing": False} if "V3" in name else {}
    inputs = keras.Input((resolution, resolution, 3), batch_size=1)
    model = getattr(keras.applications, name)(weights=None, input_tensor=inputs, **options)
    return convert_stock(model, resolution, schemes)


def build_kimm(name: str, resolution: int, schemes: list[str]) -> dict[str, bytes]:
    import keras
    import kimm

    inputs = keras.Input((resolution, resolution, 3), batch_size=1)
    model = getattr(kimm.models, name)(weights=None, include_preprocessing=False, input_tensor=inputs)
    if name.startswith("MobileOne"):
        model = kimm.utils.get_reparameterized_model(model)
    return convert_stock(model, resolution, schemes)


def convert_stock(model, resolution: int, schemes: list[str]) -> dict[str, bytes]:
    """A Keras model through TensorFlow's converter, as its documentation tells."""
    import tensorflow as tf

    contents = {}
    for scheme in schemes:
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        if scheme == "int8":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([picture[None]] for picture in pictures(resolution))
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        contents[scheme] = converter.convert()
    return contents


def build_timm(name: str, resolution: int, schemes: list[str]) -> dict[str, bytes]:
    import litert_torch
    import timm
    import torch
    from litert_quantizer import quantizer, recipe
    from timm.utils.model import reparameterize_model

    model = timm.create_model(name).eval()
    # timm starts the last BatchNorm of a residual block at zero, and the converter would leave out the whole block.
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    model = litert_torch.to_channel_last_io(reparameterize_model(model), args=[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        litert_torch.convert(model, (torch.zeros(1, resolution, resolution, 3),)).export(str(path))
        contents = {"float32": path.read_bytes()}
        if "int8" in schemes:
            tool = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
            # litert-torch names the signature and its input so.
            samples = {"serving_default": [{"args_0": picture[None]} for picture in pictures(resolution)]}
            contents["int8"] = bytes(tool.quantize(tool.calibrate(samples)).quantized_model)
    return contents


@dataclass(frozen=True)
class Peer:
    """Another maker of files. ``names``: a pattern for our name of a network -> the peer's."""

    build: Callable
    packages: tuple[str, ...]
    names: dict[str, str]

    def name(self, ours: str) -> str | None:
        """What the peer calls our network; None if it has none."""
        found = ((re.fullmatch(pattern, ours), name) for pattern, name in self.names.items())
        return next((match.expand(name) for match, name in found if match), None)

    def versions(self) -> str | None:
        """The packages' versions, for a file's name; None if one is not installed."""
        try:
            return "-".join(f"{package}{importlib.metadata.version(package)}" for package in self.packages)
        except importlib.metadata.PackageNotFoundError:
            return None


KERAS = {
    "mobilenet_v1": "MobileNet",
    "mobilenet_v2": "MobileNetV2",
    "mobilenet_v3_large(_minimalistic)?": r"MobileNetV3Large\1",
    "mobilenet_v3_small(_minimalistic)?": r"MobileNetV3Small\1",
}
TIMM = {
    "mobilenet_v([12])": r"mobilenetv\1_100",
    "mobilenet_v3_(large|small)": r"mobilenetv3_\1_100",
    "mobilenet_v3_(large|small)_minimalistic": r"tf_mobilenetv3_\1_minimal_100",
    "efficientnet_lite(.)": r"tf_efficientnet_lite\1",
    "(mobileone_s.)": r"\1",
    "mobilevit_(?:v3_)?(xxs|xs|s)": r"mobilevit_\1",
    "mobilevit_v[23]_(050|075|100)": r"mobilevitv2_\1",
}
KIMM = {  # its MobileNetV3 cannot be built without downloading weights
    "mobilenet_v2": "MobileNetV2W100",
    "efficientnet_lite(.)": r"EfficientNetLiteB\1",
    "mobileone_s([0-3])": r"MobileOneS\1",
    "mobilevit_(?:v3_)?xxs": "MobileViTXXS",
    "mobilevit_(?:v3_)?xs": "MobileViTXS",
    "mobilevit_(?:v3_)?s": "MobileViTS",
    "mobilevit_v[23]_(050|075|100)": r"MobileViTV2W\1",
}
PEERS = {
    "keras": Peer(build_keras, ("keras", "tensorflow"), KERAS),
    "litert-torch": Peer(build_timm, ("litert-torch", "timm", "litert-quantizer"), TIMM),
    "kimm": Peer(build_kimm, ("kimm", "keras", "tensorflow"), KIMM),
}


def in_child(function: Callable, *arguments):
    """``function(*arguments)`` in a fresh process, without its chatter.

    Raises:
        RuntimeError: it failed, or the process died.
    """
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(_in_silence, function, *arguments).result()
    except BrokenProcessPool:
        raise RuntimeError(f"{function.__name__}({arguments[0]}) aborted") from None


def _in_silence(function: Callable, *arguments):
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    try:
        return function(*arguments)
    except Exception as error:  # of any package, and perhaps not to be pickled
        raise RuntimeError(" ".join(f"{type(error).__name__}: {error}".split())[:300]) from None


def collect(network, peers: dict[str, Peer], schemes: list[str], folder: Path) -> tuple[dict, dict[str, str]]:
    """{(maker, scheme): file}, ours and those of all peers that have the network, and {maker: why it failed}.

    Ours are always built anew, since they are what is being worked on.
    """
    makers = {"ours": (build_ours, network.name, "ours")}
    for tool, peer in peers.items():
        if name := peer.name(network.name):
            makers[f"{tool} {name}"] = peer.build, name, peer.versions()
    files, failures = {}, {}
    for maker, (build, name, versions) in makers.items():
        # The ratios are to our float32 file.
        wanted = [scheme for scheme in SCHEMES if scheme in schemes or (maker, scheme) == ("ours", "float32")]
        paths = {scheme: folder / f"{name}-{network.resolution}-{versions}-{scheme}.tflite" for scheme in wanted}
        try:
            if maker == "ours" or not all(path.exists() for path in paths.values()):
                contents = in_child(build, name, network.resolution, wanted)
                for scheme, path in paths.items():
                    path.write_bytes(contents[scheme])
            for scheme, path in paths.items():
                in_child(run_once, path)  # LiteRT aborts on some files; that must not end the comparison
                files[maker, scheme] = path
        except RuntimeError as error:
            failures[maker] = str(error)
    return files, failures


def run_once(path: Path) -> None:
    timing.load(path).invoke()


def measure(files: dict[tuple[str, str], Path], calls: int) -> list[dict]:
    """Each file's figures, timed in turn, call by call."""
    timings = timing.side_by_side(files, calls)
    base = timings["ours", "float32"].median_ms
    rows = []
    for maker, scheme in sorted(files, key=lambda key: key[1]):
        taken = timings[maker, scheme]
        rows.append(
            {
                "maker": maker,
                "scheme": scheme,
                "p10": taken.p10_ms,
                "median": taken.median_ms,
                "ratio": taken.median_ms / base,
                "partitions": taken.delegated_partitions,
                "outside": dict(taken.outside),
            }
        )
    return rows


def broken_promises(name: str, rows: list[dict]) -> Iterator[str]:
    """What our int8 file of a network should do and does not."""
    for row in rows:
        if (row["maker"], row["scheme"]) == ("ours", "int8"):
            if row["partitions"] != 1 and not fnmatch.fnmatch(name, NOT_CONVOLUTIONAL):
                yield f"{name}: int8 runs in {row['partitions']} partitions, not in one"
            for pattern, limit in LIMITS.items():
                if fnmatch.fnmatch(name, pattern) and row["ratio"] > limit:
                    yield f"{name}: int8 takes {row['ratio']:.2f} of float32's time, more than {limit}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["*"], help="networks, or wildcards for them")
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=SCHEMES)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--why", action="store_true", help="show the ops that XNNPACK does not run")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    parser.add_argument("--keep", metavar="FOLDER", help="keep all files there; peers' found there are not built again")
    parser.add_argument("--check", action="store_true", help="exit 1 unless our int8 files keep their promises")
    chosen = parser.parse_args()
    if chosen.check and "int8" not in chosen.schemes:
        parser.error("--check is about int8")
    names = dict.fromkeys(name for pattern in chosen.names for name in registry.list_models(pattern, "classify"))
    if not names:
        parser.error(f"no network is called {' or '.join(chosen.names)}")
    peers = {tool: peer for tool, peer in PEERS.items() if chosen.peers and peer.versions()}
    if chosen.peers and (missing := [tool for tool in PEERS if tool not in peers]):
        print(f"Not installed, so left out: {', '.join(missing)}. To have them: pip install -e '.[peers]'")
    results, problems = {}, []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(chosen.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            print(f"{name:<56} {'10 %':>7} {'median':>7}  {'ratio':>5}  partitions", flush=True)
            files, failures = collect(registry.get(name), peers, chosen.schemes, folder)
            for maker, reason in failures.items():
                print(f"  {maker} failed: {reason}", flush=True)
            if "ours" in failures:
                problems.append(f"{name} failed: {failures['ours']}")
            if ("ours", "float32") not in files:
                continue
            results[name] = measure(files, chosen.calls)
            for row in results[name]:
                outside = f"  {row['outside']}" if chosen.why and row["outside"] else ""
                figures = f"{row['p10']:7.2f} {row['median']:7.2f}  {row['ratio']:5.2f}  {row['partitions']:10}"
                print(f"  {row['scheme']:<8}{row['maker']:<46} {figures}{outside}", flush=True)
            if chosen.check:
                problems += broken_promises(name, results[name])
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(results, indent=1) + "\n")
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
