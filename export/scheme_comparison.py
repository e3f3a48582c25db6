"""Several schemes of one model side by side: the files, their manifests, and one page with the Pareto picture."""

from dataclasses import asdict, dataclass
from pathlib import Path

from mobilenets_tf import files
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export import deployment
from mobilenets_tf.export.deployment import DeployRequest
from mobilenets_tf.export.page import report as report_file
from mobilenets_tf.export.page.report import Evidence, SchemeReport, SchemeRow
from mobilenets_tf.export.proof import judging
from mobilenets_tf.export.proof.verification import compare
from mobilenets_tf.export.speed import timing
from mobilenets_tf.export.tflite import check_request, convert_model
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.quantize import schemes
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.worker import Worker

_NOT_OPTIONS = ("source", "out", "overwrite")
_SHOWN = 12  # images with another answer, of each scheme
DEFAULT_SCHEMES = ("float32", "float16", "dynamic", "int8", "int16x8")


@dataclass(frozen=True)
class ComparisonRequest:
    """Everything that decides the result, but for the latencies; plain data.

    schemes: names of ``quantize.SCHEMES``; float32, with which the others are compared, is added where it is missing.
    calls: how often each file is timed. threads: for the timing.
    The rest as in ``deployment.DeployRequest``.
    """

    source: ModelSource
    out: str
    schemes: tuple[str, ...] = DEFAULT_SCHEMES
    calibration: str | None = None
    calibration_count: int | None = None
    evaluate: str | None = None
    seed: int = 0
    min_agreement: float = 0.5
    input: str = "normalised"
    calls: int = 50
    threads: int = 1
    overwrite: bool = False


@dataclass(frozen=True)
class Compared:
    """The page, the rows of its table, and what failed (``passed`` is False then)."""

    path: Path
    rows: tuple[SchemeRow, ...]
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every file agrees with the float file, and that one with Keras."""
        return not self.failures


@dataclass(frozen=True)
class _Made:
    """One scheme's file before anything is written, and what the worker found of it."""

    content: bytes
    manifest: dict
    evidence: Evidence
    row: SchemeRow
    failures: tuple[str, ...]


def compare_schemes(request: ComparisonRequest, progress: Progress = silent) -> Compared:
    """Build, convert in every scheme, judge on the same images, time side by side, write.

    TensorFlow runs in a child process only.

    Raises:
        RequestError: whatever is wrong with the request, before any work is done where that can be known.
        ConversionError: the converter refused the model.
    """
    with Worker() as worker:
        requests, chosen = check(request)
        made, timings = worker.call(_produce, request, requests, chosen, progress=progress)
    folder = Path(request.out)
    names = [_file_name(request.source, scheme) for scheme in requests]
    reports = [
        SchemeReport(name, found.manifest, found.evidence) for name, found in zip(names, made.values(), strict=True)
    ]
    rows = tuple(found.row for found in made.values())
    page = report_file.render_schemes(
        request.source.name, reports, rows, {name: (t.median_ms, t.p90_ms) for name, t in timings.items()}
    )
    page_name = _page_name(request.source)
    shared = {"labels.txt": "\n".join(labels) + "\n"} if (labels := request.source.label_names()) else {}
    contents: dict[str, bytes | str] = {page_name: files.sealed(page), **shared}
    for name, found in zip(names, made.values(), strict=True):
        contents[name] = found.content
        manifest = {"files": files.digests({name: found.content, **shared}), **found.manifest}
        contents[f"{name}.json"] = files.to_json(manifest)
    files.write_together(folder, contents)
    failures = tuple(
        f"{name}: {text}" for name, found in zip(names, made.values(), strict=True) for text in found.failures
    )
    return Compared(folder / page_name, rows, failures)


def _file_name(source: ModelSource, scheme: str) -> str:
    return f"{source.name}_{scheme}.tflite"


def _page_name(source: ModelSource) -> str:
    return f"{source.name}_schemes.html"


def check(request: ComparisonRequest):
    """Everything that can be found wrong without TensorFlow: for each scheme its ``DeployRequest``, and the images.

    Raises:
        RequestError: see there.
    """
    if (task := request.source.task) != "classify":
        raise RequestError(
            f"report compares the schemes of classifiers so far; {request.source.model} is for the task {task!r}. Make "
            "each scheme's file with mobilenets-tf deploy --scheme, whose report has its accuracy and latency beside "
            "float32's, and time them all side by side with mobilenets-tf benchmark."
        )
    names = tuple(dict.fromkeys(schemes.get(name).name for name in request.schemes))
    if "float32" not in names:
        names = ("float32", *names)
    if len(names) < 2:
        raise RequestError("There is nothing to compare float32 with; name another of: " + ", ".join(schemes.SCHEMES))
    for option in ("calls", "threads"):
        if getattr(request, option) < 1:
            raise RequestError(f"{option}={getattr(request, option)}: expected at least 1.")
    shared = {
        name: getattr(request, name)
        for name in ("source", "out", "calibration", "calibration_count", "evaluate", "seed", "min_agreement", "input")
    }
    requests = {name: DeployRequest(scheme=name, overwrite=request.overwrite, **shared) for name in names}
    most = next((name for name in names if schemes.get(name).calibrated), names[-1])
    # The files' names first: what there is to say of them costs nothing.
    written = [_page_name(request.source), "labels.txt"]
    for name in names:
        written += [_file_name(request.source, name), f"{_file_name(request.source, name)}.json"]
    files.check_folder(Path(request.out))
    files.check_replaceable(Path(request.out), written, request.overwrite)
    return requests, deployment.check(requests[most])


def _produce(request: ComparisonRequest, requests: dict[str, DeployRequest], chosen, progress: Progress = silent):
    """Runs in the worker: everything that needs TensorFlow. Writes nothing."""
    progress("building", 0, 1)
    model = request.source.build()
    image = ImageInput(request.source.preprocessing(model), request.input)
    labels = request.source.label_names(model.outputs[0].shape[-1])
    progress("building", 1, 1)
    converted = {}
    with Worker() as worker:
        for name in requests:
            scheme = schemes.get(name)
            calibration = Calibration.from_images(chosen.calibration, image.given) if scheme.calibrated else None
            check_request(model, scheme, calibration)
            converted[name] = convert_model(model, scheme, calibration, worker, progress, image=image, labels=labels)
    contents = {name: found.content for name, found in converted.items()}
    parity = judging.parity(model, converted["float32"].float_content, chosen.judge, image, request.seed)
    outputs = judging.outputs(contents, chosen.judge, image, progress)
    timings = timing.side_by_side(contents, request.calls, request.threads, progress)
    made = {}
    for name, conversion in converted.items():
        comparison = compare(outputs["float32"], outputs[name], chosen.judge.labels)
        failed = tuple(deployment.failures(requests[name], parity, comparison))
        options = {key: value for key, value in asdict(requests[name]).items() if key not in _NOT_OPTIONS}
        manifest = {
            "passed": not failed,
            "failures": list(failed),
            **judging.facts(request.source, options, image, conversion),
            "parity": parity.as_dict(),
            "comparison": comparison.as_dict(),
            "judged_on_calibration_images": chosen.judged_on_calibration,
        }
        row = SchemeRow(
            name, len(conversion.content), comparison.top1_agreement, comparison.top1, timings[name].median_ms
        )
        answers = outputs["float32"], outputs[name]
        found = judging.evidence(conversion, chosen.judge, labels, *answers, timed=False, shown=_SHOWN)
        made[name] = _Made(conversion.content, manifest, found, row, failed)
    return made, timings
