"""A network as data: written, read, and built."""

import json

import numpy as np
import pytest

from mobilenets_tf import Plan, RequestError, channel_groups, create_model, prune

ROWS = [[1, 8, 1, 1], [6, 16, 2, 2], [6, 24, 1, 2]]
OPTIONS = {"rows": ROWS, "resolution": 32, "classes": 3}
PLAN = Plan("mobilenet_v2", OPTIONS, {"stage2_block1_expand_conv": 24, "stage2_block1_project_conv": 8})


def shapes(model):
    return {weight.path: tuple(weight.shape) for weight in model.weights}


def test_a_plan_is_built_as_its_network_is_pruned(tmp_path):
    whole = create_model("mobilenet_v2", **OPTIONS)
    assert set(PLAN.channels) < set(channel_groups(whole).groups)
    expected = shapes(prune(whole, PLAN.channels))
    PLAN.write(tmp_path / "plan.json")
    for plan in (PLAN, str(tmp_path / "plan.json"), tmp_path / "plan.json"):
        assert shapes(create_model(plan)) == expected
    assert expected != shapes(whole) == shapes(create_model(Plan("mobilenet_v2", OPTIONS)))
    assert Plan.read(tmp_path / "plan.json") == PLAN and PLAN.to_json() == (tmp_path / "plan.json").read_text()


def test_arguments_come_before_the_plans():
    model = create_model(PLAN, resolution=64, classes=5, classifier_activation=None)
    assert (model.input_shape, model.output_shape) == ((None, 64, 64, 3), (None, 5))
    assert create_model(PLAN, input_shape=(32, 48, 3)).input_shape == (None, 32, 48, 3)


def test_weights_of_such_a_network_load(tmp_path):
    model = create_model(PLAN)
    image = np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
    model.save(tmp_path / "found.keras")
    model.save_weights(tmp_path / "found.weights.h5")
    plan = Plan(PLAN.network, {key: OPTIONS[key] for key in ("rows", "resolution")}, PLAN.channels)
    for weights in (model, tmp_path / "found.keras", str(tmp_path / "found.weights.h5")):
        again = create_model(plan, weights=weights)  # the number of classes follows from the weights
        np.testing.assert_array_equal(again(image, training=False), model(image, training=False))
    with pytest.raises(RequestError, match="'imagenet': a plan with widths of its own takes"):
        create_model(PLAN, weights="imagenet")
    other = create_model("mobilenet_v2", **OPTIONS)
    with pytest.raises(RequestError, match="stage2_block1"):
        create_model(PLAN, weights=other)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([], 'not a plan: expected a JSON object with "format"'),
        ({"format": "mobilenets_tf.plan.2"}, "not a plan"),
        ({"format": "mobilenets_tf.plan.1", "network": "mobilenet_v4"}, "Did you mean"),
        ({"format": "mobilenets_tf.plan.1", "network": 7}, "Received int for the name of a network"),
        ({"format": "mobilenets_tf.plan.1", "network": "mobilenet_v2", "rows": []}, "unknown key 'rows'"),
        ({"format": "mobilenets_tf.plan.1", "network": "mobilenet_v2", "options": []}, "expected names and their val"),
        (
            {"format": "mobilenets_tf.plan.1", "network": "mobilenet_v2", "options": {"weights": "/etc/passwd"}},
            "A plan has no option 'weights'",
        ),
        (
            {"format": "mobilenets_tf.plan.1", "network": "mobilenet_v2", "channels": {"stem_conv": 0}},
            r"channels\['stem_conv'\]=0: expected a whole number above 0",
        ),
        (
            {"format": "mobilenets_tf.plan.1", "network": "mobilenet_v2", "channels": {"stem": True}},
            r"channels\['stem'\]=True",
        ),
    ],
)
def test_wrong_files_are_refused(content, told, tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(RequestError, match=told):
        create_model(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("options", "channels", "told"),
    [
        ({"width": 2}, {}, "has no argument width="),
        ({"linear": "false"}, {}, "linear='false' is a str; expected bool"),
        ({"classifier_activation": "lambda"}, {}, "classifier_activation='lambda': expected the name of an activation"),
        ({"dropout_rate": "x"}, {}, "dropout_rate='x' is a str"),
        ({"rows": [[1, 16, 1, 2.0]]}, {}, r"rows\[0\].stride=2.0: expected 1 or 2"),
        ({"rows": [[1, 2]]}, {}, r"rows\[0\]"),
        ({}, {"stage9_conv": 8}, "Unknown group of channels 'stage9_conv'"),
        ({"rows": [[32, 8192, 64, 1]]}, {}, "would have .* parameters; at most"),
        ({}, {"stage2_block1_expand_conv": 4096}, "give a number from 1 to 48"),
    ],
)
def test_what_a_plan_asks_for_has_to_exist(options, channels, told):
    with pytest.raises(RequestError, match=told):
        create_model(Plan("mobilenet_v2", OPTIONS | options, channels))


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(RequestError, match=r"Cannot read .*nowhere\.json: No such file"):
        create_model(str(tmp_path / "nowhere.json"))


def test_numbers_of_numpy_are_numbers_and_what_json_lacks_is_refused():
    plan = Plan("mobilenet_v2", {"rows": np.array(ROWS), "alpha": np.float32(1)}, {"stem_conv": np.int64(8)})
    assert plan == Plan("mobilenet_v2", {"rows": ROWS, "alpha": 1.0}, {"stem_conv": 8})
    for options in ({"alpha": float("nan")}, {"rows": {1}}, {"rows": [object()]}):
        with pytest.raises(RequestError, match="a plan holds numbers, texts"):
            Plan("mobilenet_v2", options)


def test_none_and_default_leave_an_option_to_the_network():
    plan = Plan("mobilenet_v2", {**OPTIONS, "alpha": None, "dropout_rate": None, "classifier_activation": "default"})
    assert shapes(create_model(plan)) == shapes(create_model("mobilenet_v2", **OPTIONS))


@pytest.mark.parametrize(("network", "option"), [("mobileone_s0", "branches"), ("mobilevit_xxs", "stage4_depth")])
def test_what_would_take_for_ever_is_refused(network, option):
    with pytest.raises(RequestError, match=f"{option}=1000000: expected a whole number above 0, at most 64"):
        create_model(Plan(network, {option: 10**6}))
