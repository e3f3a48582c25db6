"""Parameters and multiply-adds, exactly as counted from the papers' tables (timm and keras.applications agree)."""

import keras
import pytest
from keras import layers

from mobilenets_tf import create_model, model_info
from mobilenets_tf.networks.costs import complexity

pytestmark = pytest.mark.usefixtures("without_values")
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
# (network, alpha): (trainable, total, multiply-adds at 224)
V3 = {
    ("mobilenet_v3_large", 1.0): (5483032, 5507432, 216589760),
    ("mobilenet_v3_large", 0.75): (3993528, 4012616, 154560624),
    ("mobilenet_v3_large_minimalistic", 1.0): (3924288, 3948688, 209136704),
    ("mobilenet_v3_large_minimalistic", 0.75): (3050312, 3069400, None),
    ("mobilenet_v3_small", 1.0): (2542856, 2554968, 56510400),
    ("mobilenet_v3_small", 0.75): (2041872, 2051552, 43399344),
    ("mobilenet_v3_small_minimalistic", 1.0): (2044736, 2056848, 52288448),
    ("mobilenet_v3_small_minimalistic", 0.75): (1732512, 1742192, None),
}
# alpha: (trainable, total, multiply-adds) with the paper's 1280 units in the head
V3_SMALL_1280 = {1.0: (2946568, 2958680, 56913856), 0.75: (2408720, 2418400, 43765936)}
# size: (inference parameters, inference multiply-adds, trainable, total, multiply-adds of the training form)
MOBILEONE = {
    "s0": (2078504, 275110400, 5293272, 5381464, 1051935232),
    "s1": (4764840, 825057024, 4825192, 4893544, 830062080),
    "s2": (7808168, 1298426496, 7884648, 7971688, 1304027392),
    "s3": (10078312, 1895790592, 10170600, 10275304, 1902112768),
    "s4": (14838352, 2979269760, 14951248, 15078992, 2986802432),
}
# size: published parameters and multiply-adds in millions, which our fit has to meet within 2 %
MOBILEONE_MICRO = {"mu0": (0.57, 68), "mu1": (0.98, 139), "mu2": (1.3, 214)}
# network: (trainable, total, multiply-adds at 256)
MOBILEVIT = {
    "mobilevit_xxs": (1272024, None, 407364096),
    "mobilevit_xs": (2317848, None, 1025911808),
    "mobilevit_s": (5578632, None, 2000831488),
    "mobilevit_v2_050": (1370593, None, 464594944),
    "mobilevit_v2_075": (2866009, None, 1027980288),
    "mobilevit_v2_100": (4901841, None, 1812090880),
    "mobilevit_v3_xxs": (1249448, 1254840, 332163072),
    "mobilevit_v3_xs": (2490360, 2502520, 966618112),
    "mobilevit_v3_s": (5763912, 5781928, 1832711680),
    "mobilevit_v3_xxs_l2": (1145288, 1150680, 300705792),
    "mobilevit_v3_xs_l2": (2257320, 2269480, 899771392),
    "mobilevit_v3_s_l2": (5169864, 5187880, 1669133824),
    "mobilevit_v3_050": (1429985, 1437761, 479799296),
    "mobilevit_v3_075": (2999641, 3011305, 1062190080),
    "mobilevit_v3_100": (5139409, 5154961, 1872908288),
}


def assert_counts(counts, expected):
    """None in ``expected`` is a figure that has no source."""
    found = (counts["params_trainable"], counts["params_total"], counts["macs"])
    assert found == tuple(f if e is None else e for f, e in zip(found, expected, strict=True))


def rows(name, multiply_adds, parameters):
    """One test a row; those at neither the full width nor the full resolution are left to CI."""
    for (alpha, resolution), macs in multiply_adds.items():
        marks = [] if alpha == 1.0 or resolution == 224 else [pytest.mark.slow]
        yield pytest.param(name, alpha, resolution, macs, parameters[alpha], marks=marks)


def most_in_ci(names, plain):
    """One test a network; all but ``plain`` are left to CI."""
    return [pytest.param(name, marks=[] if name in plain else [pytest.mark.slow]) for name in names]


@pytest.mark.parametrize(
    ("name", "alpha", "resolution", "macs", "parameters"),
    [*rows("mobilenet_v1", V1_MACS, V1), *rows("mobilenet_v2", V2_MACS, V2)],
)
def test_width_and_resolution(name, alpha, resolution, macs, parameters):
    info = model_info(name, alpha=alpha, resolution=resolution)
    assert (info["params_trainable"], info["params_total"]) == parameters
    assert info["macs"] == macs


@pytest.mark.parametrize("size", most_in_ci(LITE, plain={0, 4}))
def test_efficientnet_lite(size):
    info = model_info(f"efficientnet_lite{size}")
    assert (info["params_trainable"], info["params_total"], info["macs"]) == LITE[size]


@pytest.mark.parametrize(("size", "resolution", "macs"), [(3, 300, 1607554544), (4, 380, 3943564112)])
def test_efficientnet_lite_at_timms_resolution(size, resolution, macs):
    assert model_info(f"efficientnet_lite{size}", resolution=resolution)["macs"] == macs


@pytest.mark.parametrize(("name", "alpha"), V3)
def test_mobilenet_v3(name, alpha):
    assert_counts(model_info(name, alpha=alpha), V3[name, alpha])


@pytest.mark.parametrize("alpha", V3_SMALL_1280)
def test_mobilenet_v3_small_with_the_papers_head(alpha):
    model = create_model("mobilenet_v3_small", alpha=alpha, hidden_units=1280)
    assert_counts(complexity.counts(model), V3_SMALL_1280[alpha])


@pytest.mark.parametrize("size", most_in_ci(MOBILEONE, plain={"s0", "s4"}))
def test_mobileone(size):
    info = model_info(f"mobileone_{size}")
    parameters, macs, *training = MOBILEONE[size]
    assert_counts(info, training)
    assert_counts(info["inference_form"], (parameters, parameters, macs))


@pytest.mark.parametrize("size", MOBILEONE_MICRO)
def test_mobileone_micro_is_within_two_percent_of_the_published_figures(size):
    counts = complexity.counts(create_model(f"mobileone_{size}", reparameterized=True))
    for found, published in zip((counts["params_trainable"], counts["macs"]), MOBILEONE_MICRO[size], strict=True):
        assert abs(found / 1e6 / published - 1) < 0.02


@pytest.mark.parametrize(
    "name", most_in_ci(MOBILEVIT, plain={"mobilevit_xxs", "mobilevit_v2_050", "mobilevit_v3_xxs", "mobilevit_v3_050"})
)
def test_mobilevit(name):
    assert_counts(model_info(name), MOBILEVIT[name])


def test_multiply_adds_of_nested_and_shared_layers():
    shared = layers.Dense(5)
    inner = keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(6, 3, groups=2, padding="same")])
    inputs = keras.Input((8, 8, 4))
    x = layers.GlobalAveragePooling2D()(inner(inputs))
    outputs = layers.Add()([shared(x), shared(x)])
    # grouped 3x3: 64 positions x 6 filters x 9 x (4 / 2); the shared layer counts twice
    assert complexity.multiply_adds(keras.Model(inputs, outputs)) == 64 * 6 * 9 * 2 + 2 * 6 * 5
