"""Build a registered network, and count what it costs: registry, builder and weights together."""

from dataclasses import asdict
from typing import Any

import keras

from mobilenets_tf import registry
from mobilenets_tf.conventions import Convention
from mobilenets_tf.conversion.reparameterization import reparameterize
from mobilenets_tf.conversion.rewriting import default_layers
from mobilenets_tf.errors import RequestError
from mobilenets_tf.networks.blocks import InputShape, Pooling
from mobilenets_tf.networks.costs import complexity, memory
from mobilenets_tf.networks.features import features
from mobilenets_tf.progress import Display
from mobilenets_tf.weights import catalog
from mobilenets_tf.weights.fetching import fetch_tag
from mobilenets_tf.weights.load import Weights, head_classes_in


def create_model(
    name: str,
    *,
    weights: Weights = None,
    fetch: bool = False,
    alpha: float | None = None,
    resolution: int | None = None,
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
    """Build a registered network as a functional ``keras.Model``.

    An argument that is left out, or None unless it says otherwise, takes the network's own default.

    Args:
        name: a registry name; ``list_models()`` gives all.
        weights: None (random), the tag of a weight set ("imagenet"), the path of a weight file, or a
            ``keras.Model`` with the weights: this package's, or keras.applications' own.
        fetch: fetch a weight set that is not on this machine, with a progress bar; False downloads nothing.
        alpha: width multiplier, for networks that have one; by default 1.0.
        resolution: height and width of the input in pixels, 32 to 2048; by default the published one.
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
        options: the arguments that only some builders have: drop_connect_rate (EfficientNet-Lite), hidden_units,
            minimalistic (MobileNetV3), reparameterized, branches (MobileOne), stage4_depth (MobileViT), lite (SSD),
            reduced_tail (MobileNetV2 and V3, SSD, segmenters), filters, atrous_rates, last_convolution (segmenters).
            Each builder's docstring describes its own.

    Returns:
        ``keras.Model``: (N, height, width, 3) float32 -> (N, classes). A detector has the two outputs of
        ``networks/ssd.py``, a segmenter the logits of ``networks/segmentation.py``.

    Raises:
        RequestError: the name or an option is unknown, a value is out of range, or the weights are missing, damaged or
            do not fit the network.
    """
    network = registry.get(name)
    registry.check_size(network, alpha, resolution)
    if fetch:
        with Display() as progress:
            fetch_tag(name, weights, alpha, progress)
    if classes is None and network.backbone and weights is not None:
        classes = head_classes_in(weights)
    if resolution is not None:
        if input_shape is not None:
            raise RequestError("Give either resolution or input_shape, not both.")
        input_shape = (resolution, resolution, 3)
    common = {
        "weights": weights,
        "alpha": alpha,
        "input_shape": input_shape,
        "classes": classes,
        "include_top": include_top,
        "pooling": pooling,
        "dropout_rate": dropout_rate,
        "output_stride": output_stride,
        "convention": convention,
    }
    options |= {argument: value for argument, value in common.items() if value is not None}
    if classifier_activation != "default":
        options["classifier_activation"] = classifier_activation
    builder = registry.builder(name)
    try:
        with default_layers(policy=False):
            return builder(**options)
    except TypeError as error:
        if "keyword argument" in str(error):  # unknown to the builder, or set by it
            raise RequestError(f"{name}: {error}") from error
        raise


def model_info(name: str, *, alpha: float | None = None, resolution: int | None = None) -> dict[str, Any]:
    """Count what a network costs, and list its outputs and published weight sets.

    Args:
        name: a registry name; ``list_models()`` gives all.
        alpha: width multiplier, for networks that have one; by default 1.0.
        resolution: height and width of the input in pixels, 32 to 2048; by default the published one.

    Returns:
        A dict that JSON can hold. Of what was counted:

        * name, source (paper or code), task ("classify", "detect", "segment"), backbone (registry name; None for a
          classifier), alpha (None without a width multiplier), resolution (pixels);
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
