"""mobilenets-tf predict"""

from dataclasses import asdict

from mobilenets_tf import files
from mobilenets_tf.cli.evaluate import add_task
from mobilenets_tf.cli.options import (
    add_input,
    add_json,
    add_overwrite,
    add_quiet,
    add_resolution,
    add_signature,
    display,
    emit,
    image_line,
    request_of,
)

HELP = "Show what a file says of photographs: classes, boxes or masks, drawn on them too, several files side by side."
EXAMPLE = "mobilenets-tf predict net_int8.tflite photo.jpg --beside net.keras --out picture.png"


def add_arguments(parser):
    parser.add_argument(
        "model", metavar="FILE", help="a .tflite, .keras or full-model .h5 file, or a SavedModel folder"
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE_OR_DIR", help="photographs; of a folder or a CSV all that it has"
    )
    parser.add_argument("--beside", nargs="+", default=[], metavar="FILE", help="more files, to compare with")
    parser.add_argument(
        "--out", metavar="PICTURE_OR_DIR", help="draw it: a .png or .jpg for one image, or a folder for a .png of each"
    )
    parser.add_argument("--threshold", type=float, default=0.5, metavar="SCORE", help="of objects (default 0.5)")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes of a classifier (default 5)")
    add_task(parser)
    add_resolution(parser)
    add_signature(parser)
    add_input(parser)
    parser.add_argument("--labels", metavar="FILE", help="class names, one a line, for a file that does not say")
    add_overwrite(parser)
    add_json(parser)
    add_quiet(parser)


def run(arguments):
    from mobilenets_tf.answers.prediction import PredictRequest, predict

    with display(arguments) as progress:
        predictions = predict(request_of(PredictRequest, arguments), progress)
    pictures = [each.picture for each in predictions if each.picture]
    if arguments.json:
        records = [{key: value for key, value in asdict(each).items() if key != "picture"} for each in predictions]
        emit(files.to_json({"images": records, "pictures": pictures}))
        return
    for prediction in predictions:
        _print(prediction, arguments.threshold)
    for way in dict.fromkeys(answer["input"] for answer in predictions[0].answers):
        emit(image_line(way))
    for picture in pictures:
        emit(f"Picture: {picture}")


def _print(prediction, threshold: float) -> None:
    emit(f"{prediction.image}  {prediction.width}x{prediction.height}")
    several = len(prediction.answers) > 1
    for answer in prediction.answers:
        if several:
            emit(f"  {answer['file']}")
        rows = answer["found"]
        for line in map(line_of, rows) if rows else [f"  nothing that scores {threshold:g} or more (--threshold)"]:
            emit(f"{'  ' * several}{line}")


def line_of(row: dict) -> str:
    """Write one class, object, area or output of an answer as a line."""
    from mobilenets_tf.tasks.pictures import score_text

    if "text" in row:
        return f"  {row['name']}: {row['text']}"
    share = score_text(row["score"] if "score" in row else row["share"])
    box = "  x {xmin:.0f} to {xmax:.0f}, y {ymin:.0f} to {ymax:.0f}".format(**row["box"]) if "box" in row else ""
    return f"  {share:>7}  {row['name']}{box}"
