"""Open sides of inputs, of Keras models, of graphs and of files alike."""

import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.data.input_shapes import fixed_shapes


def fixed(resolution, *shapes):
    given = {place: (f"input {place}", shape) for place, shape in enumerate(shapes)}
    return list(fixed_shapes(given, "mine", resolution, "Build the model again").values())


@pytest.mark.parametrize(
    ("resolution", "shapes", "wanted"),
    [
        (None, [(1, 12, 16, 3), (1, 5)], [(1, 12, 16, 3), (1, 5)]),
        (8, [(1, None, None, 3)], [(1, 8, 8, 3)]),
        ((24, 32), [(1, 3, None, None)], [(1, 3, 24, 32)]),
        ((12, 16), [(1, 12, None, 3)], [(1, 12, 16, 3)]),
        ((12, 16), [(1, 12, 16, 3)], [(1, 12, 16, 3)]),
        ((12, 16), [(1, None, None, 3), (1, 8, 8, 3), (1, 5)], [(1, 12, 16, 3), (1, 8, 8, 3), (1, 5)]),
    ],
)
def test_the_resolution_is_that_of_the_images_with_open_sides(resolution, shapes, wanted):
    assert fixed(resolution, *shapes) == wanted


@pytest.mark.parametrize(
    ("resolution", "shapes", "said"),
    [
        ((9, 8), [(1, 12, 16, 3)], r"--resolution 9x8 .*'input 0' of mine has the fixed shape \(1, 12, 16, 3\)"),
        (8, [(1, 12, None, 3)], r"'input 0' of mine has the fixed shape \(1, 12, None, 3\)"),
        (None, [(1, 8, 8, 3), (1, None, None, 3)], r"'input 1' has the shape .*Pass --resolution"),
        (None, [(1, None)], "every side fixed. Build the model again with every side fixed"),
        (None, [(1, None, None, None)], "Build the model again with every side fixed"),
        (8, [(1, None, None, None)], "Build the model again with every side fixed"),
        (8, [(1, 5)], "takes no image. Leave the option out"),
        ((0, 8), [(1, None, None, 3)], "--resolution 0x8 .*at least 1"),
        (100_000, [(1, None, None, 3)], "--resolution 100000x100000 .*more than 2147483647 bytes"),
    ],
)
def test_what_cannot_be_fixed_is_refused(resolution, shapes, said):
    with pytest.raises(RequestError, match=said):
        fixed(resolution, *shapes)
