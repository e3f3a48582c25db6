"""Functions for a worker's process, in a module that imports nothing heavy there."""

import ctypes
import os
import warnings


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
