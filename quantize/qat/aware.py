"""Quantisation-aware fine-tuning: train with the file's rounding in place, then write the file.

A Keras 3 model becomes the float TFLite graph that post-training quantisation starts from; that graph becomes a
tf_keras model; tensorflow-model-optimization makes its layers compute in integers where the plan of the integer file
has its forms (Jacob et al. 2018, arXiv 1712.05877, section 3; the arithmetic is in integer_arithmetic.py). Because both
come from one plan and compute alike, what the trained model answers is what the file answers. BatchNormalization is
folded into the weights from the start; ``thaw_norms`` has it follow its batches for some epochs (live_norms.py).
"""

from dataclasses import replace

import keras
import numpy as np
import tf_keras

from mobilenets_tf.conversion.convert import float_file
from mobilenets_tf.conversion.reparameterization import fold
from mobilenets_tf.conversion.rewriting import rebuild
from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.quantize import layers, schemes
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.quantize.integers import WEIGHTED
from mobilenets_tf.quantize.post_training import PreparedModel, Recipe, prepare
from mobilenets_tf.quantize.qat import tfmot_scheme
from mobilenets_tf.quantize.qat.keras_graph import Interpreter, OperatorLayer, fused_activation, to_tflite_weights
from mobilenets_tf.quantize.qat.live_norms import LiveNorm, output_moments
from mobilenets_tf.quantize.qat.trained_weights import give_back, traits
from mobilenets_tf.quantize.steps import rounding
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.worker import Worker

# Ops of one scale whose results are values of their input, whatever they stand for: the layers need not know.
_EXACT = {"PAD", "RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "MAX_POOL_2D", "SPLIT", "SPLIT_V", "CONCATENATION"}
# Ops that make probabilities of logits.
_PROBABILITIES = {"SOFTMAX", "LOGISTIC"}


_MOMENT_SAMPLES = 32  # to begin live normalisations with


class Aware:
    """A model in training for int8; ``quantize_aware`` makes it.

    float_model: the tf_keras model, nothing rounded; its outputs are the Keras 3 model's.
    model: the same with fake-quantisation. Compile and fit this one, or call ``fine_tune``.
    float_logits, logits: of the same layers, for losses: the outputs that are made by a last softmax or sigmoid are
        what that is made of, rounded as it reads them. A probability's logarithm would have to be cut off, and where
        one is wrong but sure, as rounding can make it, nothing would be learned.
    float_content, post_training: the float file, and what post-training quantisation makes of it, for comparison.
    """

    def __init__(
        self,
        source,
        prepared: PreparedModel,
        post_training: bytes,
        names: list[str],
        per_tensor: bool,
        image: ImageInput | None = None,
    ):
        self._source, self._prepared, self._per_tensor, self._image = source, prepared, per_tensor, image
        self.post_training = post_training
        self.float_content = prepared.uncorrected
        biasless, normalized = traits(source, prepared.model)
        moments = output_moments(prepared.model, sorted(normalized), prepared.samples[:_MOMENT_SAMPLES])
        self.float_model, self.float_logits = _Builder(prepared, names, biasless, moments, per_tensor).float_models()
        builder = _Builder(prepared, names, biasless, moments, per_tensor)
        self.model, self.logits, self._factors, self._norms = builder.aware_models()
        self._weighted = builder.weighted
        graph = flatbuffer.Graph(flatbuffer.read(prepared.model))
        writer = graph.writer.get(graph.outputs[0])
        self.ends_in_softmax = writer is not None and graph.name(writer) == "SOFTMAX"

    def thaw_norms(self) -> None:
        """Have every BatchNormalization that was folded normalise by batches again in training."""
        self._set_norms(LiveNorm.thaw)

    def freeze_norms(self) -> None:
        """Put what live normalisations have learned into the weights; from then on training leaves them alone."""
        self._set_norms(LiveNorm.freeze)

    def _set_norms(self, change) -> None:
        for norm in self._norms.values():
            change(norm)
        # What was traced is another function now.
        for kind in ("train", "test", "predict"):
            if getattr(self.model, f"{kind}_function", None) is not None:
                getattr(self.model, f"make_{kind}_function")(force=True)

    def to_tflite(self) -> bytes:
        """The integer file's content, with the weights and ranges as training has left them.

        Raises:
            ConversionError: LiteRT cannot run it.
        """
        model, ranges = self.trained_graph(), dict(self._prepared.ranges)
        for root, factors in self._factors.items():
            low, high = ranges[root]
            ranges[root] = low * float(factors["low"].numpy()), high * float(factors["high"].numpy())
        rounded = rounding.nearest(model, self._per_tensor)
        return replace(self._prepared, model=model, uncorrected=model, ranges=ranges, rounded=rounded).write()

    def to_keras(self):
        """The Keras 3 model (MobileOne: its inference form) with the weights as training has left them.

        Raises:
            RequestError: weights that cannot be traced back to a layer.
        """
        if self._image and self._image.given != self._image.wanted:
            raise RequestError(
                "The first layer has the normalisation of the image in its weights, which the Keras model has not; "
                "make the aware model without image= to bring weights back."
            )
        model = rebuild(self._source, lambda part: {})
        trained = self.trained_graph()
        give_back(model, self._prepared.model, trained)
        sample = self._prepared.samples[0]
        answers = keras.tree.flatten(model.predict_on_batch(sample))
        for found, wanted in zip(answers, Runner(trained)(*sample), strict=True):
            if not np.allclose(found, wanted, rtol=0, atol=1e-3 * np.abs(wanted).max()):
                raise RequestError(
                    "The weights that were brought back do not give the trained model's outputs; the trained file is "
                    "not affected. Please report the model."
                )
        return model

    def trained_graph(self) -> bytes:
        """The float file's content with the weights as training has left them."""
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

    def _weights(self, name: str) -> list:
        """Kernel and bias of a layer; float islands have layers that are not wrapped."""
        try:
            wrapper = self.model.get_layer(f"quant_{name}")
        except ValueError:
            return self.model.get_layer(name).get_weights()
        weights = [variable for variable, _, _ in wrapper._weight_vars]  # the layer's own are what they round to
        norm = self._norms.get(name)
        if norm and norm.live:
            weights = [norm.kernel(weights[0]), norm.bias(weights[1])]
        return [values.numpy() for values in weights]


def quantize_aware(
    model,
    calibration,
    scheme="int8",
    *,
    recipe: Recipe | None = None,
    image: ImageInput | None = None,
    progress: Progress = silent,
) -> Aware:
    """Prepare a Keras 3 model for quantisation-aware fine-tuning.

    Args:
        model: any functional or sequential Keras 3 model that ``to_tflite`` converts; nested models are fine, and
            MobileOne's training form is folded first.
        calibration: a ``Calibration``, an array (N, ...) or an iterable of samples, preprocessed as the model wants
            them; the ranges that training begins with come from it.
        scheme: "int8" or "int8_float_io".
        recipe: the steps of post-training quantisation to begin with; None for the default. Its ``per_tensor`` is for
            chips that have one scale for all channels of a layer's weights. Weights are rounded to the nearest and
            biases learned whatever it says.
        image: as in ``export.to_tflite``; calibration and training then have images as ``image.given``, and so has the
            aware model's file, which ``image.finish`` makes the application's.

    Raises:
        RequestError: a model or calibration data that cannot be used, or an op that training does not know; the layer
            is named.
        ConversionError: the converter refused the model.
    """
    scheme = schemes.get(scheme)
    if scheme.activations != "int8":
        raise RequestError(f"Quantisation-aware training is for int8 and int8_float_io; received {scheme.name!r}.")
    if not isinstance(calibration, Calibration):
        calibration = Calibration(calibration)
    with Worker() as worker:
        graph, content = float_file(model, worker)
    content = image.begin(content, folded=False) if image else content
    recipe = recipe or Recipe()
    usual = prepare(content, scheme, calibration, recipe, progress, exact_border=True)
    # Trained weights are rounded to the nearest, as the fake-quantisation does, and their own biases are learned.
    prepared = replace(usual, model=usual.uncorrected, rounded=rounding.nearest(usual.uncorrected, recipe.per_tensor))
    names = layers.of_operators(prepared.model, graph.layers)
    return Aware(fold(model, share=True), prepared, usual.write(), names, recipe.per_tensor, image)


class _Builder:
    """Connects the layers of a prepared model's graph, as they are or annotated for tfmot."""

    def __init__(self, prepared: PreparedModel, names: list[str], biasless: set[int], moments: dict, per_tensor: bool):
        self._interpreter = Interpreter(flatbuffer.read(prepared.model), names, biasless)
        self._moments = moments
        self._graph = self._interpreter.graph
        self._plan, self._prepared, self._per_tensor = prepared.plan(), prepared, per_tensor
        self.weighted: dict[int, str] = {}  # place of an operator with weights -> its layer's name
        self._weights: list[tuple] = []
        self._home: dict[int, object] = {}  # tensor -> as its op gives it
        self._integer_homes: set[int] = set()  # tensors whose op gives integers
        self._changed: dict[tuple[int, int], object] = {}  # (tensor, form's owner) -> as ops read it that want it so

    def float_models(self):
        """Nothing rounded: the answers, and the logits."""
        return self._parts(self._connect(annotated=False))

    def aware_models(self):
        """Likewise, and the rest of what ``tfmot_scheme.apply`` gives; the groups of ranges are their root tensors."""
        whole, trained, norms = tfmot_scheme.apply(self._connect(annotated=True), {"OperatorLayer": OperatorLayer})
        return *self._parts(whole), {int(group): found.factors for group, found in trained.items()}, norms

    def _parts(self, whole):
        """Two models of the one that ``_connect`` makes, with its layers."""
        ends = self._graph.outputs
        answers, others = whole.outputs[: len(ends)], iter(whole.outputs[len(ends) :])
        logits = [
            answer if self._logits_of(end) is None else next(others) for end, answer in zip(ends, answers, strict=True)
        ]
        return tf_keras.Model(whole.inputs, answers, name=whole.name), tf_keras.Model(whole.inputs, logits)

    def _logits_of(self, end: int) -> int | None:
        """The tensor that a last softmax or sigmoid makes an output of; None where there is no such op."""
        writer = self._graph.writer.get(end)
        return writer.inputs[0] if writer and self._graph.name(writer) in _PROBABILITIES else None

    def _connect(self, annotated: bool):
        """A model with all outputs and, behind them, the logits of those that are made of some."""
        graph = self._graph
        integer_ends = annotated and self._prepared.scheme.io != "float32"
        inputs = []
        for index in graph.inputs:
            name = self._interpreter.unique(graph.tensors[index].name.decode())
            inputs.append(tf_keras.Input(graph.shape(index)[1:], name=name))
            self._home[index] = inputs[-1]
            if integer_ends and index in self._plan.forms:
                self._home[index] = self._changed_to("INPUT", index, None, index)
                self._integer_homes.add(index)
        for place, operator in enumerate(graph.operators):
            self._call(place, operator, annotated and place in self._plan.integer)
        for index in graph.outputs:
            if integer_ends and index in self._plan.forms and index not in self._integer_homes:
                self._home[index] = self._changed_to("QUANTIZE", index, None, index)
                self._integer_homes.add(index)
        logits = [index for index in map(self._logits_of, graph.outputs) if index is not None]
        outputs = [self._read(index, None) for index in graph.outputs + logits]
        model = tf_keras.Model(inputs, outputs, name="aware" if annotated else "float")
        for layer, weights in self._weights:
            layer.set_weights(weights)
        return model

    def _call(self, place: int, operator, integer: bool) -> None:
        values, owners = [], []
        for position, index in enumerate(operator.inputs):
            if index in self._home:
                owner = operator.outputs[0] if (place, position) in self._plan.demanded else index
                values.append(self._read(index, owner if integer else None))
                owners.append(owner)
        for layer, weights, output in self._interpreter.layers(place):
            if weights:
                self.weighted[place] = layer.name
                self._weights.append((layer, weights))
            config = self._config(place, owners, output, layer, weighted=bool(weights)) if integer else None
            called = tfmot_scheme.annotate(layer, config) if config else layer
            self._home[output] = called(values if len(values) > 1 else values[0])
            if integer:
                self._integer_homes.add(output)

    def _config(self, place: int, owners: list[int], output: int, layer, weighted: bool):
        """How the layer is annotated; None if it need not know that it moves levels."""
        operator = self._graph.operators[place]
        activation = fused_activation(operator.builtinOptions)
        has_constants = (
            isinstance(layer, OperatorLayer) and layer.constants
        )  # which are real values, and have to be levels
        if self._graph.name(operator) in _EXACT and activation == "linear" and not has_constants:
            return None
        return tfmot_scheme.PlannedConfig(
            sources=[self._range_of(owner) for owner in owners],
            result=self._range_of(output),
            weights={"per_tensor": self._per_tensor, "kind": type(layer).__name__} if weighted else None,
            norm=self._norm_of(place, layer) if weighted else None,
            activation=activation,
            only_at_inference=output not in self._plan.roots and self._graph.is_output(output),
        )

    def _norm_of(self, place: int, layer) -> dict | None:
        if place not in self._moments or isinstance(layer, tf_keras.layers.Conv2DTranspose):
            return None
        mean, variance = self._moments[place]
        return {"mean": mean.tolist(), "variance": variance.tolist()}

    def _read(self, index: int, owner: int | None):
        """A tensor as an op reads it: real values (owner None), or levels in the form of the tensor ``owner``."""
        at_home = index in self._integer_homes
        if owner == index if at_home else owner is None:
            return self._home[index]
        if (index, owner) not in self._changed:
            op = "DEQUANTIZE" if owner is None else "QUANTIZE"
            self._changed[index, owner] = self._changed_to(op, index, index if at_home else None, owner)
        return self._changed[index, owner]

    def _changed_to(self, op: str, index: int, source: int | None, result: int | None):
        """A tensor in another form; source, result: tensors that have the forms, None for real values."""
        ranges = [None if owner is None else self._range_of(owner) for owner in (source, result)]
        layer = OperatorLayer(op, name=self._interpreter.unique(op.lower()))
        return tfmot_scheme.annotate(layer, tfmot_scheme.PlannedConfig(ranges[:1], ranges[1]))(self._home[index])

    def _range_of(self, owner: int) -> dict:
        """The ``ActivationRange``'s options for the form of a tensor."""
        root = self._plan.roots.get(owner)
        if root is None or root in self._graph.inputs:  # the runtime's own form, or the pixels'
            form = self._plan.forms[owner]
            return {"scale": form.scale, "zero_point": form.zero_point}
        low, high = self._prepared.ranges[root]
        return {"low": min(low, 0.0), "high": max(high, 0.0), "group": str(root)}
