"""Files with other widths: each runs, and does the work of a network of these widths."""

import numpy as np
import pytest

from mobilenets_tf import RequestError, Runner
from mobilenets_tf.search.latency.file_widths import FileWidths
from mobilenets_tf.search.latency.variants import SHARES, multiple, variants
from mobilenets_tf.search.latency.workloads import workloads
from tests.support.small_files import additions


@pytest.mark.parametrize("scheme", ["float32", "int8"])
def test_each_group_can_have_another_width(contents, scheme):
    file = FileWidths(contents[scheme])
    assert sorted(file.groups.values()) == [16, 16, 48, 48, 64]  # stem, residual stream, two expansions, head
    widths = {name: 8 * place for place, name in enumerate(file.groups, 2)}
    new = FileWidths(file.with_widths(widths))
    assert list(new.groups.values()) == list(widths.values())
    assert len(workloads(contents[scheme])) == len(new.operators())
    runner = Runner(file.with_widths(widths))
    assert runner.execution_plan()["DELEGATE"] == 1
    (outputs,) = runner(np.zeros((1, 64, 64, 3), np.float32))
    assert outputs.shape == (1, 10) and np.isfinite(outputs).all()


def test_a_group_is_what_is_added_or_filtered_channel_by_channel(contents):
    file = FileWidths(contents["float32"])
    stream = next(name for name, width in file.groups.items() if width == 16 and "stem" not in name)
    before, after = workloads(contents["float32"]), workloads(file.with_widths({stream: 24}))
    changed = [(old.op, old.channels, new.channels) for old, new in zip(before, after, strict=True) if old != new]
    assert changed == [
        ("CONV_2D", (48, 16), (48, 24)),  # projects to the stream
        ("CONV_2D", (16, 48), (24, 48)),  # expands it
        ("CONV_2D", (48, 16), (48, 24)),  # projects the residual
        ("ADD", (16, 16), (24, 24)),
        ("CONV_2D", (16, 64), (24, 64)),
    ]


@pytest.mark.parametrize("scheme", ["float32", "int8"])
def test_kernels(contents, scheme):
    file = FileWidths(contents[scheme])
    assert list(file.kernels.values()) == [(3, 3), (3, 3)]
    widths = dict.fromkeys(file.groups, 40)
    new = file.with_widths(widths, dict.fromkeys(file.kernels, (5, 5)))
    Runner(new)
    depthwise = [each for each in workloads(new) if each.op == "DEPTHWISE_CONV_2D"]
    assert [(each.kernel, each.channels, each.size) for each in depthwise] == [
        ((5, 5), (40, 40), (16, 16)),
        ((5, 5), (40, 40), (16, 16)),
    ]


def test_a_kernel_takes_its_padding_along(float_file):
    """PyTorch's padding is a PAD and a valid convolution."""
    import keras
    from keras import layers

    inputs = keras.Input((16, 16, 4))
    x = layers.Conv2D(8, 1, activation="relu")(inputs)
    x = layers.DepthwiseConv2D(3, 2, use_bias=False)(layers.ZeroPadding2D(1)(x))
    file = FileWidths(float_file(keras.Model(inputs, layers.Conv2D(4, 1)(x))))
    (name,) = file.kernels
    for side in (1, 3, 5, 7):
        new = file.with_widths({}, {name: (side, side)})
        Runner(new)
        (depthwise,) = (each for each in workloads(new) if each.op == "DEPTHWISE_CONV_2D")
        assert depthwise.kernel == (side, side) and depthwise.size == (8, 8)


def test_attention_stays(made_once, float_file):
    """Its operators mix positions and channels; the layers around it can have other widths."""
    from tests.support.classifiers import attentive

    file = FileWidths(made_once("attentive_float_file", lambda: float_file(attentive())))
    assert file.groups
    Runner(file.with_widths({name: multiple(width * 0.5) for name, width in file.groups.items()}))


def test_wrong_requests(contents):
    file = FileWidths(contents["int8"])
    name = next(iter(file.groups))
    with pytest.raises(RequestError, match="Unknown group of channels 'nothing'"):
        file.with_widths({"nothing": 8})
    with pytest.raises(RequestError, match="cannot have 0 channels; expected at least 1"):
        file.with_widths({name: 0})
    kernel = next(iter(file.kernels))
    with pytest.raises(RequestError, match=r"cannot have the kernel \(4, 4\): \(3, 3\) plus a multiple of 2"):
        file.with_widths({}, {kernel: (4, 4)})
    with pytest.raises(RequestError, match="Unknown depthwise convolution"):
        file.with_widths({}, {"nothing": (5, 5)})
    with pytest.raises(RequestError, match="not a TFLite file"):
        FileWidths(b"something else")


def test_a_file_without_weights_has_no_groups():
    assert FileWidths(additions(2, last=None)).groups == {}


def test_variants(contents):
    """The first is the network itself, the next have one share throughout; the same arguments give the same files."""
    made = list(variants(contents["int8"], 12, kernels=(3, 5), seed=1))
    assert workloads(made[0]) == workloads(contents["int8"])
    groups = [FileWidths(each).groups for each in made]
    own = groups[0]
    for share, found in zip(SHARES, groups, strict=False):
        assert list(found.values()) == [multiple(width * share) for width in own.values()]
    assert len({tuple(found.values()) for found in groups}) > 8
    assert {each.kernel for content in made for each in workloads(content) if each.op == "DEPTHWISE_CONV_2D"} == {
        (3, 3),
        (5, 5),
    }
    assert made == list(variants(contents["int8"], 12, kernels=(3, 5), seed=1))
    assert made != list(variants(contents["int8"], 12, kernels=(3, 5), seed=2))
