"""mobilenets-tf search"""

from mobilenets_tf.cli.options import (
    add_model,
    add_overwrite,
    add_quiet,
    add_void,
    display,
    emit,
    request_of,
)

HELP = "Make a trained network reach a latency: take channels away, train, deploy, measure."
EXAMPLE = "mobilenets-tf search trained/net.keras --data photos/ --evaluate test/ --target 0.5 --out fast/"


def add_arguments(parser):
    add_model(parser)
    parser.add_argument(
        "--data", required=True, metavar="SOURCE",
        help="annotated images to train with, as for train; a fifth of them compares the candidates",
    )  # fmt: skip
    parser.add_argument(
        "--evaluate", required=True, metavar="SOURCE", help="annotated images that judge the result, unseen until then"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--task", help="classify, detect or segment (default: the network's)")
    add_void(parser)
    target = parser.add_argument_group("the latency to reach; give one")
    target.add_argument("--target", type=float, metavar="SHARE", help="share of the network's own, for example 0.5")
    target.add_argument("--target-ms", type=float, metavar="MS", help="in milliseconds")
    parser.add_argument("--scheme", default="int8", help="of the file whose latency counts: int8 (default) or float32")
    parser.add_argument(
        "--table", metavar="FILE",
        help="a table of latencies (mobilenets-tf latency); left out, one is measured on this machine first",
    )  # fmt: skip
    parser.add_argument(
        "--elsewhere", action="store_true",
        help="the table is another machine's, such as a phone's, for which the network is meant",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="threads that LiteRT uses (default 1)")
    parser.add_argument(
        "--method", default="netadapt",
        help="netadapt (default): take channels away, round by round; pareto: try networks that Optuna asks for, "
        "random: networks at random, and take the best that reaches the latency",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=40, help="of each short training (default 40)")
    parser.add_argument(
        "--importance", default="loss",
        help="which channels go first: those that the loss needs least (loss, the default), or those whose kernels "
        "have the smallest norm (norm)",
    )  # fmt: skip
    rounds = parser.add_argument_group("the rounds of netadapt")
    rounds.add_argument(
        "--step", type=float, default=0.05, metavar="SHARE",
        help="what the first round saves, as a share of the network's latency (default 0.05)",
    )  # fmt: skip
    rounds.add_argument(
        "--decay", type=float, default=0.96, help="each round saves so much of what the round before did (default 0.96)"
    )
    rounds.add_argument("--tried", type=int, default=4, help="proposals of a round that are trained (default 4)")
    trials = parser.add_argument_group("the trials of pareto and random")
    trials.add_argument("--trials", type=int, default=60, help="networks to try (default 60)")
    trials.add_argument(
        "--vary", nargs="+", metavar="KIND",
        help="what to change: widths, and of a registered network depth, kernels, squeeze_excite, activation, "
        "resolution, as far as it has them (default: all but the resolution)",
    )  # fmt: skip
    trials.add_argument(
        "--reward", help="of pareto: search for one number, mnasnet's or tunas', instead of score and latency"
    )
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=int, help="of the training at the end (default: of the recipe)")
    training.add_argument("--batch-size", type=int, help="images in a step (default: of the recipe)")
    training.add_argument(
        "--learning-rate", type=float,
        help="the highest of all trainings; the short ones of netadapt have 30 %% (default: of the recipe)",
    )  # fmt: skip
    training.add_argument(
        "--distill", type=float, default=0.0, metavar="SHARE",
        help="share of the loss by which the original network teaches in the training at the end: 0 (default) to 1",
    )  # fmt: skip
    training.add_argument(
        "--train-threads", type=int, metavar="N",
        help="threads of TensorFlow, on which the last bits of the weights depend (default: one for each processor)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of images, batches and augmentation (default 0)")
    parser.add_argument("--restart", action="store_true", help="forget an unfinished search in --out")
    add_overwrite(parser)
    add_quiet(parser)


def run(arguments):
    from mobilenets_tf.search.job import reach_latency
    from mobilenets_tf.search.request import SearchRequest

    request = request_of(SearchRequest, arguments)
    with display(arguments) as progress:
        searched = reach_latency(request, progress)
    found, deployed = searched.found, searched.deployed
    shrunk = {name: widths for name, widths in found.widths.items() if widths[0] != widths[1]}
    what = "rounds" if request.method == "netadapt" else "networks tried"
    emit(f"{searched.path}  {len(found.rows)} {what}, {searched.seconds:.0f} s")
    emit(f"  asked for: {found.target_ms:.3g} ms, {found.target_ms / found.base_ms:.0%} of {found.base_ms:.3g} ms")
    emit(f"  predicted: {found.ms:.3g} ms, {found.ms / found.base_ms:.0%}")
    if searched.measured is not None:
        middle, low, high = searched.measured
        emit(f"  measured beside the network as it was: {middle:.0%} of its time ({low:.0%} to {high:.0%})")
    else:
        emit("  not measured: the table is another machine's")
    emit(f"  {len(shrunk)} of {len(found.widths)} groups of channels are smaller:")
    for name, (before, after) in shrunk.items():
        emit(f"    {name}: {before} -> {after}")
    if found.fixed:
        emit(f"  stayed whole, since the file does not show their widths: {', '.join(found.fixed)}")
    emit(f"{deployed.path}")
    if deployed.comparison:
        for line in deployed.comparison.lines():
            emit(f"  {line}")
    for line in deployed.badge.lines():
        emit(f"  {line}")
    emit(f"Chart: {searched.chart}")
    emit(f"History: {searched.history}")
    if searched.plan is not None:
        emit(f"Plan, for create_model: {searched.plan}")
    emit(f"Report: {deployed.report}")
    return 0 if deployed.passed else 1
