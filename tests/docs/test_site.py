"""The site's pages against the code: nothing public is missing, and what is written twice is the same."""

import importlib
import inspect
import json
import re
import sys

import pytest

from tests.docs.blocks import ROOT, blocks

DOCS = ROOT / "docs"
PACKAGES = ("mobilenets_tf", *(f"mobilenets_tf.{name}" for name in ("data", "export", "quantize", "training")))
sys.path += [str(ROOT / "benchmarks"), str(DOCS / "_site")]


def origin(package, name):
    """Where a public name is defined; two packages may have the same thing."""
    value = getattr(importlib.import_module(package), name)
    return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else f"{package}.{name}"


def test_every_public_name_is_on_one_page_of_the_reference():
    pages = (DOCS / "api").glob("*.md")
    written = [name for page in pages for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.M)]
    public = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        names = [name for name in module.__all__ if not name.startswith("_")]
        names = [name for name in names if not inspect.ismodule(getattr(module, name))]
        public |= {f"{package}.{name}": origin(package, name) for name in names}
    assert set(written) <= set(public)
    shown = [public[name] for name in written]
    assert len(shown) == len(set(shown)) and set(shown) == set(public.values())


def test_the_quick_start_begins_with_the_readme_s_command():
    begins = [blocks(page)[0].commands()[0] for page in (ROOT / "README.md", DOCS / "quick_start.md")]
    assert begins[0] == begins[1]


def test_the_readme_is_one_screen():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) < 450 and text.count("![") == 3
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (ROOT / target).exists(), target


def test_the_table_of_networks_is_what_the_command_writes():
    import networks_table

    from mobilenets_tf import registry

    found = json.loads(networks_table.MEASURED.read_text())
    text = networks_table.PAGE.read_text(encoding="utf-8")
    assert networks_table.page(text, found) == text
    assert set(found) | set(networks_table.TOP1) <= set(registry.list_models(task="classify"))


@pytest.mark.parametrize("page", ["how_to/slower.md", "tutorials/classes.md"])
def test_blocks_for_phones_are_marked(page):
    assert any(block.reason == "needs a phone" for block in blocks(DOCS / page))


def test_fields_of_a_docstring_become_attributes():
    pytest.importorskip("griffe", reason="the extra docs is not installed")
    from fields import rewritten

    text = "A box.\n\nheight, width: sides in\n    pixels. name: what it is.\nNote: not a field\n\nRaises:\n    None"
    assert rewritten(text, {"height", "width", "name"}) == (
        "A box.\n\nAttributes:\n    height: sides in pixels.\n    width: sides in pixels.\n    name: what it is.\n"
        "    Note: not a field\n\nRaises:\n    None"
    )
