"""MobileOne (arXiv 2206.04040): branches in training, int8 of what they fold to, and the training recipe."""

from typing import TYPE_CHECKING

from experiments.variants import CLASSES, Experiment, Variant

if TYPE_CHECKING:
    import keras

SMALL_ROWS = ((24, 1, 1, 0), (48, 2, 2, 0), (96, 2, 2, 0), (128, 1, 1, 0))


def network(branches: int = 4, **form):
    """Give the builder of a MobileOne in its training form. form: arguments of ``mobilenets_tf.MobileOneS0``."""

    def build(small: bool, side: int) -> "keras.Model":
        from mobilenets_tf import MobileOneS0

        if not small:
            return MobileOneS0(branches=branches, **form)
        return MobileOneS0((side, side, 3), classes=CLASSES, rows=SMALL_ROWS, branches=branches, **form)

    return build


def _variant(key: str, label: str, published: str = "", integers: bool = False, **form) -> Variant:
    # The inference form is the same for all of them.
    return Variant(key, label, network(**form), published, integers=integers, sized=False)


_K = {
    k: _variant(f"one_k{k}", f"k = {k}, scale and skip", published, k in (1, 4), branches=k)
    for k, published in enumerate(("70.9 %", "70.7 %", "71.3 %", "71.4 %", "71.1 %"), 1)
}
_PLAIN = {"branches": 1, "scale_branch": False, "skip_branch": False}
# The paper's figures are those of 300 epochs with 5,000 steps each; a momentum of 0.9995 would never forget the start.
_EMA = 0.98
_SIDE = 48


def _recipe(without: str = "") -> dict:
    """Give the recipe's three parts, at this size, without one of them."""
    from mobilenets_tf.training.recipes import SGD, Decay, Rate, Stage

    stages = (Stage(0, 32 / 48, 0.3), Stage(4, 1.0, 1.0))
    return {
        "optimizer": SGD(0.9), "rate": Rate("cosine", 0.1), "batchnorm_momentum": 0.9,
        "ema": None if without == "ema" else _EMA,
        "decay": Decay(1e-4, last=None if without == "annealing" else 1e-5),
        "stages": (Stage(0),) if without == "stages" else stages,
    }  # fmt: skip


def _trained(key: str, label: str, without: str = "") -> Variant:
    return Variant(key, label, network(branches=1), recipe=_recipe(without), side=_SIDE, crop=_SIDE, sized=False)


EXPERIMENTS = (
    Experiment(
        "mobileone_branches",
        "MobileOne: branches in training",
        "Branches gain up to 1.8 points in S0 and cost nothing after folding.",
        "arXiv 2206.04040, tables 5 and 6 of S0",
        "top-1",
        (
            _variant("one_plain", "no branches: one convolution with BatchNorm", "69.6 %", True, **_PLAIN),
            _K[1],
            _K[4],
            _variant("one_no_scale", "k = 4, no scale branch", branches=4, scale_branch=False),
            _variant("one_no_skip", "k = 4, no skip branch", branches=4, skip_branch=False),
        ),
        against={"one_no_scale": "one_k4", "one_no_skip": "one_k4"},
    ),
    Experiment(
        "mobileone_k",
        "MobileOne: the number of branches",
        "In S0, with few channels, up to four branches gain; in the larger sizes one branch is best.",
        "arXiv 2206.04040, table 6 (S0)",
        "top-1",
        tuple(_K.values()),
    ),
    Experiment(
        "mobileone_recipe",
        "MobileOne: moving average, progressive learning, annealed weight decay",
        "Annealing the weight decay gains 0.5 points; progressive learning and the moving average gain a little more.",
        "arXiv 2206.04040, table 8 (S2)",
        "top-1",
        (
            _trained("one_recipe", "all three"),
            _trained("one_no_ema", "no moving average", "ema"),
            _trained("one_no_stages", "no progressive learning", "stages"),
            _trained("one_no_annealing", "constant weight decay", "annealing"),
        ),
    ),
)
