"""MobileViTv3 (arXiv 2209.15159): its four changes to MobileViTv1 one after another, fewer layers, batch sizes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from experiments.variants import CLASSES, Experiment, Variant

if TYPE_CHECKING:
    import keras

# (expansion, filters, blocks, stride, channels and number of transformer layers): for 32 pixels.
SMALL_ROWS = ((2, 16, 1, 2, 0, 0), (2, 24, 1, 1, 0, 0), (2, 24, 1, 1, 24, 1), (2, 32, 1, 2, 32, 2))


def network(layers: int | None = None, **form):
    """Give the builder of a MobileViT.

    layers: of the last transformer, in the paper's network of the fourth stage. form: of the block, arguments of
    ``mobilenets_tf.MobileViTS``.
    """

    def build(small: bool, side: int) -> "keras.Model":
        from mobilenets_tf import MobileViTS, MobileViTXXS

        if not small:
            return MobileViTS(stage4_depth=layers, **form)
        rows = SMALL_ROWS if layers is None else (*SMALL_ROWS[:-1], (*SMALL_ROWS[-1][:-1], layers // 2))
        return MobileViTXXS((side, side, 3), classes=CLASSES, rows=rows, dropout_rate=0.0, **form)

    return build


_FUSION = {"fusion_kernel": 1}
_LOCAL = _FUSION | {"fuse_local": True}
_ADD = _LOCAL | {"shortcut": True}
_V3 = _ADD | {"depthwise_local": True}
BASE = Variant("vit_v1", "MobileViTv1's block", network(), "73.7 %")
V3 = Variant("vit_v3", "+ depthwise local convolution: MobileViTv3's block", network(**_V3), "75.0 %")


def _batch(count: int, published: str = "") -> Variant:
    recipe: Mapping = {"batch_size": count}
    return Variant(f"vit_batch_{count}", f"batches of {count}", network(**_V3), published, recipe, sized=False)


EXPERIMENTS = (
    Experiment(
        "mobilevit_changes",
        "MobileViTv3: the four changes, one after another",
        "The 1x1 fusion gains 1.1 points, the local features lose 0.1, the added input gains 0.6, and the depthwise "
        "convolution loses 0.3 and saves parameters.",
        "arXiv 2209.15159, table 6 (S without its wider stages, 100 epochs)",
        "top-1",
        (
            BASE,
            Variant("vit_fusion", "+ 1x1 fusion", network(**_FUSION), "74.8 %"),
            Variant("vit_local", "+ local features instead of the input", network(**_LOCAL), "74.7 %"),
            Variant("vit_add", "+ input added", network(**_ADD), "75.3 %"),
            V3,
        ),
        against={"vit_local": "vit_fusion", "vit_add": "vit_local", "vit_v3": "vit_add"},
    ),
    Experiment(
        "mobilevit_layers",
        "MobileViTv3: half of the layers in a stage, and batch sizes",
        "Two transformer layers instead of four in stage 4 lose 0.2 points; a batch of 384 is better than one of 192.",
        "micronDLA/MobileViTv3, README (S and S-L2); arXiv 2209.15159, table 2 (as notes report it)",
        "top-1",
        (
            replace(V3, label="MobileViTv3's block, batches of 64", published="79.3 %"),
            Variant("vit_l2", "half of the layers in one stage", network(layers=2, **_V3), "79.06 %"),
            _batch(32),
            _batch(128),
        ),
    ),
)
