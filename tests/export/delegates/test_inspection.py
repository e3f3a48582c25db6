import io
import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from mobilenets_tf import export
from mobilenets_tf.cli import main
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.delegates import gpu
from mobilenets_tf.export.delegates.inspection import _lines, _trial, inspect, predicted_plan
from mobilenets_tf.export.tflite import convert_model
from mobilenets_tf.files import to_json
from mobilenets_tf.networks.costs.complexity import multiply_adds
from mobilenets_tf.quantize import SCHEMES, Calibration
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.arena import arena_bytes
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.worker import Worker
from tests.conftest import photographs
from tests.export.delegates.test_backends import IMAGE, int32, one_operator, small_network, tensor, weights


def test_an_int8_file(small_files, small):
    content = small_files["int8"].content
    found = inspect(content)
    assert found.bytes == len(content)
    ((given,), (result,)) = found.inputs, found.outputs
    (details,) = Runner(content).inputs
    assert (given.name, given.shape, given.dtype) == (details["name"], (1, 64, 64, 3), "int8")
    assert (np.float32(given.scale), given.zero_point) == details["quantization"]
    assert given.lowest == pytest.approx(given.scale * (-128 - given.zero_point))
    assert given.highest - given.lowest == pytest.approx(255 * given.scale)
    for stored in (-128, 127):
        real = eval(given.formula.removeprefix("real = "), {}, {"stored": stored})
        assert real == pytest.approx(given.lowest if stored < 0 else given.highest)
    assert result.formula == "real = 0.00390625 * (stored + 128)"
    assert found.signatures == {
        "serving_default": {"inputs": {given.name: given.name}, "outputs": {result.name: result.name}}
    }
    assert {entry.name: entry.count for entry in found.operations} == flatbuffer.operator_counts(
        flatbuffer.read(content)
    )
    assert found.multiply_adds == multiply_adds(small) == sum(entry.multiply_adds for entry in found.operations)
    assert found.operations[0].name == "CONV_2D"  # the dearest is first
    assert found.trial.arena_bytes == arena_bytes(content)
    assert (found.not_integer, found.free_shapes, found.custom_operators, found.graphs) == ((), {}, {}, 1)
    assert "min_runtime_version" in found.metadata
    xnnpack = found.verdicts[0]
    assert predicted_plan(xnnpack) == found.trial.plan == Runner(content).execution_plan()
    assert json.loads(to_json(found.as_dict()))["verdicts"][0]["fallbacks"][0]["operator"] == "SOFTMAX"
    text = "\n".join(found.lines())
    assert "SOFTMAX (1): input 0 is int8" in text and f"{found.multiply_adds:,}" in text
    assert gpu.ON_INTEGERS in found.lines()


def test_weights_by_type(small_files):
    def kinds(name):
        return {entry.dtype: entry for entry in inspect(small_files[name].content).weights}

    floats, halves, eights = kinds("float32"), kinds("float16"), kinds("int8")
    assert floats["float32"].bytes == 4 * floats["float32"].values
    assert (
        halves["float16"].values == floats["float32"].values and halves["float16"].bytes * 2 == floats["float32"].bytes
    )
    assert eights["int8"].bytes == eights["int8"].values
    assert eights["int8"].values + eights["int32"].values == pytest.approx(floats["float32"].values, rel=0.01)


def test_multiply_adds_of_attention(worker):
    network = small_network()
    content = convert_model(network, SCHEMES["float32"], None, worker).content
    assert inspect(content).multiply_adds == multiply_adds(network)


def test_multiply_adds_of_other_operators():
    ends = [int32([1, 16, 16, 5]), weights((5, 2, 2, 4)), tensor(IMAGE)], [tensor((1, 16, 16, 5))]
    content = one_operator("TRANSPOSE_CONV", *ends, options="TransposeConvOptions", strideW=2, strideH=2)
    assert inspect(content).multiply_adds == 8 * 8 * 4 * 5 * 2 * 2
    for options in ({}, {"adjX": True}):
        left = (3, 6, 5) if options else (3, 5, 6)
        ends = [tensor(left), tensor((3, 6, 4))], [tensor((3, 5, 4))]
        content = one_operator("BATCH_MATMUL", *ends, options="BatchMatMulOptions", **options)
        assert inspect(content).multiply_adds == 3 * 5 * 6 * 4
    bad = one_operator("CONV_2D", [tensor(IMAGE), weights((4, 4))], [tensor(IMAGE)], options="Conv2DOptions")
    with pytest.raises(RequestError, match="CONV_2D"):
        inspect(bad)


def test_what_is_not_integer_is_named(worker):
    """In an int8 file of ours attention and normalisations stay float."""
    content = convert_model(small_network(), SCHEMES["int8"], Calibration(photographs(100, 16)), worker).content
    found = inspect(content)
    tree = flatbuffer.read(content)
    counts = flatbuffer.float_operator_counts(tree)
    assert {entry.operator for entry in found.not_integer} == counts.keys() and "BATCH_MATMUL" in counts
    names = {item.name.decode() for item in tree.subgraphs[0].tensors}
    assert {entry.output for entry in found.not_integer} <= names
    assert inspect(convert_model(small_network(), SCHEMES["float32"], None, worker).content).not_integer is None


def test_free_shapes_custom_operators_and_graphs():
    tree = flatbuffer.read(one_operator("ABS", [tensor(IMAGE)], [tensor(IMAGE)]))
    graph = tree.subgraphs[0]
    graph.tensors[0].shapeSignature = np.int32([-1, 8, 8, 4])
    code = tree.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = b"FlexErf\x1b[2J"
    options = schema.IfOptionsT()
    options.thenSubgraphIndex = options.elseSubgraphIndex = 1
    choice = flatbuffer.add_tensor(tree, "choice", [])
    graph.tensors[choice].type = schema.TensorType.BOOL
    chosen = flatbuffer.add_tensor(tree, "chosen", IMAGE)
    graph.operators.append(flatbuffer.make_operator(tree, "IF", [choice, 1], [chosen], options))
    graph.inputs, graph.outputs = [0, choice], [chosen]
    body = flatbuffer.read(one_operator("ABS", [tensor(IMAGE)], [tensor(IMAGE)])).subgraphs[0]
    for item in body.tensors:
        item.buffer = 0
    tree.subgraphs.append(body)
    found = inspect(flatbuffer.write(tree))
    assert found.inputs[0].shape == (-1, 8, 8, 4) and found.free_shapes == {"t0": (-1, 8, 8, 4)}
    assert found.custom_operators == {"FlexErf\x1b[2J": 2}
    assert (found.graphs, found.control_flow) == (2, {"IF": 1})
    assert found.trial.arena_bytes is None and "Flex" in found.trial.error  # the interpreter has no such kernel
    text = "\n".join(found.lines())
    assert "\x1b" not in text and "?x8x8x4" in text and "control flow: IF (1)" in text
    gpu = next(verdict for verdict in found.verdicts if verdict.path == "gpu")
    assert any("body of a condition" in fallback.reason for fallback in gpu.fallbacks if fallback.graph == 1)


def test_the_graph_of_a_second_signature_is_judged_as_the_first():
    tree = flatbuffer.read(one_operator("ABS", [tensor(IMAGE)], [tensor(IMAGE)]))
    flatbuffer.set_signature(tree, ["x"], ["y"])
    tree.subgraphs.append(flatbuffer.read(flatbuffer.write(tree)).subgraphs[0])
    second = flatbuffer.with_fields(tree.signatureDefs[0], signatureKey=b"second", subgraphIndex=1)
    tree.signatureDefs.append(second)
    found = inspect(flatbuffer.write(tree))
    assert list(found.signatures) == ["serving_default", "second"]
    gpu = next(verdict for verdict in found.verdicts if verdict.path == "gpu")
    assert (gpu.taken, gpu.total, gpu.parts, gpu.fallbacks) == (2, 2, (1, 1), ())
    assert "body of a condition" not in "\n".join(found.lines())


def test_associated_files(small_files):
    packed = io.BytesIO(small_files["float32"].content)
    packed.seek(0, io.SEEK_END)
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("labels.txt", "cat\ndog\n")
    found = inspect(packed.getvalue())
    assert (found.associated_files, found.damage) == ({"labels.txt": 8}, ())
    assert not any(line.startswith("damaged") for line in found.lines())


@pytest.mark.parametrize(
    ("damaged", "told"),
    [
        (lambda content: content[:-7], "no end, as in a file that was cut off"),
        (lambda content: content.replace(b"cat\ndog", b"cat\nbog"), "Bad CRC-32 for file 'labels.txt'"),
        (lambda content: content.replace(b"PK\x01\x02", b"PK\x01\x06"), "Bad magic number for central directory"),
    ],
)
def test_a_damaged_archive_is_said(tmp_path, capsys, damaged, told):
    packed = io.BytesIO(one_operator("ABS", [tensor(IMAGE)], [tensor(IMAGE)]))
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("labels.txt", "cat\ndog\n")
    path = tmp_path / "net.tflite"
    path.write_bytes(damaged(packed.getvalue()))
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert "damaged          the archive of files behind the model is damaged" in text and told in text
    assert "MediaPipe's tasks refuse the file" in text and "Write the file again" in text
    assert main(["inspect", str(path), "--json"]) == 0
    (damage,) = json.loads(capsys.readouterr().out)["damage"]
    assert told in damage


def test_per_channel_and_unquantised_ends():
    several = tensor(IMAGE, "int8", scales=(1, 2, 3, 4), axis=3)
    (given,) = inspect(one_operator("ABS", [several], [tensor(IMAGE, "int8")])).inputs
    assert given.scale is None and "along dimension 3" in given.formula
    (given,) = inspect(one_operator("ABS", [tensor(IMAGE)], [tensor(IMAGE)])).inputs
    assert (given.formula, given.lowest) == ("real = stored", None)


def test_the_command(small_files, tmp_path, capsys):
    path = tmp_path / "net.tflite"
    path.write_bytes(small_files["int8"].content)
    assert main(["inspect", str(path)]) == 0
    assert "XNNPACK (CPU)" in capsys.readouterr().out
    assert main(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["multiply_adds"] > 0
    path.write_bytes(small_files["int8"].content[:-4000])
    assert main(["inspect", str(path)]) == 2
    assert "a damaged TFLite file" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "none.tflite")]) == 2


@pytest.mark.parametrize("op, refuses", [("ABS", False), ("SIGN", True)])
def test_a_browser_refuses_only_files_with_operators_that_it_lacks(op, refuses):
    found = inspect(one_operator(op, [tensor(IMAGE)], [tensor(IMAGE)]))
    assert ("MediaPipe in a browser refuses the file." in "\n".join(_lines(found))) == refuses


def test_it_needs_no_tensorflow(small_files, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(small_files["int8"].content)
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None\n"
        f"from mobilenets_tf.export import inspect; print(inspect({str(path)!r}).multiply_adds)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == inspect(path).multiply_adds


def _abort():
    os.abort()


class _Aborting:
    """A worker whose call is of a function that ends the child, as a file that crashes LiteRT would."""

    def call(self, function, content):
        with Worker(preload="") as worker:
            return worker.call(_abort)


def test_a_crash_of_the_interpreter_is_a_message(small_files):
    trial = _trial(small_files["int8"].content, _Aborting())
    assert trial.plan is None and trial.arena_bytes is None and "SIGABRT" in trial.error


def test_it_is_public():
    assert export.inspect.__wrapped__ is inspect  # with its arguments' types checked
