"""Which images make which batch."""

import numpy as np
import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.training import recipes
from mobilenets_tf.training.input.plan import Plan


def plan_of(images=100, size=224, replicas=1, seed=0, **changes):
    recipe = recipes.FINETUNE.changed(changes.pop("epochs", 4), changes.pop("batch_size", 16))
    return Plan(recipes.replace(recipe, **changes), images, size, replicas=replicas, seed=seed)


def test_every_image_comes_once_in_each_pass():
    plan = plan_of(images=100, batch_size=16, epochs=13)
    assert plan.steps_per_epoch == 6  # 100 / 16, rounded
    places = [place for step in range(plan.steps) for place in range(plan[step].begin, plan[step].begin + 16)]
    assert places == list(range(16 * plan.steps))  # nothing is left out between batches and epochs
    first, second = ([plan.image(place) for place in range(begin, begin + 100)] for begin in (0, 100))
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second
    assert first != [plan_of(images=100, seed=1).image(place) for place in range(100)]
    assert first == [plan_of(images=100, epochs=2, batch_size=4).image(place) for place in range(100)]


def test_fewer_images_than_a_batch():
    plan = plan_of(images=10, batch_size=16)
    assert (plan.steps_per_epoch, plan[0].count) == (1, 10)


def test_progressive_learning_of_mobileone():
    recipe = recipes.paper("mobileone_s2").changed(300, 2)
    plan = Plan(recipe, 4, 224)
    sizes = [plan[plan.steps_per_epoch * epoch].size for epoch in (0, 38, 39, 113, 114, 299)]
    assert sizes == [160, 160, 192, 192, 224, 224]
    strengths = [plan[plan.steps_per_epoch * epoch].strength for epoch in (0, 39, 114)]
    assert strengths == [0.3, 0.6, 1.0]
    short = Plan(recipe.changed(30), 4, 224)  # the stages keep their share
    assert [short[short.steps_per_epoch * epoch].size for epoch in (3, 4, 10, 11)] == [160, 192, 192, 224]


def test_scales_of_mobilevit_trade_size_for_images():
    recipe = recipes.paper("mobilevit_v3_s").changed(3, 64)
    plan = Plan(recipe, 10_000, 256)
    counts = {plan[step].size: plan[step].count for step in range(plan.steps)}
    # 64 x (256 / size) squared
    assert counts == {160: 163, 192: 113, 256: 64, 288: 50, 320: 40}
    sizes = [plan[step].size for step in range(plan.steps)]
    assert all(0.1 < sizes.count(size) / len(sizes) < 0.3 for size in counts)
    seen = sum(plan[step].count for step in range(plan.steps))
    assert abs(seen / 10_000 - 3) < 0.2  # three epochs' worth of images
    begins = [plan[step].begin for step in range(plan.steps)]
    assert np.diff(begins).tolist() == [plan[step].count for step in range(plan.steps - 1)]


def test_replicas_share_evenly():
    plan = Plan(recipes.paper("mobilevit_v3_s").changed(1, 64), 1000, 256, replicas=3 - 1)
    assert all(plan[step].count % 2 == 0 for step in range(plan.steps))
    with pytest.raises(RequestError, match="A batch of 16 cannot be shared by 3 replicas; use a multiple of 3"):
        plan_of(replicas=3)
    with pytest.raises(RequestError, match="2 images for 3 replicas"):
        plan_of(images=2, replicas=3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"epochs": 0}, "epochs=0"), ({"batch_size": -1}, "batch_size=-1"), ({"learning_rate": 0.0}, "learning_rate=0.0")],
)
def test_values_out_of_range(changes, words):
    with pytest.raises(RequestError, match=words):
        recipes.FINETUNE.changed(**changes)
