"""From labelled images to batches for the training step, and for judging it.

Images are read, cropped and mirrored by threads (Pillow gives up the GIL while it decodes and resizes), which is what
keeps crops, resampling and orientation those of ``Preprocessing``; the rest is tf.data. Everything random is a function
of the seed and of the image's place in the stream, so the same step has the same batch however often a training was
interrupted and on however many workers it runs.
"""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import tensorflow as tf

from mobilenets_tf import images
from mobilenets_tf.errors import RequestError
from mobilenets_tf.preprocessing import Preprocessing
from mobilenets_tf.training.augmentation import augmented, random_for
from mobilenets_tf.training.distribution import Distribution
from mobilenets_tf.training.mixing import mixed
from mobilenets_tf.training.plan import Plan
from mobilenets_tf.training.sources import Source


@dataclass
class Broken:
    """What becomes of an image that cannot be read ("fail" or "skip"), and which they were. Threads share it."""

    rule: str = "fail"
    names: set[str] = field(default_factory=set)
    error: RequestError | None = None  # the first one; what tf.data makes of it has lost its type


class Reader:
    """Decoded images by number.

    classes: labels must be below it.
    """

    def __init__(self, source: Source, classes: int, broken: Broken):
        self._source, self._classes, self._broken = source, classes, broken

    def __len__(self):
        return len(self._source)

    def read(self, number: int):
        """A ``PIL.Image`` in RGB and its class; None for a broken one that is to be skipped.

        Raises:
            RequestError: the image is broken, and the rule is to fail.
        """
        name = self._source.name(number)
        try:
            content, label = self._source.read(number)
            if not 0 <= label < self._classes:
                raise RequestError(f"{name} is of class {label}; there are {self._classes} classes, 0 the first.")
            return images.decode(io.BytesIO(content), name), label
        except (RequestError, OSError) as error:
            if self._broken.rule == "skip":
                self._broken.names.add(name)
                return None
            problem = error if isinstance(error, RequestError) else RequestError(f"{name} cannot be read: {error}")
            self._broken.error = self._broken.error or problem
            raise problem from error

    def next(self, number: int):
        """As ``read``, with the next image that can be read in the place of one to be skipped.

        Raises:
            RequestError: as ``read``; or none can be read.
        """
        for offset in range(len(self)):
            if found := self.read((number + offset) % len(self)):
                return found
        self._broken.error = RequestError("None of the images can be read.")
        raise self._broken.error


def training_batches(
    reader: Reader, plan: Plan, classes: int, place: Distribution, *, resampling: str = "bilinear", first: int = 0
) -> tf.data.Dataset:
    """The batches of the steps from ``first`` on.

    Args:
        resampling: of the crops, where the recipe leaves it to the network's ``Preprocessing``.
        place: this process's, which gets the shares of its own replicas, one element each.

    Returns:
        Of (pixels, targets): (n, size, size, 3) in 0 to 255, uint8 where nothing is mixed into them, else float32, and
        float32 (n, classes) that sum to one. n and size differ where the recipe says so.
    """
    augment, local = plan.recipe.augment, place.replicas // place.workers
    augment = replace(augment, interpolation=augment.interpolation or resampling)
    # One of the batch's places at a time in each thread; two batches are under way, so none waits for its last image.
    pool = ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="images")

    def load(element: int):
        step, replica = divmod(int(element), local)
        share = plan[step]
        count = share.count // plan.replicas
        begin = share.begin + (place.worker * local + replica) * count

        def one(place: int):
            image, label = reader.next(plan.image(place))
            random = random_for(plan.seed, place)
            return augmented(image, share.size, augment, share.strength, random), label

        pixels, labels = zip(*pool.map(one, range(begin, begin + count)), strict=True)
        return np.stack(pixels), np.array(labels, np.int32)

    def prepare(element):
        pixels, labels = tf.numpy_function(load, [element], (tf.uint8, tf.int32), stateful=False)
        pixels.set_shape((None, None, None, 3))
        labels.set_shape((None,))
        targets = tf.one_hot(labels, classes)
        if augment.mixup or augment.cutmix or augment.erase:
            replica = element % local + place.worker * local
            seed = tf.stack([plan.seed + replica * 2**32, element // local])
            pixels, targets = mixed(tf.cast(pixels, tf.float32), targets, augment, seed)
        return pixels, targets

    data = tf.data.Dataset.range(first * local, plan.steps * local)
    data = data.map(prepare, num_parallel_calls=2, deterministic=True).prefetch(1 + local)
    return data.with_options(_options())


def judging_batches(
    reader: Reader, preprocessing: Preprocessing, batch_size: int, place: Distribution
) -> tf.data.Dataset:
    """All images once, prepared as the phone does: (uint8 pixels (n, size, size, 3), int32 classes (n,)).

    Every replica gets as many batches of the same size; what stands in for images that are not there, or broken and to
    be skipped, has class -1.
    """
    rounds, local = -(-len(reader) // (batch_size * place.replicas)), place.replicas // place.workers
    pool = ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="images")
    nothing = np.zeros((preprocessing.size, preprocessing.size, 3), np.uint8), -1

    def one(number: int):
        found = reader.read(number) if number < len(reader) else None
        return (preprocessing.geometry(found[0]), found[1]) if found else nothing

    def load(element: int):
        turn, replica = divmod(int(element), local)
        begin = (turn * place.replicas + place.worker * local + replica) * batch_size
        pixels, labels = zip(*pool.map(one, range(begin, begin + batch_size)), strict=True)
        return np.stack(pixels), np.array(labels, np.int32)

    def prepare(element):
        pixels, labels = tf.numpy_function(load, [element], (tf.uint8, tf.int32), stateful=False)
        pixels.set_shape((batch_size, preprocessing.size, preprocessing.size, 3))
        labels.set_shape((batch_size,))
        return pixels, labels

    data = tf.data.Dataset.range(rounds * local).map(prepare, num_parallel_calls=2, deterministic=True).prefetch(2)
    return data.with_options(_options())


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.autotune.enabled = False  # it may add buffers, and there is nothing to tune
    # Every worker makes its own share.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options
