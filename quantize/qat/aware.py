"""Quantisation-aware models: train with the file's rounding in place, then write the file.

A Keras 3 model becomes the float TFLite graph from which post-training quantisation starts; that graph becomes a
tf_keras model; tensorflow-model-optimization makes its layers compute in integers where the plan of the integer file
says so (Jacob et al. 2018, arXiv 1712.05877, section 3; the arithmetic is in integer_arithmetic.py). Because the model
and the file follow one plan and compute alike, they give the same answers. BatchNormalization is folded into the
weights from the start; with ``thaw_norms`` it follows its batches for some epochs (live_norms.py). See README.md.
"""

import functools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import keras
import numpy as np
import tensorflow as tf
import tf_keras

from mobilenets_tf.conversion.rewriting import rebuild
from mobilenets_tf.errors import RequestError
from mobilenets_tf.modelsource import AnyModel, opened
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.quantize import layers, schemes
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.quantize.integers import WEIGHTED
from mobilenets_tf.quantize.post_training import PreparedModel, Recipe, prepare
from mobilenets_tf.quantize.qat import tfmot_scheme
from mobilenets_tf.quantize.qat.compiling import CompiledModel
from mobilenets_tf.quantize.qat.integer_arithmetic import not_converted
from mobilenets_tf.quantize.qat.keras_graph import (
    DropoutLayer,
    Interpreter,
    OperatorLayer,
    fused_activation,
    to_tflite_weights,
)
from mobilenets_tf.quantize.qat.keras_training import Dropped, InTraining, in_training
from mobilenets_tf.quantize.qat.live_norms import LiveNorm, output_moments
from mobilenets_tf.quantize.qat.trained_weights import Trait, find_origins, give_back, kept, traits
from mobilenets_tf.quantize.qat.unrolling import unrolled
from mobilenets_tf.quantize.schemes import Scheme
from mobilenets_tf.quantize.steps import rounding
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.worker import Worker

# Ops that only move values: their layers give levels for levels without knowing the scale.
_MOVES = {
    "PAD", "RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "MAX_POOL_2D", "SPLIT", "SPLIT_V", "PACK", "UNPACK",
    "CONCATENATION",
}  # fmt: skip
# Ops that turn logits into probabilities.
_PROBABILITIES = {"SOFTMAX", "LOGISTIC"}
_OWN_LAYERS = {"OperatorLayer": OperatorLayer, "DropoutLayer": DropoutLayer}
_MOMENT_SAMPLES = 32  # calibration samples on which the first statistics of live normalisations are measured


class Aware:
    """A model in training for int8; ``quantize_aware`` makes it.

    model: the tf_keras model computing in integers. Compile and fit this one, or call ``fine_tune``. ``compile`` takes
        the optimizers, losses and metrics of Keras 3 as well as those of tf_keras; callbacks for ``fit`` are tf_keras'.
        Its ``trainable_variables`` are the weights that the Keras 3 model trains, and the ends of the ranges.
    logits: a model of the same layers, for losses. Where an output is the result of a last softmax or sigmoid, it gives
        the logits that this op reads, rounded as the op reads them. A loss of probabilities would have to bound their
        logarithm, and would learn nothing where rounding makes a wrong probability 1.
    float_content, post_training: the content of the float file, and of the file that post-training quantisation makes
        from it, for comparison.
    ends_in_softmax: whether the first output is the result of a softmax.
    """

    def __init__(
        self,
        source: keras.Model,
        prepared: PreparedModel,
        post_training: bytes,
        names: list[str],
        per_tensor: bool,
        image: ImageInput | None = None,
    ):
        self._source, self._per_tensor, self._image = source, per_tensor, image
        self.post_training = post_training
        self.float_content = prepared.uncorrected
        self._names = names
        origins = find_origins(source, prepared.model, names)
        self._traits = found = traits(source, prepared.model, names, origins)
        self._prepared = prepared = _with_biases(prepared, found)
        normalized = [place for place, trait in found.items() if trait.normalized]
        moments = output_moments(prepared.model, normalized, prepared.samples[:_MOMENT_SAMPLES])
        extras = in_training(source, origins)
        if still := kept(source, names, origins, found):
            warnings.warn(
                f"Training keeps these weights as they are, since the file has them inside of other values: "
                f"{', '.join(map(repr, still[:5]))}{f' and {len(still) - 5} more' if still[5:] else ''}.",
                stacklevel=3,
            )
        builder = _Builder(prepared, names, found, moments, per_tensor, extras)
        self.model, self.logits, self._factors, self._norms = builder.aware_models()
        self._weighted = builder.weighted
        for place, trait in found.items():
            moves = (trait.kernel, trait.bias)
            layer = self._layer(self._weighted[place])
            weights = tfmot_scheme.weights_of(layer)
            tfmot_scheme.freeze(layer, [weight for weight, moved in zip(weights, moves, strict=False) if not moved])
            self._regularise(weights[0], extras.get(place, InTraining()))
        graph = flatbuffer.Graph(flatbuffer.read(prepared.model))
        writer = graph.writer.get(graph.outputs[0])
        self.ends_in_softmax = writer is not None and graph.name(writer) == "SOFTMAX"

    @functools.cached_property
    def _float_models(self) -> tuple[tf_keras.Model, tf_keras.Model]:
        return _Builder(self._prepared, self._names, self._traits, {}, self._per_tensor).float_models()

    @property
    def float_model(self) -> tf_keras.Model:
        """The tf_keras model, nothing rounded; it has the outputs of the Keras 3 model."""
        return self._float_models[0]

    @property
    def float_logits(self) -> tf_keras.Model:
        """The model of the same layers that gives the logits of ``float_model``; see ``logits``."""
        return self._float_models[1]

    def _regularise(self, kernel: tf.Variable, extras: InTraining) -> None:
        """Let training apply the Keras layer's regulariser and constraint to a kernel."""
        if extras.penalty:
            self.model.add_loss(lambda: extras.penalty(kernel))
        if extras.constraint:
            kernel._constraint = extras.constraint  # which optimizers apply after each step

    def thaw_norms(self) -> None:
        """Let every BatchNormalization that was folded normalise by its batches again in training."""
        self._set_norms(LiveNorm.thaw)

    def freeze_norms(self) -> None:
        """Put the state of the live normalisations into the weights; training no longer changes it."""
        self._set_norms(LiveNorm.freeze)

    def _set_norms(self, change: Callable[[LiveNorm], None]) -> None:
        for norm in self._norms.values():
            change(norm)
        # Keras has to trace its functions anew: the model computes something else now.
        for kind in ("train", "test", "predict"):
            if getattr(self.model, f"{kind}_function", None) is not None:
                getattr(self.model, f"make_{kind}_function")(force=True)

    def to_tflite(self) -> bytes:
        """Write the content of the integer file, with the trained weights and ranges.

        Raises:
            ConversionError: LiteRT cannot run the file.
        """
        model, ranges = self.trained_graph(), dict(self._prepared.ranges)
        for root, factors in self._factors.items():
            low, high = ranges[root]
            ranges[root] = low * float(factors["low"].numpy()), high * float(factors["high"].numpy())
        rounded = rounding.nearest(model, self._per_tensor)
        return replace(self._prepared, model=model, uncorrected=model, ranges=ranges, rounded=rounded).write()

    def to_keras(self) -> keras.Model:
        """Make the Keras 3 model (MobileOne: its inference form) with the trained weights.

        Raises:
            RequestError: weights that cannot be traced back to a layer, an ``image`` whose normalisation is part of the
                weights, or a model that was made of a graph.
        """
        if not self._source.layers[1:]:
            raise RequestError(
                "The model was made of a .tflite file or of a graph (a SavedModel, a traced model), which has no Keras "
                "layers to bring weights back to. to_tflite() writes the trained file."
            )
        if self._image and self._image.given != self._image.wanted:
            raise RequestError(
                "The first layer has the normalisation of the image in its weights, which the Keras model has not; "
                "make the aware model without image= to bring weights back."
            )
        model = rebuild(self._source, lambda part: {})
        trained = self.trained_graph()
        give_back(model, self._prepared.model, trained, self._names)
        sample = self._prepared.samples[0]
        answers = keras.tree.flatten(model.predict_on_batch(keras.tree.pack_sequence_as(model._inputs_struct, sample)))
        for answer, expected in zip(answers, Runner(trained)(*sample), strict=True):
            if not np.allclose(answer, expected, rtol=0, atol=1e-3 * np.abs(expected).max()):
                raise RequestError(
                    "The weights that were brought back do not give the trained model's outputs; the trained file is "
                    "not affected. Please report the model."
                )
        return model

    def trained_graph(self) -> bytes:
        """Write the content of the float file with the trained weights."""
        tree = flatbuffer.read(self._prepared.model)
        graph = flatbuffer.Graph(tree)
        for place, name in self._weighted.items():
            operator = tree.subgraphs[0].operators[place]
            op = graph.name(operator)
            kernel, *bias = self._weights(name)
            flatbuffer.replace_constant(tree, operator, WEIGHTED[op].weights, to_tflite_weights(op, kernel))
            if bias:
                flatbuffer.replace_constant(tree, operator, WEIGHTED[op].bias, bias[0])
        return flatbuffer.write(tree)

    def _layer(self, name: str) -> tf_keras.layers.Layer:
        """Find a layer of the graph in ``model``, wrapped unless it is in a float island."""
        wrapped = f"quant_{name}"
        return self.model.get_layer(wrapped if any(layer.name == wrapped for layer in self.model.layers) else name)

    def _weights(self, name: str) -> list[np.ndarray]:
        """Give the kernel and the bias of a layer."""
        weights = tfmot_scheme.weights_of(self._layer(name))
        norm = self._norms.get(name)
        if norm and norm.live:
            weights = [norm.kernel(weights[0]), norm.bias(weights[1])]
        return [values.numpy() for values in weights]


def _with_biases(prepared: PreparedModel, found: dict[int, Trait]) -> PreparedModel:
    """Give the operators a bias whose layers have one: the converter leaves out what is zero."""
    tree = flatbuffer.read(prepared.model)
    graph = flatbuffer.Graph(tree)
    for place, trait in found.items():
        operator = graph.operators[place]
        position = WEIGHTED[graph.name(operator)].bias
        inputs = [*operator.inputs, *[-1] * (position + 1 - len(operator.inputs))]
        if trait.bias and inputs[position] < 0:
            outputs = graph.shape(operator.outputs[0])[-1]
            name = f"{graph.tensors[operator.outputs[0]].name.decode()}/bias"
            inputs[position] = flatbuffer.add_constant(tree, name, np.zeros(outputs, np.float32))
            operator.inputs = inputs
    model = flatbuffer.write(tree)
    return replace(prepared, model=model, uncorrected=model)


def quantize_aware(
    model: AnyModel,
    calibration: Calibration | Iterable,
    scheme: str | Scheme = "int8",
    *,
    recipe: Recipe | None = None,
    image: ImageInput | None = None,
    progress: Progress = silent,
) -> Aware:
    """Prepare a model of Keras, or a graph of anyone's, for quantisation-aware fine-tuning.

    Args:
        model: any model that ``to_tflite`` converts, or a registry name or a path.
            Nested models are fine; the training form of MobileOne is folded first.
        calibration: as in ``export.to_tflite``. The ranges with which training begins come from them.
        scheme: "int8" or "int8_float_io".
        recipe: the steps of post-training quantisation with which training begins; None for the default. Its
            ``per_tensor`` is for chips with one scale for all channels of a layer's weights. Weights are rounded to the
            nearest and biases are learned, whatever the recipe says.
        image: as in ``export.to_tflite``. Samples for calibration and training are then normalised by ``image.given``,
            and the aware model's file takes such input; ``image.finish`` makes the application's file from it.
        progress: called as work goes on.

    Raises:
        RequestError: the scheme has no int8 activations, model or calibration data cannot be used, or training does not
            know an op; the message names the layer.
        ConversionError: the converter refused the model.
    """
    scheme, model = schemes.get(scheme), opened(model)
    if scheme.activations != "int8":
        raise RequestError(f"Quantisation-aware training is for int8 and int8_float_io; received {scheme.name!r}.")
    if not isinstance(calibration, Calibration):
        calibration = Calibration(calibration)
    with Worker(preload=model.preload) as worker:
        float_file = model.float_file(worker, unrolled)
    content = image.begin(float_file.content, folded=False) if image else float_file.content
    recipe = recipe or Recipe()
    post_training = prepare(content, scheme, calibration, recipe, progress, exact_border=True)
    # Training rounds weights to the nearest and learns biases, so it begins without learned rounding and correction.
    uncorrected = post_training.uncorrected
    prepared = replace(post_training, model=uncorrected, rounded=rounding.nearest(uncorrected, recipe.per_tensor))
    names = layers.of_operators(prepared.model, float_file.layers)
    return Aware(model.in_training(), prepared, post_training.write(), names, recipe.per_tensor, image)


def _without_bias(model: bytes, found: dict[int, Trait]) -> set[int]:
    """Find the operators whose bias is zero and stays so: convolutions have one in the graph in any case."""
    graph = flatbuffer.Graph(flatbuffer.read(model))
    places = set()
    for place, trait in found.items():
        operator = graph.operators[place]
        position = WEIGHTED[graph.name(operator)].bias
        has_bias = len(operator.inputs) > position and operator.inputs[position] >= 0
        if has_bias and not trait.bias and not graph.constant(operator.inputs[position]).any():
            places.add(place)
    return places


class _Builder:
    """Connects the layers of a prepared model's graph, plain or annotated for tfmot.

    prepared: the model. names: the layer name of each operator. found: the traits of operators with weights.
    extras: what training does besides, by the places of operators with weights.
    moments: place of an operator -> mean and variance of its layer's outputs, where a normalisation can be live.
    weighted: place of an operator with weights -> the name of its tf_keras layer.
    """

    def __init__(
        self,
        prepared: PreparedModel,
        names: list[str],
        found: dict[int, Trait],
        moments: dict[int, tuple[np.ndarray, np.ndarray]],
        per_tensor: bool,
        extras: Mapping[int, InTraining] | None = None,
    ):
        self._extras = extras or {}
        self._interpreter = Interpreter(flatbuffer.read(prepared.model), names, _without_bias(prepared.model, found))
        self._traits, self._moments = found, moments
        self._graph = self._interpreter.graph
        self._plan, self._prepared, self._per_tensor = prepared.plan(), prepared, per_tensor
        self.weighted: dict[int, str] = {}
        self._weights: list[tuple] = []  # (layer, its weights)
        self._plain: dict[int, object] = {}  # place of the first operator with shared weights -> its float layer
        # Tensor -> the Keras tensor that its op gives, and the tensors whose op gives levels.
        self._home: dict[int, object] = {}
        self._integer_homes: set[int] = set()
        # (tensor, the tensor whose form is meant or None for real values) -> the Keras tensor in that form.
        self._converted: dict[tuple[int, int | None], object] = {}

    @not_converted
    def float_models(self) -> tuple[tf_keras.Model, tf_keras.Model]:
        """Make the model with nothing rounded, and the model that gives its logits."""
        return self._models(self._connect(annotated=False))

    @not_converted
    def aware_models(self) -> tuple[tf_keras.Model, tf_keras.Model, dict[int, dict], dict[str, LiveNorm]]:
        """Make the model that computes in integers, and the model that gives its logits.

        Returns also the factors of the trained ranges by root tensor, and the normalisations by layer name.
        """
        whole, ranges, norms = tfmot_scheme.apply(self._connect(annotated=True), _OWN_LAYERS)
        return *self._models(whole), {int(group): trained.factors for group, trained in ranges.items()}, norms

    def _models(self, whole: tf_keras.Model) -> tuple[tf_keras.Model, tf_keras.Model]:
        """Split the model of ``_connect`` into one that gives the answers and one that gives the logits."""
        ends = self._graph.outputs
        answers, others = whole.outputs[: len(ends)], iter(whole.outputs[len(ends) :])
        logits = [
            answer if self._logits_of(end) is None else next(others) for end, answer in zip(ends, answers, strict=True)
        ]
        return CompiledModel(whole.inputs, answers, name=whole.name), tf_keras.Model(whole.inputs, logits)

    def _logits_of(self, end: int) -> int | None:
        """Return the tensor that the softmax or sigmoid before an output reads; None where there is no such op."""
        writer = self._graph.writer.get(end)
        return writer.inputs[0] if writer and self._graph.name(writer) in _PROBABILITIES else None

    def _connect(self, annotated: bool):
        """Connect all layers to a model that gives all outputs and, behind them, the logits of those that have some.

        annotated: annotate the layers of integer operators for tfmot.
        """
        graph = self._graph
        integer_ends = annotated and self._prepared.scheme.io != "float32"
        inputs = []
        for index in graph.inputs:
            name = self._interpreter.unique(graph.tensors[index].name.decode())
            inputs.append(tf_keras.Input(graph.shape(index)[1:], name=name))
            self._home[index] = inputs[-1]
            if integer_ends and index in self._plan.forms:
                self._home[index] = self._convert("INPUT", index, None, index)
                self._integer_homes.add(index)
        for place, operator in enumerate(graph.operators):
            self._call(place, operator, annotated and place in self._plan.integer)
        for index in graph.outputs:
            if integer_ends and index in self._plan.forms and index not in self._integer_homes:
                self._home[index] = self._convert("QUANTIZE", index, None, index)
                self._integer_homes.add(index)
        logits = [index for index in map(self._logits_of, graph.outputs) if index is not None]
        outputs = [self._read(index, None) for index in graph.outputs + logits]
        model = tf_keras.Model(inputs, outputs, name="aware" if annotated else "float")
        for layer, weights in self._weights:
            layer.set_weights(weights)
        return model

    def _call(self, place: int, operator: flatbuffer.schema.OperatorT, integer: bool) -> None:
        """Connect the layers of one operator."""
        values, owners = [], []
        for position, index in enumerate(operator.inputs):
            if index in self._home:
                owner = operator.outputs[0] if (place, position) in self._plan.demanded else index
                values.append(self._read(index, owner if integer else None))
                owners.append(owner)
        extras = self._extras.get(place, InTraining())
        values[:1] = [self._drop(value, extras.dropped_inputs, integer) for value in values[:1]]
        for layer, weights, output in self._interpreter.layers(place):
            if weights:
                layer = layer if integer else self._shared_layer(place, layer)
                self.weighted[place] = layer.name
                self._weights.append((layer, weights))
            config = self._config(place, owners, output, layer, weighted=bool(weights)) if integer else None
            called = tfmot_scheme.annotate(layer, config) if config else layer
            result = called(values if len(values) > 1 else values[0])
            self._home[output] = self._drop(result, extras.dropped_outputs, integer)
            if integer:
                self._integer_homes.add(output)

    def _drop(self, value, dropped: Sequence[Dropped], levels: bool):
        """Connect dropouts to a Keras tensor."""
        for each in dropped:
            name = self._interpreter.unique("dropout")
            value = DropoutLayer(each.rate, each.noise_shape, each.seed, levels, name=name)(value)
        return value

    def _shared_layer(self, place: int, layer):
        """Give the float layer of a set of weights, if the same layer of the Keras model made another operator too."""
        trait = self._traits[place]
        if trait.shared is None or not trait.shares_bias:
            return layer
        first = self._plain.setdefault(trait.shared, layer)
        same = first.get_config() | {"name": layer.name} == layer.get_config()
        return first if same else layer

    def _config(self, place: int, owners: list[int], output: int, layer, weighted: bool):
        """Describe how a layer computes in integers; None for a layer that only moves levels."""
        operator = self._graph.operators[place]
        activation = fused_activation(operator.builtinOptions)
        has_constants = isinstance(layer, OperatorLayer) and layer.constants
        if self._graph.name(operator) in _MOVES and activation == "linear" and not has_constants:
            return None
        return tfmot_scheme.PlannedConfig(
            sources=[self._range_of(owner) for owner in owners],
            result=self._range_of(output),
            weights={"per_tensor": self._per_tensor, "kind": type(layer).__name__} if weighted else None,
            norm=self._norm_of(place, layer) if weighted else None,
            shared=self._shared(place) if weighted else (None, None),
            activation=activation,
            only_at_inference=output not in self._plan.roots and self._graph.is_output(output),
        )

    def _shared(self, place: int) -> tuple[str | None, str | None]:
        trait = self._traits[place]
        name = None if trait.shared is None else f"kernel{trait.shared}"
        return name, f"bias{trait.shared}" if trait.shares_bias else None

    def _norm_of(self, place: int, layer) -> dict | None:
        if place not in self._moments or isinstance(layer, tf_keras.layers.Conv2DTranspose):
            return None
        mean, variance = self._moments[place]
        return {"mean": mean.tolist(), "variance": variance.tolist()}

    def _read(self, index: int, owner: int | None):
        """Give a tensor as real values (owner None), or as levels in the form of the tensor ``owner``."""
        at_home = index in self._integer_homes
        if owner == index if at_home else owner is None:
            return self._home[index]
        if (index, owner) not in self._converted:
            op = "DEQUANTIZE" if owner is None else "QUANTIZE"
            self._converted[index, owner] = self._convert(op, index, index if at_home else None, owner)
        return self._converted[index, owner]

    def _convert(self, op: str, index: int, source: int | None, result: int | None):
        """Convert a tensor to another form; source, result: tensors that have the forms, None for real values."""
        ranges = [None if owner is None else self._range_of(owner) for owner in (source, result)]
        layer = OperatorLayer(op, name=self._interpreter.unique(op.lower()))
        return tfmot_scheme.annotate(layer, tfmot_scheme.PlannedConfig(ranges[:1], ranges[1]))(self._home[index])

    def _range_of(self, owner: int) -> dict:
        """Give the ``ActivationRange`` options for the form of a tensor."""
        root = self._plan.roots.get(owner)
        if root is None or root in self._graph.inputs:  # the runtime fixes the form, or the pixels do
            form = self._plan.forms[owner]
            return {"scale": form.scale, "zero_point": form.zero_point}
        low, high = self._prepared.ranges[root]
        return {"low": min(low, 0.0), "high": max(high, 0.0), "group": str(root)}
