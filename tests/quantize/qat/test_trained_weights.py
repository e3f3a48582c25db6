"""Weights go through the TFLite graph and come back: all that were trained, and only those."""

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf.quantize import Recipe, quantize_aware
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import Runner
from tests.conftest import photographs
from tests.support.aware_models import graph_answers

# Which ranges training begins with does not matter here.
QUICK = Recipe(equalize=False, ranges="min_max", rounding="nearest", correct_biases=False)


def moved(model, **options):
    """The aware model of a Keras model, every weight that is trained moved as training would."""
    sides = model.input_shape[1:]
    aware = quantize_aware(model, photographs(20, sides[0]), recipe=QUICK, **options)
    random = np.random.default_rng(0)
    for variable in aware.model.trainable_variables:
        size = np.abs(variable).mean() or 0.1
        variable.assign(variable + 0.1 * size * random.normal(size=variable.shape).astype(np.float32))
    return aware


def partly_frozen():
    """A layer, a nested model, a norm, single variables are frozen; other layers are used twice or have no bias."""
    keras.utils.set_random_seed(0)
    random = keras.initializers.RandomNormal(stddev=0.1)
    base = keras.Sequential(
        [
            keras.Input((8, 8, 8)),
            layers.Conv2D(8, 3, padding="same", use_bias=False, name="inner"),
            layers.BatchNormalization(beta_initializer=random, name="inner_norm"),
            layers.ReLU(6.0),
        ],
        name="base",
    )
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, 2, padding="same", activation="relu6", bias_initializer=random, name="frozen")(inputs)
    x = base(x)
    x = layers.Conv2D(8, 1, bias_initializer=random, name="before_frozen_norm")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization(name="frozen_norm")(x))
    x = layers.SeparableConv2D(8, 3, padding="same", use_bias=False, name="separable")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization(name="norm")(x))
    x = layers.Conv2D(8, 1, activation="relu6", bias_initializer=random, name="frozen_bias")(x)
    x = layers.Conv2DTranspose(6, 2, 2, name="transposed")(x)
    twice = layers.Dense(8, activation="relu", name="twice")
    x = layers.Add()([twice(layers.GlobalAveragePooling2D()(x)), twice(layers.GlobalMaxPooling2D()(x))])
    one = layers.Dense(1, name="one")(x)
    other = layers.Dense(1, use_bias=False, name="other")(x)
    model = keras.Model(inputs, [layers.Dense(4, activation="softmax", name="zero_bias")(x), one, other])
    for name in ("frozen", "base", "frozen_norm"):
        model.get_layer(name).trainable = False
    model.get_layer("frozen_bias").bias.trainable = False
    return model


@pytest.fixture(scope="module")
def case(made_once):
    """What the tests look at: of each variable, path, whether it is trained, and its values before and after; flags of
    layers and variables, before and after; outputs of the aware model and of its file.
    """

    def make():
        model = partly_frozen()
        aware = moved(model)
        trained, free = aware.to_keras(), {id(variable) for variable in model.trainable_variables}
        pairs = zip(model.variables, trained.variables, strict=True)
        variables = [(one.path, id(one) in free, np.asarray(one), np.asarray(other)) for one, other in pairs]
        pictures = photographs(8, 16, seed=1)
        runner = Runner(aware.to_tflite())
        files = [np.concatenate(output) for output in zip(*map(runner, pictures), strict=True)]
        outputs = [output.numpy() for output in graph_answers(aware.model, pictures)]
        return variables, [flags(model), flags(trained)], outputs, files

    return made_once("partly_frozen", make)


def flags(model):
    layers_of = model._flatten_layers(include_self=False)
    of_layers = {layer.name: layer.trainable for layer in layers_of if layer.weights}
    return of_layers | {place: variable.trainable for place, variable in enumerate(model.variables)}


def test_what_is_frozen_stays_to_the_bit_and_everything_else_moves(case):
    variables, *_ = case
    assert 0 < sum(free for _, free, *_ in variables) < len(variables)
    absorbed = {"gamma", "moving_mean", "moving_variance"}  # their changes are in the kernels
    for path, free, before, after in variables:
        if not free:
            np.testing.assert_array_equal(after, before, err_msg=path)
        elif path.split("/")[-1] not in absorbed:
            assert np.abs(after - before).max() > 0, path


def test_the_flags_come_back(case):
    _, (before, after), *_ = case
    assert before == after and before["base"] is False and True in before.values()


def test_the_file_has_the_integers_of_the_model(case):
    *_, outputs, files = case
    for wanted, given in zip(outputs, files, strict=True):
        np.testing.assert_array_equal(given, wanted)


@pytest.mark.slow
def test_recurrent_layers_are_unrolled_share_their_kernels_and_come_back():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((2, 6))
    x = layers.LSTM(5, return_sequences=True, name="lstm", bias_initializer="random_normal")(inputs)
    model = keras.Model(inputs, layers.Dense(4, name="head")(layers.GRU(3, name="gru")(x)))
    sequences = np.random.default_rng(0).normal(size=(30, 2, 6)).astype(np.float32)
    with pytest.warns(match="keeps these weights as they are.*'lstm/lstm_cell/bias', 'gru/gru_cell/bias'"):
        aware = quantize_aware(model, sequences, recipe=QUICK)
    shapes = sorted(tuple(variable.shape) for variable in aware.model.trainable_variables if len(variable.shape) == 2)
    assert shapes == sorted([(6, 20), (5, 20), (5, 9), (3, 9), (3, 4)])  # of two steps
    for variable in aware.model.trainable_variables:
        variable.assign(variable * 1.01)
    content = aware.to_tflite()
    graph = flatbuffer.Graph(flatbuffer.read(content))
    products = [operator for operator in graph.operators if graph.name(operator) == "FULLY_CONNECTED"]
    assert len({operator.inputs[1] for operator in products}) == len(shapes) < len(products)  # the file has each once
    trained, runner = aware.to_keras(), Runner(content)
    found = np.concatenate([runner(sequence)[0] for sequence in sequences])
    np.testing.assert_array_equal(graph_answers(aware.model, sequences)[0], found)
    assert np.abs(found - trained.predict(sequences, verbose=0)).max() < 0.2 * np.ptp(found)


@pytest.mark.parametrize(
    "make, shape",
    [
        (lambda x: layers.GlobalAveragePooling1D()(layers.Conv1D(4, 3)(x)), (8, 6)),
        (lambda x: layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(2, 4)(x, x)), (8, 6)),
        pytest.param(
            lambda x: layers.Lambda(lambda values: values * 2.0)(layers.Dense(4)(x)), (6,), marks=pytest.mark.slow
        ),
    ],
    ids=["Conv1D", "attention", "with a Lambda"],
)
def test_kernels_of_other_layers_come_back(make, shape):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    model = keras.Model(inputs, make(inputs))
    samples = np.random.default_rng(0).normal(size=(30, *shape)).astype(np.float32)
    aware = quantize_aware(model, samples, recipe=QUICK)
    for variable in aware.model.trainable_variables:
        variable.assign(variable * 1.01)
    pairs = zip(model.trainable_variables, aware.to_keras().trainable_variables, strict=True)
    assert all(np.abs(np.asarray(one) - other).max() > 0 for one, other in pairs if np.asarray(one).any())
