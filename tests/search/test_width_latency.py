"""The latency of any widths, from two conversions of the model."""

import keras
import pytest

from mobilenets_tf import LatencyTable, RequestError, channel_groups, create_model, prune
from mobilenets_tf.search.latency.base_file import file_of
from mobilenets_tf.search.width_latency import WidthLatency
from tests.support.synthetic_machine import table_of


def groups_of(model):
    return {name: group.width for name, group in channel_groups(model).groups.items()}


@pytest.fixture(scope="module")
def model():
    rows = [[(3, 1, 16, True, "relu", 2)], [(3, 4, 24, False, "relu", 2), (5, 3, 24, True, "hard_swish", 1)]]
    return create_model("mobilenet_v3_small", rows=rows, resolution=32, classes=4)


@pytest.mark.parametrize("scheme", ["float32", pytest.param("int8", marks=pytest.mark.slow)])
def test_the_widths_cost_what_the_converted_file_of_the_pruned_model_costs(model, scheme, worker):
    table = table_of(file_of(model, scheme, worker), scheme)
    groups = groups_of(model)
    latency = WidthLatency(model, groups, table, worker)
    assert latency.groups == groups
    assert not latency.fixed
    assert latency({}) == pytest.approx(table.predict(latency.content))
    widths = {name: max(1, width * (5 + place % 3) // 8) for place, (name, width) in enumerate(groups.items())}
    smaller = file_of(prune(model, widths), scheme, worker)
    assert latency(widths) == pytest.approx(table.predict(smaller), rel=0.01)
    assert latency(widths) < latency({})


def test_groups_whose_widths_the_file_does_not_show_stay_whole(worker):
    inputs = keras.Input((16, 16, 3))
    left, right = (keras.layers.Conv2D(8, 3, name=name)(inputs) for name in ("left", "right"))
    x = keras.layers.Concatenate()([left, right])
    x = keras.layers.Conv2D(16, 3, name="body")(x)
    x = keras.layers.Conv2D(24, 3, name="top")(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
    table = table_of(file_of(model, "float32", worker), "float32")
    latency = WidthLatency(model, groups_of(model), table, worker)
    assert set(latency.groups) == {"body", "top"}
    assert set(latency.fixed) == {"left", "right"}
    smaller = prune(model, {"body": 8, "top": 8})
    assert latency({"body": 8, "top": 8}) == pytest.approx(table.predict(file_of(smaller, "float32", worker)), rel=0.01)


def test_more_groups_of_one_small_width_than_it_has_shares_can_all_shrink(worker):
    """Of 16 channels there are 15 shares, so the second half of the groups shows in a model of its own."""
    x = inputs = keras.Input((4, 4, 3))
    for number in range(18):
        x = keras.layers.Conv2D(16, 1, name=f"body{number:02}")(x)
    x = keras.layers.Conv2D(8, 1, name="narrow")(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
    groups = groups_of(model)
    table = table_of(file_of(model, "float32", worker), "float32")
    latency = WidthLatency(model, groups, table, worker)
    assert latency.groups == groups and not latency.fixed
    widths = dict.fromkeys(list(groups)[1::3], 8)
    smaller = file_of(prune(model, widths), "float32", worker)
    assert latency(widths) == pytest.approx(table.predict(smaller), rel=0.01)


def test_a_table_without_the_operators_is_refused(model, worker, small):
    table: LatencyTable = table_of(file_of(small, "float32", worker), "float32")
    with pytest.raises(RequestError, match="The table of latencies has no"):
        WidthLatency(model, groups_of(model), table, worker)
