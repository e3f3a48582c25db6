"""Any float file is brought to one graph, static shapes and float32; the rest is refused by op and tensor."""

import copy

import numpy as np
import pytest

from mobilenets_tf.data.input_shapes import takes_channels_first
from mobilenets_tf.errors import RequestError
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.foreign import intake
from mobilenets_tf.tflite.foreign.intake import check_taken, taken_in
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.tflite.weight_types import with_weights
from tests.support.strangers_files import Draft, classifier


def answer(content, seed=0):
    runner = Runner(content)
    sample = np.random.default_rng(seed).uniform(-1, 1, runner.inputs[0]["shape"]).astype(np.float32)
    return runner(sample)


def counts(content):
    return flatbuffer.operator_counts(flatbuffer.read(content))


def signature(draft, key, outputs, graph=0):
    entry = schema.SignatureDefT()
    entry.signatureKey, entry.subgraphIndex, entry.inputs, entry.outputs = key.encode(), graph, [], []
    for table, names in ((entry.inputs, {"photo": draft.x}), (entry.outputs, outputs)):
        for name, index in names.items():
            each = schema.TensorMapT()
            each.name, each.tensorIndex = name.encode(), index
            table.append(each)
    draft.tree.signatureDefs.append(entry)


def refused(content, *words, **options):
    with pytest.raises(RequestError) as caught:
        taken_in(content, "their.tflite", **options)
    for word in ("their.tflite", *words):
        assert word in str(caught.value)


def test_a_float_file_keeps_its_graph_and_gets_a_signature():
    content = classifier(signature=False)
    tree = flatbuffer.read(taken_in(content, "a"))
    (told,) = tree.signatureDefs
    assert [entry.name for entry in told.inputs] == [b"image"]
    assert counts(content) == flatbuffer.operator_counts(tree)
    np.testing.assert_array_equal(answer(content)[0], answer(taken_in(content, "a"))[0])


def test_half_precision_weights_become_float32():
    half = with_weights(classifier(), "float16")
    taken = taken_in(half, "a")
    assert "DEQUANTIZE" in counts(half) and "DEQUANTIZE" not in counts(taken)
    np.testing.assert_allclose(answer(half)[0], answer(taken)[0], atol=1e-6)


@pytest.mark.parametrize("open_sides", [(0,), (1, 2), (0, 1, 2)])
def test_open_sides_are_fixed_and_shapes_that_were_computed_become_constants(open_sides):
    draft = Draft((1, 8, 8, 3))
    x = draft.conv(draft.x, 4)
    options = schema.ShapeOptionsT()
    options.outType = schema.TensorType.INT32
    size = draft.op("SHAPE", [x], (4,), options)
    draft.graph.tensors[size].type = schema.TensorType.INT32
    flat = draft.op("RESHAPE", [draft.op("RELU", [x], draft.shape(x)), size], draft.shape(x), schema.ReshapeOptionsT())
    content = draft.finished(draft.mean(flat, (1, 2)))
    tree = flatbuffer.read(content)
    for index in tree.subgraphs[0].inputs:
        tensor = tree.subgraphs[0].tensors[index]
        tensor.shapeSignature = np.array(
            [-1 if side in open_sides else tensor.shape[side] for side in range(4)], np.int32
        )
    content = flatbuffer.write(tree)
    if 1 in open_sides:
        refused(content, "'image'", "None", "--resolution")
    size = 16 if 1 in open_sides else 8
    taken = taken_in(content, "a", resolution=size)
    assert Runner(taken).inputs[0]["shape"].tolist() == [1, size, size, 3]
    assert "SHAPE" not in counts(taken)


def test_a_fixed_size_cannot_be_changed():
    refused(classifier(16), "--resolution 32", "'image'", "(1, 16, 16, 3)", resolution=32)
    assert taken_in(classifier(16), "a", resolution=16) == taken_in(classifier(16), "a")


@pytest.mark.parametrize("resolution", [0, -5])
def test_a_resolution_is_a_number_of_pixels(resolution):
    refused(classifier(16), f"--resolution {resolution}", "at least 1", resolution=resolution)


def test_a_fixed_first_side_is_no_batch():
    draft = Draft()
    table = draft.input("table", (100, 8))
    row = draft.mean(table, (0,), keep=True)
    refused(draft.finished(draft.mean(draft.x, (1, 2)), row), "'table'", "(100, 8)", "a batch of 1")


@pytest.mark.parametrize(
    "shape, first",
    [
        ((1, 3, 16, 16), True), ((1, 4, None, None), True), ((1, 1, 224, 224), True), ((None, 3, 224, 224), True),
        ((1, 16, 16, 3), False), ((1, 3, 16, 3), False), ((1, 1, 1, 512), False), ((1, 3, 3, 64), False),
        ((1, None, None, 3), False), ((3, 224, 224), False),
    ],
)  # fmt: skip
def test_channels_come_first_only_in_images(shape, first):
    assert takes_channels_first(shape) is first


def test_of_several_signatures_one_has_to_be_named():
    draft = Draft()
    features = draft.mean(draft.conv(draft.x, 8), (1, 2))
    scores = draft.dense(features, 4)
    signature(draft, "classify", {"scores": scores})
    signature(draft, "embed", {"features": features})
    draft.graph.outputs = [scores, features]
    content = flatbuffer.write(draft.tree)
    refused(content, "'classify', 'embed'", "--signature")
    with pytest.raises(RequestError, match="embd.*embed"):
        taken_in(content, "their.tflite", signature="embd")
    taken = taken_in(content, "a", signature="embed")
    assert "FULLY_CONNECTED" not in counts(taken)
    (told,) = flatbuffer.read(taken).signatureDefs
    assert [entry.name for entry in told.outputs] == [b"features"]
    refused(classifier(signature=False), "no signatures", signature="embed")


def stray_input(signature, graph):
    signature.inputs[0].tensorIndex = graph.outputs[0]


def no_name(signature, graph):
    signature.inputs[0].name = None


def cut_name(signature, graph):  # LiteRT reads names to the first zero
    signature.outputs[0].name = b"a\0b"


@pytest.mark.parametrize("change", [stray_input, no_name, cut_name])
def test_a_signature_that_does_not_fit_its_graph_is_damage(change):
    tree = flatbuffer.read(classifier())
    change(tree.signatureDefs[0], tree.subgraphs[0])
    refused(flatbuffer.write(tree), "damaged", "'serving_default'", "inputs and outputs")


def custom():
    draft = Draft()
    x = draft.conv(draft.x, 4)
    out = flatbuffer.add_tensor(draft.tree, "found", (1, 4))
    draft.graph.operators.append(flatbuffer.make_custom_operator(draft.tree, "Mystery", [x], [out], b""))
    return draft.finished(out)


def loop():
    draft = Draft()
    options = schema.WhileOptionsT()
    options.condSubgraphIndex, options.bodySubgraphIndex = 1, 2
    out = draft.op("WHILE", [draft.x], draft.shape(draft.x), options, "looped")
    body = copy.deepcopy(draft.graph)
    body.operators, body.outputs = [], list(body.inputs)
    condition = copy.deepcopy(body)
    condition.tensors[0].type = schema.TensorType.BOOL
    draft.tree.subgraphs += [condition, body]
    return draft.finished(out)


def integers():
    tree = flatbuffer.read(with_weights(Draft_of_many_weights(), "int8"))
    return flatbuffer.write(tree)


def Draft_of_many_weights():
    draft = Draft()
    return draft.finished(draft.mean(draft.conv(draft.conv(draft.x, 16), 16), (1, 2)))


def random_values():
    draft = Draft()
    drawn = draft.op(
        "RANDOM_UNIFORM", [draft.integers((1, 16, 16, 3))], (1, 16, 16, 3), schema.RandomOptionsT(), "noise"
    )
    return draft.finished(draft.binary("ADD", draft.x, drawn))


def states():
    draft = Draft((1, 16))
    options = schema.SVDFOptionsT()
    options.rank = 1
    state = flatbuffer.add_tensor(draft.tree, "state", (1, 8))
    draft.graph.tensors[state].isVariable = True
    weights = [draft.floats(np.ones((4, 16))), draft.floats(np.ones((4, 2)))]
    return draft.finished(draft.op("SVDF", [draft.x, *weights, -1, state], (1, 4), options))


def without_batch():
    draft = Draft()
    options = schema.ReshapeOptionsT()
    return draft.finished(draft.op("RESHAPE", [draft.x, draft.integers((768,))], (768,), options, "flat"))


def without_bias():
    draft = Draft()
    options = schema.DepthwiseConv2DOptionsT()
    options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = options.depthMultiplier = 1
    weights = draft.floats(np.ones((1, 3, 3, 3)))
    return draft.finished(draft.op("DEPTHWISE_CONV_2D", [draft.x, weights], draft.shape(draft.x), options))


def convolution_without_bias():
    draft = Draft()
    x = draft.conv(draft.x, 4)
    del draft.graph.operators[-1].inputs[2]
    return draft.finished(x)


@pytest.mark.parametrize(
    "make, words",
    [
        (custom, ("Mystery", "'output_0'", "custom op", "Cut the model")),
        (loop, ("WHILE", "'output_0'", "calls another graph", "Unroll")),
        (integers, ("quantised already", "CONV_2D", "int8 tensor", "--scheme float32")),
        (random_values, ("RANDOM_UNIFORM", "'noise'", "random values")),
        (states, ("SVDF", "'output_0'", "from one run to the next")),
        (without_bias, ("DEPTHWISE_CONV_2D", "'output_0'", "no bias")),
        (convolution_without_bias, ("CONV_2D", "'output_0'", "no bias")),
        (without_batch, ("output", "(768,)", "batch")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_taken_is_refused_by_op_and_tensor(make, words):
    refused(make(), *words)


def test_options_that_a_file_leaves_out_are_there():
    draft = Draft()
    x = draft.binary("ADD", draft.x, 1.0)
    draft.graph.operators[0].builtinOptions, draft.graph.operators[0].builtinOptionsType = None, 0
    content = draft.finished(draft.mean(x, (1, 2)))
    add, _ = flatbuffer.read(taken_in(content, "a")).subgraphs[0].operators
    assert add.builtinOptions.fusedActivationFunction == 0
    np.testing.assert_array_equal(answer(content)[0], answer(taken_in(content, "a"))[0])


def test_constants_that_a_small_file_would_make_large_are_refused(monkeypatch):
    monkeypatch.setattr(intake, "_MOST_BYTES", 10_000)
    draft = Draft()
    value = draft.floats(1.0)
    draft.graph.tensors[value].shape = []
    filled = draft.op("FILL", [draft.integers((1, 64, 64, 3)), value], (1, 1, 1, 3), schema.FillOptionsT())
    content = draft.finished(draft.mean(draft.binary("ADD", draft.x, draft.mean(filled, (1, 2), keep=True)), (1, 2)))
    refused(content, "'fill0'", "can become constants")


def test_an_input_beyond_all_memory_is_refused():
    draft = Draft((1, 1, 1, 3))
    draft.graph.tensors[draft.x].shapeSignature = np.array([1, 2**15, 2**15, 3], np.int32)
    refused(draft.finished(draft.mean(draft.x, (1, 2))), "'image'", "(1, 32768, 32768, 3)", "smaller")


def test_options_of_another_op_are_damage():
    draft = Draft()
    x = draft.op("ADD", [draft.x, draft.x], draft.shape(draft.x), schema.Conv2DOptionsT())
    refused(draft.finished(x), "damaged", "ADD", "'output_0'", "Conv2DOptions")


def test_damaged_files_are_refused(tmp_path):
    content = classifier()
    for damaged in (b"", content[:100], b"\0" * 64, content[: len(content) // 2], b"PK" + content):
        refused(damaged, "TFLite file")
    refused(np.random.default_rng(0).bytes(500)[:4] + b"TFL3" + content[8:200], "damaged")
    with pytest.raises(RequestError, match="No such TFLite file"):
        check_taken(str(tmp_path / "none.tflite"))
