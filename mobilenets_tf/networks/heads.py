"""What detectors and segmenters share: a classifier as backbone, a head on it, and weights for either."""

from collections.abc import Callable

import keras

from mobilenets_tf import registry
from mobilenets_tf.conventions import TENSORFLOW
from mobilenets_tf.errors import RequestError
from mobilenets_tf.weights.load import resolve_with_head

# No weights are published for our heads, so they need nobody's padding or epsilon; "same" spares the file PAD ops.
CONVENTION = TENSORFLOW
_OF_THE_TOP = {"include_top", "pooling", "classifier_activation", "dropout_rate", "hidden_units"}


def on_backbone(head: Callable, backbone: str, name: str, input_shape, weights, convention, options: dict):
    """A backbone with a head.

    Args:
        head: called with the backbone, a ``keras.Model`` without its top; returns the outputs.
        backbone: the registry name of a classifier.
        name: the model's.
        input_shape: (height, width, 3), all fixed.
        weights: None, a tag of the backbone's, a file with a classifier's weights, which go to the backbone, or a
            ``.keras`` or ``.weights.h5`` file that has such a head too.
        convention: of the backbone; None takes the weights', else the backbone's own.
        options: more of the backbone's builder's.

    Raises:
        RequestError: the backbone is no classifier, ``options`` has what only a top has, a side is not fixed, or
            weights that are not to be found or do not fit.
    """
    if own := registry.get(backbone).backbone:
        raise RequestError(f"backbone={backbone!r}: expected a classifier, such as {own!r}.")
    if top := sorted(_OF_THE_TOP & set(options)):
        raise RequestError(f"{top[0]}={options[top[0]]!r} is for the top of a classifier, which {name} does not have.")
    if None in tuple(input_shape):
        raise RequestError(f"input_shape={input_shape!r}: the head is laid out for one size; give all three numbers.")
    whole = resolve_with_head(weights, convention)
    body = registry.builder(backbone)(
        input_shape=input_shape,
        include_top=False,
        weights=None if whole else weights,
        convention=whole.convention if whole else convention,
        **options,
    )
    model = keras.Model(body.input, head(body), name=name)
    if whole:
        whole.load_into(model)
    return model


def check_positive(**numbers) -> None:
    """Refuse what is to be a whole number above 0 and is not.

    Raises:
        RequestError: one of them; its name and value are given.
    """
    for name, value in numbers.items():
        if not isinstance(value, int) or value < 1:
            raise RequestError(f"{name}={value!r}: expected a whole number above 0.")
