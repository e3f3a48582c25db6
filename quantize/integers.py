"""Turn a float TFLite graph, with a range for each activation, into the quantised graph.

Only this module decides where integers begin and end. It does so in two steps: ``plan`` says which ops compute in
integers, and with which scale and zero point each activation is stored; ``write`` makes the file. Quantisation-aware
training rounds by the same plan, so that a trained model and its file cannot disagree.

The rules are those of the TFLite 8-bit quantisation specification (ai.google.dev/edge/litert, "quantization_spec"):
activations with one scale and zero point a tensor, weights symmetric with one scale an output channel, biases in the
product of the two scales, and for 16-bit activations zero points of 0.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mobilenets_tf.quantize.schemes import Scheme
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema


class WeightedInputs(NamedTuple):
    """The places of data, weights and bias among the inputs of an op, and the axis of the weights that has the output
    channels.
    """

    data: int
    weights: int
    bias: int
    output_axis: int


# The ops that have weights.
WEIGHTED = {
    "CONV_2D": WeightedInputs(0, 1, 2, output_axis=0),  # OHWI
    "DEPTHWISE_CONV_2D": WeightedInputs(0, 1, 2, output_axis=3),  # 1HWO
    "FULLY_CONNECTED": WeightedInputs(0, 1, 2, output_axis=0),  # OI
    "TRANSPOSE_CONV": WeightedInputs(2, 1, 3, output_axis=0),  # OHWI
}
# Ops whose output has the scale of their input: they move, pick or average values.
SAME_SCALE = {
    "AVERAGE_POOL_2D", "BATCH_TO_SPACE_ND", "BROADCAST_TO", "CONCATENATION", "DEPTH_TO_SPACE", "EXPAND_DIMS", "GATHER",
    "MAXIMUM", "MAX_POOL_2D", "MINIMUM", "MIRROR_PAD", "PACK", "PAD", "PADV2", "REDUCE_MAX", "REDUCE_MIN", "RESHAPE",
    "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2", "SLICE", "SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH", "SPLIT",
    "SPLIT_V", "SQUEEZE", "STRIDED_SLICE", "TILE", "TRANSPOSE", "UNPACK",
}  # fmt: skip
# Ops whose output has the scale and zero point that the runtime demands: (int8, int16).
_FIXED_SCALE = {
    "SOFTMAX": ((1 / 256, -128), (1 / 32768, 0)),
    "LOGISTIC": ((1 / 256, -128), (1 / 32768, 0)),
    "TANH": ((1 / 128, 0), (1 / 32768, 0)),
    "LOG_SOFTMAX": ((16 / 256, 127), None),
    "L2_NORMALIZATION": ((1 / 128, 0), None),
}
# Ops with integer kernels and an output scale of their own. Ops in none of these tables compute in float.
_OWN_SCALE = {
    "int8": {
        "ADD", "SUB", "MUL", "MEAN", "SUM", "BATCH_MATMUL", "SQUARED_DIFFERENCE", "RSQRT", "ABS", "PRELU", "LEAKY_RELU",
        "ELU", "GELU", "HARD_SWISH", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1",
    },
    "int16": {"ADD", "SUB", "MUL", "MEAN", "SUM", "BATCH_MATMUL", "LEAKY_RELU", "RELU", "RELU6"},
}  # fmt: skip
_NO_INT16 = {"BATCH_TO_SPACE_ND", "BROADCAST_TO", "DEPTH_TO_SPACE", "REVERSE_V2", "SPACE_TO_DEPTH", "TILE"}
# Versions of the ops' integer forms, as TensorFlow's op_version.cc numbers them, by which an old runtime recognises an
# op that it does not know. The integer form of every other op is version 2.
_VERSIONS = {
    "int8": {
        "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "TRANSPOSE_CONV": 3, "RESHAPE": 1, "SQUEEZE": 1,
        "EXPAND_DIMS": 1, "ELU": 1, "HARD_SWISH": 1, "PRELU": 1, "LEAKY_RELU": 1, "BROADCAST_TO": 3, "TILE": 3,
        "REVERSE_V2": 3, "RELU_0_TO_1": 1, "RELU_N1_TO_1": 1,
    },
    "int16": {
        "CONV_2D": 4, "DEPTHWISE_CONV_2D": 5, "FULLY_CONNECTED": 7, "TRANSPOSE_CONV": 3, "RESHAPE": 1, "SQUEEZE": 1,
        "EXPAND_DIMS": 1, "LEAKY_RELU": 2, "ADD": 3, "SUB": 5, "MUL": 4, "MEAN": 3, "SUM": 2, "BATCH_MATMUL": 3,
        "RELU": 3, "RELU6": 3, "SOFTMAX": 3, "LOGISTIC": 3, "TANH": 3, "AVERAGE_POOL_2D": 3, "MAX_POOL_2D": 3,
        "CONCATENATION": 3, "GATHER": 4, "MAXIMUM": 4, "MINIMUM": 4, "MIRROR_PAD": 3, "PACK": 3, "PAD": 3, "PADV2": 3,
        "REDUCE_MAX": 3, "REDUCE_MIN": 3, "RESIZE_BILINEAR": 4, "RESIZE_NEAREST_NEIGHBOR": 4, "SLICE": 4,
        "SPACE_TO_BATCH_ND": 4, "SPLIT": 4, "SPLIT_V": 1, "STRIDED_SLICE": 4, "TRANSPOSE": 5, "UNPACK": 4,
    },
}  # fmt: skip
_LIMITS = {"int8": (-128, 127), "int16": (-32768, 32767)}
LARGEST_WEIGHT = 127  # symmetric: -127 to 127
SMALLEST_SCALE = 1e-9  # for weights that are all zero


@dataclass(frozen=True)
class Form:
    """How a tensor's integers stand for real values: real = scale x (integer - zero_point)."""

    scale: float
    zero_point: int

    @classmethod
    def spanning(cls, low: float, high: float, dtype: str) -> "Form":
        """Make the form whose integers reach from ``low`` to ``high`` and represent zero exactly.

        Eight bits use all 256 levels, so one end moves by less than half a step to make zero exact. Sixteen bits are
        symmetric around zero, as their kernels require.

        Args:
            low, high: the real values at the two ends; zero is always included.
            dtype: "int8" or "int16".
        """
        low, high = min(low, 0.0), max(high, 0.0)
        lowest, highest = _LIMITS[dtype]
        if dtype == "int16":
            return cls(float(np.float32(max(-low, high) / highest)), 0)
        scale = float(np.float32((high - low) / (highest - lowest)))
        return cls(scale, int(np.clip(np.round(lowest - low / scale), lowest, highest)))

    def span(self, dtype: str) -> tuple[float, float]:
        """Give the real values at the two ends."""
        lowest, highest = _LIMITS[dtype]
        return (lowest - self.zero_point) * self.scale, (highest - self.zero_point) * self.scale

    def integers(self, values: np.ndarray, dtype: str) -> np.ndarray:
        """Round real values to integers, and clip those out of range."""
        return np.clip(np.round(values / self.scale) + self.zero_point, *_LIMITS[dtype]).astype(dtype)

    def rounded(self, values: np.ndarray, dtype: str) -> np.ndarray:
        """Round float32 values as storing and reading them back does."""
        return np.clip(np.round(values / np.float32(self.scale)) * np.float32(self.scale), *self.span(dtype))


def constant_form(values: np.ndarray, dtype: str) -> Form:
    """Make the form of a constant that is no layer's weights: its range is that of its values."""
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    return Form.spanning(low, high if high > low else low + 1.0, dtype)


@dataclass
class IntegerPlan:
    """The ops of a float graph that compute in integers, and the integer form of each activation.

    dtype: the type of the activations, "int8" or "int16".
    integer: the places of the operators that compute in integers, in the graph's order.
    forms: activation tensor -> its integer form. A tensor that only float ops write and read has none.
    roots: activation tensor -> the tensor whose range decides its form, mostly itself. A tensor whose form the runtime
        decides has none.
    demanded: (place of an operator, position of an input) -> the form in which the operator reads that input, where
        the tensor has another form: a QUANTIZE op between them converts it.
    """

    dtype: str
    integer: set[int] = field(default_factory=set)
    forms: dict[int, Form] = field(default_factory=dict)
    roots: dict[int, int] = field(default_factory=dict)
    demanded: dict[tuple[int, int], Form] = field(default_factory=dict)


def plan(
    tree: schema.ModelT,
    ranges: Mapping[int, tuple[float, float]],
    scheme: Scheme,
    keep_float: Collection[int] = (),
    own_form: Collection[int] = (),
    chained: Collection[tuple[int, int]] = (),
) -> IntegerPlan:
    """Decide which ops of a float graph compute in integers, and the form of every activation.

    Args:
        tree: the float model.
        ranges: (low, high) of activation tensors, by index. An op whose result has no range stays float.
        scheme: a calibrated scheme.
        keep_float: the places of operators that stay float in any case.
        own_form: the places of operators of SAME_SCALE with constants, whose result has a form of its own: that of the
            input does not suit the constants (steps/shared_forms.py).
        chained: (place, position) of inputs that are not converted: the result's form is also that of the input, for
            everything that reads the input (steps/shared_forms.py).
    """
    return _Planner(tree, ranges, scheme, set(keep_float), set(own_form), set(chained)).plan()


class _Planner(flatbuffer.Graph):
    def __init__(
        self,
        tree: schema.ModelT,
        ranges: Mapping[int, tuple[float, float]],
        scheme: Scheme,
        keep_float: set[int],
        own_form: set[int],
        chained: set[tuple[int, int]],
    ):
        super().__init__(tree)
        self._ranges, self._scheme, self._dtype = ranges, scheme, scheme.activations
        self._own_form, self._chained = own_form, chained
        self._place = {id(operator): place for place, operator in enumerate(self.operators)}
        self._integer = {
            place
            for place, operator in enumerate(self.operators)
            if place not in keep_float and self._has_integer_form(operator)
        }
        self._leave_movers_between_float_ops()
        # Tensors that share a scale: a forest of indices. The range of a tree's root holds for the whole tree.
        self._parent: dict[int, int] = {}
        self._fixed: dict[int, Form] = {}
        # (place of an operator, position of an input) -> the tensor in whose form the operator reads it.
        self._demanded: dict[tuple[int, int], int] = {}

    def plan(self) -> IntegerPlan:
        for place in sorted(self._integer):
            self._unite(place, self.operators[place])
        for place, position in sorted(self._chained & self._demanded.keys()):
            result = self._demanded.pop((place, position))
            self._join(self._root(result), self.operators[place].inputs[position])
        plan = IntegerPlan(self._dtype, self._integer)
        for place in sorted(self._integer):
            operator = self.operators[place]
            for index in (*self.activations(operator.inputs), *self.activations(operator.outputs)):
                plan.forms[index] = self._form(index)
        if self._scheme.io != "float32":
            for index in (*self.activations(self.inputs), *self.activations(self.outputs)):
                plan.forms[index] = self._form(index)
        plan.demanded = {key: self._form(index) for key, index in self._demanded.items()}
        plan.roots = {index: root for index in plan.forms if (root := self._root(index)) not in self._fixed}
        return plan

    def _has_integer_form(self, operator) -> bool:
        name, sixteen = self.name(operator), self._dtype == "int16"
        data, results = self.activations(operator.inputs), self.activations(operator.outputs)
        if not data or (not results and (sixteen or name not in ("ARG_MAX", "ARG_MIN"))):
            return False
        if name in SAME_SCALE:
            return not (sixteen and name in _NO_INT16)
        if name in _FIXED_SCALE:
            return _FIXED_SCALE[name][sixteen] is not None
        if not all(index in self._ranges for index in results):
            return False
        if name in WEIGHTED:
            places = (WEIGHTED[name].weights, WEIGHTED[name].bias)
            constants = [operator.inputs[place] for place in places if place < len(operator.inputs)]
            return all(index < 0 or self.constant(index) is not None for index in constants)
        return name in _OWN_SCALE[self._dtype] or not results

    def _leave_movers_between_float_ops(self) -> None:
        """Leave an op in float if it only moves values from float ops to float ops."""
        integer = self._integer

        def is_float(operator):
            return operator is not None and self._place[id(operator)] not in integer

        changed = True
        while changed:
            changed = False
            for place in sorted(integer):
                operator = self.operators[place]
                if self.name(operator) not in SAME_SCALE:
                    continue
                writers = [self.writer.get(index) for index in self.activations(operator.inputs)]
                readers = [reader for index in operator.outputs for reader in self.readers[index]]
                if all(map(is_float, writers + readers)) and not any(map(self.is_output, operator.outputs)):
                    integer.remove(place)
                    changed = True

    def _root(self, index: int) -> int:
        while index in self._parent:
            index = self._parent[index]
        return index

    def _join(self, root: int, index: int) -> None:
        """Give the tensors that share a scale with ``index`` the scale of ``root``."""
        index = self._root(index)
        if index != root:
            self._parent[index] = root

    def _unite(self, place: int, operator) -> None:
        """Note which tensors an op requires to share a scale, and the scale that it fixes for its result."""
        name = self.name(operator)
        if name in _FIXED_SCALE:
            self._fixed[operator.outputs[0]] = Form(*_FIXED_SCALE[name][self._dtype == "int16"])
        if name not in SAME_SCALE:
            return
        data, results = self.activations(operator.inputs), self.activations(operator.outputs)
        roots = {self._root(index) for index in data}
        forms = {self._fixed.get(root) for root in roots}
        if place not in self._own_form and (len(roots) == 1 or (len(forms) == 1 and None not in forms)):
            for index in (*data, *results):
                self._join(self._root(data[0]), index)
            return
        # Inputs of different scales, such as those of a concatenation, all get the result's scale, and so do inputs
        # whose scale does not suit the constants. An input that nothing else reads is written with that scale at once;
        # a QUANTIZE op converts every other input.
        (result,) = results
        for position, index in enumerate(operator.inputs):
            if index in data:
                if self._only_leads_to(self._root(index), operator):
                    self._join(result, index)
                else:
                    self._demanded[place, position] = result

    def _only_leads_to(self, root: int, operator: schema.OperatorT) -> bool:
        """Tell whether this operator alone reads the tensors that share a scale with ``root``, apart from the ops that
        pass the scale on."""
        if root in self._fixed or root in self.inputs:
            return False
        members = [index for index in range(len(self.tensors)) if self._root(index) == root]
        inner = {id(operator)} | {
            id(reader)
            for index in members
            for reader in self.readers[index]
            if self._place[id(reader)] in self._integer
            and self.name(reader) in SAME_SCALE
            and self._root(reader.outputs[0]) == root
        }
        return all(
            not self.is_output(index) and all(id(reader) in inner for reader in self.readers[index])
            for index in members
        )

    def _form(self, index: int) -> Form:
        root = self._root(index)
        return self._fixed.get(root) or Form.spanning(*self._ranges[root], self._dtype)


@dataclass(frozen=True)
class RoundedWeights:
    """Symmetric int8 weights of a layer: real = scale x integer.

    integers: the shape of the float weights. scale: shape (output channels), or (1) for one scale for all.
    """

    integers: np.ndarray
    scale: np.ndarray

    def values(self, axis: int) -> np.ndarray:
        """Give the real values; ``axis`` is the axis of the output channels."""
        return (self.integers * _along(self.scale, axis, self.integers.ndim)).astype(np.float32)


def round_weights(weights: np.ndarray, axis: int | None, least_scale: float | np.ndarray = 0.0) -> RoundedWeights:
    """Round each weight to the nearest integer.

    Args:
        weights: of any shape.
        axis: the axis of the output channels, each of which gets a scale; None for one scale for all weights.
        least_scale: no scale becomes smaller; one value, or one for each channel.
    """
    others = tuple(i for i in range(weights.ndim) if i != axis)
    least_scale = np.maximum(least_scale, SMALLEST_SCALE)
    scale = np.maximum(np.abs(weights).max(axis=others) / LARGEST_WEIGHT, least_scale).astype(np.float32).reshape(-1)
    steps = np.round(weights / _along(scale, axis or 0, weights.ndim))
    return RoundedWeights(np.clip(steps, -LARGEST_WEIGHT, LARGEST_WEIGHT).astype(np.int8), scale)


def _along(scale: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    return scale.reshape([-1 if i == axis else 1 for i in range(ndim)])


def write(tree: schema.ModelT, plan: IntegerPlan, scheme: Scheme, rounded: Mapping[int, RoundedWeights]) -> None:
    """Turn the float model into its quantised form, in place.

    Args:
        tree: the float model.
        plan: the result of ``plan`` for that model.
        scheme: the scheme, which decides the types of inputs and outputs.
        rounded: the integer weights of each operator that has weights, by the operator's place.
    """
    _IntegerWriter(tree, plan, scheme, rounded).write()


class _IntegerWriter(flatbuffer.Graph):
    def __init__(self, tree: schema.ModelT, plan: IntegerPlan, scheme: Scheme, rounded: Mapping[int, RoundedWeights]):
        super().__init__(tree)
        self._plan, self._scheme, self._rounded = plan, scheme, rounded
        self._activation = getattr(schema.TensorType, plan.dtype.upper())
        inputs = set(self.activations(self.inputs)) if scheme.io != "float32" else set()
        self._home_is_integer = inputs | {
            index
            for place, operator in enumerate(self.operators)
            if place in plan.integer
            for index in self.activations(operator.outputs)
        }
        # (tensor, form or None for float32) -> the tensor that holds the same values in that form.
        self._others: dict[tuple[int, Form | None], int] = {}
        # Shape, values, scales and axis of integer weights -> the tensor that holds them.
        self._kernels: dict[tuple, int] = {}
        self._written: list[schema.OperatorT] = []

    def write(self) -> None:
        for place, operator in enumerate(list(self.operators)):
            convert = self._integer_operator if place in self._plan.integer else self._float_operator
            convert(place, operator)
            self._written.append(operator)
        integer_ends = self._scheme.io != "float32"
        graph = self.model.subgraphs[0]
        graph.outputs = [
            index if index not in self._plan.forms and not self._is_float(index)
            else self._in_form(index, self._form_of_end(index)) if integer_ends
            else self._in_float(index)
            for index in self.outputs
        ]  # fmt: skip
        graph.operators = self._written
        for index in self._home_is_integer:
            self._store(index, self._plan.forms[index])

    def _form_of_end(self, index: int) -> Form:
        """Give the form of an output; that of a constant output follows from its values."""
        if (values := self.constant(index)) is not None:
            return constant_form(values, self._plan.dtype)
        return self._plan.forms[index]

    def _is_float(self, index: int) -> bool:
        return self.tensors[index].type == schema.TensorType.FLOAT32

    def _store(self, index: int, form: Form, dtype: int | None = None) -> None:
        tensor = self.tensors[index]
        tensor.type = self._activation if dtype is None else dtype
        tensor.quantization = _parameters([form.scale], [form.zero_point])

    def _in_form(self, index: int, form: Form) -> int:
        """Find the tensor that holds an activation as integers of that form; add the op that makes it if needed."""
        at_home = index in self._home_is_integer
        if at_home and form == self._plan.forms[index]:
            return index
        if (index, form) not in self._others:
            other = self._twin(index, self._plan.dtype)
            self._store(other, form)
            self._others[index, form] = other
            self._written.append(flatbuffer.make_operator(self.model, "QUANTIZE", [index], [other]))
            self._version("QUANTIZE", 2 if self._plan.dtype == "int16" else 1)
        return self._others[index, form]

    def _in_float(self, index: int) -> int:
        """Find the tensor that holds an activation as float32; add the op that makes it if needed."""
        if index not in self._home_is_integer:
            return index
        if (index, None) not in self._others:
            self._others[index, None] = other = self._twin(index, "float32")
            self._written.append(flatbuffer.make_operator(self.model, "DEQUANTIZE", [index], [other]))
            self._version("DEQUANTIZE", 3 if self._plan.dtype == "int16" else 2)
        return self._others[index, None]

    def _twin(self, index: int, kind: str) -> int:
        tensor = self.tensors[index]
        return flatbuffer.add_tensor(self.model, f"{tensor.name.decode()}/{kind}", tensor.shape)

    def _float_operator(self, place: int, operator) -> None:
        operator.inputs = [index if index < 0 else self._in_float(index) for index in operator.inputs]

    def _integer_operator(self, place: int, operator) -> None:
        name, dtype = self.name(operator), self._plan.dtype
        activations = set(self.activations(operator.inputs))
        inputs = []
        for position, index in enumerate(operator.inputs):
            if index in activations:
                form = self._plan.demanded.get((place, position), self._plan.forms[index])
                index = self._in_form(index, form)
            inputs.append(index)
        if name in WEIGHTED:
            self._weights(self._rounded[place], operator, inputs, WEIGHTED[name])
        else:
            for position, index in enumerate(inputs):
                values = self.constant(index) if index >= 0 and index not in activations else None
                if values is not None:
                    home = self._plan.forms[operator.outputs[0]] if name in SAME_SCALE else None
                    form = home or constant_form(values, dtype)
                    inputs[position] = self._constant(index, form.integers(values, dtype), form)
        operator.inputs = inputs
        if name in ("ADD", "SUB"):
            operator.builtinOptions.potScaleInt16 = dtype != "int16"  # general scales, not powers of two
        self._version(name, _VERSIONS[dtype].get(name, 2))

    def _constant(self, index: int, values: np.ndarray, form: Form) -> int:
        """Add a quantised copy of a constant: other operators may still read the original."""
        copy = flatbuffer.add_constant(self.model, self.tensors[index].name.decode(), values)
        self._store(copy, form)
        return copy

    def _weights(self, rounded: RoundedWeights, operator, inputs: list[int], places: WeightedInputs) -> None:
        _, weights, bias, axis = places
        source = np.float32(self._plan.forms[operator.inputs[places.data]].scale)
        terms = None
        if bias < len(inputs) and inputs[bias] >= 0:
            terms = self.constant(inputs[bias]).astype(np.float64)
            rounded = self._wide_enough(rounded, terms / source, self.constant(inputs[weights]), axis)
        scale = rounded.scale
        key = (rounded.integers.shape, rounded.integers.tobytes(), scale.tobytes(), axis)
        if key not in self._kernels:  # a layer that is used twice has its weights in the file once
            self._kernels[key] = flatbuffer.add_constant(self.model, self._name(inputs[weights]), rounded.integers)
            self.tensors[self._kernels[key]].quantization = _parameters(scale, np.zeros_like(scale), axis)
        inputs[weights] = self._kernels[key]
        if terms is not None:
            wide = np.int32 if self._plan.dtype == "int8" else np.int64
            integers = np.round(terms / (source * scale)).astype(wide)
            inputs[bias] = flatbuffer.add_constant(self.model, self._name(inputs[bias]), integers)
            self.tensors[inputs[bias]].quantization = _parameters(source * scale, np.zeros_like(scale))

    def _wide_enough(
        self, rounded: RoundedWeights, terms: np.ndarray, weights: np.ndarray, axis: int
    ) -> RoundedWeights:
        """Give a channel a coarser scale where its weights are tiny beside its bias.

        The bias would not fit into 32 bits; with 16-bit activations, the factor from the bias' scale to the output's
        would be below 2^-32, which kernels take for zero.
        """
        least = np.abs(terms) / (2**30 if self._plan.dtype == "int8" else 2**32)
        channels = len(rounded.scale) > 1
        narrow = rounded.scale < (least if channels else least.max())
        if not narrow.any():
            return rounded
        coarse = round_weights(weights, axis if channels else None, least if channels else least.max())
        coarser = _along(narrow, axis, weights.ndim)
        return RoundedWeights(
            np.where(coarser, coarse.integers, rounded.integers), np.where(narrow, coarse.scale, rounded.scale)
        )

    def _name(self, index: int) -> str:
        return self.tensors[index].name.decode()

    def _version(self, name: str, version: int) -> None:
        """Raise the version that the file asks of an op to at least this one."""
        for code in self.model.operatorCodes:
            if flatbuffer.code_name(code) == name:
                code.version = max(code.version, version)


def _parameters(scale, zero_point, axis: int = 0):
    parameters = schema.QuantizationParametersT()
    # As arrays they are written at once, not number by number.
    parameters.scale, parameters.zeroPoint = np.array(scale, np.float32), np.array(zero_point, np.int64)
    parameters.quantizedDimension = axis
    return parameters
