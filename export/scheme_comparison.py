"""The verb ``report``: write one model in several schemes, with manifests, and one page that compares the files."""

from dataclasses import dataclass
from pathlib import Path

from mobilenets_tf import files
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export import deployment
from mobilenets_tf.export.forms.detector import ANCHORS_FILE
from mobilenets_tf.export.page import report as page
from mobilenets_tf.export.page.report import SchemeReport
from mobilenets_tf.export.proof import judging
from mobilenets_tf.export.proof.badge import Badge, together
from mobilenets_tf.export.proof.evidence import SchemeRow
from mobilenets_tf.export.proof.proof import ImagesToUse, Produced, conclude
from mobilenets_tf.export.proof.subject import Subject
from mobilenets_tf.export.request import MIN_AGREEMENT, DeployRequest, Request
from mobilenets_tf.export.speed import timing
from mobilenets_tf.export.tflite import check_request, convert_model
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.quantize import schemes
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.worker import Worker

_SHOWN = 12  # images with another answer, of each scheme
DEFAULT_SCHEMES = ("float32", "float16", "dynamic", "int8", "int16x8")


@dataclass(frozen=True)
class ReportRequest(Request):
    """Everything that decides the result, but for the latencies; plain data.

    schemes: names of ``quantize.SCHEMES``; float32, with which the others are compared, is added where it is missing.
    calls: how often each file is timed. threads: for the timing.
    The rest as in ``DeployRequest``.
    """

    out: str
    schemes: tuple[str, ...] = DEFAULT_SCHEMES
    calibration: str | None = None
    calibration_count: int | None = None
    trust_calibration: bool = False
    evaluate: str | None = None
    seed: int = 0
    min_agreement: float = MIN_AGREEMENT
    input: str = "normalised"
    output: str | None = None
    score_threshold: float | None = None
    void: int | None = None
    calls: int = 50
    threads: int = 1
    overwrite: bool = False

    def __post_init__(self):
        names = (self.schemes,) if isinstance(self.schemes, str) else tuple(self.schemes)
        object.__setattr__(self, "schemes", names)
        super().__post_init__()


@dataclass(frozen=True)
class SchemesReport:
    """The result of ``report``.

    path: of the page. rows: of its table. badge: the verdict on all files together; badges: on each, by its name.
    preprocessing: how photographs became the input.
    """

    path: Path
    rows: tuple[SchemeRow, ...]
    badge: Badge
    badges: dict[str, Badge]
    preprocessing: Preprocessing

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return self.badge.passed


def report(request: ReportRequest, progress: Progress = silent) -> SchemesReport:
    """Build, convert in every scheme, judge on the same images, time side by side, write. TensorFlow runs in a child
    process only.

    Args:
        progress: called with (label, done, total) as work goes on.

    Raises:
        RequestError: the request is wrong; raised before any work is done, where that can be known.
        ConversionError: the converter refused the model.
    """
    with Worker(preload=request.source.preload) as worker:
        requests, images_to_use = check(request)
        request.source.fetch_weights(progress)
        produced, timings = worker.call(_produce, request, requests, images_to_use, progress=progress)
    folder, contents = Path(request.out), {}
    names = {scheme: _file_name(request, scheme) for scheme in requests}
    shared = files.labels_file(request.source.label_names())
    reports, rows = [], []
    for scheme, made in produced.items():
        name = names[scheme]
        manifest = files.finite({**made.badge.facts(), **made.manifest})
        listed = {name: made.content, **made.files, **shared}
        contents |= {name: made.content, **made.files}
        contents[f"{name}.json"] = files.to_json({"files": files.digests(listed), **manifest})
        reports.append(SchemeReport(name, manifest, made.evidence))
        faster_than = tuple(name for name, other in timings.items() if timing.is_faster(timings[scheme], other))
        row = SchemeRow.of(scheme, len(made.content), made.comparison, timings[scheme].median_ms, faster_than)
        rows.append(row)
    latency = {name: (t.median_ms, t.p90_ms) for name, t in timings.items()}
    badges = {names[scheme]: made.badge for scheme, made in produced.items()}
    verdict = together(badges)
    text = page.render_schemes(request.source.name, verdict, reports, tuple(rows), latency)
    written = {_page_name(request): files.sealed(text), **shared, **contents}
    files.write_together(folder, written, lambda: _check_replaceable(request, requests))
    preprocessing = Preprocessing(**produced["float32"].manifest["preprocessing"])
    return SchemesReport(folder / _page_name(request), tuple(rows), verdict, badges, preprocessing)


def _file_name(request: ReportRequest, scheme: str) -> str:
    return f"{request.source.name}_{scheme}.tflite"


def _page_name(request: ReportRequest) -> str:
    return f"{request.source.name}_schemes.html"


def check(request: ReportRequest) -> tuple[dict[str, DeployRequest], ImagesToUse]:
    """Check everything that can be known to be wrong without TensorFlow; return a ``DeployRequest`` for each scheme,
    and the images.

    Raises:
        RequestError: schemes are unknown or fewer than two, counts are below 1, or ``deployment.check`` refuses a
            request.
    """
    names = tuple(dict.fromkeys(schemes.get(name).name for name in request.schemes))
    if "float32" not in names:
        names = ("float32", *names)
    if len(names) < 2:
        raise RequestError("There is nothing to compare float32 with; name another of: " + ", ".join(schemes.SCHEMES))
    for option in ("calls", "threads"):
        if getattr(request, option) < 1:
            raise RequestError(f"{option}={getattr(request, option)}: expected at least 1.")
    own = ("schemes", "calls", "threads")
    shared = {name: value for name, value in vars(request).items() if name not in own}
    requests = {name: DeployRequest(scheme=name, **shared) for name in names}
    calibrated = next((name for name in names if schemes.get(name).calibrated), names[-1])
    # The names of the files first, since this check takes no time.
    request.source.check()
    files.check_folder(Path(request.out))
    _check_replaceable(request, requests)
    return requests, deployment.check(requests[calibrated])


def _check_replaceable(request: ReportRequest, requests: dict[str, DeployRequest]) -> None:
    folder, class_names = Path(request.out), request.source.label_names()
    files.check_replaceable(folder, [_page_name(request)], request.overwrite)
    for name, each in requests.items():
        file_name = _file_name(request, name)
        written = [file_name, f"{file_name}.json", f"{file_name}.{ANCHORS_FILE}"]
        files.check_replaceable(folder, written, request.overwrite, each.described(), class_names)


def _produce(
    request: ReportRequest, requests: dict[str, DeployRequest], images_to_use: ImagesToUse, progress: Progress
) -> tuple[dict[str, Produced], dict[str, timing.Timing]]:
    """Do everything that needs TensorFlow, in the worker, without writing files.

    Returns each scheme's proven file and timing.
    """
    progress("building", 0, 1)
    model = request.source.open()
    image = ImageInput(request.source.preprocessing(model), request.input)
    subject = Subject.of(request.source, model, image, request.void, annotated=images_to_use.judge.annotated)
    subject.check_annotated(images_to_use.judge)
    progress("building", 1, 1)
    converted = {}
    with Worker(preload=model.preload) as worker:
        for name in requests:
            scheme = schemes.get(name)
            calibration = deployment.calibration_of(request, scheme, images_to_use, image)
            check_request(model, scheme, calibration)
            converted[name] = convert_model(
                model,
                scheme,
                calibration,
                worker,
                progress,
                image=image,
                labels=subject.labels,
                kinds=subject.final_kinds,
            )
    contents = {name: each.content for name, each in converted.items()}
    float_content = converted["float32"].float_content
    parity = judging.parity(subject, float_content, images_to_use.judge, request.seed)
    tallies = judging.compared_files(subject, contents["float32"], contents, images_to_use.judge, progress)
    produced = {
        name: conclude(
            requests[name], subject, each, images_to_use, _file_name(request, name), parity, tallies[name],
            timed=False, shown=_SHOWN,
        )
        for name, each in converted.items()
    }  # fmt: skip
    final = {name: each.content for name, each in produced.items()}
    return produced, timing.side_by_side(final, request.calls, request.threads, progress)
