"""The space of a search: what may change of which network, and points as plain data."""

import json

import keras
import pytest
from keras import layers

from mobilenets_tf import Plan, RequestError, channel_groups, create_model
from mobilenets_tf.search.candidates.space import Space
from mobilenets_tf.search.choices import KINDS
from mobilenets_tf.weights.keras_config import shapes_alone

RE, HS = "relu", "hard_swish"
V3_ROWS = [
    [[3, 1, 16, True, RE, 2]],
    [[5, 4, 24, False, RE, 2], [3, 3, 24, True, HS, 1]],
    [[3, 4, 24, False, RE, 2], [3, 3, 40, True, HS, 1]],  # of which no block can go: the next stage reads 40 channels
]
V3 = Plan("mobilenet_v3_small", {"rows": V3_ROWS, "resolution": 64, "classes": 4, "hidden_units": 16})
V2 = Plan("mobilenet_v2", {"rows": [[1, 8, 1, 1], [3, 16, 3, 2]], "resolution": 96, "classes": 4})
LITE2 = Plan("efficientnet_lite2", {"rows": [[3, 1, 8, 1, 1], [5, 3, 16, 3, 2], [3, 3, 8, 1, 1]], "classes": 4})
ONE = Plan("mobileone_s4", {"rows": [[8, 1, 2, 0], [16, 3, 2, 2]], "resolution": 32, "classes": 4})


@pytest.fixture(scope="module")
def v3():
    return Space.of(V3, KINDS)


def choices(space, kind):
    return {
        each.place: each.choices for each in space.dimensions.values() if each.kind == kind and len(each.choices) > 1
    }


def test_everything_that_may_change_of_a_v3(v3):
    assert choices(v3, "depth") == {"stage2": (1, 2)}
    assert choices(v3, "kernels")["stage2_block1"] == choices(v3, "kernels")["stage1_block1"] == (3, 5, 7)
    assert choices(v3, "squeeze_excite")["stage3_block2"] == (False, True)
    assert choices(v3, "activation")["stage3_block2"] == (RE, HS)
    assert choices(v3, "resolution") == {"": (32, 64)}
    assert choices(v3, "widths")["stage2_block2_expand_conv"] == (16, 24, 32, 48, 56, 64, 72)
    assert choices(v3, "widths")["stem_conv"] == (8, 16)
    needs = v3.dimensions["widths/stage2_block2_squeeze_conv"].needs
    assert needs == {"depth/stage2": (2,), "squeeze_excite/stage2_block2": (True,)}


def test_the_parents_point_is_the_parents_plan(v3):
    assert v3.plan_of(v3.parent) == V3 == v3.structure_of(v3.parent) and v3.channels(v3.parent) == {}
    assert not [name for name in v3.parent if name.endswith("stage2_block1_squeeze_conv")]  # that is not there


@pytest.mark.parametrize("plan", [V3, V2, LITE2, ONE], ids=lambda plan: plan.network)
def test_the_groups_of_a_point_are_those_of_its_network(plan):
    """With all blocks and with the fewest, with and without squeeze-and-excites. Points go through JSON."""
    space = Space.of(plan)
    for point in (space.smallest, space.drawn(lambda each: each.choices[-1])):
        point = json.loads(json.dumps(point))
        space.check(point)
        found = space.plan_of(point)
        with shapes_alone():
            groups = channel_groups(create_model(Plan(found.network, found.options))).groups
        assert set(space.widths(point)) == set(groups)
        assert {name: space.whole[name] for name in groups} == {name: group.width for name, group in groups.items()}
    assert sum(space.widths(space.smallest).values()) < sum(space.widths(space.parent).values()) / 2


def test_rows_of_a_smaller_network(v3):
    assert v3.plan_of(v3.smallest).options["rows"] == [
        [[3, 1, 16, False, RE, 2]],
        [[3, 4, 24, False, RE, 2]],
        [[3, 4, 24, False, RE, 2], [3, 3, 40, False, RE, 1]],
    ]
    assert v3.plan_of(v3.smallest).options["resolution"] == 32
    space = Space.of(ONE, "depth")
    assert space.plan_of({"depth/stage2": 2}).options["rows"] == [
        [8, 1, 2, 0],
        [16, 2, 2, 1],
    ]  # the middle block's gates
    space = Space.of(LITE2, "depth")
    assert space.dimensions["widths/stage2_block3_expand_conv"].needs == {"depth/stage2": (2, 3)}  # 2 blocks become 3
    assert space.dimensions["widths/stage2_block4_expand_conv"].needs == {"depth/stage2": (3,)}


@pytest.mark.parametrize(
    ("parent", "kinds", "told"),
    [
        (
            V2,
            ["kernels"],
            "mobilenet_v2 has no 'kernels' that may change in its rows; it has depth, widths, resolution",
        ),
        (V2, ["kernel"], "Unknown kind of change 'kernel'. Did you mean 'kernels'"),
        ("mobilevit_xxs", ["depth"], "mobilevit_xxs has no 'depth'"),
        ("mobilenet_v3_small_minimalistic", ["squeeze_excite"], "minimalistic has no 'squeeze_excite'"),
        (Plan("mobilenet_v3_small", {"hard_swish_from": 40}), ["activation"], "has no 'activation'"),
        (Plan("mobilenet_v2", {"rows": [[1, 8]]}), ["widths"], r"rows\[0\]"),
        (Plan("mobilenet_v1", {"rows": [[8, 1, 2]], "alpha": 0.25}), ["depth"], "Nothing may change"),
        (Plan("mobilenet_v1", {"rows": [[8, 1, 2]]}, {"stem": 3}), None, "Unknown group of channels 'stem'"),
        ("mobilenet_v9", None, "mobilenet_v9"),
    ],
)
def test_what_a_network_does_not_have(parent, kinds, told):
    with pytest.raises(RequestError, match=told):
        Space.of(parent, kinds)


def test_other_arguments_are_checked():
    for wrong in ({"kernels": (4,)}, {"shares": (1.5,)}, {"shares": (0,)}):
        with pytest.raises(RequestError, match="expected"):
            Space.of(V3, **wrong)


def test_of_any_other_model_the_widths_may_change():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(24, 3, name="first")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    space = Space.of(model)
    assert choices(space, "widths") == {"first": (8, 16, 24)} and space.channels({"widths/first": 8}) == {"first": 8}
    with pytest.raises(RequestError, match="'depth' may change of registered networks only"):
        Space.of(model, ["depth"])
    with pytest.raises(RequestError, match="not a registered network"):
        space.plan_of(space.parent)
    with pytest.raises(RequestError, match="can shrink"):
        Space.of(keras.Model(inputs, layers.Conv2D(3, 1)(inputs)))


def test_points_are_checked(v3):
    wrong = [
        ({"depth/stage9": 1}, "Unknown dimension 'depth/stage9'"),
        ({"kernels/stage1_block1": 4}, "kernels/stage1_block1=4: expected 3 or 5 or 7"),
        ({"squeeze_excite/stage1_block1": 1}, "=1: expected False or True"),
        ({"depth/stage2": 1}, "is not there with the other values"),
    ]
    for change, told in wrong:
        with pytest.raises(RequestError, match=told):
            v3.check({**v3.parent, **change})
    with pytest.raises(RequestError, match="'resolution' is missing"):
        v3.check({name: value for name, value in v3.parent.items() if name != "resolution"})
