"""mobilenets-tf inspect"""

from mobilenets_tf.cli.options import add_json, emit
from mobilenets_tf.files import to_json

HELP = "Show what is in a .tflite file, anyone's: inputs, outputs, operators, weights, and what phones will make of it."
EXAMPLE = "mobilenets-tf inspect net_int8.tflite"


def add_arguments(parser):
    parser.add_argument("file", help="the .tflite file")
    add_json(parser)


def run(chosen):
    from mobilenets_tf.export.delegates.inspection import inspect

    found = inspect(chosen.file)
    if chosen.json:
        emit(to_json({"file": chosen.file, **found.as_dict()}))
        return
    emit(chosen.file)
    for line in found.lines():
        emit(f"  {line}")
