"""Float model to low-precision model. Installed as ``mobilenets_tf.quantize``."""

from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.quantize.schemes import SCHEMES

__all__ = ["SCHEMES", "Aware", "Calibration", "FineTuning", "Recipe", "fine_tune", "quantize_aware"]

_LATER = {
    "Recipe": "post_training",
    "Aware": "qat.aware",
    "quantize_aware": "qat.aware",
    "FineTuning": "qat.fine_tuning",
    "fine_tune": "qat.fine_tuning",
}


def __getattr__(name: str) -> object:
    """Import on first use what takes long to import or needs the extra "qat"."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    try:
        return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name not in ("tf_keras", "tensorflow_model_optimization"):
            raise
        raise ImportError(
            f"Quantisation-aware training needs {error.name}:  pip install 'mobilenets-tf[qat]'"
        ) from error
