"""Do the files compute on a phone's cores what they compute here? One int8 and one float32 file of every family, and
of a detector and a segmenter.

    python benchmarks/arm64.py
    python benchmarks/arm64.py --check --folder FOLDER    exit 1 if one differs; the runtime is set up there first
    python benchmarks/arm64.py "mobilenet_v3*" "ssd*"     only those

Weights are random, BatchNorm statistics those of the pictures; networks are narrow and pictures small, so that it takes
minutes. LiteRT's own arm64 build runs each file on three emulated cores, one for each of XNNPACK's int8 kernels (smlal,
sdot, smmla). Printed are how many different values the outputs have, and "equal" where all are equal bit for bit, else
the largest difference as a share of the largest output. Integer files have to be equal, float32 ones within 1e-4.
MobileViT's int8 file computes attention in floats, whose last bit decides some of the levels behind it, and may differ
by 0.1. The detector's file is compared as the network gives its outputs, boxes and scores, and with the non-maximum
suppression behind them (nms), all four outputs: export/arm64/emulator.py says what their equality means.

The emulated cores say nothing of a phone's latency, its GPU or NPU, or Android's own build of LiteRT.
"""

import argparse
import os
import sys
from fnmatch import fnmatch

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from latency import pictures, settled

from mobilenets_tf import create_model, registry
from mobilenets_tf.export.arm64 import setup
from mobilenets_tf.export.arm64.emulator import CPUS, compare_with_host
from mobilenets_tf.export.forms import detector as detector_forms
from mobilenets_tf.export.tflite import convert_model
from mobilenets_tf.progress import silent
from mobilenets_tf.quantize import schemes
from mobilenets_tf.tasks.postprocess import Postprocess
from mobilenets_tf.worker import Worker

# Every family: network, width multiplier, pixels.
NETWORKS = (
    ("mobilenet_v1", 0.25, 96),
    ("mobilenet_v2", 0.35, 96),
    ("mobilenet_v3_large", 0.75, 96),
    ("mobilenet_v3_small", 0.75, 96),
    ("mobilenet_v3_small_minimalistic", 0.75, 96),
    ("efficientnet_lite0", None, 96),
    ("mobileone_s0", None, 96),
    ("mobilevit_v3_xxs", None, 128),
    ("ssdlite_mobilenet_v2", 0.35, 96),
    ("lraspp_mobilenet_v3_small", 0.75, 96),
)
SCHEMES = ("int8", "float32")
# Different values that the outputs must have for their equality to mean something.
LEAST_VALUES = 32


def build(name: str, alpha: float | None, resolution: int):
    """The network with random weights, its activations about as large as a trained one's."""
    keras.utils.set_random_seed(0)
    # Logits: 1000 probabilities of a random network are all zero in eight bits, and zeros are equal anywhere.
    options = {"classifier_activation": None} if registry.get(name).task == "classify" else {}
    model = settled(create_model(name, alpha=alpha, resolution=resolution, **options), count=16)
    for layer in model.layers:
        if layer.name.endswith("_classifier"):
            layer.bias.assign(keras.ops.zeros_like(layer.bias))  # scores about 0.5: 0.01 is the third of 256 levels
    return model


def forms(name: str, model, content: bytes):
    """A network's file, and of a detector the one with the suppression too: (form, content)."""
    yield "", content
    if registry.get(name).task == "detect":
        yield "nms", detector_forms.with_form(content, "nms", Postprocess.of(model))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["*"], metavar="NAME", help="networks, wildcards allowed")
    parser.add_argument("--schemes", nargs="+", default=SCHEMES, choices=SCHEMES, help="of the files; both by default")
    parser.add_argument("--count", type=int, default=2, help="pictures for each file")
    parser.add_argument("--cpu", nargs="+", default=CPUS, help="cores, as QEMU calls them")
    parser.add_argument("--folder", help="of the emulated runtime; set up if it is not there")
    parser.add_argument("--check", action="store_true", help="exit 1 if a file differs by more than it may")
    chosen = parser.parse_args()
    networks = [row for row in NETWORKS if any(fnmatch(row[0], pattern) for pattern in chosen.names)]
    if not networks:
        parser.error(f"none of {', '.join(name for name, *_ in NETWORKS)} is called {' or '.join(chosen.names)}")
    emulator = setup.setup(chosen.folder, lambda label, done, total: print(label, flush=True) if not done else None)
    setup.check_cpus(emulator, chosen.cpu)
    print(", ".join(f"{name} {version}" for name, version in emulator.versions.items()))
    print(f"{'':<37} {'pixels':>6} {'':<8}{'values':>7}" + "".join(f"{cpu:>14}" for cpu in chosen.cpu), flush=True)
    failed = []
    with Worker() as worker:
        for name, alpha, resolution in networks:
            model = build(name, alpha, resolution)
            for scheme in chosen.schemes:
                converted = convert_model(model, schemes.get(scheme), pictures(resolution), worker, silent).content
                for form, content in forms(name, model, converted):
                    samples = ([picture] for picture in pictures(resolution, chosen.count))
                    found = compare_with_host(emulator, content, samples, chosen.cpu)
                    label = " ".join(filter(None, (name, alpha and str(alpha), form)))
                    cells = ["equal" if core.equal else f"{core.relative_difference:.1e}" for core in found]
                    print(
                        f"{label:<37} {resolution:>6} {scheme:<8}{found[0].values:>7}"
                        + "".join(f"{cell:>14}" for cell in cells),
                        flush=True,
                    )
                    bad = [core for core in found if not core.passed or core.values < LEAST_VALUES]
                    failed += [f"{label} {scheme}: {core.line()}" for core in bad]
    for line in failed:
        print(line)
    if failed and chosen.check:
        sys.exit(1)


if __name__ == "__main__":
    main()
