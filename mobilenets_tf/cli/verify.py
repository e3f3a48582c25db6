"""mobilenets-tf verify"""

from pathlib import Path

from mobilenets_tf.cli.evaluate import file_inputs, file_preprocessing, manifest_preprocessing
from mobilenets_tf.cli.options import add_json, add_model, add_quiet, display, emit, model_source
from mobilenets_tf.data import images
from mobilenets_tf.errors import RequestError
from mobilenets_tf.files import to_json
from mobilenets_tf.manifest import manifest_of
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.progress import track

HELP = "Compare a .tflite file with its Keras model, on images; or emulated arm64 cores with this machine (--arm64)."
EXAMPLE = "mobilenets-tf verify net_int8.tflite --model efficientnet_lite0 --weights imagenet --images photos/"

# How many images the emulator gets, each a second or so on each core, unless --count says.
_EMULATED = 8
_OF_THE_MODEL = ("weights", "alpha", "resolution", "classes")


def add_arguments(parser):
    parser.add_argument("file", help="the .tflite file")
    add_model(parser, flag="--model", required=False)
    parser.add_argument(
        "--images", metavar="CSV_OR_DIR",
        help="images, with or without labels; of a detector or segmenter also its annotated data, of which the images "
        "alone are taken; with --arm64 alone they may be left out for random inputs",
    )  # fmt: skip
    parser.add_argument(
        "--count", type=int, metavar="N", help=f"use N of them, chosen with --seed; all, but {_EMULATED} for --arm64"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--min-agreement", type=float, default=0.5, metavar="SHARE",
        help="fail (exit 1) if the file gives Keras' answer on fewer images than this (default 0.5); of a detector the "
        "mAP, of a segmenter the mIoU with Keras' answers for the truth",
    )  # fmt: skip
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
    parser.add_argument("--folder", help="of the arm64 runtime, where it is not in the usual place")
    add_json(parser)
    add_quiet(parser)


def run(chosen):
    from mobilenets_tf.worker import Worker

    emulator = _check(chosen)
    source = model_source(chosen)
    if chosen.model:
        source.check()
    if not Path(chosen.file).is_file():
        raise RequestError(f"No such TFLite file: {chosen.file}")
    if chosen.count is not None and chosen.count < 1:
        raise RequestError(f"--count {chosen.count}: expected at least 1.")
    found = few = preprocessing = None
    if chosen.images:
        found = _images(chosen, source)
        few = found.sample(chosen.count or _EMULATED, chosen.seed)
        found = found.sample(chosen.count, chosen.seed)
        images.check(found if chosen.model else few)
        if emulator and not chosen.model:
            preprocessing = file_preprocessing(Path(chosen.file), source)
    comparison = cores = None
    with Worker(preload="tensorflow" if chosen.model else "") as worker, display(chosen) as progress:
        if chosen.model:
            comparison, preprocessing = worker.call(
                _verify, chosen.file, source, found, chosen.threads, progress=progress
            )
        if emulator:
            from mobilenets_tf.export.arm64.emulator import CPUS, compare_cores

            samples = (chosen.count or _EMULATED, chosen.seed) if few is None else (few, preprocessing)
            host = worker.call(_run_on_host, chosen.file, *samples, progress=progress)
            cores = compare_cores(emulator, host, chosen.cpu or CPUS, progress)
    return _print(chosen, emulator, comparison, cores)


def _check(chosen):
    """Refuse options that do not go together; the emulator, if one is asked for."""
    if not chosen.model and not chosen.arm64:
        raise RequestError(
            "Nothing to compare with: pass --model (the Keras model that the file was made from), or --arm64 (this "
            "file on emulated phone cores), or both."
        )
    if chosen.model and not chosen.images:
        raise RequestError("--model needs --images: a folder or a CSV of images to compare on.")
    if chosen.model:
        from mobilenets_tf.export.proof.verification import check_form

        check_form(Path(chosen.file))
    if stray := [f"--{name}" for name in _OF_THE_MODEL if not chosen.model and getattr(chosen, name) is not None]:
        raise RequestError(f"{', '.join(stray)} describes the Keras model; pass --model too, or leave it out.")
    if stray := [f"--{name}" for name in ("cpu", "folder") if not chosen.arm64 and getattr(chosen, name) is not None]:
        raise RequestError(f"{', '.join(stray)} is for emulated cores; pass --arm64 too, or leave it out.")
    if not chosen.arm64:
        return None
    from mobilenets_tf.export.arm64 import setup

    emulator = setup.find(chosen.folder)
    setup.check_cpus(emulator, chosen.cpu or ())
    return emulator


def _images(chosen, source: ModelSource):
    """The images of --images. A data set's stand in a folder of their own, beside masks that are no photographs."""
    from mobilenets_tf.export import checks

    task = source.task if chosen.model else manifest_of(Path(chosen.file)).get("task", "classify")
    if task != "classify":
        return checks.photographs(chosen.images, task)
    return images.find_images(chosen.images, source.label_names() if chosen.model else ())


def _verify(file: str, source: ModelSource, found, threads: int, progress):
    """Runs in the worker: a hostile file can take down no more than that."""
    from mobilenets_tf.export.proof.verification import check_outputs, verify
    from mobilenets_tf.tflite.runtime import Runner

    runner = Runner(file, threads)  # a file that cannot be run is refused before the model is built
    model = source.build()
    wanted = source.preprocessing(model)
    given = manifest_preprocessing(Path(file)) or wanted
    dtype = runner.inputs[0]["dtype"]
    if source.task != "classify":
        check_outputs(runner, model)
        return _verify_dense(
            lambda pixels: runner(given.for_input(pixels, dtype)), model, source, found, progress
        ), given
    comparison = verify(
        file, model, (wanted.geometry(images.decode(path)) for path in found.paths), found.labels,
        for_model=wanted.normalise, for_file=lambda pixels: given.for_input(pixels, dtype),
        threads=threads, progress=progress,
    )  # fmt: skip
    return comparison, given


def _verify_dense(file, model, source: ModelSource, found, progress):
    """A detector's or a segmenter's; ``file`` gives the outputs for an image's pixels. Runs in the worker."""
    from mobilenets_tf.answers.predictor import class_name
    from mobilenets_tf.export.proof import dense_judging
    from mobilenets_tf.networks import ssd
    from mobilenets_tf.networks.anchors import ssd_anchors
    from mobilenets_tf.tasks.postprocess import Postprocess
    from mobilenets_tf.tflite.image_input import ImageInput

    classes, postprocess = model.outputs[0].shape[-1], None
    if source.task == "detect":
        classes = model.outputs[1].shape[-1] - 1
        postprocess = Postprocess(ssd_anchors(ssd.grids(model)), classes)
    names = source.label_names(classes) or [class_name((), index) for index in range(classes)]
    image = ImageInput(source.preprocessing(model))
    answers = dense_judging.Answers(names, source.void, postprocess)
    return dense_judging.compare(
        dense_judging.of_keras(model, image), lambda pixels: [output[0] for output in file(pixels)],
        found, image, answers, progress,
    )  # fmt: skip


def _run_on_host(file: str, samples, how, progress):
    """Runs in the worker. ``samples``: images, ``how`` they become inputs; or how many random inputs, and the seed."""
    from mobilenets_tf.export.arm64.emulator import random_inputs, run_on_host
    from mobilenets_tf.tflite.runtime import Runner

    runner = Runner(file)
    if isinstance(samples, int):
        inputs = track(random_inputs(runner, samples, how), "on this machine", progress, samples)
    else:
        paths = track(samples.paths, "on this machine", progress)
        inputs = ([array] for array in file_inputs(file, runner, how, paths))
    return run_on_host(Path(file).read_bytes(), inputs)


def _print(chosen, emulator, comparison, cores) -> int:
    agreed = comparison is None or comparison.agreement >= chosen.min_agreement
    passed = agreed and all(core.passed for core in cores or ())
    if emulator:
        from mobilenets_tf.export.arm64.emulator import NOT_PROVED
    if chosen.json:
        document = comparison.as_dict() if comparison else {}
        if emulator:
            found = [core.as_dict() for core in cores]
            document["arm64"] = {"versions": emulator.versions, "cores": found, "remark": NOT_PROVED}
        emit(to_json(document | {"passed": passed}))
        return 0 if passed else 1
    if comparison:
        emit(f"{chosen.file} against {chosen.model}")
        for line in comparison.lines():
            emit(f"  {line}")
        if not agreed:
            emit(f"  FAILED: {comparison.agreement:.1%} agree; at least {chosen.min_agreement:.1%} were asked for")
    if emulator:
        versions = ", ".join(f"{name} {version}" for name, version in emulator.versions.items())
        on = f"{cores[0].samples} images" if chosen.images else f"{cores[0].samples} random inputs"
        emit(f"{chosen.file} on emulated arm64 cores against this machine, {on} ({versions})")
        for core in cores:
            emit(f"  {core.line()}")
        emit(f"  {NOT_PROVED}")
    return 0 if passed else 1
