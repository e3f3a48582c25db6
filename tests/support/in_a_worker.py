"""Functions for a worker's process, in a module that imports nothing heavy there."""

import os
import warnings


def abort(words):
    os.write(2, f"LLVM ERROR: {words}\n".encode())
    os.abort()


def warn_and_print(value):
    print("native code prints")
    warnings.warn("take care", stacklevel=1)
    return value
