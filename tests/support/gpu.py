"""LiteRT's GPU accelerator for tests: its drivers are set up once for all processes of a test run."""

import os
import platform
import shutil

import pytest

from mobilenets_tf.export.gpu import setup
from mobilenets_tf.files import only_user

needs_drivers = pytest.mark.skipif(
    not shutil.which("apt-get") or platform.machine() != "x86_64",
    reason="the Vulkan drivers of the GPU accelerator are made with apt, on x86-64",
)


def accelerator(tmp_path_factory):
    """The accelerator on drivers in the test run's folder; made by the process that comes first."""
    base = tmp_path_factory.getbasetemp()
    folder = base.parent / "drivers" if "PYTEST_XDIST_WORKER" in os.environ else base / "drivers"
    with only_user(folder, "drivers", waiting=lambda: None):
        return setup.setup(folder / "gpu")
