"""Range estimators against what they are defined to be; and ranges by what they do to the outputs."""

import keras
import numpy as np
import pytest
from keras import layers

from mobilenets_tf import RequestError
from mobilenets_tf.quantize import schemes
from mobilenets_tf.quantize.steps import model_ranges, ranges
from mobilenets_tf.quantize.steps.effects import Effects
from mobilenets_tf.quantize.steps.shared_forms import shared_forms
from mobilenets_tf.quantize.steps.statistics import ActivationStatistics, observe
from mobilenets_tf.tflite import flatbuffer


def statistics_of(values, parts=4):
    found = ActivationStatistics()
    for part in np.array_split(np.asarray(values, np.float32), parts):
        found.add(part.reshape(1, -1, 1))
    return found


def squared_error(values, low, high, levels=256):
    scale = (high - low) / (levels - 1)
    return np.mean((np.clip(np.round((values - low) / scale), 0, levels - 1) * scale + low - values) ** 2)


NORMAL = np.random.default_rng(0).normal(0, 1, 20000)
VALUES = {
    "normal": NORMAL,
    "positive": np.abs(NORMAL) + 1,
    "negative": -np.abs(NORMAL) - 1,
    "outlier": np.append(NORMAL, 1000),
    "zero": np.zeros(8),
    "constant": np.full(8, -5.0),
    "minute": NORMAL * 1e-12,
}


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("name", ranges.ESTIMATORS)
def test_every_range_contains_zero_and_is_inside_the_extremes(name, values):
    found = statistics_of(VALUES[values])
    low, high = getattr(ranges, name)(found)
    smallest = 1e-6  # that is how wide a range is at least
    assert low <= 0 <= high and high - low >= smallest * 0.999
    assert min(found.low, 0) - smallest <= low and high <= max(found.high, 0) + smallest


def test_min_max_is_everything_that_was_seen():
    assert ranges.min_max(statistics_of([2.0, 3.0, 4.0, 5.0])) == (0.0, 5.0)
    assert ranges.min_max(statistics_of([-3.0, -1.0, -2.0, -2.0])) == (-3.0, 0.0)


def test_the_widest_range_adds_the_headroom_of_few_samples():
    assert ranges.widest(statistics_of([2.0, 3.0, 4.0, 5.0])) == (0.0, 6.0)
    assert ranges.widest(statistics_of(range(40), parts=40)) == (0.0, 39.0)


@pytest.mark.parametrize("share", [0.9, 0.99])
def test_percentile_cuts_the_share_that_it_says(share):
    values = np.random.default_rng(0).normal(0.5, 1, 30000)
    found = statistics_of(values, parts=10)
    low, high = ranges.percentile(found, share)
    bin_width = 2 * found.limit / len(found.counts)
    assert low == pytest.approx(np.quantile(values, (1 - share) / 2), abs=1.5 * bin_width)
    cut = np.mean((values < low) | (values > high))
    assert cut == pytest.approx(1 - share, rel=0.1, abs=2 / len(values))


@pytest.mark.parametrize("outlier", [0.0, 8.0, -9.0])
def test_mean_square_error_beats_min_max_where_there_are_outliers(outlier):
    values = np.append(np.random.default_rng(0).normal(0, 1, 200000), outlier).astype(np.float32)
    found = statistics_of(values, parts=40)
    chosen, everything = ranges.mean_square_error(found), ranges.min_max(found)
    assert squared_error(values, *chosen) <= 1.02 * squared_error(values, *everything)
    if outlier:
        assert squared_error(values, *chosen) < 0.8 * squared_error(values, *everything)


def test_mean_square_error_is_near_the_best_range_there_is():
    values = np.random.default_rng(1).laplace(0, 1, 20000).astype(np.float32)
    chosen = ranges.mean_square_error(statistics_of(values))
    best = min(squared_error(values, a, b) for a in np.linspace(-12, -3, 30) for b in np.linspace(3, 12, 30))
    assert squared_error(values, *chosen) < 1.1 * best


def test_entropy_gives_up_an_outlier_and_keeps_what_is_evenly_spread():
    low, high = ranges.entropy(statistics_of(np.append(NORMAL, 20)))
    assert high < 10 and low < -3
    even = np.random.default_rng(0).uniform(-1, 2, 30000)
    assert ranges.entropy(statistics_of(even)) == pytest.approx((-1, 2), rel=0.03)


def test_an_unknown_estimator_is_refused_with_the_nearest():
    with pytest.raises(RequestError, match="Unknown range estimator 'percentil'.*Did you mean 'percentile'"):
        ranges.estimator("percentil")


@pytest.fixture(scope="module")
def outliers(float_file):
    """Two models with the same activation, one channel of which rarely is 100: to the first model it is nothing."""
    contents = []
    for weight in (0.0, 1.0):
        inputs = keras.Input((16, 16, 2))
        model = keras.Model(inputs, layers.Conv2D(2, 1, name="out")(layers.Conv2D(2, 1, name="middle")(inputs)))
        model.get_layer("middle").set_weights([np.eye(2).reshape(1, 1, 2, 2), np.full(2, 0.5)])
        model.get_layer("out").set_weights([np.array([[1, -1], [weight, weight]]).reshape(1, 1, 2, 2), np.zeros(2)])
        contents.append(float_file(model))
    samples = np.random.default_rng(0).normal(0, 1, (12, 1, 16, 16, 2)).astype(np.float32)
    samples[:, 0, 3, 3, 1] = 100
    return contents, [[sample] for sample in samples]


@pytest.mark.parametrize("begin", [(-4.0, 100.5), (-4.0, 40.0), (-3.0, 4.0)])
def test_an_outlier_is_given_up_where_it_does_not_matter_and_kept_where_it_does(outliers, begin):
    (indifferent, dependent), samples = outliers
    widths = []
    for content in (indifferent, dependent):
        (middle, _) = (op.outputs[0] for op in flatbuffer.read(content).subgraphs[0].operators)
        statistics = observe(content, samples)
        found = ranges.least_output_error(Effects(content, samples), {middle: begin}, statistics)
        widths.append(found.get(middle, begin)[1])
    assert widths[0] <= min(begin[1], 60)
    assert widths[1] > 80


def test_activations_without_outliers_keep_their_range(outliers):
    (_, content), samples = outliers
    tame = [[np.clip(sample, -2, 2)] for (sample,) in samples]
    (middle, _) = (op.outputs[0] for op in flatbuffer.read(content).subgraphs[0].operators)
    assert ranges.least_output_error(Effects(content, tame), {middle: (-1, 1)}, observe(content, tame)) == {}


def two_activations(float_file, factor):
    """Statistics and effects of a network that adds two activations with outliers, one times ``factor`` and the other
    times 2; and their indices, the one that matters less first."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 2))
    little, much = (layers.Conv2D(2, 1, name=name)(inputs) for name in ("little", "much"))
    content = float_file(keras.Model(inputs, layers.Conv2D(2, 3)(factor * little) + layers.Conv2D(2, 3)(2.0 * much)))
    samples = np.random.default_rng(0).normal(0, 1, (12, 1, 16, 16, 2)).astype(np.float32)
    samples[::4, 0, 3, 3] = 100
    samples = [[sample] for sample in samples]
    statistics, effects = observe(content, samples), Effects(content, samples)
    convolutions = [op.outputs[0] for op in flatbuffer.read(content).subgraphs[0].operators][:2]
    errors = {cut.index: cut.error(lambda values: np.clip(values, -4, 4)) for cut in effects.cuts(convolutions)}
    faint, loud = sorted(convolutions, key=errors.get)
    return statistics, effects, faint, loud


def test_within_a_budget_the_activation_that_matters_most_is_tried_first(float_file, monkeypatch):
    statistics, effects, faint, loud = two_activations(float_file, 0.5)
    narrow = dict.fromkeys((faint, loud), (-4.0, 4.0))
    assert ranges.least_output_error(effects, narrow, statistics).keys() == {faint, loud}
    monkeypatch.setattr(ranges, "_BUDGET", 1.2 * ranges._TRIALS * effects.share(loud))
    assert ranges.least_output_error(effects, narrow, statistics).keys() == {loud}
    monkeypatch.setattr(ranges, "_BUDGET", 0)
    assert ranges.least_output_error(effects, narrow, statistics) == {}


def test_what_is_lost_in_the_noise_of_others_is_tried_when_they_are_better(float_file, monkeypatch):
    statistics, effects, faint, loud = two_activations(float_file, 0.02)
    monkeypatch.setattr(ranges, "_WORTH_WHILE", 0.0)
    # Clipped, one makes all of the noise; what else there is goes unnoticed.
    low, high = ranges.min_max(statistics[loud])
    present = {faint: ranges.min_max(statistics[faint]), loud: (0.04 * low, 0.04 * high)}
    monkeypatch.setattr(ranges, "_try_ranges", lambda cut, present, extremes: (present, 1.0))
    assert ranges.least_output_error(effects, present, statistics).keys() == {loud}
    # With a better range of the one, the other is noticed.
    monkeypatch.setattr(ranges, "_try_ranges", lambda cut, present, extremes: (extremes, 0.0))
    assert ranges.least_output_error(effects, present, statistics).keys() == {faint, loud}


def test_a_sigmoid_needs_no_scores_that_change_none_of_its_levels():
    low, high = ranges.sigmoid_scores((-30.0, 5.0))
    assert high == 5.0 and 1 / (1 + np.exp(-low)) == pytest.approx(1 / 512)
    assert ranges.sigmoid_scores((-1.0, 30.0)) == (-1.0, pytest.approx(-low))


def softmax(scores):
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_scores_that_are_nothing_to_the_softmax_are_cut_off():
    random = np.random.default_rng(0)
    scores = [np.append(random.uniform(-60, -30, 90), random.uniform(5, 10, 25))[None] for _ in range(5)]
    assert ranges.softmax_scores(scores, (-60.0, 10.0)) == (0.0, 10.0)


@pytest.mark.parametrize("deviation", [0.5, 2.0])
def test_no_probability_changes_by_half_a_level_and_none_of_the_highest_classes_is_clipped(deviation):
    scores = np.random.default_rng(0).normal(0, deviation, (8, 1, 100))
    extremes = float(scores.min()), float(scores.max())
    low, high = ranges.softmax_scores(list(scores), extremes)
    assert extremes[0] <= low <= 0 and high == extremes[1]
    assert np.abs(softmax(np.maximum(scores, low)) - softmax(scores)).max() < 1 / 512
    assert (np.sort(scores, axis=-1)[..., -20:] >= low).all()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("way", ["at once", "behind a reshape", "in front of a reshape", "read elsewhere"])
def test_the_scores_of_the_last_probabilities_keep_what_counts(activation, way, float_file):
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 2))
    scores = layers.Conv2D(3, 1)(image)
    answer = layers.Activation(activation)(layers.Reshape((64, 3))(scores) if way == "behind a reshape" else scores)
    answer = layers.Reshape((64, 3))(answer) if way == "in front of a reshape" else answer
    outputs = [answer, layers.Conv2D(2, 1)(scores)] if way == "read elsewhere" else answer
    content = float_file(keras.Model(image, outputs))
    samples = [[s] for s in 6 * np.random.default_rng(0).standard_t(3, (12, 1, 8, 8, 2)).astype(np.float32)]
    tree, statistics = flatbuffer.read(content), observe(content, samples)
    seen, scheme = {i: ranges.widest(found) for i, found in statistics.items()}, schemes.get("int8")
    shared = shared_forms(tree, seen, scheme, ())
    found = model_ranges.choose(content, statistics, scheme, "least_output_error", shared, samples)
    index = tree.subgraphs[0].operators[0].outputs[0]
    cut = activation == "sigmoid" and way != "read elsewhere"
    assert min(-seen[index][0], seen[index][1]) > 7
    assert found[index] == pytest.approx((-np.log(511), np.log(511)) if cut else seen[index], rel=2e-3)
