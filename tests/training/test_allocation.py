"""Memory that is freed stays with the process, which is what makes large steps quick."""

import platform
import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
import numpy as np
from mobilenets_tf.training.allocation import keep_freed_memory
if "keep" in sys.argv:
    keep_freed_memory()
for turn in range(5):
    np.ones(2**24)  # 128 MB
    if not turn:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting that keeps freed memory")
def test_a_block_is_mapped_once():
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", _FAULTS, *words], capture_output=True, text=True, check=True).stdout)
        for words in (["keep"], [])
    )
    assert kept < given_back / 20
