"""The kind of each output of a network: classes, one yes or no, several, an embedding, or values. Decided here, once.

The shape and the last activation decide. A linear output has none: its numbers may be logits or values. Whatever says
that a network is a classifier (a registered network, names of classes, annotated images) decides for logits; otherwise
the output is ``UNDECIDED`` and judged as both. A kind tells how the answers of two files are compared
(``fidelity.OutputTally``), and what a score for each class is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mobilenets_tf.conversion.convert import output_names
from mobilenets_tf.conversion.frozen_graph import FrozenGraph
from mobilenets_tf.errors import unknown
from mobilenets_tf.tflite import flatbuffer

if TYPE_CHECKING:
    import keras

# Layers and operators that do not change the meaning of the values.
_PASSES_IN_KERAS = {"Reshape", "Flatten", "Dropout", "Identity", "UpSampling2D", "Resizing", "CenterCrop", "Cropping2D"}
_PASSES_IN_TFLITE = {
    "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "QUANTIZE", "DEQUANTIZE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"
}  # fmt: skip
_KERAS = {
    "softmax": "softmax", "log_softmax": "softmax", "Softmax": "softmax", "LogSoftmax": "softmax",
    "sigmoid": "sigmoid", "Sigmoid": "sigmoid", "hard_sigmoid": "sigmoid", "HardSigmoid": "sigmoid",
    "UnitNormalization": "unit", "Normalize": "unit",
    "GlobalAveragePooling2D": "pool", "GlobalMaxPooling2D": "pool",
    "relu": "bounded", "ReLU": "bounded", "Relu": "bounded", "relu6": "bounded", "tanh": "bounded", "Tanh": "bounded",
    "softplus": "bounded", "Softplus": "bounded", "exponential": "bounded", "Exp": "bounded",
}  # fmt: skip
_TFLITE = {
    "SOFTMAX": "softmax", "LOG_SOFTMAX": "softmax", "LOGISTIC": "sigmoid", "L2_NORMALIZATION": "unit",
    "MEAN": "pool", "AVERAGE_POOL_2D": "pool", "RELU": "bounded", "RELU6": "bounded", "TANH": "bounded",
    "EXP": "bounded",
}  # fmt: skip
_PASSES_IN_GRAPHS = {"Identity", "Reshape", "Squeeze", "ExpandDims", "ResizeBilinear", "ResizeNearestNeighbor"}
_GRAPHS = {
    "Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid", "Mean": "pool", "AvgPool": "pool",
    "Relu": "bounded", "Relu6": "bounded", "Tanh": "bounded", "Softplus": "bounded", "Exp": "bounded",
}  # fmt: skip


@dataclass(frozen=True)
class OutputKind:
    """The kind of an output, whose last axis has the elements; every other axis has places, of which each is an answer.

    name: as manifests have it. meaning: for people, of the output's numbers. measure: what the agreement of two files
        is called.
    cut: of a kind that says yes or no, the value above which the answer is yes.
    classes: a place of the output names one class. by_element: the agreement is no better than that of the worst
        element, as a share of the element's own spread.
    """

    name: str
    meaning: str
    measure: str
    cut: float | None = None
    classes: bool = False
    by_element: bool = False

    @property
    def same_is_measured(self) -> bool:
        """Whether ``same`` compares the answers of whole places, rather than the elements alone."""
        return self is not VALUES

    def scores(self, values: np.ndarray) -> np.ndarray:
        """Return a score for each class, the highest for the answer: values (n, elements) as they are; of a yes or no,
        (n, 1), the probabilities of no and yes, (n, 2)."""
        if self.cut is None or not self.classes:
            return values
        yes = np.asarray(values, np.float64)
        if self.cut == 0:
            return np.concatenate([_sigmoid(-yes), _sigmoid(yes)], axis=-1)
        return np.concatenate([1 - yes, yes], axis=-1)

    def same(self, reference: np.ndarray, candidate: np.ndarray) -> np.ndarray | None:
        """Return how far each of n places has the same answer in two files, (n,) from 0 to 1.

        Args:
            reference, candidate: (n, elements).

        Returns:
            None for a kind whose elements alone are compared.
        """
        if not self.same_is_measured:
            return None
        if self.cut is None and not self.classes:
            return _cosines(reference, candidate)
        if self.classes and self.cut is None:
            return (reference.argmax(-1) == candidate.argmax(-1)).astype(np.float64)
        same = ((reference > self.cut) == (candidate > self.cut)).all(-1)
        if reference.shape[-1] > 1:  # several yes or no, or logits that may be classes
            highest = reference.argmax(-1) == candidate.argmax(-1)
            same = highest if self.by_element else same & highest
        return same.astype(np.float64)


CLASSES = OutputKind("classes", "the score of each class", "same class", classes=True)
BINARY = OutputKind(
    "binary", "the probability of the second of two classes: the answer above 0.5", "same side of 0.5", 0.5, True
)
BINARY_LOGIT = OutputKind(
    "binary_logit", "the logit of the second of two classes: the answer above 0", "same side of 0", 0.0, True
)
MULTI_LABEL = OutputKind(
    "multi_label", "the probability of each label, which holds above 0.5", "same labels above 0.5", cut=0.5
)
EMBEDDING = OutputKind("embedding", "an embedding, to be compared by the cosine", "mean cosine")
VALUES = OutputKind("values", "values", "R2 of the worst element", by_element=True)
UNDECIDED = OutputKind(
    "undecided", "values, or the logits of classes", "same highest value, or R2 of the worst element",
    cut=0.0, by_element=True,
)  # fmt: skip
KINDS = {
    kind.name: kind for kind in (CLASSES, BINARY, BINARY_LOGIT, MULTI_LABEL, EMBEDDING, VALUES, UNDECIDED)
}  # fmt: skip


def kind_of(name: str) -> OutputKind:
    """Return the kind of a name.

    Raises:
        RequestError: there is no such kind.
    """
    if name not in KINDS:
        raise unknown("kind of an output", name, KINDS)
    return KINDS[name]


@dataclass(frozen=True)
class End:
    """One output of a network.

    name: in the signature. shape: without the batch axis. activation: "softmax", "sigmoid", "unit" (a vector of length
    1), "pool" (features that are pooled), "bounded" (an activation that no classifier ends in), or "linear".
    """

    name: str
    shape: tuple[int, ...]
    activation: str = "linear"

    @property
    def elements(self) -> int:
        """How many elements a place of the output has."""
        return self.shape[-1] if self.shape else 1

    @property
    def kind(self) -> OutputKind:
        """The kind that shape and activation decide."""
        single = self.elements == 1
        if self.activation == "softmax" and not single:
            return CLASSES
        if self.activation == "sigmoid":
            return BINARY if single else MULTI_LABEL
        if self.activation in ("unit", "pool") and len(self.shape) == 1 and not single:
            return EMBEDDING
        return UNDECIDED if self.activation == "linear" else VALUES


def decided(ends: Sequence[End], classifies: bool = False, classes: int | None = None) -> tuple[OutputKind, ...]:
    """Decide the kind of each output.

    Args:
        classifies: the network is known to be a classifier. Where no activation shows which output has its answer, the
            first vector has, of ``classes`` elements if there is one: its numbers are scores or logits.
        classes: how many classes are known to be, if any are.
    """
    kinds = [end.kind for end in ends]
    if not classifies or answer_place(ends, kinds) is not None:
        return tuple(kinds)
    vectors = [place for place, end in enumerate(ends) if len(end.shape) == 1]
    fitting = [place for place in vectors if classes in (ends[place].elements, ends[place].elements + 1)]
    for place in (fitting or vectors)[:1]:
        kinds[place] = CLASSES if ends[place].elements > 1 else BINARY_LOGIT
    return tuple(kinds)


def answer_place(ends: Sequence[End], kinds: Sequence[OutputKind]) -> int | None:
    """Return the place of the output that names the class of an image; None where none does."""
    places = [place for place, end in enumerate(ends) if len(end.shape) == 1]
    answers = [place for place in places if kinds[place].classes]
    several = [place for place in places if kinds[place] is MULTI_LABEL]
    return next(iter(answers + several), None)


def ends_of_model(model: "keras.Model") -> tuple[End, ...]:
    """Describe the outputs of a functional or sequential Keras model. An output of a dict has the name of its key."""
    ends = zip(output_names(model), model.outputs, strict=True)
    return tuple(End(name, tuple(tensor.shape[1:]), _activation_in_keras(tensor)) for name, tensor in ends)


def ends_of_file(content: bytes) -> tuple[End, ...]:
    """Describe the outputs of a TFLite file.

    Raises:
        RequestError: the content is no TFLite file, or a damaged one.
    """
    graph = flatbuffer.Graph(flatbuffer.read(content))
    return tuple(
        End(graph.tensors[index].name.decode(), graph.shape(index)[1:], _activation_in_file(graph, index))
        for index in graph.outputs
    )


def ends_of_graph(graph: FrozenGraph) -> tuple[End, ...]:
    """Describe the outputs of a frozen graph, whose shapes are known."""
    nodes = {node.name: node for node in graph.graph_def.node}
    ends = []
    for port in graph.outputs:
        node = nodes[port.node]
        while node.op in _PASSES_IN_GRAPHS:
            node = _inputs_of(node, nodes)[0]
        activation = "unit" if _is_normalised(node, nodes) else _GRAPHS.get(node.op, "linear")
        ends.append(End(port.name, tuple(side or 0 for side in port.shape[1:]), activation))
    return tuple(ends)


def _inputs_of(node, nodes: dict) -> list:
    return [nodes[name.partition(":")[0]] for name in node.input if not name.startswith("^")]


def _is_normalised(node, nodes: dict) -> bool:
    """Tell whether a node gives vectors of length 1, as ``tf.math.l2_normalize`` and Keras' UnitNormalization do."""
    for factor in _inputs_of(node, nodes) if node.op == "Mul" else ():
        found = []
        while factor.op in ("Rsqrt", "Maximum", "Sum", "Square"):
            found.append(factor.op)
            factor = _inputs_of(factor, nodes)[0]
        if found == ["Rsqrt", "Maximum", "Sum", "Square"]:
            return True
    return False


def _activation_in_keras(tensor) -> str:
    layer, node, place = tensor._keras_history
    if hasattr(layer, "outputs") and hasattr(layer, "layers"):  # a model inside of the model
        return _activation_in_keras(layer.outputs[place])
    kind, activation = type(layer).__name__, getattr(layer, "activation", None)
    if activation is not None and getattr(activation, "__name__", "") != "linear":
        return _KERAS.get(getattr(activation, "__name__", ""), "bounded")
    if kind in _KERAS:
        return _KERAS[kind]
    if kind in _PASSES_IN_KERAS or (kind == "Activation" and activation is not None):
        before = layer._inbound_nodes[node].input_tensors
        return _activation_in_keras(before[0]) if before else "linear"
    return "linear"


def _activation_in_file(graph: flatbuffer.Graph, index: int) -> str:
    while (operator := graph.writer.get(index)) and graph.name(operator) in _PASSES_IN_TFLITE:
        index = operator.inputs[0]
    if operator is None:
        return "linear"
    fused = getattr(operator.builtinOptions, "fusedActivationFunction", 0)
    return _TFLITE.get(graph.name(operator), "bounded" if fused else "linear")


def _cosines(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(reference, axis=-1) * np.linalg.norm(candidate, axis=-1)
    products = (reference * candidate).sum(-1)
    both_zero = ~(reference.any(-1) | candidate.any(-1))
    return np.where(both_zero, 1.0, products / np.where(norms == 0, 1.0, norms))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -500, 500)))


def names_of(kinds: Iterable[OutputKind]) -> list[str]:
    """Return the names of kinds, for a manifest."""
    return [kind.name for kind in kinds]
