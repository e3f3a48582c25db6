"""What a file does on images beside the model that it was made of: answers, comparisons, and what the report shows."""

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

from mobilenets_tf.data import images
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.export.delegates import backends
from mobilenets_tf.export.page.report import Evidence
from mobilenets_tf.export.proof.evidence import LayerFidelity, changed_answers, layer_fidelity
from mobilenets_tf.export.proof.verification import Comparison, compare, in_batches, keras_outputs
from mobilenets_tf.export.speed import timing
from mobilenets_tf.export.tflite import Conversion
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.tflite.runtime import Runner

# Keras answers a tenth as fast as the file does, and a file that equals it on these equals it.
_PARITY_IMAGES = 16
_FIDELITY_SAMPLES = 8  # on which layers are compared
_CALLS = 30  # to time a file


def load(chosen: ImageSet, preprocessing: Preprocessing) -> Iterator[np.ndarray]:
    """The images' pixels, uint8, of the size that the model takes."""
    return (preprocessing.geometry(images.decode(path)) for path in chosen.paths)


def parity(model, float_content: bytes, chosen: ImageSet, image: ImageInput, seed: int) -> Comparison:
    """A float file, which takes ``image.given``, beside the Keras model, on a few of the images."""
    runner, pairs = Runner(float_content), []
    for pixels in in_batches(load(chosen.sample(_PARITY_IMAGES, seed), image.given), size=4):
        found = list(runner.first_outputs(image.given.normalise(pixels)))
        pairs.append((keras_outputs(model, image.wanted.normalise(pixels)), found))
    return compare(*(np.concatenate(outputs) for outputs in zip(*pairs, strict=True)))


def outputs(
    files: dict[str, bytes], chosen: ImageSet, image: ImageInput, progress: Progress = silent
) -> dict[str, np.ndarray]:
    """Each file's first output for every image, (images, ...), under the file's key. Images are read once."""
    runners = {key: Runner(content) for key, content in files.items()}
    found = [
        [runner(image.given.for_input(pixels, runner.inputs[0]["dtype"]))[0][0] for runner in runners.values()]
        for pixels in track(load(chosen, image.given), "verifying", progress, len(chosen))
    ]
    return dict(zip(runners, map(np.array, zip(*found, strict=True)), strict=True))


def facts(source: ModelSource, options: dict, image: ImageInput, converted: Conversion) -> dict:
    """For the manifest: what was asked for, and what the file is."""
    runner = Runner(converted.content)
    return {
        "model": source.facts(),
        "options": options,
        "preprocessing": asdict(image.given),
        "model_preprocessing": asdict(image.wanted),
        **converted.facts(),
        "inputs": [described(details) for details in runner.inputs],
        "outputs": [described(details) for details in runner.outputs],
    }


def described(details: dict) -> dict:
    """One of ``Runner.inputs`` or ``Runner.outputs`` as plain data."""
    scale, zero_point = details["quantization"]
    return {
        "name": details["name"],
        "shape": [int(side) for side in details["shape"]],
        "dtype": np.dtype(details["dtype"]).name,
        "scale": float(scale),
        "zero_point": int(zero_point),
    }


def evidence(
    converted: Conversion,
    chosen: ImageSet,
    labels: list[str],
    reference: np.ndarray | None = None,
    candidate: np.ndarray | None = None,
    timed: bool = True,
    shown: int = 24,
) -> Evidence:
    """What the report on a file shows beside the manifest.

    Args:
        chosen: the images that it was judged on. labels: names of the classes; may be empty.
        reference, candidate: the float file's and this file's ``outputs`` for them; None where there was nothing to
            compare.
        timed: time the file beside its float file. shown: how many images with another answer at the most.
    """
    changed = None
    if reference is not None and converted.scheme != "float32":
        changed = changed_answers(chosen.paths, chosen.labels, labels, reference, candidate, shown)
    latency = latencies(converted) if timed else None
    plan = Runner(converted.content).execution_plan()
    return Evidence(changed, fidelity(converted), plan, backends.verdicts(flatbuffer.read(converted.content)), latency)


def fidelity(converted: Conversion) -> list[LayerFidelity]:
    """How faithful each layer of a calibrated file is; nothing of another."""
    if converted.equalised is None:
        return []
    return layer_fidelity(converted.equalised, converted.content, converted.samples[:_FIDELITY_SAMPLES])


def latencies(converted: Conversion) -> dict[str, tuple[float, float]]:
    """Median and 90th percentile in ms of the float file and of this one, timed side by side."""
    files = {"float32": converted.float_content} | {converted.scheme: converted.content}
    return {name: (t.median_ms, t.p90_ms) for name, t in timing.side_by_side(files, _CALLS).items()}
