"""Everybody's models: does each load, is its float file equal, and how good is int8 beside other tools?

    python benchmarks/models.py --results DIR --images ../shared/imagenet-samples/labels.csv        all rows, in turn
    python benchmarks/models.py --results DIR --images ... 'ResNet*' MobileNet                      only these
    python benchmarks/models.py --results DIR --table                    the table of what is there, as Markdown
    python benchmarks/models.py --results DIR --images ... --check       exit 1 where ours is behind

A row is a model of keras.applications, kimm, KerasHub or keras-cv (those whose package is installed) with random
weights, at a small size, without its softmax. The statistics of its BatchNormalization are those of 192 photographs,
and LayerScale begins with 0.1, since with Keras' first values most of a network would count for nothing. Every tool
gets the same 128 other photographs to calibrate with, and is judged on 64 more. Each row runs in a process of its own
and is kept as a file in ``--results``; a run goes on with the rows that are not there yet.

Columns: whether the model becomes a float file; the float file's greatest difference from Keras, relative to the
largest value; and for int8 the ratio of signal to noise of the outputs in dB, with XNNPACK's partitions and the other
operators that run (1+0: one partition, nothing else): ours, TensorFlow's converter (``TFLiteConverter``, int8 inputs
and outputs), and the best of litert-quantizer's recipes (min-max, MSE, OCTAV), of our float file. What cannot be had is
"refused: reason". Behind is a row whose ratio is more than 0.5 dB below the plain converter's, or which has more
partitions.
"""

import argparse
import fnmatch
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from any_file import ALGORITHMS, MOST_BEHIND, litert_quantizer
from rows import CALIBRATION, JUDGED, as_table, judged, keep, made, pictures, settle, tried

COLUMNS = ("model", "source", "size", "loads", "float parity", "int8: ours", "plain converter", "litert-quantizer")


@dataclass(frozen=True)
class Row:
    """A model: its package, the size of its input in pixels, and the function of the size that builds the model."""

    source: str
    size: int
    build: Callable


def _application(name: str) -> Callable:
    def build(size: int):
        import keras

        # MobileNetV3 and EfficientNet rescale by themselves; MobileNetV3 warns of sizes for which it has no weights.
        options = {"weights": None, "input_shape": (size, size, 3), "classifier_activation": None}
        return getattr(keras.applications, name)(**options)

    return build


# The least sizes that the networks allow, up to 96: below, the last feature maps have a single pixel.
_SIZES = {"InceptionV3": 96, "InceptionResNetV2": 96, "Xception": 96, "VGG16": 64, "VGG19": 64}
_NAMES = (
    "MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large", "EfficientNetB0", "EfficientNetV2B0",
    "DenseNet121", "NASNetMobile", "ResNet50", "ResNet50V2", "ConvNeXtTiny", "Xception", "InceptionV3",
    "InceptionResNetV2", "VGG16", "EfficientNetB1", "EfficientNetV2B1", "DenseNet169", "DenseNet201", "ResNet101",
    "ResNet101V2", "ResNet152", "ResNet152V2", "ConvNeXtSmall", "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtXLarge",
    "VGG19", "EfficientNetB2", "EfficientNetB3", "EfficientNetB4", "EfficientNetB5", "EfficientNetB6",
    "EfficientNetB7", "EfficientNetV2B2", "EfficientNetV2B3", "EfficientNetV2S", "EfficientNetV2M", "EfficientNetV2L",
    "NASNetLarge",
)  # fmt: skip
_KIMM = (
    "LCNet050", "GhostNetW050", "GhostNetV2W100", "TinyNetE", "EfficientNetLiteB0", "MobileOneS0", "MobileViTXXS",
    "MobileViTV2W050", "RegNetX002", "RegNetY002", "RepVGGA0", "ResNet18", "HGNetV2B0", "ConvNeXtAtto",
    "VisionTransformerTiny16", "InceptionNeXtTiny",
)  # fmt: skip


def _kimm(name: str) -> Callable:
    def build(size: int):
        import keras
        import kimm

        options = {"input_tensor": keras.Input((size, size, 3)), "include_preprocessing": False}
        return getattr(kimm.models, name)(weights=None, classifier_activation="linear", **options)

    return build


def _hub_resnet(size: int):
    import keras_hub

    return keras_hub.models.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[7], stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=[2, 2, 2, 2], stackwise_num_strides=[1, 2, 2, 2], block_type="basic_block",
        image_shape=(size, size, 3),
    )  # fmt: skip


def _hub_vit(size: int):
    import keras_hub

    return keras_hub.models.ViTBackbone(
        image_shape=(size, size, 3), patch_size=8, num_layers=4, num_heads=3, hidden_dim=192, mlp_dim=768
    )


def _hub_densenet(size: int):
    import keras_hub

    return keras_hub.models.DenseNetBackbone(stackwise_num_repeats=[6, 12, 24, 16], image_shape=(size, size, 3))


def _cv_yolo(size: int):
    from keras_cv.src.models.object_detection.yolo_v8.yolo_v8_backbone import YOLOV8Backbone

    return YOLOV8Backbone(
        stackwise_channels=[32, 64, 128, 256], stackwise_depth=[1, 2, 2, 1], include_rescaling=False,
        input_shape=(size, size, 3),
    )  # fmt: skip


ROWS = {name: Row("keras.applications", _SIZES.get(name, 64), _application(name)) for name in _NAMES}
ROWS |= {f"kimm {name}": Row("kimm", 64, _kimm(name)) for name in _KIMM}
ROWS |= {
    "KerasHub ResNet18": Row("keras_hub", 64, _hub_resnet),
    "KerasHub ViT": Row("keras_hub", 64, _hub_vit),
    "KerasHub DenseNet121": Row("keras_hub", 64, _hub_densenet),
    "keras-cv YOLOV8": Row("keras_cv", 64, _cv_yolo),
}


def plain_converter(model, samples: np.ndarray) -> bytes:
    """Quantise as the converter's guide says."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def measure(name: str, spec: str, count: int = CALIBRATION) -> dict:
    """Return the results of one row, on the photographs of a folder or CSV. count: of them calibrate."""
    import keras

    from mobilenets_tf.export.tflite import convert_model
    from mobilenets_tf.modelsource import opened as open_model
    from mobilenets_tf.quantize import schemes
    from mobilenets_tf.quantize.calibration import Calibration
    from mobilenets_tf.tflite.runtime import Runner
    from mobilenets_tf.worker import Worker

    warnings.simplefilter("ignore")
    row = ROWS[name]
    keras.utils.set_random_seed(0)
    result = {"model": name, "source": row.source, "size": row.size}
    model = row.build(row.size)
    own = open_model(model).own_normalisation
    mean, std = (own.mean, own.std) if own else (127.5, 127.5)
    samples = (pictures(spec, row.size).astype(np.float32) - np.float32(mean)) / np.float32(std)
    calibration, rest = samples[:count], samples[CALIBRATION : CALIBRATION + JUDGED]
    settle(model, samples[CALIBRATION + JUDGED :])
    opened = open_model(model)  # a traced model is a copy, so not before
    expected = np.concatenate([opened.answers([sample[None]])[0] for sample in rest])
    files = {}

    def ours() -> dict:
        with Worker() as worker:
            found = convert_model(opened, schemes.get("int8"), Calibration(calibration), worker)
        files["float"] = found.float_content
        return judged(found.content, rest, expected)

    result["ours"] = tried(ours)
    if "float" in files:
        runner = Runner(files["float"])
        outputs = np.concatenate([runner(sample)[0] for sample in rest])
        result["parity"] = float(np.abs(outputs - expected).max() / np.abs(expected).max())
    result["plain"] = tried(lambda: judged(plain_converter(model, calibration), rest, expected))
    if "float" in files:
        path = Path(f"{name}.float.tflite")
        path.write_bytes(files["float"])
        for label, key in ALGORITHMS.items():
            tool = litert_quantizer(key)
            result[f"litert-quantizer {label}"] = tried(
                lambda tool=tool: judged(tool(path, list(calibration)), rest, expected)
            )
        path.unlink()
    return result


def behind(result: dict) -> str | None:
    """Say in what a row is behind the plain converter; None if in nothing."""
    ours, plain = result["ours"], result["plain"]
    if "refused" in ours:
        return f"refused: {ours['refused']}"
    if "refused" in plain:
        return None
    if ours["snr_db"] < plain["snr_db"] - MOST_BEHIND:
        return f"{ours['snr_db']:.1f} dB, and the plain converter has {plain['snr_db']:.1f} dB"
    if ours["partitions"] > plain["partitions"]:
        return f"{ours['partitions']} partitions, and the plain converter has {plain['partitions']}"
    return None


def _cell(found: dict | None) -> str:
    if not found:
        return ""
    if "refused" in found:
        return f"refused: {found['refused'].replace('|', '/')}"
    return f"{found['snr_db']:.1f} dB, {found['partitions']}+{found['others']}"


def table(results: list[dict]) -> str:
    """Write the rows as a table in Markdown."""
    lines = []
    for result in results:
        others = [found for key, found in result.items() if key.startswith("litert-quantizer")]
        made = [found for found in others if "snr_db" in found]
        best = max(made, key=lambda found: found["snr_db"]) if made else (others or [None])[0]
        loads = "refused" if "parity" not in result else "yes"
        parity = f"{result['parity']:.0e}" if "parity" in result else ""
        cells = (result["model"], result["source"], str(result["size"]), loads, parity, _cell(result["ours"]))
        lines.append((*cells, _cell(result["plain"]), _cell(best)))
    return as_table(COLUMNS, lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", default=["*"], help="of the names of rows (default: all)")
    parser.add_argument("--results", required=True, type=Path, help="the folder of the rows that have been made")
    parser.add_argument("--images", help="a folder or CSV of at least 384 photographs")
    parser.add_argument(
        "--calibration", type=int, default=CALIBRATION, metavar="N",
        help=f"photographs that calibrate, at most {CALIBRATION}; for rows in a folder of their own",
    )  # fmt: skip
    parser.add_argument("--table", action="store_true", help="make nothing; print the table of the rows that are there")
    parser.add_argument("--check", action="store_true", help="exit 1 where ours is behind the plain converter")
    parser.add_argument("--row", metavar="NAME", help=argparse.SUPPRESS)  # one row, in this process
    arguments = parser.parse_args()
    if arguments.row:
        os.chdir(arguments.results)
        keep(Path.cwd(), arguments.row, measure(arguments.row, arguments.images, arguments.calibration))
        return 0
    names = [name for name in ROWS if any(fnmatch.fnmatch(name, each) for each in arguments.patterns)]
    if not names:
        sys.exit(f"No row is called {' or '.join(arguments.patterns)}. There are: {', '.join(ROWS)}")
    if not 1 <= arguments.calibration <= CALIBRATION:
        parser.error(f"--calibration {arguments.calibration}: expected 1 to {CALIBRATION}")
    if not arguments.images and not arguments.table:
        parser.error("--images: a row needs photographs")
    packages = {name: ROWS[name].source.partition(".")[0] for name in names}
    absent = [name for name in names if importlib.util.find_spec(packages[name]) is None]
    for name in absent:
        print(f"{name} is left out: {packages[name]} is not installed", flush=True)
    present = [name for name in names if name not in absent]
    results = []
    spec, more = None if arguments.table else arguments.images, ["--calibration", str(arguments.calibration)]
    for result in made(__file__, present, arguments.results.resolve(), spec, more):
        results.append(result)
        if not arguments.table:
            print(table(results[-1:]).splitlines()[-1], flush=True)
    if arguments.table:
        print(table(results))
    lags = {result["model"]: text for result in results if (text := behind(result))}
    for name, text in lags.items():
        print(f"behind: {name}: {text}", file=sys.stderr)
    return 1 if arguments.check and (lags or len(results) < len(names)) else 0


if __name__ == "__main__":
    sys.exit(main())
