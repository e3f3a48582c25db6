"""The verb ``search``: make a trained network reach a latency, train what is left, and deploy that with its proof."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from mobilenets_tf import files
from mobilenets_tf.export.deployment import Deployed, deploy
from mobilenets_tf.export.speed.side_by_side import BenchmarkRequest, benchmark
from mobilenets_tf.manifest import manifest_of, versions
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.search import chart
from mobilenets_tf.search.found import Found
from mobilenets_tf.search.latency.base_file import file_of_source
from mobilenets_tf.search.latency.table import LatencyTable
from mobilenets_tf.search.request import CHART, HISTORY, PLAN, SearchRequest, Task, check
from mobilenets_tf.tasks import task_of
from mobilenets_tf.training.job import Trained, train
from mobilenets_tf.worker import Worker

_CALLS = 100  # inferences of each file that are timed
_NOT_IN_HISTORY = ("content", "base", "plan", "tried", "path")  # files of their own, or said by the rows


@dataclass(frozen=True)
class Searched:
    """The files that ``reach_latency`` wrote, and what it found.

    path: of the ``.keras`` file. plan: of the JSON that ``create_model`` takes; None where the network is not one of
    the registry's. history, chart: of the JSON with all rounds, and of the picture.
    found: what the search has found. trained: the training at the end. deployed: the deployed file and its verdict.
    measured: the result's time as a share of the original network's, measured side by side: median and the 5th and 95th
    percentile of all rounds; None where the table is another machine's. seconds: how long all of it took.
    """

    path: Path
    plan: Path | None
    history: Path
    chart: Path
    found: Found
    trained: Trained
    deployed: Deployed
    measured: tuple[float, float, float] | None
    seconds: float


def reach_latency(request: SearchRequest, progress: Progress = silent) -> Searched:
    """Make a trained network reach a latency with as little loss as possible; train, deploy and measure the result.

    >>> reach_latency(SearchRequest("trained/net.keras", data="photos/", evaluate="test/", out="fast/", target=0.5))

    TensorFlow runs in child processes. A search that was interrupted goes on from its last round or trial, or in the
    middle of its last training, when it is asked for again.

    Args:
        request: the network, the images, the latency, and everything else that decides the result.
        progress: called with (label, done, total).

    Raises:
        RequestError: the request is wrong; raised before any work is done, where that can be known.
        ConversionError: the converter refused the network.
    """
    started = time.monotonic()
    task = check(request, progress)
    request = task.request
    with files.only_user(request.work, "search"):
        table = task.table or _own_table(task, progress)
        with Worker() as worker:
            found = worker.call(_find, task, table, progress=progress)
        _write_pruned(task, found)
        trained = _trained(request, progress)
        deployed = deploy(request.deployment(trained.path), progress)
        measured = None if request.elsewhere else _measured(request, found, deployed, trained, progress)
        files_of = _result(task, table, found, trained, measured)
        files.write_together(Path(request.out), files_of)
        task.checkpoint(table).path.unlink(missing_ok=True)
    plan, history, picture = (Path(request.out, f"{request.source.name}.{part}") for part in (PLAN, HISTORY, CHART))
    return Searched(
        path=trained.path,
        plan=plan if found.plan else None,
        history=history,
        chart=picture,
        found=found,
        trained=trained,
        deployed=deployed,
        measured=measured,
        seconds=time.monotonic() - started,
    )


def _own_table(task: Task, progress: Progress) -> LatencyTable:
    """Return the table that an earlier search has left in the folder, or measure one.

    Raises:
        RequestError: the network cannot be searched.
    """
    asked = task.request.tabling()
    path = Path(str(asked.out))
    if path.is_file():
        table = LatencyTable.read(path, elsewhere=True)
        model = json.loads(files.to_json(asked.source.facts()))
        known = (table.model, table.scheme, table.threads) == (model, asked.scheme, asked.threads)
        if known and table.difference() is None:
            return table
    with Worker() as worker:
        worker.call(_check_model, task)
    return LatencyTable.measure(asked, progress)


def _check_model(task: Task) -> None:
    from mobilenets_tf.search.finding import check_model  # imports TensorFlow, which the worker has

    check_model(task)


def _find(task: Task, table: LatencyTable, progress: Progress) -> Found:
    from mobilenets_tf.search.finding import find  # imports TensorFlow, which the worker has

    return find(task, table, progress)


def _write_pruned(task: Task, found: Found) -> None:
    """Write the network that was found, with a manifest, for the training at the end."""
    request, path = task.request, task.request.pruned
    contents: dict[str, bytes | str] = {path.name: found.content}
    manifest = {
        "files": files.digests(contents),
        "versions": versions(),
        "task": task.job.request.task,
        "model": request.source.facts(),
        **({"plan": found.plan.plain()} if found.plan else {}),
        "preprocessing": asdict(found.preprocessing),
        "labels": list(task.job.class_names) or request.source.label_names(),
    }
    files.write_together(path.parent, contents | {f"{path.name}.json": files.to_json(manifest)})


def _trained(request: SearchRequest, progress: Progress) -> Trained:
    """Train the network that was found; not again if that was done before an interruption."""
    asked = request.last_training()
    path = Path(request.out, f"{asked.name}.keras")
    manifest = manifest_of(path)
    listed = {entry.get("file"): entry.get("sha256") for entry in manifest.get("files", []) if isinstance(entry, dict)}
    told = manifest.get("model", {}), manifest.get("options")
    options = {key: value for key, value in json.loads(files.to_json(asked.options())).items() if key != "source"}
    if (
        path.is_file()
        and listed.get(path.name) == files.sha256_of(path)
        and told == (json.loads(files.to_json(asked.source.facts())), options)
    ):
        return Trained(path, path.with_suffix(".curves.svg"), manifest, 0.0)
    return train(asked, progress)


def _measured(
    request: SearchRequest, found: Found, deployed: Deployed, trained: Trained, progress: Progress
) -> tuple[float, float, float]:
    """Time the result beside the network as it was, as a share of the latter's time.

    What ``deploy`` appends to a detector or segmenter (non-maximum suppression, the size of the input) is not part of
    the network as it was, and so not timed.
    """
    with files.TemporaryFolder("mobilenets-tf-") as folder:
        base, result = Path(folder, "base.tflite"), deployed.path
        base.write_bytes(found.base)
        if task_of(trained.manifest["task"]).forms:
            result = Path(folder, "result.tflite")
            result.write_bytes(_bare_file(ModelSource(str(trained.path)), request.scheme))
        timed = benchmark(BenchmarkRequest([base, result], _CALLS, request.threads), progress)
    ratio = timed.files[-1].ratio
    return ratio.median, ratio.low, ratio.high


def _bare_file(source: ModelSource, scheme: str) -> bytes:
    with Worker() as worker:
        return worker.call(file_of_source, source, scheme)


def _result(
    task: Task, table: LatencyTable, found: Found, trained: Trained, measured: tuple[float, float, float] | None
) -> dict[str, bytes | str]:
    """Return the names and contents of the plan, the history and the chart."""
    request, name = task.request, task.request.source.name
    score = trained.manifest["epochs"][-1][found.metric]
    plans: dict[str, bytes | str] = {f"{name}.{PLAN}": found.plan.to_json()} if found.plan else {}
    history = {
        "files": files.digests(plans),
        "versions": versions(),
        "model": request.source.facts(),
        "options": request.options(),
        "table": table.summary() | {"sha256": table.digest()},
        **{key: value for key, value in asdict(found).items() if key not in _NOT_IN_HISTORY},
        "trained_score": score,
        "measured": measured,
    }
    picture = chart.draw(found, score, measured, name)
    return {**plans, f"{name}.{HISTORY}": files.to_json(history), f"{name}.{CHART}": picture}
