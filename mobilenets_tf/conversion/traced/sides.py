"""Fix the sides that a traced model leaves open: the batch is 1, height and width are as asked for."""

import math
from collections.abc import Mapping, Sequence

from mobilenets_tf.data.preprocessing import Size, shown_size, sides
from mobilenets_tf.errors import RequestError
from mobilenets_tf.tflite.foreign.transposes import takes_channels_first

_MOST_BYTES = 2**31 - 1  # of an input


def fixed_shapes(
    shapes: Mapping[str, Sequence[int | None] | None], label: str, resolution: Size | None
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the inputs with every side fixed.

    Args:
        shapes: name of the input -> its sides with the batch axis, open ones None; None where not even their number is
            known.
        label: the model's name, for messages.
        resolution: of the image, where its sides are open.

    Raises:
        RequestError: a side is open and nothing says how long it is, ``resolution`` differs from a fixed side or is no
            number of pixels, or an input is too large for a file.
    """
    asked = None if resolution is None else sides(resolution)
    text = "" if resolution is None else f"--resolution {shown_size(resolution)} (resolution=)"
    if asked is not None and min(asked) < 1:
        raise RequestError(f"{text}: expected the height and width of the image in pixels, at least 1.")
    fixed, images = {}, 0
    for name, given in shapes.items():
        if not given:
            raise RequestError(
                f"{label}: the input {name!r} is {'of an unknown number of axes' if given is None else 'one number'}; "
                "expected a batch of values of a fixed shape, such as (1, 224, 224, 3)."
            )
        shape = [1 if given[0] is None else given[0], *given[1:]]
        first = takes_channels_first([-1 if side is None else side for side in shape])
        places = ((2, 3) if first else (1, 2)) if len(shape) == 4 else ()
        images += bool(places)
        for place, side in zip(places, asked or (None, None), strict=False):
            if shape[place] is None:
                shape[place] = side
            elif side is not None and shape[place] != side:
                raise RequestError(
                    f"{text}: the input {name!r} of {label} has the fixed shape {tuple(given)}. Leave the option out, "
                    "or build the model again."
                )
        if None in shape:
            is_size = asked is None and places and all(shape[place] is None for place in places)
            remedy = (
                "Pass --resolution (resolution=), the height and width in pixels."
                if is_size and None not in (shape[place] for place in range(4) if place not in places)
                else "Build the model again with every side fixed, for example keras.Input((224, 224, 3))."
            )
            raise RequestError(
                f"{label}: the input {name!r} has the shape {tuple(given)}, and a phone needs every side fixed. "
                f"{remedy}"
            )
        if shape[0] != 1:
            raise RequestError(
                f"{label}: the input {name!r} has the shape {tuple(given)}, a batch of {shape[0]}; a phone's model "
                "takes a batch of 1. Save the model with an open batch, or one of 1."
            )
        if 4 * math.prod(shape) > _MOST_BYTES:
            raise RequestError(
                f"{label}: the input {name!r} has the shape {tuple(shape)}, more than {_MOST_BYTES} bytes. Build the "
                "model with a smaller input."
            )
        fixed[name] = tuple(shape)
    if asked is not None and not images:
        raise RequestError(f"{text}: {label} takes no image. Leave the option out.")
    return fixed
