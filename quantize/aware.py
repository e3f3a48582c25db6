"""Quantisation-aware fine-tuning: train with the file's rounding in place, then write the file.

A Keras 3 model becomes the float TFLite graph that post-training quantisation starts from; that graph becomes a tf_keras
model; tensorflow-model-optimization puts fake-quantisation where the plan of the integer file has its forms (Jacob et
al. 2018, arXiv 1712.05877, section 3). Because both come from one plan, what the trained model answers is what the file
answers. BatchNormalization is folded into the weights from the start, which is what freezing it means (Krishnamoorthi
2018, arXiv 1806.08342, section 3.2.2).
"""

from dataclasses import replace

import tf_keras

from mobilenets_tf import flatbuffer
from mobilenets_tf.quantize import rounding, tfmot_scheme
from mobilenets_tf.quantize.integers import WEIGHTED
from mobilenets_tf.quantize.keras_graph import Interpreter, Operation, to_tflite_weights
from mobilenets_tf.quantize.post_training import Prepared

_LOWEST, _HIGHEST = -128, 127
# Ops of one scale whose results are values of their input; the others of integers._SAME_SCALE average or mix.
_EXACT = {"PAD", "RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "MAX_POOL_2D", "SPLIT", "SPLIT_V", "CONCATENATION"}


class Aware:
    """A model in training for int8.

    float_model: the tf_keras model, nothing rounded.
    model: the same with fake-quantisation; compile and fit this one.
    """

    def __init__(self, prepared: Prepared, layer_names: list[str], per_tensor: bool):
        self._prepared, self._per_tensor = prepared, per_tensor
        self.float_model = _Builder(prepared, layer_names, per_tensor).float_model()
        builder = _Builder(prepared, layer_names, per_tensor)
        self.model, self._ranges = builder.aware_model()
        self._weighted = builder.weighted

    def trained(self) -> Prepared:
        """The float graph with the weights and ranges as training has left them, ready to be written."""
        tree = flatbuffer.read(self._prepared.model)
        graph = flatbuffer.Graph(tree)
        for place, name in self._weighted.items():
            operator = tree.subgraphs[0].operators[place]
            op = graph.name(operator)
            kernel, *bias = self._weights(name)
            flatbuffer.replace_constant(tree, operator, WEIGHTED[op][1], to_tflite_weights(op, kernel))
            if bias:
                flatbuffer.replace_constant(tree, operator, WEIGHTED[op][2], bias[0])
        model = flatbuffer.write(tree)
        ranges = dict(self._prepared.ranges)
        for root, factors in self._ranges.items():
            low, high = ranges[root]
            ranges[root] = low * float(factors["low"].numpy()), high * float(factors["high"].numpy())
        return replace(self._prepared, model=model, ranges=ranges, rounded=rounding.nearest(model, self._per_tensor))

    def _weights(self, name: str) -> list:
        wrapper = self.model.get_layer(f"quant_{name}")
        ((kernel, _, _),) = wrapper._weight_vars  # the layer's own attribute holds what it was rounded to
        return [kernel.numpy(), *([wrapper.layer.bias.numpy()] if wrapper.layer.use_bias else [])]


class _Builder:
    """Connects the layers of a prepared model's graph, as they are or annotated for tfmot."""

    def __init__(self, prepared: Prepared, layer_names: list[str], per_tensor: bool):
        self._interpreter = Interpreter(flatbuffer.read(prepared.model), layer_names)
        self._graph = self._interpreter.graph
        self._plan, self._prepared, self._per_tensor = prepared.plan(), prepared, per_tensor
        self.weighted: dict[int, str] = {}  # place of an operator with weights -> its layer's name
        self._weights: list[tuple] = []
        self._home: dict[int, object] = {}  # tensor -> as its op gives it
        self._integer_homes: set[int] = set()  # tensors whose op gives integers
        self._changed: dict[tuple[int, int], object] = {}  # (tensor, form's owner) -> as ops read it that want it so

    def float_model(self):
        """Nothing rounded."""
        return self._connect(annotated=False)

    def aware_model(self):
        """With fake-quantisation, and the factors of the trained ranges: root tensor -> {"low", "high"}."""
        model, factors = tfmot_scheme.apply(self._connect(annotated=True), {"Operation": Operation})
        return model, {int(group): variables for group, variables in factors.items()}

    def _connect(self, annotated: bool):
        graph = self._graph.graph
        integer_ends = annotated and self._prepared.scheme.io != "float32"
        inputs = []
        for index in map(int, graph.inputs):
            name = self._interpreter.unique(graph.tensors[index].name.decode())
            inputs.append(tf_keras.Input(self._graph.shape(index)[1:], name=name))
            self._home[index] = inputs[-1]
            if integer_ends and index in self._plan.forms:
                self._home[index] = self._rounded(index, index)
                self._integer_homes.add(index)
        for place, operator in enumerate(graph.operators):
            self._call(place, operator, annotated and place in self._plan.integer)
        outputs = [
            self._read(index, index if integer_ends and index in self._plan.forms else None)
            for index in map(int, graph.outputs)
        ]
        model = tf_keras.Model(inputs, outputs, name="aware" if annotated else "float")
        for layer, weights in self._weights:
            layer.set_weights(weights)
        return model

    def _call(self, place: int, operator, integer: bool) -> None:
        values = []
        for position, index in enumerate(map(int, operator.inputs)):
            if index in self._home:
                owner = int(operator.outputs[0]) if (place, position) in self._plan.demanded else index
                values.append(self._read(index, owner if integer else None))
        for layer, weights, output in self._interpreter.layers(place):
            if weights:
                self.weighted[place] = layer.name
                self._weights.append((layer, weights))
            config = self._config(operator, output, layer if weights else None) if integer else None
            called = tfmot_scheme.annotate(layer, config) if config else layer
            self._home[output] = called(values if len(values) > 1 else values[0])
            if integer:
                self._integer_homes.add(output)

    def _config(self, operator, output: int, weighted) -> "tfmot_scheme.PlannedConfig | None":
        exact = self._graph.name(operator) in _EXACT or output not in self._plan.forms
        if exact and weighted is None:
            return None
        weights = {"per_tensor": self._per_tensor, "kind": type(weighted).__name__} if weighted else None
        return tfmot_scheme.PlannedConfig(weights, None if exact else self._range_of(output))

    def _read(self, index: int, owner: int | None):
        """A tensor as an op reads it: in float (owner None), or in the form of the tensor ``owner``."""
        if owner is None or (owner == index and index in self._integer_homes):
            return self._home[index]
        if (index, owner) not in self._changed:
            self._changed[index, owner] = self._rounded(index, owner)
        return self._changed[index, owner]

    def _rounded(self, index: int, owner: int):
        name = self._interpreter.unique("quantize")
        layer = Operation("IDENTITY", name=name)
        config = tfmot_scheme.PlannedConfig(None, self._range_of(owner))
        return tfmot_scheme.annotate(layer, config)(self._home[index])

    def _range_of(self, owner: int) -> dict:
        """The ``ActivationQuantizer``'s options for the form of a tensor."""
        root = self._plan.roots.get(owner)
        if root is None:  # the runtime's own form
            form = self._plan.forms[owner]
            low, high = ((limit - form.zero_point) * form.scale for limit in (_LOWEST, _HIGHEST))
            final = self._graph.is_output(owner)
            return {"low": low, "high": high, "group": "", "trainable": False, "only_at_inference": final}
        low, high = self._prepared.ranges[root]
        given = root in map(int, self._graph.graph.inputs)
        return {"low": low, "high": high, "group": str(root), "trainable": not given}
