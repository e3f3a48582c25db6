"""The papers' recipes: what the issue and reference give, and that every value has a source."""

import importlib
import inspect
from dataclasses import fields

import pytest

from mobilenets_tf import RequestError, list_models, registry
from mobilenets_tf.training import recipes
from mobilenets_tf.training.recipes import SGD, AdamW, Recipe, RMSprop


@pytest.mark.parametrize("name", list_models(task="classify"))
def test_every_value_has_a_source(name):
    recipe = recipes.paper(name)
    for field in fields(Recipe):
        changed = field.name != "sources" and getattr(recipe, field.name) != getattr(_plain(), field.name)
        assert not changed or recipe.sources.get(field.name), f"{field.name} of {name} has no source"
    assert set(recipe.sources) <= {field.name for field in fields(Recipe)}


def _plain():
    return Recipe(None, recipes.Rate("constant", 1), None, 1, 1)


@pytest.mark.parametrize("name", list_models(task="classify"))
def test_builders_take_the_options(name):
    module, _, function = registry.get(name).builder.partition(":")
    taken = inspect.signature(getattr(importlib.import_module(module), function)).parameters
    assert set(recipes.paper(name).options) <= set(taken)


def test_optimizers():
    assert recipes.paper("mobilenet_v2").optimizer == RMSprop(decay=0.9, momentum=0.9, epsilon=1.0, initial=1.0)
    assert recipes.paper("mobileone_s3").optimizer == SGD(momentum=0.9)
    assert recipes.paper("mobilevit_v3_xs").optimizer == AdamW(0.9, 0.999)


def test_families_differ_where_the_papers_do():
    v1, v2, v3, lite = (
        recipes.paper(n) for n in ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_lite0")
    )
    assert (v2.rate.peak, v2.rate.factor, v2.rate.every, v2.decay.value) == (0.045, 0.98, 1.0, 4e-5)
    assert set(v1.decay.without) >= {"depthwise", "norm"}
    assert (v1.label_smoothing, v2.label_smoothing) == (0.0, 0.1)
    assert (v3.batch_size, v3.rate.peak, v3.rate.factor, v3.rate.every, v3.decay.value) == (4096, 0.1, 0.99, 3.0, 1e-5)
    assert (lite.rate.peak, lite.rate.batch, lite.rate.factor, lite.rate.every) == (0.016, 256, 0.97, 2.4)
    small, large = recipes.paper("mobileone_s1"), recipes.paper("mobileone_s2")
    assert (small.augment.policy, large.augment.policy) == (None, "autoaugment")
    assert (small.decay.value, small.decay.last, small.ema) == (1e-4, 1e-5, 0.9995)
    first, second = recipes.paper("mobilevit_v3_s"), recipes.paper("mobilevit_v3_100_l2")
    assert (first.batch_size, second.batch_size) == (384, 1020)
    assert (second.augment.mixup, second.augment.cutmix, second.augment.erase, second.clip_norm) == (0.2, 1.0, 0.25, 10)
    assert (first.decay.without, second.decay.without) == ((), ("norm", "bias"))


def test_changed_keeps_shares():
    recipe = recipes.paper("mobilenet_v2").changed(epochs=30)
    assert recipe.rate.every == pytest.approx(0.1)  # thirty epochs fall as far as three hundred
    vit = recipes.paper("mobilevit_v3_100").changed(epochs=3, learning_rate=1e-3)
    assert (vit.rate.warmup_steps, vit.rate.peak) == (200, 1e-3)
    assert recipes.paper("efficientnet_lite0").changed(learning_rate=0.1).rate.batch is None


def test_unknown_network():
    with pytest.raises(RequestError, match="Did you mean 'mobilenet_v2'"):
        recipes.paper("mobilnet_v2")
