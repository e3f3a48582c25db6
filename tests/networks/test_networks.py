"""One contract, kept by every registered network."""

import keras
import numpy as np
import pytest

from mobilenets_tf import RequestError, create_model, export, features, list_models, load_model, registry
from mobilenets_tf.export.tflite import convert_model
from mobilenets_tf.layer_names import is_head
from mobilenets_tf.networks.heads import ssd
from mobilenets_tf.networks.heads.anchors import ssd_anchors
from mobilenets_tf.quantize import SCHEMES, Calibration, Recipe
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.weights.keras_config import shapes_alone
from tests.conftest import photographs
from tests.support import forked
from tests.support.make_goldens import generated

# Each kind of block, with rows of few channels and blocks, at which the kinds' operators are the same. The published
# rows differ in numbers alone, which test_counts.py has. MobileViTv3 with the attention of v1: mobilevit_v3_xxs in
# benchmarks/arm64.py (int8 and float32, to the bit).
_ATTENTIVE = [(2, 16, 1, 1, 0, 0), (2, 24, 2, 2, 0, 0), *((2, width, 1, 2, width, 1) for width in (24, 32, 40))]
_GATED = [
    [(3, 1, 16, True, "relu", 2)],
    [(3, 4.5, 24, False, "relu", 2), (3, 3, 24, False, "relu", 1)],
    [(5, 4, 24, True, "hard_swish", 2)],
    [(5, 6, 32, True, "hard_swish", 2)],
]
NARROW = {
    "mobilenet_v1": {"alpha": 0.25},
    "mobilenet_v2": {"rows": [(1, 8, 1, 1), (6, 8, 2, 2), (6, 16, 1, 2), (6, 16, 1, 2), (6, 24, 2, 2)]},
    "mobilenet_v3_small": {"rows": _GATED},
    "mobilenet_v3_small_minimalistic": {"rows": _GATED},
    "efficientnet_lite0": {"rows": [(3, 1, 8, 1, 1), *((kernel, 6, 16, 2, 2) for kernel in (3, 5, 3, 5))]},
    "mobileone_mu0": {"rows": [(16, 2, 2, 0), (24, 2, 2, 0), (32, 2, 2, 0), (48, 1, 2, 0)], "branches": 1},
    "mobileone_s4": {"rows": [(16, 2, 2, 0), (24, 2, 2, 0), (32, 2, 2, 1), (48, 1, 2, 1)], "branches": 1},
    "mobilevit_v3_050": {"rows": _ATTENTIVE},
    "mobilevit_xxs": {"rows": _ATTENTIVE},
    "mobilevit_v2_050": {"rows": _ATTENTIVE},
}
# With convolutions, squeeze-and-excite and hard swish. Attention: test_attention_is_a_handful_of_ops.
PLAIN = {"mobilenet_v3_small"}
SLOW = set(NARROW) - PLAIN
# The searches change no op: of small networks test_tflite.py and test_inspection.py make files with the whole recipe.
QUICK = Recipe(ranges="mean_square_error", rounding="nearest")


def small(name, **options):
    """Build a network with narrow rows, and of each kind one branch: more take time alone."""
    return create_model(name, **NARROW.get(name, {}), **options)


EACH = [*sorted(PLAIN), *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(SLOW))]


@pytest.mark.parametrize("name", EACH)
def test_contract(name, tmp_path):
    model = small(name, resolution=64, classes=7, classifier_activation=None)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    answer = model(images, training=False)
    assert answer.shape == (2, 7)

    by_stride = features(model)
    assert list(by_stride) == [2, 4, 8, 16, 32]
    assert [tensor.shape[1] for tensor in by_stride.values()] == [32, 16, 8, 4, 2]

    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")  # the strict loader, which lets stock layers through alone
    np.testing.assert_array_equal(loaded(images, training=False), answer)
    assert {k: t.shape for k, t in features(loaded).items()} == {k: t.shape for k, t in by_stride.items()}

    before = [np.array(weight) for weight in model.trainable_variables]
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    loss = model.train_on_batch(images, np.array([0, 1]))
    assert np.isfinite(loss)
    moved = sum(bool(np.any(a != np.array(b))) for a, b in zip(before, model.trainable_variables, strict=True))
    assert moved > 0.9 * len(before)

    with shapes_alone():  # values take most of the time, and shapes are asked for
        headless = small(name, resolution=96, include_top=False)
        pooled = small(name, resolution=64, include_top=False, pooling="max")
    assert headless.output.shape[1] == features(headless)[32].shape[1] in (3, 4)  # v2 MobileViTs make odd sides even
    assert pooled.output.shape == (None, headless.output.shape[-1])


# What a graph with dynamic shapes, a spelled-out softmax or a BatchNorm left over would have.
WASTE = {"SHAPE", "PACK", "STRIDED_SLICE", "BROADCAST_TO", "SELECT", "SELECT_V2", "EXP", "FILL", "CAST", "DIV"}
CONVOLUTIONAL = {"CONV_2D", "DEPTHWISE_CONV_2D", "PAD", "ADD", "MEAN", "FULLY_CONNECTED", "SOFTMAX"}
MAY_USE = {
    "mobilenet_v1": CONVOLUTIONAL - {"ADD"},
    "mobilenet_v2": CONVOLUTIONAL,
    "efficientnet_lite": CONVOLUTIONAL,
    "mobilenet_v3": CONVOLUTIONAL | {"MUL", "HARD_SWISH"},
    "mobileone_s4": CONVOLUTIONAL - {"ADD"} | {"MUL", "LOGISTIC"},
    "mobileone": CONVOLUTIONAL - {"ADD"},
    "mobilevit": CONVOLUTIONAL | {
        "MUL", "LOGISTIC", "RESHAPE", "TRANSPOSE", "SUB", "SQUARED_DIFFERENCE", "RSQRT", "CONCATENATION",
        "SPLIT", "BATCH_MATMUL", "SUM", "RELU", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", EACH)
def test_exports_lean_and_in_one_piece(name, worker):
    """Float32 and int8: builtin ops, static shapes, one signature, Keras' numbers, one partition of XNNPACK."""
    model = small(name, resolution=64, classes=7, classifier_activation=None)
    for layer in model.layers:  # gamma, beta, mean and variance that folding must not lose
        for variable in layer.weights:
            if "norm" in layer.name or layer.name.endswith("_bn"):
                variable.assign(generated(f"{layer.name}.{variable.name}", tuple(variable.shape)))
    pictures = photographs(20)
    recipe = None if name == "mobilenet_v3_small" else QUICK
    converted = convert_model(model, SCHEMES["int8"], Calibration(pictures), worker, recipe=recipe)
    allowed = MAY_USE[max((key for key in MAY_USE if name.startswith(key)), key=len)]
    for content in (converted.float_content, converted.content):
        tree = flatbuffer.read(content)
        counts = set(flatbuffer.operator_counts(tree))
        islands = {"QUANTIZE", "DEQUANTIZE"} if "mobilevit" in name and content is converted.content else set()
        assert counts <= allowed | islands and not counts & WASTE
        assert all(tensor.shapeSignature is None for tensor in tree.subgraphs[0].tensors)
        (signature,) = tree.signatureDefs
        assert [entry.name for entry in signature.inputs] == [b"image"]
        assert [entry.name for entry in signature.outputs] == [b"classifier"]
        assert Runner(content).execution_plan() == {"DELEGATE": 1}
    if "mobilevit" not in name:
        graph = flatbuffer.read(converted.content).subgraphs[0]
        types = {graph.tensors[i].type for op in graph.operators for i in [*op.inputs, *op.outputs] if i >= 0}
        assert flatbuffer.schema.TensorType.FLOAT32 not in types
    assert export.verify(converted.float_content, model, pictures[:4]).relative_difference < 1e-4
    # With weights nobody trained, int8 need only be the same function: no channel dead, nothing saturated.
    assert export.verify(converted.content, model, pictures[:4]).snr_db > 8


# In CI each kind of head. The backbones are those of the contract above; their features that
# heads read: test_ssd.py and test_segmentation.py. SSDLite of MobileNetV2 and LR-ASPP also run in benchmarks/arm64.py.
DENSE = [
    "ssdlite_mobilenet_v1", "ssdlite_mobilenet_v3_small_reduced", "ssd_mobilenet_v2", "deeplabv3_mobilenet_v2",
    "raspp_mobilenet_v3_small", "lraspp_mobilenet_v2",
]  # fmt: skip
HEADS = {
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "RESHAPE",
    "CONCATENATION",
    "LOGISTIC",
    "MEAN",
    "MUL",
    "ADD",
    "RESIZE_BILINEAR",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DENSE)
def test_contract_of_detectors_and_segmenters(name, tmp_path, worker):
    network = registry.get(name)
    narrow = {"alpha": network.alphas[0]} if network.alphas else {}
    model = small(name, resolution=96, classes=3, **narrow)
    assert model.name == name
    images = np.random.default_rng(0).uniform(-1, 1, (3, 96, 96, 3)).astype(np.float32)
    outputs = [np.asarray(output) for output in keras.tree.flatten(model(images, training=False))]
    if network.task == "detect":
        anchors = len(ssd_anchors(ssd.grids(model)))
        assert [output.shape for output in outputs] == [(3, anchors, 4), (3, anchors, 4)]
        loss, truth = ["mse", "binary_crossentropy"], [np.zeros_like(output) for output in outputs]
    else:
        side = 12 if name.startswith("lraspp") else 6
        assert [output.shape for output in outputs] == [(3, side, side, 3)]
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        truth = np.random.default_rng(0).integers(0, 3, (3, side, side))

    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")  # the strict loader, which lets stock layers through alone
    for ours, theirs in zip(keras.tree.flatten(loaded(images, training=False)), outputs, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    strides = [2, 4, 8, 16, 32] if network.task == "detect" else [2, 4, 8, 16]
    assert list(features(loaded)) == strides
    weighted = [layer.name for layer in model.layers if layer.weights]
    assert [name for name in weighted if not is_head(name)] == [
        name for name in weighted if name.startswith(("stem_", "stage", "head_"))
    ]

    content = convert_model(model, SCHEMES["float32"], None, worker).content
    tree = flatbuffer.read(content)
    counts = set(flatbuffer.operator_counts(tree))
    assert counts <= HEADS | MAY_USE[max((key for key in MAY_USE if network.backbone.startswith(key)), key=len)]
    assert all(tensor.shapeSignature is None for tensor in tree.subgraphs[0].tensors)
    (signature,) = tree.signatureDefs
    names = [b"boxes", b"scores"] if network.task == "detect" else [b"logits"]
    assert [entry.name for entry in signature.outputs] == names
    assert Runner(content).execution_plan() == {"DELEGATE": 1}
    assert export.verify(content, model, images).relative_difference < 1e-4

    before = [np.array(weight) for weight in model.trainable_variables]
    model.compile("sgd", loss, run_eagerly=True)
    assert np.all(np.isfinite(model.train_on_batch(images, truth)))
    moved = sum(bool(np.any(a != np.array(b))) for a, b in zip(before, model.trainable_variables, strict=True))
    assert moved > 0.9 * len(before)


@pytest.mark.parametrize(
    ("name", "transposes"), [("mobilevit_v3_xxs", 14), pytest.param("mobilevit_v3_050", 6, marks=pytest.mark.slow)]
)
def test_attention_is_a_handful_of_ops(name, transposes, worker):
    """One SOFTMAX a transformer layer; one TRANSPOSE to unfold and one to fold each block, two for a layer's heads."""
    rows = [*_ATTENTIVE[:2], (2, 24, 1, 2, 24, 2), *_ATTENTIVE[3:]]  # three blocks, four layers
    model = create_model(name, rows=rows, resolution=128, classes=7, classifier_activation=None)
    counts = flatbuffer.operator_counts(flatbuffer.read(convert_model(model, SCHEMES["float32"], None, worker).content))
    assert (counts["SOFTMAX"], counts["TRANSPOSE"]) == (4, transposes)
    # 11 normalisations of seven ops: MEAN, SUB, SQUARED_DIFFERENCE, MEAN, ADD, RSQRT, MUL; and the pooling's MEAN.
    assert (counts["RSQRT"], counts["SUB"], counts["MEAN"]) == (11, 11, 23)


@pytest.mark.parametrize(
    "name",
    [
        "mobilevit_v3_050",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("mobilenet_v3_small", "mobileone_mu0")),
    ],
)
def test_saved_file_loads_where_this_package_is_not(name, tmp_path):
    model = small(name, resolution=64, classes=7)
    model.save(tmp_path / "model.keras")
    image = np.linspace(-1, 1, 64 * 64 * 3, dtype=np.float32).reshape(1, 64, 64, 3)
    np.savez(tmp_path / "expected.npz", image=image, answer=model(image, training=False))
    script = """
import sys
sys.modules["mobilenets_tf"] = None  # importing it raises
import keras, numpy as np
expected = np.load("expected.npz")
model = keras.models.load_model("model.keras")
np.testing.assert_array_equal(model(expected["image"], training=False), expected["answer"])
print("loaded", len(model.layers))
"""
    done = forked.script(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["loaded", str(len(model.layers))]


@pytest.mark.parametrize(("output_stride", "strides"), [(16, [2, 4, 8, 16]), (8, [2, 4, 8])])
@pytest.mark.parametrize(
    "name",
    ["mobilenet_v1", "mobilenet_v2", "efficientnet_lite0", "mobilenet_v3_small", "mobileone_mu0", "mobilevit_v3_050"],
)
@pytest.mark.usefixtures("without_values")
def test_output_stride(name, output_stride, strides):
    model = small(name, resolution=64, include_top=False, output_stride=output_stride)
    assert list(features(model)) == strides
    assert model.output.shape[1] == 64 // output_stride


def test_dilation_keeps_what_the_weights_compute():
    """At output stride 16 every second pixel of the last feature is what stride 32 gives, away from the border."""
    dense = small("mobilenet_v2", resolution=256, include_top=False)
    dilated = small("mobilenet_v2", resolution=256, include_top=False, output_stride=16)
    dilated.set_weights(dense.get_weights())
    image = np.random.default_rng(0).uniform(-1, 1, (1, 256, 256, 3)).astype(np.float32)
    coarse, fine = np.asarray(dense(image))[0], np.asarray(dilated(image))[0]
    # "same" pads stride 2 at the bottom right alone, so the strided grid starts at the second pixel.
    matching = fine[1::2, 1::2][3:-3, 3:-3]
    np.testing.assert_allclose(matching, coarse[3:-3, 3:-3], atol=2e-3 * np.abs(coarse).max())


def test_stochastic_depth_skips_whole_samples():
    model = small("efficientnet_lite0", resolution=32, include_top=False, drop_connect_rate=0.9)
    drops = [layer for layer in model.layers if layer.name.endswith("_drop")]
    rates = [layer.rate for layer in drops]
    assert rates == sorted(rates) and 0 < rates[0] < rates[-1] < 0.9
    dropped = np.asarray(drops[-1](np.ones((64, 2, 2, 8), np.float32), training=True))
    per_sample = dropped.reshape(64, -1)
    assert (per_sample == per_sample[:, :1]).all()
    assert 0 < (per_sample[:, 0] == 0).sum() < 64


@pytest.mark.parametrize(
    ("wrong", "quoted"),
    [
        ({"name": "mobilenet_v4_large"}, "Did you mean 'mobilenet_v3_large'"),
        ({"name": "mobilenet_v3_small", "hidden_units": 0}, "hidden_units=0"),
        ({"name": "mobileone_s0", "branches": 0}, "branches=0"),
        ({"name": "mobilevit_s", "stage4_depth": 0}, "stage4_depth=0"),
        ({"name": "mobilevit_s", "input_shape": (None, 224, 3)}, "attention is laid out for one size"),
        ({"name": "efficientnet_lite5"}, "Did you mean 'efficientnet_lite"),
        ({"name": "mobilenet_v2", "alpha": 0}, "alpha=0"),
        ({"name": "mobilenet_v2", "alpha": -1.0}, "alpha=-1.0"),
        ({"name": "efficientnet_lite0", "alpha": 0.5}, "no width multiplier"),
        ({"name": "mobilenet_v2", "resolution": 8}, "resolution=8"),
        ({"name": "mobilenet_v2", "pooling": "mean"}, "pooling='mean'"),
        ({"name": "mobilenet_v2", "classes": 0}, "classes=0"),
        ({"name": "mobilenet_v2", "dropout_rate": 1.5}, "dropout_rate=1.5"),
        ({"name": "mobilenet_v2", "output_stride": 4}, "output_stride=4"),
        ({"name": "mobilenet_v2", "input_shape": (224, 224)}, "(224, 224)"),
        ({"name": "mobilenet_v2", "widths": 3}, "widths"),
        ({"name": "mobilenet_v2", "weights": "imagenett"}, "Did you mean 'imagenet'"),
        ({"name": "mobilenet_v2", "weights": "nowhere.pth"}, "nowhere.pth"),
    ],
)
def test_wrong_requests_are_quoted(wrong, quoted):
    with pytest.raises(RequestError) as caught:
        create_model(**wrong)
    assert quoted in str(caught.value)


def test_list_models_wildcards_and_order():
    assert list_models("mobilenet_v[12]") == ["mobilenet_v1", "mobilenet_v2"]
    assert list_models("mobileone_s*") == [f"mobileone_s{size}" for size in range(5)]
    assert list_models("*lite*", task="classify") == [f"efficientnet_lite{size}" for size in range(5)]
    assert list_models("resnet*") == []


def test_list_models_by_task():
    assert list_models("*mobilenet_v3_small", "segment") == [
        f"{head}_mobilenet_v3_small" for head in ("deeplabv3", "lraspp", "raspp")
    ]
    assert set(list_models()) == {name for task in registry.TASKS for name in list_models(task=task)}
    with pytest.raises(RequestError, match="Did you mean 'detect'"):
        list_models(task="detection")


def test_calling_a_network_without_saying_so_is_no_training():
    """Resizing for odd sizes must not switch the BatchNormalization behind it to training."""
    model = create_model("mobilevit_v3_xxs", rows=_ATTENTIVE, resolution=96, classes=3)
    picture = np.random.default_rng(0).normal(size=(1, 96, 96, 3)).astype(np.float32)
    before = [weight.copy() for weight in model.get_weights()]
    np.testing.assert_array_equal(np.asarray(model(picture)), np.asarray(model(picture, training=False)))
    assert all(np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True))
