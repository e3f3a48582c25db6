"""A caller's own rows, and the steps of the papers one by one."""

import functools
import json
import re
from collections import Counter

import keras
import numpy as np
import pytest

from mobilenets_tf import RequestError, counts, create_model, reparameterize
from mobilenets_tf.networks import efficientnet_lite, mobilenet_v1, mobilenet_v2, mobilenet_v3, mobileone, mobilevit

# Of each family one network, and its published table.
PUBLISHED = {
    "mobilenet_v1": mobilenet_v1.ROWS,
    "mobilenet_v2": mobilenet_v2.ROWS,
    "mobilenet_v3_small": mobilenet_v3.SMALL,
    "efficientnet_lite0": efficientnet_lite.ROWS,
    "efficientnet_lite2": efficientnet_lite.ROWS,
    "mobileone_s4": mobileone.SIZES["s4"].rows,
    "mobilevit_v3_xs": mobilevit.SIZES["mobilevit_v3_xs"].rows,
}


@functools.cache
def published(name):
    """A network with the published rows, which several tests compare with. For tests without values."""
    return create_model(name)


def layout(model):
    """Class, name and shapes of the outputs of every operation. Keras numbers the operations without a name."""
    shapes = ([tuple(one.shape) for one in keras.tree.flatten(each.output)] for each in model.operations)
    names = (re.sub(r"_\d+$", "", each.name) for each in model.operations)
    return [(type(each).__name__, *rest) for each, *rest in zip(model.operations, names, shapes, strict=True)]


def kinds(model):
    return Counter(type(layer).__name__ for layer in model.layers)


# MobileOne and MobileViT take the longest to build, and the same function reads their tables.
EACH = [
    pytest.param(name, marks=[pytest.mark.slow] if name.startswith(("mobileone", "mobilevit")) else [])
    for name in PUBLISHED
]


@pytest.mark.usefixtures("without_values")
@pytest.mark.parametrize("name", EACH)
def test_the_published_rows_may_come_from_json(name):
    rows = json.loads(json.dumps(PUBLISHED[name]))
    assert layout(create_model(name, rows=rows)) == layout(published(name))


@pytest.mark.usefixtures("without_values")
# Lite2 does not deepen its last stage, so that its other stages change with the number of rows.
@pytest.mark.parametrize("name", [each for each in EACH if "efficientnet_lite2" not in each.values])
def test_without_its_last_row_a_network_has_no_last_stage(name):
    without, whole = (
        {each.split("_")[0] for _, each, _ in layout(create_model(name, include_top=False, rows=rows))}
        for rows in (PUBLISHED[name][:-1], PUBLISHED[name])
    )
    last = len(PUBLISHED[name]) + (name == "mobilenet_v3_small")  # whose last convolution counts as a stage
    assert whole - without == {f"stage{last}"}


@pytest.mark.parametrize(
    ("name", "rows", "quoted"),
    [
        ("mobilenet_v1", [], r"rows=\[\]: expected 1 to 64 rows of \(filters, blocks, stride\)"),
        ("mobilenet_v1", "64", "rows='64' is a str"),
        ("mobilenet_v1", [(8, 1, 1)] * 65, "expected 1 to 64 rows"),
        ("mobilenet_v2", [(1, 16, 1, 1), (6, 24)], r"rows\[1\]=\(6, 24\): expected \(expansion, filters, blocks, str"),
        ("mobilenet_v2", [(0, 16, 1, 1)], r"rows\[0\].expansion=0: expected a number above 0, at most 32"),
        ("mobilenet_v2", [(float("nan"), 16, 1, 1)], r"rows\[0\].expansion=nan"),
        ("mobilenet_v2", [(1, 16.5, 1, 1)], r"rows\[0\].filters=16.5: expected a whole number from 1 to 8192"),
        ("mobilenet_v2", [(1, 16, 1, 3)], r"rows\[0\].stride=3: expected 1 or 2"),
        ("mobilenet_v2", [(1, 16, True, 1)], r"rows\[0\].blocks=True: expected a whole number"),
        ("mobilenet_v3_small", [(3, 1, 16, True, "relu", 2)], r"rows\[0\]\[0\]=3: expected \(kernel, expansion"),
        ("mobilenet_v3_small", [[(4, 1, 16, True, "relu", 2)]], r"rows\[0\]\[0\].kernel=4: expected 1, 3, 5, 7 or 9"),
        ("mobilenet_v3_small", [[(3, 1, 16, 1, "relu", 2)]], r"rows\[0\]\[0\].squeeze=1: expected True or False"),
        ("mobilenet_v3_small", [[(3, 1, 16, True, "hswish", 2)]], "Did you mean 'hard_swish'"),
        ("efficientnet_lite0", [(3, 1, 10**9, 1, 1)], r"rows\[0\].filters=1000000000"),
        ("mobilevit_xxs", [(2, 16, 1, 2, 30, 2)], r"rows\[0\].dim=30: expected a multiple of 4 above 0"),
        ("mobilenet_v1", [(8, 64, 1)] * 5, "320 blocks; a network has at most 256"),
        ("mobilenet_v3_small", [[(3, 1, 16, True, "relu", 1)] * 60] * 5, "300 blocks; a network has at most 256"),
        ("mobileone_s0", {"rows": 1}, r"rows=\{'rows': 1\}"),
    ],
)
def test_wrong_rows_are_quoted(name, rows, quoted):
    with pytest.raises(RequestError, match=quoted):
        create_model(name, rows=rows)


@pytest.mark.parametrize(
    ("name", "option", "quoted"),
    [
        (
            "mobilenet_v2",
            {"shortcut": "expansion"},
            "shortcut='expansion' is a str; expected 'bottlenecks' or 'expansions' or None",
        ),
        ("mobilenet_v3_small", {"stem_activation": "hardswish"}, "Did you mean 'hard_swish'"),
        ("mobilenet_v3_small", {"squeeze_ratio": 4}, "squeeze_ratio=4: expected 0"),
        ("mobilenet_v3_small", {"efficient_last_stage": False, "reduced_tail": "outputs"}, "efficient last stage"),
        ("efficientnet_lite0", {"activation": "swish6"}, "Unknown activation 'swish6'"),
        ("mobilevit_v2_050", {"fusion_kernel": 1}, "fusion_kernel=1: expected 0"),
        ("mobilevit_v3_xxs", {"fusion_kernel": 0}, "fusion_kernel=0: expected 1 or 3"),
        ("mobilevit_v3_xxs", {"rows": [(2, 16, 1, 2, 0, 0)], "stage4_depth": 2}, "no transformer in a fourth stage"),
        ("lraspp_mobilenet_v2", {"rows": [(1, 16, 1, 2), (6, 24, 1, 1)]}, "no feature map of stride 8.*2, 4"),
        ("ssdlite_mobilenet_v1", {"rows": [(16, 1, 2), (24, 1, 1)]}, "no feature map of stride 16.*2, 4"),
    ],
)
def test_wrong_steps_are_quoted(name, option, quoted):
    with pytest.raises(RequestError, match=quoted):
        create_model(name, **option)


@pytest.mark.usefixtures("without_values")
class TestSteps:
    """What each step adds or takes away."""

    def test_mobilenet_v2_bottlenecks(self):
        own = kinds(published("mobilenet_v2"))
        assert own["Add"] == 10
        assert kinds(create_model("mobilenet_v2", linear=False))["ReLU"] == own["ReLU"] + 17
        assert "Add" not in kinds(create_model("mobilenet_v2", shortcut=None))
        wide = create_model("mobilenet_v2", shortcut="expansions")
        widths = [layer.output.shape[-1] for layer in wide.layers if isinstance(layer, keras.layers.Add)]
        # From stage 3 on: the blocks whose depthwise convolution is as wide as the one before, without a stride.
        assert widths == [192, 384, 384, 384, 576, 960, 960]
        assert counts(wide)["macs"] == counts(published("mobilenet_v2"))["macs"]

    def test_mobilenet_v3_last_stage(self):
        """The efficient last stage saves about 30 million multiply-adds (arXiv 1905.02244, section 5.1)."""
        efficient = published("mobilenet_v3_large")
        original = create_model("mobilenet_v3_large", efficient_last_stage=False)
        assert counts(original)["macs"] - counts(efficient)["macs"] == pytest.approx(30e6, rel=0.3)
        assert original.get_layer("stage8_block1_pointwise_conv").output.shape == (None, 7, 7, 1280)

    def test_mobilenet_v3_activations(self):
        def swishing(**options):
            model = create_model("mobilenet_v3_large", **options) if options else published("mobilenet_v3_large")
            return sum(layer.name.endswith(("depthwise_hard_swish", "stem_hard_swish")) for layer in model.layers)

        assert swishing() == 1 + 9 == swishing(hard_swish_from=80)
        assert swishing(hard_swish_from=16) == 1 + 15 and swishing(hard_swish_from=112) == 1 + 5
        stem = create_model("mobilenet_v3_large", stem_filters=32, stem_activation="relu")
        assert stem.get_layer("stem_relu").output.shape == (None, 112, 112, 32)

    def test_mobilenet_v3_squeeze(self):
        assert "Multiply" not in kinds(create_model("mobilenet_v3_large", squeeze_ratio=0))
        halved = create_model("mobilenet_v3_large", squeeze_ratio=0.125)
        whole = published("mobilenet_v3_large")
        name = "stage6_block2_squeeze_conv"
        assert halved.get_layer(name).filters * 2 == whole.get_layer(name).filters == 160 * 6 // 4

    @pytest.mark.parametrize(("size", "trainable", "macs"), [(0, 5288548, 0.39e9), (1, 7794184, 0.70e9)])
    def test_efficientnet_lite_with_all_that_was_taken_away_is_efficientnet(self, size, trainable, macs):
        """B0 and B1: parameters as keras.applications counts them, multiply-adds of arXiv 1905.11946, table 2."""
        model = create_model(
            f"efficientnet_lite{size}", activation="silu", squeeze_ratio=0.25, scaled_stem_and_head=True
        )
        assert counts(model)["params_trainable"] == trainable
        assert counts(model)["macs"] == pytest.approx(macs, rel=0.03)

    def test_mobilevit_v1_with_the_four_changes_is_v3(self):
        rows = mobilevit.SIZES["mobilevit_v3_xxs"].rows
        changes = {"depthwise_local": True, "fuse_local": True, "fusion_kernel": 1, "shortcut": True}
        changed = create_model("mobilevit_xxs", rows=rows, **changes, include_top=False)
        assert layout(changed) == layout(create_model("mobilevit_v3_xxs", include_top=False))
        changes = {"fuse_local": True, "shortcut": True}
        changed = create_model("mobilevit_v2_050", **changes)
        assert layout(changed) == layout(create_model("mobilevit_v3_050"))

    @pytest.mark.parametrize(
        ("change", "layer", "kernel"),
        [
            ({}, "local_conv", (3, 3, 128, 1)),
            ({"depthwise_local": False}, "local_conv", (3, 3, 128, 128)),
            ({}, "fusion_conv", (1, 1, 96 + 128, 128)),  # the transformer's channels and those of its projection
            ({"fuse_local": False}, "fusion_conv", (1, 1, 128 + 128, 128)),
            ({"fusion_kernel": 3}, "fusion_conv", (3, 3, 96 + 128, 128)),
            ({"shortcut": False}, "add", None),
        ],
    )
    def test_mobilevit_v3_without_one_change(self, change, layer, kernel):
        rows = [row._replace(depth=min(row.depth, 1)) for row in mobilevit.SIZES["mobilevit_v3_xxs"].rows]
        layers = {each.name: each for each in create_model("mobilevit_v3_xxs", rows=rows, **change).layers}
        found = layers.get(f"stage5_block2_{layer}")
        assert (found and tuple(found.kernel.shape)) == kernel


NARROW_ONE = ((8, 2, 2, 0), (16, 2, 2, 1))


@pytest.mark.parametrize("branches", [1, 3])
@pytest.mark.parametrize(("scale", "skip"), [(True, True), (True, False), (False, True), (False, False)])
def test_mobileones_branches_fold(branches, scale, skip):
    model = create_model(
        "mobileone_s4", rows=NARROW_ONE, branches=branches, scale_branch=scale, skip_branch=skip, resolution=32,
        classes=5, classifier_activation=None,
    )  # fmt: skip
    names = [layer.name for layer in model.layers]
    assert any("_scale_conv" in name for name in names) == scale and any("_skip_bn" in name for name in names) == skip
    assert sum("branch" in name and name.endswith("stage1_block1_depthwise_conv") for name in names) == 0
    assert sum(name.startswith("stage1_block1_depthwise_branch") for name in names) == 2 * branches
    random = np.random.default_rng(0)
    for layer in model.layers:
        if layer.name.endswith("_bn"):
            layer.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    folded = reparameterize(model)
    assert not any("branch" in layer.name or "scale" in layer.name for layer in folded.layers)
    image = random.uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    expected = np.asarray(model(image, training=False))
    np.testing.assert_allclose(folded(image, training=False), expected, atol=1e-5 * np.abs(expected).max())
