"""mobilenets-tf evaluate"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mobilenets_tf import registry
from mobilenets_tf.cli.options import add_json, add_model, add_quiet, display, emit, model_source
from mobilenets_tf.data import images
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.errors import RequestError
from mobilenets_tf.files import to_json
from mobilenets_tf.manifest import manifest_of
from mobilenets_tf.modelsource import ModelSource, triple
from mobilenets_tf.progress import Progress, track

HELP = "Judge a model or a .tflite file on annotated images: top-1 and top-5, mAP of boxes, or mIoU of masks."
EXAMPLE = "mobilenets-tf evaluate efficientnet_lite0 --weights imagenet --images labels.csv"


def add_arguments(parser):
    add_model(parser)
    add_task(parser)
    parser.add_argument(
        "--images", required=True, metavar="SOURCE",
        help="to classify: a CSV with file and class_index, or a folder with a sub-folder a class; to detect: a folder "
        "with images/ and annotations/ (VOC's XML), or COCO's .json; to segment: a folder with images/ and masks/ (PNG "
        "of class numbers)",
    )  # fmt: skip
    parser.add_argument(
        "--void", type=int, help="in masks, pixels of no class have this; left out, as in training, or 255"
    )
    parser.add_argument(
        "--scales", type=float, nargs="+", default=[1.0], metavar="SHARE",
        help="segment: the mean of what the network says at these sizes, as shares of --resolution; for a registered "
        "name with its trained file as --weights",
    )  # fmt: skip
    parser.add_argument("--flip", action="store_true", help="segment: and of the mirrored picture; for Keras models")
    parser.add_argument("--count", type=int, metavar="N", help="use N of them, chosen with --seed")
    parser.add_argument("--seed", type=int, default=0)
    add_json(parser)
    add_quiet(parser)


def add_task(parser) -> None:
    """--task, for a file whose manifest is not there."""
    parser.add_argument("--task", choices=registry.TASKS, help="of a file that does not say; left out, classify")


def run(chosen):
    from mobilenets_tf.worker import Worker

    source = model_source(chosen)
    reading = reading_of(source, chosen.task)
    scales = _checked_scales(chosen, source, reading)
    with display(chosen) as progress:
        found = _find(chosen, reading, progress).sample(chosen.count, chosen.seed)
        images.check(found)
        with Worker(preload="" if chosen.model.endswith(".tflite") else "tensorflow") as worker:
            result = worker.call(_evaluate, source, reading, found, scales, chosen.flip, progress=progress)
    if chosen.json:
        emit(to_json({"model": chosen.model, **result}))
    else:
        _print(chosen.model, result)


def reading_of(source: ModelSource, task: str | None):
    """What is known of a model, and how to read its outputs, before it is opened: as the request says, else as the
    manifest beside a file does. The preprocessing of a registered network is known when it is built.

    Raises:
        RequestError: no such file or network, one of another task, or a file whose input nobody describes.
    """
    from mobilenets_tf.answers.predictor import Reading, check_file

    file = Path(source.model)
    if file.suffix != ".tflite":
        source.check()
    if not source.is_file and file.suffix != ".tflite":
        if task not in (None, source.task):
            raise RequestError(f"{source.model} is for the task {source.task!r}, not {task!r}; leave --task out.")
        return Reading(source.task, None, tuple(source.label_names()))
    known = Reading.of(check_file(file))
    if source.labels and not Path(source.labels).is_file():
        raise RequestError(f"No such labels file: {source.labels}")
    labels = tuple(source.label_names()) if source.labels else known.labels
    return replace(known, task=task or known.task, preprocessing=file_preprocessing(file, source), labels=labels)


def _checked_scales(chosen, source: ModelSource, reading) -> tuple[float, ...]:
    """
    Raises:
        RequestError: --scales or --flip for what has no use for them.
    """
    scales = tuple(chosen.scales)
    plain = scales == (1.0,)
    if plain and not chosen.flip:
        return scales
    if reading.task != "segment" or chosen.model.endswith(".tflite"):
        raise RequestError(f"--scales and --flip are for segmenters in Keras; {chosen.model} is none.")
    if not plain and source.is_file:
        raise RequestError(
            f"{chosen.model} has one size. For others name its network and give the file as weights: "
            f"mobilenets-tf evaluate deeplabv3_mobilenet_v2 --weights {chosen.model} --scales 0.75 1 1.25 ..."
        )
    if not all(0.1 <= scale <= 4 for scale in scales):
        raise RequestError(f"--scales {' '.join(map(str, scales))}: expected shares from 0.1 to 4.")
    return scales


def _scaled(source: ModelSource, reading, scales: tuple[float, ...], flip: bool):
    """A segmenter at several sizes, as an ``predictor.Predictor``. Runs in the worker."""
    from mobilenets_tf.answers import predictor

    first = source.build()
    size = first.inputs[0].shape[1]
    models = [first] if 1.0 in scales else []
    models += [source.build(resolution=max(32, round(size * scale / 32) * 32)) for scale in scales if scale != 1.0]
    reading = replace(reading, preprocessing=source.preprocessing(first))
    return predictor.Predictor(predictor.ScaledNetworks(models, flip, source.model), reading)


def opened(source: ModelSource, reading):
    """The model as an ``predictor.Predictor``. Runs in the worker."""
    from mobilenets_tf.answers import predictor

    if source.is_file or source.model.endswith(".tflite"):
        return predictor.predictor(source.model, reading)
    model = source.build()
    reading = replace(reading, preprocessing=source.preprocessing(model))
    return predictor.Predictor(predictor.KerasNetwork(model, source.model), reading)


def file_preprocessing(file: Path, source: ModelSource) -> Preprocessing:
    """How pixels become a file's input: as --mean and --std say, else as the manifest beside it does.

    Raises:
        RequestError: neither says.
    """
    if (source.mean is None) != (source.std is None):
        raise RequestError("Give --mean and --std together: the input is (pixel - mean) / std.")
    if source.mean is not None:
        return Preprocessing(mean=triple(source.mean), std=triple(source.std))
    if found := manifest_preprocessing(file):
        return found
    raise RequestError(f"No manifest beside {file} says how its input is normalised; pass --mean and --std.")


def manifest_preprocessing(file: Path) -> Preprocessing | None:
    """What the manifest beside a file says of its input; None if there is none that says it."""
    return Preprocessing.of(manifest_of(file))


def file_inputs(file: str, runner, preprocessing: Preprocessing, paths) -> Iterator:
    """For each image the array that a TFLite file's one input takes, as ``Runner`` wants it.

    Raises:
        RequestError: the file does not take one square RGB image.
    """
    from mobilenets_tf.answers.predictor import input_size

    shapes = [tuple(map(int, details["shape"][1:])) for details in runner.inputs]
    prepare = preprocessing.at(input_size(file, shapes))
    for path in paths:
        yield prepare.for_input(prepare.geometry(images.decode(path)), runner.inputs[0]["dtype"])


def _find(chosen, reading, progress: Progress):
    """The annotated images that the task is judged on."""
    if reading.task == "detect":
        from mobilenets_tf.data.boxes import find_boxes

        return find_boxes(chosen.images, reading.labels, progress)
    if reading.task == "segment":
        from mobilenets_tf.data.masks import find_masks

        void = manifest_of(Path(chosen.model)).get("options", {}).get("void") if chosen.void is None else chosen.void
        return find_masks(chosen.images, reading.labels, 255 if void is None else void, progress=progress)
    found = images.find_images(chosen.images, reading.labels)
    if found.labels is None:
        hint = "" if reading.task else " If the file detects or segments, say so with --task."
        raise RequestError(
            f"{chosen.images} has no labels: give a CSV with file and class_index, or a sub-folder a class.{hint}"
        )
    return found


def _evaluate(source: ModelSource, reading, found, scales: tuple[float, ...], flip: bool, progress) -> dict:
    """Runs in the worker."""
    several = flip or scales != (1.0,)
    predictor = _scaled(source, reading, scales, flip) if several else opened(source, reading)
    answers = predictor(images.decode(path) for path in track(found.paths, "evaluating", progress))
    return {"classify": _top, "detect": _average_precision, "segment": _intersections}[predictor.task](
        predictor, answers, found
    )


def _top(_, answers, found) -> dict:
    import numpy as np

    from mobilenets_tf.export.proof.verification import compare

    outputs = np.stack(list(answers))
    scored = compare(outputs, outputs, found.labels)
    return {"images": scored.images, "top1": scored.top1, "top5": scored.top5}


def _average_precision(predictor, answers, found) -> dict:
    from mobilenets_tf.tasks.metrics import average_precision

    _check_classes(predictor, found, len(found.class_names))
    scored = average_precision(list(answers), found.boxes, found.class_names)
    per_class = {name: _number(value) for name, value in scored["per_class"].items()}
    return {
        "images": len(found),
        "map50": _number(scored["map50"]),
        "map": _number(scored["map"]),
        "per_class": per_class,
    }


def _intersections(predictor, answers, found) -> dict:
    from mobilenets_tf.answers.predictor import class_name
    from mobilenets_tf.tasks.metrics import Confusion

    count = found.seen.shape[1]
    _check_classes(predictor, found, count)
    confusion = Confusion(count, found.void)
    for i, answer in enumerate(answers):
        confusion.add(found.read(i)[1], answer)
    return {
        "images": len(found),
        "miou": _number(confusion.miou),
        "pixel_accuracy": _number(confusion.pixel_accuracy),
        "per_class": {class_name(found.class_names, i): _number(value) for i, value in enumerate(confusion.iou)},
    }


def _check_classes(predictor, found, count: int) -> None:
    """Refuse annotations with other classes than the model's; where its labels are known, they are theirs.

    Raises:
        RequestError: says how to name them.
    """
    if predictor.classes not in (None, count):
        raise RequestError(
            f"The model tells {predictor.classes} classes apart, the annotations {count} "
            f"({', '.join(found.class_names[:3]) or 'without names'}). Name the model's with --labels, one a line."
        )


def _number(value: float) -> float | None:
    """As JSON has it: None for what cannot be said, such as the precision for a class of which there is no object."""
    return None if math.isnan(value) else float(value)


def _print(model: str, result: dict) -> None:
    of = f"of {result['images']} images"
    if "top1" in result:
        emit(f"{model}: top-1 {result['top1']:.1%}, top-5 {result['top5']:.1%} {of}")
        return
    if "map" in result:
        scores = f"mAP {_share(result['map50'])} at IoU 0.5, {_share(result['map'])} over 0.5 to 0.95"
    else:
        scores = f"mIoU {_share(result['miou'])}, pixels {_share(result['pixel_accuracy'])}"
    emit(f"{model}: {scores} {of}")
    for name, value in result["per_class"].items():
        emit(f"  {_share(value):>6}  {name}")


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"
