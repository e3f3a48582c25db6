"""mobilenets-tf evaluate"""

import contextlib
import json
from pathlib import Path

from mobilenets_tf import images
from mobilenets_tf.cli.options import add_json, add_model, add_quiet, display, emit, model_source
from mobilenets_tf.errors import RequestError
from mobilenets_tf.files import to_json
from mobilenets_tf.modelsource import triple
from mobilenets_tf.preprocessing import Preprocessing

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
        preprocessing, names = _of_tflite(Path(chosen.model), source)
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


def _of_tflite(file: Path, source) -> tuple[Preprocessing, list[str]]:
    """Its preprocessing and labels: as the options say, else as the manifest beside it does."""
    if (source.mean is None) != (source.std is None):
        raise RequestError("Give --mean and --std together: the input is (pixel - mean) / std.")
    manifest, preprocessing = file.with_name(file.name + ".json"), None
    if source.mean is not None:
        preprocessing = Preprocessing(mean=triple(source.mean), std=triple(source.std))
    elif manifest.is_file():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            preprocessing = Preprocessing(**json.loads(manifest.read_text(encoding="utf-8"))["preprocessing"])
    if preprocessing is None:
        raise RequestError(f"No manifest beside {file} says how its input is normalised; pass --mean and --std.")
    labels = Path(source.labels) if source.labels else file.with_name("labels.txt")
    return preprocessing, labels.read_text(encoding="utf-8").splitlines() if labels.is_file() else []


def _evaluate_tflite(file: str, preprocessing: Preprocessing, found, report):
    """Runs in the worker."""
    from mobilenets_tf.runtime import Runner

    runner = Runner(file)
    preprocessing = preprocessing.at(int(runner.inputs[0]["shape"][1]))
    return _score(lambda batch: [runner(image)[0][0] for image in batch], preprocessing, found, report)


def _evaluate_keras(source, found, report):
    """Runs in the worker."""
    from mobilenets_tf.export.verification import keras_outputs

    model = source.build()
    return _score(lambda batch: keras_outputs(model, batch), source.preprocessing(model), found, report)


def _score(predict, preprocessing, found, report) -> dict:
    import numpy as np

    from mobilenets_tf.export.verification import compare, in_batches
    from mobilenets_tf.progress import track

    loaded = (preprocessing(images.decode(path)) for path in track(found.paths, "evaluating", report))
    outputs = np.concatenate([predict(batch) for batch in in_batches(loaded)])
    scored = compare(outputs, outputs, found.labels)
    return {"images": scored.images, "top1": scored.top1, "top5": scored.top5}
