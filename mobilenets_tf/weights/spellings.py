"""How each source spells the names of the tensors that our layers hold: one table a source.

A table maps a part of a network to the source's (convolution, BatchNorm) names. Blocks come in two kinds: "separable"
(depthwise, project) and "inverted" (expand, depthwise, project). In the names ``{s}`` is the stage and ``{b}`` the
block in it, both from 0; ``{n}`` counts the blocks of the whole network from 0, ``{n1}`` from 1, and ``{last}`` is the
index after the last block, from 1.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mobilenets_tf.conventions import PYTORCH, TENSORFLOW, Convention

Pair = tuple[str, str]


@dataclass(frozen=True)
class Spelling:
    """One source's names (None where its networks have no such part) and the convention its networks keep."""

    convention: Convention
    stem: Pair
    separable: dict[str, Pair]
    classifier: tuple[str, ...]  # the first of these that a file has
    inverted: dict[str, Pair] | None = None
    head: Pair | None = None


SPELLINGS = {
    "timm": Spelling(
        convention=PYTORCH,  # but its "tf_" networks, converted from TensorFlow, keep TensorFlow's
        stem=("conv_stem", "bn1"),
        separable={
            "depthwise": ("blocks.{s}.{b}.conv_dw", "blocks.{s}.{b}.bn1"),
            "project": ("blocks.{s}.{b}.conv_pw", "blocks.{s}.{b}.bn2"),
        },
        inverted={
            "expand": ("blocks.{s}.{b}.conv_pw", "blocks.{s}.{b}.bn1"),
            "depthwise": ("blocks.{s}.{b}.conv_dw", "blocks.{s}.{b}.bn2"),
            "project": ("blocks.{s}.{b}.conv_pwl", "blocks.{s}.{b}.bn3"),
        },
        head=("conv_head", "bn2"),
        classifier=("classifier",),
    ),
    "torchvision_mobilenet_v2": Spelling(
        convention=PYTORCH,
        stem=("features.0.0", "features.0.1"),
        separable={
            "depthwise": ("features.{n1}.conv.0.0", "features.{n1}.conv.0.1"),
            "project": ("features.{n1}.conv.1", "features.{n1}.conv.2"),
        },
        inverted={
            "expand": ("features.{n1}.conv.0.0", "features.{n1}.conv.0.1"),
            "depthwise": ("features.{n1}.conv.1.0", "features.{n1}.conv.1.1"),
            "project": ("features.{n1}.conv.2", "features.{n1}.conv.3"),
        },
        head=("features.{last}.0", "features.{last}.1"),
        classifier=("classifier.1",),
    ),
    "efficientnet_lite_pytorch": Spelling(
        convention=TENSORFLOW,
        stem=("_conv_stem", "_bn0"),
        separable={
            "depthwise": ("_blocks.{n}._depthwise_conv", "_blocks.{n}._bn1"),
            "project": ("_blocks.{n}._project_conv", "_blocks.{n}._bn2"),
        },
        inverted={
            "expand": ("_blocks.{n}._expand_conv", "_blocks.{n}._bn0"),
            "depthwise": ("_blocks.{n}._depthwise_conv", "_blocks.{n}._bn1"),
            "project": ("_blocks.{n}._project_conv", "_blocks.{n}._bn2"),
        },
        head=("_conv_head", "_bn1"),
        classifier=("_fc",),
    ),
    "keras_mobilenet_v1": Spelling(
        convention=TENSORFLOW,
        stem=("conv1", "conv1_bn"),
        separable={
            "depthwise": ("conv_dw_{n1}", "conv_dw_{n1}_bn"),
            "project": ("conv_pw_{n1}", "conv_pw_{n1}_bn"),
        },
        classifier=("conv_preds",),
    ),
    "keras_mobilenet_v2": Spelling(
        convention=TENSORFLOW,
        stem=("Conv1", "bn_Conv1"),
        separable={
            "depthwise": ("expanded_conv_depthwise", "expanded_conv_depthwise_BN"),
            "project": ("expanded_conv_project", "expanded_conv_project_BN"),
        },
        inverted={
            "expand": ("block_{n}_expand", "block_{n}_expand_BN"),
            "depthwise": ("block_{n}_depthwise", "block_{n}_depthwise_BN"),
            "project": ("block_{n}_project", "block_{n}_project_BN"),
        },
        head=("Conv_1", "Conv_1_bn"),
        classifier=("predictions", "Logits"),  # "Logits" in the published files, which are of 2018
    ),
}

_PART = re.compile(r"stage(\d+)_block(\d+)_(expand|depthwise|project)_(conv|bn)")


def names(spelling: Spelling, layers: Iterable[str], keys: Iterable[str]) -> dict[str, str]:
    """Our layer name -> the source's name, for every one of ``layers``; ``keys`` are the file's tensor names.

    A layer for which the source has no name is left out; loading then lists it as missing.
    """
    layers, parts = list(layers), _parts(keys)
    blocks = list(dict.fromkeys((int(m[1]), int(m[2])) for m in map(_PART.fullmatch, layers) if m))
    inverted = {(int(m[1]), int(m[2])) for m in map(_PART.fullmatch, layers) if m and m[3] == "expand"}
    index = {block: n for n, block in enumerate(blocks)}
    whole = {"stem": spelling.stem, "head": spelling.head}
    result = {}
    for layer in layers:
        if match := _PART.fullmatch(layer):
            block = int(match[1]), int(match[2])
            table = spelling.inverted if block in inverted else spelling.separable
            pair = table.get(match[3]) if table else None
            n = index[block]
            fields = {"s": block[0] - 1, "b": block[1] - 1, "n": n, "n1": n + 1}
            kind = match[4]
        elif layer == "classifier":
            result[layer] = next((name for name in spelling.classifier if name in parts), spelling.classifier[0])
            continue
        else:
            part, _, kind = layer.rpartition("_")
            pair, fields = whole.get(part), {"last": len(blocks) + 1}
        if pair:
            result[layer] = pair[kind == "bn"].format(**fields)
    return result


def recognise(keys: Iterable[str]) -> str | None:
    """The name of the table that a file's tensor names follow, told by its stem; None if it is none of these."""
    parts = _parts(keys)
    return next((name for name, spelling in SPELLINGS.items() if set(spelling.stem) <= parts), None)


def _parts(keys: Iterable[str]) -> set[str]:
    return {key.rsplit(".", 1)[0] for key in keys}
