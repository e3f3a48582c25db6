"""mobilenets-tf sensitivity"""

from dataclasses import fields

from mobilenets_tf.cli.deploy import add_scheme
from mobilenets_tf.cli.options import add_model, add_quiet, display, emit, model_source

HELP = "Measure what each layer costs in integers; write a list (JSON) and a chart (SVG), the most sensitive first."
EXAMPLE = "mobilenets-tf sensitivity mobilenet_v2 --weights imagenet --calibration photos/ --out build/"


def add_arguments(parser):
    add_model(parser)
    add_scheme(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace files in --out that are not from here")
    add_quiet(parser)


def run(chosen):
    from mobilenets_tf.export.layer_sensitivity import SensitivityRequest, write_sensitivity

    names = [field.name for field in fields(SensitivityRequest) if field.name != "source"]
    request = SensitivityRequest(source=model_source(chosen), **{name: getattr(chosen, name) for name in names})
    with display(chosen) as progress:
        written = write_sensitivity(request, progress)
    first = written.layers[:10]
    emit(f"{len(written.layers)} layers, each quantised alone; the most sensitive, signal to noise at the output:")
    for row in first:
        noise = "exact" if row["output_db"] is None else f"{row['output_db']:.1f} dB"
        emit(f"  {row['layer']:<{max(len(row['layer']) for row in first)}}  {noise}")
    emit(f"List: {written.path}")
    emit(f"Chart: {written.chart}")
