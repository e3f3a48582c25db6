"""Post-training int8 of the networks with real weights: ours beside what other tools make of the same float model.

    python benchmarks/post_training.py --images ../shared/imagenet-samples/labels.csv --check        with seed 0
    python benchmarks/post_training.py --images ... --seeds 0 1 2 --models mobilenet_v2              means of three
    python benchmarks/post_training.py --images ... --seeds 0 1 2 --ablation    what each step of the recipe brings

The peers: TensorFlow's converter (the same Keras model, its default optimisations) and litert-quantizer's recipe
static_wi8_ai8 (our float32 file; left out if it is not installed: `pip install -e '.[peers]'`). 128 images, chosen with
each seed, calibrate all of them; the rest judge.

Printed against the float32 file: same first answer, change of top-1 in points, images whose first answer is a tie,
signal to noise; and the time to calibrate and quantise, with its ratio to the converter's: elapsed, and the processors'
(all threads), which other programs disturb less. Times are the machine's and have no gate. ``--check`` fails if ours,
averaged over the seeds, misses one.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from mobilenets_tf.data import images
from mobilenets_tf.export.proof.comparison import compare
from mobilenets_tf.export.tflite import convert_model
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.quantize import schemes
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.quantize.post_training import Recipe, prepare
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.worker import Worker

# network: (least agreement with float, most points of top-1 lost; None: no gate)
GATES = {
    "mobilenet_v2": (0.965, 0.8),
    "efficientnet_lite0": (0.985, None),
    "efficientnet_lite1": (0.985, None),
    "efficientnet_lite2": (0.985, None),
}
MOST_TIES = 0.02
CALIBRATION = 128
CONVERTER = "converter"

DEFAULT = Recipe()
ABLATIONS = {
    "default": DEFAULT,
    "no equalisation": replace(DEFAULT, equalize=False),
    **{
        f"ranges: {name}": replace(DEFAULT, ranges=name)
        for name in ("mean_square_error", "percentile", "entropy", "min_max")
    },
    "rounding: nearest": replace(DEFAULT, rounding="nearest"),
    "no bias correction": replace(DEFAULT, correct_biases=False),
    "none of these": Recipe(False, "min_max", "nearest", False),
    "per tensor": replace(DEFAULT, per_tensor=True),
    "per tensor, none of these": Recipe(False, "min_max", "nearest", False, per_tensor=True),
}


@dataclass
class Subject:
    """A network as the tools get it, and the images, preprocessed."""

    model: object
    content: bytes
    samples: list[np.ndarray]
    labels: np.ndarray
    value_range: tuple[float, float]
    reference: np.ndarray

    def split(self, seed: int) -> tuple[list[np.ndarray], list[int]]:
        """Samples to calibrate with, and places of those that judge."""
        chosen = set(random.Random(seed).sample(range(len(self.samples)), CALIBRATION))  # deploy chooses the same
        rest = [index for index in range(len(self.samples)) if index not in chosen]
        return [self.samples[index] for index in sorted(chosen)], rest

    def judge(self, content: bytes, places: list[int]):
        """The comparison of a quantised file with the float one."""
        outputs = np.array(list(Runner(content).first_outputs(self.samples[index] for index in places)))
        return compare(self.reference[places], outputs, self.labels[places])


def build_subject(name: str, source: str) -> Subject:
    network = ModelSource(name, weights="imagenet")
    model = network.build()
    preprocessing = network.preprocessing(model)
    found = images.find_images(source)
    with Worker() as worker:
        content = convert_model(model, schemes.get("float32"), None, worker).content
    samples = [preprocessing(images.decode(path)) for path in found.paths]
    reference = np.array(list(Runner(content).first_outputs(samples)))
    return Subject(model, content, samples, np.array(found.labels), preprocessing.value_range, reference)


# The tools: (subject, calibration samples) -> (the int8 file's content, when its calibration began).


def now() -> np.ndarray:
    """Seconds: elapsed, and of the processors."""
    return np.array([time.perf_counter(), time.process_time()])


def ours(subject: Subject, samples: list[np.ndarray], recipe: Recipe | None = None) -> tuple[bytes, np.ndarray]:
    started = now()
    content = prepare(subject.content, "int8", Calibration(samples, subject.value_range), recipe).write()
    return content, started


def converter(subject: Subject, samples: list[np.ndarray]) -> tuple[bytes, np.ndarray]:
    import tensorflow as tf

    asked = []

    def dataset():
        asked.append(now())  # the first time, the float model is ready
        return ([sample[None]] for sample in samples)

    tool = tf.lite.TFLiteConverter.from_keras_model(subject.model)
    tool.optimizations = [tf.lite.Optimize.DEFAULT]
    tool.representative_dataset = dataset
    tool.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    tool.inference_input_type = tool.inference_output_type = tf.int8
    with silence():
        content = tool.convert()
    return content, asked[0]


def litert_quantizer(subject: Subject, samples: list[np.ndarray]) -> tuple[bytes, np.ndarray]:
    from litert_quantizer import quantizer, recipe

    (details,) = Runner(subject.content).inputs
    started = now()
    with silence():
        tool = quantizer.Quantizer(subject.content, recipe.static_wi8_ai8())
        data = {"serving_default": [{details["name"]: sample[None]} for sample in samples]}
        content = bytes(tool.quantize(tool.calibrate(data)).quantized_model)
    return content, started


@contextmanager
def silence() -> Iterator[None]:
    """Without the chatter of a tool's C++, which knows no other way."""
    kept, nowhere = [os.dup(stream) for stream in (1, 2)], os.open(os.devnull, os.O_WRONLY)
    sys.stdout.flush()
    try:
        for stream in (1, 2):
            os.dup2(nowhere, stream)
        yield
    finally:
        sys.stdout.flush()
        for stream, original in zip((1, 2), kept, strict=True):
            os.dup2(original, stream)
        for handle in (*kept, nowhere):
            os.close(handle)


@dataclass(frozen=True)
class Row:
    """Figures of one file, or their means: agreement and ties as shares, change in points, snr in dB, two times."""

    agreement: float
    change: float
    ties: float
    snr: float
    elapsed: float
    processors: float

    def line(self, label: str, base: "Row") -> str:
        """``base``: whose times the ratios are to."""
        figures = f"{self.agreement:7.2%} {self.change:+7.2f} {self.ties:6.2%} {self.snr:6.1f} dB"
        for mine, other in ((self.elapsed, base.elapsed), (self.processors, base.processors)):
            figures += f" {mine:7.1f} s {mine / other:5.2f}"
        return f"  {label:<34} {figures}"


HEADING = f"{'same':>7} {'top-1':>7} {'ties':>6} {'noise':>9} {'elapsed':>9} ratio processors ratio"


def mean(rows: list[Row]) -> Row:
    return Row(*(statistics.mean(values) for values in zip(*(vars(row).values() for row in rows), strict=True)))


def measure(subject: Subject, tools: dict, seeds: list[int], base: str) -> dict[str, Row]:
    """Each tool's means over the seeds; every seed's are printed as they come."""
    rows = {tool: [] for tool in tools}
    for seed in seeds:
        samples, rest = subject.split(seed)
        for tool, quantise in tools.items():
            content, started = quantise(subject, samples)
            seconds = now() - started
            found = subject.judge(content, rest)
            change = 100 * (found.top1 - found.reference_top1)
            rows[tool].append(Row(found.top1_agreement, change, found.ties, found.snr_db, *seconds))
        for tool, found in rows.items():
            print(found[-1].line(f"seed {seed}  {tool}", rows[base][-1]), flush=True)
    means = {tool: mean(found) for tool, found in rows.items()}
    if len(seeds) > 1:
        for tool, row in means.items():
            print(row.line(f"mean    {tool}", means[base]), flush=True)
    return means


def missed(name: str, row: Row) -> Iterator[str]:
    agreement, most_lost = GATES[name]
    if row.agreement < agreement:
        yield f"{name}: agreement {row.agreement:.2%}, the gate is {agreement:.1%}"
    if most_lost is not None and -row.change > most_lost:
        yield f"{name}: loses {-row.change:.2f} points of top-1, the gate is {most_lost}"
    if row.ties > MOST_TIES:
        yield f"{name}: ties {row.ties:.2%}, the gate is {MOST_TIES:.0%}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="a labelled folder or CSV")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--models", nargs="+", choices=list(GATES), help="all; for --ablation, mobilenet_v2")
    parser.add_argument("--ablation", action="store_true", help="recipes of ours instead of other tools")
    parser.add_argument("--check", action="store_true", help="exit 1 if a gate is missed")
    chosen = parser.parse_args()
    if chosen.ablation:
        tools = {label: lambda *given, recipe=recipe: ours(*given, recipe) for label, recipe in ABLATIONS.items()}
        reported, base, models = "default", "none of these", chosen.models or ["mobilenet_v2"]
    else:
        tools, models = {"ours": ours, CONVERTER: converter}, chosen.models or list(GATES)
        reported, base = "ours", CONVERTER
        if importlib.util.find_spec("litert_quantizer"):
            tools[f"litert-quantizer {importlib.metadata.version('litert-quantizer')}"] = litert_quantizer
        else:
            print("Not installed, so left out: litert-quantizer. To have it: pip install -e '.[peers]'")
    problems = []
    for name in models:
        subject = build_subject(name, chosen.images)
        float_top1 = (subject.reference.argmax(-1) == subject.labels).mean()
        print(f"{f'{name}, float top-1 {float_top1:.1%}':<36} {HEADING}", flush=True)
        means = measure(subject, tools, chosen.seeds, base)
        problems += missed(name, means[reported])
    for line in problems:
        print(f"MISSED {line}")
    return 1 if problems and chosen.check else 0


if __name__ == "__main__":
    sys.exit(main())
