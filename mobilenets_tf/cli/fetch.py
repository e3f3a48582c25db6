"""mobilenets-tf fetch"""

from mobilenets_tf.cli.options import add_quiet, display, emit
from mobilenets_tf.weights.fetching import FetchRequest, fetch

HELP = "Fetch published weights that are not on this machine, from where they are published."
EXAMPLE = "mobilenets-tf fetch mobilenet_v1 'mobileone_s*'"


def add_arguments(parser):
    parser.add_argument("models", nargs="+", metavar="NAME", help="registered names, or names with wildcards")
    parser.add_argument("--tag", default="imagenet", help="which weights, see: mobilenets-tf list (default: imagenet)")
    parser.add_argument("--alpha", type=float, help="width multiplier, for networks that have one (default: 1.0)")
    add_quiet(parser)


def run(arguments):
    request = FetchRequest(tuple(arguments.models), arguments.tag, arguments.alpha)
    with display(arguments) as progress:
        fetched = fetch(request, progress)
    for each in fetched:
        size = each.path.stat().st_size / 1e6
        how = f"fetched, {size:.1f} MB" if each.is_new else "was here"
        emit(f"{each.record.network} {each.record.tag}: {each.path} ({how}; {each.record.licence})")
