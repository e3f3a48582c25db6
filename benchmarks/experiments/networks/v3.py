"""MobileNetV3 (arXiv 1905.02244): each step from MobileNetV2's kind of block to MobileNetV3-Large."""

from dataclasses import replace
from typing import TYPE_CHECKING

from experiments.variants import CLASSES, Experiment, Variant

if TYPE_CHECKING:
    import keras

# MobileNetV3-Large's rows with fewer blocks and two strides less: for 32 pixels.
_RE, _HS = "relu", "hard_swish"
SMALL_ROWS = (
    ((3, 1, 16, False, _RE, 1),),
    ((3, 4, 24, False, _RE, 2),),
    ((5, 3, 40, True, _RE, 1), (5, 3, 40, True, _RE, 1)),
    ((3, 6, 80, False, _HS, 2), (3, 2.5, 80, False, _HS, 1)),
    ((3, 6, 112, True, _HS, 1),),
)
SMALL = 0.5  # of the width
SMALL_HIDDEN = 160  # units before the classifier: an eighth
NEVER = 10_000  # filters from which there is hard-swish, where there is none
# The network before the steps: MnasNet's blocks, without squeeze-and-excite.
_OLD_STEM = {"stem_filters": 32, "stem_activation": _RE}
_START = _OLD_STEM | {"efficient_last_stage": False, "hard_swish_from": NEVER, "squeeze_ratio": 0.0}
_LAST_STAGE = _START | {"efficient_last_stage": True}
_STEM = _LAST_STAGE | {"stem_filters": 16, "stem_activation": _HS}
_LATE = _STEM | {"hard_swish_from": 80}
_SQUEEZE = _LATE | {"squeeze_ratio": 0.25}
_RELU, _ALL = {"hard_swish_from": NEVER}, {"hard_swish_from": 16}


def network(alpha: float = 1.0, **steps):
    """Give the builder of a MobileNetV3-Large. steps: arguments of ``mobilenets_tf.MobileNetV3Large``."""

    def build(small: bool, side: int) -> "keras.Model":
        from mobilenets_tf import MobileNetV3Large

        if not small:
            return MobileNetV3Large(alpha=alpha, **steps)
        return MobileNetV3Large(
            (side, side, 3), SMALL * alpha, classes=CLASSES, rows=SMALL_ROWS, dropout_rate=0.0,
            hidden_units=SMALL_HIDDEN, **steps,
        )  # fmt: skip

    return build


BASE = Variant("v3", "+ squeeze-and-excite at a quarter: MobileNetV3", network(**_SQUEEZE), "75.2 %, 51.4 ms")
WIDTHS = tuple(
    Variant(f"v3_width_{alpha}", f"V3, width {alpha:g}", network(alpha), published)
    for alpha, published in ((0.75, "73.3 %"), (0.5, ""))
)

LATE = Variant("v3_late", "+ hard-swish from 80 filters on", network(**_LATE))

EXPERIMENTS = (
    Experiment(
        "v3_steps",
        "MobileNetV3: from MobileNetV2's kind of block to MobileNetV3-Large, step by step",
        "The efficient last stage and the smaller stem save time and lose nothing. Hard-swish in the later stages and "
        "squeeze-and-excite at a quarter of the expansion gain accuracy for little time.",
        "arXiv 1905.02244, section 5, on a Pixel 1",
        "top-1, latency",
        (
            Variant("v3_start", "ReLU, no squeeze-and-excite, V2's stem and last stage", network(**_START)),
            Variant("v3_last", "+ efficient last stage", network(**_LAST_STAGE), "-7 ms, 11 % of the time"),
            Variant("v3_stem", "+ stem of 16 filters with hard-swish", network(**_STEM), "-2 ms"),
            LATE,
            BASE,
        ),
        against={"v3_stem": "v3_last", "v3_late": "v3_stem", "v3": "v3_late"},
    ),
    Experiment(
        "v3_details",
        "MobileNetV3: where hard-swish, and how much squeeze-and-excite",
        "Hard-swish in all stages gains 0.2 points and takes 4 % more time; ReLU in all stages loses 0.7.",
        "arXiv 1905.02244, table 5, on a Pixel 1",
        "top-1, latency",
        (
            replace(BASE, label="MobileNetV3"),
            Variant("v3_no_swish", "ReLU in all stages", network(**_SQUEEZE | _RELU), "74.5 %, 50.5 ms"),
            Variant("v3_swish_16", "hard-swish in all stages", network(**_SQUEEZE | _ALL), "75.4 %, 53.5 ms"),
            Variant("v3_half", "squeeze-and-excite at a half", network(**_SQUEEZE | {"squeeze_ratio": 0.5})),
            replace(LATE, label="no squeeze-and-excite"),
        ),
    ),
)
