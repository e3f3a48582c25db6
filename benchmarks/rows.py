"""Rows of the benchmarks that compare quantisers on many models: each made once, in a process of its own, and kept.

Also what such a row needs: photographs, statistics for a network with random weights, and the judgement of a file.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

CALIBRATION, JUDGED, SETTLED = 128, 64, 192


def pictures(spec: str, size: int, count: int = CALIBRATION + JUDGED + SETTLED) -> np.ndarray:
    """Return photographs of a folder or CSV in random order, uint8 (count, size, size, 3)."""
    from mobilenets_tf.data import images
    from mobilenets_tf.data.preprocessing import Preprocessing

    geometry = Preprocessing(size).geometry
    paths = np.array(images.find_photographs(spec).paths)
    if len(paths) < count:
        sys.exit(f"{spec} has {len(paths)} photographs; a row needs {count}.")
    return np.stack([geometry(images.decode(path)) for path in np.random.default_rng(0).permutation(paths)[:count]])


def settle(model, samples: np.ndarray) -> None:
    """Give a Keras model with random weights the statistics of its inputs.

    Those of BatchNormalization are those of the samples. LayerScale begins with 0.1, since with Keras' first values
    most of a network would count for nothing.
    """
    import keras

    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    if norms:
        model(samples, training=True)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    for layer in model._flatten_layers():
        if type(layer).__name__ == "LayerScale":
            layer.gamma.assign(np.full(layer.gamma.shape, 0.1, np.float32))


def judged(content: bytes, samples: np.ndarray, expected: np.ndarray, labels: np.ndarray | None = None) -> dict:
    """Return a file's signal to noise and agreement in its first output, its partitions and its other operators.

    With the indices of the samples' classes, also its top-1.
    """
    from mobilenets_tf.decibels import signal_to_noise
    from mobilenets_tf.tflite.runtime import Runner

    runner = Runner(content)
    outputs = np.concatenate([runner(sample)[0] for sample in samples])
    plan = runner.execution_plan()
    partitions = plan.pop("DELEGATE", 0)
    told = {
        "snr_db": signal_to_noise(float((expected**2).sum()), float(((outputs - expected) ** 2).sum())),
        "same": float((outputs.argmax(-1) == expected.argmax(-1)).mean()),
        "partitions": partitions,
        "others": sum(plan.values()),
        "bytes": len(content),
    }
    return told if labels is None else told | {"top1": float((outputs.argmax(-1) == labels).mean())}


def tried(make: Callable[[], dict]) -> dict:
    """Return what a tool makes, or why it refuses; with the seconds."""
    started = time.perf_counter()
    try:
        found = make()
    except Exception as error:  # anyone's
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        found = {"refused": lines[0][:160]}
    return {"seconds": round(time.perf_counter() - started, 1)} | found


def made(script: str, names: list[str], folder: Path, spec: str | None, more: Sequence[str] = ()) -> Iterator[dict]:
    """Give the rows in turn: those that the folder has, and with photographs the others too, which are made now.

    ``script --row --results FOLDER --images SPEC NAME`` makes a row: it calls ``keep``. One that fails is named.
    more: other words of this command.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / f"{name}.json"
        if not path.is_file() and spec is not None:
            command = [sys.executable, script, "--row", name, "--results", str(folder)]
            with open(folder / f"{name}.log", "w") as log:
                command += ["--images", os.path.abspath(spec), *more]
                subprocess.run(command, stdout=log, stderr=log, check=False)
            if not path.is_file():
                print(f"{name} failed: {folder / f'{name}.log'}", flush=True)
        if path.is_file():
            yield json.loads(path.read_text())


def keep(folder: Path, name: str, result: dict) -> None:
    """Write a row into the folder, whole or not at all."""
    partial = folder / f"{name}.partial"
    partial.write_text(json.dumps(result, indent=1))
    partial.replace(folder / f"{name}.json")


def as_table(columns: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """Write a table in Markdown."""
    bars = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(bars + ["| " + " | ".join(cells) + " |" for cells in lines])
