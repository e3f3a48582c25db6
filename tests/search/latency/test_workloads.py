"""What operators have to do."""

import pytest

from mobilenets_tf import RequestError, counts
from mobilenets_tf.search.latency.workloads import Workload, multiply_adds, workloads
from tests.support.small_files import additions


def test_multiply_adds_are_those_of_the_keras_model(mobilenet, mobilenet_file):
    assert multiply_adds(workloads(mobilenet_file)) == counts(mobilenet)["macs"]


def test_operators_of_a_network(mobilenet_file):
    found = workloads(mobilenet_file)
    assert found[0] == Workload("CONV_2D", "float32", (32, 32), (3, 16), (3, 3), (2, 2), activation="relu6")
    depthwise = next(each for each in found if each.op == "DEPTHWISE_CONV_2D" and each.stride == (2, 2))
    assert (depthwise.kernel, depthwise.channels, depthwise.size) == ((3, 3), (48, 48), (16, 16))
    assert depthwise.bytes_read == 32 * 32 * 48 * 4 and depthwise.bytes_written == 16 * 16 * 48 * 4
    assert depthwise.bytes_of_weights == 9 * 48 * 4
    mean = next(each for each in found if each.op == "MEAN")
    assert (mean.size, mean.channels, mean.bytes_written) == ((2, 2), (1280, 1280), 1280 * 4)


def test_the_form_of_the_second_operand_is_part_of_the_operator():
    assert [each.op for each in workloads(additions(2, last=None))] == ["ADD", "ADD"]


def test_text_can_be_read_again(mobilenet_file):
    for each in workloads(mobilenet_file):
        assert Workload.parse(str(each)) == each


@pytest.mark.parametrize(
    "text",
    [
        "",
        "CONV_2D",
        "CONV_2D, int8, 5x5, 1 to 2, kernel 1x1, stride 1x1, dilation 1x1, none\n",
        "CONV_2D, int8, 5x5, 1 to 2, kernel 0x1, stride 1x1, dilation 1x1, none",
        "CONV_2D, int8, 5x5, 1 to 2, kernel 1x1, stride 1x0, dilation 1x1, none",
        "x" * 10_000,
    ],
)
def test_other_text_is_refused(text):
    with pytest.raises(RequestError, match="describes no operator; expected such as 'CONV_2D, int8"):
        Workload.parse(text)
