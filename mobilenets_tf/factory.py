"""Build a registered network, and count what it costs: registry, builder and weights together."""

import os
from dataclasses import asdict
from typing import Any

import keras

from mobilenets_tf import registry
from mobilenets_tf.conventions import Convention
from mobilenets_tf.conversion.reparameterization import reparameterize
from mobilenets_tf.conversion.rewriting import default_layers
from mobilenets_tf.data.preprocessing import Size, sides
from mobilenets_tf.errors import RequestError
from mobilenets_tf.networks.blocks import InputShape, Pooling
from mobilenets_tf.networks.builders import builder
from mobilenets_tf.networks.costs import complexity, memory
from mobilenets_tf.networks.features import features
from mobilenets_tf.networks.plan import Plan
from mobilenets_tf.progress import Display
from mobilenets_tf.pruning.prune import prune
from mobilenets_tf.weights import catalog
from mobilenets_tf.weights.fetching import fetch_tag
from mobilenets_tf.weights.keras_config import shapes_alone
from mobilenets_tf.weights.load import CLASSIFIER, Weights, head_classes_in, resolve_saved

_MOST_PARAMETERS = 10**9
# Arguments for which None stands for the network's own default.
_MAY_BE_LEFT_OUT = {
    "alpha", "resolution", "input_shape", "classes", "include_top", "pooling", "dropout_rate", "output_stride",
}  # fmt: skip


def create_model(
    name: str | os.PathLike[str] | Plan,
    *,
    weights: Weights = None,
    fetch: bool = False,
    alpha: float | None = None,
    resolution: Size | None = None,
    input_shape: InputShape | None = None,
    classes: int | None = None,
    include_top: bool | None = None,
    pooling: Pooling = None,
    classifier_activation: str | None = "default",
    dropout_rate: float | None = None,
    output_stride: int | None = None,
    convention: Convention | None = None,
    **options: Any,
) -> keras.Model:
    """Build a registered network, or the network of a plan, as a functional ``keras.Model``.

    An argument that is left out, or None unless it says otherwise, takes the network's own default.

    Args:
        name: a registry name, of which ``list_models()`` gives all; or a plan: a ``Plan``, or the path of its JSON
            file. Arguments that are given come before the plan's.
        weights: None (random), the tag of a weight set ("imagenet"), the path of a weight file, or a
            ``keras.Model`` with the weights: this package's, or keras.applications' own.
        fetch: fetch a weight set that is not on this machine, with a progress bar; False downloads nothing.
        alpha: width multiplier, for networks that have one; by default 1.0.
        resolution: height and width of the input in pixels, 32 to 2048: one number, or (height, width); by default the
            published one.
        input_shape: (height, width, 3), instead of ``resolution``; sides at least 32, or None where the network allows.
        classes: number of outputs; by default that of a weight file, else 1000 for classifiers, 80 for detectors
            (without the background), 21 for DeepLabV3 and 19 for R-ASPP and LR-ASPP.
        include_top: classifiers: False ends the network in the last feature map, without the classifier.
        pooling: classifiers without their top: "avg", "max", or None (the output is the feature map).
        classifier_activation: None for logits; "default" is "softmax" of classifiers and "sigmoid" of detectors.
            Segmenters always give logits.
        dropout_rate: share of the classifier's inputs that training drops; not for detectors, R-ASPP and LR-ASPP.
        output_stride: input pixels per pixel of the last feature map, 32, 16 or 8; by default 16 for segmenters, else
            32.
        convention: padding and BatchNorm epsilon; by default the weight set's, else those of the network's framework.
        options: the arguments that only some builders have: rows (the network's table, published by default; of a head,
            the backbone's), the steps of the papers (linear and shortcut of MobileNetV2; stem_filters,
            stem_activation, hard_swish_from, squeeze_ratio, efficient_last_stage, hidden_units, minimalistic of
            MobileNetV3; activation, squeeze_ratio, scaled_stem_and_head, drop_connect_rate of EfficientNet-Lite;
            branches, scale_branch, skip_branch, reparameterized of MobileOne; depthwise_local, fuse_local,
            fusion_kernel, shortcut, stage4_depth of MobileViT), lite (SSD), reduced_tail (MobileNetV2 and V3, SSD,
            segmenters), filters, atrous_rates, last_convolution (segmenters).
            Each builder's docstring describes its own.

    Returns:
        ``keras.Model``: (N, height, width, 3) float32 -> (N, classes). A detector has the two outputs of
        ``networks/heads/ssd.py``, a segmenter the logits of ``networks/heads/segmentation.py``.

    Raises:
        RequestError: the name or an option is unknown, a value is out of range, or the weights are missing, damaged or
            do not fit the network.
    """
    if resolution is not None and input_shape is not None:
        raise RequestError("Give either resolution or input_shape, not both.")
    plan = Plan.of(name)
    asked = {
        "alpha": alpha,
        "resolution": resolution,
        "input_shape": input_shape,
        "classes": classes,
        "include_top": include_top,
        "pooling": pooling,
        "dropout_rate": dropout_rate,
        "output_stride": output_stride,
        "convention": convention,
    }
    options |= {argument: value for argument, value in asked.items() if value is not None}
    if classifier_activation != "default":
        options["classifier_activation"] = classifier_activation
    if fetch:
        with Display() as progress:
            fetch_tag(plan.network, weights, {**plan.options, **options}.get("alpha"), progress)
    if plan.options or plan.channels:
        _check_parameters(plan, options)
    return _pruned(plan, weights, options) if plan.channels else _built(plan, weights, options)


def _check_parameters(plan: Plan, options: dict[str, Any]) -> None:
    """Refuse a plan whose network would take too much memory. It may come from elsewhere.

    Raises:
        RequestError: the network has more than a billion parameters.
    """
    with shapes_alone():
        parameters = _built(plan, None, options).count_params()
    if parameters > _MOST_PARAMETERS:
        raise RequestError(
            f"The plan's network would have {parameters:.1e} parameters; at most {_MOST_PARAMETERS:.0e}."
        )


def _built(plan: Plan, weights: Weights, options: dict[str, Any]) -> keras.Model:
    """Build the network of a plan. options: the caller's, which come before the plan's."""
    planned = {key: value for key, value in plan.options.items() if value is not None or key not in _MAY_BE_LEFT_OUT}
    if planned.get("classifier_activation") == "default":
        del planned["classifier_activation"]
    if "input_shape" in options:
        planned.pop("resolution", None)
    options = planned | options
    network = registry.get(plan.network)
    resolution = options.pop("resolution", None)
    registry.check_size(network, options.get("alpha"), resolution)
    if resolution is not None:
        height, width = sides(resolution)
        options["input_shape"] = (height, width, 3)
    if network.backbone and weights is not None and "classes" not in options and (saved := head_classes_in(weights)):
        options["classes"] = saved
    if weights is not None:
        options["weights"] = weights
    if options.get("classifier_activation") is not None:
        _check_activation(options["classifier_activation"])
    try:
        with default_layers(policy=False):
            return builder(plan.network)(**options)
    except TypeError as error:
        if "keyword argument" in str(error):  # set by the builder itself, as R-ASPP sets atrous_rates
            raise RequestError(f"{plan.network}: {error}") from error
        raise


def _check_activation(name: Any) -> None:
    try:
        keras.activations.get(name)
    except (ValueError, TypeError) as error:
        raise RequestError(
            f"classifier_activation={name!r:.100}: expected the name of an activation of Keras, such as 'softmax', or "
            "None for logits."
        ) from error


def _pruned(plan: Plan, weights: Weights, options: dict[str, Any]) -> keras.Model:
    """Build the network of a plan with its own numbers of channels. Weights are those of a file of such a network."""
    source = resolve_saved(weights, options.get("convention")) if weights is not None else None
    if source is not None:
        outputs = source.outputs(CLASSIFIER)
        options = {"convention": source.convention, **({"classes": outputs} if outputs else {}), **options}
    model = prune(_built(plan, None, options), plan.channels)
    if source is not None:
        source.load_into(model)
    return model


def model_info(name: str, *, alpha: float | None = None, resolution: Size | None = None) -> dict[str, Any]:
    """Count what a network costs, and list its outputs and published weight sets.

    Args:
        name: a registry name; ``list_models()`` gives all.
        alpha: width multiplier, for networks that have one; by default 1.0.
        resolution: height and width of the input in pixels, 32 to 2048: one number, or (height, width); by default the
            published one.

    Returns:
        A dict that JSON can hold. Of what was counted:

        * name, source (paper or code), task ("classify", "detect", "segment"), backbone (registry name; None for a
          classifier), alpha (None without a width multiplier), resolution (pixels: of a square one number);
        * params_trainable, params_total (numbers; the total has BatchNorm's running mean and variance too), macs
          (multiply-adds of one image);
        * inference_form: the same three counts of the form that is exported, where MobileOne's branches are folded;
          None where nothing is folded.

        Memory of the inference form's activations for one image, in elements (4 bytes each in float32, 1 in int8),
        as ``networks/costs/memory.py`` defines it:

        * peak_activation: elements and layer, where the network runs op by op;
        * largest_tensor: elements and layer, where each bottleneck runs as one op;
        * bottleneck_split: elements, where each bottleneck is computed in 1, 2, 4 or as many parts as it has inner
          channels: {"1": ..., "2": ..., "4": ..., "n": ...}.

        What the network gives:

        * outputs: {name: shape without the batch}; features: {stride: shape (height, width, channels)} of a classifier,
          {} of other networks;
        * weights: one dict per weight set (of a detector's or segmenter's backbone) with the fields of
          ``weights.catalog.WeightSet`` (its preprocessing among them), "installed": whether the file is here, and
          "fetch_command".

    Raises:
        RequestError: the name is unknown, or a value is out of range.
    """
    network = registry.get(name)
    model = create_model(name, alpha=alpha, resolution=resolution)
    folded = reparameterize(model)
    return {
        "name": name,
        "source": network.source,
        "task": network.task,
        "backbone": network.backbone,
        "alpha": (alpha or 1.0) if network.alphas else None,
        "resolution": resolution or network.resolution,
        **complexity.counts(model),
        "inference_form": None if folded is model else complexity.counts(folded),
        "peak_activation": asdict(memory.peak_activation(folded)),
        "largest_tensor": asdict(memory.largest_tensor(folded)),
        "bottleneck_split": {
            str(parts or "n"): memory.bottleneck_split(folded, parts).elements for parts in (1, 2, 4, None)
        },
        "outputs": {
            output: list(tensor.shape[1:]) for output, tensor in zip(model.output_names, model.outputs, strict=True)
        },
        "features": {
            stride: list(tensor.shape[1:]) for stride, tensor in ({} if network.backbone else features(model)).items()
        },
        "weights": [
            asdict(record) | {"installed": catalog.locate(record) is not None, "fetch_command": record.fetch_command}
            for record in catalog.weight_sets(name)
        ],
    }
