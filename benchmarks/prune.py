"""Take away channels that are zero from every classifier, and compare the outputs.

    python benchmarks/prune.py                                  every registered classifier
    python benchmarks/prune.py mobilenet_v3_small --check       one; fails where the outputs differ

In each group of channels, a quarter of the slices is chosen at random. Their channels are made zero in the layers that
make them (kernel and bias, BatchNormalization's gamma and beta, and so on), and pruned. Weights and statistics are
random; images have 64 pixels, and there are ten classes without softmax. Printed: the groups, how many slices can be
taken away one by one (with one that stays in each group), parameters before and after, and the largest difference of
the outputs as a share of the largest output. ``--check``: at most 1e-5, and in silencing the channels the outputs have
changed by 1e-3 of the largest at least, so that they mattered.
"""

import argparse
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from mobilenets_tf import create_model, list_models
from mobilenets_tf.pruning.channels import TracedModel
from mobilenets_tf.pruning.prune import prune

SAME, OTHER = 1e-5, 1e-3  # of the largest output
HEADER = (
    "| network | groups | slices that can go | parameters | after | largest difference |\n|---|---|---|---|---|---|"
)


def vary(model, seed=0):
    """Give every weight of a model random values of a useful size: nothing is 0 or 1 by chance."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        shape, kind = tuple(variable.shape), variable.name
        if kind in ("gamma", "moving_variance"):
            variable.assign(random.uniform(0.5, 1.5, shape))
        elif len(shape) > 1:
            size = np.prod(shape[:-2]) if "depthwise" in variable.path else np.prod(shape[:-1])
            variable.assign(random.normal(0, np.sqrt(1.5 / size), shape))
        elif kind in ("bias", "beta", "moving_mean", "alpha"):
            variable.assign(random.normal(0, 0.2, shape))
    return model


def silence(model, seed=0, share=0.25):
    """Make channels of a model zero: in each group a share of the slices, one at least and not all.

    Returns:
        dict: what stays, as ``prune`` takes it.
    """
    random, trace = np.random.default_rng(seed), TracedModel(model)
    widths = [group.width for group in trace.found.groups.values()]
    gone = [random.permutation(width)[: max(1, int(width * share))] for width in widths]
    silent = np.zeros(len(trace.group_of), bool)
    for group, slices in enumerate(gone):
        silent |= (trace.group_of == group) & np.isin(trace.slice_of, slices)
    for axes in trace.weighed.values():
        for each in axes:
            if each.part != "consumers" and silent[each.labels].any():
                values = np.moveaxis(np.asarray(each.variable), each.axis, 0).copy()
                values[silent[each.labels]] = 0
                each.variable.assign(np.moveaxis(values, 0, each.axis))
    stays = (np.setdiff1d(np.arange(width), slices) for width, slices in zip(widths, gone, strict=True))
    return dict(zip(trace.found.groups, stays, strict=True))


def answers(model, seed=0):
    """Return all outputs of a model for two random inputs, side by side."""
    import keras

    random = np.random.default_rng(seed)
    inputs = keras.tree.map_structure(
        lambda tensor: random.uniform(-1, 1, (2, *tensor.shape[1:])).astype(np.float32), model.input
    )
    outputs = keras.tree.flatten(model(inputs, training=False))
    return np.concatenate([np.asarray(output).reshape(2, -1) for output in outputs], axis=1)


def compared(model, seed=0):
    """Silence channels of a model and take them away.

    Returns:
        tuple: the pruned model; the largest differences of the outputs, as a share of the largest output: what
        silencing the channels has changed, and what taking them away has changed.
    """
    whole = answers(model)
    keep = silence(model, seed)
    silenced, pruned = answers(model), prune(model, keep)
    size = np.abs(silenced).max()
    return pruned, np.abs(whole - silenced).max() / size, np.abs(answers(pruned) - silenced).max() / size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list_models(task="classify"), help="default: every classifier")
    parser.add_argument("--check", action="store_true", help="exit with status 1 where the outputs differ")
    arguments = parser.parse_args()
    print(HEADER, flush=True)
    failed = []
    for name in arguments.networks:
        model = vary(create_model(name, resolution=64, classes=10, classifier_activation=None))
        groups = TracedModel(model).found.groups.values()
        pruned, other, difference = compared(model)
        row = [f"`{name}`", len(groups), sum(group.width - 1 for group in groups)]
        row += [f"{each.count_params():,}" for each in (model, pruned)]
        print("|", " | ".join(map(str, [*row, f"{difference:.1e}"])), "|", flush=True)
        if not (difference <= SAME and other >= OTHER):
            failed.append(f"{name}: {difference:.1e} by pruning, {other:.1e} by silencing")
    if arguments.check and failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
