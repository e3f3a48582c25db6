"""SSD and SSDLite: the papers' counts, TensorFlow's anchors, outputs in the anchors' order, weights."""

import math
import warnings

import keras
import numpy as np
import pytest

from mobilenets_tf import RequestError, create_model, features
from mobilenets_tf.layer_names import is_head
from mobilenets_tf.networks.costs import complexity
from mobilenets_tf.networks.heads import ssd
from mobilenets_tf.networks.heads.anchors import ssd_anchors
from tests.support.make_goldens import generated

# (network, classes): trainable parameters and multiply-adds at 320x320; None for a figure that nobody counted
SSDLITE = {
    ("mobilenet_v2", 80): (4337013, 788830144),
    ("mobilenet_v2", 90): (4500543, 804397504),
    ("mobilenet_v1", 80): (5100661, 1309162944),
    ("mobilenet_v1", 90): (5246911, None),
    ("mobilenet_v3_large", 80): (4859525, None),
    ("mobilenet_v3_large", 90): (5006735, None),
    ("mobilenet_v3_large_reduced", 80): (3129845, None),
    ("mobilenet_v3_large_reduced", 90): (3248255, None),
    ("mobilenet_v3_small", 80): (2405621, None),
    ("mobilenet_v3_small", 90): (2518271, None),
    ("mobilenet_v3_small_reduced", 80): (1690373, None),
    ("mobilenet_v3_small_reduced", 90): (1785743, None),
}
# (backbone, classes): published multiply-adds, counted, in billions (arXiv 1905.02244, table 6, as reference.md has it)
BILLIONS = {
    ("mobilenet_v1", 90): 1.322,
    ("mobilenet_v3_large", 80): 0.598,
    ("mobilenet_v3_large", 90): 0.613,
    ("mobilenet_v3_large_reduced", 80): 0.495,
    ("mobilenet_v3_large_reduced", 90): 0.507,
    ("mobilenet_v3_small", 80): 0.203,
    ("mobilenet_v3_small", 90): 0.210,
    ("mobilenet_v3_small_reduced", 80): 0.156,
    ("mobilenet_v3_small_reduced", 90): 0.162,
}
# Millions in micronDLA/MobileViTv3's README. Its anchors, 6 on the finest map and 4 on the last, make 119,765 more.
MOBILEVIT_V3 = {"s": 5.5, "xs": 2.7, "xxs": 1.5, "100": 5.8, "075": 3.7, "050": 2.0}
CVNETS_ANCHORS = 3 * 85 * (512 + 1) - 2 * 85 * (64 + 1)
PLAIN = {("mobilenet_v2", 80)}


@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=[] if row in PLAIN else [pytest.mark.slow]) for row in SSDLITE]
)
@pytest.mark.usefixtures("without_values")
def test_ssdlite_counts(row):
    name, classes = row
    counts = complexity.counts(create_model(f"ssdlite_{name}", classes=classes))
    parameters, macs = SSDLITE[row]
    assert counts["params_trainable"] == parameters
    if macs:
        assert counts["macs"] == macs
    else:
        assert round(counts["macs"] / 1e9, 3) == BILLIONS[row]


@pytest.mark.slow
@pytest.mark.usefixtures("without_values")
def test_ssd_counts():
    """Table 5 of arXiv 1801.04381: the head alone."""
    head = complexity.counts(create_model("ssd_mobilenet_v2"))
    body = complexity.counts(create_model("mobilenet_v2", include_top=False, resolution=320))
    assert head["params_trainable"] - body["params_trainable"] == 14776629
    assert head["macs"] - body["macs"] == 1259068672


@pytest.mark.slow
@pytest.mark.parametrize("size", MOBILEVIT_V3)
@pytest.mark.usefixtures("without_values")
def test_mobilevit_v3_has_the_layout_of_cvnets(size):
    counts = complexity.counts(create_model(f"ssdlite_mobilevit_v3_{size}"))
    millions = (counts["params_trainable"] + CVNETS_ANCHORS) / 1e6
    assert abs(millions - MOBILEVIT_V3[size]) < 0.1  # the README rounds some and cuts others


# ----------------------------------------------------------------------------------------------------- anchors
def tensorflow_anchors(grids):
    """create_ssd_anchors of TensorFlow's object detection API, written out."""
    count = len(grids)
    scales = [0.2 + (0.95 - 0.2) * i / (count - 1) for i in range(count)] + [1.0]
    anchors = []
    for layer, (rows, columns) in enumerate(grids):
        if layer == 0:
            specs = [(0.1, 1.0), (scales[0], 2.0), (scales[0], 0.5)]
        else:
            specs = [(scales[layer], aspect) for aspect in (1.0, 2.0, 1 / 2, 3.0, 1 / 3)]
            specs.append((math.sqrt(scales[layer] * scales[layer + 1]), 1.0))
        for row in range(rows):
            for column in range(columns):
                for scale, aspect in specs:
                    root = math.sqrt(aspect)
                    anchors.append([(row + 0.5) / rows, (column + 0.5) / columns, scale / root, scale * root])
    return anchors


def test_anchors_are_tensorflows():
    grids = ((19, 19), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1))  # of SSD at 300x300
    anchors = ssd_anchors(grids)
    assert anchors.shape == (1917, 4) and anchors.dtype == np.float32  # as every SSD MobileNet of the zoo has
    np.testing.assert_allclose(anchors, tensorflow_anchors(grids), rtol=1e-6)
    oblong = ((4, 6), (2, 3))
    np.testing.assert_allclose(ssd_anchors(oblong), tensorflow_anchors(oblong), rtol=1e-6)


# ----------------------------------------------------------------------------------------------------- outputs
def fill(model):
    """Weights that are none of them trivial, the same for a layer of the same name."""
    for layer in model.layers:
        for variable in layer.weights:
            if not layer.name.endswith("_classifier"):
                variable.assign(generated(f"{layer.name}.{variable.name}", tuple(variable.shape)))
    return model


@pytest.fixture(scope="module")
def small():
    return fill(create_model("ssdlite_mobilenet_v1", alpha=0.25, resolution=96, classes=3))


def test_outputs_are_in_the_anchors_order(small):
    grids = ssd.grids(small)
    assert grids == ((6, 6), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1))
    anchors = ssd_anchors(grids)
    pictures = np.random.default_rng(0).normal(size=(2, 96, 96, 3)).astype(np.float32)
    levels = [small.get_layer(f"ssd_level{level}_boxes").output for level in range(1, 7)]
    maps = keras.Model(small.input, levels)(pictures, training=False)
    boxes, scores = small(pictures, training=False)
    assert small.output_names == ["boxes", "scores"]
    assert boxes.shape == (2, len(anchors), 4) and scores.shape == (2, len(anchors), 4)
    # The prediction for anchor ``a`` of a place is four channels of the map, at the place that the anchor's centre is.
    counts = [rows * columns * each for (rows, columns), each in zip(grids, ssd.ANCHORS, strict=True)]
    for index in (0, 1, 7, 50, 107, 108, 113, 140, 161, 162, 185, 186, 200, 203):
        level = int(np.searchsorted(np.cumsum(counts), index, side="right"))
        rows, columns = grids[level]
        row, column = int(anchors[index, 0] * rows), int(anchors[index, 1] * columns)
        anchor = (index - sum(counts[:level])) % ssd.ANCHORS[level]
        found = np.asarray(maps[level])[:, row, column, 4 * anchor : 4 * anchor + 4]
        np.testing.assert_array_equal(np.asarray(boxes)[:, index], found)


def test_scores_start_rare(small):
    for level, each in enumerate(ssd.ANCHORS, 1):
        bias = np.asarray(small.get_layer(f"ssd_level{level}_classifier").bias)
        np.testing.assert_allclose(1 / (1 + np.exp(-bias)), np.full(each * 4, 0.01), rtol=1e-5)


# ----------------------------------------------------------------------------------------------------- weights
def layers_that_differ(first, second):
    return {
        layer.name
        for layer in first.layers
        for ours, theirs in zip(layer.get_weights(), second.get_layer(layer.name).get_weights(), strict=True)
        if not np.array_equal(ours, theirs)
    }


@pytest.mark.slow
def test_a_whole_detector_comes_back(small, tmp_path):
    small.save(tmp_path / "detector.keras")
    options = {"alpha": 0.25, "resolution": 96}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = create_model("ssdlite_mobilenet_v1", classes=3, weights=tmp_path / "detector.keras", **options)
    assert not layers_that_differ(small, again)
    with pytest.raises(RequestError, match="does not fit ssd_mobilenet_v1"):
        create_model("ssd_mobilenet_v1", classes=3, weights=tmp_path / "detector.keras", **options)


def test_with_other_classes_what_depends_on_them_is_fresh(small, tmp_path):
    small.save_weights(tmp_path / "detector.weights.h5")
    with pytest.warns(UserWarning, match="other classes.*: ssd_level1_classifier, .*_level6_classifier have random"):
        other = create_model(
            "ssdlite_mobilenet_v1", alpha=0.25, resolution=96, classes=5, weights=tmp_path / "detector.weights.h5"
        )
    fresh = {f"ssd_level{level}_classifier" for level in range(1, 7)}
    assert layers_that_differ(small, other) == fresh and all(map(is_head, fresh))


def test_a_classifiers_weights_go_to_the_backbone(tmp_path):
    """With a reduced tail that part is fresh; but the first block's expansion, which the finest map is, fits."""
    classifier = fill(create_model("mobilenet_v3_small", resolution=96, classes=4))
    classifier.save(tmp_path / "classifier.keras")
    with pytest.warns(UserWarning, match="not as wide as .* from stage5_block1_project_conv on: .* random"):
        detector = create_model(
            "ssdlite_mobilenet_v3_small_reduced", resolution=96, classes=3, weights=tmp_path / "classifier.keras"
        )
    kept = {"stem", "stage1", "stage2", "stage3", "stage4"}
    body = [layer for layer in detector.layers if layer.weights and layer.name.partition("_")[0] in kept]
    assert len(body) > 50
    for layer in [*body, detector.get_layer("stage5_block1_expand_conv")]:
        for ours, theirs in zip(layer.weights, classifier.get_layer(layer.name).weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert list(features(detector)) == [2, 4, 8, 16, 32]


@pytest.mark.parametrize(
    ("wrong", "quoted"),
    [
        ({"name": "ssdlite_mobilenet_v9"}, "Did you mean 'ssdlite_mobilenet_v"),
        ({"name": "ssdlite_mobilenet_v2", "classes": 0}, "classes=0"),
        ({"name": "ssdlite_mobilenet_v2", "pooling": "avg"}, "pooling='avg' is for the top of a classifier"),
        ({"name": "ssdlite_mobilenet_v2", "include_top": True}, "include_top=True"),
        ({"name": "ssdlite_mobilenet_v2", "input_shape": (None, 320, 3)}, "(None, 320, 3)"),
        ({"name": "ssdlite_mobilenet_v2", "backbone": "ssd_mobilenet_v1"}, "such as 'mobilenet_v1'"),
        ({"name": "ssdlite_mobilenet_v3_small", "reduced_tail": True, "weights": "nowhere.keras"}, "nowhere.keras"),
        ({"name": "ssdlite_efficientnet_lite0", "reduced_tail": True}, "reduced_tail"),
        ({"name": "ssdlite_efficientnet_lite0", "alpha": 0.5}, "no width multiplier"),
    ],
)
def test_wrong_requests_are_quoted(wrong, quoted):
    with pytest.raises(RequestError) as caught:
        create_model(**wrong)
    assert quoted in str(caught.value)
