"""The kind of each output, and what is compared of it."""

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf import RequestError
from mobilenets_tf.tasks.fidelity import OutputTally
from mobilenets_tf.tasks.outputs import (
    BINARY,
    BINARY_LOGIT,
    CLASSES,
    EMBEDDING,
    MULTI_LABEL,
    UNDECIDED,
    VALUES,
    End,
    answer_place,
    decided,
    ends_of_file,
    ends_of_model,
)
from tests.support import colour_files


def ended_in(*ends):
    """A model whose outputs are layers on a pooled image."""
    image = keras.Input((8, 8, 3))
    pooled = layers.GlobalAveragePooling2D()(image)
    outputs = [end(pooled) for end in ends]
    return keras.Model(image, outputs[0] if len(outputs) == 1 else outputs)


SOFTMAX = keras.Sequential([layers.Dense(3), layers.Softmax(), layers.Dropout(0.1)])


@pytest.mark.parametrize(
    ("end", "kind", "of_a_classifier"),
    [
        (layers.Dense(3, activation="softmax"), CLASSES, CLASSES),
        (SOFTMAX, CLASSES, CLASSES),
        (layers.Dense(1, activation="sigmoid"), BINARY, BINARY),
        (layers.Dense(3, activation="sigmoid"), MULTI_LABEL, MULTI_LABEL),
        (layers.Dense(3), UNDECIDED, CLASSES),
        (layers.Dense(1), UNDECIDED, BINARY_LOGIT),
        (layers.Dense(3, activation="tanh"), VALUES, CLASSES),
        (layers.UnitNormalization(), EMBEDDING, CLASSES),
        (layers.Identity(), EMBEDDING, CLASSES),  # features, as they are pooled
        (layers.Rescaling(255.0), UNDECIDED, CLASSES),
    ],
)
def test_shape_and_last_activation_decide(end, kind, of_a_classifier):
    ends = ends_of_model(ended_in(end))
    assert decided(ends) == (kind,)
    assert decided(ends, classifies=True) == (of_a_classifier,)


def test_a_file_shows_what_its_model_shows(float_file):
    heads = [
        layers.Dense(3, activation="softmax"), layers.Dense(1, activation="sigmoid"), layers.Dense(4),
        layers.UnitNormalization(), layers.Dense(4, activation="relu"),
    ]  # fmt: skip
    model = ended_in(*heads)
    kinds = decided(ends_of_model(model))
    assert kinds == (CLASSES, BINARY, UNDECIDED, EMBEDDING, VALUES)
    found = ends_of_file(float_file(model))
    assert [(end.name, end.shape) for end in found] == [(end.name, end.shape) for end in ends_of_model(model)]
    # TFLite has no operator of its own for the norm in Keras; what divides may be anything.
    assert decided(found)[:3] == kinds[:3] and decided(found)[4] is VALUES
    assert decided(ends_of_file(colour_files.classifier()), classifies=True) == (CLASSES,)


def test_of_several_outputs_one_names_the_class():
    ends = [End("box", (4,)), End("logits", (3,)), End("map", (8, 8, 3), "softmax")]
    assert answer_place(ends, decided(ends)) is None  # a map of classes is no class of the image
    for classes, place in ((None, 0), (3, 1)):
        kinds = decided(ends, True, classes)
        assert answer_place(ends, kinds) == place and kinds[place] is CLASSES and kinds[1 - place] is UNDECIDED
    ends = [End("box", (4,)), End("alive", (1,), "sigmoid")]
    assert decided(ends, True, 2) == (UNDECIDED, BINARY) and answer_place(ends, decided(ends)) == 1


def test_outputs_of_a_dict_have_the_names_of_their_keys():
    image = keras.Input((8, 8, 3))
    pooled = layers.GlobalAveragePooling2D()(image)
    model = keras.Model(image, {"share": layers.Dense(1)(pooled), "colour": layers.Dense(3, name="x")(pooled)})
    assert [(end.name, end.shape) for end in ends_of_model(model)] == [("colour", (3,)), ("share", (1,))]


def tallied(kind, reference, candidate):
    reference, candidate = (np.asarray(each, np.float32) for each in (reference, candidate))
    tally = OutputTally(End("out", reference.shape[1:]), kind)
    for one, other in zip(reference, candidate, strict=True):
        tally.add(one[None], other[None])
    return tally.result()


def test_logits_are_cut_at_0_and_probabilities_at_one_half():
    logits = np.float32([[-2.0], [0.2], [0.4], [3.0]])
    nearer = logits - 0.3  # the second is below 0 now; all but the last are below 0.5 in both
    assert tallied(BINARY_LOGIT, logits, nearer).agreement == 0.75
    assert tallied(BINARY, logits, nearer).agreement == 1
    assert BINARY_LOGIT.scores(logits).argmax(-1).tolist() == [0, 1, 1, 1]
    assert BINARY.scores(np.float32([[0.5], [0.51]])).argmax(-1).tolist() == [0, 1]


def test_an_element_of_small_scale_is_not_lost_in_one_of_large_scale():
    random = np.random.default_rng(0)
    reference = np.c_[random.uniform(0, 255, (200, 3)), random.uniform(0, 1, 200)]
    candidate = reference.round()  # one scale of 256 steps for all: two levels for the share
    found = tallied(VALUES, reference, candidate)
    worst = found.elements[0]
    assert (worst.index, found.element_count, found.coarse) == (3, 4, (3,))
    assert worst.spread == pytest.approx(reference[:, 3].std(), rel=1e-5)
    error = np.sqrt(np.square(reference[:, 3] - candidate[:, 3]).mean())
    assert worst.error == pytest.approx(error, rel=1e-5)
    assert worst.r2 == pytest.approx(1 - (error / reference[:, 3].std()) ** 2, rel=1e-4)
    assert found.agreement == max(0, worst.r2) < 0.1
    assert worst.levels == pytest.approx(1, abs=0.05) and "Dense" in found.advice()
    # The colours alone are faithful, and need no advice.
    colours = tallied(VALUES, reference[:, :3], candidate[:, :3])
    assert colours.agreement > 0.999 and colours.advice() is None
    # Nor do the scores of classes: one that is never there is small.
    assert tallied(CLASSES, reference, candidate).advice() is None


def test_undecided_outputs_are_judged_as_classes_and_as_values():
    random = np.random.default_rng(0)
    logits = random.normal(size=(100, 3))
    swapped = logits.copy()
    swapped[:20] = swapped[:20, ::-1]
    as_classes, both = (tallied(kind, logits, swapped).agreement for kind in (CLASSES, UNDECIDED))
    assert as_classes > both == tallied(VALUES, logits, swapped).agreement
    near = np.zeros((100, 2)) + random.normal(size=(100, 1)) * 9 + random.normal(size=(100, 2)) * 1e-3
    other = near + random.normal(size=(100, 2)) * 1e-2
    assert tallied(VALUES, near, other).agreement > 0.99 > 0.8 > tallied(UNDECIDED, near, other).agreement


def test_embeddings_are_compared_by_the_cosine():
    random = np.random.default_rng(0)
    embedding = random.normal(size=(50, 16))
    assert tallied(EMBEDDING, embedding, 3 * embedding).agreement == pytest.approx(1)
    turned = embedding + random.normal(size=embedding.shape)
    norms = np.linalg.norm(embedding, axis=1) * np.linalg.norm(turned, axis=1)
    expected = ((embedding * turned).sum(1) / norms).mean()
    assert tallied(EMBEDDING, embedding, turned).agreement == pytest.approx(expected, rel=1e-5)
    assert tallied(EMBEDDING, np.zeros((3, 4)), np.zeros((3, 4))).agreement == 1


def test_every_place_of_a_map_counts():
    reference = np.zeros((2, 4, 4, 3), np.float32)
    reference[..., 1] = 1
    candidate = reference.copy()
    candidate[0, :2, :, 2] = 2  # 8 of 32 places
    assert tallied(CLASSES, reference, candidate).agreement == 0.75


def test_elements_that_do_not_move():
    still = np.tile(np.float32([[5, 0]]), (4, 1))
    found = tallied(VALUES, still, still)
    assert found.constant and found.agreement == 1
    assert tallied(VALUES, still, still + np.float32([0.05, 0])).agreement == pytest.approx(1 - 1e-4)
    assert tallied(VALUES, still, still + np.float32([0, 5])).agreement == 0
    moving = still + np.arange(4)[:, None]
    assert not tallied(VALUES, moving, moving).constant


def test_sums_over_single_images_are_those_over_all():
    random = np.random.default_rng(0)
    reference, candidate = random.normal(1e4, 1, (64, 5)), random.normal(1e4, 1, (64, 5))
    tally = OutputTally(End("out", (5,)), VALUES)
    tally.add(reference, candidate)
    whole, single = tally.result(), tallied(VALUES, reference.astype(np.float64), candidate)
    spreads = [[each.spread for each in found.elements] for found in (whole, single)]
    assert spreads[0] == pytest.approx(spreads[1], rel=1e-3)
    assert max(each.spread for each in whole.elements) == pytest.approx(reference.std(0).max())


def test_what_is_no_number_or_has_another_shape_is_refused():
    tally = OutputTally(End("out", (2,)), VALUES)
    with pytest.raises(RequestError, match="There are no images"):
        tally.result()
    with pytest.raises(RequestError, match="file gives NaN or infinite values on 1 of 1"):
        tally.add(np.ones((1, 2)), np.full((1, 2), np.nan))
    with pytest.raises(RequestError, match=r"\(2,\).*\(3,\)"):
        tally.add(np.ones((1, 2)), np.ones((1, 3)))
