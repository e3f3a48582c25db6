"""mobilenets-tf deploy"""

import shlex
from pathlib import Path

from mobilenets_tf.cli.options import add_model, add_quiet, display, emit, model_source
from mobilenets_tf.data import images
from mobilenets_tf.errors import RequestError

HELP = "Build, convert, quantise and verify a model; write the .tflite file, labels, manifest and report."
EXAMPLE = (
    "mobilenets-tf deploy efficientnet_lite0 --weights imagenet --scheme int8 \\\n"
    "    --calibration photos/ --evaluate labels.csv --out build/"
)


def add_arguments(parser):
    add_model(parser)
    add_scheme(parser)
    add_input_form(parser)
    parser.add_argument(
        "--evaluate", metavar="DATA",
        help="annotated images to judge with: a CSV with file and class_index, or a sub-folder a class; for a detector "
        "or segmenter what train takes as --data",
    )  # fmt: skip
    add_output_form(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--classify", metavar="PHOTO", help="run the new file on a photograph ('demo' for a cat)")
    parser.add_argument(
        "--min-agreement", type=float, default=0.5, metavar="SHARE",
        help="fail (exit 1) if the file gives the float model's answer on fewer images than this (default 0.5)",
    )  # fmt: skip
    parser.add_argument(
        "--max-drop", type=float, metavar="SHARE",
        help="leave as few layers in float as it takes to lose no more than this share of accuracy (0.01: one point); "
        "without --evaluate, of the float model's answers",
    )  # fmt: skip
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files in --out that are not from this command"
    )
    add_quiet(parser)


def add_scheme(parser):
    """The options of quantisation."""
    parser.add_argument(
        "--scheme", default="int8", help="float32, float16, dynamic, int8 (default), int8_float_io or int16x8"
    )
    parser.add_argument(
        "--calibration", metavar="CSV_OR_DIR",
        help="100 to 500 images of the kind the app will meet; 'demo' takes scikit-image's few for a first try",
    )  # fmt: skip
    parser.add_argument("--calibration-count", type=int, metavar="N", help="use N of them, chosen with --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--per-tensor", action="store_true", help="one scale for a layer's weights, for chips that have no more"
    )


def add_input_form(parser):
    """--input."""
    parser.add_argument(
        "--input", default="normalised", metavar="FORM",
        help="how the file takes its image: normalised (default; float32, or int8 in an int8 file), or uint8: pixels "
        "0-255 as they are, and scores as uint8 in an int8 file, as MediaPipe needs it",
    )  # fmt: skip


def add_output_form(parser):
    """--output, --score-threshold and --void."""
    parser.add_argument(
        "--output", metavar="FORM",
        help="of a detector: nms (default: the objects, by TFLite's own op, as MediaPipe wants them), decoded (every "
        "anchor's box) or raw (as the network gives them, the anchors in a file beside it); of a segmenter: full "
        "(default: logits at the input's size), mask (the class of each pixel) or stride (the network's own)",
    )  # fmt: skip
    parser.add_argument(
        "--score-threshold", type=float, metavar="SCORE",
        help="of nms: what the file finds with a lower score it does not give (default 0.01, to measure with; an "
        "application's own, such as 0.3, saves time)",
    )  # fmt: skip
    parser.add_argument("--void", type=int, help="in masks, pixels of no class have this; left out, as in training")


def run(chosen):
    from mobilenets_tf.export.deployment import DeployRequest, deploy

    if chosen.calibration_count is not None and chosen.calibration_count < 1:
        raise RequestError(f"--calibration-count {chosen.calibration_count}: expected at least 1.")
    source, photo = model_source(chosen), _photo(chosen.classify)
    if photo and source.task != "classify":
        raise RequestError(
            f"--classify is for classifiers; {source.model} is for the task {source.task!r}. For a picture of what the "
            "file finds, run mobilenets-tf predict on it afterwards."
        )
    request = DeployRequest(
        source=source,
        out=chosen.out,
        scheme=chosen.scheme,
        calibration=chosen.calibration,
        calibration_count=chosen.calibration_count,
        evaluate=chosen.evaluate,
        seed=chosen.seed,
        min_agreement=chosen.min_agreement,
        max_drop=chosen.max_drop,
        per_tensor=chosen.per_tensor,
        input=chosen.input,
        output=chosen.output,
        score_threshold=chosen.score_threshold,
        void=chosen.void,
        overwrite=chosen.overwrite,
    )
    with display(chosen) as progress:
        result = deploy(request, progress)
    _print(result, request)
    if photo:
        _classify(result, photo)
    return 0 if result.passed else 1


def _photo(classify):
    """The photograph to classify, decoded before the long work so that a bad path costs nothing."""
    if classify is None:
        return None
    path = classify
    if classify == "demo":
        path = next(path for path in images.demo_photos().paths if path.stem == "chelsea")
    return Path(path), images.decode(path)


def _print(result, request):
    manifest, file = result.manifest, result.path
    emit(f"{file}  {manifest['bytes'] / 1e6:.2f} MB ({manifest['float32_bytes'] / manifest['bytes']:.1f}x smaller than "
         f"float32), {result.seconds:.0f} s")  # fmt: skip
    parity = result.parity
    differs = f"differs by {parity.relative_difference:.1g} of the largest output"
    emit(f"  float32 against Keras, {parity.images} images: {differs}")
    if result.comparison:
        judged = "the calibration images" if manifest["judged_on_calibration_images"] else "the images of --evaluate"
        emit(f"  {manifest['scheme']} against float32, on {judged}:")
        for line in result.comparison.lines():
            emit(f"    {line}")
    for line in _costs(manifest):
        emit(f"  {line}")
    for failure in result.failures:
        emit(f"  FAILED: {failure}")
    emit(f"Report: {result.report}")
    emit(f"For Android: {file}.android.md")
    emit("Next:")
    images_option = f"--images {shlex.quote(request.evaluate or 'PHOTOS/')}"
    quoted = shlex.quote(str(file))
    if request.source.task == "classify":
        emit(f"  mobilenets-tf verify {quoted} {request.source.options('--model')} {images_option}")
    else:
        emit(f"  mobilenets-tf predict {quoted} PHOTO --out picture.png")
    emit(f"  mobilenets-tf evaluate {quoted} --images {shlex.quote(request.evaluate or 'labels.csv')}")
    emit(f"  adb push {quoted} /data/local/tmp/")


def _costs(manifest: dict):
    """What the options of quantisation have cost."""
    if usual := manifest["per_channel"]:
        same, before = (found["top1_agreement"] for found in (manifest["comparison"], usual["comparison"]))
        yield f"one scale a tensor: same answer as float32 on {same:.1%}; a scale for each channel: {before:.1%}"
    if mixed := manifest["mixed_precision"]:
        left = len(mixed["left"])
        yield (
            f"{left} of {mixed['layers']} layers left in float: the drop is {mixed['drop']:.2%}"
            + (f", {mixed['integer_drop']:.2%} without" if left else "")
            + f" ({mixed['trials']} files tried)"
        )
        for layer in mixed["left"]:
            yield f"  {layer['layer']}  {layer['bought']:+.2%} if integer, {layer['bytes'] / 1e3:+.1f} kB"


def _classify(result, photo):
    from mobilenets_tf.worker import Worker

    path, image = photo
    with Worker(preload="") as worker:
        scores = worker.call(_scores, str(result.path), result.manifest["preprocessing"], image)
    labels = result.labels
    emit(f"{path.name}:")
    for index in scores.argsort()[::-1][:3]:
        emit(f"  {scores[index]:.1%}  {labels[index] if labels else f'class {index}'}")


def _scores(file: str, preprocessing: dict, image):
    """Runs in the worker."""
    from mobilenets_tf.data.preprocessing import Preprocessing
    from mobilenets_tf.tflite.runtime import Runner

    runner, preprocessing = Runner(file), Preprocessing(**preprocessing)
    return runner(preprocessing.for_input(preprocessing.geometry(image), runner.inputs[0]["dtype"]))[0][0]
