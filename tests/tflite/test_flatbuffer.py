"""Files that are not what they should be: refused before anything but the check has read them."""

import inspect
import random
import struct
import time

import numpy as np
import pytest

from mobilenets_tf.errors import RequestError
from mobilenets_tf.tflite import flatbuffer, flatbuffer_check
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.worker import Worker, WorkerError
from tests.support.lean_files import assert_lean


def model():
    """A graph of four operators: an addition of a constant in int8, its dequantisation, a product, an activation."""
    tree = schema.ModelT()
    tree.version, tree.operatorCodes, tree.buffers = 3, [], [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = [], []
    tree.subgraphs = [graph]
    eight = [flatbuffer.add_tensor(tree, name, (1, 2, 2, 4)) for name in ("input", "sum")]
    eight.append(flatbuffer.add_constant(tree, "constant", np.ones(4, np.int8)))
    for index in eight:
        graph.tensors[index].type = schema.TensorType.INT8
        graph.tensors[index].quantization = quantization = schema.QuantizationParametersT()
        quantization.scale, quantization.zeroPoint = np.float32([0.5]), np.int64([0])
    weights = flatbuffer.add_constant(tree, "weights", np.ones((3, 4), np.float32))
    real, product, result = (
        flatbuffer.add_tensor(tree, name, shape)
        for name, shape in (("real", (1, 2, 2, 4)), ("product", (4, 3)), ("result", (4, 3)))
    )
    graph.operators = [
        flatbuffer.make_operator(tree, "ADD", [eight[0], eight[2]], [eight[1]], schema.AddOptionsT()),
        flatbuffer.make_operator(tree, "DEQUANTIZE", [eight[1]], [real]),
        flatbuffer.make_operator(
            tree, "FULLY_CONNECTED", [real, weights, -1], [product], schema.FullyConnectedOptionsT()
        ),
        flatbuffer.make_operator(tree, "RELU", [product], [result]),
    ]
    tree.operatorCodes[1].version = 2
    graph.inputs, graph.outputs = [eight[0]], [result]
    flatbuffer.set_signature(tree, ["input"], ["result"])
    entry = schema.MetadataT()
    entry.name, entry.buffer = b"note", len(tree.buffers)
    note = schema.BufferT()
    note.data = np.frombuffer(b"something", np.uint8)
    tree.buffers.append(note)
    tree.metadata = [entry]
    return tree


def packed(tree):
    """As ``flatbuffer.write``, but nothing is left out."""
    import flatbuffers

    builder = flatbuffers.Builder(0)
    builder.Finish(tree.Pack(builder), flatbuffer.IDENTIFIER)
    return bytes(builder.Output())


@pytest.fixture(scope="module")
def content():
    return packed(model())


def test_a_sound_file_is_read_and_runs(content):
    assert flatbuffer.operator_counts(flatbuffer.read(content)) == dict.fromkeys(
        ("ADD", "DEQUANTIZE", "FULLY_CONNECTED", "RELU"), 1
    )
    assert Runner(content)(np.ones((1, 2, 2, 4)))[0].shape == (4, 3)


def _set(path, value):
    """A change of a model: ``value`` at a path such as "subgraphs.0.tensors.1.shape"."""

    def change(tree):
        *way, last = path.split(".")
        place = tree
        for step in way:
            place = place[int(step)] if step.isdigit() else getattr(place, step)
        if last.isdigit():
            place[int(last)] = value
        else:
            setattr(place, last, value)

    return change


TENSOR, OPERATOR = "subgraphs.0.tensors", "subgraphs.0.operators"


def _repeated(tree):
    """Three buffers whose values are almost the whole file, each."""
    for _ in range(3):
        buffer = flatbuffer.schema.BufferT()
        buffer.offset, buffer.size = 2, len(packed(tree)) - 2
        tree.buffers.append(buffer)


def _endless(tree):
    options = schema.IfOptionsT()
    options.thenSubgraphIndex = options.elseSubgraphIndex = 0
    tree.subgraphs[0].operators.insert(0, flatbuffer.make_operator(tree, "IF", [0], [], options))


def _twice(tree):
    tree.subgraphs[0].operators.append(tree.subgraphs[0].operators[0])


def _backwards(tree):
    tree.subgraphs[0].operators.reverse()


def _sparse(tree):
    tree.subgraphs[0].tensors[3].sparsity = sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder, sparsity.dimMetadata = np.int32([0, 7]), []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_set("version", 7), "version 7"),
        (_set("subgraphs", []), "no graph"),
        (_set(f"{TENSOR}.0.shape", np.int32([1, -2, 2, 4])), "shape"),
        (_set(f"{TENSOR}.0.shape", np.ones(40, np.int32)), "40 dimensions"),
        (_set(f"{TENSOR}.1.shape", np.int32([60000, 60000, 2, 4])), "would take"),
        (_set(f"{TENSOR}.0.shapeSignature", np.int32([-5, 2, 2, 4])), "signature"),
        (_set(f"{TENSOR}.0.type", 99), "unknown type"),
        (_set(f"{TENSOR}.0.buffer", 77), "buffer 77"),
        (_set("subgraphs.0.inputs", np.int32([2])), "input tensor 2 has values"),
        (_set(f"{TENSOR}.3.shape", np.int32([3, 5])), "48 bytes of values"),
        (_set(f"{TENSOR}.0.externalBuffer", 4), "external buffer"),
        (_set(f"{TENSOR}.0.quantization.scale", np.float32([np.nan])), "positive"),
        (_set(f"{TENSOR}.0.quantization.scale", np.float32([0])), "positive"),
        (_set(f"{TENSOR}.0.quantization.scale", np.float32([1, 1, 1])), "3 scales"),
        (_set(f"{TENSOR}.0.quantization.zeroPoint", np.int64([500])), "zero point"),
        (_set(f"{TENSOR}.0.quantization.zeroPoint", np.int64([0, 0])), "2 zero points"),
        (_set(f"{OPERATOR}.0.opcodeIndex", 9), "code 9"),
        (_set(f"{OPERATOR}.0.inputs", np.int32([0, 99])), "tensor 99"),
        (_set(f"{OPERATOR}.0.inputs", np.int32([0, -2])), "tensor -2"),
        (_set(f"{OPERATOR}.0.outputs", np.int32([-1])), "tensor -1"),
        (_set(f"{OPERATOR}.0.outputs", np.int32([3])), "has its values already"),
        (_set(f"{OPERATOR}.0.intermediates", np.int32([70])), "tensor 70"),
        (_set("subgraphs.0.inputs", np.int32([55])), "tensor 55"),
        (_set("subgraphs.0.outputs", np.int32([-1])), "tensor -1"),
        (_set("signatureDefs.0.subgraphIndex", 3), "graph 3"),
        (_set("signatureDefs.0.inputs.0.tensorIndex", 300), "tensor 300"),
        (_set("metadata.0.buffer", 40), "buffer 40"),
        (_set("buffers.1.offset", 1 << 40), "outside the file"),
        (_repeated, "used by too many"),
        (_endless, "calls itself"),
        (_twice, "has its values already"),
        (_backwards, "nothing has written before"),
        (_sparse, "which values it leaves out"),
    ],
)
def test_a_model_that_cannot_be_is_refused(change, reason):
    tree = model()
    change(tree)
    with pytest.raises(RequestError, match="a damaged TFLite file .*" + reason):
        flatbuffer.read(packed(tree))


@pytest.mark.parametrize("name", ["ethos-u", "TFLite_Detection_PostProcess", "ADD"])
def test_only_the_kernel_of_an_app_may_have_scratch_memory_among_its_inputs(name):
    """As in the files that Arm's Vela writes for an NPU."""
    tree = model()
    scratch = flatbuffer.add_tensor(tree, "scratch", [1000])
    tree.subgraphs[0].operators[0].inputs.append(scratch)
    if name != "ADD":
        code = tree.operatorCodes[0]
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = name.encode()
        tree.subgraphs[0].operators[0].builtinOptions, tree.subgraphs[0].operators[0].builtinOptionsType = None, 0
    if name == "ethos-u":
        kept = flatbuffer.read(flatbuffer.write(flatbuffer.read(packed(tree)))).subgraphs[0]
        assert "scratch" in [tensor.name.decode() for tensor in kept.tensors]
    else:
        with pytest.raises(RequestError, match="nothing has written before"):
            flatbuffer.read(packed(tree))


def test_indices_and_shapes_are_plain_integers(content):
    tree = flatbuffer.read(content)
    graph = flatbuffer.Graph(tree)
    assert (graph.inputs, graph.outputs, graph.tensors[0].shape) == ([0], [6], [1, 2, 2, 4])
    lists = [values for table in [tree.subgraphs[0], *graph.operators] for values in (table.inputs, table.outputs)]
    lists += [tensor.shape for tensor in graph.tensors]
    assert {type(values) for values in lists} == {list}
    assert {type(value) for values in lists for value in values} == {int}
    assert packed(tree) == content  # reading and writing changes no byte


def test_what_a_file_leaves_out_is_empty():
    tree = model()
    graph = tree.subgraphs[0]
    graph.operators, graph.inputs, graph.outputs = None, None, None
    for tensor in graph.tensors:
        tensor.name = tensor.shape = None
        tensor.buffer = 0
    tree.signatureDefs = None
    graph = flatbuffer.read(packed(tree)).subgraphs[0]
    assert [len(graph.operators), len(graph.inputs), len(graph.tensors[0].shape), graph.tensors[0].name] == [
        0,
        0,
        0,
        b"",
    ]


def test_what_nothing_uses_is_not_written():
    tree = model()
    lean = flatbuffer.write(tree)
    assert_lean(lean)
    expected = Runner(lean)(np.ones((1, 2, 2, 4)))[0]
    unused = flatbuffer.add_constant(tree, "unused", np.ones(1000))
    flatbuffer.make_operator(tree, "MUL", [], [])
    graph = tree.subgraphs[0]
    # In front, so that all indices change.
    graph.tensors.insert(0, graph.tensors.pop(unused))
    for table in [graph, *graph.operators]:
        table.inputs, table.outputs = (
            [index + (index >= 0) for index in ends] for ends in (table.inputs, table.outputs)
        )
    for entry in [*tree.signatureDefs[0].inputs, *tree.signatureDefs[0].outputs]:
        entry.tensorIndex += 1
    tree.buffers.insert(1, tree.buffers.pop())
    for tensor in graph.tensors[1:]:
        tensor.buffer += tensor.buffer > 0
    graph.tensors[0].buffer, tree.metadata[0].buffer = 1, tree.metadata[0].buffer + 1
    before = plain(tree)
    written = flatbuffer.write(tree)
    assert plain(tree) == before  # the model stays as it is
    assert len(written) == len(lean)
    assert_lean(written)
    again = flatbuffer.read(written)
    assert again.buffers[again.metadata[0].buffer].data.tobytes() == b"something"
    assert again.subgraphs[0].tensors[again.signatureDefs[0].outputs[0].tensorIndex].name == b"result"
    np.testing.assert_array_equal(Runner(written)(np.ones((1, 2, 2, 4)))[0], expected)
    assert flatbuffer.write(again) == written


def test_tensors_that_only_scales_or_an_operators_memory_use_stay():
    tree = model()
    graph = tree.subgraphs[0]
    flatbuffer.add_tensor(tree, "unused", [1])
    scales, memory = flatbuffer.add_constant(tree, "scales", np.ones(3)), flatbuffer.add_tensor(tree, "memory", [1, 4])
    weights = graph.tensors[3]
    weights.quantization = schema.QuantizationParametersT()
    weights.quantization.details = details = schema.BlockwiseQuantizationT()
    weights.quantization.detailsType = schema.QuantizationDetails.BlockwiseQuantization
    details.scales, details.zeroPoints = scales, -1
    graph.operators[3].intermediates = [-1, memory]
    graph = flatbuffer.read(flatbuffer.write(tree)).subgraphs[0]
    names = [tensor.name for tensor in graph.tensors]
    assert b"unused" not in names
    details = graph.tensors[3].quantization.details
    assert (names[details.scales], details.zeroPoints) == (b"scales", -1)
    first, second = graph.operators[3].intermediates
    assert (first, names[second]) == (-1, b"memory")


def test_names_are_different():
    tree = model()
    tensors = tree.subgraphs[0].tensors
    for index, name in enumerate((b"same", b"same", b"same_1", b"same", b"", b"result", b"result")):
        tensors[index].name = name
    graph = flatbuffer.read(flatbuffer.write(tree)).subgraphs[0]
    names = [tensor.name.decode() for tensor in graph.tensors]
    assert names == ["same", "same_2", "same_1", "same_3", "tensor", "result_1", "result"]


def test_a_constant_is_replaced_in_its_place_unless_others_read_it():
    tree = model()
    graph = tree.subgraphs[0]
    count = len(graph.tensors)
    flatbuffer.replace_constant(tree, graph.operators[2], 1, np.zeros((3, 4)))
    assert len(graph.tensors) == count and not flatbuffer.constant(tree, 3).any()
    graph.operators.append(
        flatbuffer.with_fields(graph.operators[2], outputs=[flatbuffer.add_tensor(tree, "o", [4, 3])])
    )
    flatbuffer.replace_constant(tree, graph.operators[2], 1, np.ones((3, 4)))
    assert (graph.operators[2].inputs[1], graph.operators[4].inputs[1]) == (count + 1, 3)
    assert not flatbuffer.constant(tree, 3).any() and flatbuffer.constant(tree, count + 1).all()
    assert_lean(flatbuffer.write(tree))


def test_short_and_foreign_files():
    for content in (b"", b"TFL3", b"\x08\x00\x00\x00TFL3", b"\xff\xff\xff\xffTFL3", b"PK\x03\x04" * 10):
        with pytest.raises(RequestError):
            flatbuffer.read(content)


def test_a_table_that_is_used_a_million_times_is_refused_at_once(content):
    """A vector of a million offsets that all lead to one table takes 4 MB, and its objects would take a gigabyte."""
    count, changed = 1_000_000, bytearray(content)
    root = schema.Model.GetRootAs(changed, 0)._tab
    field = root.Offset(8) + root.Pos  # the graphs
    vector = len(changed) + -len(changed) % 4
    table = vector + 4 + 4 * count
    changed += bytes(vector - len(changed)) + struct.pack("<I", count)
    changed += b"".join(struct.pack("<I", table - place) for place in range(vector + 4, table, 4))
    changed += struct.pack("<iHH", -4, 4, 4)  # a table without fields, whose layout comes after it
    struct.pack_into("<I", changed, field, vector - field)
    before = time.perf_counter()
    with pytest.raises(RequestError, match="more than 200000 parts"):
        flatbuffer.read(bytes(changed))
    assert time.perf_counter() - before < 5


def test_a_vector_that_a_thousand_tensors_share_is_refused():
    """So that the work is bounded by the file's size, whatever is done with each."""
    tree = model()
    for _ in range(1000):
        flatbuffer.add_tensor(tree, "t", [1])
    changed = bytearray(packed(tree))
    flatbuffer.read(bytes(changed))
    graph = schema.Model.GetRootAs(changed, 0).Subgraphs(0)
    vector = len(changed) + -len(changed) % 4
    for index in range(graph.TensorsLength() - 1000, graph.TensorsLength()):
        table = graph.Tensors(index)._tab
        field = table.Offset(4) + table.Pos  # the shape
        struct.pack_into("<I", changed, field, vector - field)
    changed += bytes(vector - len(changed)) + struct.pack("<I", 20_000) + bytes(80_000)
    with pytest.raises(RequestError, match="used by too many"):
        flatbuffer.read(bytes(changed))


class _Slots:
    """Stands in for flatbuffers' builder: notes in which slot a function of the schema puts what."""

    def __init__(self):
        self.fields = self.slot = self.width = None

    def StartObject(self, fields):
        self.fields = fields

    def StartVector(self, width, *_):
        self.width = width

    def __getattr__(self, name):
        def prepend(slot, *_):
            self.slot = (slot, name)

        return prepend


def test_the_layout_of_tables_is_the_schemas():
    """Each table that is listed: its slots, the width of its scalars, and of what its vectors are. And that no table
    that refers to others is left out."""
    widths = {"Bool": 1, "Int8": 1, "Uint8": 1, "Int16": 2, "Uint16": 2, "Int32": 4, "Uint32": 4, "Float32": 4}
    widths |= {"Int64": 8, "Uint64": 8, "Float64": 8}
    names = [name for name, value in vars(schema).items() if inspect.isclass(value) and hasattr(schema, f"{name}Start")]
    for name in names:
        start = _Slots()
        getattr(schema, f"{name}Start")(start)
        fields = ["-"] * start.fields
        for function in [value for value in vars(schema) if value.startswith(f"{name}Add")]:
            if any(function.startswith(f"{other}Add") for other in names if len(other) > len(name)):
                continue
            noted = _Slots()
            getattr(schema, function)(noted, 0)
            slot, kind = noted.slot
            kind = kind.removeprefix("Prepend").removesuffix("Slot")
            fields[slot] = str(widths[kind]) if kind in widths else _offset(name, function.removeprefix(f"{name}Add"))
        if name in flatbuffer_check.TABLES:
            assert flatbuffer_check.TABLES[name] == fields, name
        else:
            assert all(field.isdigit() or field == "-" for field in fields), name


def _offset(table: str, field: str) -> str:
    used = getattr(getattr(schema, table), field).__code__.co_names
    tables = [name for name in used if hasattr(schema, f"{name}Start")]
    if "Union" in used:
        objects = vars(getattr(schema, f"{table}T"))["_UnPack"].__code__.co_names
        creators = [name.removesuffix("Creator") for name in objects if name.endswith("Creator")]
        return next(name for name in (field, *creators) if name in creators) + "?"
    if vector := getattr(schema, f"{table}Start{field}Vector", None):
        noted = _Slots()
        vector(noted, 0)
        return f"[{tables[0]}]" if tables else f"[{noted.width}]"
    return tables[0] if tables else "string"


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The file with some of its bytes changed, in one of several ways, or cut off."""
    changed = bytearray(content)
    kind = chance.choice(("bit", "byte", "word", "many", "copy", "cut"))
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        at = chance.randrange(len(changed))
        if kind == "bit":
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == "byte":
            changed[at] = chance.choice((0, 1, 127, 128, 255))
        elif kind == "word":
            words = (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\0\0\0\x80", chance.randbytes(4))
            changed[at : at + 4] = chance.choice(words)
        elif kind == "many":
            changed[at : at + 16] = chance.randbytes(16)
        elif kind == "copy":
            start = chance.randrange(len(changed))
            changed[at : at + 24] = changed[start : start + 24]
        else:
            return bytes(changed[:at])
    return bytes(changed)


def _run(content: bytes) -> None:
    """Runs in a child."""
    runner = Runner(content, threads=1)
    runner(*[np.zeros(details["shape"], np.float32) for details in runner.inputs])


def test_damage_at_random_is_refused_or_harmless(content):
    """Read in this process: refused with a reason, or fine; nothing else, and no long time. What is fine is run, in a
    child: it runs, or fails with a reason, and the crash of a child is one."""
    chance, sound, slowest = random.Random(0), [], 0.0
    for _ in range(3000):
        changed = damaged(content, chance)
        before = time.perf_counter()
        try:
            flatbuffer.read(changed)
        except RequestError:
            pass
        else:
            sound.append(changed)
        slowest = max(slowest, time.perf_counter() - before)
    assert 50 < len(sound) < 2500
    assert slowest < 2
    worker, ran = Worker(preload=""), 0
    for changed in sound[:60]:
        try:
            worker.call(_run, changed)
            ran += 1
        except RequestError:
            pass
        except WorkerError:
            worker.__exit__()
            worker = Worker(preload="")
    worker.__exit__()
    assert ran > 20


def plain(value):
    """A tree as nested tuples of plain data, which can be compared."""
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.flags.writeable, value.tobytes())
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if hasattr(value, "__dict__"):
        return (type(value), {name: plain(entry) for name, entry in vars(value).items()})
    return (type(value), value)


def test_a_file_that_is_read_again_gives_an_equal_tree_of_its_own(monkeypatch):
    tree = model()
    tree.subgraphs[0].tensors[3].shapeSignature = np.int32([-1, 4])
    tree.buffers[1].data = tree.buffers[1].data.copy()
    tree.subgraphs[0].operators[3].customOptions = np.zeros(0, np.uint8)
    content = packed(tree)
    parsed = []
    parse = flatbuffer._parse
    monkeypatch.setattr(flatbuffer, "_parse", lambda content: parsed.append(1) or parse(content))
    flatbuffer._READ_LAST.clear()
    first = flatbuffer.read(content)
    expected = plain(first)
    first.subgraphs[0].tensors[0].shape.append(9)
    del first.subgraphs[0].operators[1:], first.buffers[0]
    again = flatbuffer.read(bytes(bytearray(content)))  # another object of the same bytes
    assert plain(again) == expected == plain(flatbuffer.read(content)) and len(parsed) == 1
    for number in range(20):  # what is kept is bounded
        flatbuffer.read(packed(with_version(number)))
    assert len(flatbuffer._READ_LAST) <= 8 and len(parsed) == 21
    assert plain(flatbuffer.read(content)) == expected and len(parsed) == 22


def with_version(number):
    tree = model()
    tree.operatorCodes[0].version = number + 1
    return tree
