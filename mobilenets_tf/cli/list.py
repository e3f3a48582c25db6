"""mobilenets-tf list"""

from mobilenets_tf import registry
from mobilenets_tf.cli.options import add_json, emit
from mobilenets_tf.errors import unknown
from mobilenets_tf.files import to_json
from mobilenets_tf.weights import catalog

HELP = "Show the registered networks and the weight sets there are for them."
EXAMPLE = "mobilenets-tf list 'efficientnet*'"


def add_arguments(parser):
    parser.add_argument("pattern", nargs="?", default="*", help="a name, a part of it, or a name with wildcards")
    parser.add_argument("--task", choices=registry.TASKS, help="what the network is for; left out, anything")
    add_json(parser)


def run(arguments):
    names = registry.list_models(arguments.pattern, arguments.task)
    if not names:
        raise unknown("model", arguments.pattern, registry.list_models(task=arguments.task))
    if arguments.json:
        emit(to_json(names))
        return
    for name in names:
        network = registry.get(name)
        emit(f"{name:<36} {network.task:<10} {network.resolution}x{network.resolution}")
        if network.backbone:
            emit(f"    weights of {network.backbone}")
            continue
        for record in catalog.weight_sets(name):
            width = "" if record.alpha is None else f" --alpha {record.alpha}"
            path = catalog.locate(record)
            here = f"  (here: {path})" if path else f"  (not on this machine: {record.fetch_command})"
            emit(f"    --weights {record.tag}{width}{here}")
