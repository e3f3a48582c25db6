"""What children of the tests have imported before they begin: modules that take long, none of them ours."""

import gc
import importlib

for _name in (
    "tensorflow", "keras", "ai_edge_litert.interpreter", "h5py", "jinja2", "matplotlib.figure", "PIL.Image",
):  # fmt: skip
    importlib.import_module(_name)
gc.collect()
gc.freeze()  # as in conftest.py
