"""The training step against Keras' own ``fit``, and what the loop adds to it."""

from dataclasses import asdict, dataclass

import keras
import numpy as np
import pytest
import tensorflow as tf

from mobilenets_tf import Preprocessing, RequestError, create_model
from mobilenets_tf.training import loop, optimizers, recipes
from mobilenets_tf.training.distribution import Distribution
from mobilenets_tf.training.input.plan import Plan
from mobilenets_tf.training.loop import Course
from mobilenets_tf.training.objectives.classification import ClassificationObjective, logits
from mobilenets_tf.training.objectives.objective import Teacher
from mobilenets_tf.training.recipes import SGD, Augment, Decay, Rate, Recipe
from mobilenets_tf.training.step import Settings, Training
from tests.support import forked

SIZE, CLASSES = 32, 3
PREPROCESSING = Preprocessing(size=SIZE, resize=SIZE)
RECIPE = Recipe(
    optimizer=SGD(0.9), rate=Rate("cosine", 0.05), decay=Decay(1e-4), batch_size=8, epochs=2, label_smoothing=0.1,
    augment=Augment(),
)  # fmt: skip


def model_at(size=SIZE, dropout=0.0, classes=CLASSES):
    """Small, so that two ways of computing it stay close for a while."""
    layers = keras.layers
    inputs = x = keras.Input((size, size, 3))
    x = layers.Conv2D(8, 3, strides=2, use_bias=False, name="conv")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9, name="bn")(x))
    x = layers.DepthwiseConv2D(3, strides=2, name="depthwise")(x)
    x = layers.Dropout(dropout, name="drop")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Activation("softmax")(layers.Dense(classes, name="classifier")(x)))


def data(steps, batch=8, seed=0, size=SIZE):
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, (steps, batch))
    pixels = random.integers(0, 120, (steps, batch, size, size, 3)) + 60 * labels[..., None, None, None]
    return [(tf.constant(p.astype(np.uint8)), tf.one_hot(t, CLASSES)) for p, t in zip(pixels, labels, strict=True)]


def training_of(recipe=RECIPE, settings=Settings(), teacher=None, build=model_at, images=32, classes=CLASSES):  # noqa: B008
    keras.utils.set_random_seed(0)
    plan = Plan(recipe, images, SIZE)
    objective, distribution = ClassificationObjective(classes, recipe), Distribution(tf.distribute.get_strategy())
    return Training(objective, build, plan, SIZE, PREPROCESSING, distribution, settings, teacher)


def judged(training, batches):
    with training.averaged():
        return training.objective.scores(training.sums(batches))


def losses(training, batches):
    return [training.step(batch)[0] for batch in batches]


def test_the_step_is_that_of_keras_fit():
    batches = data(5)
    training = training_of()
    ours = losses(training, batches)

    keras.utils.set_random_seed(0)
    model = model_at()
    model.compile(
        optimizers.build(RECIPE, model, 4), keras.losses.CategoricalCrossentropy(label_smoothing=0.1), jit_compile=False
    )
    theirs = []
    for pixels, targets in batches:
        model.reset_metrics()
        theirs.append(model.train_on_batch(PREPROCESSING.normalise(pixels.numpy()), targets))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    for mine, other in zip(training.model.weights, model.weights, strict=True):
        np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=1e-4, atol=1e-5, err_msg=mine.path)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_finished_model_has_its_layers_as_they_were_given(frozen):
    def build(size):
        model = model_at(size)
        norm = model.get_layer("bn")
        norm.momentum, norm.trainable = 0.5, not frozen
        model.layers[-1].dtype_policy = "mixed_bfloat16"
        return model

    # The recipe freezes what the model does not, and the other way round.
    recipe = recipes.replace(RECIPE, frozen_batchnorm=not frozen, batchnorm_momentum=0.9)
    training = training_of(recipe, build=build, settings=Settings("float16", sync_batchnorm=True))
    assert not training.model.get_layer("bn").trainable  # what the user froze stays frozen
    finished, given = training.finished(training.weights()), build(SIZE)
    for mine, other in zip(finished.layers, given.layers, strict=True):
        assert mine.get_config() | {"name": ""} == other.get_config() | {"name": ""}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v1", "mobileone_mu0", "efficientnet_lite0"])
def test_the_papers_recipes_lower_the_loss(name):
    """With a small model: their networks take a minute to compile. Whole runs of two others: test_job.py."""
    recipe = recipes.replace(recipes.paper(name), batch_size=8, rate=Rate("constant", 0.02))
    found = losses(training_of(recipe), data(1) * 12)
    assert np.isfinite(found).all() and found[-1] < found[0]


def test_moving_averages_cover_batchnorm_statistics():
    training = training_of(recipes.replace(RECIPE, ema=0.8))
    expected = [variable.numpy() for variable in training.model.weights]
    for done, batch in enumerate(data(40), 1):
        training.step(batch)
        momentum = min(0.8, (1 + done) / (10 + done))
        for average, variable in zip(expected, training.model.weights, strict=True):
            average += np.float32(1 - momentum) * (variable.numpy() - average)
    for average, found in zip(expected, training.weights(), strict=True):
        np.testing.assert_allclose(found, average, rtol=1e-5, atol=1e-6)
    assert any("moving_variance" in variable.path for variable in training._averaged)


def test_averages_are_judged_and_the_training_goes_on_without_them():
    training = training_of(recipes.replace(RECIPE, ema=0.5))
    losses(training, data(3))
    before = training.state()
    pixels, targets = data(1, batch=12, seed=5)[0]
    labels = tf.concat([tf.argmax(targets, -1, tf.int32)[:9], [-1, -1, -1]], 0)
    found = judged(training, [(pixels, labels)])
    for name, values in training.state().items():
        np.testing.assert_array_equal(values, before[name], err_msg=name)
    model = model_at()
    model.set_weights(training.weights())
    answers = model.predict(PREPROCESSING.normalise(pixels.numpy()[:9]), verbose=0)
    right = labels.numpy()[:9]
    assert found["val_top1"] == pytest.approx((answers.argmax(-1) == right).mean())
    assert found["val_loss"] == pytest.approx(-np.log(answers[np.arange(9), right]).mean(), rel=1e-3)
    assert found["val_top5"] == 1


def test_distillation_against_the_formula():
    keras.utils.set_random_seed(1)
    teacher = model_at(48)  # of another input size
    wanted = Preprocessing(size=48, resize=48, mean=(0.0,) * 3, std=(255.0,) * 3)
    objective = ClassificationObjective(CLASSES, RECIPE)
    training = training_of(teacher=Teacher.of(objective, teacher, wanted, share=0.3, temperature=2.0))
    pixels, targets = data(1)[0]
    student = logits(training.model)(PREPROCESSING.normalise(pixels.numpy()), training=True).numpy().astype(float)
    resized = tf.image.resize(wanted.normalise(pixels.numpy()), (48, 48), antialias=True)
    answers = logits(teacher)(resized).numpy().astype(float)

    def softmax(x):
        return np.exp(x) / np.exp(x).sum(-1, keepdims=True)

    smooth = targets.numpy() * 0.9 + 0.1 / CLASSES
    right = -(smooth * np.log(softmax(student))).sum(-1)
    taught = -(softmax(answers / 2) * np.log(softmax(student / 2))).sum(-1)
    expected = (0.7 * right + 0.3 * 4 * taught).mean()
    before = [variable.numpy() for variable in teacher.weights]
    assert losses(training, [(pixels, targets)])[0] == pytest.approx(expected, rel=1e-4)
    for variable, value in zip(teacher.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.fixture(scope="module")
def plain():
    """The losses of a training in float32."""
    return losses(training_of(), data(12))


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        (Settings("bfloat16"), 0.06),
        (Settings("float16"), 0.02),
        pytest.param(Settings(jit_compile=True), 1e-3, marks=pytest.mark.slow),
    ],
    ids=["bfloat16", "float16", "xla"],
)
def test_other_precisions_and_xla_follow_the_same_curve(plain, settings, tolerance):
    other = losses(training := training_of(settings=settings), data(12))
    assert plain[-1] < 0.75 * plain[0]  # it learns, so there is a curve to follow
    np.testing.assert_allclose(other, plain, rtol=tolerance)
    finished = training.finished(training.weights())
    assert {layer.dtype_policy.name for layer in finished.layers} == {"float32"}
    assert {variable.dtype for variable in finished.weights} == {"float32"}


def test_float16_scales_the_loss():
    training = training_of(settings=Settings("float16"))
    assert isinstance(training.optimizer, keras.optimizers.LossScaleOptimizer)
    assert any("dynamic_scale" in name or "step_counter" in name for name in training.state())


def attention_at(size):
    rows = [(2, 16, 1, 1, 0, 0), (2, 24, 1, 2, 0, 0), *((2, width, 1, 2, width, 1) for width in (24, 32, 40))]
    return create_model("mobilevit_v3_050", rows=rows, resolution=size, classes=CLASSES, dropout_rate=0.0)


@pytest.mark.parametrize("build", [model_at, pytest.param(attention_at, marks=pytest.mark.slow)])
def test_another_size_trains_the_same_weights(build):
    training = training_of(build=build)
    before = [variable.numpy() for variable in training.model.trainable_variables]
    losses(training, data(1, size=64))
    changed = [
        np.any(variable.numpy() != value)
        for variable, value in zip(training.model.trainable_variables, before, strict=True)
    ]
    assert np.mean(changed) > 0.95
    # The loss there is that of a network built for that size with these weights.
    twin = build(64)
    twin.set_weights(training.model.get_weights())
    pixels, targets = data(1, size=64, seed=3)[0]
    outputs = logits(twin)(PREPROCESSING.normalise(pixels.numpy()), training=True)
    expected = keras.losses.categorical_crossentropy(targets, outputs, from_logits=True, label_smoothing=0.1)
    assert losses(training, [(pixels, targets)])[0] == pytest.approx(float(tf.reduce_mean(expected)), rel=1e-4)


@dataclass
class Seen:
    """What ``run`` reports, and the checkpoint it last wrote."""

    training: Training
    saved: tuple | None = None

    def save(self, course):
        self.saved = self.training.state(), asdict(course)


def run_to_end(training, batches, course=None, stop=None):
    seen, course = Seen(training), course or Course()

    def batches_from(first):
        for number in range(first, training.plan.steps):
            if number == stop:
                raise KeyboardInterrupt
            yield batches[number]

    def judge():
        return judged(training, [(batches[0][0], tf.argmax(batches[0][1], -1, tf.int32))])

    try:
        loop.run(
            training, batches_from, course, epochs=2, steps_per_epoch=4, judge=judge, save=seen.save, save_every=3
        )  # fmt: skip
    except KeyboardInterrupt:
        assert stop is not None
    return seen, course


def with_all_state():
    """A training whose state has averages, and the random numbers of dropout."""
    return training_of(recipes.replace(RECIPE, ema=0.9), build=lambda size: model_at(size, dropout=0.5))


@pytest.fixture(scope="module")
def unbroken_run():
    return run_to_end(with_all_state(), data(8))


def test_resuming_in_mid_epoch_equals_an_unbroken_run_bit_for_bit(unbroken_run):
    (unbroken, whole), batches = unbroken_run, data(8)
    broken, _ = run_to_end(with_all_state(), batches, stop=7)
    state, rows = broken.saved
    assert rows["step"] == 6 and rows["seen"] > 0  # in the second epoch of four steps
    resumed = with_all_state()
    resumed.model.set_weights([np.zeros_like(w) for w in resumed.model.get_weights()])
    resumed.restore(state)
    resumed_seen, resumed_course = run_to_end(resumed, batches, Course(**rows))
    assert resumed_course.epochs == whole.epochs and len(whole.epochs) == 2
    for name, values in unbroken.training.state().items():
        np.testing.assert_array_equal(resumed_seen.training.state()[name], values, err_msg=name)


_REPEATED = """
import numpy as np, sys
from tests.training import test_step as here
from mobilenets_tf import create_model
from mobilenets_tf.training import recipes, step
if "deterministic" in sys.argv:
    step.deterministic()
build = lambda size: create_model("efficientnet_lite0", resolution=size, classes=here.CLASSES)
training = here.training_of(recipes.replace(here.RECIPE, batch_size=32), build=build, images=96)
before, found = training.state(), []
for _ in range(8):
    training.restore(before)
    for batch in here.data(3, batch=32):
        training.step(batch)
    found.append(training.state())
print(sum(all(np.array_equal(values, found[0][name]) for name, values in state.items()) for state in found))
"""


@pytest.mark.slow
def test_the_same_steps_give_the_same_bits():
    # In a process of its own: the switch is for all of TensorFlow. Without it, 1 of 12 came out as the first did.
    done = forked.script(_REPEATED, "deterministic")
    assert done.stdout.strip() == "8", done.stderr


def test_rows_say_what_happened(unbroken_run):
    _, course = unbroken_run
    row = course.epochs[-1]
    assert (row["epoch"], row["step"], row["size"]) == (2, 8, SIZE)
    assert row["rate"] == pytest.approx(0.05 * (1 + np.cos(np.pi * 7 / 8)) / 2, rel=1e-4)
    assert 0 <= row["val_top1"] <= row["val_top5"] == 1 and 0 <= row["top1"] <= 1


def test_a_loss_that_is_no_number_stops_the_training():
    training = training_of(recipes.replace(RECIPE, rate=Rate("constant", 1e20)))
    with pytest.raises(
        RequestError, match=r"The loss became (nan|inf) at step \d of 8, in epoch 1, at a learning rate of 1e\+20"
    ):
        run_to_end(training, data(8))


def test_another_networks_checkpoint_is_refused():
    state = training_of().state()
    other = training_of(build=lambda size: model_at(size, classes=7), classes=7)
    with pytest.raises(RequestError, match=r"classifier/\w+ has the shape \((8, )?3,?\) there and \((8, )?7,?\) here"):
        other.restore(state)
    with pytest.raises(RequestError, match="None there|None here"):
        training_of(recipes.replace(RECIPE, ema=0.9)).restore(state)


def test_what_cannot_be_trained():
    with pytest.raises(RequestError, match="Unknown precision 'float8'"):
        training_of(settings=Settings("float8"))
    inputs = keras.Input((SIZE, SIZE, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    with pytest.raises(RequestError, match="ends in a sigmoid"):
        logits(keras.Model(inputs, keras.layers.Dense(3, activation="sigmoid")(pooled)))
    with pytest.raises(RequestError, match="a classifier has one of"):
        logits(keras.Model(inputs, inputs))


@pytest.mark.parametrize("last", ["layer", "inside", "none"])
def test_logits_of_any_classifier(last):
    inputs = keras.Input((SIZE, SIZE, 3))
    outputs = keras.layers.Dense(3, activation="softmax" if last == "inside" else None)(
        keras.layers.GlobalAveragePooling2D()(inputs)
    )
    model = keras.Model(inputs, keras.layers.Softmax()(outputs) if last == "layer" else outputs)
    images = np.random.default_rng(0).normal(size=(4, SIZE, SIZE, 3)).astype(np.float32)
    expected = model(images).numpy()
    found = logits(model)(images)
    np.testing.assert_allclose(found if last == "none" else tf.nn.softmax(found), expected, rtol=1e-4, atol=1e-6)
