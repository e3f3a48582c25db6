"""create_model and what can be asked of a network: registry + builder + weights."""

from dataclasses import asdict

from mobilenets_tf import registry
from mobilenets_tf.errors import RequestError
from mobilenets_tf.weights import catalog


def create_model(name: str, *, alpha: float | None = None, resolution: int | None = None, **options):
    """Build a registered network as a functional ``keras.Model``.

    Args:
        name: a registry name; ``list_models()`` has them all.
        alpha: width multiplier, for networks that have one; left out, 1.0.
        resolution: height and width in pixels of the input; left out, the published one. ``input_shape=`` is the long
            form.
        options: the builder's own: include_top, weights, pooling, classes, classifier_activation, dropout_rate, ...

    Returns:
        ``keras.Model``: (N, resolution, resolution, 3) float32 -> (N, classes); of a detector the two outputs of
        ``networks/ssd.py``, of a segmenter the logits of ``networks/segmentation.py``.

    Raises:
        RequestError: unknown name or option, a value out of range, weights that are not to be found or do not fit.
    """
    network = registry.get(name)
    registry.check_size(network, alpha, resolution)
    if resolution is not None:
        if "input_shape" in options:
            raise RequestError("Give either resolution or input_shape, not both.")
        options["input_shape"] = (resolution, resolution, 3)
    if alpha is not None:
        options["alpha"] = alpha
    builder = registry.builder(name)
    try:
        return builder(**options)
    except TypeError as error:
        if "keyword argument" in str(error):  # one that the builder does not have, or sets itself
            raise RequestError(f"{name}: {error}") from error
        raise


def model_info(name: str, *, alpha: float | None = None, resolution: int | None = None) -> dict:
    """What is known of a network: figures counted from its graph, and its published weight sets.

    Returns:
        name, source, task, backbone (of a detector or segmenter), alpha, resolution (pixels), params_trainable,
        params_total, macs (multiply-adds of one image), outputs (name -> shape), features (stride -> shape; a
        classifier's), weights (one record a set, with its preprocessing and whether it is here; a detector's or
        segmenter's are its backbone's), and for a network that folds for inference, inference_form: the same counts of
        that form. The memory of activations, of
        the inference form and in elements (times 4 bytes in float32, 1 in int8): peak_activation op by op,
        largest_tensor with each bottleneck as one op, and bottleneck_split, the peak with each bottleneck computed in
        t parts ("n": as many as it has inner channels); see ``mobilenets_tf.networks.costs.memory``.

    Raises:
        RequestError: unknown name, or a value out of range.
    """
    from mobilenets_tf.conversion.reparameterization import reparameterize
    from mobilenets_tf.networks.costs import complexity, memory
    from mobilenets_tf.networks.features import features

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
            stride: list(tensor.shape[1:])
            for stride, tensor in (features(model) if network.task == "classify" else {}).items()
        },
        "weights": [
            asdict(record) | {"installed": catalog.locate(record) is not None} for record in catalog.weight_sets(name)
        ],
    }
