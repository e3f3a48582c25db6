"""The tutorials' commands and code, run as a reader runs them. What cannot run here is marked, and listed below."""

import pytest

from tests.docs.blocks import ROOT, blocks, run, skip_without

TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
# Of blocks that are not run: page -> why.
NOT_RUN = {
    "classes.md": ["needs a phone"],
    "pytorch.md": ["needs PyTorch and litert-torch", "needs a checkpoint"],
}
NEEDS = {
    "detector.md": ("pycocotools",),
    "qat.md": ("tensorflow_model_optimization", "tf_keras"),
}
PRETRAINED = {"classes.md", "detector.md"}  # they begin with the weights of the extra "imagenet"


def test_blocks_that_are_not_run_are_known():
    reasons = {page.name: [block.reason for block in blocks(page) if block.reason] for page in TUTORIALS}
    assert {name: found for name, found in reasons.items() if found} == NOT_RUN


def test_every_tutorial_is_on_the_first_page_and_has_blocks_that_run():
    first = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in TUTORIALS:
        assert f"(tutorials/{page.name})" in first
        assert any(not block.reason for block in blocks(page))


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_tutorials_run_as_printed(page, tmp_path):
    skip_without(page.name, NEEDS.get(page.name, ()), page.name in PRETRAINED)
    assert run(page, tmp_path)
