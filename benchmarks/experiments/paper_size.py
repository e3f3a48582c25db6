"""Counts and latency of the papers' own networks, with random weights.

Latency is a ratio to the network that a variant is compared with, all files of an experiment timed in turn.
"""

import sys
from pathlib import Path

from experiments.variants import Experiment, Variant
from mobilenets_tf.errors import ConversionError, RequestError
from mobilenets_tf.progress import Progress

SCHEMES = ("float32", "int8")


def count(experiment: Experiment, progress: Progress) -> dict[str, dict]:
    """Count the networks: key of a variant -> parameters, multiply-adds of an image, elements of the largest tensor."""
    import keras

    from mobilenets_tf import counts, reparameterize
    from mobilenets_tf.networks.costs.memory import largest_tensor

    found = {}
    sized = [each for each in experiment.variants if each.sized]
    for number, variant in enumerate(sized, 1):
        keras.backend.clear_session()
        model = reparameterize(variant.build(False, 0))
        counted = counts(model)
        if variant.without:
            part = counts(variant.without(False, 0))
            counted = {kind: number - part[kind] for kind, number in counted.items()}
        found[variant.key] = {
            "params": counted["params_trainable"], "macs": round(variant.passes * counted["macs"]),
        } | ({"largest": largest_tensor(model).elements} if experiment.memory else {})  # fmt: skip
        progress(f"counting {experiment.name}", number, len(sized))
    return found


def time(experiment: Experiment, folder: Path, calls: int, progress: Progress) -> dict[str, dict]:
    """Time the networks' files, which are built unless the folder has them.

    Returns:
        key of a variant -> scheme -> "ratio" to the variant that it is compared with (median, low, high), "ms" (median)
        and XNNPACK's "partitions". A variant without a file of a scheme, which is told, has no such entry.
    """
    from mobilenets_tf.export.speed import timing

    sized = [each for each in experiment.variants if each.sized and not each.without]
    found: dict[str, dict] = {each.key: {} for each in sized}
    for scheme in SCHEMES:
        files = {}
        for each in sized:
            try:
                files[each.key] = _file(each, scheme, folder, progress)
            except (ConversionError, RequestError) as error:
                print(f"{each.key} has no {scheme} file: {error}", file=sys.stderr)
        timed = timing.side_by_side(files, calls, progress=progress)
        for variant in sized:
            base = experiment.base(variant) or variant
            if not {variant.key, base.key} <= timed.keys():
                continue
            own, base = timed[variant.key], timed[base.key]
            found[variant.key][scheme] = {
                "ratio": vars(timing.ratio(own, base)), "ms": own.median_ms, "partitions": own.delegated_partitions,
                "outside": dict(own.outside), "calls": calls,
            }  # fmt: skip
    return found


def _file(variant: Variant, scheme: str, folder: Path, progress: Progress) -> Path:
    """Give a variant's file. Its operators are those of the default recipe; its integers are found without a search."""
    path = folder / f"{variant.key}_{scheme}.tflite"
    if path.exists():
        return path
    import keras
    from latency import pictures, settled

    from mobilenets_tf.export.tflite import convert_model
    from mobilenets_tf.quantize import Recipe, schemes
    from mobilenets_tf.worker import Worker

    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    model = settled(variant.build(False, 0))
    progress(f"building {variant.key}, {scheme}", 0, 1)
    fast = Recipe(equalize=False, ranges="min_max", rounding="nearest", correct_biases=False)
    given = {"recipe": fast} if scheme == "int8" else {}
    with Worker() as worker:
        made = convert_model(model, schemes.get(scheme), pictures(model.input_shape[1]), worker, **given)
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(made.content)
    unfinished.replace(path)
    return path
