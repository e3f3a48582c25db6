"""Trainings of small networks on drawn images, many in one process, with the package's own parts.

``mobilenets_tf.train`` starts a process and writes files for each training, which takes longer than these trainings do.
So this module makes its steps from the same recipes, input pipeline, objective and optimizer, and keeps all images in
memory. An image is the middle of one that ``drawn_surfaces.py`` draws.
"""

import io
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from drawn_surfaces import SIDE as DRAWN
from drawn_surfaces import scene
from PIL import Image

from experiments.results import as_text
from experiments.variants import CLASSES, Variant
from mobilenets_tf import Preprocessing, counts, reparameterize
from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.training.distribution import Distribution
from mobilenets_tf.training.input import pipeline
from mobilenets_tf.training.input.plan import Plan
from mobilenets_tf.training.objectives.classification import ClassificationObjective
from mobilenets_tf.training.recipes import SCRATCH, Augment, Recipe
from mobilenets_tf.training.step import Training, deterministic

BATCH = 100  # images that are judged at once
CALIBRATION = 128


@dataclass(frozen=True)
class Size:
    """How large trainings are: images, epochs, images of a batch, the highest learning rate."""

    images: int = 2000
    judged: int = 3000
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 8e-3

    def recipe(self, changes: Mapping) -> Recipe:
        """Give the recipe for training from random weights on few images, at this size, with some fields changed."""
        short = SCRATCH.changed(self.epochs, self.batch_size, self.learning_rate)
        return replace(short, augment=Augment(area=(0.5, 1.0), interpolation=None), **changes)


QUICK = Size(images=64, judged=40, epochs=1, batch_size=32)


@dataclass(frozen=True)
class Examples:
    """Images, uint8 (N, side, side, 3), and their classes. A reader for the input pipeline."""

    pixels: np.ndarray
    classes: np.ndarray

    def __len__(self):
        return len(self.pixels)

    def next(self, number: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.pixels[number]), int(self.classes[number])

    def framed(self, side: int, crop: int) -> "Examples":
        """Give the middle of each image, ``crop`` pixels wide, resized to ``side``."""
        first = (DRAWN - crop) // 2
        pixels = self.pixels[:, first : first + crop, first : first + crop]
        if side != crop:
            resized = [Image.fromarray(each).resize((side, side), Image.Resampling.BILINEAR) for each in pixels]
            pixels = np.stack([np.asarray(each) for each in resized])
        return replace(self, pixels=pixels)


def drawn(folder: Path, split: str, count: int, progress: Progress = silent) -> Examples:
    """Give the first images of a split, drawn unless the folder has them."""
    path = folder / f"{split}_{count}.npz"
    if not path.exists():
        pairs = []
        for number in range(count):
            pairs.append(scene(0, split, number))
            progress(f"drawing {split} images", number + 1, count)
        pixels, classes = zip(*pairs, strict=True)
        unfinished = path.with_suffix(".part.npz")
        np.savez(unfinished, pixels=np.stack(pixels), classes=np.array(classes))
        unfinished.replace(path)
    return _read(path)


@lru_cache(maxsize=4)
def _read(path: Path) -> Examples:
    with np.load(path) as arrays:
        return Examples(arrays["pixels"], arrays["classes"])


def learn(variant: Variant, seed: int, size: Size, folder: Path, progress: Progress = silent) -> dict:
    """Train a variant's small network, and judge it.

    Returns:
        The record of the training: counts of the network in its inference form, the settings, seconds, and which test
        images get the right answer, by the float network and by each kind of int8 file (``as_text``).
        A file that LiteRT refuses has its reason under "refused".
    """
    started = time.monotonic()
    deterministic()
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    recipe = size.recipe(variant.recipe)
    examples = {
        split: drawn(folder, split, count, progress).framed(variant.side, variant.crop)
        for split, count in (("train", size.images), ("test", size.judged))
    }
    plan = Plan(recipe, size.images, variant.side, seed=seed)
    objective = ClassificationObjective(CLASSES, recipe)
    preprocessing = Preprocessing(size=variant.side, resize=variant.side, mean=(127.5,) * 3, std=(127.5,) * 3)
    training = Training(
        objective, lambda side: variant.build(True, side), plan, variant.side, preprocessing,
        Distribution(tf.distribute.get_strategy()),
    )  # fmt: skip
    batches = pipeline.training_batches(examples["train"], plan, objective, training.distribution)
    losses = []
    for number, batch in enumerate(batches, 1):
        losses.append(training.step(batch)[0])
        progress(f"{variant.key}, seed {seed}", number, plan.steps)
    model = training.finished(training.weights())
    truth = examples["test"].classes
    record = {
        "key": variant.key, "seed": seed, "counts": counts(reparameterize(model)), "images": size.images,
        "epochs": recipe.epochs, "batch_size": recipe.batch_size, "learning_rate": recipe.rate.peak,
        "side": variant.side, "steps": plan.steps, "loss": float(np.mean(losses[-20:])),
        "right": as_text(_answers(model, examples["test"].pixels) == truth),
    }  # fmt: skip
    if variant.integers:
        record["int8"], record["refused"] = {}, {}
        files = _integer_files(model, examples["train"].pixels[:CALIBRATION], progress)
        for name, content in files.items():
            try:
                record["int8"][name] = as_text(_answers_of_file(content, examples["test"].pixels) == truth)
            except RequestError as error:  # LiteRT does not run the file
                record["refused"][name] = str(error)
    return record | {"seconds": time.monotonic() - started}


def _normalised(pixels: np.ndarray) -> np.ndarray:
    return (pixels.astype(np.float32) - 127.5) / 127.5


def _answers(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    answer = tf.function(lambda some: model(some, training=False), autograph=False)
    found = [answer(_normalised(pixels[at : at + BATCH])) for at in range(0, len(pixels), BATCH)]
    return np.concatenate(found).argmax(-1)


def _answers_of_file(content: bytes, pixels: np.ndarray) -> np.ndarray:
    from mobilenets_tf import Runner

    runner = Runner(content, threads=1)
    return np.array([int(runner(_normalised(each)[None])[0].argmax()) for each in pixels])


def _integer_files(model: keras.Model, pixels: np.ndarray, progress: Progress) -> dict[str, bytes]:
    """Quantise a network: with the stock converter and with ours, a scale for each channel of weights or one for all.

    The stock converter gets the inference form, so that all files have the same operators.
    """
    from mobilenets_tf.export.tflite import convert_model
    from mobilenets_tf.quantize import Recipe, schemes
    from mobilenets_tf.quantize.calibration import Calibration
    from mobilenets_tf.worker import Worker

    samples, folded = _normalised(pixels), reparameterize(model)
    files = {}
    for name, per_tensor in (("per channel", False), ("per tensor", True)):
        files[f"stock, {name}"] = _stock(folded, samples, per_tensor)
        with Worker() as worker:
            recipe = Recipe(per_tensor=per_tensor)
            converted = convert_model(model, schemes.get("int8"), Calibration(samples), worker, progress, recipe=recipe)
        files[f"ours, {name}"] = converted.content
    return files


def _stock(model: keras.Model, samples: np.ndarray, per_tensor: bool) -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    converter._experimental_disable_per_channel = per_tensor
    with redirect_stdout(io.StringIO()):  # it lists every variable
        return converter.convert()
