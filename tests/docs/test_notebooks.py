"""The notebooks run from their first cell to their last, in a folder where examples/ are."""

import pytest

from tests.docs.blocks import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
NEEDS = {"qat.ipynb": ("tensorflow_model_optimization", "tf_keras"), "quick_start.ipynb": ("skimage",)}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path):
    for module in ("nbclient", "ipykernel", *NEEDS[path.name]):
        pytest.importorskip(module, reason=f"{path.name} needs {module}")
    import nbclient
    import nbformat

    if path.name == "quick_start.ipynb":
        from mobilenets_tf.weights import catalog

        if catalog.locate(catalog.find("efficientnet_lite0", "imagenet")) is None:
            pytest.skip("efficientnet_lite0's ImageNet weights are not on this machine")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code"), "stored without outputs"
    done = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    last = [cell for cell in done.cells if cell.cell_type == "code"][-1]
    assert last.outputs
