"""mobilenets-tf evaluate"""

from collections.abc import Iterator
from pathlib import Path

from mobilenets_tf import images
from mobilenets_tf.cli.options import add_json, add_model, add_quiet, display, emit, model_source
from mobilenets_tf.errors import RequestError
from mobilenets_tf.files import to_json
from mobilenets_tf.modelsource import ModelSource, triple
from mobilenets_tf.preprocessing import Preprocessing
from mobilenets_tf.progress import track
from mobilenets_tf.provenance import manifest_of

HELP = "Top-1 and top-5 accuracy of a model or a .tflite file on labelled images."
EXAMPLE = "mobilenets-tf evaluate efficientnet_lite0 --weights imagenet --images labels.csv"


def add_arguments(parser):
    add_model(parser)
    parser.add_argument("--images", required=True, metavar="CSV_OR_DIR", help="labelled images")
    parser.add_argument("--count", type=int, metavar="N", help="use N of them, chosen with --seed")
    parser.add_argument("--seed", type=int, default=0)
    add_json(parser)
    add_quiet(parser)


def run(chosen):
    from mobilenets_tf.worker import Worker

    source = model_source(chosen)
    is_tflite = chosen.model.endswith(".tflite")
    if is_tflite:
        if not Path(chosen.model).is_file():
            raise RequestError(f"No such TFLite file: {chosen.model}")
        preprocessing, names = file_preprocessing(Path(chosen.model), source), _file_labels(Path(chosen.model), source)
    else:
        source.check()
        preprocessing, names = None, source.label_names()
    found = images.find_images(chosen.images, names)
    if found.labels is None:
        raise RequestError(
            f"{chosen.images} has no labels: give a CSV with file and class_index, or a sub-folder a class."
        )
    found = found.sample(chosen.count, chosen.seed)
    images.check(found)
    with Worker(preload="" if is_tflite else "tensorflow") as worker, display(chosen) as report:
        if is_tflite:
            result = worker.call(_evaluate_tflite, chosen.model, preprocessing, found, report=report)
        else:
            result = worker.call(_evaluate_keras, source, found, report=report)
    if chosen.json:
        emit(to_json({"model": chosen.model, **result}))
    else:
        emit(f"{chosen.model}: top-1 {result['top1']:.1%}, top-5 {result['top5']:.1%} of {result['images']} images")


def file_preprocessing(file: Path, source: ModelSource) -> Preprocessing:
    """How pixels become a TFLite file's input: as --mean and --std say, else as the manifest beside it does.

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
    shapes = [tuple(map(int, details["shape"])) for details in runner.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0] != (1, shapes[0][1], shapes[0][1], 3):
        raise RequestError(f"{file} takes inputs of shape {shapes}; images are for files that take (1, size, size, 3).")
    prepare = preprocessing.at(shapes[0][1])
    for path in paths:
        yield prepare.for_input(prepare.geometry(images.decode(path)), runner.inputs[0]["dtype"])


def _file_labels(file: Path, source: ModelSource) -> list[str]:
    labels = Path(source.labels) if source.labels else file.with_name("labels.txt")
    return labels.read_text(encoding="utf-8").splitlines() if labels.is_file() else []


def _evaluate_tflite(file: str, preprocessing: Preprocessing, found, report):
    """Runs in the worker."""
    from mobilenets_tf.runtime import Runner

    runner = Runner(file)
    loaded = file_inputs(file, runner, preprocessing, track(found.paths, "evaluating", report))
    return _score(lambda batch: [runner(image)[0][0] for image in batch], loaded, found.labels)


def _evaluate_keras(source, found, report):
    """Runs in the worker."""
    from mobilenets_tf.export.verification import keras_outputs

    model = source.build()
    preprocessing = source.preprocessing(model)
    loaded = (preprocessing(images.decode(path)) for path in track(found.paths, "evaluating", report))
    return _score(lambda batch: keras_outputs(model, batch), loaded, found.labels)


def _score(predict, loaded, labels) -> dict:
    import numpy as np

    from mobilenets_tf.export.verification import compare, in_batches

    outputs = np.concatenate([predict(batch) for batch in in_batches(loaded)])
    scored = compare(outputs, outputs, labels)
    return {"images": scored.images, "top1": scored.top1, "top5": scored.top5}
