"""Candidates inherit the weights of their parent: what was zero can go, and what is the same gives the same outputs."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf import Convention, Plan, RequestError, create_model
from mobilenets_tf.search.candidates.inheritance import inherit
from mobilenets_tf.search.candidates.space import Space

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

from prune import SAME, answers, silence, vary

RE, HS = "relu", "hard_swish"
V3 = [
    [[3, 1, 16, True, RE, 2]],
    [[5, 4.5, 24, False, RE, 2], [3, 3, 24, True, HS, 1], [5, 3, 24, False, HS, 1]],
]
OPTIONS = {"rows": V3, "resolution": 32, "classes": 4, "hidden_units": 16, "classifier_activation": None}
PLAN = Plan("mobilenet_v3_small", OPTIONS)
LAYOUTS = {"same": Convention("same"), "symmetric": Convention("symmetric", 1e-5)}


@pytest.fixture(scope="module")
def space():
    return Space.of(PLAN, ["depth", "kernels", "squeeze_excite", "activation", "widths", "resolution"])


@pytest.fixture
def parent():
    return vary(create_model(PLAN))


def difference(model, other):
    return np.abs(answers(model) - answers(other)).max() / np.abs(answers(other)).max()


def zero(layer):
    layer.set_weights([np.zeros_like(values) for values in layer.get_weights()])


def ring_zeroed(model, names, ring=1):
    """Make the outer ring of depthwise kernels zero."""
    for name in names:
        layer = model.get_layer(name)
        kernel = layer.get_weights()[0]
        inner = np.zeros_like(kernel)
        inner[ring:-ring, ring:-ring] = kernel[ring:-ring, ring:-ring]
        layer.set_weights([inner])


def test_the_parents_point_has_the_parents_outputs(space, parent):
    found = inherit(parent, space, space.parent)
    assert found.model is not parent and found.changed == {}
    np.testing.assert_array_equal(answers(found.model), answers(parent))


@pytest.mark.parametrize("padding", LAYOUTS)
def test_a_kernel_keeps_its_centre(padding):
    """A 5x5 kernel whose outer ring is zero gives the outputs of its 3x3, at stride 2 and 1, of even and odd sides; a
    7x7 gets a ring of zeros."""
    plan = Plan("efficientnet_lite0", {"rows": [[5, 1, 8, 1, 1], [5, 3, 8, 2, 2]], "include_top": False})
    options = {"input_shape": (None, None, 3), "convention": LAYOUTS[padding]}
    parent = vary(create_model(plan, **options))
    names = [f"stage{place}_depthwise_conv" for place in ("1_block1", "2_block1", "2_block2")]
    ring_zeroed(parent, names)
    space = Space.of(plan, ["kernels"], kernels=(3, 7))
    drawn = {"kernels/stage1": 7, "kernels/stage2": 3}
    found = inherit(parent, space, drawn)
    assert set(found.changed) == set(names)
    assert [found.model.get_layer(name).kernel_size[0] for name in names] == [7, 3, 3]
    assert "5x5 kernel is padded to 7x7" in found.changed[names[0]] and "cut to 3x3" in found.changed[names[1]]
    child = create_model(space.plan_of(drawn), **options)
    child.set_weights(found.model.get_weights())
    for side in (32, 34, 37):  # layers of stride 2 see sides of 32 and 16, 34 and 17, 37 and 19
        images = np.random.default_rng(side).uniform(-1, 1, (1, side, side, 3)).astype(np.float32)
        expected = np.asarray(parent(images, training=False))
        assert np.abs(child(images, training=False) - expected).max() < SAME * np.abs(expected).max()


def test_blocks_that_are_zero_can_go(space, parent):
    zero(parent.get_layer("stage2_block2_project_bn"))
    zero(parent.get_layer("stage2_block3_project_bn"))
    drawn = space.drawn(lambda each: 1 if each.name == "depth/stage2" else each.own)
    found = inherit(parent, space, drawn)
    assert not [layer for layer in found.model.layers if layer.name.startswith("stage2_block2")]
    assert found.changed == {} and difference(found.model, parent) < SAME


def test_channels_that_are_zero_can_go(parent):
    space = Space.of(PLAN, ["widths"])
    keep = silence(parent, share=0.5)
    chosen = {}
    for name, dimension in space.dimensions.items():
        fits = [width for width in dimension.choices if width >= len(keep[dimension.place])]
        if len(dimension.choices) > 1:
            chosen[name] = min(fits)
    found = inherit(parent, space, chosen)
    assert found.model.count_params() < parent.count_params() and difference(found.model, parent) < SAME


@pytest.mark.slow
def test_a_squeeze_and_excite_that_is_new_is_the_identity_and_can_learn(space, parent):
    drawn = space.drawn(lambda each: True if each.kind == "squeeze_excite" else each.own)
    found = inherit(parent, space, drawn)
    assert difference(found.model, parent) < SAME
    assert (
        "new" in found.changed["stage2_block1_excite_conv"] and "times 2" in found.changed["stage2_block1_project_conv"]
    )
    assert "stage2_block2_project_conv" not in found.changed  # which had one
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(found.model(np.ones((2, 32, 32, 3), np.float32), training=True)[:, 0])
    kernel = found.model.get_layer("stage2_block1_excite_conv").kernel
    assert np.abs(tape.gradient(loss, kernel.value)).max() > 0


@pytest.mark.slow
def test_the_gates_of_a_squeeze_and_excite_that_goes_stay_in_the_projection(space, parent):
    """Where the gates do not depend on the image, the outputs stay; else they are nearer than without the gates."""
    for layer in parent.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    parent(np.random.default_rng(0).uniform(-1, 1, (32, 32, 32, 3)), training=True)  # statistics that are its own
    drawn = space.drawn(lambda each: False if each.kind == "squeeze_excite" else each.own)
    found = inherit(parent, space, drawn).model
    plain = create_model(space.plan_of(drawn))
    for layer in plain.layers:
        layer.set_weights(parent.get_layer(layer.name).get_weights())
    assert difference(found, parent) < difference(plain, parent) / 2
    for block in ("stage1_block1", "stage2_block2"):
        kernel, bias = parent.get_layer(f"{block}_excite_conv").get_weights()
        parent.get_layer(f"{block}_excite_conv").set_weights([np.zeros_like(kernel), bias])
    found = inherit(parent, space, drawn)
    assert "gates" in found.changed["stage1_block1_project_conv"] and difference(found.model, parent) < SAME


@pytest.mark.slow
def test_any_point_is_built_as_its_plan_says(space, parent):
    random = np.random.default_rng(0)
    drawn = space.drawn(lambda each: each.choices[random.integers(len(each.choices))])
    found = inherit(parent, space, drawn, importance=lambda group: np.arange(group.width)).model
    built = create_model(space.plan_of(drawn))
    assert [(w.path, tuple(w.shape)) for w in found.weights] == [(w.path, tuple(w.shape)) for w in built.weights]
    assert found.input_shape == built.input_shape and found.get_config() == built.get_config()


@pytest.mark.slow
def test_a_pruned_parent_is_a_parent():
    plan = Plan("mobilenet_v3_small", OPTIONS, {"stage2_block1_expand_conv": 24, "stage2_block1_project_conv": 16})
    parent = vary(create_model(plan))
    space = Space.of(plan, ["widths", "kernels"])
    assert space.dimensions["widths/stage2_block1_expand_conv"].choices == (8, 16, 24)
    assert space.plan_of(space.parent) == plan
    names = ["stage2_block1_depthwise_conv"]
    ring_zeroed(parent, names)
    drawn = space.drawn(lambda each: 3 if each.name == "kernels/stage2_block1" else each.own)
    found = inherit(parent, space, drawn)
    assert set(found.changed) == set(names) and difference(found.model, parent) < SAME


def test_any_keras_model_is_a_parent_of_narrower_ones():
    x = inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(24, 3, activation="relu", name="first")(x)
    x = layers.Add(name="sum")([x, layers.Conv2D(24, 1, name="second")(x)])
    model = vary(keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x))))
    space = Space.of(model)
    assert space.plan is None and list(space.parent.items()) == [("widths/first", 24)]
    found = inherit(model, space, {"widths/first": 8}, importance={"first": np.arange(24)})
    np.testing.assert_array_equal(found.model.get_layer("second").get_weights()[1], model.get_layer("second").bias[16:])


def test_another_model_is_refused(space):
    other = create_model(PLAN, rows=V3[:1])
    with pytest.raises(RequestError, match="not the network that the space was made of"):
        inherit(other, space, space.parent)
    other = create_model(PLAN, classes=7)
    with pytest.raises(RequestError, match="'classifier' has weights of .* The number of classes|options: classes"):
        inherit(other, space, {**space.parent, "kernels/stage2_block1": 3})
    with pytest.raises(RequestError, match="importance has no scores of"):
        inherit(vary(create_model(PLAN)), space, space.smallest, importance={"hidden": np.arange(16)})
