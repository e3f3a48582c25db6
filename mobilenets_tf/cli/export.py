"""mobilenets-tf export"""

import shlex

from mobilenets_tf.cli.deploy import add_input_form, add_scheme, add_split, add_target, split_line
from mobilenets_tf.cli.options import add_model, add_overwrite, add_quiet, display, emit, image_line, request_of
from mobilenets_tf.data.preprocessing import Preprocessing

HELP = (
    "Convert a model to one .tflite file and its manifest, without judging it. The outputs are the network's own: "
    "deploy judges a file, and gives a detector's or segmenter's file another --output."
)
EXAMPLE = "mobilenets-tf export my_model.keras --mean 127.5 --std 127.5 --scheme float16 --out my_model.tflite"


def add_arguments(parser):
    add_model(parser)
    add_scheme(parser)
    add_input_form(parser)
    add_target(parser)
    add_split(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help="the .tflite file to write")
    add_overwrite(parser)
    add_quiet(parser)


def run(arguments):
    from mobilenets_tf.export.file_export import ExportRequest, export_file
    from mobilenets_tf.export.proof.badge import unjudged, with_failures

    request = request_of(ExportRequest, arguments)
    with display(arguments) as progress:
        exported = export_file(request, progress)
    emit(f"{exported.path}  {exported.manifest['bytes'] / 1e6:.2f} MB")
    if known := Preprocessing.of(exported.manifest):
        emit(image_line(known.described()))
    if split := exported.manifest["split"]:
        emit(f"  {split_line(split)}")
    for line in exported.target_lines:
        emit(f"  {line}")
    verdict = with_failures(unjudged(exported.manifest["refused_by_litert"]), exported.failures)
    for line in verdict.lines():
        emit(f"  {line}")
    file = shlex.quote(str(exported.path))
    emit(f"Next:\n  mobilenets-tf verify {file} {request.source.options('--model')} --images PHOTOS/")
    return 0 if verdict.passed else 1
