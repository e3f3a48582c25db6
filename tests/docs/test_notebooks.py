"""The notebooks run from their first cell to their last, in a folder where examples/ are."""

import pytest

from tests.docs.blocks import ROOT, skip_without

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
NEEDS = {"qat.ipynb": ("tensorflow_model_optimization", "tf_keras"), "quick_start.ipynb": ("skimage",)}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path):
    needed = ("nbclient", "ipykernel", *NEEDS[path.name])
    skip_without(path.name, needed, pretrained=path.name == "quick_start.ipynb")
    import nbclient
    import nbformat

    (tmp_path / "examples").symlink_to(ROOT / "examples")
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code"), "stored without outputs"
    done = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    last = [cell for cell in done.cells if cell.cell_type == "code"][-1]
    assert last.outputs
