"""Draw the pictures of README.md and of the internals pages, from real files: docs/pictures/*.svg.

    python benchmarks/pictures.py --images labels.csv      # all: labelled ImageNet photographs, 20 minutes of one core
    python benchmarks/pictures.py scales partitions aware  # those that need no photographs

sensitivity: the layers of EfficientNet-Lite0 (Google's ImageNet weights) that int8 changes most, each quantised alone.
schemes: the same network in four schemes, its size and its latency against top-1 on the photographs that calibration
    has not used.
scales: how many of the levels of int8 the channels of one of its depthwise layers have, with one scale for all.
partitions: the operators of two int8 files of MobileNetV3 small in their order, ours and that of TensorFlow's
    converter, and which of them XNNPACK computes.
aware: outputs of a small network that is trained here on drawn pictures: its file against the float model, and against
    the model in quantisation-aware training.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

import numpy as np

from mobilenets_tf import files
from mobilenets_tf.drawing import ACCENT, FAINT, INK, SECOND, drawing, finish, to_svg

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
NETWORK = "efficientnet_lite0"
LAYERS = 10  # of the sensitivity chart
SCHEMES = ("float32", "float16", "dynamic", "int8")
DEPTHWISE = "stage2_block1_depthwise_conv"
CALIBRATION = 128


def sensitivity(images: str) -> str:
    from mobilenets_tf import ModelSource, SensitivityRequest, write_sensitivity
    from mobilenets_tf.export.page import sensitivity_chart
    from mobilenets_tf.quantize import Sensitivity

    with tempfile.TemporaryDirectory() as folder:
        request = SensitivityRequest(
            ModelSource(NETWORK, weights="imagenet"), folder, calibration=images, calibration_count=CALIBRATION
        )
        rows = write_sensitivity(request).layers[:LAYERS]
    known = Sensitivity.__dataclass_fields__
    return sensitivity_chart.draw(
        [Sensitivity(**{key: value for key, value in row.items() if key in known}) for row in rows],
        NETWORK,
    )


def schemes(images: str) -> str:
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    from mobilenets_tf import ModelSource, ReportRequest, report

    with tempfile.TemporaryDirectory() as folder:
        request = ReportRequest(
            ModelSource(NETWORK, weights="imagenet"), folder, SCHEMES, calibration=images,
            calibration_count=CALIBRATION, evaluate=images,
        )  # fmt: skip
        rows = report(request).rows
    base = next(row for row in rows if row.scheme == "float32")
    costs = (
        ("size in MB", [row.bytes / 1e6 for row in rows]),
        ("latency, float32 = 1", [row.median_ms / base.median_ms for row in rows]),
    )
    with drawing():
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        for axes, (label, values) in zip(figure.subplots(1, 2, sharey=True), costs, strict=True):
            for place, (row, value) in enumerate(zip(rows, values, strict=True)):
                ends = [[base.score + end] for end in row.interval] if row.interval else [[row.score]] * 2
                axes.plot([value, value], ends, color=FAINT, linewidth=1.5)
                axes.plot(value, row.score, "o", color=ACCENT)
                above = 4 - 16 * (place % 2)
                axes.annotate(row.scheme, (value, row.score), (6, above), textcoords="offset points", color=INK)
            axes.set_xlim(0, 1.25 * max(values))
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
            finish(axes, label, "top-1")
        figure.suptitle(f"{NETWORK}: top-1, and 95 % intervals of its change from float32", x=0.01, ha="left")
        return to_svg(figure)


def scales() -> str:
    from matplotlib.figure import Figure

    from mobilenets_tf import create_model

    model = create_model(NETWORK, weights="imagenet")
    norm = model.get_layer(DEPTHWISE.replace("_conv", "_bn"))
    gain = np.asarray(norm.gamma) / np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)
    weights = np.asarray(model.get_layer(DEPTHWISE).kernel)[..., 0] * gain  # as the file has them
    largest = np.sort(abs(weights).max((0, 1)))
    with drawing():
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.bar(range(len(largest)), 127 * largest / largest[-1], 0.8, color=ACCENT, label="one scale for the layer")
        axes.axhline(127, color=SECOND, linewidth=1.5, label="a scale for each channel")
        finish(axes, f"the {len(largest)} channels, by size", "levels on each side of zero")
        axes.set_ylim(0, 150)
        axes.legend(loc="upper left", ncols=2)
        figure.suptitle(f"{NETWORK}, {DEPTHWISE}", x=0.01, ha="left")
        return to_svg(figure)


def partitions() -> str:
    from latency import build_keras, build_ours, in_child
    from matplotlib.figure import Figure

    contents = {
        "mobilenets_tf": in_child(build_ours, "mobilenet_v3_small", 224, ["int8"])["int8"],
        "TensorFlow's converter": in_child(build_keras, "MobileNetV3Small", 224, ["int8"])["int8"],
    }
    with drawing():
        figure = Figure(figsize=(8, 2.6), layout="constrained")
        for axes, (maker, content) in zip(figure.subplots(2, 1, sharex=True), contents.items(), strict=True):
            taken, parts = _taken_by_xnnpack(content)
            axes.bar(range(len(taken)), 1, width=1, color=[ACCENT if one else SECOND for one in taken])
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            cut = "1 partition" if parts == 1 else f"{parts} partitions"
            axes.set_title(
                f"MobileNetV3 small, int8, {maker}: {len(taken)} operators, {sum(taken)} in XNNPACK, in {cut}"
            )
            finish(axes, "")
        axes.set_xlabel("operators in their order; those of the second colour are LiteRT's own", color=INK)
        return to_svg(figure)


def _taken_by_xnnpack(content: bytes) -> tuple[list[bool], int]:
    """Whether XNNPACK takes each operator, and in how many parts."""
    from mobilenets_tf import inspect

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file.tflite")
        path.write_bytes(content)
        verdict = next(verdict for verdict in inspect(str(path)).verdicts if verdict.path == "xnnpack")
    left = {fallback.place for fallback in verdict.fallbacks}
    return [place not in left for place in range(verdict.total)], sum(verdict.parts)


def aware() -> str:
    sys.path.append(str(ROOT / "examples"))
    from draw_shapes import SMALL_SIDE, classes
    from matplotlib.figure import Figure
    from small_network import make_uneven, trained

    from mobilenets_tf import Preprocessing, Runner
    from mobilenets_tf.data import decode, find_images
    from mobilenets_tf.quantize import Recipe, quantize_aware

    preprocessing = Preprocessing(size=SMALL_SIDE)
    with tempfile.TemporaryDirectory() as folder:
        model = trained(classes(Path(folder, "train"), 80, seed=0), epochs=10)
        make_uneven(model, 32)  # so that int8 changes something
        test = find_images(classes(Path(folder, "test"), 40, seed=1))
        samples = np.stack([preprocessing(decode(path)) for path in test.paths])
    prepared = quantize_aware(model, samples[:100], recipe=Recipe(per_tensor=True))
    runner = Runner(prepared.to_tflite())
    file = np.stack(list(runner.first_outputs(samples)))
    pairs = (
        ("the float model", np.asarray(model.predict(samples, verbose=0))),
        ("the model in training", np.asarray(prepared.model.predict(samples, verbose=0))),
    )
    with drawing():
        figure = Figure(figsize=(8, 3.8), layout="constrained")
        for axes, (name, outputs) in zip(figure.subplots(1, 2, sharey=True), pairs, strict=True):
            axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8)
            axes.plot(outputs.ravel(), file.ravel(), ".", color=ACCENT, markersize=4)
            equal = (outputs == file).all(-1).mean()
            axes.set_title(f"equal to the last bit: {equal:.1%} of {len(file)} images")
            finish(axes, f"outputs of {name}", "outputs of the int8 file")
        return to_svg(figure)


WITH_IMAGES: dict[str, Callable[[str], str]] = {"sensitivity": sensitivity, "schemes": schemes}
WITHOUT: dict[str, Callable[[], str]] = {"scales": scales, "partitions": partitions, "aware": aware}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*WITH_IMAGES, *WITHOUT, []], help="default: all")
    parser.add_argument("--images", metavar="CSV", help="labelled ImageNet photographs, as evaluate takes them")
    chosen = parser.parse_args()
    names = chosen.names or [*WITH_IMAGES, *WITHOUT]
    if not chosen.images and (needing := [name for name in names if name in WITH_IMAGES]):
        parser.error(f"{' and '.join(needing)}: give --images, or name other pictures")
    for name in names:
        svg = WITH_IMAGES[name](chosen.images) if name in WITH_IMAGES else WITHOUT[name]()
        files.write_together(PICTURES, {f"{name}.svg": svg})
        print(f"docs/pictures/{name}.svg", flush=True)


if __name__ == "__main__":
    main()
