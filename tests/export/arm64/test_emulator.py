"""Emulated arm64 cores: the protocol and its failures on this machine's own Python, and slowly the real thing."""

import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.export.arm64 import emulator, setup
from mobilenets_tf.export.targets import debian, host
from mobilenets_tf.export.targets.child import TargetError
from mobilenets_tf.export.targets.convolution import convolution
from mobilenets_tf.files import to_json
from mobilenets_tf.tasks.postprocess import Postprocess
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import Runner
from tests.cli.test_cli import COMMAND
from tests.conftest import photographs
from tests.support.forked import command as run

CONVOLUTION = convolution()


def on_this_machine(*words, patience=60.0):
    """An ``Emulator`` that emulates nothing: ``words`` come between this Python and the guest's script."""
    return emulator.Emulator((sys.executable, *words), dict(os.environ), {"host": "itself"}, patience)


def convolution_inputs(count):
    return list(host.random_inputs(Runner(CONVOLUTION), count))


def test_the_guest_answers_as_the_runtime_does():
    samples, seen = convolution_inputs(3), []
    emulated = on_this_machine().run(CONVOLUTION, samples, "any", lambda *progress: seen.append(progress))
    runner = Runner(CONVOLUTION, threads=1)
    for sample, (output,) in zip(samples, emulated.outputs, strict=True):
        runner.invoke(*sample)
        assert np.array_equal(output, runner.raw(runner.outputs[0]["index"])) and output.dtype == np.int8
    assert (emulated.kernels, emulated.partitions) == (platform.machine(), 1)
    assert seen == [("on the emulated any", done, 3) for done in range(4)]

    (core,) = emulator.compare_with_host(on_this_machine(), CONVOLUTION, samples, ["any"])
    assert (core.equal, core.passed, core.tolerance, core.sample, core.samples) == (True, True, 0, None, 3)
    assert core.line().endswith("equal bit for bit on 3 samples (256 different values)")


def test_outputs_that_hardly_vary_are_told():
    tree = flatbuffer.read(CONVOLUTION)
    for tensor in tree.subgraphs[0].tensors[1:3]:  # the weights and the bias
        tree.buffers[tensor.buffer].data = np.zeros(len(tree.buffers[tensor.buffer].data), np.uint8)
    (core,) = emulator.compare_with_host(on_this_machine(), flatbuffer.write(tree), convolution_inputs(2), ["any"])
    assert core.passed and core.values == 1 and "too few different values" in core.line()


# A guest whose outputs are not LiteRT's: `change` is done to each output, of which `calls` counts.
OTHERWISE = """
import runpy, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
right, calls = Interpreter.get_tensor, -1
def get_tensor(self, index):
    global calls
    calls += 1
    output = right(self, index)
    CHANGE
    return output
Interpreter.get_tensor = get_tensor
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def otherwise(change):
    return on_this_machine("-c", OTHERWISE.replace("CHANGE", change))


def test_one_level_in_one_sample_fails():
    samples = convolution_inputs(3)
    one = otherwise("if calls == 1: output[0, 5, 5, 7] ^= 1")
    (core,) = emulator.compare_with_host(one, CONVOLUTION, samples, ["any"])
    assert (core.equal, core.passed, core.sample) == (False, False, 1)
    largest = max(np.abs(Runner(CONVOLUTION)(*sample)[0]).max() for sample in samples)
    assert core.relative_difference == pytest.approx(0.1 / largest)  # the output's scale
    assert "FAILED" in core.line() and "sample 1 of 3" in core.line()


@pytest.fixture(scope="module")
def with_softmax():
    """The convolution with a SOFTMAX behind it, as at the end of a classifier."""
    tree = flatbuffer.read(CONVOLUTION)
    graph, schema = tree.subgraphs[0], flatbuffer.schema
    scores = int(graph.outputs[0])
    result = flatbuffer.add_tensor(tree, "probabilities", graph.tensors[scores].shape)
    graph.tensors[result].type = schema.TensorType.INT8
    graph.tensors[result].quantization = schema.QuantizationParametersT()
    graph.tensors[result].quantization.scale, graph.tensors[result].quantization.zeroPoint = [1 / 256], [-128]
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    graph.operators.append(flatbuffer.make_operator(tree, "SOFTMAX", [scores], [result], options))
    graph.outputs = [result]
    return flatbuffer.write(tree)


@pytest.mark.parametrize(
    ("change", "equal", "passed"),
    [
        ("pass", True, True),
        ("if calls % 2 == 0: output[0, 5, 5, 7] ^= 1", False, True),  # a level of the probabilities
        ("if calls % 2 == 0: output[0, 5, 5, 7] ^= 2", False, False),
        ("if calls % 2 == 1: output[0, 5, 5, 7] ^= 1", False, False),  # a level of what they are made of
    ],
)
def test_a_last_softmax_may_be_a_level_off_and_what_goes_into_it_may_not(with_softmax, change, equal, passed):
    (core,) = emulator.compare_with_host(otherwise(change), with_softmax, convolution_inputs(2), ["any"])
    assert (core.equal, core.equal_before_softmax, core.passed) == (equal, passed, passed)
    assert ("up to the last SOFTMAX" in core.line()) == (passed and not equal)


def test_floats_may_differ_a_little(convolutions):
    samples = list(host.random_inputs(Runner(convolutions), 2))
    limit = host.FLOAT_TOLERANCE
    for factor, passed in ((1 + limit / 2, True), (1 + 3 * limit, False), (np.nan, False), (np.inf, False)):
        change = f"output = (output * {factor}).astype(np.float32)".replace("nan", "np.nan").replace(
            "* inf", "* np.inf"
        )
        (core,) = emulator.compare_with_host(otherwise(change), convolutions, samples, ["any"])
        assert (core.equal, core.passed, core.tolerance) == (False, passed, limit)
        to_json(core.as_dict())


def test_what_may_differ_follows_from_what_the_file_computes(small, worker, convolutions):
    from mobilenets_tf.conversion.convert import convert, freeze

    assert host.tolerance(convolutions) == host.FLOAT_TOLERANCE
    frozen = freeze(small)
    assert host.tolerance(convert(frozen, worker, "float16")) == host.FLOAT_TOLERANCE
    assert host.tolerance(convert(frozen, worker, "int8")) == host.MIXED_TOLERANCE

    # An integer file; with floats at its end; and with an op in floats on the way.
    assert host.tolerance(CONVOLUTION) == 0
    tree = flatbuffer.read(CONVOLUTION)
    graph = tree.subgraphs[0]
    shape = graph.tensors[3].shape
    floats, changed, back = (flatbuffer.add_tensor(tree, name, shape) for name in ("floats", "changed", "back"))
    graph.operators.append(flatbuffer.make_operator(tree, "DEQUANTIZE", [3], [floats]))
    graph.outputs = [floats]
    assert host.tolerance(flatbuffer.write(tree)) == 0
    graph.operators.append(flatbuffer.make_operator(tree, "LOGISTIC", [floats], [changed]))
    graph.outputs = [changed]
    assert host.tolerance(flatbuffer.write(tree)) == host.FLOAT_TOLERANCE  # no level depends on them
    graph.operators.append(flatbuffer.make_operator(tree, "QUANTIZE", [changed], [back]))
    graph.tensors[back].type = graph.tensors[3].type
    graph.tensors[back].quantization = graph.tensors[3].quantization
    graph.outputs = [back]
    assert host.tolerance(flatbuffer.write(tree)) == host.MIXED_TOLERANCE


def classes(content):
    """A float file that gives the class of each place, uint8, as a segmenter's mask."""
    tree, schema = flatbuffer.read(content), flatbuffer.schema
    graph = tree.subgraphs[0]
    logits = int(graph.outputs[0])
    shape = list(map(int, graph.tensors[logits].shape))[:-1]
    highest, mask = (flatbuffer.add_tensor(tree, name, shape) for name in ("highest", "mask"))
    graph.tensors[highest].type, graph.tensors[mask].type = schema.TensorType.INT32, schema.TensorType.UINT8
    options = schema.ArgMaxOptionsT()
    options.outputType = schema.TensorType.INT32
    axis = flatbuffer.add_constant(tree, "axis", np.int32(-1))
    graph.operators += [
        flatbuffer.make_operator(tree, "ARG_MAX", [logits, axis], [highest], options, 2),
        flatbuffer.make_operator(tree, "CAST", [highest], [mask]),
    ]
    graph.outputs = [mask]
    return flatbuffer.write(tree)


def test_of_a_mask_the_pixels_are_counted(convolutions):
    """Another class is another class, however far its number is."""
    content = classes(convolutions)
    assert host.tolerance(content) == host.FLOAT_TOLERANCE
    samples = list(host.random_inputs(Runner(content), 2))
    change = "if calls == 1: output = output.copy(); output[0, 3, 3] ^= 4"
    (core,) = emulator.compare_with_host(otherwise(change), content, samples, ["any"])
    assert core.relative_difference == pytest.approx(1 / (13 * 10)) and core.sample == 1 and not core.passed


@pytest.fixture(scope="module")
def suppression():
    """What stands behind a detector, and two samples for it."""
    post = Postprocess(np.random.default_rng(0).uniform(0.2, 0.6, (90, 4)).astype(np.float32), 2, 50, 0.1)
    tree = flatbuffer.read(CONVOLUTION)
    graph = tree.subgraphs[0]
    graph.operators, graph.tensors = [], []
    graph.inputs = [flatbuffer.add_tensor(tree, name, (1, 90, depth)) for name, depth in (("boxes", 4), ("scores", 3))]
    graph.outputs, tree.signatureDefs = post.append(tree, *graph.inputs), []
    content = flatbuffer.write(tree)
    return content, list(host.random_inputs(Runner(content), 2))


def test_all_four_outputs_of_a_detector_are_compared(suppression):
    (core,) = emulator.compare_with_host(on_this_machine(), *suppression, ["any"])
    assert core.equal and core.tolerance == host.FLOAT_TOLERANCE and core.values > 100
    for output in range(4):
        change = f"if calls == {4 + output}: output = output + 1"
        (core,) = emulator.compare_with_host(otherwise(change), *suppression, ["any"])
        assert (core.passed, core.sample) == (False, 1), output


ABOUT = b'{"machine": "x", "capabilities": [0, 0], "partitions": 1, "inputs": 1, "outputs": 1}\\n'


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("sys.stderr.write('a last gasp'); sys.stderr.flush(); os.abort()", "ended with signal SIGABRT.*a last gasp"),
        ("sys.exit('no such wheel')", "ended with exit status 1.*no such wheel"),
        ("sys.stdin.buffer.read(9); say(ABOUT)", "ended with exit status 0"),
        ("say(b'Segmentation fault\\n'); sys.stdin.buffer.read()", "invalid answer"),
        ("say(b'[]\\n'); sys.stdin.buffer.read()", "invalid answer.*first line"),
        ("say(b'{}\\n'); sys.stdin.buffer.read()", "invalid answer.*first line"),
        ("say(ABOUT + b'garbage\\n'); sys.stdin.buffer.read()", "invalid answer.*expected an array"),
        ("say(ABOUT + b'[\"|O\", [1]]\\n12345678'); sys.stdin.buffer.read()", "invalid answer.*array of numbers"),
        ("say(ABOUT + b'[\"<f8\", [99999999999]]\\n'); sys.stdin.buffer.read()", "invalid answer.*numbers"),
        ("say(ABOUT + b'[\"|i1\", [-1]]\\n'); sys.stdin.buffer.read()", "invalid answer.*numbers"),
        ("say(ABOUT + b'[\"|i1\", [Infinity]]\\n'); sys.stdin.buffer.read()", "invalid answer.*numbers"),
        ("say(ABOUT + b'[' * 1024); sys.stdin.buffer.read()", "invalid answer.*expected an array"),
        ("say(ABOUT + b'[\"|i1\", [9]]\\n123')", "ended with exit status 0"),
    ],
)
def test_a_guest_that_crashes_or_talks_nonsense(code, told):
    start = f"import os, sys; ABOUT = {ABOUT.decode('unicode_escape').encode()!r}\n"
    start += "def say(text): sys.stdout.buffer.write(text); sys.stdout.flush()\n"
    with pytest.raises(TargetError, match=f"The emulated any .*{told}"):
        on_this_machine("-c", start + code).run(CONVOLUTION, convolution_inputs(2), "any")


def test_an_array_of_another_shape_is_no_answer():
    with pytest.raises(TargetError, match=r"int8\[1, 16, 16, 31\].*sample 0.*int8\[1, 16, 16, 32\]"):
        emulator.compare_with_host(otherwise("output = output[..., 1:]"), CONVOLUTION, convolution_inputs(1), ["any"])


@pytest.mark.parametrize(
    "code", ["time.sleep(99)", f"print({ABOUT.decode('unicode_escape')!r}, end=''); time.sleep(99)"]
)
def test_a_guest_that_hangs_is_ended(code):
    started = time.monotonic()
    hanging = on_this_machine("-uc", f"import time; {code}", patience=1.5)
    with pytest.raises(TargetError, match=r"gave no answer in 1\.5 s"):
        hanging.run(CONVOLUTION, convolution_inputs(1), "any")
    assert time.monotonic() - started < 15


def test_a_runtime_that_cannot_be_started():
    with pytest.raises(TargetError, match="/nowhere/qemu cannot be started: No such file"):
        emulator.Emulator(("/nowhere/qemu",)).run(CONVOLUTION, [], "any")
    with pytest.raises(RequestError, match="no samples"):
        emulator.compare_with_host(on_this_machine(), CONVOLUTION, [])


def installed(folder, **changes):
    """A folder that looks as if the runtime had been set up in it."""
    (folder / "root" / "usr" / "bin").mkdir(parents=True)
    for program in (folder / "qemu-aarch64", folder / "root" / "usr" / "bin" / "python3.11"):
        program.touch()
    versions = {"ai-edge-litert": importlib.metadata.version("ai-edge-litert")}
    manifest = {"python": "3.11", "qemu": None, "versions": versions} | changes
    (folder / "arm64.json").write_text(json.dumps(manifest))
    return folder


def test_find_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setenv("MOBILENETS_TF_HOME", str(tmp_path / "home"))
    with pytest.raises(RequestError, match=r"no emulated arm64 runtime in .*home/arm64.*mobilenets-tf arm64$"):
        setup.find()
    folder = installed(tmp_path / "there")
    assert setup.find(folder).command[0] == str(folder / "qemu-aarch64")
    (folder / "qemu-aarch64").unlink()
    with pytest.raises(RequestError, match=f"damaged.*mobilenets-tf arm64 --folder {folder}$"):
        setup.find(folder)
    old = installed(tmp_path / "old", versions={"ai-edge-litert": "1.0"})
    with pytest.raises(RequestError, match=r"has ai-edge-litert 1\.0, and this machine has"):
        setup.find(old)
    gone = installed(tmp_path / "gone", qemu="/bin/true")
    with pytest.raises(RequestError, match="older than QEMU 10, or does not run"):
        setup.find(gone)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "arm64.json").write_text('{"python": "3.11"')
    with pytest.raises(RequestError, match="no emulated arm64 runtime"):
        setup.find(tmp_path / "half")


def test_folders_of_others_are_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    with pytest.raises(RequestError, match="is not an arm64 runtime, and was not removed"):
        setup.remove(tmp_path / "mine")
    if shutil.which("apt-get"):
        with pytest.raises(RequestError, match="exists and is not an arm64 runtime"):
            setup.setup(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "mine"
    installed(tmp_path / "there")
    (tmp_path / ".there-unfinished-x").mkdir()
    assert (setup.remove(tmp_path / "there"), setup.remove(tmp_path / "there")) == (2, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_machines_on_which_it_cannot_be_set_up(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(RequestError, match="has no apt-get.*container.*--folder"):
        setup.setup(tmp_path / "arm64")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(RequestError, match="no emulator is needed"):
        setup.setup(tmp_path / "arm64")
    with pytest.raises(RequestError, match="None is needed: this machine is arm64"):
        setup.find(tmp_path / "arm64")
    assert not any(tmp_path.iterdir())


def test_apts_sources_in_both_formats(tmp_path):
    release, parts = tmp_path / "os-release", tmp_path / "sources.list.d"
    release.write_text('ID=debian\nVERSION_CODENAME="trixie"\n')
    parts.mkdir()
    (parts / "other.sources").write_text("Types: deb\nURIs: https://other.example/\nSuites: stuff\nComponents: main\n")
    (parts / "off.sources").write_text(
        "Enabled: no\nTypes: deb\nURIs: https://off.example/\nSuites: trixie\nComponents: main\n"
    )
    with pytest.raises(RequestError, match="no suite trixie with the component main"):
        debian.apt_sources(tmp_path, release)
    (tmp_path / "sources.list").write_text(
        "# deb https://old.example/ trixie main\n"
        "deb [arch=amd64 signed-by=/keys/a.gpg] https://one.example/debian trixie main contrib # mine\n"
        "deb-src https://one.example/debian trixie main\ndeb https://one.example/debian trixie-updates main\n"
    )
    (parts / "debian.sources").write_text(
        "# the mirror\nTypes: deb deb-src\nURIs: https://two.example/debian https://three.example/debian\n"
        "Suites: trixie trixie-updates\nComponents: main\nSigned-By:\n -----BEGIN\n .\n key\n"
    )
    sources, suite = debian.apt_sources(tmp_path, release)
    assert suite == "trixie"
    assert sources == [
        {"Types": "deb", "URIs": "https://one.example/debian", "Signed-By": "/keys/a.gpg", "Components": "main"},
        {
            "Types": "deb", "URIs": "https://two.example/debian https://three.example/debian",
            "Signed-By": "\n -----BEGIN\n .\n key", "Components": "main",
        },
    ]  # fmt: skip
    (tmp_path / "sources.list").write_text("deb https://one.example/debian stable main\n")
    (parts / "debian.sources").unlink()
    assert debian.apt_sources(tmp_path, release)[1] == "stable"


@pytest.fixture
def file(tmp_path):
    (tmp_path / "net.tflite").write_bytes(CONVOLUTION)
    return tmp_path / "net.tflite"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "pass --model"),
        (["--arm64"], "Set it up:  mobilenets-tf arm64"),
        (["--model", "mobilenet_v1"], "To compare with mobilenet_v1, give --images"),
        (["--arm64", "--weights", "imagenet", "--alpha", 1], "--weights, --alpha describes the model"),
        (["--model", "mobilenet_v1", "--images", ".", "--cpu", "cortex-a53"], "--cpu is for emulated cores"),
    ],
)
def test_requests_that_verify_refuses(file, arguments, told):
    done = run("verify", file, *arguments, cwd=file.parent, MOBILENETS_TF_HOME=file.parent / "home")
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_random_inputs_know_their_types(convolutions):
    (sample,) = host.random_inputs(Runner(CONVOLUTION), 1)
    assert sample[0].dtype == np.int8 and {sample[0].min(), sample[0].max()} == {-128, 127}
    (sample,) = host.random_inputs(Runner(convolutions), 1)
    assert sample[0].dtype == np.float32 and abs(sample[0].std() - 1) < 0.1


# The rest makes the runtime for real, out of Debian's packages.

needs_debian = pytest.mark.skipif(
    not shutil.which("apt-get") or setup._is_arm64(), reason="the emulated runtime is made with apt, on x86-64"
)


@pytest.fixture(scope="module")
def features(small):
    """What the classifier sees: many values, where ten probabilities have few levels."""
    import keras

    return keras.Model(small.input, small.layers[-1].input)


@pytest.fixture(scope="module")
def integer_and_float(features, worker):
    from mobilenets_tf.export.tflite import convert_model
    from mobilenets_tf.quantize import SCHEMES

    pictures = photographs(100)
    return {
        scheme: convert_model(features, SCHEMES[scheme], pictures, worker).content for scheme in ("int8", "float32")
    }


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runtime") / "arm64"
    before = apt_state()
    seen = []
    setup.setup(folder, lambda label, *_: seen.append(label))
    assert apt_state() == before
    assert {"downloading packages", "testing the runtime"} <= set(seen)
    assert [path.name for path in folder.parent.iterdir()] == ["arm64"]
    return folder


def apt_state():
    """What apt and dpkg keep in the system."""
    places = [Path("/var/lib/apt/lists"), Path("/var/cache/apt"), Path("/var/lib/dpkg"), Path("/etc/apt")]
    return {path: path.stat().st_mtime_ns for place in places for path in [place, *place.rglob("*")] if path.is_file()}


@pytest.mark.slow
@needs_debian
def test_an_integer_and_a_float_file_on_all_cores(runtime, integer_and_float, suppression):
    machine = setup.find(runtime)
    assert int(machine.versions["qemu"].split(".")[0]) >= setup.OLDEST_QEMU
    for scheme, content in integer_and_float.items():
        cores = emulator.compare_with_host(machine, content, [[picture] for picture in photographs(3)])
        assert [core.kernels for core in cores] == ["smlal", "sdot", "smmla"]
        assert all(core.passed and core.partitions for core in cores), [core.line() for core in cores]
        assert scheme == "float32" or all(core.equal for core in cores)  # floats may be equal too
        assert cores[0].values > host.FEW_VALUES
    assert all(core.equal for core in emulator.compare_with_host(machine, *suppression))
    with pytest.raises(TargetError, match="cortex-a99"):
        machine.run(CONVOLUTION, [], "cortex-a99")
    with pytest.raises(RequestError, match="Did you mean 'cortex-a76'"):
        setup.check_cpus(machine, ["cortex-a77"])


@pytest.mark.slow
@needs_debian
def test_verify_on_the_command_line(runtime, features, integer_and_float, image_folder, tmp_path):
    (tmp_path / "mine.tflite").write_bytes(integer_and_float["int8"])
    features.save(tmp_path / "mine.keras")
    common = ["verify", tmp_path / "mine.tflite", "--arm64", "--folder", runtime]
    done = run(*common, "--count", 2)
    assert done.returncode == 0 and done.stdout.count("equal bit for bit on 2 samples") == 3, done.stderr
    assert emulator.NOT_PROVED in done.stdout
    done = run(*common, "--images", image_folder)
    assert done.returncode == 2 and "Pass --mean and --std" in done.stderr
    options = ["--images", image_folder, "--mean", 127.5, "--std", 127.5, "--cpu", "cortex-a55", "--json"]
    done = run(*common, *options, "--model", tmp_path / "mine.keras", "--min-agreement", 0)
    document = json.loads(done.stdout)
    assert document["passed"] and document["images"] == 10 and document["arm64"]["versions"]["qemu"]
    (core,) = document["arm64"]["cores"]
    assert (core["cpu"], core["kernels"], core["samples"], core["equal"]) == ("cortex-a55", "sdot", 8, True)
    import keras

    other = keras.models.clone_model(features)
    other.set_weights([0 * weights for weights in features.get_weights()])
    other.save(tmp_path / "other.keras")
    assert run(*common, *options, "--model", tmp_path / "other.keras").returncode == 1


@pytest.mark.slow
@needs_debian
def test_a_qemu_on_the_path_is_taken(runtime, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "qemu-aarch64").symlink_to(runtime / "qemu-aarch64")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    machine = setup.setup(tmp_path / "arm64")
    assert machine.command[0] == str(tmp_path / "bin" / "qemu-aarch64")
    assert not (tmp_path / "arm64" / "qemu-aarch64").exists()
    manifest = json.loads((tmp_path / "arm64" / "arm64.json").read_text())
    assert "qemu-user" not in [package["name"] for package in manifest["packages"]]
    assert all(len(package["sha256"]) == 64 for package in manifest["packages"] + manifest["wheels"])


@pytest.mark.slow
@needs_debian
@pytest.mark.parametrize("moment", ["downloading packages", "downloading LiteRT"])
def test_ctrl_c_leaves_no_half_a_runtime(tmp_path, moment):
    process = subprocess.Popen(
        [*COMMAND, "arm64", "--folder", str(tmp_path / "arm64")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    for line in process.stderr:
        if line.startswith(moment):
            break
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors, errors
    assert not any(tmp_path.iterdir())
