"""Float model to low-precision model. Installed as ``mobilenets_tf.quantize``.

What is public stands in ``__init__.pyi``.
"""

from mobilenets_tf.public_api.names import attach

_load, __dir__, __all__ = attach(__name__, __file__)
_EXTRA = ("tf_keras", "tensorflow_model_optimization")


def __getattr__(name: str) -> object:
    """Import on first use what takes long to import or needs the extra "qat"."""
    try:
        return _load(name)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        raise ImportError(
            f"Quantisation-aware training needs {error.name}:  pip install 'mobilenets-tf[qat]'"
        ) from error
