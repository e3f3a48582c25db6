"""The registered networks: names and facts that need no built model. Importing this module needs no TensorFlow."""

import fnmatch
import functools
import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mobilenets_tf.errors import RequestError, unknown

TASKS = ("classify", "detect", "segment")


@dataclass(frozen=True)
class Network:
    """One registered network.

    name: the registry name, also used on the command line.
    builder: "module:function" of its Keras builder; ``registry.builder`` imports it.
    resolution: height and width of the published network's input in pixels.
    source: the paper or code that defines it.
    alphas: the published width multipliers; empty if the network has none.
    options: arguments of the builder that distinguish this network from others of its family.
    task: one of ``TASKS``.
    backbone: the registry name of the classifier whose features a detector or segmenter reads, also an argument of the
        builder; None for a classifier.
    """

    name: str
    builder: str
    resolution: int
    source: str
    alphas: tuple[float, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    task: str = "classify"
    backbone: str | None = None


_LITE_SOURCE = "tensorflow/tpu, models/official/efficientnet/lite"
_TRANSFORMER, _SEPARABLE = ("xxs", "xs", "s"), ("050", "075", "100")
_CLASSIFIERS = {
    network.name: network
    for network in (
        Network(
            "mobilenet_v1", "mobilenets_tf.networks.mobilenet_v1:MobileNetV1", 224, "arXiv 1704.04861, table 1",
            alphas=(0.25, 0.5, 0.75, 1.0),
        ),
        Network(
            "mobilenet_v2", "mobilenets_tf.networks.mobilenet_v2:MobileNetV2", 224, "arXiv 1801.04381, table 2",
            alphas=(0.35, 0.5, 0.75, 1.0, 1.3, 1.4),
        ),
        *(
            Network(
                f"mobilenet_v3_{size}{suffix}",
                f"mobilenets_tf.networks.mobilenet_v3:MobileNetV3{size.capitalize()}",
                224,
                f"arXiv 1905.02244, table {table}",
                alphas=(0.75, 1.0),
                options={"minimalistic": True} if suffix else {},
            )
            for size, table in (("large", 1), ("small", 2))
            for suffix in ("", "_minimalistic")
        ),
        *(
            Network(
                f"efficientnet_lite{size}",
                f"mobilenets_tf.networks.efficientnet_lite:EfficientNetLite{size}",
                resolution,
                _LITE_SOURCE,
            )
            for size, resolution in enumerate((224, 240, 260, 280, 300))
        ),
        *(
            Network(
                f"mobileone_{size}",
                f"mobilenets_tf.networks.mobileone:MobileOne{size[0].upper()}{size[1:]}",
                224,
                "our fit to the counts in arXiv 2206.04040, table 13 (benchmarks/mobileone_micro.py)"
                if size.startswith("mu")
                else "arXiv 2206.04040, table 7; apple/ml-mobileone",
            )
            for size in ("s0", "s1", "s2", "s3", "s4", "mu0", "mu1", "mu2")
        ),
        *(
            Network(
                f"mobilevit{version}_{size}{suffix}",
                f"mobilenets_tf.networks.mobilevit:MobileViT{version.upper().lstrip('_')}"
                + (f"_{size}" if size.isdigit() else size.upper()),
                256,
                f"arXiv {paper}; {code}",
                options={"stage4_depth": 2} if suffix else {},
            )
            for version, paper, code, sizes, suffixes in (
                ("", "2110.02178", "apple/ml-cvnets", _TRANSFORMER, ("",)),
                ("_v2", "2206.02680", "apple/ml-cvnets", _SEPARABLE, ("",)),
                ("_v3", "2209.15159", "micronDLA/MobileViTv3", _TRANSFORMER + _SEPARABLE, ("", "_l2")),
            )
            for size in sizes
            for suffix in suffixes
        ),
    )
}  # fmt: skip

_V3 = ("mobilenet_v3_large", "mobilenet_v3_small")
_MOBILEVIT_V3 = tuple(f"mobilevit_v3_{size}" for size in _TRANSFORMER + _SEPARABLE)
_BACKBONES = (
    "mobilenet_v1",
    "mobilenet_v2",
    *_V3,
    *(f"efficientnet_lite{size}" for size in range(5)),
    *(f"mobileone_s{size}" for size in range(5)),
    *_MOBILEVIT_V3,
)


def _on(backbone: str, kind: str, task: str, builder: str, resolution: int, source: str, **options) -> Network:
    """Describe a detector or segmenter: a head on a classifier's features."""
    return Network(
        f"{kind}_{backbone}" + ("_reduced" if "reduced_tail" in options else ""),
        f"mobilenets_tf.networks.{builder}",
        resolution,
        source,
        _CLASSIFIERS[backbone].alphas,
        options,
        task,
        backbone,
    )


def _detectors(backbone: str) -> Iterator[Network]:
    source = "arXiv 1801.04381, tables 5 and 6; tensorflow/models, object_detection"
    if backbone in _V3:
        source = "arXiv 1905.02244, table 6; tensorflow/models, object_detection"
        yield _on(backbone, "ssdlite", "detect", "heads.ssd:SSD", 320, source, reduced_tail=True)
    elif backbone in _MOBILEVIT_V3:
        source = "arXiv 2209.15159; apple/ml-cvnets, SSD"
    yield _on(backbone, "ssdlite", "detect", "heads.ssd:SSD", 320, source)
    yield _on(backbone, "ssd", "detect", "heads.ssd:SSD", 320, source, lite=False)


def _segmenters(backbone: str) -> Iterator[Network]:
    source, options = "arXiv 1706.05587; arXiv 1801.04381, table 7", {}
    if backbone in _MOBILEVIT_V3:
        source = "arXiv 1706.05587; arXiv 2209.15159; apple/ml-cvnets, DeeplabV3"
        # With v2's blocks the head is twice as wide (micronDLA/MobileViTv3, MobileViTv3-v2/config/segmentation).
        options = {"filters": 512} if backbone.endswith(_SEPARABLE) else {}
    yield _on(backbone, "deeplabv3", "segment", "heads.segmentation:DeepLabV3", 512, source, **options)
    if backbone in ("mobilenet_v2", *_V3):
        source = "arXiv 1905.02244, section 6.4 and table 7"
        yield _on(backbone, "raspp", "segment", "heads.segmentation:RASPP", 512, source)
        yield _on(backbone, "lraspp", "segment", "heads.segmentation:LRASPP", 512, source)


_NETWORKS = _CLASSIFIERS | {
    network.name: network for backbone in _BACKBONES for network in (*_detectors(backbone), *_segmenters(backbone))
}


def _natural(name: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def list_models(pattern: str = "*", task: str | None = None) -> list[str]:
    """List the names of the registered networks in natural order ("s2" before "s10").

    Args:
        pattern: a name, a shell wildcard that the names match, or a part of them.
        task: "classify", "detect" or "segment": only the networks for this task.

    >>> list_models("mobilenet_v[12]")
    ['mobilenet_v1', 'mobilenet_v2']
    >>> list_models("mobileone_mu")
    ['mobileone_mu0', 'mobileone_mu1', 'mobileone_mu2']

    Raises:
        RequestError: ``task`` is not one of ``TASKS``.
    """
    if task not in (None, *TASKS):
        raise unknown("task", task, TASKS)
    names = [name for name, network in _NETWORKS.items() if task in (None, network.task)]
    found = fnmatch.filter(names, pattern) or fnmatch.filter(names, f"*{pattern}*")
    return sorted(found, key=_natural)


def get(name: str) -> Network:
    """Return the record of one network.

    Raises:
        RequestError: ``name`` is not registered; the message gives the nearest name.
    """
    if not isinstance(name, str):
        raise RequestError(f"Received {type(name).__name__} for the name of a network; expected a text.")
    if name not in _NETWORKS:
        raise RequestError(f"{unknown('model', name, list_models())} (mobilenets-tf list shows all)")
    return _NETWORKS[name]


def builder(name: str) -> functools.partial:
    """Return the function that builds a network, with the network's ``options`` and ``backbone`` already bound.

    Raises:
        RequestError: ``name`` is not registered.
    """
    network = get(name)
    module, _, function = network.builder.partition(":")
    options = {**network.options} | ({"backbone": network.backbone} if network.backbone else {})
    return functools.partial(getattr(importlib.import_module(module), function), **options)


def check_size(network: Network, alpha: float | None, resolution: int | tuple[int, int] | None) -> None:
    """Refuse a width multiplier or an input size that the network cannot have, before it is built.

    Raises:
        RequestError: ``alpha`` is given for a network without a width multiplier or is not in (0, 4];
            ``resolution`` is neither one number in [32, 2048] nor two.
    """
    if alpha is not None:
        if not network.alphas:
            raise RequestError(f"{network.name} has no width multiplier; leave alpha out (received alpha={alpha!r}).")
        if not isinstance(alpha, (int, float)) or not 0 < alpha <= 4:
            published = ", ".join(map(str, network.alphas))
            raise RequestError(f"alpha={alpha!r} is out of range: above 0, at most 4 (published: {published}).")
    if resolution is None:
        return
    sides = resolution if isinstance(resolution, (tuple, list)) else (resolution, resolution)
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise RequestError(f"resolution={resolution!r}: expected one number of pixels, or (height, width).")
    if not all(32 <= side <= 2048 for side in sides):
        raise RequestError(
            f"resolution={resolution!r} is out of range: 32 to 2048 pixels (published: {network.resolution})."
        )
