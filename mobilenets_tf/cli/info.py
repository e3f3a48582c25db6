"""mobilenets-tf info"""

from mobilenets_tf import registry
from mobilenets_tf.cli.options import add_json, add_size, emit
from mobilenets_tf.files import to_json

HELP = "Count a network's parameters and multiply-adds, and show its features and weight sets."
EXAMPLE = "mobilenets-tf info mobilenet_v2 --alpha 0.5 --resolution 160"


def add_arguments(parser):
    parser.add_argument("model", help="a registered name (see: mobilenets-tf list)")
    add_size(parser)
    add_json(parser)


def run(chosen):
    registry.check_size(registry.get(chosen.model), chosen.alpha, chosen.resolution)
    from mobilenets_tf.factory import model_info

    info = model_info(chosen.model, alpha=chosen.alpha, resolution=chosen.resolution)
    if chosen.json:
        emit(to_json(info))
        return
    width = "" if info["alpha"] is None else f" alpha {info['alpha']}"
    emit(f"{info['name']}{width} at {info['resolution']}x{info['resolution']} ({info['source']})")
    emit(f"  trainable parameters  {info['params_trainable']:>15,}")
    emit(f"  total parameters      {info['params_total']:>15,}")
    emit(f"  multiply-adds         {info['macs']:>15,}")
    for stride, shape in info["features"].items():
        emit(f"  features, stride {stride:<3}  {'x'.join(map(str, shape)):>15}")
    for record in info["weights"]:
        if record["alpha"] in (None, info["alpha"]):
            here = "on this machine" if record["installed"] else f"not here; {record['install']}"
            emit(f"  weights {record['tag']!r}: {record['source']}, {record['licence']} ({here})")
