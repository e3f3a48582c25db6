"""mobilenets-tf info"""

from mobilenets_tf.cli.options import add_json, add_size, emit, request_of
from mobilenets_tf.data.preprocessing import shown_size
from mobilenets_tf.files import to_json

HELP = "Count a network's parameters, multiply-adds and memory, and show its outputs, features and weight sets."
EXAMPLE = "mobilenets-tf info mobilenet_v2 --alpha 0.5 --resolution 160"


def add_arguments(parser):
    parser.add_argument("model", help="a registered name (see: mobilenets-tf list)")
    add_size(parser)
    parser.add_argument(
        "--arena",
        action="store_true",
        help="convert it, and measure the memory that LiteRT plans for its activations, without XNNPACK (seconds)",
    )
    add_json(parser)


def run(arguments):
    from mobilenets_tf.export.network_info import InfoRequest, info

    facts = info(request_of(InfoRequest, arguments))
    if arguments.json:
        emit(to_json(facts))
        return
    width = "" if facts["alpha"] is None else f" alpha {facts['alpha']}"
    emit(f"{facts['name']}{width} at {shown_size(facts['resolution'])} ({facts['source']})")
    emit(f"  trainable parameters  {facts['params_trainable']:>15,}")
    emit(f"  total parameters      {facts['params_total']:>15,}")
    emit(f"  multiply-adds         {facts['macs']:>15,}")
    if folded := facts["inference_form"]:
        emit(f"  folded for inference  {folded['params_trainable']:>15,} parameters, {folded['macs']:,} multiply-adds")
    peak, largest, split = facts["peak_activation"], facts["largest_tensor"], facts["bottleneck_split"]
    emit(f"  peak activations      {peak['elements']:>15,} elements, at {peak['layer']}")
    emit(f"  largest tensor        {largest['elements']:>15,} elements, each bottleneck as one op")
    if split["n"] < peak["elements"]:
        emit(
            f"  bottlenecks in parts  {split['n']:>15,} elements, one inner channel at a time"
            f" (in 2 parts {split['2']:,}, in 4 {split['4']:,})"
        )
    for scheme, size in facts.get("arena_bytes", {}).items():
        emit(f"  arena, {scheme:<14} {size:>15,} bytes")
    for output, shape in facts["outputs"].items():
        emit(f"  output {output:<14} {'x'.join(map(str, shape)):>15}")
    for stride, shape in facts["features"].items():
        emit(f"  features, stride {stride:<3}  {'x'.join(map(str, shape)):>15}")
    for record in facts["weights"]:
        if record["alpha"] in (None, facts["alpha"]):
            here = "on this machine" if record["installed"] else f"not here: {record['fetch_command']}"
            emit(f"  weights {record['tag']!r}: {record['source']}, {record['licence']} ({here})")
