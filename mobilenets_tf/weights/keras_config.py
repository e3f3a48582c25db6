"""Check the configuration of a Keras model of unknown origin: it may name stock layers that only compute.

Keras' safe mode refuses Lambda layers in a ``.keras`` file, but older releases ignore it for ``.h5``, and it has had
several security holes. So the configuration is read first, and a class that is not a stock layer is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mobilenets_tf.errors import RequestError

# The packages of Keras whose classes a configuration may name. Not keras.utils, which can download and unpack files.
_PACKAGES = (
    "layers", "models", "initializers", "regularizers", "constraints", "activations", "ops", "dtype_policies",
)  # fmt: skip
# Stock classes that run code or functions, or read files, that the configuration names.
_REFUSED = {
    "Lambda", "__lambda__", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer",
    "StringLookup", "IntegerLookup", "TextVectorization", "HashedCrossing", "FeatureSpace",
    "Switch", "Cond", "Map", "Scan", "AssociativeScan", "WhileLoop", "ForiLoop", "VectorizedMap", "CustomGradient",
}  # fmt: skip
# For a model that the file's configuration alone does not make safe.
REMEDY = "Load the model in your own Python, where you trust its code, and call mobilenets_tf.export.to_tflite(model)."


@contextlib.contextmanager
def shapes_alone() -> Iterator[None]:
    """Build models whose variables have shapes but no values, inside a ``with`` statement: nothing is allocated."""
    import keras
    from keras.src.backend.common import global_state

    # Keras would allocate the variables when the next scope of this kind ends.
    waiting = list(global_state.get_global_attribute("uninitialized_variables") or ())
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute("uninitialized_variables", waiting)


def check(config: Any, path: Path) -> None:
    """Walk the configuration and refuse every class that is not a stock class of Keras or can do more than compute.

    Raises:
        RequestError: names the class.
    """
    for node in nodes(config):
        if "class_name" in node:
            _check_class(node, path)


def nodes(config: Any) -> Iterator[dict[str, Any]]:
    """Yield every dict in a configuration, however deep."""
    waiting = [config]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        if isinstance(node, dict):
            yield node
            waiting += node.values()


def _check_class(node: dict[str, Any], path: Path) -> None:
    name, module = node["class_name"], node.get("module")
    if not isinstance(name, str) or not isinstance(module, (str, type(None))):
        raise RequestError(f"{path} is damaged: a class is called {name!r:.40} of {module!r:.40}.")
    if name in _REFUSED:
        raise RequestError(
            f"{path} has a {name} layer, which can run code or read files that the file names: refused. {REMEDY}"
        )
    if name == "function":
        import keras

        # Keras looks this name up and calls the function, so nothing but an activation of Keras is allowed.
        function = node.get("config")
        known = isinstance(function, str) and callable(getattr(keras.activations, function, None))
        if not known or not (module in (None, "builtins") or _is_keras(module, ("activations",))):
            raise RequestError(
                f"{path} names the function {module}.{function!r:.60}, not an activation of Keras': refused."
            )
        return
    plain = module == "builtins" and name in ("slice", "__tuple__", "__tensor__")
    top = module == "keras" and name in (
        "Sequential",
        "Functional",
        "Model",
        "InputLayer",
        "DTypePolicy",
        "DTypePolicyMap",
    )
    if not name.isidentifier() or not (module is None or plain or top or _is_keras(module, _PACKAGES)):
        raise RequestError(f"{path} needs {module}.{name}, which is not one of Keras' own layers. {REMEDY}")
    if module is None and node.get("registered_name") not in (None, name):
        raise RequestError(f"{path} needs the custom class {node['registered_name']!r}. {REMEDY}")


def _is_keras(module: str, packages: tuple[str, ...]) -> bool:
    """Whether a module is inside one of ``packages`` of Keras, under its public or its internal name."""
    names = [name for name in module.split(".") if name != "src"]
    return names[0] == "keras" and len(names) > 1 and names[1] in packages
