"""DeepLabv3, R-ASPP and LR-ASPP: the papers' counts, what they read, weights."""

import keras
import numpy as np
import pytest

from mobilenets_tf import RequestError, create_model
from mobilenets_tf.networks.costs import complexity
from mobilenets_tf.networks.heads.segmentation import _windows
from tests.support.make_goldens import generated

# (options, resolution): trainable parameters and multiply-adds of DeepLabv3 on MobileNetV2 (arXiv 1801.04381, table 7)
V2 = [
    ({"atrous_rates": ()}, 512, 2113557, 2603958272),
    ({"atrous_rates": ()}, 513, 2113557, 2740709056),
    ({}, 512, 4523541, 5070209024),
    ({}, 513, 4523541, 5363508928),
]
# (size, classes, output stride): trainable parameters (arXiv 2209.15159; 150 classes are ADE20K's)
MOBILEVIT_V3 = {
    ("s", 21, 16): 7205621,
    ("xs", 21, 16): 3269669,
    ("xxs", 21, 16): 1956309,
    ("100", 21, 16): 13556222,
    ("050", 21, 16): 6301710,
    ("100", 150, 8): 13622399,
    ("075", 150, 8): 9710087,
    ("050", 150, 8): 6367887,
}
# Row of arXiv 1905.02244, table 7: network, options, trainable parameters, billions of multiply-adds at 1024x2048 and
# at 1025x2049.
RF2, WIDE = {"reduced_tail": True}, {"filters": 256}
CITYSCAPES = {
    1: ("raspp_mobilenet_v2", {}, 2113043, 20.827, 21.233),
    2: ("raspp_mobilenet_v2", RF2, 1159123, 13.402, 13.633),
    3: ("lraspp_mobilenet_v2", RF2 | WIDE, 1027654, 12.467, 12.675),
    4: ("lraspp_mobilenet_v2", RF2, 984006, 12.220, 12.422),
    5: ("raspp_mobilenet_v3_large", {}, 3600963, 17.791, 18.156),
    6: ("raspp_mobilenet_v3_large", RF2, 1762435, 10.830, 11.031),
    7: ("lraspp_mobilenet_v3_large", RF2 | WIDE, 1631118, 9.901, 10.078),
    8: ("lraspp_mobilenet_v3_large", RF2, 1505550, 9.318, 9.482),
    9: ("lraspp_mobilenet_v2", RF2 | {"alpha": 0.5}, 280950, 3.850, 3.908),
    10: ("lraspp_mobilenet_v2", RF2 | {"alpha": 0.35}, 166854, 2.412, 2.446),
    11: ("lraspp_mobilenet_v3_small", RF2, 467486, 2.689, 2.740),
}
# (network, output stride): billions of multiply-adds at 512x1024 (table 8)
HALF = {("large", 16): 2.330, ("large", 32): 1.850, ("small", 16): 0.673, ("small", 32): 0.472}


def slow(rows, plain):
    return [pytest.param(*row, marks=[] if row in plain else [pytest.mark.slow]) for row in rows]


@pytest.mark.parametrize(("options", "resolution", "parameters", "macs"), slow(V2, V2[1:2]))
@pytest.mark.usefixtures("without_values")
def test_deeplabv3_on_mobilenet_v2(options, resolution, parameters, macs):
    counts = complexity.counts(create_model("deeplabv3_mobilenet_v2", resolution=resolution, **options))
    assert (counts["params_trainable"], counts["macs"]) == (parameters, macs)


@pytest.mark.slow
@pytest.mark.parametrize("row", MOBILEVIT_V3)
@pytest.mark.usefixtures("without_values")
def test_deeplabv3_on_mobilevit_v3(row):
    size, classes, stride = row
    model = create_model(f"deeplabv3_mobilevit_v3_{size}", classes=classes, output_stride=stride)
    assert complexity.parameters(model)[0] == MOBILEVIT_V3[row]


@pytest.mark.parametrize(
    ("row", "odd"), slow([(row, odd) for row in CITYSCAPES for odd in (False, True)], [(11, False)])
)
@pytest.mark.usefixtures("without_values")
def test_cityscapes(row, odd):
    name, options, parameters, *billions = CITYSCAPES[row]
    shape = (1024 + odd, 2048 + odd, 3)
    model = create_model(name, input_shape=shape, **options)
    counts = complexity.counts(model)
    assert counts["params_trainable"] == parameters
    assert abs(counts["macs"] / 1e9 - billions[odd]) < 0.001
    stride = 8 if name.startswith("lraspp") else 16
    assert model.output.shape[1:] == (-(-shape[0] // stride), -(-shape[1] // stride), 19)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "stride"), HALF)
@pytest.mark.usefixtures("without_values")
def test_cityscapes_at_half_size(size, stride):
    model = create_model(
        f"lraspp_mobilenet_v3_{size}", input_shape=(512, 1024, 3), output_stride=stride, reduced_tail=True
    )
    assert round(complexity.multiply_adds(model) / 1e9, 3) == HALF[size, stride]


# ------------------------------------------------------------------------------------------------------- heads
def test_atrous_rates_see_the_same_picture_at_another_stride():
    for stride, rates in ((32, [3, 6, 9]), (8, [12, 24, 36])):
        model = create_model("deeplabv3_mobilenet_v1", alpha=0.25, input_shape=(64, 128, 3), output_stride=stride)
        found = [model.get_layer(f"aspp_atrous{number}_conv").dilation_rate[0] for number in (1, 2, 3)]
        assert found == rates and model.output.shape == (None, 64 // stride, 128 // stride, 21)
    # Resizing must not switch the BatchNormalization behind it to training where a call does not say what it is.
    picture = np.random.default_rng(0).normal(size=(1, 64, 128, 3)).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(model(picture)), np.asarray(model(picture, training=False)))


@pytest.mark.slow
@pytest.mark.usefixtures("without_values")
def test_the_last_convolution_of_mobilenet_v2_can_be_read():
    model = create_model("deeplabv3_mobilenet_v2", alpha=0.35, resolution=64, last_convolution=True)
    assert model.get_layer("aspp_pointwise_conv").kernel.shape[2] == 1280


@pytest.mark.parametrize(
    ("places", "window", "strides", "gates"),
    [
        ((64, 128), 49, (16, 20), (1, 4)),  # the paper's, of 1024x2048 pixels
        ((32, 64), 25, (8, 10), (1, 4)),
        ((16, 10), 8, (2, 3), (5, 1)),
        ((20, 20), None, None, (1, 1)),  # the whole map
    ],
)
def test_the_windows_of_lraspp_go_with_the_size(places, window, strides, gates):
    pooled = _windows(keras.Input((*places, 8)), "pool")
    pool = pooled._keras_history.operation
    assert pooled.shape[1:3] == gates
    if window:
        assert (pool.pool_size, pool.strides) == ((window, window), strides)
    else:
        assert isinstance(pool, keras.layers.GlobalAveragePooling2D)


# ----------------------------------------------------------------------------------------------------- weights
def filled(name, **options):
    model = create_model(name, **options)
    for layer in model.layers:
        for variable in layer.weights:
            variable.assign(generated(f"{layer.name}.{variable.name}", tuple(variable.shape)))
    return model


@pytest.mark.slow
def test_a_segmenter_goes_on_with_other_classes(tmp_path):
    first = filled("deeplabv3_mobilenet_v1", alpha=0.25, resolution=64, classes=4)
    first.save(tmp_path / "segmenter.keras")
    with pytest.warns(UserWarning, match="other classes.*: aspp_classifier has random"):
        again = create_model(
            "deeplabv3_mobilenet_v1", alpha=0.25, resolution=64, classes=7, weights=tmp_path / "segmenter.keras"
        )
    weighted = [layer for layer in again.layers if layer.weights]
    assert weighted[-1].name == "aspp_classifier"
    for layer in weighted[:-1]:
        for ours, theirs in zip(layer.weights, first.get_layer(layer.name).weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mobilenet_v2", "mobilenet_v3_large"])
def test_a_reduced_tail_is_fresh(network, tmp_path):
    classifier = filled(network, resolution=64, classes=4)
    classifier.save_weights(tmp_path / "classifier.weights.h5")
    first = {"mobilenet_v2": "stage6_block1_project_conv", "mobilenet_v3_large": "stage6_block1_expand_conv"}[network]
    with pytest.warns(UserWarning, match=f"not as wide as classifier.weights.h5 from {first} on"):
        model = create_model(
            f"lraspp_{network}", resolution=64, weights=tmp_path / "classifier.weights.h5", reduced_tail=True
        )
    for layer in model.layers:
        if layer.weights and not layer.name.startswith(("stage6", "stage7", "lraspp_")):
            for ours, theirs in zip(layer.weights, classifier.get_layer(layer.name).weights, strict=True):
                np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("wrong", "quoted"),
    [
        ({"name": "deeplabv3_mobilenet_v2", "atrous_rates": (6, 0)}, "atrous_rates=(6, 0)"),
        ({"name": "deeplabv3_mobilenet_v2", "dropout_rate": 1}, "dropout_rate=1"),
        ({"name": "deeplabv3_mobilenet_v2", "filters": 0}, "filters=0"),
        ({"name": "deeplabv3_mobilenet_v2", "output_stride": 4}, "output_stride=4"),
        ({"name": "deeplabv3_mobilenet_v2", "classifier_activation": None}, "classifier_activation=None"),
        ({"name": "deeplabv3_mobilenet_v1", "reduced_tail": True}, "reduced_tail=True is for mobilenet_v2"),
        ({"name": "lraspp_mobilenet_v3_small", "output_stride": 8}, "output_stride=8"),
        ({"name": "raspp_mobilenet_v2", "atrous_rates": (6,)}, "atrous_rates"),
        ({"name": "raspp_mobilenet_v2", "classes": 0}, "classes=0"),
    ],
)
def test_wrong_requests_are_quoted(wrong, quoted):
    with pytest.raises(RequestError) as caught:
        create_model(**wrong)
    assert quoted in str(caught.value)
