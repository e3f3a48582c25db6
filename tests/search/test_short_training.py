"""Batches that are gone through several times, with little memory and with much."""

from itertools import islice

import pytest
import tensorflow as tf

from mobilenets_tf.search.short_training import Batches

_BYTES = 4 * 8 * 8 * 3 + 4 * 4  # of one batch: uint8 pixels, and int32 targets


@pytest.mark.parametrize(("kept", "made_again"), [(0, 6), (2, 4), (6, 0), (100, 0)])
def test_batches_that_do_not_fit_into_memory_are_made_again(kept, made_again):
    made = []

    def stream(first):
        for step in range(first, 1000):
            made.append(step)
            yield tf.fill((4, 8, 8, 3), tf.cast(step, tf.uint8)), {"classes": tf.fill((4,), step)}

    batches = Batches(stream, range(10, 16), kept * _BYTES)
    few = [int(targets["classes"][0]) for _, targets in islice(batches, 3)]
    first = [int(targets["classes"][0]) for _, targets in batches]
    made.clear()
    again = [int(pixels[0, 0, 0, 0]) for pixels, _ in batches]
    assert few == [10, 11, 12] and first == again == [10, 11, 12, 13, 14, 15]
    assert len(made) == made_again
