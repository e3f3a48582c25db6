"""The examples run from their first line to their last, as ``python examples/NAME.py`` runs them.

Those that the tutorials run, ``test_tutorials.py`` runs.
"""

import pytest

from tests.docs.blocks import ROOT, skip_without
from tests.support import forked

PAGES = [path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "tutorials").glob("*.md")]
EXAMPLES = [
    path
    for path in sorted((ROOT / "examples").glob("*.py"))
    if not any(f"$ python examples/{path.name}" in page for page in PAGES)
]
PHOTOS = ("skimage",)  # of the extra "photos"
NEEDS = {
    "export_your_model.py": PHOTOS,
    "qat_finetune.py": ("tensorflow_model_optimization", "tf_keras", *PHOTOS),
    "reach_a_latency.py": PHOTOS,
    "train.py": PHOTOS,
}
PRETRAINED = {"detect_and_segment.py", "train.py"}  # they begin with the weights of the extra "imagenet"


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(path, tmp_path):
    skip_without(path.name, NEEDS.get(path.name, ()), path.name in PRETRAINED)
    done = forked.program(path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
