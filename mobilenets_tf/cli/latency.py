"""mobilenets-tf latency"""

from mobilenets_tf.cli.options import (
    add_json,
    add_model,
    add_overwrite,
    add_quiet,
    display,
    emit,
    request_of,
)
from mobilenets_tf.files import to_json

HELP = "Measure a table of latencies: it predicts how long networks take that are like a given one."
EXAMPLE = "mobilenets-tf latency mobilenet_v3_small --resolution 224 --scheme int8 --out small_int8.json"


def add_arguments(parser):
    add_model(parser)
    parser.add_argument("--scheme", default="int8", help="of the files: int8 (default) or float32")
    parser.add_argument("--threads", type=int, default=1, help="threads that LiteRT uses (default 1)")
    parser.add_argument(
        "--out", required=True, metavar="FILE",
        help="the JSON file to write; interrupted, the command goes on from FILE.partial when it is given again",
    )  # fmt: skip
    parser.add_argument(
        "--networks", type=int, default=96, metavar="N",
        help="files to measure: the network with other widths, alone and mixed (default 96)",
    )  # fmt: skip
    parser.add_argument(
        "--kernels", type=int, nargs="+", default=[], metavar="SIDE",
        help="sides of depthwise kernels to measure too, for example 3 5 7 (default: the network's own)",
    )  # fmt: skip
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="time limit for the passes after the first (default 8)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the mixtures of widths (default 0)")
    phone = parser.add_argument_group("on an attached phone, through adb")
    phone.add_argument("--android", action="store_true", help="run on the phone instead of this machine")
    phone.add_argument(
        "--benchmark-model", metavar="PATH_OR_URL",
        help="LiteRT's benchmark_model for the phone's processor, needed with --android",
    )  # fmt: skip
    phone.add_argument("--adb", metavar="PATH", help="the adb program (default: the one on PATH or in the Android SDK)")
    phone.add_argument("--serial", help="serial number of the phone, if several are attached")
    phone.add_argument("--cores", metavar="MASK", help="run on these cores only: a hexadecimal mask such as f0")
    add_overwrite(parser)
    add_json(parser)
    add_quiet(parser)


def run(arguments):
    from mobilenets_tf.search.latency.table import LatencyRequest, LatencyTable

    request = request_of(LatencyRequest, arguments)
    with display(arguments) as progress:
        table = LatencyTable.measure(request, progress)
    if arguments.json:
        emit(to_json(table.summary()))
        return
    machine = table.machine
    threads = f"{table.threads} thread{'s' if table.threads > 1 else ''}"
    processors = "" if machine.processors is None else f", {machine.processors} processors"
    emit(f"Measured on {machine.processor} ({machine.architecture}{processors}), {machine.system}.")
    emit(f"LiteRT {machine.litert}, XNNPACK, {threads}, {table.scheme}.")
    emit(f"{len(table.entries)} operators of {table.networks} networks.")
    emit("Predicted against measured, on networks that were held out:")
    emit(f"{'':<24}{'median':>9}{'within 5 %':>12}{'within 10 %':>13}{'rank correlation':>18}")
    for label, error in (("this table", table.error), ("multiply-adds alone", table.multiply_adds_error)):
        rank = "-" if error.rank_correlation is None else f"{error.rank_correlation:.3f}"
        emit(f"{label:<24}{error.median:>9.1%}{error.within_5:>12.0%}{error.within_10:>13.0%}{rank:>18}")
    emit(f"Table: {request.out}")
