"""mobilenets-tf report"""

from mobilenets_tf.cli.deploy import add_calibration, add_evaluate, add_input_form, add_output_form
from mobilenets_tf.cli.options import (
    add_json,
    add_min_agreement,
    add_model,
    add_overwrite,
    add_quiet,
    add_void,
    display,
    emit,
    image_line,
    request_of,
)
from mobilenets_tf.files import to_json

HELP = "Make several schemes of one model, judge and time them side by side; write the files and one page on them."
EXAMPLE = (
    "mobilenets-tf report efficientnet_lite0 --weights imagenet --schemes float32 float16 dynamic int8 int16x8 \\\n"
    "    --calibration photos/ --evaluate labels.csv --out build/"
)


def add_arguments(parser):
    add_model(parser)
    parser.add_argument(
        "--schemes", nargs="+", metavar="SCHEME", default=["float32", "float16", "dynamic", "int8", "int16x8"],
        help="of float32, float16, dynamic, int8, int8_float_io, int16x8; left out, all but int8_float_io; "
        "float32 is always among them",
    )  # fmt: skip
    add_calibration(parser)
    add_evaluate(parser)
    add_input_form(parser)
    add_output_form(parser)
    add_void(parser)
    add_min_agreement(parser, "the float model")
    parser.add_argument("--calls", type=int, default=50, metavar="N", help="time each file N times (default 50)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="for the timing (default 1)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    add_overwrite(parser)
    add_json(parser)
    add_quiet(parser)


def run(arguments):
    from mobilenets_tf.export.scheme_comparison import ReportRequest, report

    with display(arguments) as progress:
        written = report(request_of(ReportRequest, arguments), progress)
    if arguments.json:
        rows = [row.as_dict() for row in written.rows]
        badges = {name: badge.facts()["badge"] for name, badge in written.badges.items()}
        document = {"report": str(written.path), "failures": written.badge.failures, "badges": badges, "schemes": rows}
        emit(to_json(document).rstrip())
    else:
        _print(written)
    return 0 if written.passed else 1


def _print(written):
    measure = written.rows[0].measure
    width = max(6, len(measure))
    emit(f"{'':<14} {'size':>9}  {measure:>{width}}  {'agreement':>9}  {'median':>9}  (this machine, not a phone)")
    for row in written.rows:
        score = "" if row.score is None else f"{row.score:.1%}"
        size = f"{row.bytes / 1e6:>6.2f} MB"
        emit(f"{row.scheme:<14} {size}  {score:>{width}}  {row.agreement:>9.1%}  {row.median_ms:>6.2f} ms")
    emit(image_line(written.preprocessing.described()))
    for name, badge in written.badges.items():
        first, *others = badge.lines()
        emit(f"{name}: {first}")
        for line in others:
            emit(f"  {line}")
    emit(written.badge.headline)
    emit(f"Report: {written.path}")
