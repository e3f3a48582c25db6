"""What a training's process takes of the machine: memory that it keeps, and threads."""

import ctypes
import os
import sys

from mobilenets_tf.errors import RequestError

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of malloc.h
_PAD = 256 * 2**20


def keep_freed_memory() -> None:
    """Make glibc keep freed memory in this process, from here on.

    By default glibc gives each freed block above 32 MB back to the system. A training step frees and requests hundreds
    of such blocks, and the system clears and maps every page anew. For an SSDLite at 320 pixels and 16 images that took
    almost half of the processor time. Without glibc nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt:
        for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _PAD)):
            mallopt(parameter, value)


def check_threads(count: int | None) -> None:
    """Refuse a number of threads that is not positive."""
    if count is not None and count < 1:
        raise RequestError(f"threads={count} (--threads): expected at least 1.")


def use_threads(count: int | None) -> int:
    """Set how many threads compute one operation of TensorFlow. Call this before TensorFlow computes anything.

    The threads share the sums of a gradient among them, and float32 sums depend on their order. So the last bits of
    trained weights depend on the number of threads. A fixed number for all machines would cost time: with 8 threads on
    2 processors, a step of MobileNetV2 took 1.4 times the processor time.

    Args:
        count: None for one thread for each processor.

    Returns:
        The number of threads, for the manifest.
    """
    import tensorflow as tf

    if count is not None:
        tf.config.threading.set_intra_op_parallelism_threads(count)
        return count
    given = tf.config.threading.get_intra_op_parallelism_threads() or int(os.environ.get("TF_NUM_INTRAOP_THREADS", 0))
    return given or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
