"""mobilenets-tf verify"""

from dataclasses import asdict, fields

from mobilenets_tf.cli.options import (
    add_json,
    add_min_agreement,
    add_model,
    add_quiet,
    display,
    emit,
    model_source,
    request_of,
)
from mobilenets_tf.files import to_json
from mobilenets_tf.modelsource import ModelSource

HELP = (
    "Compare a .tflite file with its model, on images; or emulated arm64 cores (--arm64) or LiteRT's GPU accelerator "
    "(--gpu) with this machine."
)
EXAMPLE = "mobilenets-tf verify net_int8.tflite --model efficientnet_lite0 --weights imagenet --images photos/"


def add_arguments(parser):
    parser.add_argument("file", help="the .tflite file")
    add_model(parser, flag="--model")
    parser.add_argument(
        "--images", metavar="CSV_OR_DIR",
        help="images, with or without labels; of a detector or segmenter also its annotated data, of which the images "
        "alone are taken; with --arm64 or --gpu alone they may be left out for random inputs",
    )  # fmt: skip
    parser.add_argument(
        "--count", type=int, metavar="N",
        help="use N of the images, chosen with --seed (default: all, and 8 for --arm64 and --gpu)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images (default 0)")
    parser.add_argument("--threads", type=int, default=2, help="threads of LiteRT (default 2)")
    add_min_agreement(parser, "the model")
    parser.add_argument(
        "--arm64", action="store_true",
        help="compare what the file computes on emulated arm64 cores with what it computes here: integer files have to "
        "be equal bit for bit. Shows neither a phone's latency, nor its GPU or NPU, nor Android's own build of LiteRT. "
        "Needs what `mobilenets-tf arm64` sets up",
    )  # fmt: skip
    parser.add_argument(
        "--cpu", nargs="+", metavar="CORE",
        help="cores, as QEMU calls them; left out, cortex-a53, cortex-a76 and cortex-a710: one for each of the int8 "
        "kernels smlal, sdot and smmla",
    )  # fmt: skip
    parser.add_argument(
        "--gpu", action="store_true",
        help="compare what the file computes on LiteRT's GPU accelerator, in single and in half precision, with what "
        "it computes on the CPU; say which operators stay on the CPU; where an output differs by more than it may, "
        "find the first operator that does. Shows neither a phone's latency nor faults of its own GPU driver. Needs "
        "what `mobilenets-tf gpu` sets up",
    )  # fmt: skip
    parser.add_argument(
        "--folder", help="folder that `mobilenets-tf arm64 --folder` or `mobilenets-tf gpu --folder` was given"
    )
    add_json(parser)
    add_quiet(parser)


def run(arguments):
    from mobilenets_tf.export.file_verification import VerifyRequest, verify_file

    known = model_source(arguments) if arguments.model else ModelSource(arguments.file, **_input_of(arguments))
    source = known if arguments.model else None
    request = request_of(VerifyRequest, arguments, source=source, cpu=tuple(arguments.cpu or ()), input_of=known)
    with display(arguments) as progress:
        verified = verify_file(request, progress)
    _print(arguments, verified)
    return 0 if verified.passed else 1


def _input_of(arguments) -> dict:
    """What the options say of the file's input, or of a model that was not named."""
    names = [field.name for field in fields(ModelSource) if field.name not in ("model", "content")]
    values = {name: getattr(arguments, name) for name in names}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _print(arguments, verified) -> None:
    from mobilenets_tf.export.arm64.emulator import NOT_PROVED
    from mobilenets_tf.export.gpu.accelerator import NOT_PROVED as NOT_PROVED_OF_GPU

    comparison, cores = verified.comparison, verified.cores
    if arguments.json:
        document = comparison.as_dict() if comparison else {}
        if arguments.arm64:
            rows = [core.as_dict() for core in cores]
            document["arm64"] = {"versions": verified.versions, "cores": rows, "remark": NOT_PROVED}
        if arguments.gpu:
            document["gpu"] = _gpu_document(verified) | {"remark": NOT_PROVED_OF_GPU}
        if comparison:
            document |= {"model": verified.model} | verified.badge.facts()
        emit(to_json(document | {"passed": verified.passed}))
        return
    if comparison:
        emit(f"{arguments.file} against {verified.model}")
        for line in (*comparison.lines(), *verified.badge.lines()):
            emit(f"  {line}")
    if arguments.arm64:
        versions = ", ".join(f"{name} {version}" for name, version in verified.versions.items())
        on = f"{cores[0].samples} images" if arguments.images else f"{cores[0].samples} random inputs"
        emit(f"{arguments.file} on emulated arm64 cores against this machine, {on} ({versions})")
        for core in cores:
            emit(f"  {core.line()}")
        emit(f"  {NOT_PROVED}")
    if arguments.gpu:
        for line in _gpu_lines(arguments, verified):
            emit(line)
        emit(f"  {NOT_PROVED_OF_GPU}")


def _gpu_document(verified) -> dict:
    faults = {precision: fault.as_dict() for precision, fault in verified.faults.items()}
    rows = [each.as_dict() | {"first_fault": faults.get(each.precision)} for each in verified.gpu]
    return {
        "versions": verified.versions,
        "precisions": rows,
        "half": [asdict(each) for each in verified.half_precision],
    }


def _gpu_lines(arguments, verified):
    from mobilenets_tf.export.gpu.accelerator import HALF, NO_HALF

    versions = ", ".join(f"{name} {version}" for name, version in verified.versions.items())
    on = f"{verified.gpu[0].samples} {'images' if arguments.images else 'random inputs'}"
    yield f"{arguments.file} on LiteRT's GPU accelerator against this machine's CPU, {on} ({versions})"
    for each in verified.gpu:
        yield from (f"  {line}" for line in each.lines())
        if fault := verified.faults.get(each.precision):
            yield f"    {fault.line()}"
    if HALF not in [each.precision for each in verified.gpu]:
        yield f"  {NO_HALF}"
    yield from (f"  {each.line()}" for each in verified.half_precision)
