"""The optimizers and schedules of recipes, against TensorFlow 1's, PyTorch's formulas and closed forms."""

import json
import math
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from mobilenets_tf import create_model
from mobilenets_tf.errors import RequestError
from mobilenets_tf.training import optimizers
from mobilenets_tf.training.recipes import SGD, AdamW, Decay, Rate, Recipe, RMSprop, paper
from mobilenets_tf.weights.keras_config import shapes_alone

SHAPES = ((4, 3), (3,))  # of the kernel and the bias of ``dense``
ANNEALED = Decay(0.3, last=0.02, without=("bias",))


def dense():
    return keras.Sequential([keras.Input((4,)), layers.Dense(3, bias_initializer="ones")])


def recipe(optimizer, *, rate=None, decay=None, epochs=10, **rest):
    rate = rate or Rate("exponential", 0.045, factor=0.9, every=1.5)
    return Recipe(optimizer, rate, decay or Decay(0.0), batch_size=8, epochs=epochs, **rest)


def gradients(steps, scale=1.0):
    """Of very different sizes, as in a network."""
    random = np.random.default_rng(1)
    return [
        [(scale * 10.0 ** random.uniform(-3, 0.5) * random.normal(size=shape)).astype("float32") for shape in SHAPES]
        for _ in range(steps)
    ]


def trajectory(optimizer, model, steps, compiled=None):
    """All weights after each of the steps."""

    def apply(step):
        optimizer.apply(step)

    if compiled is not None:
        apply = tf.function(apply, jit_compile=compiled, autograph=False)
    result = []
    for step in steps:
        apply([tf.constant(gradient) for gradient in step])
        result.append([weight.numpy() for weight in model.trainable_variables])
    return result


def same(received, expected, **tolerance):
    for step, (ours, theirs) in enumerate(zip(received, expected, strict=True)):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, err_msg=f"step {step}", **tolerance)


# The learning rate


def cosine(share, peak, last=0.0):
    return last + (peak - last) / 2 * (1 + math.cos(math.pi * share))


def values(rate, steps, *, batch_size=8, epochs=10, steps_per_epoch=100):
    """In a compiled graph, and the first twenty outside of one too, with the step in the kind of variable that
    optimizers have."""
    schedule = optimizers.learning_rate(rate, batch_size, epochs, steps_per_epoch)
    iterations = tf.Variable(0, dtype=tf.int64)
    run = tf.function(lambda: schedule(iterations), jit_compile=True, autograph=False)
    result = []
    for step in steps:
        iterations.assign(step)
        result.append(float(run()))
        if len(result) <= 20:
            assert float(schedule(iterations)) == pytest.approx(result[-1], rel=1e-12)
    return result


def test_cosine_by_step():
    rate = Rate("cosine", 0.1, last=0.01)
    steps = (0, 1, 500, 999, 1000, 5000)
    assert values(rate, steps) == pytest.approx([cosine(min(step / 1000, 1), 0.1, 0.01) for step in steps], rel=1e-12)


@pytest.mark.parametrize("length", [{"warmup_steps": 150}, {"warmup_epochs": 1.5}])
def test_cosine_by_step_comes_after_the_warm_up(length):
    rate = Rate("cosine", 0.2, start=0.02, last=0.002, **length)
    expected = {0: 0.02, 75: 0.11, 149: 0.02 + 0.18 * 149 / 150, 150: 0.2, 1000: 0.002, 2000: 0.002}
    expected |= {step: cosine((step - 150) / 850, 0.2, 0.002) for step in (151, 575, 999)}
    assert values(rate, expected) == pytest.approx(list(expected.values()), rel=1e-12)


def test_cosine_by_epoch_is_that_of_all_epochs_and_goes_on_in_mid_epoch():
    rate = Rate("cosine", 2e-3, start=2e-4, last=2e-4, warmup_steps=250, by_epoch=True)
    expected = {0: 2e-4, 100: 2e-4 + 1.8e-3 * 0.4, 249: 2e-4 + 1.8e-3 * 249 / 250}
    expected |= {step: cosine(step // 100 / 10, 2e-3, 2e-4) for step in (250, 299, 300, 399, 400, 500, 999)}
    expected |= {1000: 2e-4, 3000: 2e-4}
    assert values(rate, expected) == pytest.approx(list(expected.values()), rel=1e-12)


def test_exponential_counts_from_the_first_step_and_falls_at_the_very_edge():
    rate = Rate("exponential", 0.016, batch=256, warmup_epochs=5, factor=0.97, every=2.4)
    peak = 0.016 * 2048 / 256  # every 240 steps
    expected = {0: 0.0, 1: peak / 500, 499: peak * 499 / 500, 500: peak * 0.97**2, 719: peak * 0.97**2}
    expected |= {720: peak * 0.97**3, 959: peak * 0.97**3, 960: peak * 0.97**4, 240_000: peak * 0.97**1000}
    assert values(rate, expected, batch_size=2048) == pytest.approx(list(expected.values()), rel=1e-11)


@pytest.mark.parametrize("every, steps_per_epoch, edge", [(2.4, 1255, 3012), (0.3, 10, 3), (0.7, 1110, 777)])
def test_every_edge_of_a_staircase(every, steps_per_epoch, edge):
    edges = [step for k in range(1, 150) for step in (k * edge - 1, k * edge)]
    rate = Rate("exponential", 1.0, factor=0.98, every=every)
    received = values(rate, edges, steps_per_epoch=steps_per_epoch)
    assert received == pytest.approx([0.98 ** (step // edge) for step in edges], rel=1e-11)


def test_exponential_without_stairs():
    rate = Rate("exponential", 0.1, factor=0.5, every=2, staircase=False)
    assert values(rate, (0, 1, 100, 150)) == pytest.approx(
        [0.1 * 0.5 ** (k / 200) for k in (0, 1, 100, 150)], rel=1e-11
    )


def test_constant():
    assert values(Rate("constant", 0.3), (0, 1, 10**6)) == [0.3] * 3
    warmed = values(Rate("constant", 0.3, start=0.1, warmup_epochs=0.5), (0, 25, 49, 50, 999))
    assert warmed == pytest.approx([0.1, 0.2, 0.1 + 0.2 * 49 / 50, 0.3, 0.3], rel=1e-12)


def test_peak_goes_with_the_batch_only_where_one_is_named():
    assert values(Rate("constant", 0.3, batch=16), (0,), batch_size=8) == [0.15]
    assert values(Rate("constant", 0.3), (0,), batch_size=8) == [0.3]


def test_a_million_steps_keep_their_precision():
    steps = (1, 2, 499_999, 500_000, 999_000, 999_998, 999_999)
    received = values(Rate("cosine", 0.1), steps, epochs=100, steps_per_epoch=10_000)
    assert received == pytest.approx([0.1 * math.sin(math.pi / 2 * (1 - step / 1e6)) ** 2 for step in steps], rel=1e-4)
    assert received == pytest.approx([cosine(step / 1e6, 0.1) for step in steps], rel=1e-12, abs=1e-17)


@pytest.mark.parametrize("warmup", [{}, {"warmup_steps": 1}, {"warmup_epochs": 1}, {"warmup_steps": 5}])
@pytest.mark.parametrize("kind", ["cosine", "exponential", "constant"])
@pytest.mark.parametrize("by_epoch", [False, True])
def test_a_training_of_one_step(kind, by_epoch, warmup):
    rate = Rate(kind, 0.1, start=0.05, by_epoch=by_epoch, **warmup)
    first, second = values(rate, (0, 1), epochs=1, steps_per_epoch=1)
    assert first == pytest.approx(0.05 if warmup else 0.1)
    assert math.isfinite(second)


@pytest.mark.parametrize(
    "changes, steps_per_epoch, message",
    [
        ({}, 0, "steps_per_epoch=0"),
        ({"warmup_steps": 5, "warmup_epochs": 1}, 10, "warmup_steps=5 and warmup_epochs=1"),
        ({"warmup_steps": -5}, 10, "warmup_steps=-5"),
        ({"warmup_epochs": -1}, 10, "warmup_epochs=-1"),
        ({"every": 0}, 10, "every=0"),
    ],
)
def test_rates_that_cannot_be(changes, steps_per_epoch, message):
    with pytest.raises(RequestError, match=message):
        optimizers.learning_rate(Rate("exponential", 0.1, **changes), 8, 10, steps_per_epoch)


# The updates


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("epsilon", [1.0, 1e-3])
@pytest.mark.parametrize("decay", [Decay(0.0), Decay(0.01, without=("bias",))])
def test_rmsprop_is_tensorflow_1s(momentum, epsilon, decay):
    ours, model = recipe(RMSprop(0.9, momentum, epsilon, 1.0), decay=decay), dense()
    optimizer = optimizers.build(ours, model, steps_per_epoch=5)
    rate = optimizers.learning_rate(ours.rate, 8, 10, 5)
    weights = [tf.Variable(weight.numpy()) for weight in model.trainable_variables]
    step = tf.Variable(0, dtype=tf.int64)
    reference = tf.compat.v1.train.RMSPropOptimizer(lambda: float(rate(step)), 0.9, momentum, epsilon)
    expected, steps = [], gradients(16)
    for kernel, bias in steps:
        reference.apply_gradients([(kernel + decay.value * weights[0], weights[0]), (tf.constant(bias), weights[1])])
        step.assign_add(1)
        expected.append([weight.numpy() for weight in weights])
    same(trajectory(optimizer, model, steps), expected, rtol=1e-6, atol=1e-6)  # of weights up to 4


def test_rmsprop_begins_where_it_is_told():
    model = dense()
    optimizer = optimizers.build(recipe(RMSprop(0.9, 0.0, 1e-3, initial=0.25), rate=Rate("constant", 0.1)), model, 5)
    before = model.trainable_variables[1].numpy()
    optimizer.apply([tf.ones(shape) for shape in SHAPES])
    moved = before - model.trainable_variables[1].numpy()
    np.testing.assert_allclose(moved, 0.1 / math.sqrt(0.9 * 0.25 + 0.1 + 1e-3), rtol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [Decay(0.3), ANNEALED])
def test_sgd_is_pytorchs(decay, momentum, nesterov):
    """The rate falls fast, so that what it multiplies matters; so does the decay."""
    model = dense()
    rate = Rate("cosine", 0.1, start=0.01, last=0.001, warmup_epochs=2)
    optimizer = optimizers.build(recipe(SGD(momentum, nesterov), rate=rate, decay=decay), model, 5)
    weights = [weight.numpy().astype("float64") for weight in model.trainable_variables]
    sums = [np.zeros(shape) for shape in SHAPES]
    expected, steps = [], gradients(16)
    for step, raw in enumerate(steps):
        lr = 0.01 + 0.09 * step / 10 if step < 10 else cosine((step - 10) / 40, 0.1, 0.001)
        now = 0.3 if decay.last is None else cosine(step / 50, 0.3, 0.02)
        for i in range(2):
            gradient = raw[i] + (0.0 if i == 1 and "bias" in decay.without else now) * weights[i]
            sums[i] = momentum * sums[i] + gradient
            weights[i] = weights[i] - lr * (gradient + momentum * sums[i] if nesterov else sums[i])
        expected.append([weight.copy() for weight in weights])
    same(trajectory(optimizer, model, steps), expected, rtol=2e-6, atol=2e-6)


def test_adamw_against_its_formula():
    model = dense()
    rate = Rate("cosine", 0.05, last=0.01)
    optimizer = optimizers.build(
        recipe(AdamW(0.8, 0.95, 1e-8), rate=rate, decay=Decay(0.4, without=("bias",))), model, 5
    )
    assert isinstance(optimizer, keras.optimizers.AdamW)
    weights = [weight.numpy().astype("float64") for weight in model.trainable_variables]
    means, squares = ([np.zeros(shape) for shape in SHAPES] for _ in range(2))
    expected, steps = [], gradients(16)
    for step, raw in enumerate(steps):
        lr = cosine(step / 50, 0.05, 0.01)
        for i in range(2):
            means[i] = 0.8 * means[i] + 0.2 * raw[i].astype("float64")
            squares[i] = 0.95 * squares[i] + 0.05 * raw[i].astype("float64") ** 2
            corrected = means[i] / (1 - 0.8 ** (step + 1)), squares[i] / (1 - 0.95 ** (step + 1))
            decayed = weights[i] * (1 - lr * (0.4 if i == 0 else 0.0))
            weights[i] = decayed - lr * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
        expected.append([weight.copy() for weight in weights])
    same(trajectory(optimizer, model, steps), expected, rtol=5e-6, atol=5e-6)


def test_all_gradients_are_clipped_together_and_the_decay_is_not():
    model = dense()
    rate, decay = Rate("constant", 0.1), Decay(0.3)
    optimizer = optimizers.build(recipe(SGD(0.0), rate=rate, decay=decay, clip_norm=2.0), model, 5)
    small, large = gradients(1, scale=1e-3)[0], gradients(1, scale=1e3)[0]
    norm = math.sqrt(sum((gradient.astype("float64") ** 2).sum() for gradient in large))
    assert norm > 2 > 1e-6 * norm  # the large ones are clipped, the small ones not
    for raw, factor in ((small, 1.0), (large, 2.0 / norm)):
        before = [weight.numpy() for weight in model.trainable_variables]
        optimizer.apply([tf.constant(gradient) for gradient in raw])
        for old, new, gradient in zip(before, model.trainable_variables, raw, strict=True):
            np.testing.assert_allclose(new.numpy(), old - 0.1 * (gradient * factor + 0.3 * old), rtol=1e-5, atol=1e-7)


def test_decays_that_cannot_be():
    for optimizer, decay, message in (
        (AdamW(), ANNEALED, "AdamW with a weight decay from 0.3 to 0.02"),
        (SGD(), Decay(1e-4, without=("norms",)), "Did you mean 'norm'"),
        (SGD(), Decay(-1e-4), "-0.0001"),
        (SGD(), Decay(0.0, last=1e-5), "from 0 to 1e-05"),
    ):
        with pytest.raises(RequestError, match=message):
            optimizers.build(recipe(optimizer, decay=decay), dense(), 5)


# Which weights


def branches(inputs):
    x = layers.Conv2D(4, 3, name="norm_conv")(inputs)  # names that mislead
    x = layers.BatchNormalization(name="conv")(x)
    x = layers.DepthwiseConv2D(3, name="dense")(x)
    x = layers.SeparableConv2D(6, 3, name="bias")(x)
    x = layers.GroupNormalization(2)(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.RMSNormalization()(layers.LayerNormalization()(x))
    return layers.Dense(2, name="depthwise")(x)


BRANCHES = {
    "norm_conv": {"kernel": "kernel", "bias": "bias"},
    "conv": dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), "norm"),
    "dense": {"kernel": "depthwise", "bias": "bias"},
    "bias": {"depthwise_kernel": "depthwise", "pointwise_kernel": "kernel", "bias": "bias"},
    "group_normalization": dict.fromkeys(("gamma", "beta"), "norm"),
    "layer_normalization": dict.fromkeys(("gamma", "beta"), "norm"),
    "rms_normalization": {"scale": "norm"},
    "depthwise": {"kernel": "kernel", "bias": "bias"},
}


class Holder(layers.Layer):
    """A layer, and no model, that has layers."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.factor = self.add_weight(shape=(), name="factor")

    def call(self, inputs):
        return self.inner(inputs) * self.factor


@pytest.mark.parametrize("wrap", [lambda inner: inner, Holder, lambda inner: keras.Sequential([inner])])
def test_kinds_by_the_type_of_the_layer_at_any_depth(wrap):
    keras.utils.clear_session()
    inputs = keras.Input((16, 16, 3))
    inner = keras.Model(inputs, branches(inputs))
    outer = keras.Input((16, 16, 3))
    model = keras.Model(outer, layers.Dense(2)(wrap(inner)(outer)))
    kinds = optimizers.kinds(model)
    for layer in inner.layers:
        received = {weight.name: kinds[id(weight)] for weight in layer.weights}
        assert received == {name: kind for name, kind in BRANCHES.get(layer.name, {}).items() if name in received}
        assert received or layer.name not in BRANCHES
    assert set(kinds) == {id(weight) for weight in model.weights}


@pytest.mark.parametrize("without", [("depthwise",), ("norm",), ("bias",), ("depthwise", "norm", "bias")])
@pytest.mark.parametrize("optimizer", [SGD(0.0), RMSprop(0.9, 0.0), AdamW()])
def test_weights_of_these_kinds_do_not_decay(optimizer, without):
    inputs = keras.Input((16, 16, 3))
    model = keras.Model(inputs, branches(inputs))
    for weight in model.trainable_variables:
        weight.assign(tf.ones_like(weight))
    kinds = optimizers.kinds(model)
    built = optimizers.build(
        recipe(optimizer, rate=Rate("constant", 0.1), decay=Decay(0.5, without=without)), model, steps_per_epoch=1
    )
    built.apply([tf.zeros_like(weight) for weight in model.trainable_variables])
    moved = {id(weight) for weight in model.trainable_variables if np.all(weight.numpy() < 1)}
    still = {id(weight) for weight in model.trainable_variables if np.all(weight.numpy() == 1)}
    assert still == {id(weight) for weight in model.trainable_variables if kinds[id(weight)] in without}
    assert moved | still == {id(weight) for weight in model.trainable_variables}


def test_a_registered_network_decays_in_its_dense_convolutions_and_the_classifier():
    with shapes_alone():
        model = create_model("mobilenet_v2", alpha=0.35, resolution=32, classes=10)
    kinds = optimizers.kinds(model)
    kernels = [weight for weight in model.trainable_variables if kinds[id(weight)] == "kernel"]
    assert {len(weight.shape) for weight in kernels} <= {2, 4}
    assert not any(weight.path.split("/")[-1] in ("bias", "gamma", "beta") for weight in kernels)
    depthwise = [weight for weight in model.trainable_variables if kinds[id(weight)] == "depthwise"]
    assert len(depthwise) == 17 and all(weight.shape[:2] == (3, 3) and weight.shape[3] == 1 for weight in depthwise)
    assert len(kernels) == 1 + 16 + 17 + 1 + 1  # stem, expansions, projections, head, classifier


# How it runs


CASES = (
    recipe(RMSprop(epsilon=1e-3), decay=Decay(0.1, last=0.01, without=("bias",)), clip_norm=1.0),
    recipe(SGD(0.9), rate=Rate("cosine", 0.1, warmup_steps=5), decay=ANNEALED, clip_norm=1.0),
    recipe(AdamW(), rate=Rate("cosine", 0.01, warmup_steps=5, by_epoch=True), decay=Decay(0.1), clip_norm=1.0),
)
by_optimizer = pytest.mark.parametrize("case", CASES, ids=lambda case: type(case.optimizer).__name__)


@by_optimizer
@pytest.mark.parametrize("loss_scaling", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_compiled_or_not_it_is_the_same(case, loss_scaling):
    model, steps = dense(), gradients(20)
    start, runs = model.get_weights(), []
    if loss_scaling:
        steps = [[gradient * np.float32(2**15) for gradient in step] for step in steps]
    for compiled in (None, False, True):
        model.set_weights(start)
        optimizer = optimizers.build(case, model, 2, loss_scaling=loss_scaling)
        runs.append(trajectory(optimizer, model, steps, compiled))
    same(runs[1], runs[0], rtol=1e-5, atol=1e-6)
    same(runs[2], runs[0], rtol=1e-5, atol=1e-6)


def test_scaled_losses_give_the_same_updates_and_infinite_ones_none():
    model = dense()
    start = model.get_weights()
    expected = trajectory(optimizers.build(CASES[1], model, 2), model, gradients(5))
    model.set_weights(start)
    optimizer = optimizers.build(CASES[1], model, 2, loss_scaling=True)
    steps = [[gradient * np.float32(2**15) for gradient in step] for step in gradients(5)]
    same(trajectory(optimizer, model, steps, compiled=True), expected, rtol=1e-6, atol=1e-7)
    before = [weight.numpy() for weight in model.trainable_variables]
    optimizer.apply([tf.ones(SHAPES[0]), tf.constant([1.0, np.inf, 1.0])])
    same([before], [[weight.numpy() for weight in model.trainable_variables]], rtol=0)
    assert int(optimizer.iterations) == 5 and float(optimizer.scale_loss(1.0)) == 2**14


@by_optimizer
def test_a_step_computes_the_schedule_once(case, monkeypatch):
    """Once for each variable, as Keras' weight decay does, would make the graph of a network twice as large."""
    optimizer = optimizers.build(case, dense(), 2)
    schedule, calls = type(optimizer._learning_rate), []
    computed = schedule.__call__
    monkeypatch.setattr(schedule, "__call__", lambda self, step: calls.append(self) or computed(self, step))
    optimizer.apply([tf.ones(shape) for shape in SHAPES])
    assert calls.count(optimizer._learning_rate) == 1
    assert float(optimizer.learning_rate) == float(computed(optimizer._learning_rate, optimizer.iterations))


@by_optimizer
def test_keras_fits_with_it_and_it_goes_on_from_its_variables(case):
    """A step more after everything was made anew equals a step more without that."""
    keras.utils.set_random_seed(3)
    images, labels = np.random.default_rng(0).normal(size=(6, 8, 4)), np.arange(8) % 3
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def made():
        model = dense()
        model.compile(optimizers.build(case, model, 2), loss, jit_compile=False)  # XLA: the test of compiled steps
        return model

    unbroken = made()
    for batch in images[:3]:
        unbroken.train_on_batch(batch, labels)
    resumed = made()
    resumed.set_weights(unbroken.get_weights())
    resumed.optimizer.set_weights([variable.numpy() for variable in unbroken.optimizer.variables])
    for model in (unbroken, resumed):
        for batch in images[3:]:
            model.train_on_batch(batch, labels)
    same([resumed.get_weights()], [unbroken.get_weights()], rtol=0)
    described = json.loads(unbroken.to_json())["compile_config"]["optimizer"]  # as TensorBoard's callback asks for
    assert described["config"]["global_clipnorm"] == 1.0


def test_every_papers_recipe_can_be_built():
    for name in ("mobilenet_v1", "mobilenet_v3_large", "efficientnet_lite0", "mobileone_s1", "mobilevit_v3_s"):
        model = dense()
        optimizer = optimizers.build(paper(name), model, 1000)
        optimizer.apply([tf.ones(shape) for shape in SHAPES])
        assert all(np.isfinite(weight).all() for weight in model.get_weights())


TWO_REPLICAS = """
    import sys
    import numpy as np, keras, tensorflow as tf

    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
    from mobilenets_tf.training import optimizers
    from tests.training.test_optimizers import CASES, dense, gradients, same, trajectory

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    parts = gradients(6), gradients(12)[6:]  # of the two replicas
    for case in CASES:
        for scale in (1.0, 2.0**15):
            keras.utils.set_random_seed(0)
            alone = dense()
            start = alone.get_weights()
            whole = [[a + b for a, b in zip(*pair)] for pair in zip(*parts)]
            expected = trajectory(optimizers.build(case, alone, 2), alone, whole)
            with strategy.scope():
                model = dense()
                optimizer = optimizers.build(case, model, 2, loss_scaling=scale != 1)
            model.set_weights(start)

            @tf.function(autograph=False)
            def update(first, second):
                def replica():
                    here = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
                    optimizer.apply([tf.where(here, a, b) * scale for a, b in zip(first, second)])
                strategy.run(replica)

            received = []
            for first, second in zip(*parts):
                update([tf.constant(a) for a in first], [tf.constant(b) for b in second])
                received.append([weight.numpy() for weight in model.trainable_variables])
            same(received, expected, rtol=1e-5, atol=1e-6)
            if scale != 1:  # only the second has infinities
                update([tf.constant(a) for a in first], [tf.fill(b.shape, np.inf) for b in second])
                same([[weight.numpy() for weight in model.trainable_variables]], received[-1:], rtol=0)
    print("same")
"""


@pytest.mark.slow
def test_two_replicas_are_as_one_with_all_gradients():
    """Clipped after they are summed; and no replica's infinities reach the weights. A process, for its two devices."""
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(TWO_REPLICAS)], capture_output=True, text=True)
    assert run.stdout.endswith("same\n"), run.stderr[-3000:]
