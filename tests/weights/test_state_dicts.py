"""Checkpoints as training scripts write them: the network's weights are found in every nesting."""

import io
import zipfile

import numpy as np
import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.weights import checkpoints
from tests.support.hostile_files import pickled, stored, torch_legacy, torch_zip

NAMES = ("conv_stem.weight", "classifier.weight", "classifier.bias")
VALUES = np.arange(4, dtype="f4")


def operations(items):
    """The operations that push a dict."""
    return pickled(items)[2:-1]


def state(prefix="", key="0", names=NAMES):
    return operations({prefix + name: stored(key, 4, (4,), (1,)) for name in names})


def written(tmp_path, pushed, name="w.pth"):
    path = tmp_path / name
    path.write_bytes(torch_zip(b"\x80\x02" + pushed + b".", VALUES.tobytes(), (-VALUES).tobytes()))
    return path


NUMBER = stored("1", 4, (), ())
NAMESPACE = b"cargparse\nNamespace\n)\x81}X\x02\x00\x00\x00lrK\x01sb"
NUMPY = (
    b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\x00\x00\x00f8\x89\x88\x87R"
    b"c_codecs\nencode\nX\x08\x00\x00\x0012345678X\x06\x00\x00\x00latin1\x86R\x86R"
)
OPTIMIZER = operations({"state": b"}K\x00" + operations({"momentum_buffer": stored("1", 4, (4,), (1,))}) + b"s"})
AVERAGE = {f"module.{name}": stored("0", 4, (4,), (1,)) for name in NAMES} | {"n_averaged": NUMBER}
NESTED = {
    "plain": state(),
    "module": state("module."),
    "orig_mod": state("_orig_mod."),
    "both": state("module._orig_mod."),
    "both the other way": state("_orig_mod.module."),
    "inside": operations({"conv_stem._orig_mod.weight": stored("0", 4, (4,), (1,))}),
    "tutorial": operations({"model_state_dict": state(), "optimizer_state_dict": OPTIMIZER, "epoch": b"K\x04"}),
    "net": operations({"net": state(), "acc": b"K\x5b"}),
    "timm": operations({"state_dict": state(), "optimizer": OPTIMIZER, "args": NAMESPACE, "metric": NUMPY}),
    "tensors beside it": operations({"best_acc1": NUMBER, "state_dict": state("module.")}),
    "deep": operations({"checkpoint": operations({"states": operations({"model": state()})})}),
    "average": operations({"model": state(key="1"), "model_ema": operations(AVERAGE)}),
    "average of too few": operations({"model": state(), "ema": state(key="1", names=NAMES[:1])}),
    "lightning": operations({"state_dict": state("model."), "hyper_parameters": b"}"}),
}  # fmt: skip


@pytest.mark.parametrize("nesting", NESTED)
def test_the_weights_are_found_in_every_nesting(tmp_path, nesting):
    from mobilenets_tf.weights import load

    read, _ = load._recognise(checkpoints.read(written(tmp_path, NESTED[nesting])))
    np.testing.assert_array_equal(read.tensors["conv_stem.weight"], VALUES)
    if nesting != "inside":
        assert set(NAMES) <= set(read.tensors)


def test_a_whole_module_is_read_without_its_classes(tmp_path):
    def module(parameters, children=b"}", fleeting=b""):
        state = {
            "_parameters": operations(parameters),
            "_buffers": operations({"left_out": stored("1", 4, (4,), (1,))} if fleeting else {}),
            "_modules": children,
        }
        names = b"c__builtin__\nset\n](X\x08\x00\x00\x00left_oute\x85R"
        state |= {"_non_persistent_buffers_set": names} if fleeting else {}
        return b"cmine.models\nNet\n)\x81" + operations(state) + b"b"

    stem = module({"weight": stored("0", 4, (4,), (1,))}, fleeting=b"1")
    path = written(tmp_path, module({}, operations({"conv_stem": stem})))
    assert set(checkpoints.read(path).tensors) == {"conv_stem.weight"}


def test_safetensors_of_a_wrapped_model(tmp_path):
    from safetensors.numpy import save_file

    save_file({"module.conv_stem.weight": VALUES}, tmp_path / "w.safetensors")
    assert set(checkpoints.read(tmp_path / "w.safetensors").tensors) == {"conv_stem.weight"}


@pytest.mark.parametrize("suffix", ["ckpt", "pkl", "bin", "anything"])
def test_the_content_tells_the_format(tmp_path, suffix):
    assert set(checkpoints.read(written(tmp_path, state(), f"w.{suffix}")).tensors) == set(NAMES)


@pytest.mark.parametrize(
    ("pushed", "told"),
    [
        (operations({"epoch": b"K\x04", "loss": b"K\x01"}), "no tensors among epoch, loss"),
        (operations({"first": state(), "second": state()}), "several state dicts .first, second"),
        (b"K\x05", "holds a int, not a state dict"),
        (operations({"a.weight": stored("0", 4, (4,), (1,)), "module.a.weight": stored("0", 4, (4,), (1,))}), "twice"),
        (b"cmine\nload\n)R", "asks for mine.load, which is not needed"),
    ],
)
def test_what_is_there_instead_is_said(tmp_path, pushed, told):
    with pytest.raises(RequestError, match=told):
        checkpoints.read(written(tmp_path, pushed))


def test_two_networks_under_prefixes_are_told(tmp_path):
    from mobilenets_tf.weights import load

    both = {f"{prefix}.conv_stem.weight": stored("0", 4, (4,), (1,)) for prefix in ("student", "teacher")}
    with pytest.raises(RequestError, match="several networks, under student., teacher."):
        load._recognise(checkpoints.read(written(tmp_path, operations(both))))


def test_the_old_format_has_the_same_nestings(tmp_path):
    keys = b"\x80\x02]X\x01\x00\x00\x000a."
    pickle = b"\x80\x02" + operations({"net": state("module.")}) + b"."
    count = np.array(4, "<i8").tobytes()
    (tmp_path / "w.pth").write_bytes(torch_legacy(pickle, keys, count + VALUES.tobytes()))
    np.testing.assert_array_equal(checkpoints.read(tmp_path / "w.pth").tensors["classifier.bias"], VALUES)


def test_a_zip_of_something_else(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("readme.txt", "hello")
    (tmp_path / "w.pth").write_bytes(stream.getvalue())
    with pytest.raises(RequestError, match="not one of torch.save"):
        checkpoints.read(tmp_path / "w.pth")
