"""mobilenets-tf evaluate"""

from dataclasses import asdict

from mobilenets_tf import registry
from mobilenets_tf.cli.options import add_json, add_model, add_quiet, add_void, display, emit, image_line, request_of
from mobilenets_tf.files import to_json

HELP = "Judge a model or a .tflite file on annotated images: top-1 and top-5, mAP of boxes, or mIoU of masks."
EXAMPLE = "mobilenets-tf evaluate efficientnet_lite0 --weights imagenet --data labels.csv"


def add_arguments(parser):
    add_model(parser)
    add_task(parser)
    parser.add_argument(
        "--data", required=True, metavar="SOURCE",
        help="to classify: a CSV with file and class_index, or a folder with a sub-folder a class; to detect: a folder "
        "with images/ and annotations/ (VOC's XML), or COCO's .json; to segment: a folder with images/ and masks/ (PNG "
        "of class numbers)",
    )  # fmt: skip
    add_void(parser)
    parser.add_argument(
        "--scales", type=float, nargs="+", default=[1.0], metavar="SHARE",
        help="segment: average the answers at these input sizes, as shares of --resolution; for a registered name with "
        "its trained file as --weights",
    )  # fmt: skip
    parser.add_argument("--flip", action="store_true", help="segment: average with the answers for the mirrored image")
    parser.add_argument("--count", type=int, metavar="N", help="use N of the images, chosen with --seed (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    add_json(parser)
    add_quiet(parser)


def add_task(parser) -> None:
    """--task, for a file whose manifest is not there."""
    parser.add_argument("--task", choices=registry.TASKS, help="of a file without a manifest (default: classify)")


def run(arguments):
    from mobilenets_tf.answers.evaluation import EvaluateRequest, evaluate
    from mobilenets_tf.tasks.task import percent

    with display(arguments) as progress:
        evaluation = evaluate(request_of(EvaluateRequest, arguments), progress)
    if arguments.json:
        emit(
            to_json({"model": arguments.model, "preprocessing": asdict(evaluation.preprocessing), **evaluation.scores})
        )
        return
    emit(f"{arguments.model}: {evaluation.headline()}")
    emit(image_line(evaluation.preprocessing.described()))
    for name, value in evaluation.scores.get("per_class", {}).items():
        emit(f"  {percent(value):>6}  {name}")
