"""Memory of a training stays with its process."""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of malloc.h
_PAD = 256 * 2**20


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, from here on, in this process.

    It would give each block above 32 MB back to the system at once, and a step of training frees and asks for hundreds:
    the system then clears and maps every page anew. For an SSDLite at 320 pixels and 16 images that was almost half of
    the processor time. Elsewhere than with glibc nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt:
        for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _PAD)):
            mallopt(parameter, value)
