"""What the papers and their code say of latency, for ``papers.py``: which networks they compare and their figures.

Data only. A figure that we could not read in a source is None, never one from memory. Sources of tables that we read as
pictures or translations are named as the tables they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mobilenets_tf import registry

THIRTY_LAYERS = "thirty_layers"  # the one network that is not registered: papers.py builds it
HERE = "here"  # the column of our own figures
COUNTS = {"params_trainable": "parameters", "macs": "multiply-adds"}  # what latency may follow


@dataclass(frozen=True)
class Row:
    """One file to time.

    label: in the table and the picture. network: a registered name or ``THIRTY_LAYERS``. options: its builder's.
    figures: the source's, one for each of the comparison's ``columns``; None where it has none.
    base: label of the row that this one is divided by; None for a base itself.
    """

    label: str
    network: str
    figures: tuple[float | None, ...]
    base: str | None = None
    options: Mapping = field(default_factory=dict)
    scheme: str = "float32"


@dataclass(frozen=True)
class Comparison:
    """Networks side by side.

    columns: whose each of the rows' figures is. remark: what a reader has to know.
    ratio: what is divided by what, where that is not the latency by the first row's.
    """

    title: str
    source: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    remark: str = ""
    ratio: str = ""


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of latency with parameters and with multiply-adds.

    published: column -> the paper's (parameters, multiply-adds), over its own networks.
    rows: ours; those that the paper lists too have its latencies as ``figures``, one for each of ``columns``.
    """

    title: str
    source: str
    columns: tuple[str, ...]
    published: Mapping[str, tuple[float, float]]
    rows: tuple[Row, ...]
    remark: str = ""


def _against(base: Row, *rows: tuple) -> tuple[Row, ...]:
    """``rows``: (label, network, figures[, options]), all divided by ``base``."""
    return base, *(
        Row(label, network, figures, base.label, *options, scheme=base.scheme)
        for label, network, figures, *options in rows
    )


_NARROW, _SMALLER = {"alpha": 0.35}, {"alpha": 0.75}
V3_AGAINST_V2 = Comparison(
    "MobileNetV3 against MobileNetV2, float32",
    "Howard et al. 2019, arXiv 1905.02244, table 3; minimalistic: tensorflow/models, slim/nets/mobilenet/README.md",
    ("Pixel 1", "Pixel 2", "Pixel 3"),
    _against(
        Row("MobileNetV2", "mobilenet_v2", (64, 76, 56)),
        ("MobileNetV3 large", "mobilenet_v3_large", (51, 61, 44)),
        ("MobileNetV3 small", "mobilenet_v3_small", (15.8, 19.4, 14.4)),
        ("MobileNetV2 0.35", "mobilenet_v2", (16.6, 19.6, 13.9), _NARROW),
        ("MobileNetV3 large 0.75", "mobilenet_v3_large", (39, 46, 40), _SMALLER),
        ("MobileNetV3 small 0.75", "mobilenet_v3_small", (12.8, 15.6, 11.7), _SMALLER),
        ("MobileNetV3 large minimalistic", "mobilenet_v3_large_minimalistic", (44.1, 51, 35)),
        ("MobileNetV3 small minimalistic", "mobilenet_v3_small_minimalistic", (12.2, 15.1, 11)),
    ),
    "Our small networks are the published code's (1024 hidden units, in the paper 1280).",
)

V3_AGAINST_V2_INT8 = Comparison(
    "MobileNetV3 against MobileNetV2, int8",
    "Howard et al. 2019, arXiv 1905.02244, table 4",
    ("Pixel 1", "Pixel 2", "Pixel 3"),
    _against(
        Row("MobileNetV2", "mobilenet_v2", (52, 48.3, 37.0), scheme="int8"),
        ("MobileNetV3 large", "mobilenet_v3_large", (44, 42.5, 31.7)),
        ("MobileNetV3 small", "mobilenet_v3_small", (15.5, 14.9, 10.7)),
        ("MobileNetV2 0.35", "mobilenet_v2", (16.7, 15.6, 11.9), _NARROW),
    ),
)

MOBILEONE = Comparison(
    "MobileOne against MobileNetV2 and V3, float32",
    "Vasu et al. 2022, arXiv 2206.04040, table 9",
    ("iPhone 12", "Xeon Gold 5118"),
    _against(
        Row("MobileNetV2", "mobilenet_v2", (0.98, 13.65)),
        ("MobileOne S0", "mobileone_s0", (0.79, 10.55)),
        ("MobileNetV3 large", "mobilenet_v3_large", (1.09, 17.09)),
        ("MobileOne S1", "mobileone_s1", (0.89, 13.04)),
        ("MobileOne S2", "mobileone_s2", (1.18, 14.87)),
        ("MobileOne S3", "mobileone_s3", (1.53, 16.47)),
        ("MobileOne S4", "mobileone_s4", (1.86, 26.60)),
        ("MobileNetV1", "mobilenet_v1", (0.95, 10.65)),
        ("MobileNetV2 1.4", "mobilenet_v2", (1.36, 15.67), {"alpha": 1.4}),
        ("MobileNetV3 small", "mobilenet_v3_small", (0.83, 10.38)),
    ),
    "iPhone: Core ML, whole round trip, the least of 1000 runs. There S4, with 2.7 G multiply-adds more than S0, takes "
    "1.07 ms longer: 2.5 T a second, more than a phone's processor cores compute.",
)

_LITE = {0: (12, 6.5), 1: (18, 9.1), 2: (26, 12), 3: (41, 18), 4: (76, 30)}  # ms on a Pixel 4: float32, int8
LITE_INT8 = Comparison(
    "EfficientNet-Lite: int8 against float32",
    "tensorflow/tpu, models/official/efficientnet/lite/README.md",
    ("Pixel 4, 4 threads",),
    tuple(
        row
        for size, (single, integer) in _LITE.items()
        for row in (
            Row(f"Lite{size} float32", f"efficientnet_lite{size}", (single,)),
            Row(f"Lite{size} int8", f"efficientnet_lite{size}", (integer,), f"Lite{size} float32", scheme="int8"),
        )
    ),
    ratio="latency, int8 over float32",
)

_VIT = {  # millions of multiply-adds with four and with two transformer blocks
    "xxs": (289, 256),
    "xs": (927, 853),
    "s": (1841, 1651),
    "050": (None, None),
    "075": (None, None),
    "100": (None, None),
}
VIT_BLOCKS = Comparison(
    "MobileViTv3: two transformer blocks in stage 4 against four, float32",
    "Wadekar and Chaurasia 2022, arXiv 2209.15159; micronDLA/MobileViTv3, README.md",
    ("multiply-adds",),
    tuple(
        row
        for size, (four, two) in _VIT.items()
        for row in (
            Row(f"MobileViTv3 {size}", f"mobilevit_v3_{size}", (four,)),
            Row(f"MobileViTv3 {size}, two blocks", f"mobilevit_v3_{size}_l2", (two,), f"MobileViTv3 {size}"),
        )
    ),
    "The paper's latencies (its table 5, a GPU) were in no text that we had, so what it counts stands here. 050 to 100 "
    "with two blocks are not published.",
    "two blocks over four: multiply-adds as published, latency here",
)

ACTIVATIONS = Comparison(
    "Activation functions in one 30-layer network, float32",
    "Vasu et al. 2022, arXiv 2206.04040, table 2",
    ("iPhone 12",),
    _against(
        Row("ReLU", THIRTY_LAYERS, (1.53,)),
        ("SE-ReLU", THIRTY_LAYERS, (2.10,), {"squeeze": True}),
        ("SiLU", THIRTY_LAYERS, (2.54,), {"activation": "silu"}),
        ("GELU", THIRTY_LAYERS, (1.63,), {"activation": "gelu"}),
        ("ReLU6", THIRTY_LAYERS, (None,), {"activation": "relu6"}),
        ("hard-swish", THIRTY_LAYERS, (None,), {"activation": "hard_swish"}),
    ),
    "The paper does not say what its 30 layers are: ours are MobileNetV1's and two more. Its dynamic activations "
    "(ratios above 37) are left out.",
)

BLOCKS = Comparison(
    "Architectural blocks in one 30-layer network, float32",
    "Vasu et al. 2022, arXiv 2206.04040, table 3 (baseline and squeeze-and-excite also in table 2)",
    ("iPhone 12",),
    _against(
        Row("baseline", THIRTY_LAYERS, (1.53,)),
        ("with squeeze-and-excite", THIRTY_LAYERS, (2.10,), {"squeeze": True}),
        ("with skip connections", THIRTY_LAYERS, (None,), {"skip": True}),
        ("with both", THIRTY_LAYERS, (None,), {"squeeze": True, "skip": True}),
    ),
    "The paper does not say what its 30 layers are: ours are MobileNetV1's and two more. Its figure for skip "
    "connections was in no text that we had.",
)

# ms: iPhone 12, Xeon Gold 5118 (table 9 of arXiv 2206.04040).
_TIMED = {(row.network, row.options.get("alpha", 1.0)): row.figures for row in MOBILEONE.rows} | {
    ("mobilevit_xxs", 1.0): (4.70, 23.03),
    ("mobilevit_xs", 1.0): (6.97, 27.21),
    ("mobilevit_s", 1.0): (9.21, 30.76),
}


def _registered() -> tuple[Row, ...]:
    """Every registered network at every published width."""
    return tuple(
        Row(
            name if alpha == 1.0 else f"{name} {alpha}",
            name,
            _TIMED.get((name, alpha), (None, None)),
            options={} if alpha == 1.0 else {"alpha": alpha},
        )
        for name in registry.list_models(task="classify")
        for alpha in registry.get(name).alphas or (1.0,)
    )


CORRELATION = Correlation(
    "Does the latency follow parameters or multiply-adds?",
    "Vasu et al. 2022, arXiv 2206.04040, table 1; latencies of single networks: table 9",
    MOBILEONE.columns,
    {"iPhone 12": (0.30, 0.47), "Xeon Gold 5118": (0.07, 0.06)},
    _registered(),
    "Parameters and multiply-adds are those of the inference form.",
)

COMPARISONS = {
    "v3_against_v2": V3_AGAINST_V2,
    "v3_against_v2_int8": V3_AGAINST_V2_INT8,
    "mobileone": MOBILEONE,
    "lite_int8": LITE_INT8,
    "vit_blocks": VIT_BLOCKS,
    "activations": ACTIVATIONS,
    "blocks": BLOCKS,
    "correlation": CORRELATION,
}

# Top-1 on ImageNet's validation set at the network's own resolution, in percent: float32, and int8 of post-training
# quantisation or of quantisation-aware training, as the source has it; None where it says nothing.
TOP1: Mapping[str, tuple[float | None, float | None]] = {
    "mobilenet_v1": (70.9, 69.7),  # tensorflow/models, slim/nets/mobilenet_v1.md; int8: quantisation-aware training
    "mobilenet_v2": (71.8, 70.9),  # slim/nets/mobilenet/README.md; int8: arXiv 1905.02244, table 4
    "mobilenet_v3_large": (75.2, 73.8),  # arXiv 1905.02244, tables 3 and 4
    "mobilenet_v3_small": (67.4, 64.9),  # the same
    "mobilenet_v3_large_minimalistic": (72.3, 71.3),  # slim/nets/mobilenet/README.md
    "mobilenet_v3_small_minimalistic": (61.9, None),  # the same
    # tensorflow/tpu, models/official/efficientnet/lite/README.md; int8: post-training quantisation
    "efficientnet_lite0": (75.1, 74.4),
    "efficientnet_lite1": (76.7, 75.9),
    "efficientnet_lite2": (77.6, 77.0),
    "efficientnet_lite3": (79.8, 79.0),
    "efficientnet_lite4": (81.5, 80.2),
    # arXiv 2206.04040, tables 9 and 13
    "mobileone_s0": (71.4, None),
    "mobileone_s1": (75.9, None),
    "mobileone_s2": (77.4, None),
    "mobileone_s3": (78.1, None),
    "mobileone_s4": (79.4, None),
    # arXiv 2110.02178 and 2206.02680
    "mobilevit_xxs": (69.0, None),
    "mobilevit_xs": (74.8, None),
    "mobilevit_s": (78.4, None),
    "mobilevit_v2_050": (70.2, None),
    "mobilevit_v2_075": (75.6, None),
    "mobilevit_v2_100": (78.1, None),
    # micronDLA/MobileViTv3, README.md
    "mobilevit_v3_xxs": (70.98, None),
    "mobilevit_v3_xs": (76.7, None),
    "mobilevit_v3_s": (79.3, None),
    "mobilevit_v3_xxs_l2": (70.23, None),
    "mobilevit_v3_xs_l2": (76.10, None),
    "mobilevit_v3_s_l2": (79.06, None),
    "mobilevit_v3_050": (72.33, None),
    "mobilevit_v3_075": (76.55, None),
    "mobilevit_v3_100": (78.64, None),
}
