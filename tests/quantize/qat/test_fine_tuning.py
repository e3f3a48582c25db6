"""The loop of quantisation-aware fine-tuning: what it keeps, how it stops, and how it goes on."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import layers

from mobilenets_tf import RequestError, files
from mobilenets_tf.quantize import Recipe, fine_tune, quantize_aware
from mobilenets_tf.quantize.qat.live_norms import LiveNorm
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.training.checkpoints import of_fine_tuning
from tests.conftest import photographs

CLASSES = 4
NO_GAIN = pytest.mark.filterwarnings("ignore:Fine-tuning gained nothing")


@pytest.fixture(scope="module")
def aware():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, strides=2, activation="relu6")(inputs)
    x = layers.Conv2D(16, 3, strides=2, activation="relu6")(x)
    outputs = layers.Dense(CLASSES, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return quantize_aware(keras.Model(inputs, outputs), photographs(100, 32))


@pytest.fixture
def fresh(aware):
    """The aware model as it was before any test trained it."""
    before = aware.model.get_weights()
    yield aware
    aware.model.set_weights(before)


def batches(count, seed=0):
    """Pictures in bright and dark, a class each level; always in the same order."""
    labels = np.arange(count) % CLASSES
    pictures = 0.3 * photographs(count, 32, seed) + (labels / 2 - 0.75)[:, None, None, None]
    return tf.data.Dataset.from_tensor_slices((pictures.astype(np.float32), labels)).batch(8)


def test_training_learns_and_keeps_the_best_epoch_and_says_what_was_gained(fresh):
    found = fine_tune(fresh, batches(64), batches(32, 1), epochs=6, learning_rate=1e-2)
    assert max(found.accuracies) > found.accuracies[0]
    assert found.accuracies[found.best_epoch] == max(found.accuracies)
    _, accuracy = fresh.model.evaluate(batches(32, 1), verbose=0)
    assert accuracy == max(found.accuracies)
    assert found.gained == (max(found.accuracies) > found.post_training) and "gained: " in found.outcome
    assert f"the weights of epoch {found.best_epoch} of {len(found.accuracies) - 1}" in found.outcome


def test_a_loss_warns_of_the_post_training_file_which_is_judged_as_the_model_is(fresh):
    pictures, given = photographs(4, 32), []
    scores = iter([0.59, 0.57, 0.61])  # before training, after an epoch, and of the file of post-training

    def judge(model):
        given.append(np.asarray(model(pictures)).squeeze())
        return next(scores)

    with pytest.warns(
        match="gained nothing: 59.0% with the weights before training, which the one epoch did not .* 61.0%"
    ):
        worse = fine_tune(fresh, batches(8), judge, epochs=1)
    assert not worse.gained and (worse.best_epoch, worse.post_training) == (0, 0.61)
    runner = Runner(fresh.post_training)
    np.testing.assert_array_equal(given[-1], np.concatenate([runner(picture)[0] for picture in pictures]))


@NO_GAIN
@pytest.mark.slow
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(fresh, tmp_path):
    before = fresh.model.get_weights()
    options = {"epochs": 4, "learning_rate": 1e-3, "patience": 4}
    unbroken = fine_tune(fresh, batches(64), batches(32, 1), **options)
    wanted = fresh.model.get_weights()

    def power_cut(label, done, total):
        if (label, done) == ("epoch 3/4", 5):  # of eight steps
            raise KeyboardInterrupt

    fresh.model.set_weights(before)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(fresh, batches(64), batches(32, 1), checkpoint=tmp_path / "state", progress=power_cut, **options)
    fresh.model.set_weights(before)  # as in a new process
    steps = []
    resumed = fine_tune(
        fresh, batches(64), batches(32, 1), checkpoint=tmp_path / "state",
        progress=lambda label, done, total: steps.append((label, done)), **options,
    )  # fmt: skip
    assert steps[0] == ("epoch 3/4", 0) and len(steps) == 18  # the first two epochs are not trained again
    assert resumed == unbroken
    for found, value in zip(fresh.model.get_weights(), wanted, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-5)
    assert not any((tmp_path / "state").iterdir())
    again = fine_tune(fresh, batches(64), batches(32, 1), epochs=1)  # the model can be trained on
    assert len(again.accuracies) == 2


def test_a_loss_that_is_not_finite_ends_the_training_with_a_remedy(fresh):
    broken = batches(64).map(lambda pictures, labels: (pictures * np.nan, labels))
    with pytest.raises(RequestError, match="loss became nan at step 1 of 8, in epoch 1, .* a tenth of it"):
        fine_tune(fresh, broken, batches(32, 1), epochs=1)


@pytest.mark.parametrize("option, value", [("epochs", 0), ("patience", 0), ("learning_rate", 0.0)])
def test_options_out_of_range_are_refused(fresh, option, value):
    with pytest.raises(RequestError, match=f"{option}={value}"):
        fine_tune(fresh, batches(8), batches(8), **{option: value})


def test_no_training_data_is_refused(fresh):
    with pytest.raises(RequestError, match="training data is empty"):
        fine_tune(fresh, batches(8).take(0), batches(8))


@pytest.fixture(
    scope="module", params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["per channel", "per tensor"]
)
def normalized(request):
    """With the layers that BatchNormalization is folded into: a convolution and a depthwise one."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, strides=2, use_bias=False)(inputs)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.DepthwiseConv2D(3, use_bias=False)(x)))
    outputs = layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x))
    recipe = Recipe(per_tensor=request.param)
    return quantize_aware(keras.Model(inputs, outputs), photographs(100, 32), recipe=recipe)


def test_keras_3_compiles_the_model(fresh):
    """The same training as with the optimizer, loss and metrics of tf_keras."""
    before, weights = fresh.model.get_weights(), []
    rate = keras.optimizers.schedules.CosineDecay(1e-2, 8)
    for kind, schedule in ((keras, rate), (tf_keras, tf_keras.optimizers.schedules.CosineDecay(1e-2, 8))):
        fresh.model.set_weights(before)
        loss = kind.losses.SparseCategoricalCrossentropy()
        metrics = [kind.metrics.SparseCategoricalAccuracy(name="right"), "accuracy"]
        fresh.model.compile(kind.optimizers.SGD(schedule, momentum=0.9, clipnorm=1.0), loss, metrics)
        course = fresh.model.fit(batches(32), epochs=2, verbose=0, shuffle=False)
        assert course.history["right"] == course.history["accuracy"]
        weights.append(fresh.model.get_weights())
    assert any(np.abs(one - other).max() > 0 for one, other in zip(before, weights[0], strict=True))
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "optimizer, said",
    [
        (lambda: keras.optimizers.Muon(), "which has no Muon among its optimizers.* keras.optimizers.Adam"),
        (lambda: keras.optimizers.Adam(gradient_accumulation_steps=2), "no Adam with gradient_accumulation_steps"),
    ],
)
def test_an_optimizer_that_tf_keras_does_not_have_is_refused(fresh, optimizer, said):
    with pytest.raises(RequestError, match=said):
        fresh.model.compile(optimizer())


@pytest.fixture(scope="module")
def two_outputs():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, strides=4, activation="relu6")(inputs))
    return quantize_aware(keras.Model(inputs, [layers.Dense(CLASSES)(x), layers.Dense(2)(x)]), photographs(100, 32))


@pytest.fixture
def fresh_two(two_outputs):
    before = two_outputs.model.get_weights()
    yield two_outputs
    two_outputs.model.set_weights(before)


def test_outputs_without_targets_stay_as_they_are(fresh_two):
    pictures = next(iter(batches(64)))[0]
    wanted = np.asarray(fresh_two.float_model(pictures)[1])
    found = fine_tune(fresh_two, batches(64), batches(32, 1), epochs=6, learning_rate=1e-2)
    assert found.gained
    off = np.asarray(fresh_two.model(pictures)[1]) - wanted
    assert np.square(off).mean() < 0.3 * wanted.var()


@NO_GAIN
def test_each_output_learns_its_targets(fresh_two):
    both = [data.map(lambda pictures, labels: (pictures, (labels, labels // 2))) for data in (batches(64), batches(32))]
    found = fine_tune(fresh_two, *both, epochs=6, learning_rate=1e-2)
    assert found.accuracies[found.best_epoch] > found.accuracies[0]
    three = batches(8).map(lambda pictures, labels: (pictures, (labels,) * 3))
    with pytest.raises(RequestError, match="targets for 3 outputs; the model has 2"):
        fine_tune(fresh_two, three, three)
    beyond = batches(8).map(lambda pictures, labels: (pictures, labels + 1))
    with pytest.raises(RequestError, match="Class 4 among the targets; the output has 4 classes"):
        fine_tune(fresh_two, batches(8), beyond)


def answers(aware, pictures):
    runner = Runner(aware.to_tflite())
    return np.stack([runner(picture)[0][0] for picture in pictures])


@pytest.mark.slow
def test_live_norms_follow_the_batches_and_the_file_follows_the_model(normalized):
    pictures = photographs(32, 32, seed=4)
    before = normalized.model.predict(pictures, verbose=0)
    near = 0.02 * np.ptp(before)
    normalized.thaw_norms()
    np.testing.assert_allclose(normalized.model.predict(pictures, verbose=0), before, atol=near)
    for _ in range(40):  # other pictures than those that were calibrated with: half as bright
        normalized.model(0.5 * pictures, training=True)
    live = normalized.model.predict(pictures, verbose=0)
    assert np.abs(live - before).max() > 5 * near
    np.testing.assert_array_equal(answers(normalized, pictures), live)
    normalized.freeze_norms()
    frozen = normalized.model.predict(pictures, verbose=0)
    np.testing.assert_allclose(frozen, live, atol=near)
    np.testing.assert_array_equal(answers(normalized, pictures), frozen)
    normalized.freeze_norms()
    np.testing.assert_allclose(normalized.model.predict(pictures, verbose=0), frozen, atol=near)


def test_a_live_norm_gives_what_batch_normalization_gives():
    random = np.random.default_rng(0)
    outputs = random.normal(2, 3, (16, 5, 5, 4)).astype(np.float32)
    kernel, bias = tf.Variable(random.normal(size=(1, 1, 3, 4))), tf.Variable(np.float32([0.5, -1, 0, 2]))
    norm = LiveNorm(outputs.mean((0, 1, 2)).tolist(), outputs.var((0, 1, 2)).tolist())
    norm.build(tf_keras.layers.Layer(), kernel, bias)
    np.testing.assert_allclose(norm.normalize(tf.constant(outputs)), outputs + bias, atol=1e-4)
    np.testing.assert_allclose(norm.normalize(tf.constant(3 * outputs - 7)), outputs + bias, atol=1e-4)


@NO_GAIN
def test_norms_are_frozen_after_the_chosen_epoch(normalized, monkeypatch):
    frozen_at, freeze = [], LiveNorm.freeze

    def note(norm):
        frozen_at.append(norm.live)
        freeze(norm)

    monkeypatch.setattr(LiveNorm, "freeze", note)
    live = []
    fine_tune(
        normalized, batches(64), batches(32, 1), epochs=4, patience=4, learning_rate=1e-3, freeze_norms_after=2,
        progress=lambda _, done, __: done and live.append(any(norm.live for norm in normalized._norms.values())),
    )  # fmt: skip
    assert live == [True] * 16 + [False] * 16
    assert frozen_at == [True, True, False, False]  # two layers, in their time and once more at the end
    pictures = photographs(20, 32, seed=5)
    np.testing.assert_array_equal(answers(normalized, pictures), normalized.model.predict(pictures, verbose=0))


@NO_GAIN
def test_the_float_models_answers_teach_without_the_labels(fresh):
    """Right labels for the judge, nonsense for the training: only the float model can have taught what is right."""
    random = np.random.default_rng(0)
    for variable in fresh.model.trainable_variables:
        if len(variable.shape) > 1:
            variable.assign(variable + 0.3 * np.abs(variable).max() * random.normal(size=variable.shape))
    teacher = fresh.float_model

    def told(pictures, labels):
        return pictures, tf.argmax(teacher(pictures, training=False), -1)

    start = [values.copy() for values in fresh.model.get_weights()]
    found = {}
    for distill in (0.0, 1.0):
        fresh.model.set_weights(start)
        nonsense = batches(64).map(lambda pictures, labels: (pictures, (labels + 1) % CLASSES))
        options = {"epochs": 4, "patience": 4, "learning_rate": 1e-2, "distill": distill}
        found[distill] = max(fine_tune(fresh, nonsense, batches(64, 1).map(told), **options).accuracies[1:])
    assert found[1.0] > found[0.0]


def test_a_share_beyond_one_is_refused(fresh):
    with pytest.raises(RequestError, match="distill=1.5: expected 0 to 1"):
        fine_tune(fresh, batches(8), batches(8), distill=1.5)


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_one_output_value_for_two_classes(activation):
    inputs, last = keras.Input((8, 8, 3)), layers.Dense(1, activation=activation)
    model = keras.Model(inputs, last(layers.GlobalAveragePooling2D()(inputs)))
    last.set_weights([np.float32([[3], [-3], [0]]), np.zeros(1, np.float32)])  # of the brightness it says nothing
    aware = quantize_aware(model, photographs(100, 8))
    labels = np.arange(32) % 2
    pictures = (0.1 * photographs(32, 8) + (labels - 0.5)[:, None, None, None]).astype(np.float32)
    data = tf.data.Dataset.from_tensor_slices((pictures, labels)).batch(8)
    found = fine_tune(aware, data, data, epochs=4, learning_rate=0.2)
    assert found.accuracies[found.best_epoch] > max(0.9, found.accuracies[0])
    _, accuracy = aware.model.evaluate(data, verbose=0)
    assert accuracy == found.accuracies[found.best_epoch]


def test_a_checkpoint_has_one_user_and_one_training(fresh, tmp_path):
    def tune(**options):
        return fine_tune(fresh, batches(8), batches(8, 1), epochs=2, checkpoint=tmp_path / "state", **options)

    with (
        files.only_user(tmp_path / "state", "fine-tuning"),
        pytest.raises(RequestError, match="is used by another fine-tuning"),
    ):
        tune()
    of_fine_tuning(tmp_path / "state", {"distill": 0.5, "epochs": 2}).write({}, {})
    with pytest.raises(RequestError, match=r"is of an unfinished training with distill=0\.5, not 0\.0"):
        tune()
    with pytest.raises(RequestError, match="with freeze_norms_after=None, not 0"):
        tune(distill=0.5)
