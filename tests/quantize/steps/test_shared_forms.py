"""Constants beyond the range of the activation that shares their scale, clamps, and outputs behind ops that move
values: what the file gives is what the float file gives, to within rounding.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

from mobilenets_tf.quantize import Calibration, schemes
from mobilenets_tf.quantize.post_training import Recipe, prepare
from mobilenets_tf.quantize.steps import ranges
from mobilenets_tf.quantize.steps.shared_forms import needed_ranges, shared_forms
from mobilenets_tf.quantize.steps.statistics import observe
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import Runner

SIDE = ((0, 0), (1, 1), (1, 1), (0, 0))
COORDINATES = np.stack(np.meshgrid(np.arange(8.0), np.arange(8.0)), -1)[None].astype(np.float32)
TOKEN = np.random.default_rng(1).normal(0, 5, (1, 1, 4)).astype(np.float32)


def conv(x):
    return layers.Conv2D(4, 3, padding="same")(x)


def cases(image, small, large) -> dict:
    """small: an activation within +-0.5; large: one of some tens."""
    positions = layers.Reshape((64, 4))(small)
    return {
        "maximum": ops.maximum(small, 5.0),
        "minimum": ops.minimum(small, -5.0),
        "pad": ops.pad(small, SIDE, constant_values=5.0),
        "concatenation": ops.concatenate([small, ops.zeros_like(small) + 5.0], -1),
        "stack": ops.stack([small, ops.zeros_like(small) - 7.0], 1),
        "inner pad": conv(ops.pad(small, SIDE, constant_values=5.0)),
        "class token": layers.Dense(5)(ops.concatenate([ops.zeros_like(positions[:, :1]) + TOKEN, positions], 1)),
        "coordinates": conv(ops.concatenate([image, ops.zeros_like(image[..., :2]) + COORDINATES], -1)),
        "beside a fixed scale": conv(ops.concatenate([ops.sigmoid(small), ops.zeros_like(small) + 5.0], -1)),
        "one behind the other": conv(ops.maximum(ops.pad(small, SIDE, constant_values=5.0), 3.0)),
        "a border that the pool removes": conv(layers.MaxPooling2D(2)(ops.pad(small, SIDE, constant_values=-1e9))),
        "a limit that nothing reaches": conv(layers.ReLU(max_value=200.0)(small)),
        "clip": conv(ops.clip(large, -0.5, 0.5)),
        "ReLU with a limit": conv(layers.ReLU(max_value=0.5)(large)),
        "ReLU with a limit behind a pool": conv(layers.ReLU(max_value=0.5)(layers.MaxPooling2D(2)(large))),
        "an output behind a reshape": layers.Reshape((-1,))(image**3),
        "an output behind a pool": layers.MaxPooling2D(2)(image**3),
    }  # fmt: skip


@pytest.fixture(scope="module")
def content(float_file):
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    first = layers.Conv2D(4, 3, padding="same", activation="tanh", name="first")(image)
    model = keras.Model(image, list(cases(image, 0.5 * conv(first), 50 * conv(first)).values()))
    return float_file(model)


NAMES = list(cases(keras.Input((8, 8, 3)), keras.Input((8, 8, 4)), keras.Input((8, 8, 4))))
PICTURES = np.random.default_rng(0).normal(0, 0.1, (100, 8, 8, 3)).cumsum(axis=2).astype(np.float32)


@pytest.mark.parametrize(
    ("scheme", "recipe", "least"),
    [
        ("int8", Recipe(ranges="min_max", rounding="nearest"), 18),
        ("int8", Recipe(rounding="nearest"), 18),
        ("int16x8", Recipe(rounding="nearest"), 30),
    ],
    ids=["min_max", "least_output_error", "int16x8"],
)
def test_constants_clamps_and_outputs_keep_their_values(content, scheme, recipe, least):
    before, after = Runner(content), Runner(prepare(content, scheme, Calibration(PICTURES), recipe).write())
    for name, *pairs in zip(NAMES, *(zip(before(p), after(p), strict=True) for p in PICTURES[:20]), strict=True):
        wanted, found = (np.stack(side) for side in zip(*pairs, strict=True))
        signal, noise = (np.square(values).sum() for values in (wanted, found - wanted))
        assert 10 * np.log10(signal / max(noise, 1e-30)) > least, name
        if name in NAMES[:5] or "output" in name:  # nothing that was seen is cut off
            ends = np.array([[values.min(), values.max()] for values in (wanted, found)])
            assert np.abs(ends[0] - ends[1]).max() < 0.03 * np.abs(ends).max(), name


def found_in(content, scheme="int8"):
    tree = flatbuffer.read(content)
    seen = {index: ranges.min_max(values) for index, values in observe(content, [[p[None]] for p in PICTURES]).items()}
    return flatbuffer.Graph(tree), seen, shared_forms(tree, seen, schemes.get(scheme), ())


def test_an_input_is_converted_only_where_something_else_reads_it(float_file):
    """What the clamp alone reads is written with the clamp's scale; there is no op more."""
    image = keras.Input((8, 8, 3))
    alone, shared = 50 * conv(image), 50 * conv(image)
    content = float_file(keras.Model(image, [conv(ops.clip(x, -0.5, 0.5)) for x in (alone, shared)] + [conv(shared)]))
    graph, _, found = found_in(content)
    assert [graph.name(graph.operators[place]) for place in sorted(found.own_form)].count("MINIMUM") == 2
    written = flatbuffer.Graph(flatbuffer.read(prepare(content, "int8_float_io", Calibration(PICTURES)).write()))
    assert [written.name(op) for op in written.operators].count("QUANTIZE") == 2  # of the image, and of ``shared``


def test_where_the_constants_fit_nothing_changes(float_file):
    image = keras.Input((8, 8, 3))
    x = conv(image)
    model = keras.Model(image, conv(ops.concatenate([x, ops.zeros_like(x) + 0.05, ops.zeros_like(x)], -1)))
    graph, seen, found = found_in(float_file(model))
    assert not found.own_form
    (join,) = (op for op in graph.operators if graph.name(op) == "CONCATENATION")
    root = found.roots[join.outputs[0]]
    assert seen[root][1] > 0.1 and found.bounded(root, (-0.01, 0.01)) == (-0.01, np.float32(0.05))


def dense(image, growth, links=6):
    """A chain of concatenations, each link read by a convolution too; its new values are ``growth`` times as large."""
    x, read = conv(image), []
    for _ in range(links):
        new = growth * conv(x)
        x = ops.concatenate([x, new], -1)
        read.append(layers.GlobalAveragePooling2D()(conv(x)))
    return x, layers.Add()(read)


def files_of(model, float_file, scheme="int8"):
    content = float_file(model)
    written = prepare(content, scheme, Calibration(PICTURES), Recipe(ranges="min_max", rounding="nearest")).write()
    return content, written, flatbuffer.Graph(flatbuffer.read(written))


def scales(graph):
    links = [op.outputs[0] for op in graph.operators if graph.name(op) == "CONCATENATION"]
    return [float(graph.tensors[index].quantization.scale[0]) for index in links]


@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
def test_links_of_equal_range_share_one_form(scheme, float_file):
    """In a DenseNet's chain of concatenations, values are rounded once, not at each link."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    _, _, graph = files_of(keras.Model(image, dense(image, 0.1)[1]), float_file, scheme)
    assert len(scales(graph)) == 6 and len(set(scales(graph))) == 1
    quantised = [op for op in graph.operators if graph.name(op) == "QUANTIZE"]
    assert not {op.inputs[0] for op in quantised} & {
        op.outputs[0] for op in graph.operators if graph.name(op) == "CONCATENATION"
    }


def test_links_of_growing_range_share_forms_of_similar_range(float_file):
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    _, _, graph = files_of(keras.Model(image, dense(image, 1.2)[1]), float_file)
    found = scales(graph)
    assert 1 < len(set(found)) < len(found) and found == sorted(found)


def test_a_wide_link_does_not_take_the_levels_of_the_others(float_file):
    """What reads the links before it keeps its precision."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    first = ops.concatenate([conv(image), conv(image)], -1)
    second = ops.concatenate([first, 45 * conv(first)], -1)
    content, written, graph = files_of(keras.Model(image, [conv(first), conv(second)]), float_file)
    assert scales(graph)[1] > 20 * scales(graph)[0]
    before, after = Runner(content), Runner(written)
    pairs = [(before(p), after(p)) for p in PICTURES[:20]]
    for place in range(2):
        wanted, found = (np.stack([pair[side][place] for pair in pairs]) for side in range(2))
        assert 10 * np.log10(np.square(wanted).sum() / np.square(found - wanted).sum()) > 30


def test_links_that_share_a_form_keep_all_that_was_seen(float_file):
    """A pool between two links makes the later one's range smaller; constants and outputs have forms of their own."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    first = ops.concatenate([conv(image), conv(image)], -1)
    pooled = layers.AveragePooling2D((1, 2))(first)
    second = ops.concatenate([pooled, 0.1 * conv(pooled)], -1)
    graph, seen, found = found_in(float_file(keras.Model(image, [conv(first), conv(pooled), conv(second)])))
    links = [op.outputs[0] for op in graph.operators if graph.name(op) == "CONCATENATION"]
    assert len(found.chained) == 1 and len({found.roots[index] for index in links}) == 1
    assert seen[links[1]][1] < seen[links[0]][1]
    root = found.roots[links[0]]
    assert found.bounded(root, (-0.01, 0.01)) == seen[links[0]] and not found.leaves_choice(root, seen[links[0]])
    for outputs in ([first, conv(first), conv(second)], [conv(first), conv(pooled), second]):
        assert not found_in(float_file(keras.Model(image, outputs)))[2].chained


def test_what_is_needed_of_an_activation(float_file):
    image = keras.Input((8, 8, 3))
    x = conv(image)
    outputs = [
        ops.clip(layers.MaxPooling2D(2)(x), -0.05, 0.1),
        layers.AveragePooling2D(2)(ops.minimum(conv(image), 0.1)),
    ]
    graph, seen, _ = found_in(float_file(keras.Model(image, outputs)))
    needed = needed_ranges(graph, seen)
    by_name = {graph.name(op): op for op in graph.operators}
    pooled, averaged = by_name["MAX_POOL_2D"].inputs[0], by_name["AVERAGE_POOL_2D"].inputs[0]
    assert needed[pooled] == pytest.approx((-0.05, 0.1)) and seen[pooled][0] < -0.1
    assert needed[averaged] == seen[averaged] and seen[averaged][0] < -0.1
    assert all(needed[index] == seen[index] for index in [*graph.inputs, *graph.outputs])
