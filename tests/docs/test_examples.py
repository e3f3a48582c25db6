"""The examples run from their first line to their last, as ``python examples/NAME.py`` runs them.

Those that the tutorials run, ``test_tutorials.py`` runs.
"""

import pytest

from tests.docs.blocks import ROOT
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
    for module in NEEDS.get(path.name, ()):
        pytest.importorskip(module, reason=f"{path.name} needs {module}")
    if path.name in PRETRAINED:
        from mobilenets_tf.weights import catalog

        if catalog.locate(catalog.find("efficientnet_lite0", "imagenet")) is None:
            pytest.skip("efficientnet_lite0's ImageNet weights are not on this machine")
    done = forked.program(path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
