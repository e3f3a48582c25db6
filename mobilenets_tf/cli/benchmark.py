"""mobilenets-tf benchmark"""

from mobilenets_tf.cli.options import add_json, add_quiet, display, emit
from mobilenets_tf.errors import RequestError
from mobilenets_tf.files import to_json
from mobilenets_tf.progress import printable

HELP = "Measure latency and memory of .tflite files side by side, on this machine or on an attached phone."
EXAMPLE = "mobilenets-tf benchmark net_float32.tflite net_int8.tflite --profile"

_SHOWN = 12  # types of ops in the table


def add_arguments(parser):
    parser.add_argument("files", nargs="+", metavar="FILE", help=".tflite files; ratios are to the first file's time")
    parser.add_argument("--calls", type=int, default=50, help="inferences of each file that count (default 50)")
    parser.add_argument("--threads", type=int, default=1, help="threads that LiteRT uses (default 1)")
    parser.add_argument("--profile", action="store_true", help="also measure the time of each type of op")
    phone = parser.add_argument_group("on an attached phone, through adb")
    phone.add_argument("--android", action="store_true", help="run on the phone instead of this machine")
    phone.add_argument(
        "--benchmark-model", metavar="PATH_OR_URL",
        help="LiteRT's benchmark_model for the phone's processor, needed with --android; a URL is downloaded once and "
        "kept in the cache",
    )  # fmt: skip
    phone.add_argument("--adb", metavar="PATH", help="the adb program (default: the one on PATH or in the Android SDK)")
    phone.add_argument("--serial", help="serial number of the phone, if several are attached")
    phone.add_argument("--use-gpu", action="store_true", help="run on the GPU delegate")
    phone.add_argument("--use-nnapi", action="store_true", help="run on NNAPI (TensorFlow Lite's benchmark_model only)")
    phone.add_argument(
        "--cores", metavar="MASK", help="run on these cores only: a hexadecimal mask such as f0 for cores 4 to 7"
    )
    add_json(parser)
    add_quiet(parser)


def run(arguments):
    return _run_on_phone(arguments) if arguments.android else _run_here(arguments)


def _run_here(arguments) -> int:
    for name in ("benchmark_model", "adb", "serial", "use_gpu", "use_nnapi", "cores"):
        if getattr(arguments, name):
            raise RequestError(f"--{name.replace('_', '-')} needs --android: it is an option for a phone.")
    from mobilenets_tf.export.speed.side_by_side import BenchmarkRequest, benchmark

    request = BenchmarkRequest(arguments.files, arguments.calls, arguments.threads, arguments.profile)
    with display(arguments) as progress:
        result = benchmark(request, progress)
    if arguments.json:
        emit(to_json(result.as_dict()))
        return 1 if result.failed else 0
    threads = f"{request.threads} thread{'s' if request.threads > 1 else ''}"
    emit(f"Milliseconds on {result.machine}: compare the files by their ratios.")
    emit(f"{request.calls} rounds, {threads}, LiteRT with XNNPACK.")
    ratios = "ratio (in 9 of 10 rounds)"
    emit(f"{'':<40}{'median':>9}{'10 %':>9}{'90 %':>9}{ratios:>27}  partitions  peak MB  arena MB")
    for file in result.files:
        times, ratio = file.timing, "1"
        if file.ratio:
            ratio = f"{file.ratio.median:.2f} ({file.ratio.low:.2f} to {file.ratio.high:.2f})"
        emit(
            f"{_short(file.file):<40}{times.median_ms:9.2f}{times.p10_ms:9.2f}{times.p90_ms:9.2f}{ratio:>27}  "
            f"{_partitions(times):>10}  {file.memory.peak / 1e6:7.1f}  {_megabytes(file.memory.arena):>8}"
        )
    for file in result.files:
        if file.timing.outside:
            outside = ", ".join(f"{count} {name}" for name, count in file.timing.outside.items())
            emit(f"{_short(file.file)}: XNNPACK does not run {outside}.")
    for file in result.files:
        if file.profile:
            _emit_ops(file.file, file.profile.ops, file.profile.call_ms)
        elif file.no_profile:
            emit(f"No times of the ops: {printable(file.no_profile)}")
    for reason in result.failed.values():
        emit(f"FAILED: {printable(reason)}")
    return 1 if result.failed else 0


def _megabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.2f}"


def _run_on_phone(arguments) -> int:
    from mobilenets_tf.export.speed.phone import PhoneRequest, benchmark_on_phone

    request = PhoneRequest(
        files=arguments.files,
        benchmark_model=arguments.benchmark_model,
        calls=arguments.calls,
        threads=arguments.threads,
        profile=arguments.profile,
        adb=arguments.adb,
        serial=arguments.serial,
        use_gpu=arguments.use_gpu,
        use_nnapi=arguments.use_nnapi,
        cores=arguments.cores,
    )
    with display(arguments) as progress:
        result = benchmark_on_phone(request, progress)
    if arguments.json:
        emit(to_json(result.as_dict()))
        return 0 if result.passed else 1
    about = result.files[0].device
    emit(f"Milliseconds on {about['serial']}, {about['model']}, Android {about['android']}; one file after another.")
    emit(f"benchmark_model: {result.tool.path}, sha256 {result.tool.sha256}")
    emit(f"{'':<40} {'average':>8} {'median':>8} {'95 %':>8} {'first':>8} {'loading':>8}  {'ratio':>5}  MB more")
    base = result.files[0].output.inference.average_ms
    for file in result.files:
        output, inference = file.output, file.output.inference
        first = output.warm_up.first_ms if output.warm_up else None
        figures = (inference.average_ms, inference.median_ms, inference.p95_ms, first, output.init_ms)
        emit(
            f"{_short(file.file):<40} {' '.join(_number(value) for value in figures)}  "
            f"{inference.average_ms / base:5.2f}  {_number(output.memory_mb)}"
        )
    for file in result.files:
        if file.accelerated is False:
            emit(
                f"FAILED: benchmark_model does not report that the accelerator runs any op of {_short(file.file)}; the "
                "times are those of the CPU."
            )
        for delegate in file.output.delegates:
            emit(f"{_short(file.file)}: {_delegate(delegate)}")
        if request.profile and not file.output.ops:
            emit(f"{_short(file.file)}: benchmark_model printed no profile of the ops.")
        elif file.output.ops:
            _emit_ops(file.file, file.output.ops, file.output.inference.average_ms)
    return 0 if result.passed else 1


def _emit_ops(file: str, ops, call_ms: float) -> None:
    """Print the time of each type of op, of all ops, and of the whole inference."""
    from mobilenets_tf.export.speed.op_profile import by_name

    kinds = by_name(ops)
    emit(f"\n{_short(file)}: milliseconds of its ops in one inference, with the profiler on")
    for name, count, ms in kinds[:_SHOWN]:
        emit(f"  {name:<50} {count:4} {ms:9.3f} {ms / call_ms:7.1%}")
    if rest := kinds[_SHOWN:]:
        ms = sum(ms for _, _, ms in rest)
        emit(f"  {f'{len(rest)} other types':<50} {sum(count for _, count, _ in rest):4} {ms:9.3f} {ms / call_ms:7.1%}")
    total = sum(op.ms for op in ops)
    emit(f"  {'all ops':<50} {len(ops):4} {total:9.3f} {total / call_ms:7.1%} of the whole inference, {call_ms:.3f}")


def _partitions(timing) -> str:
    return str(timing.delegated_partitions) if timing.delegated_partitions else "no XNNPACK"


def _delegate(delegate) -> str:
    text = delegate.name
    if delegate.executes == "not":
        text += " does not execute the graph"
    elif delegate.executes:
        text += f" executes the graph {delegate.executes}"
    if delegate.nodes is not None:
        text += f" runs {delegate.nodes} of {delegate.of} ops" if delegate.of else f" runs {delegate.nodes} ops"
    return text + (f", in {delegate.partitions} parts" if delegate.partitions is not None else "")


def _number(value: float | None) -> str:
    return f"{value:8.2f}" if value is not None else f"{'-':>8}"


def _short(file: str) -> str:
    return file if len(file) <= 40 else f"...{file[-37:]}"
