"""The GPU accelerator: what is made of its answers, the search for the first wrong operator; slowly the real thing."""

import json
import os

import numpy as np
import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.conversion.half_sums import with_means
from mobilenets_tf.export.gpu import accelerator as gpu
from mobilenets_tf.export.gpu import setup
from mobilenets_tf.export.gpu.bisection import first_fault
from mobilenets_tf.export.targets.child import TargetError
from mobilenets_tf.export.targets.convolution import convolution, convolution_input
from mobilenets_tf.export.targets.host import random_inputs, run_on_host
from mobilenets_tf.files import to_json
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.flatbuffer import schema
from mobilenets_tf.tflite.runtime import Runner
from tests.support.forked import command as run
from tests.support.gpu import accelerator, needs_drivers
from tests.support.strangers_files import Draft

SHAPE = (1, 8, 8, 4)


def on_host(content, samples):
    return run_on_host(content, samples, scores=False)


def chain(*names, branch=False):
    """The content of a float file of one operator after another. branch: a sum of the first and the last at the end."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [graph], [], [schema.BufferT()]
    graph.tensors, graph.operators, graph.inputs = [], [], [0]
    flatbuffer.add_tensor(model, "input", SHAPE)
    for name in names:
        last = len(graph.tensors) - 1
        axes = [flatbuffer.add_constant(model, "axes", np.array([1, 2], np.float32))] if name in ("SUM", "MEAN") else []
        for index in axes:
            graph.tensors[index].type = schema.TensorType.INT32
            model.buffers[graph.tensors[index].buffer].data = np.array([1, 2], np.int32).view(np.uint8)
        options = schema.ReducerOptionsT() if axes else None
        shape = (1, 1, 1, 4) if axes else graph.tensors[last].shape
        if axes:
            options.keepDims = True
        output = flatbuffer.add_tensor(model, f"net/{name.lower()}_{last}/y", shape)
        graph.operators.append(flatbuffer.make_operator(model, name, [last, *axes], [output], options))
    if branch:
        ends = [graph.operators[0].outputs[0], graph.operators[-1].outputs[0]]
        output = flatbuffer.add_tensor(model, "net/sum/y", SHAPE)
        graph.operators.append(flatbuffer.make_operator(model, "ADD", ends, [output], schema.AddOptionsT()))
    graph.outputs = [len(graph.tensors) - 1]
    return flatbuffer.write(model)


class Wrong(gpu.Accelerator):
    """An accelerator that computes as the CPU does, but for files that compute one tensor: ``change`` changes their
    outputs, or without one the process dies."""

    def run(self, content, inputs, precision=gpu.SINGLE, progress=None):
        tree = flatbuffer.read(content)
        graph = tree.subgraphs[0]
        outputs = on_host(content, inputs).outputs
        if any(graph.tensors[operator.outputs[0]].name == self.versions["wrong"] for operator in graph.operators):
            if self.versions["change"] is None:
                raise TargetError("The GPU accelerator ended with signal SIGSEGV.")
            outputs = [[self.versions["change"](array) for array in each] for each in outputs]
        return gpu.GpuRun(outputs, True, 0, (), "test")


def wrong(name, change=lambda array: array * 1.5):
    return Wrong({gpu.SINGLE: {}}, {"wrong": name, "change": change})


@pytest.mark.parametrize("branch", [False, True])
@pytest.mark.parametrize("place", [0, 1, 3, 5])
def test_the_first_wrong_operator_is_found(place, branch):
    names = ("ABS", "SQRT", "SIN", "TANH", "EXP", "NEG")
    content = chain(*names, branch=branch)
    (sample,) = random_inputs(Runner(content), 1)
    tensor = flatbuffer.read(content).subgraphs[0].tensors[place + 1].name
    for change in (lambda array: array * 1.5, lambda array: array * np.float32(np.nan), None):
        device = wrong(tensor, change)
        assert not gpu.compare(device, on_host(content, [sample])).passed
        fault = first_fault(device, content, sample, gpu.SINGLE, on_host)
        # "net/abs_0/y" is how Keras calls what is in a layer "abs".
        assert (fault.place, fault.operator, fault.layer) == (place, names[place], names[place].lower())
        assert fault.output == tensor.decode() and fault.output in fault.line()
        assert (fault.error is None) == (change is not None)
        if change is not None:
            assert fault.alone == fault.relative_difference > gpu.SINGLE_TOLERANCE
        to_json(fault.as_dict())
    assert names[place] in fault.line() and "SIGSEGV" in fault.line()


def test_a_file_without_a_wrong_operator_has_no_fault():
    content = chain("ABS", "SQRT")
    (sample,) = random_inputs(Runner(content), 1)
    assert first_fault(wrong(b"nothing"), content, sample, gpu.SINGLE, on_host) is None


LOG = """
ERROR: Following operations are not supported by GPU delegate:
L2_NORMALIZATION: Operation is not supported.
3 operations will run on the GPU, and the remaining 1 operations will run on the CPU.
Selected adapter: SwiftShader Device (Subzero), arch=swiftshader, vendor=google
ERROR: Following operations are not supported by GPU delegate:
ADD: Tensor "t1" has bad input dims size: 0.
SELECT: Max version supported: 1. Requested version 2.
2 operations will run on the GPU, and the remaining 2 operations will run on the CPU.
INFO: other
"""


def test_what_litert_says_of_operators_outside():
    content = chain("ABS", "SQRT")
    refusals = (
        'ADD: Tensor "t1" has bad input dims size: 0.',
        "SELECT: Max version supported: 1. Requested version 2.",
    )
    assert gpu._outside(LOG, content, False) == (2, refusals)
    assert gpu._outside(LOG.replace("2 operations will run on the GPU, and the remaining", "No operations will run on "
                        "the GPU, and all"), content, False) == (2, refusals)  # fmt: skip
    assert gpu._outside("", content, False) == (2, ())
    assert gpu._outside(LOG, content, True) == (0, ())
    assert gpu._driver(LOG) == "SwiftShader Device (Subzero)"


def test_how_a_comparison_reads():
    content = chain("ABS", "SQRT")
    host = on_host(content, list(random_inputs(Runner(content), 2)))
    good = gpu.compare(wrong(b"nothing"), host)
    assert good.passed and good.relative_difference == 0 and (good.levels, good.absolute) == (None, 0)
    assert good.lines()[1].strip() == "CompiledModel: fully accelerated, all 2 operators on the GPU"
    bad = gpu.compare(wrong(b"net/abs_0/y"), host)
    assert not bad.passed and "FAILED: the outputs differ" in bad.lines()[0] and "0.001 is allowed" in bad.lines()[0]
    dead = gpu.compare(wrong(b"net/abs_0/y", None), host)
    assert not dead.passed and dead.outside is None and dead.lines()[0].endswith("signal SIGSEGV.")
    to_json(dead.as_dict())
    integers = on_host(convolution(), [[convolution_input()]])
    assert gpu.tolerance(host, gpu.SINGLE) == gpu.SINGLE_TOLERANCE < gpu.tolerance(host, gpu.HALF)
    assert gpu.tolerance(integers, gpu.SINGLE) == gpu.ROUNDED_TOLERANCE
    one = gpu.compare(wrong(b"output", lambda array: array ^ np.int8(1)), integers)
    assert one.passed and one.levels == 1 and "at most 1 level," in one.lines()[0]


def test_find_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setenv("MOBILENETS_TF_HOME", str(tmp_path / "home"))
    with pytest.raises(RequestError, match=r"no Vulkan drivers .*home/gpu.*mobilenets-tf gpu$"):
        setup.find()
    (tmp_path / "there").mkdir()
    manifest = {"drivers": ["single"], "packages": [{"name": "chromium-common", "version": "1"}]}
    (tmp_path / "there" / "gpu.json").write_text(json.dumps(manifest))
    with pytest.raises(RequestError, match=f"damaged.*mobilenets-tf gpu --folder {tmp_path / 'there'}$"):
        setup.find(tmp_path / "there")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    with pytest.raises(RequestError, match="was not removed"):
        setup.remove(tmp_path / "mine")
    assert (setup.remove(tmp_path / "there"), setup.remove(tmp_path / "there")) == (1, 0)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--gpu"], "Set it up:  mobilenets-tf gpu"),
        (["--gpu", "--cpu", "cortex-a53"], "--cpu is for emulated cores"),
        (["--gpu", "--arm64", "--folder", "."], "--folder is for the runtime of one target"),
        (["--model", "mobilenet_v1", "--images", ".", "--folder", "."], "--folder is for the runtime of one target"),
        (["--gpu", "--weights", "imagenet"], "--weights describes the model"),
    ],
)
def test_requests_that_verify_refuses(tmp_path, arguments, told):
    (tmp_path / "net.tflite").write_bytes(convolution())
    done = run("verify", tmp_path / "net.tflite", *arguments, cwd=tmp_path, MOBILENETS_TF_HOME=tmp_path / "home")
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr, done.stderr


# The rest runs LiteRT's accelerator on drivers out of Debian's packages.


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    return accelerator(tmp_path_factory)


@pytest.mark.slow
@needs_drivers
def test_integers_and_floats_on_the_accelerator(device):
    integers = on_host(convolution(), [[convolution_input()]])
    floats = chain("ABS", "SQRT", "TANH")
    floats = on_host(floats, list(random_inputs(Runner(floats), 2)))
    part = chain("ABS", "L2_NORMALIZATION", "SQRT", "TANH")
    part = on_host(part, list(random_inputs(Runner(part), 1)))
    for precision in device.drivers:
        for host, levels in ((integers, True), (floats, False)):
            found = gpu.compare(device, host, precision)
            assert found.passed and found.whole and found.outside == 0, found.lines()
            assert (found.levels is not None) == levels and (found.absolute is not None) != levels
        found = gpu.compare(device, part, precision)
        assert found.passed and not found.whole and found.outside == 2, found.lines()
        assert found.refusals == ("L2_NORMALIZATION: Operation is not supported.",)


@pytest.mark.slow
@needs_drivers
def test_a_sum_that_passes_half_precision_is_named(device):
    """LiteRT #9249: a sum over positions passes 65,504, the largest number of half precision."""
    if gpu.HALF not in device.drivers:
        pytest.skip(gpu.NO_HALF)
    content, sample = chain("ABS", "SUM", "SQRT"), [np.full(SHAPE, 2000, np.float32)]
    host = on_host(content, [sample])
    assert gpu.compare(device, host, gpu.SINGLE).passed
    assert gpu.compare(device, host, gpu.HALF).relative_difference == np.inf
    fault = first_fault(device, content, sample, gpu.HALF, on_host)
    mean = on_host(chain("ABS", "MEAN", "SQRT"), [sample])
    assert gpu.compare(device, mean, gpu.HALF).passed  # which adds the same values
    assert (fault.operator, fault.place) == ("SUM", 1) and fault.alone > gpu.ROUNDED_TOLERANCE


@pytest.mark.slow
@needs_drivers
def test_an_exported_sum_is_finite_in_half_precision(device):
    """A squeeze-and-excite whose pooling is a sum: NaN as it is, right as the exporter writes it."""
    if gpu.HALF not in device.drivers:
        pytest.skip(gpu.NO_HALF)
    draft = Draft((1, 16, 16, 4))
    options = schema.ReducerOptionsT()
    options.keepDims = True
    total = draft.op("SUM", [draft.x, draft.integers((1, 2))], (1, 1, 1, 4), options)
    gate = draft.conv(draft.binary("MUL", total, 1e-6), 4, kernel=1)
    as_it_is = draft.finished(draft.binary("MUL", draft.x, gate))
    sample = [np.random.default_rng(0).uniform(500, 1000, (1, 16, 16, 4)).astype(np.float32)]
    large = Draft((1, 112, 112, 4))
    large = large.finished(large.mean(large.x, (1, 2)))
    values = [np.full((1, 112, 112, 4), 60000, np.float32)]
    assert gpu.compare(device, on_host(large, [values]), gpu.HALF).relative_difference < 0.001  # it adds in single
    as_written = with_means(as_it_is)
    before, after = (gpu.compare(device, on_host(each, [sample]), gpu.HALF) for each in (as_it_is, as_written))
    assert not before.passed and before.relative_difference > 0.5
    assert after.passed and after.whole and after.relative_difference < 0.01


@pytest.mark.slow
@needs_drivers
def test_a_driver_that_is_not_there_and_one_that_hangs(device, tmp_path):
    environment = device.drivers[gpu.SINGLE] | {"VK_DRIVER_FILES": str(tmp_path / "none"), "VK_ICD_FILENAMES": "none"}
    host = on_host(convolution(), [[convolution_input()]])
    found = gpu.compare(gpu.Accelerator({gpu.SINGLE: environment}), host)
    assert not found.passed, found.lines()
    hung = gpu.Accelerator(device.drivers, patience=0.01)
    assert "gave no answer in 0.01 s and was ended" in gpu.compare(hung, host).lines()[0]


@pytest.mark.slow
@needs_drivers
def test_verify_on_the_command_line(device, tmp_path):
    (tmp_path / "net.tflite").write_bytes(convolution())
    folder = os.path.dirname(os.path.dirname(device.drivers[gpu.SINGLE]["VK_DRIVER_FILES"]))
    words = ["verify", tmp_path / "net.tflite", "--gpu", "--folder", folder, "--count", 2]
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0 and "fully accelerated" in done.stdout, done.stdout + done.stderr
    assert gpu.NOT_PROVED in done.stdout
    document = json.loads(run(*words, "--json", cwd=tmp_path).stdout)
    assert document["passed"] and [each["passed"] for each in document["gpu"]["precisions"]] == [True] * len(
        device.drivers
    )
