"""mobilenets-tf sensitivity"""

from mobilenets_tf.cli.deploy import add_scheme
from mobilenets_tf.cli.options import (
    add_model,
    add_overwrite,
    add_quiet,
    add_void,
    display,
    emit,
    image_line,
    request_of,
)

HELP = "Measure what each layer costs in integers; write a list (JSON) and a chart (SVG), the most sensitive first."
EXAMPLE = "mobilenets-tf sensitivity mobilenet_v2 --weights imagenet --calibration photos/ --out build/"


def add_arguments(parser):
    add_model(parser)
    add_scheme(parser)
    parser.add_argument(
        "--evaluate", metavar="DATA",
        help="annotated images, as for deploy: measure what each layer costs of top-1, mAP or mIoU too, and sort by it",
    )  # fmt: skip
    add_void(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    add_overwrite(parser)
    add_quiet(parser)


def run(arguments):
    import math

    from mobilenets_tf.export.layer_sensitivity import SensitivityRequest, write_sensitivity

    with display(arguments) as progress:
        written = write_sensitivity(request_of(SensitivityRequest, arguments), progress)
    first = written.layers[:10]
    emit(f"{len(written.layers)} layers, each quantised alone; the most sensitive, signal to noise at the output:")
    width = max(len(row["layer"]) for row in first)
    for row in first:
        noise = "exact" if math.isinf(row["output_db"]) else f"{row['output_db']:.1f} dB"
        drop = f", loses {row['drop']:.2%} of the score" if "drop" in row else ""
        emit(f"  {row['layer']:<{width}}  {noise}{drop}")
    emit(image_line(written.preprocessing.described()))
    emit(f"List: {written.path}")
    emit(f"Chart: {written.chart}")
