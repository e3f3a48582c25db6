"""mobilenets-tf deploy"""

import shlex
from collections.abc import Mapping
from pathlib import Path

from mobilenets_tf.cli.options import (
    add_min_agreement,
    add_model,
    add_overwrite,
    add_quiet,
    add_trust_calibration,
    add_void,
    display,
    emit,
    image_line,
    request_of,
)
from mobilenets_tf.cli.predict import line_of
from mobilenets_tf.data import images
from mobilenets_tf.data.preprocessing import Preprocessing

HELP = "Build, convert, quantise and verify a model; write the .tflite file, labels, manifest and report."
EXAMPLE = (
    "mobilenets-tf deploy efficientnet_lite0 --weights imagenet --scheme int8 \\\n"
    "    --calibration photos/ --evaluate labels.csv --out build/"
)


def add_arguments(parser):
    add_model(parser)
    add_scheme(parser)
    add_input_form(parser)
    add_split(parser)
    add_target(parser)
    add_evaluate(parser)
    add_output_form(parser)
    add_void(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--android-app", metavar="DIR", help="also write a Gradle project: an Android app that runs the file"
    )  # fmt: skip
    parser.add_argument(
        "--web-page", metavar="DIR",
        help="also write a web page that runs the file on a photograph or the camera; the first time, this downloads "
        "LiteRT.js (38 MB) through npm",
    )  # fmt: skip
    parser.add_argument(
        "--npu", nargs="+", default=(), metavar="CHIP",
        help="also compile the file for the NPUs of these chips, such as SM8750 (Qualcomm; needs "
        "pip install --no-deps onnxruntime-qnn), and write Google Play's AI pack",
    )  # fmt: skip
    parser.add_argument("--classify", metavar="PHOTO", help="try the new file on a photograph ('demo': a cat)")
    add_min_agreement(parser, "the float model")
    parser.add_argument(
        "--max-drop", type=float, metavar="SHARE",
        help="leave as few layers in float as it takes to lose no more than this share of top-1, mAP or mIoU (0.01: "
        "one point); without --evaluate, of the agreement with the float model",
    )  # fmt: skip
    add_overwrite(parser)
    add_quiet(parser)


def add_scheme(parser):
    """The options of quantisation."""
    parser.add_argument(
        "--scheme", default="int8", help="float32, float16, dynamic, int8 (default), int8_float_io or int16x8"
    )
    add_calibration(parser)
    parser.add_argument(
        "--per-tensor",
        action="store_true",
        help="one scale for all weights of a layer instead of a scale for each output channel, for chips that need it",
    )


def add_target(parser):
    """--target."""
    parser.add_argument(
        "--target", metavar="NAME",
        help="micro: for TensorFlow Lite Micro. Its interpreter runs the int8 file, the arena is measured, and C++ "
        "sources are written beside the file (needs the extra micro)",
    )  # fmt: skip


def add_split(parser):
    """--split."""
    parser.add_argument(
        "--split", type=int, metavar="T",
        help="write the bottlenecks that set the peak of memory in T parts whose sums are added (2 to 4 save most): "
        "the same answers from a smaller arena",
    )  # fmt: skip


def split_line(split: dict) -> str:
    """What a split has done, of the manifest."""
    before, after = (f"{split[key] / 1024:.0f} KiB" for key in ("bytes_before", "bytes_after"))
    if not split["blocks"]:
        return f"--split: no bottleneck sets the peak of {before}; {split['peak']} does"
    blocks = len(split["blocks"])
    return f"{blocks} bottleneck{'s' * (blocks > 1)} split: activations take {after} instead of {before}"


def add_calibration(parser):
    """--calibration, and which of its images."""
    parser.add_argument(
        "--calibration", metavar="CSV_OR_DIR",
        help="100 to 500 images of the kind the app will meet; 'demo' takes scikit-image's few for a first try",
    )  # fmt: skip
    parser.add_argument(
        "--calibration-count", type=int, metavar="N", help="use N of these images, chosen with --seed (default: all)"
    )
    add_trust_calibration(parser)
    parser.add_argument("--seed", type=int, default=0)


def add_evaluate(parser):
    """--evaluate, beside --calibration."""
    parser.add_argument(
        "--evaluate", metavar="DATA",
        help="annotated images to judge with: a CSV with file and class_index, or a sub-folder a class; for a detector "
        "or segmenter, data as train takes it",
    )  # fmt: skip


def add_input_form(parser):
    """--input."""
    parser.add_argument(
        "--input", default="normalised", metavar="FORM",
        help="how the file takes its image: normalised (default; float32, or int8 in an int8 file), or uint8: pixels "
        "0-255 as they are, and scores as uint8 in an int8 file, as MediaPipe needs it",
    )  # fmt: skip


def add_output_form(parser):
    """--output and --score-threshold."""
    parser.add_argument(
        "--output", metavar="FORM",
        help="of a detector: nms (default: the objects, by TFLite's own op, as MediaPipe wants them), decoded (every "
        "anchor's box) or raw (as the network gives them, the anchors in a file beside it); of a segmenter: full "
        "(default: logits at the input's size), mask (the class of each pixel) or stride (the network's own)",
    )  # fmt: skip
    parser.add_argument(
        "--score-threshold", type=float, metavar="SCORE",
        help="for --output nms: the file leaves out objects with a lower score (default 0.01, with which mAP is "
        "measured; your app's own threshold, such as 0.3, saves time)",
    )  # fmt: skip


def run(arguments):
    from mobilenets_tf.export.deployment import deploy
    from mobilenets_tf.export.request import DeployRequest

    photo = _photo(arguments.classify)
    request = request_of(DeployRequest, arguments)
    with display(arguments) as progress:
        deployed = deploy(request, progress)
    _print(deployed, request)
    if photo:
        _answer(deployed, photo)
    return 0 if deployed.passed else 1


def _photo(classify: str | None) -> Path | None:
    """The photograph to try the file on, decoded before the long work so that a bad path costs nothing."""
    if classify is None:
        return None
    path = Path(classify)
    if classify == "demo":
        path = next(path for path in images.demo_photos().paths if path.stem == "chelsea")
    images.decode(path)
    return path


def _print(deployed, request):
    manifest, file = deployed.manifest, deployed.path
    times = manifest["float32_bytes"] / manifest["bytes"]
    smaller = f" ({times:.1f}x smaller than float32)" if times >= 1.05 else ""
    size = f"{manifest['bytes'] / 1e6:.2f} MB{smaller}"
    emit(f"{file}  {size}, {deployed.seconds:.0f} s")
    if known := Preprocessing.of(manifest):
        emit(image_line(known.described()))
    parity = deployed.parity
    differs = f"differs by {parity.relative_difference:.1g} of the largest output"
    emit(f"  float32 against the model, {parity.images} images: {differs}")
    if deployed.comparison:
        emit(f"  {manifest['scheme']} against float32, on {_judged_on(manifest)}:")
        for line in deployed.comparison.lines():
            emit(f"    {line}")
    for line in deployed.target_lines:
        emit(f"  {line}")
    for line in _costs(deployed):
        emit(f"  {line}")
    for line in deployed.badge.lines():
        emit(f"  {line}")
    emit(f"Report: {deployed.report}")
    if deployed.passed and request.target:
        names = (each["file"] for each in manifest["files"])
        sources = (str(file.parent / name) for name in names if name.endswith((".h", ".cc")))
        emit(f"For the microcontroller: {', '.join(sources)}")
    elif deployed.passed:
        emit(f"For Android: {file}.android.md")
    if deployed.android_app:
        emit(f"Android app: {deployed.android_app} (open the folder in Android Studio)")
    if deployed.web_page:
        folder = shlex.quote(str(deployed.web_page))
        emit(f"Web page: {folder} (python -m http.server -d {folder}, then http://localhost:8000)")
    for compiled in deployed.npu:
        emit(f"NPU: {compiled.line()}: {deployed.path}.npu")
    if not deployed.passed and (request.android_app or request.web_page or request.npu):
        emit("No app, no page and no file for an NPU were written, since the file failed a check.")
    emit("Next:")
    for line in _next(deployed, request):
        emit(f"  {line}")


def _judged_on(manifest: Mapping) -> str:
    if manifest["judged_on_calibration_images"]:
        return "the calibration images"
    set_aside = manifest["images_set_aside"]
    return f"the images of --evaluate{f' ({set_aside} others were used for calibration)' if set_aside else ''}"


def _next(deployed, request):
    """The commands that make sense now."""
    manifest, file = deployed.manifest, deployed.path
    images_option = f"--images {shlex.quote(request.evaluate or 'PHOTOS/')}"
    quoted = shlex.quote(str(file))
    if manifest.get("form") is None and request.source.random_part != "network":
        yield f"mobilenets-tf verify {quoted} {request.source.options('--model')} {images_option}"
    else:  # outputs that are not the Keras model's, or a Keras model that cannot be built again
        yield f"mobilenets-tf predict {quoted} PHOTO --out picture.png"
    yield f"mobilenets-tf evaluate {quoted} --data {shlex.quote(request.evaluate or 'labels.csv')}"
    if deployed.passed:
        if not request.target:
            yield f"adb push {quoted} /data/local/tmp/"
    elif request.source.random_part is None and deployed.manifest["calibration"]:
        model, calibration = request.source.options(), shlex.quote(request.calibration)
        yield f"mobilenets-tf sensitivity {model} --calibration {calibration} --out sensitivity"


def _costs(deployed):
    """What the options of quantisation have cost."""
    if usual := deployed.per_channel:
        name, single = usual.agreement_measure, deployed.comparison
        yield f"one scale a tensor: {name} {single.agreement:.1%}; a scale for each channel: {usual.agreement:.1%}"
    if split := deployed.manifest["split"]:
        yield split_line(split)
    if mixed := deployed.manifest["mixed_precision"]:
        left = len(mixed["left"])
        yield (
            f"{left} of {mixed['layers']} layers left in float: the drop is {mixed['drop']:.2%}"
            + (f", {mixed['integer_drop']:.2%} without" if left else "")
            + f" ({mixed['trials']} files tried)"
        )
        for layer in mixed["left"]:
            yield f"  {layer['layer']}  {layer['bought']:+.2%} if integer, {layer['bytes'] / 1e3:+.1f} kB"


def _answer(deployed, photo: Path):
    """What the new file says of a photograph: the three most likely classes, or the objects or areas in it."""
    from mobilenets_tf.answers.prediction import ask
    from mobilenets_tf.answers.reading import Reading
    from mobilenets_tf.modelsource import ModelSource

    manifest = deployed.manifest
    labels, grids = manifest.get("labels") or deployed.labels, (manifest.get("anchors") or {}).get("grids", ())
    reading = Reading(
        manifest["task"],
        Preprocessing.of(manifest),
        tuple(labels),
        manifest.get("form"),
        tuple(grids),
        tuple(output["kind"] for output in manifest["outputs"] if "kind" in output),
    )
    rows = ask(ModelSource(deployed.path), reading, photo, top=3)
    emit(f"{photo.name}:" if rows else f"{photo.name}: nothing that scores 0.5 or more")
    for row in rows[:3]:
        emit(line_of(row))
