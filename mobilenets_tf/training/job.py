"""The verb ``train``: write the ``.keras`` file of a network trained on annotated images, labels, curves, manifest."""

import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from mobilenets_tf import files
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.training import cluster
from mobilenets_tf.training.request import Job, TrainRequest, check
from mobilenets_tf.worker import Worker, WorkerError

_RESTARTS = 20


@dataclass(frozen=True)
class Trained:
    """The files that a training wrote.

    path: of the ``.keras`` file. curves: the path of its SVG.
    manifest: as beside the file; ``manifest["epochs"]`` has a row for each epoch, as ``loop.run`` makes them.
    seconds: how long all of it took.
    """

    path: Path
    curves: Path
    manifest: dict
    seconds: float


def train(request: TrainRequest, progress: Progress = silent) -> Trained:
    """Train a network on annotated images, and write it into the folder ``request.out``.

    >>> train(TrainRequest("efficientnet_lite0", data="photos/", out="trained/"))

    The folder then has NAME.keras with its manifest NAME.keras.json, NAME.curves.svg, labels.txt where the classes have
    names, and TensorBoard's logs in NAME.logs/. TensorFlow runs in a child process. A training that was interrupted
    goes on from its checkpoint, NAME.checkpoint.npz, when it is asked for again.

    With several workers each machine runs this, with its own TF_CONFIG, and the first one writes. A worker that lost
    another one starts its training process again, which goes on from the last checkpoint once all are back.

    Args:
        request: the network, the images, and everything else that decides the result.
        progress: called with a label, how much of it is done and how much there is; after each epoch with a line of its
            loss and scores.

    Raises:
        RequestError: the request cannot be met: options, files, images, classes or the network do not fit. Before any
            work is done where that can be known. Or the loss became NaN.
        WorkerError: the child process died; the message has its last words.
    """
    started = time.monotonic()
    for attempt in range(_RESTARTS + 1):
        with Worker() as worker:
            job = check(request, progress)
            try:
                content, manifest, curves = worker.call(_run, job, progress=progress)
                break
            except (WorkerError, cluster.PeerLostError) as error:
                if cluster.workers() < 2 or attempt == _RESTARTS:
                    raise
                warnings.warn(f"A worker was lost ({error}). Starting again from the last checkpoint.", stacklevel=2)
                request = replace(request, restart=False)
    folder = Path(request.out)
    path, curves_path = folder / f"{request.name}.keras", folder / f"{request.name}.curves.svg"
    if content is not None:  # else another worker writes
        contents: dict[str, bytes | str] = {path.name: content, curves_path.name: curves}
        contents |= files.labels_file(job.class_names)
        manifest = {"files": files.digests(contents), **manifest}
        replaced = files.sha256_of(path) if path.is_file() else None
        files.write_together(folder, contents | {f"{path.name}.json": files.to_json(manifest)})
        if replaced not in (None, files.sha256_of(path)):
            _outdate(folder, replaced, request.overwrite)
        request.checkpoint.unlink(missing_ok=True)
    return Trained(path, curves_path, manifest, time.monotonic() - started)


def _outdate(folder: Path, replaced: str, remove: bool) -> None:
    """Remove results in the folder that were made of a model that is not there any more, or warn of them.

    Args:
        replaced: sha256 of that model. remove: what belongs to nothing else and is as it was written.
    """
    for name, own in files.made_of(folder, replaced).items():
        if remove:
            for file in own:
                (folder / file).unlink(missing_ok=True)
            warnings.warn(f"Removed {folder / name}: it was made of the model that was replaced.", stacklevel=3)
        else:
            warnings.warn(f"{folder / name} was made of the model that was replaced. Make it again.", stacklevel=3)


def _run(job: Job, progress: Progress = silent) -> tuple[bytes | None, dict, str | None]:
    """Train in the worker process, and return the result of ``Run.train``."""
    from mobilenets_tf.training import allocation, distribution
    from mobilenets_tf.training.run import Run

    allocation.keep_freed_memory()
    threads = allocation.use_threads(job.request.threads)
    strategy = distribution.set_up(job.request.distribute, job.request.replicas)
    progress("building", 0, 1)
    run = Run(job, strategy, progress)
    progress("building", 1, 1)
    content, manifest, curves = run.train()
    return content, manifest | {"threads": threads}, curves
