"""What other converters spell out is found and written with fewer ops; the outputs stay."""

import numpy as np
import pytest

from mobilenets_tf.conversion.half_sums import sums_as_means
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.foreign import spelled_out
from mobilenets_tf.tflite.foreign.transposes import cancel_transposes, image_channels_last
from mobilenets_tf.tflite.runtime import Runner
from tests.support.strangers_files import RELU, RELU6, VALID, Draft

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def rewritten(content, *rewrites):
    """The names of the operators after rewrites that keep the outputs."""
    tree = flatbuffer.read(content)
    for rewrite in rewrites:
        rewrite(tree)
    new = flatbuffer.write(tree)
    before, after = Runner(content), Runner(new)
    for reach in (0.5, 4, 50):
        sample = np.random.default_rng(1).uniform(-reach, reach, before.inputs[0]["shape"]).astype(np.float32)
        given = sample
        if before.inputs[0]["shape"].tolist() != after.inputs[0]["shape"].tolist():
            given = sample.transpose(LAST)
        for expected, found in zip(before(sample), after(given), strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    graph = flatbuffer.Graph(flatbuffer.read(new))
    return [graph.name(operator) for operator in graph.operators]


def between(make, channels=4):
    """Convolution, channels first again, some op, channels last, convolution; then pooled."""
    draft = Draft()
    x = draft.transpose(draft.conv(draft.x, channels, fused=0), FIRST)
    x = draft.transpose(make(draft, x), LAST)
    return draft.finished(draft.mean(draft.conv(x, 4, kernel=1), (1, 2)))


BETWEEN = {
    "nothing": lambda draft, x: x,
    "an activation": lambda draft, x: draft.op("LOGISTIC", [x], draft.shape(x)),
    "a factor a channel": lambda draft, x: draft.binary("MUL", x, np.arange(1, 5).reshape(1, 4, 1, 1)),
    "a factor without batch axis": lambda draft, x: draft.binary("MUL", x, np.arange(1, 5).reshape(4, 1, 1)),
    "a term of one value": lambda draft, x: draft.binary("ADD", x, 3.0, RELU6),
    "a residual": lambda draft, x: draft.binary("ADD", draft.op("TANH", [x], draft.shape(x)), x),
    "a border": lambda draft, x: draft.pad(x, ((0, 0), (0, 0), (1, 2), (3, 4))),
    "a gate": lambda draft, x: draft.binary("MUL", x, draft.mean(x, (2, 3), keep=True)),
    "a mean over channels": lambda draft, x: draft.binary("SUB", x, draft.mean(x, (1,), keep=True)),
}


@pytest.mark.parametrize("make", BETWEEN.values(), ids=BETWEEN)
def test_transposes_around_ops_that_need_none_go(make):
    assert "TRANSPOSE" not in rewritten(between(make), cancel_transposes)


def test_pooled_channels_need_no_transpose():
    draft = Draft()
    x = draft.mean(draft.transpose(draft.conv(draft.x, 4), FIRST), (2, 3))
    assert "TRANSPOSE" not in rewritten(draft.finished(draft.dense(x, 3)), cancel_transposes)
    draft = Draft()
    x = draft.mean(draft.transpose(draft.conv(draft.x, 4), FIRST), (2, 3), keep=True)
    x = draft.op("RESHAPE", [x, draft.integers((1, 4))], (1, 4), flatbuffer.schema.ReshapeOptionsT())
    assert "TRANSPOSE" not in rewritten(draft.finished(draft.dense(x, 3)), cancel_transposes)


def test_a_transpose_that_an_op_needs_stays():
    draft = Draft()
    x = draft.transpose(draft.conv(draft.x, 4), FIRST)
    flat = draft.op("RESHAPE", [x, draft.integers((1, 1024))], (1, 1024), flatbuffer.schema.ReshapeOptionsT())
    assert rewritten(draft.finished(draft.dense(flat, 3)), cancel_transposes).count("TRANSPOSE") == 1
    draft = Draft()
    first = draft.transpose(draft.conv(draft.x, 4), FIRST)
    assert (
        rewritten(draft.finished(draft.op("TANH", [first], draft.shape(first))), cancel_transposes).count("TRANSPOSE")
        == 1
    )


def test_an_image_with_its_channels_first_is_taken_with_its_channels_last():
    draft = Draft((1, 3, 16, 16))
    x = draft.conv(draft.transpose(draft.binary("SUB", draft.x, np.ones((1, 3, 1, 1))), LAST), 4)
    content = draft.finished(draft.mean(x, (1, 2)))
    assert "TRANSPOSE" not in rewritten(content, image_channels_last, cancel_transposes)
    assert not image_channels_last(flatbuffer.read(Draft().finished(0)))


@pytest.mark.parametrize(
    "stride, border, joined", [(1, (1, 1), True), (2, (0, 1), True), (2, (1, 1), False), (1, (2, 2), False)]
)
def test_a_border_that_same_padding_would_add_goes(stride, border, joined):
    draft = Draft()
    x = draft.conv(draft.pad(draft.x, ((0, 0), border, border, (0, 0))), 4, stride=stride, padding=VALID)
    assert ("PAD" not in rewritten(draft.finished(x), spelled_out.join_padding)) == joined


def poolings(fused, count):
    """Max pools that read one border of minus infinity around a convolution."""
    draft = Draft()
    x = draft.pad(draft.conv(draft.x, 4, fused=fused), value=-np.inf)
    options = flatbuffer.schema.Pool2DOptionsT()
    options.padding, options.strideH, options.strideW, options.filterHeight, options.filterWidth = VALID, 2, 2, 3, 3
    return draft.finished(*(draft.op("MAX_POOL_2D", [x], (1, 8, 8, 4), options) for _ in range(count)))


@pytest.mark.parametrize("fused, left", [(RELU, "PAD"), (0, "PADV2")])
def test_a_border_of_minus_infinity_becomes_finite(fused, left):
    content = poolings(fused, 1)
    assert left in rewritten(content, spelled_out.join_padding)
    tree = flatbuffer.read(content)
    spelled_out.join_padding(tree)
    constants = [flatbuffer.constant(tree, index) for index in range(len(tree.subgraphs[0].tensors))]
    used = {index for operator in tree.subgraphs[0].operators for index in operator.inputs}
    assert all(np.isfinite(values).all() for i, values in enumerate(constants) if values is not None and i in used)


@pytest.mark.parametrize("fused, left", [(RELU, "PAD"), (0, "PADV2")])
def test_two_poolings_read_one_border(fused, left):
    names = rewritten(poolings(fused, 2), spelled_out.join_padding)
    assert names == ["CONV_2D", left, "MAX_POOL_2D", "MAX_POOL_2D"]


def gate(draft, x, alone):
    if alone:
        added = draft.binary("ADD", x, 3.0)
        return draft.op("RELU6", [added], draft.shape(x))
    return draft.binary("ADD", x, 3.0, RELU6)


SWISHES = {
    "x * gate / 6": lambda draft, x: draft.binary("DIV", draft.binary("MUL", x, gate(draft, x, False)), 6.0),
    "gate * x * (1 / 6)": lambda draft, x: draft.binary("MUL", draft.binary("MUL", gate(draft, x, True), x), 1 / 6),
    "x * (gate / 6)": lambda draft, x: draft.binary("MUL", x, draft.binary("DIV", gate(draft, x, True), 6.0)),
}


@pytest.mark.parametrize("make", SWISHES.values(), ids=SWISHES)
def test_a_hard_swish_becomes_one_op(make):
    draft = Draft()
    content = draft.finished(make(draft, draft.conv(draft.x, 4, fused=0)))
    assert rewritten(content, spelled_out.plain_arithmetic, spelled_out.hard_swish) == ["CONV_2D", "HARD_SWISH"]


def test_another_gate_stays():
    draft = Draft()
    x = draft.conv(draft.x, 4, fused=0)
    content = draft.finished(draft.binary("DIV", draft.binary("MUL", x, draft.binary("ADD", x, 2.0, RELU6)), 6.0))
    assert "HARD_SWISH" not in rewritten(content, spelled_out.plain_arithmetic, spelled_out.hard_swish)


def tensorflow(draft, x, mean, scale, beta):
    shift = draft.binary("SUB", draft.floats(beta), draft.binary("MUL", mean, scale))
    return draft.binary("ADD", draft.binary("MUL", x, scale), shift)


def keras(draft, x, mean, scale, beta):
    shift = draft.binary("MUL", draft.op("NEG", [mean], draft.shape(mean)), scale)
    return draft.binary("ADD", draft.binary("MUL", x, scale), draft.binary("ADD", shift, beta))


def keras_without_beta(draft, x, mean, scale, beta):
    shift = draft.binary("MUL", draft.op("NEG", [mean], draft.shape(mean)), scale)
    return draft.binary("ADD", draft.binary("MUL", x, scale), shift)


@pytest.mark.parametrize("spelled, last", [(tensorflow, "ADD"), (keras, "ADD"), (keras_without_beta, "MUL")])
def test_normalisations_get_their_scale_and_shift_last(spelled, last):
    draft = Draft((1, 8, 8, 6))
    x = draft.x
    mean = draft.mean(x, (3,), keep=True)
    variance = draft.mean(draft.op("SQUARED_DIFFERENCE", [x, mean], draft.shape(x)), (3,), keep=True)
    root = draft.op("RSQRT", [draft.binary("ADD", variance, 1e-3)], draft.shape(mean))
    scale = draft.binary("MUL", root, np.linspace(0.5, 2, 6))
    content = draft.finished(spelled(draft, x, mean, scale, np.linspace(-1, 1, 6)))
    found = rewritten(content, spelled_out.layer_norms)
    assert found[found.index("SUB") :] == ["SUB", "MUL", "MUL", "ADD"][: 4 if last == "ADD" else 3]
    assert "NEG" not in found


def test_quotients_by_roots_and_sums_become_what_the_integer_graph_knows():
    draft = Draft((1, 8, 8, 6))
    options = flatbuffer.schema.ReducerOptionsT()
    options.keepDims = True
    x = draft.binary("ADD", draft.x, 60.0)
    total = draft.op("SUM", [x, draft.integers((3,))], (1, 8, 8, 1), options)
    mean = draft.binary("MUL", total, 1 / 6)
    root = draft.op("SQRT", [draft.binary("ADD", mean, 1.0)], draft.shape(mean))
    found = rewritten(draft.finished(draft.binary("DIV", x, root)), sums_as_means, spelled_out.plain_arithmetic)
    assert found == ["ADD", "MEAN", "ADD", "RSQRT", "MUL"]
