"""What the builders of the networks share: the text of their docstrings, and a classifier as the backbone of a head."""

import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import keras

from mobilenets_tf import registry
from mobilenets_tf.conventions import TENSORFLOW, Convention
from mobilenets_tf.errors import RequestError
from mobilenets_tf.networks.blocks import InputShape
from mobilenets_tf.public_api.types import checked
from mobilenets_tf.weights.load import Weights, resolve_with_head

# Nobody publishes weights for our heads, so they are free in their padding and epsilon; "same" needs no PAD ops.
CONVENTION = TENSORFLOW
_ONLY_OF_CLASSIFIERS = {"include_top", "pooling", "classifier_activation", "dropout_rate", "hidden_units"}

# Argument of a classifier's builder -> its description. ``document`` takes those that a builder does not describe.
_ARGUMENTS = {
    "input_shape": "(height, width, 3), sides at least 32 or None.",
    "include_top": "whether the network ends in the classifier. False: it ends in the last feature map.",
    "weights": 'None (random), the tag of a weight set ("imagenet"), the path of a weight file, or a keras.Model; see '
    "``weights.load.resolve``.",
    "pooling": 'without the top, how the last feature map becomes a vector: "avg", "max", or None (it stays a map).',
    "classes": "number of outputs; None: that of the weights, 1000 without weights. If the weights have another "
    "number, the classifier stays random, with a warning.",
    "classifier_activation": '"softmax", or None for logits.',
    "dropout_rate": "share of the classifier's inputs that training drops.",
    "name": "name of the model.",
    "output_stride": "input pixels per pixel of the last feature map: 32; 16 and 8 replace strides by dilation.",
    "convention": "padding and BatchNorm epsilon. None: the weight set's; without weights, TensorFlow's.",
}
_ERRORS = "RequestError: an argument is out of range; the weights are missing, damaged or do not fit the network."

Builder = TypeVar("Builder", bound=Callable[..., keras.Model])


def document(build: Builder, name: str, registered: str, figures: str, input_note: str, /, **arguments: str) -> Builder:
    """Give the builder of one network of a family its name and its docstring, and return it.

    Args:
        build: the builder. Its docstring lists the arguments in the order of its signature.
        name: name of the function.
        registered: the network's registry name; the registry knows its source.
        figures: its parameters and multiply-adds.
        input_note: how its input is normalised, a sentence.
        arguments: descriptions of the arguments that ``_ARGUMENTS`` lacks or describes otherwise.

    Raises:
        KeyError: an argument has no description.
    """
    texts = {**_ARGUMENTS, **arguments}
    described = [f"{parameter}: {texts[parameter]}" for parameter in inspect.signature(build).parameters]
    sections = [
        f"Build {name} as a functional ``keras.Model``.",
        textwrap.indent(textwrap.fill(f"Source: {registry.get(registered).source}. {figures}.", 116), " " * 4),
        _section("Args", *described),
        _section("Returns", f"``keras.Model``: (N, height, width, 3) -> (N, classes). {input_note}"),
        _section("Raises", _ERRORS),
    ]
    build.__doc__ = "\n\n".join(sections)
    build.__name__ = build.__qualname__ = name
    return build


def _section(title: str, *texts: str) -> str:
    filled = (textwrap.fill(text, 120, initial_indent=" " * 8, subsequent_indent=" " * 12) for text in texts)
    return "\n".join([f"    {title}:", *filled])


def builder(name: str) -> Callable[..., Any]:
    """Return the function that builds a registered network and refuses arguments of a wrong type.

    Raises:
        RequestError: the name is unknown; from the function: an argument is unknown or of another type than its hint.
    """
    bound = registry.builder(name)
    return functools.partial(checked(bound.func), **bound.keywords)


def on_backbone(
    head: Callable[[keras.Model], Any],
    backbone: str,
    name: str,
    input_shape: InputShape,
    weights: Weights,
    convention: Convention | None,
    options: Mapping[str, Any],
) -> keras.Model:
    """Build a backbone with a head.

    Args:
        head: called with the backbone, a ``keras.Model`` without its top; returns the outputs.
        backbone: the registry name of a classifier.
        name: name of the model.
        input_shape: (height, width, 3), all fixed.
        weights: None, a tag of the backbone's, a file with a classifier's weights, which go to the backbone, or a
            ``.keras`` or ``.weights.h5`` file that has such a head too.
        convention: padding and BatchNorm epsilon of the backbone. None: the weights', else the backbone's own.
        options: further arguments of the backbone's builder.

    Raises:
        RequestError: the backbone is not a classifier, ``options`` has an argument that only a classifier's top uses,
            a side is not fixed, or the weights are missing, damaged or do not fit.
    """
    if own := registry.get(backbone).backbone:
        raise RequestError(f"backbone={backbone!r}: expected a classifier, such as {own!r}.")
    if top := sorted(_ONLY_OF_CLASSIFIERS & set(options)):
        raise RequestError(f"{top[0]}={options[top[0]]!r} is for the top of a classifier, which {name} does not have.")
    if None in tuple(input_shape):
        raise RequestError(f"input_shape={input_shape!r}: the head is laid out for one size; give all three numbers.")
    whole = resolve_with_head(weights, convention)
    body = builder(backbone)(
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
