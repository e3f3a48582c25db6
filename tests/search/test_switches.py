"""Channels that are switched off have no effect: the model answers and learns as the pruned model does."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mobilenets_tf import channel_groups, create_model, prune
from mobilenets_tf.search.switches import Switches


def v3():
    keras.utils.set_random_seed(1)
    rows = [[(3, 1, 16, True, "relu", 2)], [(3, 4, 24, False, "relu", 2), (5, 3, 24, True, "hard_swish", 1)]]
    return create_model(
        "mobilenet_v3_small", rows=rows, resolution=32, classes=4, classifier_activation=None, dropout_rate=0
    )


def flat():
    x = inputs = keras.Input((8, 8, 3))
    a = keras.layers.Conv2D(6, 3, activation="relu")(x)
    b = keras.layers.Conv2D(6, 3)(x)
    x = keras.layers.Add()([a, b])
    x = keras.layers.Concatenate()([x, keras.layers.Conv2D(4, 1, groups=2)(x)])
    x = keras.layers.DepthwiseConv2D(3)(x)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


def half(model):
    generator = np.random.default_rng(0)
    return {
        name: generator.permutation(np.arange(group.width) < max(1, group.width // 2))
        for name, group in channel_groups(model).groups.items()
    }


def pruned(model, kept):
    return prune(model, {name: np.flatnonzero(stays) for name, stays in kept.items()})


@pytest.mark.parametrize("make", [v3, flat])
def test_switched_off_is_as_good_as_pruned(make):
    model = make()
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.beta.assign(np.random.default_rng(2).normal(size=layer.beta.shape))
    kept = half(model)
    smaller = pruned(model, kept)
    images = np.random.default_rng(3).normal(size=(4, *model.input_shape[1:])).astype(np.float32)
    whole = model(images).numpy()
    switches = Switches(model)
    switches.set(kept)
    assert np.abs(model(images) - smaller(images)).max() < 1e-5
    assert np.abs(model(images) - whole).max() > 1e-3  # something was there to be switched off


@pytest.mark.parametrize("make", [pytest.param(v3, marks=pytest.mark.slow), flat])
def test_training_with_channels_off_is_training_the_pruned_model(make):
    model = make()
    kept = half(model)
    smaller = pruned(model, kept)
    switches = Switches(model)
    switches.set(kept)
    generator = np.random.default_rng(4)
    for each, after in ((model, switches.switch), (smaller, lambda: None)):
        generator = np.random.default_rng(4)
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
        for _ in range(3):
            images = generator.normal(size=(8, *model.input_shape[1:])).astype(np.float32)
            labels = generator.integers(3, size=8)
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(
                    keras.losses.sparse_categorical_crossentropy(labels, each(images, training=True), from_logits=True)
                )
            optimizer.apply(tape.gradient(loss, each.trainable_variables), each.trainable_variables)
            after()
    images = generator.normal(size=(4, *model.input_shape[1:])).astype(np.float32)
    assert np.abs(model(images) - smaller(images)).max() < 1e-4
    for ours, theirs in zip(pruned(model, kept).weights, smaller.weights, strict=True):
        assert np.abs(np.array(ours) - np.array(theirs)).max() < 1e-4, ours.path


def test_switches_come_back():
    model = flat()
    kept = half(model)
    before = model.get_weights()
    switches = Switches(model)
    switches.set(kept)
    model.set_weights(before)
    switches.set({})
    assert all((now == then).all() for now, then in zip(model.get_weights(), before, strict=True))


def test_sums_put_each_value_to_its_slice():
    model = flat()
    switches = Switches(model)
    totals = switches.sums([np.ones(variable.shape) for variable in switches.read_by])
    assert {name: len(values) for name, values in totals.items()} == switches.groups
    # Each value of a weight that reads channels belongs to one slice.
    assert sum(values.sum() for values in totals.values()) == sum(np.prod(v.shape) for v in switches.read_by)
    assert {name: len(values) for name, values in switches.norms().items()} == switches.groups
