"""Convert a Keras model to a float TFLite file: freeze its graph in this process, convert it in a child process."""

import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilenets_tf.conversion.frozen_graph import FrozenGraph, freeze_function
from mobilenets_tf.conversion.half_sums import with_means
from mobilenets_tf.conversion.lean_norms import with_lean_norms
from mobilenets_tf.conversion.reparameterization import fold
from mobilenets_tf.conversion.rewriting import default_layers
from mobilenets_tf.errors import ConversionError, RequestError, unknown
from mobilenets_tf.files import TemporaryFolder
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.lean import lean
from mobilenets_tf.tflite.weight_types import with_weights
from mobilenets_tf.weights import saved_models
from mobilenets_tf.worker import Worker, WorkerError, give_memory_back

if TYPE_CHECKING:
    import keras

# The types in which the converter can store weights; activations stay float32.
WEIGHT_TYPES = ("float32", "float16", "int8")


def freeze(model: "keras.Model") -> FrozenGraph:
    """Trace a functional or sequential Keras 3 model for inference on one sample, and freeze it.

    Raises:
        RequestError: the model is of another kind, or an input has a side that is not fixed.
    """
    import keras
    import tensorflow as tf

    check_exportable(model)
    functional = model._functional if isinstance(model, keras.Sequential) else model

    def call(*tensors):
        outputs = model(keras.tree.pack_sequence_as(functional._inputs_struct, tensors), training=False)
        return keras.tree.flatten(outputs)

    return freeze_function(
        call,
        [tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype, tensor.name) for tensor in functional.inputs],
        lambda: output_names(model),
        [layer.name for layer in model._flatten_layers(include_self=False)],
        label=model.name,
    )


# The names that a scope of TensorFlow's graphs may have: _VALID_SCOPE_NAME_REGEX and _VALID_OP_NAME_REGEX in
# tensorflow/python/framework/ops.py.
_NAME, _ROOT_NAME = re.compile(r"[A-Za-z0-9_.\\/>-]*"), re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")


def check_backend() -> None:
    """Refuse to work where Keras computes with another library than TensorFlow.

    Raises:
        RequestError: so it does.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise RequestError(
            f"Keras computes with {keras.backend.backend()} in this process, and a file is made from a graph of "
            "TensorFlow. Set KERAS_BACKEND=tensorflow in the environment, or save the model and use the .keras file."
        )


def check_exportable(model: "keras.Model") -> None:
    """Refuse a model that cannot become a file with static shapes.

    Raises:
        RequestError: the model is no functional or sequential Keras 3 model, is not in float32, has an input with a
            side that is not fixed, weights that are NaN or infinite, or a name of a layer that no operator can have.
    """
    import keras

    check_backend()
    if not isinstance(model, (keras.Sequential, keras.src.models.Functional)):
        raise RequestError(
            f"Expected a functional or sequential keras.Model; received {type(model).__module__}."
            f"{type(model).__name__}."
        )
    if not model.built:
        raise RequestError(f"{model.name} has no input shape yet: give it a keras.Input or call it once.")
    for layer in model._flatten_layers():
        if not (_ROOT_NAME if layer is model else _NAME).fullmatch(layer.name):
            raise RequestError(
                f"TensorFlow has no operators called {layer.name!r}. Give the {type(layer).__name__} another name, of "
                "letters, digits, '_', '-' and '.'; a model's begins with a letter or digit."
            )
        if layer.compute_dtype not in ("float32", None) and layer.weights:
            raise RequestError(
                f"The layer {layer.name!r} computes in {layer.compute_dtype}. Build the model under the float32 policy "
                "and give it the same weights: keras.config.set_dtype_policy('float32'), then set_weights()."
            )
    for tensor in model.inputs:
        if None in tensor.shape[1:]:
            raise RequestError(
                f"The input {tensor.name!r} has shape {tensor.shape}: a phone needs every side fixed. Build the model "
                "with a full input_shape, for example (224, 224, 3)."
            )
    saved_models.check_finite(model, model.name)


def output_names(model: "keras.Model") -> tuple[str, ...]:
    """Name the outputs of a functional or sequential Keras model: the keys of a dict, else the last layers' names.

    Names that occur twice are numbered, since the signature of a file needs two.
    """
    import keras

    functional = model._functional if isinstance(model, keras.Sequential) else model
    struct = functional._outputs_struct
    names = functional.output_names
    if isinstance(struct, dict):
        # What stands inside of a key's value has the key before its name.
        names = [key for key in flat_keys(struct, keras.tree.flatten) for _ in keras.tree.flatten(struct[key])]
    return tuple(flatbuffer.unique(names))


def flat_keys(struct: dict, flatten: Callable[[Any], list]) -> list:
    """Return the keys of a dict in the order in which ``flatten`` takes the values: Keras 3 sorts the keys of a dict,
    and leaves those of an ``OrderedDict`` in their order."""
    kind = OrderedDict if isinstance(struct, OrderedDict) else dict
    return flatten(kind((key, key) for key in struct))


def convert(graph: FrozenGraph, worker: Worker, weights: str = "float32") -> bytes:
    """Convert a frozen graph to a TFLite file whose inputs, outputs and activations are float32.

    Args:
        graph: see ``freeze``.
        worker: the child process in which the converter runs.
        weights: the type in which weights are stored, one of ``WEIGHT_TYPES``. With "int8", some kernels also quantise
            their activations while the file runs (the scheme "dynamic").

    Raises:
        RequestError: there is no such type of weights.
        ConversionError: the converter refused the graph or died; for an op that TFLite lacks the layer is named.
    """
    if weights not in WEIGHT_TYPES:
        raise unknown("type of weights", weights, WEIGHT_TYPES)
    try:
        content = worker.call(_convert_graph, graph, weights)
    except WorkerError as error:
        raise ConversionError(f"The converter died on this model. {error}") from error
    tree = flatbuffer.read(content)
    flatbuffer.set_signature(tree, [port.name for port in graph.inputs], [port.name for port in graph.outputs])
    return flatbuffer.write(tree)


def float_file(model: "keras.Model", worker: Worker) -> tuple[tuple[str, ...], bytes, Callable[[str], bytes]]:
    """Make the float32 TFLite file of a Keras 3 model: its branches folded, with as few ops as possible, sums written
    as means where that costs nothing.

    Args:
        model: a functional or sequential model.
        worker: the child process in which the converter runs.

    Returns:
        The names of the layers, the file's content, and a function that makes the content of a file of the same graph
        with weights of another of the ``WEIGHT_TYPES``.

    Raises:
        RequestError: the model is of another kind, or an input has a side that is not fixed.
        ConversionError: the converter refused the graph or died; for an op that TFLite lacks the layer is named.
    """
    with default_layers():
        graph = freeze(with_lean_norms(fold(model, share=True)))
    converted = convert(graph, worker)
    content = with_means(converted)
    if content is converted:
        return graph.layers, lean(content), lambda weights: convert(graph, worker, weights)
    content = lean(content)  # which the converter would write with sums again
    return graph.layers, content, lambda weights: with_weights(content, weights)


def _convert_graph(graph: FrozenGraph, weights: str) -> bytes:
    """Convert a frozen graph. This runs in the worker."""
    import tensorflow as tf

    with TemporaryFolder("mobilenets-tf-") as folder:
        path = Path(folder, "graph.pb")
        path.write_bytes(graph.content)
        try:
            # A frozen graph takes a fifth of the time of a SavedModel, which the converter loads and freezes anew.
            converter = tf.compat.v1.lite.TFLiteConverter.from_frozen_graph(
                str(path), [port.node for port in graph.inputs], [port.node for port in graph.outputs]
            )
            if weights != "float32":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.target_spec.supported_types = [tf.float16] if weights == "float16" else []
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return converter.convert()
        except Exception as error:
            raise ConversionError(_reason(str(error), graph)) from None
        finally:
            give_memory_back()


_NEEDS_FLEX = re.compile(r"tf\.(\w+) op is neither a custom op nor a flex op|^\s*tf\.(\w+)\(", re.MULTILINE)


def _reason(text: str, graph: FrozenGraph) -> str:
    """Shorten the converter's message; for an op that TFLite lacks, name the layers that contain the op."""
    missing = sorted({name for pair in _NEEDS_FLEX.findall(text) for name in pair if name})
    missing += [name for name in re.findall(r"Flex ops: ([\w, ]+)", text) for name in name.split(", ")]
    if not missing:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return "The converter refused this model: " + " | ".join(lines[:3])[:600]
    nodes = graph.graph_def.node
    places = []
    for name in dict.fromkeys(missing):
        op = name.removeprefix("Flex")
        layers = sorted({_layer_of(node.name, graph.layers) for node in nodes if node.op == op})
        places.append(f"{op} (in {', '.join(map(repr, layers[:5]))})" if layers else op)
    return (
        f"TFLite has no builtin op for {'; '.join(places)}. A phone would need the Flex runtime, which this exporter "
        "does not ship; replace those layers by ones made of builtin ops."
    )


def _layer_of(node: str, layers: tuple[str, ...]) -> str:
    """Find the innermost layer in a node's name: Keras calls the nodes of a layer "model_1/layer_1/..."."""
    for part in reversed(node.split("/")):
        for name in (part, part.rsplit("_", 1)[0]):
            if name in layers:
                return name
    return node
