"""Fix the sides that a traced model leaves open: the batch is 1, height and width are as asked for."""

from collections.abc import Mapping, Sequence

from mobilenets_tf.data.input_shapes import fixed_shapes
from mobilenets_tf.data.preprocessing import Size
from mobilenets_tf.errors import RequestError


def one_sample(
    shapes: Mapping[str, Sequence[int | None] | None], label: str, resolution: Size | None
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the inputs with a batch of 1 and every side fixed.

    Args:
        shapes: name of the input -> its sides with the batch axis, open ones None; None where not even their number is
            known.
        label, resolution: as in ``fixed_shapes``.

    Raises:
        RequestError: an input has no batch axis, or a batch of another size than 1; or as ``fixed_shapes``.
    """
    given = {}
    for name, shape in shapes.items():
        if not shape:
            raise RequestError(
                f"{label}: the input {name!r} is {'of an unknown number of axes' if shape is None else 'one number'}; "
                "expected a batch of values of a fixed shape, such as (1, 224, 224, 3)."
            )
        if shape[0] not in (None, 1):
            raise RequestError(
                f"{label}: the input {name!r} has the shape {tuple(shape)}, a batch of {shape[0]}; a phone's model "
                "takes a batch of 1. Save the model with an open batch, or one of 1."
            )
        given[name] = name, (1, *shape[1:])
    return fixed_shapes(given, label, resolution, "Build the model again")
