"""The shapes of a model's inputs: where an image has its height and width, and what fixes the sides that are open."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from mobilenets_tf.data.preprocessing import CHANNELS, Size, shown_size, sides
from mobilenets_tf.errors import RequestError

_LEAST_SIDE = 16  # of an image; features with fewer places are no images
_MOST_BYTES = 2**31 - 1  # of an input
_Key = TypeVar("_Key", bound=Hashable)
Shape = Sequence[int | None]


def takes_channels_first(shape: Shape) -> bool:
    """Tell whether an input of this shape is an image, its channels before height and width; open sides are None."""
    if len(shape) != 4 or shape[1] not in CHANNELS or shape[3] in CHANNELS:
        return False
    return all(side is None or side >= _LEAST_SIDE for side in shape[2:])


def fixed_shapes(
    shapes: Mapping[_Key, tuple[str, Shape]],
    label: str,
    resolution: Size | None,
    again: str,
    is_first: Callable[[Shape], bool] = takes_channels_first,
) -> dict[_Key, tuple[int, ...]]:
    """Return the shapes of the inputs with every side fixed: those of an image as the resolution says. Beside an image
    with open sides, an image with fixed ones stays as it is.

    Args:
        shapes: input -> its name and its sides, the batch first; open ones are None.
        label: the model's name, for messages.
        resolution: of the image, where its sides are open: one number, or (height, width).
        again: what to do with a model of the wrong sides: "Build the model again".
        is_first: tells whether an input with four sides is an image with its channels first.

    Raises:
        RequestError: ``resolution`` is no number of pixels, or there is no image; a side is open and nothing says how
            long it is; no side is open and ``resolution`` differs; or an input is too large for a file.
    """
    text = "" if resolution is None else f"--resolution {shown_size(resolution)} (resolution=)"
    asked = None if resolution is None else sides(resolution)
    if asked is not None and min(asked) < 1:
        raise RequestError(
            f"{label}: received {text}; expected the height and width of the image in pixels, at least 1."
        )
    places = {
        key: (2, 3) if is_first(shape) else (1, 2) for key, (_, shape) in shapes.items() if len(shape) == 4
    }  # of height and width
    if asked is not None and not places:
        raise RequestError(f"{text}: {label} takes no image. Leave the option out.")
    some_open = any(shapes[key][1][place] is None for key, pair in places.items() for place in pair)
    fixed = {}
    for key, (name, given) in shapes.items():
        shape = list(given)
        own = [shape[place] for place in places.get(key, ())]
        if asked is not None and own and (None in own or not some_open):
            for place, side in zip(places[key], asked, strict=True):
                if shape[place] not in (None, side):
                    raise RequestError(
                        f"{text}: the input {name!r} of {label} has the fixed shape {tuple(given)}. Leave the option "
                        f"out, or {again[0].lower()}{again[1:]}."
                    )
                shape[place] = side
        known = [side for side in shape if side is not None]
        if len(known) < len(shape):
            of_image = own and asked is None and len(known) == len(shape) - own.count(None)
            remedy = (
                "Pass --resolution, the height and width in pixels (in Python: ModelSource(..., resolution=))."
                if of_image
                else f"{again} with every side fixed."
            )
            raise RequestError(
                f"{label}: the input {name!r} has the shape {tuple(given)}, and a phone needs every side fixed. "
                f"{remedy}"
            )
        if 4 * math.prod(known) > _MOST_BYTES:
            raise RequestError(
                f"{text or label}: the input {name!r} would have the shape {tuple(known)}, more than {_MOST_BYTES} "
                f"bytes, the most that a file can hold. Give a smaller size, or {again[0].lower()}{again[1:]}."
            )
        fixed[key] = tuple(known)
    return fixed
