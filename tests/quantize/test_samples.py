"""Samples of one and of several inputs, in every form in which people hold them."""

import numpy as np
import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.quantize.samples import count_of, samples_of

SHAPES = {"a": (1, 8), "b": (1, 4)}
A, B = (np.random.default_rng(0).normal(size=(20, size)).astype("float32") for size in (8, 4))
LABELS = np.zeros(20)
PAIRS = list(zip(A, B, strict=True))


class Sequence:
    """As a ``keras.utils.PyDataset``: it has a length, and gives something at any index."""

    def __len__(self):
        return 2

    def __getitem__(self, place):
        half = slice(10 * (place % 2), 10 * (place % 2) + 10)
        return {"a": A[half], "b": B[half]}, LABELS[half]


def datasets():
    import tensorflow as tf

    dicts = tf.data.Dataset.from_tensor_slices({"a": A, "b": B})
    return {
        "tf.data of dicts": dicts,
        "tf.data, batched": dicts.batch(7),
        "tf.data of tuples": tf.data.Dataset.from_tensor_slices((A, B)),
        "tf.data with labels": tf.data.Dataset.from_tensor_slices(({"a": A, "b": B}, LABELS)),
        "tf.data of tuples with labels, batched": tf.data.Dataset.from_tensor_slices(((A, B), LABELS)).batch(7),
    }


FORMS = {
    "list of dicts": [{"a": x, "b": y} for x, y in PAIRS],
    "list of tuples": PAIRS,
    "lists of numbers": [(x.tolist(), y.tolist()) for x, y in PAIRS],
    "list of lists": [list(pair) for pair in PAIRS],
    "list of pairs with labels": [(pair, 0) for pair in PAIRS],
    "loader's batches with labels": [[A[:10], B[:10], LABELS[:10]], [A[10:], B[10:], LABELS[10:]]],
    "dict of arrays": {"b": B, "a": A, "other": LABELS},
    "tuple of arrays": (A, B),
    "list of arrays": [A, B],
    "arrays and labels": ((A, B), LABELS),
    "dict, labels and weights": ({"a": A, "b": B}, LABELS, LABELS),
    "tuple of samples": tuple(PAIRS),
    "representative_dataset": lambda: ([x[None], y[None]] for x, y in PAIRS),
    "its generator": ([x[None], y[None]] for x, y in PAIRS),
    "sequence": Sequence(),
}


def read(data, shapes=SHAPES):
    return [np.stack(arrays) for arrays in zip(*samples_of(data, shapes), strict=True)]


@pytest.mark.parametrize("form", FORMS)
def test_two_inputs_are_read_in_every_form(form):
    a, b = read(FORMS[form])
    assert np.array_equal(a, A) and np.array_equal(b, B)


def test_two_inputs_are_read_from_datasets():
    for name, dataset in datasets().items():
        a, b = read(dataset)
        assert np.array_equal(a, A) and np.array_equal(b, B), name


@pytest.mark.parametrize(
    "data",
    [
        A, list(A), A[:, None], (A, LABELS), (A[:8], LABELS[:8]), [(x, 0) for x in A], [[x[None]] for x in A],
        tuple(A), {"a": A}, iter(A), [A[:10], A[10:]], lambda: iter(A),
    ],
)  # fmt: skip
def test_one_input_is_read_in_every_form(data):
    (a,) = read(data, {"a": (1, 8)})
    assert np.array_equal(a, A[: len(a)]) and len(a) in (8, 20)


def test_inputs_of_one_shape_are_told_apart_by_their_order_and_names():
    shapes = {"z": (1, 4), "a": (1, 4)}
    for data in ((B, -B), {"a": -B, "z": B}, [{"a": -y, "z": y} for y in B], [(y, -y) for y in B]):
        z, a = read(data, shapes)
        assert np.array_equal(z, B) and np.array_equal(a, -B)


def test_an_axis_of_one_may_be_missing_as_in_keras():
    for data in (A[:, 0], list(A[:, 0]), A[:, :1], A[:, :1].tolist()):
        assert np.array_equal(read(data, {"a": (1, 1)})[0], A[:, :1])
    (grey,) = read(A.reshape(5, 8, 4), {"image": (1, 8, 4, 1)})
    assert grey.shape == (5, 8, 4, 1)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ([{"a": A[0]}], "A sample has no 'b'; it has 'a'"),
        (iter(A), r"A sample is shape \(8,\); the model has 2 inputs: 'a' \(8,\), 'b' \(4,\). Give a dict"),
        ((B, A), r"A sample for 'a' has shape \(20, 4\); the model takes \(8,\)"),
        ((A, B[:7]), "different numbers of samples: 20 of 'a', 7 of 'b'"),
        ([(["x"], ["y"])], "'a' has a list of 1; the model takes"),
        ([[[1.0]]], "A sample is a list of 1; the model has 2 inputs"),
        (3, "A int holds no samples"),
        ([None], "A sample is a NoneType"),
    ],
)
def test_other_forms_are_described(data, told):
    with pytest.raises(RequestError, match=told):
        read(data)


def test_endless_data_are_refused_and_unknown_lengths_are_not():
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(A)
    assert (count_of(dataset), count_of(dataset.filter(lambda _: True)), count_of({"a": A})) == (20, None, None)
    with pytest.raises(RequestError, match=r"never end.*data\.take\(500\)"):
        count_of(dataset.repeat())
