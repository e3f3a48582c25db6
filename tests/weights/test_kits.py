"""The networks of keras-cv and KerasHub as sources of weights: as objects, ``.weights.h5`` and ``.keras``."""

from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow

from mobilenets_tf import create_model
from mobilenets_tf.weights import saved_models

LITE0 = {
    "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
    "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
    "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
    "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
    "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
    "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
}

PARTS = ("squeeze_conv", "excite_conv")


@keras.saving.register_keras_serializable("tests")
class SqueezeAndExcite2D(keras.layers.Layer):
    """A layer with parts whose names Keras makes up, as keras-cv has it."""

    def __init__(self, **options):
        super().__init__(**options)
        self.squeeze_conv, self.excite_conv = keras.layers.Conv2D(2, 1), keras.layers.Conv2D(4, 1)

    def build(self, shape):
        self.squeeze_conv.build(shape)
        self.excite_conv.build((*shape[:-1], 2))

    def call(self, inputs):
        return inputs * self.excite_conv(self.squeeze_conv(inputs))


def test_layers_inside_of_layers_and_models_have_names_that_do_not_depend_on_what_was_built_before(tmp_path):
    inputs = keras.Input((4, 4, 4))
    x = SqueezeAndExcite2D()(SqueezeAndExcite2D()(inputs))
    inner = keras.Model(inputs, keras.layers.Conv2D(3, 1, name="last")(x))
    model = keras.Sequential([keras.Input((4, 4, 4)), inner, keras.layers.Dense(2, name="predictions")])
    tensors = saved_models.weights_of(model).tensors
    parts = {f"{key}/{part}" for key in ("squeeze_and_excite2d", "squeeze_and_excite2d_1") for part in PARTS}
    assert {name.rpartition(".")[0] for name in tensors} == parts | {"last", "predictions"}
    for suffix in (".weights.h5", ".keras"):
        path = tmp_path / f"model{suffix}"
        model.save_weights(path) if suffix == ".weights.h5" else model.save(path)
        saved = saved_models.read_weights(path).tensors
        assert saved.keys() == tensors.keys()
        assert all((saved[name] == tensors[name]).all() for name in tensors)


def keras_cv(module):
    """Import a module of keras-cv for Keras 3: keras-cv takes TensorFlow's Keras, which tfmot makes Keras 2."""
    with mock.patch.object(tensorflow, "keras", keras):
        return pytest.importorskip(f"keras_cv.{module}")


def keras_cv_lite():
    kit = keras_cv("src.models.backbones.efficientnet_lite.efficientnet_lite_backbone")
    return kit.EfficientNetLiteBackbone(
        include_rescaling=False, input_shape=(64, 64, 3), width_coefficient=1.0, depth_coefficient=1.0, **LITE0
    )


def keras_cv_v3():
    kit = keras_cv("src.models.backbones.mobilenet_v3.mobilenet_v3_backbone")
    return kit.MobileNetV3Backbone(
        include_rescaling=False,
        input_shape=(64, 64, 3),
        stackwise_expansion=[1, 72.0 / 16, 88.0 / 24, 4, 6, 6, 3, 3, 6, 6, 6],
        stackwise_filters=[16, 24, 24, 40, 40, 40, 48, 48, 96, 96, 96],
        stackwise_kernel_size=[3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 5],
        stackwise_stride=[2, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1],
        stackwise_se_ratio=[0.25, None, None] + [0.25] * 8,
        stackwise_activation=["relu"] * 3 + ["hard_swish"] * 8,
    )


def keras_hub_lite():
    kit = pytest.importorskip("keras_hub")
    return kit.models.EfficientNetBackbone(
        **LITE0, stackwise_width_coefficients=[1.0] * 7, stackwise_depth_coefficients=[1.0] * 7,
        stackwise_squeeze_and_excite_ratios=[0] * 7, stackwise_block_types=["v1"] * 7, activation="relu6",
        min_depth=None, use_depth_divisor_as_min_depth=True, cap_round_filter_decrease=True, dropout=0,
        input_shape=(64, 64, 3),
    )  # fmt: skip


def keras_hub_v3():
    kit = pytest.importorskip("keras_hub")
    blocks = [[72, 88], [96, 240, 240], [120, 144], [288, 576, 576]]
    swish = ["relu", *["hard_swish"] * 3]
    return kit.models.MobileNetBackbone(
        stackwise_expansion=blocks,
        stackwise_num_blocks=[2, 3, 2, 3],
        stackwise_num_filters=[[24, 24], [40] * 3, [48] * 2, [96] * 3],
        stackwise_kernel_size=[[3 if stage == 0 else 5] * len(row) for stage, row in enumerate(blocks)],
        stackwise_num_strides=[[2, 1], [2, 1, 1], [1, 1], [2, 1, 1]],
        stackwise_se_ratio=[[None if stage == 0 else 0.25] * len(row) for stage, row in enumerate(blocks)],
        stackwise_activation=[[swish[stage]] * len(row) for stage, row in enumerate(blocks)],
        stackwise_padding=[[1 if stage == 0 else 2] * len(row) for stage, row in enumerate(blocks)],
        output_num_filters=1024, input_activation="hard_swish", output_activation="hard_swish", input_num_filters=16,
        image_shape=(64, 64, 3), depthwise_filters=16, depthwise_stride=2, depthwise_residual=False,
        squeeze_and_excite=0.5, last_layer_filter=576,
    )  # fmt: skip


def classifier(backbone):
    """The classifier that a package builds on its backbone, for seven classes; gives logits."""
    if type(backbone).__module__.startswith("keras_cv"):
        kit = pytest.importorskip("keras_cv")
        return kit.models.ImageClassifier(backbone=backbone, num_classes=7, activation="linear")
    kit = pytest.importorskip("keras_hub")
    if type(backbone).__name__ == "MobileNetBackbone":
        return kit.models.MobileNetImageClassifier(backbone, num_classes=7)
    return kit.models.EfficientNetImageClassifier(backbone, num_classes=7)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("build", "network", "with_top"),
    [
        (keras_cv_lite, "efficientnet_lite0", True),
        (keras_cv_v3, "mobilenet_v3_small", False),
        (keras_hub_lite, "efficientnet_lite0", True),
        (keras_hub_v3, "mobilenet_v3_small", True),
    ],
)
def test_the_same_weights_give_the_same_numbers(build, network, with_top, tmp_path):
    """Random weights, to 1e-4 of the largest output."""
    model = classifier(build()) if with_top else build()
    random = np.random.default_rng(0)
    model.set_weights(
        [weight + np.abs(random.normal(0, 0.3, weight.shape)) * (weight.ndim == 1) for weight in model.get_weights()]
    )
    image = random.uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    expected = np.asarray(model(image, training=False))
    model.save_weights(tmp_path / "w.weights.h5")
    model.save(tmp_path / "w.keras")
    options = {"classifier_activation": None} if with_top else {"include_top": False}
    ours = create_model(network, resolution=64, weights=tmp_path / "w.weights.h5", **options)
    np.testing.assert_allclose(ours(image), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    tensors = saved_models.weights_of(model).tensors
    for path in tmp_path.iterdir():
        saved = saved_models.read_weights(path).tensors
        assert saved.keys() == tensors.keys() and all((saved[name] == tensors[name]).all() for name in tensors)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_model_of_keras_cv_becomes_a_file(tmp_path, worker):
    from mobilenets_tf import export
    from mobilenets_tf.export.tflite import convert_model
    from mobilenets_tf.quantize import SCHEMES

    model = classifier(keras_cv_lite())
    (tmp_path / "cv.tflite").write_bytes(convert_model(model, SCHEMES["float32"], None, worker).content)
    images = np.random.default_rng(0).uniform(-1, 1, (4, 64, 64, 3)).astype(np.float32)
    comparison = export.verify(tmp_path / "cv.tflite", model, images)
    assert comparison.relative_difference < 1e-4
