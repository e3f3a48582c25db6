"""How each source of weights names the tensors of our layers: one table per source.

A table maps our layer names to the source's. A layer inside a block is listed without its position
(``stage3_block2_expand_conv`` as ``expand_conv``), and a number in the remaining name as ``#`` (``layer2_qkv`` as
``layer#_qkv``). In the source's names

    {s} {b}     number of the stage, and of the block in it, from 0 ({s1}: of the stage, from 1)
    {n} {n1}    number of the block in the network, from 0 and from 1; {last}: number of blocks, plus one
    {letter}    the number of the block in the stage as a letter: a, b, ...
    {k}         suffix that Keras gives to the squeeze-and-excite layer among those of the network: "", "_1", "_2", ...
    {b2} {b21}  2 b and 2 b + 1, for sources that count the depthwise and the pointwise half of a block
    {p} {p1}    place of a convolution among those of its block (expand, depthwise, project), from 0 and from 1
    {q}         the same place, with squeeze-and-excite counted as one
    {i}         the number in the remaining name, from 0
    {depth}     number of transformer layers in the block
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mobilenets_tf.conventions import PYTORCH, TENSORFLOW, Convention


@dataclass(frozen=True)
class Spelling:
    """The names of one source, and the convention of its networks.

    convention: padding and BatchNorm epsilon.
    marks: layer names by which a file of this source is recognised; one of them in the file is enough.
    layers, block: our names of layers outside of blocks, and inside, -> the source's.
    classifier: possible names of the classifier; a file has one of them.
    bgr: the network was trained on channels in the order blue, green, red. Loading reverses the stem's input channels,
        so that our network takes RGB.
    separable: entries that replace those of ``block`` in a block without an expanding convolution.
    """

    convention: Convention
    marks: tuple[str, ...]
    layers: Mapping[str, str]
    block: Mapping[str, str]
    classifier: tuple[str, ...]
    bgr: bool = False
    separable: Mapping[str, str] = field(default_factory=dict)


def _pairs(**parts: str) -> dict[str, str]:
    """Name a convolution and its BatchNorm: stem="a b" -> {"stem_conv": "a", "stem_bn": "b"}."""
    return {
        f"{part}_{kind}": name
        for part, names in parts.items()
        for kind, name in zip(("conv", "bn"), names.split(), strict=True)
    }


def _torch_unit(
    part: str, source: str, branch: str, scale: str, skip: str, squeeze: str, excite: str
) -> dict[str, str]:
    """Name the layers of one unit of MobileOne, in its training form and its inference form."""
    return {
        f"{part}_branch#_conv": f"{source}.{branch}.{{i}}.conv",
        f"{part}_branch#_bn": f"{source}.{branch}.{{i}}.bn",
        f"{part}_scale_conv": f"{source}.{scale}.conv",
        f"{part}_scale_bn": f"{source}.{scale}.bn",
        f"{part}_skip_bn": f"{source}.{skip}",
        f"{part}_squeeze_conv": f"{source}.{squeeze}",
        f"{part}_excite_conv": f"{source}.{excite}",
        f"{part}_conv": f"{source}.reparam_conv",
    }  # fmt: skip


_TIMM_UNIT = ("conv_kxk", "conv_scale", "identity", "attn.fc1", "attn.fc2")
_APPLE_UNIT = ("rbr_conv", "rbr_scale", "rbr_skip", "se.reduce", "se.expand")

SPELLINGS = {
    "timm": Spelling(
        convention=PYTORCH,  # its "tf_" networks, converted from TensorFlow, have TensorFlow's
        marks=("conv_stem",),
        layers={**_pairs(stem="conv_stem bn1", head="conv_head bn2"), "hidden": "conv_head"},
        block={
            "expand_conv": "blocks.{s}.{b}.conv_pw",
            "depthwise_conv": "blocks.{s}.{b}.conv_dw",
            "squeeze_conv": "blocks.{s}.{b}.se.conv_reduce",
            "excite_conv": "blocks.{s}.{b}.se.conv_expand",
            "project_conv": "blocks.{s}.{b}.conv_pwl",
            "pointwise_conv": "blocks.{s}.{b}.conv",
            **{f"{part}_bn": "blocks.{s}.{b}.bn{p1}" for part in ("expand", "depthwise", "project", "pointwise")},
        },
        separable={"project_conv": "blocks.{s}.{b}.conv_pw"},
        classifier=("classifier",),
    ),
    "timm_mobileone": Spelling(
        convention=PYTORCH,
        marks=("stem.conv_scale.conv", "stem.reparam_conv"),
        layers=_torch_unit("stem", "stem", *_TIMM_UNIT),
        block={
            **_torch_unit("depthwise", "stages.{s}.{b2}", *_TIMM_UNIT),
            **_torch_unit("project", "stages.{s}.{b21}", *_TIMM_UNIT),
        },
        classifier=("head.fc",),
    ),
    "apple_mobileone": Spelling(
        convention=PYTORCH,
        marks=("stage0.rbr_scale.conv", "stage0.reparam_conv"),
        layers=_torch_unit("stem", "stage0", *_APPLE_UNIT),
        block={
            **_torch_unit("depthwise", "stage{s1}.{b2}", *_APPLE_UNIT),
            **_torch_unit("project", "stage{s1}.{b21}", *_APPLE_UNIT),
        },
        classifier=("linear",),
    ),
    **{
        f"timm_mobilevit{version}": Spelling(
            convention=PYTORCH,
            marks=(f"stages.2.1.transformer.0.attn.{qkv}",),
            layers=_pairs(stem="stem.conv stem.bn", head="final_conv.conv final_conv.bn"),
            block={
                **_pairs(
                    expand="stages.{s}.{b}.conv1_1x1.conv stages.{s}.{b}.conv1_1x1.bn",
                    depthwise="stages.{s}.{b}.conv2_kxk.conv stages.{s}.{b}.conv2_kxk.bn",
                    project="stages.{s}.{b}.conv3_1x1.conv stages.{s}.{b}.conv3_1x1.bn",
                    local="stages.{s}.{b}.conv_kxk.conv stages.{s}.{b}.conv_kxk.bn",
                    **{"global": "stages.{s}.{b}.conv_proj.conv stages.{s}.{b}.conv_proj.bn"},
                    fusion="stages.{s}.{b}.conv_fusion.conv stages.{s}.{b}.conv_fusion.bn",
                ),
                "embed_conv": "stages.{s}.{b}.conv_1x1",
                "layer#_attention_norm": "stages.{s}.{b}.transformer.{i}.norm1",
                "layer#_qkv": f"stages.{{s}}.{{b}}.transformer.{{i}}.attn.{qkv}",
                "layer#_out": f"stages.{{s}}.{{b}}.transformer.{{i}}.attn.{out}",
                "layer#_mlp_norm": "stages.{s}.{b}.transformer.{i}.norm2",
                "layer#_mlp_expand": "stages.{s}.{b}.transformer.{i}.mlp.fc1",
                "layer#_mlp_project": "stages.{s}.{b}.transformer.{i}.mlp.fc2",
                "norm": "stages.{s}.{b}.norm",
            },
            classifier=("head.fc",),
        )
        for version, qkv, out in (("", "qkv", "proj"), ("_v2", "qkv_proj", "out_proj"))
    },
    # ml-cvnets, and MobileViTv3 with the same names. The attention of v1 has linear layers, that of v2 convolutions.
    # ml-cvnets' image readers give BGR for v1 and RGB for v2.
    **{
        f"cvnets_mobilevit{version}": Spelling(
            convention=PYTORCH,
            marks=(f"layer_3.1.global_rep.0.{attention}.1.qkv_proj{conv}",),
            bgr=not version,
            layers=_pairs(
                stem="conv_1.block.conv conv_1.block.norm",
                head="conv_1x1_exp.block.conv conv_1x1_exp.block.norm",
            ),
            block={
                **_pairs(
                    expand="layer_{s1}.{b}.block.exp_1x1.block.conv layer_{s1}.{b}.block.exp_1x1.block.norm",
                    depthwise="layer_{s1}.{b}.block.conv_3x3.block.conv layer_{s1}.{b}.block.conv_3x3.block.norm",
                    project="layer_{s1}.{b}.block.red_1x1.block.conv layer_{s1}.{b}.block.red_1x1.block.norm",
                    local=f"layer_{{s1}}.{{b}}.{local}.block.conv layer_{{s1}}.{{b}}.{local}.block.norm",
                    **{"global": "layer_{s1}.{b}.conv_proj.block.conv layer_{s1}.{b}.conv_proj.block.norm"},
                    fusion="layer_{s1}.{b}.fusion.block.conv layer_{s1}.{b}.fusion.block.norm",
                ),
                "embed_conv": f"layer_{{s1}}.{{b}}.{embed}.block.conv",
                "layer#_attention_norm": f"layer_{{s1}}.{{b}}.global_rep.{{i}}.{attention}.0",
                "layer#_qkv": f"layer_{{s1}}.{{b}}.global_rep.{{i}}.{attention}.1.qkv_proj{conv}",
                "layer#_out": f"layer_{{s1}}.{{b}}.global_rep.{{i}}.{attention}.1.out_proj{conv}",
                "layer#_mlp_norm": "layer_{s1}.{b}.global_rep.{i}.pre_norm_ffn.0",
                "layer#_mlp_expand": f"layer_{{s1}}.{{b}}.global_rep.{{i}}.pre_norm_ffn.1{conv}",
                "layer#_mlp_project": f"layer_{{s1}}.{{b}}.global_rep.{{i}}.pre_norm_ffn.{last}{conv}",
                "norm": "layer_{s1}.{b}.global_rep.{depth}",
            },
            classifier=(classifier,),
        )
        for version, attention, conv, local, embed, last, classifier in (
            ("", "pre_norm_mha", "", "local_rep.conv_3x3", "local_rep.conv_1x1", 4, "classifier.fc"),
            ("_v2", "pre_norm_attn", ".block.conv", "local_rep.0", "local_rep.1", 3, "classifier.1"),
        )
    },
    "torchvision": Spelling(
        convention=PYTORCH,
        marks=("features.1.conv.0.0",),
        layers=_pairs(stem="features.0.0 features.0.1", head="features.{last}.0 features.{last}.1"),
        block=_pairs(
            expand="features.{n1}.conv.{p}.0 features.{n1}.conv.{p}.1",
            depthwise="features.{n1}.conv.{p}.0 features.{n1}.conv.{p}.1",
            project="features.{n1}.conv.{p} features.{n1}.conv.{p1}",
        ),
        classifier=("classifier.1",),
    ),
    "torchvision_mobilenet_v3": Spelling(
        convention=Convention("symmetric", 1e-3),
        marks=("features.1.block.0.0",),
        layers={**_pairs(stem="features.0.0 features.0.1"), "hidden": "classifier.0"},
        block={
            **_pairs(
                expand="features.{n1}.block.{q}.0 features.{n1}.block.{q}.1",
                depthwise="features.{n1}.block.{q}.0 features.{n1}.block.{q}.1",
                project="features.{n1}.block.{q}.0 features.{n1}.block.{q}.1",
                pointwise="features.{n1}.0 features.{n1}.1",
            ),
            "squeeze_conv": "features.{n1}.block.{q}.fc1",
            "excite_conv": "features.{n1}.block.{q}.fc2",
        },
        classifier=("classifier.3",),
    ),
    "efficientnet_lite_pytorch": Spelling(
        convention=TENSORFLOW,
        marks=("_conv_stem",),
        layers=_pairs(stem="_conv_stem _bn0", head="_conv_head _bn1"),
        block=_pairs(
            expand="_blocks.{n}._expand_conv _blocks.{n}._bn0",
            depthwise="_blocks.{n}._depthwise_conv _blocks.{n}._bn1",
            project="_blocks.{n}._project_conv _blocks.{n}._bn2",
        ),
        classifier=("_fc",),
    ),
    "keras_mobilenet_v1": Spelling(
        convention=TENSORFLOW,
        marks=("conv1",),
        layers=_pairs(stem="conv1 conv1_bn"),
        block=_pairs(
            depthwise="conv_dw_{n1} conv_dw_{n1}_bn",
            project="conv_pw_{n1} conv_pw_{n1}_bn",
        ),
        classifier=("conv_preds",),
    ),
    "keras_mobilenet_v2": Spelling(
        convention=TENSORFLOW,
        marks=("Conv1",),
        layers=_pairs(stem="Conv1 bn_Conv1", head="Conv_1 Conv_1_bn"),
        block=_pairs(
            expand="block_{n}_expand block_{n}_expand_BN",
            depthwise="block_{n}_depthwise block_{n}_depthwise_BN",
            project="block_{n}_project block_{n}_project_BN",
        ),
        separable=_pairs(
            depthwise="expanded_conv_depthwise expanded_conv_depthwise_BN",
            project="expanded_conv_project expanded_conv_project_BN",
        ),
        classifier=("predictions", "Logits"),  # "Logits" in the published files, which are of 2018
    ),
    # Keras 3 does not allow "/" in a layer's name; the published files are of Keras 2 and have it.
    **{
        name: Spelling(
            convention=TENSORFLOW,
            marks=("conv",) if c == "c" else (f"Conv{bn}",),
            layers={**_pairs(stem=f"{c}onv {c}onv{bn}"), "hidden": f"{c}onv_2"},
            block={
                **_pairs(
                    expand=f"expanded_conv_{{n}}{to}expand expanded_conv_{{n}}{to}expand{bn}",
                    depthwise=f"expanded_conv_{{n}}{to}depthwise expanded_conv_{{n}}{to}depthwise{bn}",
                    project=f"expanded_conv_{{n}}{to}project expanded_conv_{{n}}{to}project{bn}",
                    pointwise=f"{c}onv_1 {c}onv_1{bn}",
                ),
                "squeeze_conv": f"expanded_conv_{{n}}{to}squeeze_excite{to}{c}onv",
                "excite_conv": f"expanded_conv_{{n}}{to}squeeze_excite{to}{c}onv_1",
            },
            separable={
                **_pairs(
                    depthwise=f"expanded_conv{to}depthwise expanded_conv{to}depthwise{bn}",
                    project=f"expanded_conv{to}project expanded_conv{to}project{bn}",
                ),
                "squeeze_conv": f"expanded_conv{to}squeeze_excite{to}{c}onv",
                "excite_conv": f"expanded_conv{to}squeeze_excite{to}{c}onv_1",
            },
            classifier=(f"{'l' if c == 'c' else 'L'}ogits",),
        )
        for name, c, to, bn in (
            ("keras_mobilenet_v3", "c", "_", "_bn"),
            ("keras2_mobilenet_v3", "C", "/", "/BatchNorm"),
        )
    },
    "keras_cv_mobilenet_v3": Spelling(
        convention=TENSORFLOW,
        marks=("Conv_BatchNorm",),
        layers=_pairs(stem="Conv Conv_BatchNorm"),
        block={
            **_pairs(
                expand="expanded_conv_{n}_expand expanded_conv_{n}_expand_BatchNorm",
                depthwise="expanded_conv_{n}_depthwise expanded_conv_{n}_depthwise_BatchNorm",
                project="expanded_conv_{n}_project expanded_conv_{n}_project_BatchNorm",
                pointwise="Conv_1 Conv_1_BatchNorm",
            ),
            "squeeze_conv": "squeeze_and_excite2d{k}/squeeze_conv",
            "excite_conv": "squeeze_and_excite2d{k}/excite_conv",
        },
        separable=_pairs(
            depthwise="expanded_conv_depthwise expanded_conv_depthwise_BatchNorm",
            project="expanded_conv_project expanded_conv_project_BatchNorm",
        ),
        classifier=("predictions",),
    ),
    **{
        f"{package}_efficientnet_lite": Spelling(
            convention=convention,
            marks=(f"block1a_{bn}",),
            layers=_pairs(stem="stem_conv stem_bn", head="top_conv top_bn"),
            block=_pairs(
                expand="block{s1}{letter}_expand_conv block{s1}{letter}_expand_bn",
                depthwise=f"block{{s1}}{{letter}}_dwconv block{{s1}}{{letter}}_{bn}",
                project=f"block{{s1}}{{letter}}_{project} block{{s1}}{{letter}}_project_bn",
            ),
            classifier=("predictions",),
        )
        for package, convention, bn, project in (
            ("keras_cv", TENSORFLOW, "bn", "project_conv"),
            ("keras_hub", PYTORCH, "dwconv_bn", "project"),
        )
    },
    "keras_hub_mobilenet_v3": Spelling(
        convention=PYTORCH,
        marks=("block_0_0_conv1",),
        layers={**_pairs(stem="input_conv input_batch_norm"), "hidden": "classifier_conv"},
        block={
            **_pairs(
                expand="block_{s}_{b}_conv{p1} block_{s}_{b}_bn{p1}",
                depthwise="block_{s}_{b}_conv{p1} block_{s}_{b}_bn{p1}",
                project="block_{s}_{b}_conv{p1} block_{s}_{b}_bn{p1}",
                pointwise="block_{s}_{b}_conv block_{s}_{b}_bn",
            ),
            "squeeze_conv": "block_{s}_{b}_se_conv_reduce",
            "excite_conv": "block_{s}_{b}_se_conv_expand",
        },
        separable={
            "squeeze_conv": "block_{s}_{b}_squeeze_excite_conv_reduce",
            "excite_conv": "block_{s}_{b}_squeeze_excite_conv_expand",
        },
        classifier=("predictions",),
    ),
}

_IN_BLOCK = re.compile(r"stage(\d+)_block(\d+)_(.+)")
_CONVOLUTIONS = ("expand", "depthwise", "squeeze", "project", "pointwise")


def names(spelling: Spelling, layers: Iterable[str], keys: Iterable[str]) -> dict[str, str]:
    """Map our layer names to the source's.

    layers: our names. keys: names of the tensors in the file.

    A layer that the source does not have is left out; loading then reports it as missing.
    """
    layers, parts = list(layers), _parts(keys)
    inside: dict[tuple[int, int], list[str]] = {}
    for layer in layers:
        if match := _IN_BLOCK.fullmatch(layer):
            inside.setdefault((int(match[1]), int(match[2])), []).append(match[3])
    squeezed = 0
    fields: dict[tuple[int, int], dict[str, Any]] = {}
    for n, (position, rests) in enumerate(inside.items()):
        fields[position] = _fields(n, *position, rests) | {"k": f"_{squeezed}" if squeezed else ""}
        squeezed += "squeeze_conv" in rests
    result: dict[str, str] = {}
    for layer in layers:
        if layer == "classifier":
            result[layer] = next((name for name in spelling.classifier if name in parts), spelling.classifier[0])
            continue
        if match := _IN_BLOCK.fullmatch(layer):
            position, rest = (int(match[1]), int(match[2])), match[3]
            expands = any(other.startswith("expand_") for other in inside[position])
            table = spelling.block if expands else {**spelling.block, **spelling.separable}
            known = fields[position] | fields[position]["places"].get(rest.split("_")[0], {})
        else:
            rest, table, known = layer, spelling.layers, {"last": len(inside) + 1}
        number = re.search(r"\d+", rest)
        if name := table.get(re.sub(r"\d+", "#", rest)):
            result[layer] = name.format(**known, i=number and int(number[0]) - 1)
    return result


def _fields(n: int, stage: int, block: int, rests: list[str]) -> dict[str, Any]:
    """Return the values of the placeholders for a block: number ``n`` in the network, with the layers ``rests``."""
    present = [part for part in _CONVOLUTIONS if any(rest.startswith(f"{part}_") for rest in rests)]
    normalised = [part for part in present if part != "squeeze"]
    places = {part: {"p": place, "p1": place + 1} for place, part in enumerate(normalised)}
    for place, part in enumerate(present):
        places.setdefault(part, {})["q"] = place
    places["excite"] = places.get("squeeze", {})
    return {
        "s": stage - 1, "s1": stage, "b": block - 1, "b2": 2 * block - 2, "b21": 2 * block - 1, "n": n, "n1": n + 1,
        "letter": chr(ord("a") + block - 1), "depth": sum(rest.endswith("_qkv") for rest in rests), "places": places,
    }  # fmt: skip


def recognise(keys: Iterable[str], nested: bool = False) -> dict[str, str]:
    """Return the places in a file where a network of a known source is: prefix of the tensor names -> table.

    The prefix is "" for a network that is the whole file.

    keys: names of the tensors in the file. nested: look for networks under a prefix too, such as "model." where a
        trainer's module holds the network.
    """
    parts = _parts(keys)
    for name, spelling in SPELLINGS.items():
        if parts.intersection(spelling.marks):
            return {"": name}
    found: dict[str, str] = {}
    for name, spelling in SPELLINGS.items() if nested else ():
        if not name.startswith("keras"):
            ends = tuple(f".{mark}" for mark in spelling.marks)
            for part in sorted(parts):
                if end := next((end for end in ends if part.endswith(end)), None):
                    found.setdefault(part[: 1 - len(end)], name)
    return found


def _parts(keys: Iterable[str]) -> set[str]:
    return {key.rsplit(".", 1)[0] for key in keys}
