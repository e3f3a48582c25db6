"""mobilenets-tf inspect"""

from mobilenets_tf.cli.options import add_json, emit
from mobilenets_tf.files import to_json

HELP = "Describe any .tflite file: inputs, outputs, operators, weights, and which operators a phone's accelerators run."
EXAMPLE = "mobilenets-tf inspect net_int8.tflite"


def add_arguments(parser):
    parser.add_argument("file", help="the .tflite file")
    add_json(parser)


def run(arguments):
    from mobilenets_tf.export.delegates.inspection import inspect

    inspection = inspect(arguments.file)
    if arguments.json:
        emit(to_json({"file": arguments.file, **inspection.as_dict()}))
        return
    emit(arguments.file)
    for line in inspection.lines():
        emit(f"  {line}")
