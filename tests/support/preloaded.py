"""What children of the tests have imported before they begin: what takes long, and what most commands and workers use.

Of our own modules the ones that do work, which their entries import late. None keeps what depends on the environment.
"""

import gc
import importlib

from mobilenets_tf.cli import VERBS

for _name in (
    "tensorflow", "keras", "ai_edge_litert.interpreter", "h5py", "jinja2", "matplotlib.backends.backend_svg",
    "PIL.ImageOps", "PIL.JpegImagePlugin", *(f"mobilenets_tf.cli.{verb}" for verb in VERBS),
    "mobilenets_tf.answers.evaluation", "mobilenets_tf.conversion.convert", "mobilenets_tf.export.deployment",
    "mobilenets_tf.export.file_verification", "mobilenets_tf.export.speed.side_by_side", "mobilenets_tf.factory",
    "mobilenets_tf.models.keras_model", "mobilenets_tf.quantize.post_training", "mobilenets_tf.training.job",
    "mobilenets_tf.weights.checkpoints", "mobilenets_tf.weights.saved_models",
):  # fmt: skip
    importlib.import_module(_name)
gc.collect()
gc.freeze()  # as in conftest.py
