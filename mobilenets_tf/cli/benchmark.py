"""mobilenets-tf benchmark"""

from pathlib import Path

from mobilenets_tf.cli.options import add_json, add_quiet, display, emit
from mobilenets_tf.errors import RequestError
from mobilenets_tf.files import to_json

HELP = "Time .tflite files side by side, with their memory and their ops, on this machine or on an attached phone."
EXAMPLE = "mobilenets-tf benchmark net_float32.tflite net_int8.tflite --profile"

_SHOWN = 12  # kinds of ops in the table


def add_arguments(parser):
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help=".tflite; the first is what the others are compared with"
    )
    parser.add_argument("--calls", type=int, default=50, help="invocations of each file that count (default 50)")
    parser.add_argument("--threads", type=int, default=1, help="(default 1)")
    parser.add_argument("--profile", action="store_true", help="with what each kind of op takes")
    phone = parser.add_argument_group("on an attached phone, through adb")
    phone.add_argument("--android", action="store_true", help="run there, not here")
    phone.add_argument(
        "--benchmark-model", metavar="PATH_OR_URL",
        help="LiteRT's benchmark_model for the phone, which is pushed to it; an address is fetched once and kept",
    )  # fmt: skip
    phone.add_argument("--adb", metavar="PATH", help="left out: that on PATH or in the Android SDK")
    phone.add_argument("--serial", help="which of several attached phones")
    phone.add_argument("--use-gpu", action="store_true", help="the GPU delegate")
    phone.add_argument("--use-nnapi", action="store_true", help="NNAPI, which TensorFlow Lite's benchmark_model has")
    phone.add_argument("--cores", metavar="MASK", help="run on these cores only, such as f0 for cores 4 to 7 (taskset)")
    add_json(parser)
    add_quiet(parser)


def run(chosen):
    for file in chosen.files:
        if not Path(file).is_file():
            raise RequestError(f"No such TFLite file: {file}")
    if chosen.android:
        return _run_on_phone(chosen)
    for name in ("benchmark_model", "adb", "serial", "use_gpu", "use_nnapi", "cores"):
        if getattr(chosen, name):
            raise RequestError(f"--{name.replace('_', '-')} is for --android, which is missing.")
    from mobilenets_tf.export.speed import side_by_side

    with display(chosen) as progress:
        found = side_by_side.measure(chosen.files, chosen.calls, chosen.threads, chosen.profile, progress)
    if chosen.json:
        emit(to_json({"machine": side_by_side.machine(), "files": [file.as_dict() for file in found]}))
        return
    threads = f"{chosen.threads} thread{'s' if chosen.threads > 1 else ''}"
    emit(f"Milliseconds on {side_by_side.machine()}: compare files, the times on a phone are others.")
    emit(f"{chosen.calls} rounds, {threads}, LiteRT with XNNPACK.")
    ratios = "ratio (in 9 of 10 rounds)"
    emit(f"{'':<40}{'median':>9}{'10 %':>9}{'90 %':>9}{ratios:>27}  partitions  peak MB  arena MB")
    for file in found:
        times, ratio = file.timing, "1"
        if file.ratio:
            ratio = f"{file.ratio.median:.2f} ({file.ratio.low:.2f} to {file.ratio.high:.2f})"
        emit(
            f"{_short(file.file):<40}{times.median_ms:9.2f}{times.p10_ms:9.2f}{times.p90_ms:9.2f}{ratio:>27}  "
            f"{_partitions(times):>10}  {file.memory.peak / 1e6:7.1f}  {file.memory.arena / 1e6:8.2f}"
        )
    for file in found:
        if file.timing.outside:
            outside = ", ".join(f"{count} {name}" for name, count in file.timing.outside.items())
            emit(f"{_short(file.file)}: XNNPACK leaves out {outside}.")
    for file in found:
        if file.profile:
            _emit_ops(file.file, file.profile.ops, file.profile.call_ms)


def _run_on_phone(chosen):
    from mobilenets_tf.export.speed import phone

    if not chosen.benchmark_model:
        raise RequestError(
            "--android needs --benchmark-model: the path or address of LiteRT's benchmark_model for the phone "
            "(developers.google.com/edge/litert/next/benchmark)."
        )
    options = phone.Options(
        chosen.calls, chosen.threads, chosen.use_gpu, chosen.use_nnapi, chosen.cores, chosen.profile
    )
    options.check()
    program = phone.find_adb(chosen.adb)
    device = phone.choose(phone.devices(program), chosen.serial)
    tool = phone.tool(chosen.benchmark_model)
    with display(chosen) as progress:
        found = phone.run_on_device(
            program, device, tool, {file: Path(file) for file in chosen.files}, options, progress
        )
    if chosen.json:
        emit(to_json({"benchmark_model": tool.as_dict(), "files": [file.as_dict() for file in found]}))
        return 1 if any(file.accelerated is False for file in found) else 0
    about = found[0].device
    emit(f"Milliseconds on {about['serial']}, {about['model']}, Android {about['android']}; one file after another.")
    emit(f"benchmark_model: {tool.path}, sha256 {tool.sha256}")
    emit(f"{'':<40} {'average':>8} {'median':>8} {'95 %':>8} {'first':>8} {'to load':>8}  {'ratio':>5}  MB more")
    base = found[0].output.inference.average_ms
    for file in found:
        output, inference = file.output, file.output.inference
        first = output.warm_up.first_ms if output.warm_up else None
        figures = (inference.average_ms, inference.median_ms, inference.p95_ms, first, output.init_ms)
        emit(
            f"{_short(file.file):<40} {' '.join(_number(value) for value in figures)}  "
            f"{inference.average_ms / base:5.2f}  {_number(output.memory_mb)}"
        )
    for file in found:
        if file.accelerated is False:
            emit(f"FAILED: nothing says that the accelerator runs any of {_short(file.file)}; it was timed on the CPU.")
        for delegate in file.output.delegates:
            emit(f"{_short(file.file)}: {_delegate(delegate)}")
        if chosen.profile and not file.output.ops:
            emit(f"{_short(file.file)}: benchmark_model printed no profile of the ops.")
        elif file.output.ops:
            _emit_ops(file.file, file.output.ops, file.output.inference.average_ms)
    return 1 if any(file.accelerated is False for file in found) else 0


def _emit_ops(file: str, ops, call_ms: float) -> None:
    """What each kind of op takes, the ops together, and the whole that they are part of."""
    from mobilenets_tf.export.speed.op_profile import by_name

    kinds = by_name(ops)
    emit(f"\n{_short(file)}: its ops as they ran, in ms of a call with the profiler on")
    for name, count, ms in kinds[:_SHOWN]:
        emit(f"  {name:<50} {count:4} {ms:9.3f} {ms / call_ms:7.1%}")
    if rest := kinds[_SHOWN:]:
        ms = sum(ms for _, _, ms in rest)
        emit(f"  {f'{len(rest)} other kinds':<50} {sum(count for _, count, _ in rest):4} {ms:9.3f} {ms / call_ms:7.1%}")
    together = sum(op.ms for op in ops)
    emit(f"  {'together':<50} {len(ops):4} {together:9.3f} {together / call_ms:7.1%} of the whole call, {call_ms:.3f}")


def _partitions(timing) -> str:
    return str(timing.delegated_partitions) if timing.delegated_partitions else "no XNNPACK"


def _delegate(delegate) -> str:
    text = delegate.name
    if delegate.executes:
        text += (
            f" executes the graph {delegate.executes}" if delegate.executes != "not" else " does not execute the graph"
        )
    if delegate.nodes is not None:
        text += f" took {delegate.nodes} of {delegate.of} ops" if delegate.of else f" took {delegate.nodes} ops"
    return text + (f", in {delegate.partitions} parts" if delegate.partitions is not None else "")


def _number(value: float | None) -> str:
    return f"{value:8.2f}" if value is not None else f"{'-':>8}"


def _short(file: str) -> str:
    return file if len(file) <= 40 else f"...{file[-37:]}"
