"""Activations whose parameters depend on the image: DynamicReLU and Dynamic Shift-Max, beside the usual ones.

For MobileOne's table of activations alone. Both compute their parameters from the mean of the whole feature map, with
two linear layers, as a squeeze-and-excite does.
"""

from typing import TYPE_CHECKING

from experiments.variants import Experiment, Variant

if TYPE_CHECKING:
    import keras
    from keras import KerasTensor

REDUCTION = 8  # channels of the feature map for each one between the linear layers (arXiv 2003.10027, section 4)
PIECES = 2  # linear functions, the largest of which counts


def _parameters(x: "KerasTensor", count: int, name: str) -> "KerasTensor":
    """Compute ``count`` parameters in [-1, 1] from the mean of a feature map, (N, 1, 1, count)."""
    from keras import layers

    y = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_parameters_pool")(x)
    y = layers.Conv2D(max(1, x.shape[-1] // REDUCTION), 1, activation="relu", name=f"{name}_parameters_inner")(y)
    y = layers.Conv2D(count, 1, activation="sigmoid", name=f"{name}_parameters")(y)
    return layers.Rescaling(2.0, -1.0, name=f"{name}_parameters_scaled")(y)


def dynamic_relu(x: "KerasTensor", name: str, shared: bool = True) -> "KerasTensor":
    """Apply DynamicReLU (arXiv 2003.10027): the largest of two lines, whose slopes and offsets depend on the image.

    shared: all channels have the same lines (form A); False: each channel has its own (form B).
    """
    from keras import layers

    channels = 1 if shared else x.shape[-1]
    found = _parameters(x, 2 * PIECES * channels, name)
    lines = []
    for piece in range(PIECES):
        slope, offset = (found[..., at * channels : (at + 1) * channels] for at in (2 * piece, 2 * piece + 1))
        # Slopes begin at 1 and 0, and change by at most 1; offsets begin at 0, and change by at most 0.5.
        slope = layers.Rescaling(1.0, 1.0 - piece, name=f"{name}_slope{piece}")(slope)
        offset = layers.Rescaling(0.5, name=f"{name}_offset{piece}")(offset)
        scaled = layers.Multiply(name=f"{name}_scaled{piece}")([x, slope])
        lines.append(layers.Add(name=f"{name}_line{piece}")([scaled, offset]))
    return layers.Maximum(name=f"{name}_max")(lines)


def dynamic_relu_b(x: "KerasTensor", name: str) -> "KerasTensor":
    """Apply DynamicReLU with lines for each channel."""
    return dynamic_relu(x, name, shared=False)


def dynamic_shift_max(x: "KerasTensor", name: str) -> "KerasTensor":
    """Apply Dynamic Shift-Max (arXiv 2108.05894): the largest of two sums of the channels and of the channels shifted
    by half of their number, with weights that depend on the image."""
    from keras import layers

    channels = x.shape[-1]
    half = channels // 2
    shifted = layers.Concatenate(name=f"{name}_shifted")([x[..., half:], x[..., :half]])
    found = _parameters(x, 2 * PIECES * channels, name)
    sums = []
    for piece in range(PIECES):
        terms = []
        for number, of in enumerate((x, shifted)):
            at = 2 * piece + number
            # Weights of the channels themselves begin at 1, of the shifted ones at 0.
            weight = found[..., at * channels : (at + 1) * channels]
            weight = layers.Rescaling(1.0, 1.0 - number, name=f"{name}_weight{at}")(weight)
            terms.append(layers.Multiply(name=f"{name}_term{at}")([of, weight]))
        sums.append(layers.Add(name=f"{name}_sum{piece}")(terms))
    return layers.Maximum(name=f"{name}_max")(sums)


def network(activation, **form):
    """Give the builder of the network of MobileOne's table 2 with an activation."""

    def build(small: bool, side: int) -> "keras.Model":
        from papers import thirty_layers

        return thirty_layers(activation, **form)

    return build


EXPERIMENTS = (
    Experiment(
        "activations",
        "Activations in MobileOne's network of 30 layers",
        "Dynamic activations take many times as long as ReLU.",
        "arXiv 2206.04040, table 2, on an iPhone 12",
        "ms, ratio to ReLU",
        (
            Variant("act_relu", "ReLU", network("relu"), "1.53, 1.00"),
            Variant("act_gelu", "GELU", network("gelu"), "1.63, 1.07"),
            Variant("act_se", "squeeze-and-excite, ReLU", network("relu", squeeze=True), "2.10, 1.37"),
            Variant("act_silu", "SiLU", network("silu"), "2.54, 1.66"),
            Variant("act_hard_swish", "hard-swish", network("hard_swish")),
            Variant("act_shift_max", "Dynamic Shift-Max", network(dynamic_shift_max), "57.04, 37.3"),
            Variant("act_relu_b", "DynamicReLU-B", network(dynamic_relu_b), "242.14, 158"),
            Variant("act_relu_a", "DynamicReLU-A", network(dynamic_relu), "273.49, 179"),
        ),
        trained=False,
    ),
)
