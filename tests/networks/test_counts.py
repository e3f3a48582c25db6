"""Parameters and multiply-adds, exactly as counted from the papers' tables (timm and keras.applications agree)."""

import pytest

from mobilenets_tf import model_info

# alpha: (trainable, total)
V1 = {1.0: (4231976, 4253864), 0.75: (2585560, 2601976), 0.5: (1331592, 1342536), 0.25: (470072, 475544)}
V2 = {
    0.35: (1677128, 1691208),
    0.5: (1968680, 1987224),
    0.75: (2636424, 2663064),
    1.0: (3504872, 3538984),
    1.3: (5386792, 5431048),
    1.4: (6108776, 6156712),
}
# (alpha, resolution): multiply-adds
V1_MACS = {
    (1.0, 224): 568740352, (1.0, 192): 418121728, (1.0, 160): 290675200, (1.0, 128): 186400768,
    (0.75, 224): 325400448, (0.75, 192): 239273472, (0.75, 160): 166396800, (0.75, 128): 106770432,
    (0.5, 224): 149497088, (0.5, 192): 109970432, (0.5, 160): 76524800, (0.5, 128): 49160192,
    (0.25, 224): 41030272, (0.25, 192): 30212608, (0.25, 160): 21059200, (0.25, 128): 13570048,
}  # fmt: skip
V2_MACS = {
    (1.4, 224): 582195824, (1.3, 224): 509374560, (1.0, 224): 300774272, (1.0, 192): 221316608,
    (1.0, 160): 154083200, (1.0, 128): 99074048, (1.0, 96): 56289152, (0.75, 224): 209069792,
    (0.75, 192): 153941888, (0.75, 160): 107295200, (0.75, 128): 69129728, (0.75, 96): 39445472,
    (0.5, 224): 97131840, (0.5, 192): 71701760, (0.5, 160): 50184000, (0.5, 128): 32578560, (0.5, 96): 18885440,
    (0.35, 224): 59285808, (0.35, 192): 43896512, (0.35, 160): 30874800, (0.35, 128): 20220672,
    (0.35, 96): 11934128,
}  # fmt: skip
# size: (trainable, total, multiply-adds at the published resolution)
LITE = {
    0: (4652008, 4694024, 385187552),
    1: (5416680, 5470344, 600185232),
    2: (6092072, 6150168, 859736272),
    3: (8197096, 8273768, 1383321872),
    4: (13006568, 13118936, 2553034336),
}


def rows(name, multiply_adds, parameters):
    """One test a row; those at neither the full width nor the full resolution are left to CI."""
    for (alpha, resolution), macs in multiply_adds.items():
        marks = [] if alpha == 1.0 or resolution == 224 else [pytest.mark.slow]
        yield pytest.param(name, alpha, resolution, macs, parameters[alpha], marks=marks)


@pytest.mark.parametrize(
    ("name", "alpha", "resolution", "macs", "parameters"),
    [*rows("mobilenet_v1", V1_MACS, V1), *rows("mobilenet_v2", V2_MACS, V2)],
)
def test_width_and_resolution(name, alpha, resolution, macs, parameters):
    info = model_info(name, alpha=alpha, resolution=resolution)
    assert (info["params_trainable"], info["params_total"]) == parameters
    assert info["macs"] == macs


@pytest.mark.parametrize("size", LITE)
def test_efficientnet_lite(size):
    info = model_info(f"efficientnet_lite{size}")
    assert (info["params_trainable"], info["params_total"], info["macs"]) == LITE[size]


@pytest.mark.parametrize(("size", "resolution", "macs"), [(3, 300, 1607554544), (4, 380, 3943564112)])
def test_efficientnet_lite_at_timms_resolution(size, resolution, macs):
    assert model_info(f"efficientnet_lite{size}", resolution=resolution)["macs"] == macs


def test_multiply_adds_of_nested_and_shared_layers():
    import keras
    from keras import layers

    from mobilenets_tf.complexity import multiply_adds

    shared = layers.Dense(5)
    inner = keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(6, 3, groups=2, padding="same")])
    inputs = keras.Input((8, 8, 4))
    x = layers.GlobalAveragePooling2D()(inner(inputs))
    outputs = layers.Add()([shared(x), shared(x)])
    # grouped 3x3: 64 positions x 6 filters x 9 x (4 / 2); the shared layer counts twice
    assert multiply_adds(keras.Model(inputs, outputs)) == 64 * 6 * 9 * 2 + 2 * 6 * 5
