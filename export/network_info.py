"""The verb ``info``: count a network's parameters, multiply-adds and memory, and the memory that LiteRT plans."""

import warnings
from dataclasses import dataclass

import numpy as np

from mobilenets_tf import registry
from mobilenets_tf.data.preprocessing import Size
from mobilenets_tf.export.tflite import convert_model
from mobilenets_tf.public_api.types import check_fields
from mobilenets_tf.quantize import schemes
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.quantize.post_training import Recipe
from mobilenets_tf.tflite.arena import arena_bytes
from mobilenets_tf.worker import Worker

_SCHEMES = ("float32", "int8")

# The sizes of activations depend on none of the steps.
_QUICK = Recipe(equalize=False, ranges="min_max", rounding="nearest", correct_biases=False)


@dataclass(frozen=True)
class InfoRequest:
    """The network to count, and how; plain data.

    model: a registry name. alpha, resolution: as in ``create_model``. arena: convert the network too, and measure the
    memory that LiteRT plans for its activations, without XNNPACK; this takes seconds.
    """

    model: str
    alpha: float | None = None
    resolution: Size | None = None
    arena: bool = False

    def __post_init__(self):
        check_fields(self)


def info(request: InfoRequest) -> dict:
    """Return the counts of ``model_info``; with ``arena`` also ``arena_bytes``, scheme -> bytes. TensorFlow
    runs in a child process only.

    Raises:
        RequestError: the name is unknown, or a value is out of range.
    """
    registry.check_size(registry.get(request.model), request.alpha, request.resolution)
    with Worker() as worker:  # a child process, so that TensorFlow's messages are not shown
        return worker.call(_info, request)


def _info(request: InfoRequest) -> dict:
    """Count in the worker process. The factory is imported here, since it imports Keras."""
    from mobilenets_tf.factory import model_info

    facts = model_info(request.model, alpha=request.alpha, resolution=request.resolution)
    return facts | {"arena_bytes": _arenas(request)} if request.arena else facts


def _arenas(request: InfoRequest) -> dict[str, int]:
    """Return the bytes of LiteRT's arena for each scheme. They do not depend on weights and ranges."""
    from mobilenets_tf.factory import create_model

    model = create_model(request.model, alpha=request.alpha, resolution=request.resolution)
    rows, columns = (np.linspace(-1, 1, side, dtype=np.float32) for side in model.input_shape[1:3])
    picture = rows[:, None, None] + columns[None, :, None] * np.ones(3, np.float32)
    pictures = [part * picture for part in (0.3, 0.6, 1.0)]
    with Worker() as worker, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # three pictures are few to calibrate with, and enough here
        converted = convert_model(model, schemes.get("int8"), Calibration(pictures), worker, recipe=_QUICK)
    contents = dict(zip(_SCHEMES, (converted.float_content, converted.content), strict=True))
    return {scheme: arena_bytes(content) for scheme, content in contents.items()}
