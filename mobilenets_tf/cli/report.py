"""mobilenets-tf report"""

import json
from dataclasses import asdict, fields

from mobilenets_tf.cli.deploy import add_input_form
from mobilenets_tf.cli.options import add_json, add_model, add_quiet, display, emit, model_source

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
    parser.add_argument(
        "--calibration", metavar="CSV_OR_DIR",
        help="100 to 500 images of the kind the app will meet; 'demo' takes scikit-image's few for a first try",
    )  # fmt: skip
    parser.add_argument("--calibration-count", type=int, metavar="N", help="use N of them, chosen with --seed")
    parser.add_argument(
        "--evaluate", metavar="CSV_OR_DIR",
        help="labelled images to judge with: a CSV with file and class_index, or a sub-folder a class",
    )  # fmt: skip
    add_input_form(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--min-agreement", type=float, default=0.5, metavar="SHARE",
        help="fail (exit 1) if a file gives the float model's answer on fewer images than this (default 0.5)",
    )  # fmt: skip
    parser.add_argument("--calls", type=int, default=50, metavar="N", help="time each file N times (default 50)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="for the timing (default 1)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace files in --out that are not from here")
    add_json(parser)
    add_quiet(parser)


def run(chosen):
    from mobilenets_tf.export.scheme_comparison import ComparisonRequest, compare_schemes

    values = {field.name: getattr(chosen, field.name) for field in fields(ComparisonRequest) if field.name != "source"}
    values["schemes"] = tuple(values["schemes"])
    request = ComparisonRequest(source=model_source(chosen), **values)
    with display(chosen) as progress:
        result = compare_schemes(request, progress)
    if chosen.json:
        rows = [asdict(row) for row in result.rows]
        emit(json.dumps({"report": str(result.path), "failures": result.failures, "schemes": rows}, indent=2))
    else:
        _print(result)
    return 0 if result.passed else 1


def _print(result):
    emit(f"{'':<14} {'size':>9}  {'top-1':>6}  {'same answer':>11}  {'median':>9}  (this machine, not a phone)")
    for row in result.rows:
        top1 = "" if row.top1 is None else f"{row.top1:.1%}"
        emit(
            f"{row.scheme:<14} {row.bytes / 1e6:>6.2f} MB  {top1:>6}  {row.agreement:>11.1%}  {row.median_ms:>6.2f} ms"
        )
    for failure in result.failures:
        emit(f"FAILED: {failure}")
    emit(f"Report: {result.path}")
