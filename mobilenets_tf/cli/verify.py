"""mobilenets-tf verify"""

from pathlib import Path

from mobilenets_tf import images
from mobilenets_tf.cli.options import add_json, add_model, add_quiet, display, emit, model_source
from mobilenets_tf.errors import RequestError
from mobilenets_tf.files import to_json
from mobilenets_tf.modelsource import ModelSource

HELP = "Compare a .tflite file with the Keras model it was made from, on images."
EXAMPLE = "mobilenets-tf verify net_int8.tflite --model efficientnet_lite0 --weights imagenet --images photos/"


def add_arguments(parser):
    parser.add_argument("file", help="the .tflite file")
    add_model(parser, flag="--model")
    parser.add_argument("--images", required=True, metavar="CSV_OR_DIR", help="images, with or without labels")
    parser.add_argument("--count", type=int, metavar="N", help="use N of them, chosen with --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--min-agreement", type=float, default=0.5, metavar="SHARE",
        help="fail (exit 1) if the file gives Keras' answer on fewer images than this (default 0.5)",
    )  # fmt: skip
    add_json(parser)
    add_quiet(parser)


def run(chosen):
    from mobilenets_tf.worker import Worker

    source = model_source(chosen)
    source.check()
    if not Path(chosen.file).is_file():
        raise RequestError(f"No such TFLite file: {chosen.file}")
    found = images.find_images(chosen.images, source.label_names()).sample(chosen.count, chosen.seed)
    images.check(found)
    with Worker() as worker, display(chosen) as report:
        comparison = worker.call(_verify, chosen.file, source, found, chosen.threads, report=report)
    passed = comparison.top1_agreement >= chosen.min_agreement
    if chosen.json:
        emit(to_json(comparison.as_dict() | {"passed": passed}))
    else:
        emit(f"{chosen.file} against {chosen.model}")
        for line in comparison.lines():
            emit(f"  {line}")
        if not passed:
            emit(f"  FAILED: at least {chosen.min_agreement:.1%} of the same answers were asked for")
    return 0 if passed else 1


def _verify(file: str, source: ModelSource, found, threads: int, report):
    """Runs in the worker: a hostile file can take down no more than that."""
    from mobilenets_tf.export.verification import verify
    from mobilenets_tf.runtime import Runner

    Runner(file)  # a file that cannot be run is refused before the model is built
    model = source.build()
    preprocessing = source.preprocessing(model)
    loaded = (preprocessing(images.decode(path)) for path in found.paths)
    return verify(file, model, loaded, found.labels, threads=threads, report=report)
