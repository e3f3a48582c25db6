"""Functions for a worker's process, in a module that imports nothing heavy there."""

import ctypes
import os
import warnings
from pathlib import Path

from mobilenets_tf.worker import give_memory_back


def abort(words):
    os.write(2, f"LLVM ERROR: {words}\n".encode())
    os.abort()


def warn_and_print(value):
    print("native code prints")
    warnings.warn("take care", stacklevel=1)
    return value


def own_id():
    return os.getpid()


def hold_the_interpreter(seconds):
    """Sleep as native code does that computes: no other Python of this process runs meanwhile, not even a handler."""
    ctypes.PyDLL(None).sleep(seconds)


def keras_settings():
    import keras

    return keras.backend.backend(), keras.config.image_data_format(), keras.config.floatx()


def memory_given_back():
    """Free 32 MB of blocks below a block that stays. Return the bytes by which ``give_memory_back`` makes this process
    smaller.
    """
    blocks = [b"x" * 2**19 for _ in range(65)]
    kept = blocks.pop()
    blocks.clear()
    freed = _resident_bytes()
    give_memory_back()
    assert len(kept) == 2**19
    return freed - _resident_bytes()


def _resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
