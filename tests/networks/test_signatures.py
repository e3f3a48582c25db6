"""The builders' arguments, as editors and help() show them."""

import inspect
import re

import pytest

import mobilenets_tf
from mobilenets_tf import RequestError, create_model, model_info, registry

BUILDERS = sorted({network.builder.partition(":")[2] for network in map(registry.get, registry.list_models())})


@pytest.mark.parametrize("name", [*BUILDERS, "create_model", "model_info"])
def test_every_argument_has_a_type_and_a_description(name):
    function = getattr(mobilenets_tf, name)
    signature = inspect.signature(function)
    assert function.__name__ == function.__qualname__ == name
    assert signature.return_annotation is not inspect.Signature.empty
    description = inspect.getdoc(function)
    assert "Raises:" in description and "Returns:" in description
    arguments = description[description.index("Args:") : description.index("Returns:")]
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter
        assert re.search(rf"^    (\w+, )*{parameter.name}(, \w+)*:", arguments, re.MULTILINE), parameter
    assert max(map(len, description.splitlines())) <= 116  # 120 with the indentation of a docstring


def test_every_public_builder_is_registered():
    assert set(BUILDERS) <= set(mobilenets_tf.__all__)
    assert len(BUILDERS) == 33


def test_create_model_has_the_common_arguments_of_the_builders():
    own = inspect.signature(create_model).parameters
    for name in ("MobileNetV1", "SSD", "DeepLabV3"):
        shared = set(inspect.signature(getattr(mobilenets_tf, name)).parameters) & set(own)
        assert shared >= {"weights", "classes", "input_shape", "convention"}
    assert own["classes"].annotation == (int | None)


@pytest.mark.parametrize(
    ("name", "options", "outputs", "last"),
    [
        ("mobilenet_v1", {}, (None, 1000), "predictions"),
        ("mobilenet_v1", {"classes": 7, "classifier_activation": None}, (None, 7), "classifier"),
        ("mobilenet_v1", {"include_top": False, "pooling": "avg"}, (None, 256), "pool"),
        ("lraspp_mobilenet_v3_small", {"output_stride": 32}, (None, 8, 8, 19), "logits"),
        ("ssdlite_mobilenet_v1", {"classifier_activation": None}, (None, 96, 81), "logits"),
    ],
)
def test_arguments_left_out_are_the_networks_own(name, options, outputs, last):
    alpha = {"alpha": 0.25} if "v1" in name else {}
    model = create_model(name, resolution=64, **alpha, **options)
    assert model.outputs[-1].shape == outputs
    assert model.layers[-1].name == last


@pytest.mark.parametrize(
    ("name", "wrong", "quoted"),
    [
        ("ssdlite_mobilenet_v1", {"pooling": "avg"}, "pooling='avg' is for the top of a classifier"),
        ("ssdlite_mobilenet_v1", {"dropout_rate": 0.5}, "dropout_rate=0.5 is for the top of a classifier"),
        ("lraspp_mobilenet_v2", {"classifier_activation": None}, "classifier_activation=None is for the top"),
        ("mobilenet_v1", {"resolution": 64, "input_shape": (64, 64, 3)}, "either resolution or input_shape"),
        ("mobilenet_v1", {"branches": 2}, "has no argument branches="),
        ("mobilenet_v1", {"classes": 0}, "classes=0"),
    ],
)
def test_arguments_that_a_network_does_not_have_are_refused(name, wrong, quoted):
    with pytest.raises(RequestError, match=re.escape(quoted)):
        create_model(name, **wrong)


def test_model_info_describes_what_it_returns():
    description = inspect.getdoc(model_info)
    for key in model_info("mobilenet_v1", alpha=0.25, resolution=64):
        assert re.search(rf"\b{key}\b", description), key
