"""From labelled images to batches for the training step, and for judging it.

Images are read, cropped and mirrored by threads (Pillow gives up the GIL while it decodes and resizes), which is what
keeps crops, interpolation and orientation those of ``Preprocessing``; the rest is tf.data. Everything random is a
function of the seed and of the image's place in the stream, so the same step has the same batch however often a
training was interrupted and on however many workers it runs.
"""

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from mobilenets_tf.data import images
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.data.sources import Source
from mobilenets_tf.errors import RequestError
from mobilenets_tf.training.distribution import Distribution
from mobilenets_tf.training.input.augmentation import random_for
from mobilenets_tf.training.input.plan import Plan


@dataclass
class Broken:
    """The rule for images that cannot be read ("fail" or "skip"), and the list of such images. Threads share it."""

    rule: str = "fail"
    names: set[str] = field(default_factory=set)
    error: RequestError | None = None  # the first one; what tf.data makes of it has lost its type


class Reader:
    """Decoded images by number.

    problem: says what is wrong with an annotation, as ``Objective.problem``.
    """

    def __init__(self, source: Source, problem: Callable[[Any], str | None], broken: Broken):
        self._source, self._problem, self._broken = source, problem, broken

    def __len__(self):
        return len(self._source)

    def read(self, number: int) -> tuple[Any, Any] | None:
        """Read a ``PIL.Image`` in RGB and its annotation; return None for a broken image that is to be skipped.

        Raises:
            RequestError: the image is broken, and the rule is "fail".
        """
        name = self._source.name(number)
        try:
            content, annotation = self._source.read(number)
            if problem := self._problem(annotation):
                raise RequestError(f"{name} {problem}")
            return images.decode(io.BytesIO(content), name), annotation
        except (RequestError, OSError) as error:
            if self._broken.rule == "skip":
                self._broken.names.add(name)
                return None
            problem = error if isinstance(error, RequestError) else RequestError(f"{name} cannot be read: {error}")
            self._broken.error = self._broken.error or problem
            raise problem from error

    def next(self, number: int) -> tuple[Any, Any]:
        """Read an image as ``read`` does; in place of an image to be skipped, read the next image that can be read.

        Raises:
            RequestError: the image is broken and the rule is "fail", or no image can be read.
        """
        for offset in range(len(self)):
            if example := self.read((number + offset) % len(self)):
                return example
        self._broken.error = RequestError("None of the images can be read.")
        raise self._broken.error


def training_batches(
    reader: Reader, plan: Plan, objective: Any, distribution: Distribution, *, first: int = 0
) -> tf.data.Dataset:
    """Make the batches of the steps from ``first`` on.

    Args:
        objective: an ``Objective``, which makes the examples and targets.
        distribution: this process gets the shares of its own replicas, one element each.

    Returns:
        Of (pixels, targets): (n, size, size, 3) in 0 to 255, uint8 or float32, and the objective's targets. n and size
        differ where the recipe says so.
    """
    local = distribution.replicas // distribution.workers
    # One of the batch's places at a time in each thread; two batches are under way, so none waits for its last image.
    pool = ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="images")
    types = [np.uint8, *(dtype for _, dtype in objective.truth)]

    def load(element: int):
        step, replica = divmod(int(element), local)
        share = plan[step]
        count = share.count // plan.replicas
        begin = share.begin + (distribution.worker * local + replica) * count

        def one(place: int):
            image, annotation = reader.next(plan.image(place))
            return objective.example(image, annotation, share.size, share.strength, random_for(plan.seed, place))

        examples = zip(*pool.map(one, range(begin, begin + count)), strict=True)
        return [np.asarray(values, dtype) for values, dtype in zip(examples, types, strict=True)]

    def prepare(element):
        pixels, *truth = tf.numpy_function(load, [element], types, stateful=False)
        pixels.set_shape((None, None, None, 3))
        for values, (shape, _) in zip(truth, objective.truth, strict=True):
            values.set_shape((None, *shape))
        replica = element % local + distribution.worker * local
        return objective.targets(pixels, *truth, seed=tf.stack([plan.seed + replica * 2**32, element // local]))

    data = tf.data.Dataset.range(first * local, plan.steps * local)
    data = data.map(prepare, num_parallel_calls=2, deterministic=True).prefetch(1 + local)
    return data.with_options(_options())


def judging_batches(
    reader: Reader, preprocessing: Preprocessing, batch_size: int, distribution: Distribution
) -> tf.data.Dataset:
    """Make batches of all images of a classifier, each image once and prepared as the phone does.

    Every replica gets as many batches of the same size; black images with class -1 fill the last batches, and replace
    broken images that are to be skipped.

    Returns:
        Of (pixels, classes): uint8 (n, size, size, 3) and int32 (n,).
    """
    rounds, local = (
        -(-len(reader) // (batch_size * distribution.replicas)),
        distribution.replicas // distribution.workers,
    )
    pool = ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="images")
    nothing = np.zeros((preprocessing.size, preprocessing.size, 3), np.uint8), -1

    def one(number: int):
        example = reader.read(number) if number < len(reader) else None
        return (preprocessing.geometry(example[0]), example[1]) if example else nothing

    def load(element: int):
        turn, replica = divmod(int(element), local)
        begin = (turn * distribution.replicas + distribution.worker * local + replica) * batch_size
        pixels, labels = zip(*pool.map(one, range(begin, begin + batch_size)), strict=True)
        return np.stack(pixels), np.array(labels, np.int32)

    def prepare(element):
        pixels, labels = tf.numpy_function(load, [element], (tf.uint8, tf.int32), stateful=False)
        pixels.set_shape((batch_size, preprocessing.size, preprocessing.size, 3))
        labels.set_shape((batch_size,))
        return pixels, labels

    data = tf.data.Dataset.range(rounds * local).map(prepare, num_parallel_calls=2, deterministic=True).prefetch(2)
    return data.with_options(_options())


def normalised(pixels, preprocessing: Preprocessing):
    """Normalise pixels of any type to the network's input, float32, as ``Preprocessing.normalise`` does."""
    return (tf.cast(pixels, tf.float32) - np.float32(preprocessing.mean)) / np.float32(preprocessing.std)


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.autotune.enabled = False  # it may add buffers, and there is nothing to tune
    # Every worker makes its own share.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options
