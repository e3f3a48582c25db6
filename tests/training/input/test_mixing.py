"""Erasing, mixup and CutMix of batches: that pixels and targets are mixed in the same shares, by the seed alone."""

import numpy as np
import pytest
import tensorflow as tf

from mobilenets_tf.training.input.mixing import mixed
from mobilenets_tf.training.recipes import Augment

MIXUP, CUTMIX, ERASE = Augment(mixup=0.2), Augment(cutmix=1.0), Augment(erase=0.25)
ALL = Augment(mixup=0.2, cutmix=1.0, erase=0.25)


def batch(n, height=11, width=11):
    """Image i is i + 1 everywhere, so that its pixels say whose they are; its target is its own class."""
    pixels = np.broadcast_to(np.arange(1, n + 1, dtype=np.float32)[:, None, None, None], (n, height, width, 3))
    return tf.constant(pixels), tf.eye(n)


def run(augment, n, seed=0, **size):
    pixels, targets = mixed(*batch(n, **size), augment, tf.constant([seed, 1]))
    return pixels.numpy(), targets.numpy()


def test_nothing_to_do_returns_the_same_tensors():
    pixels, targets = batch(3)
    result = mixed(pixels, targets, Augment(), tf.constant([1, 2]))
    assert result[0] is pixels and result[1] is targets


def test_mixup_mixes_pixels_as_it_mixes_targets():
    pixels, targets = run(MIXUP, 64)
    assert np.allclose(targets.sum(1), 1, atol=1e-6)
    assert np.allclose(pixels, (targets @ np.arange(1, 65))[:, None, None, None], rtol=1e-5)
    own = np.diag(targets)
    assert ((own > 1e-3) & (own < 0.999)).sum() > 20
    assert (targets > 0).sum(1).max() == 2


def test_mixups_shares_are_of_the_beta_distribution():
    # An image may be its own partner, and then has all of itself: one of 512 on average.
    shares = np.concatenate([np.diag(run(MIXUP, 512, seed, height=1, width=1)[1]) for seed in range(8)])
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), rel=0.05)


@pytest.mark.parametrize("size", [{}, {"height": 7, "width": 20}, {"height": 1, "width": 1}])
def test_cutmix_labels_have_the_share_of_pixels_that_was_pasted(size):
    pixels, targets = run(CUTMIX, 48, **size)
    for image, target in zip(pixels, targets, strict=True):
        owners = np.array([(image == owner).mean() for owner in range(1, 49)])
        assert np.allclose(owners, target, atol=1e-6)
        assert target.sum() == pytest.approx(1, abs=1e-6)


def test_cutmix_pastes_one_rectangle_that_the_border_may_cut():
    pixels, _ = run(CUTMIX, 256, height=20, width=16)
    own = np.arange(1, 257)[:, None, None]
    pasted = pixels[..., 0] != own
    assert (pixels == pixels[..., :1]).all()
    touching, areas = 0, []
    for mask in pasted:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        areas.append(mask.mean())
        if len(rows):
            assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            touching += rows[0] == 0 or columns[0] == 0 or rows[-1] == 19 or columns[-1] == 15
    assert touching > 100
    # Uniform shares, less what is cut off: the paper's code gives 0.28 on average.
    assert np.mean(areas) == pytest.approx(reference_share(20, 16), abs=0.04)


def reference_share(height, width, draws=20_000):
    """The mean share that the paper's algorithm pastes, in NumPy."""
    random = np.random.default_rng(0)
    cut = np.sqrt(1 - random.beta(1, 1, draws))
    share = 1.0
    for length in (height, width):
        half, centre = (length * cut).astype(int) // 2, random.integers(length, size=draws)
        share = share * (np.clip(centre + half, 0, length) - np.clip(centre - half, 0, length)) / length
    return share.mean()


def test_erasing_blackens_one_rectangle_in_the_given_share_of_images():
    pixels, targets = run(ERASE, 1200, height=60, width=60)
    assert np.array_equal(targets, np.eye(1200))
    assert (pixels == pixels[..., :1]).all()
    black = pixels[..., 0] == 0
    assert np.array_equal(pixels[..., 0], np.where(black, 0, np.arange(1, 1201)[:, None, None]))
    struck = black.any((1, 2))
    assert 0.2 < struck.mean() < 0.3
    areas, aspects = [], []
    for mask in black[struck]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        areas.append(mask.mean())
        aspects.append(len(columns) / len(rows))
    assert 0.017 < min(areas) < 0.03 and 0.31 < max(areas) < 0.345
    assert np.mean(areas) == pytest.approx(0.175, abs=0.015)
    assert 0.25 < min(aspects) < 0.4 and 2.5 < max(aspects) < 4
    assert np.log(aspects).mean() == pytest.approx(0, abs=0.12)


def test_erasing_every_image_and_of_every_size():
    for height, width in ((1, 1), (2, 9), (33, 31)):
        pixels, _ = run(Augment(erase=1.0), 50, height=height, width=width)
        assert (pixels == 0).any((1, 2, 3)).all()


def test_each_batch_gets_mixup_or_cutmix_with_equal_chance():
    both = Augment(mixup=0.2, cutmix=1.0)
    pixels, targets = batch(16)
    cut = 0
    function = tf.function(lambda seed: mixed(pixels, targets, both, seed))
    for seed in range(100):
        result = function(tf.constant([seed, 0]))[0].numpy()
        whole = np.isclose(result, np.round(result), atol=1e-6).all()
        uniform = (result == result[:, :1, :1]).all()
        assert whole or uniform
        cut += not uniform
    assert 30 < cut < 70


@pytest.mark.parametrize(
    ("augment", "dtype"),
    [(MIXUP, "int32"), (CUTMIX, "int32"), (ERASE, "int32"), (ALL, "int32"), (ALL, "int64")],
    ids=["mixup", "cutmix", "erase", "all", "all-int64"],
)
def test_a_seed_gives_the_same_inside_a_graph_and_outside_and_another_seed_another(augment, dtype):
    pixels, targets = batch(8)
    seed = tf.constant([5, 9], dtype)
    result = mixed(pixels, targets, augment, seed)
    signatures = (
        [tf.TensorSpec((8, 11, 11, 3)), tf.TensorSpec((8, 8))],
        [tf.TensorSpec((None, 11, 11, 3)), tf.TensorSpec((None, 8))],
        [tf.TensorSpec((None, None, None, 3)), tf.TensorSpec((None, None))],
    )
    for signature in signatures:
        function = tf.function(lambda p, t, s: mixed(p, t, augment, s)).get_concrete_function(
            *signature, tf.TensorSpec((2,), dtype)
        )
        assert [output.shape.as_list() for output in function.outputs] == [s.shape.as_list() for s in signature]
        for _ in range(2):  # no state is left behind
            again = function(pixels, targets, seed)
            assert all(np.array_equal(a, b) for a, b in zip(again, result, strict=True))
    others = [mixed(pixels, targets, augment, tf.constant([5, other], dtype)) for other in range(5)]
    assert len({(p.numpy().tobytes(), t.numpy().tobytes()) for p, t in [result, *others]}) > 3


def test_it_works_in_a_tf_data_pipeline_whatever_keras_precision_is():
    import keras

    pixels, targets = batch(8)
    expected = mixed(pixels, targets, ALL, tf.constant([2, 3]))
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        data = tf.data.Dataset.from_tensors((pixels, targets)).repeat(3)
        data = data.map(lambda p, t: mixed(p, t, ALL, tf.constant([2, 3])), num_parallel_calls=2)
        results = list(data)
    finally:
        keras.config.set_dtype_policy(before)
    for result in results:
        assert all(a.dtype == tf.float32 and np.array_equal(a, b) for a, b in zip(result, expected, strict=True))


@pytest.mark.parametrize("augment", [MIXUP, CUTMIX, ALL], ids=["mixup", "cutmix", "all"])
def test_a_batch_of_one_keeps_its_target(augment):
    for seed in range(5):
        pixels, targets = run(augment, 1, seed, height=9, width=5)
        assert np.allclose(targets, 1)
        assert np.isclose(pixels, 1).all() or augment.erase
