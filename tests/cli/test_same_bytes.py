"""Every verb that writes gives the same bytes in a process of its own, whatever surrounds the process.

The other tests' commands are forks of one process, which have the same addresses in memory, the same hash seed, locale
and number of processors. Here one command is such a fork, and the other is real.
"""

import subprocess

import numpy as np
import pytest
from PIL import Image

from benchmarks.same_bytes import digests_of, elsewhere
from tests.cli.test_cli import COMMAND
from tests.conftest import photographs
from tests.support import classifiers
from tests.support.forked import Started

pytestmark = pytest.mark.slow

MODEL = ["{model}", "--mean", "127.5", "--std", "127.5"]
OUT = ["--out", "{out}"]
FEW = ["--epochs", "1", "--batch-size", "10", "--threads", "2"]  # here there are as many processors, there one
VERBS = {
    "train": [*MODEL, "--data", "{photos}", *FEW, *OUT],
    "deploy": [*MODEL, "--calibration", "{photos}", "--min-agreement", "0", *OUT],
    "report": [
        *MODEL, "--calibration", "{photos}", "--min-agreement", "0", "--schemes", "float16", "int8", "--calls", "2",
        *OUT,
    ],
    "export": [*MODEL, "--scheme", "dynamic", "--out", "{out}/net.tflite"],
    "qat": [*MODEL, "--data", "{photos}", *FEW, *OUT],
    "sensitivity": [*MODEL, "--calibration", "{photos}", *OUT],
    "latency": ["{model}", "--networks", "5", "--minutes", "0", "--out", "{out}/table.json"],
    "predict": ["{model}", "{photos}/0/0.png", *MODEL[1:], "--out", "{out}/picture.png"],
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A model, and twenty pictures of ten classes."""
    folder = tmp_path_factory.mktemp("inputs")
    classifiers.small().save(folder / "mine.keras")
    for index, pixels in enumerate(photographs(20, size=80)):
        place = folder / "photos" / str(index % 10)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(((pixels + 1) * 127.5).astype(np.uint8)).save(place / f"{index}.png")
    return {"model": folder / "mine.keras", "photos": folder / "photos"}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_gives_the_same_bytes_elsewhere(verb, inputs, tmp_path):
    (tmp_path / "home").mkdir()
    here, there = tmp_path / "here", tmp_path / "there"
    words = {out: [verb, *(word.format(out=out, **inputs) for word in VERBS[verb]), "--quiet"] for out in (here, there)}
    real = subprocess.Popen(
        [*COMMAND, *words[there]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        **elsewhere(str(tmp_path / "home")),
    )  # fmt: skip
    for done in (Started(words[here]), real):  # both at the same time
        _, errors = done.communicate()
        assert done.returncode in (0, 1), errors
    written = digests_of(here, str(here))
    assert len(written) >= 1 and written == digests_of(there, str(there))
