"""A file of a model for its latency alone: the operators and types of the deployed file, with whatever numbers."""

import warnings

import numpy as np

from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.export.tflite import convert_model
from mobilenets_tf.models.float_model import FloatModel
from mobilenets_tf.modelsource import AnyModel, ModelSource, opened
from mobilenets_tf.quantize import schemes
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.quantize.post_training import Recipe
from mobilenets_tf.worker import Worker

SCHEMES = ("float32", "int8")
# No step that changes numbers alone. What it leaves out does not change an operator.
_QUICK = Recipe(equalize=False, ranges="min_max", rounding="nearest", correct_biases=False)
_SAMPLES = 2


def check_scheme(scheme: str) -> None:
    """Refuse a scheme that no table is made of.

    Raises:
        RequestError: so it is.
    """
    if scheme not in SCHEMES:
        raise unknown("scheme of a table of latencies", scheme, SCHEMES)


def file_of(model: AnyModel, scheme: str, worker: Worker | None = None) -> bytes:
    """Make the content of a model's file, calibrated with noise: quick, and of no use but to be timed.

    Args:
        model: as in ``to_tflite``.
        scheme: "float32" or "int8".
        worker: the child process in which the converter runs; None: a new one.

    Raises:
        RequestError: the scheme is another, or the model cannot become a file.
        ConversionError: the converter refused the model.
    """
    check_scheme(scheme)
    opened_model = opened(model)
    if worker is None:
        with Worker(preload=opened_model.preload) as worker:
            return file_of(opened_model, scheme, worker)
    opened_model.check()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the samples are noise and few, as they are meant to be
        chosen = schemes.get(scheme)
        samples = Calibration(_noise(opened_model), trusted=True) if chosen.calibrated else None
        return convert_model(
            opened_model, chosen, samples, worker, recipe=_QUICK if chosen.calibrated else None, few_axes=False
        ).content


def file_of_source(source: ModelSource, scheme: str) -> bytes:
    """Make the file of a source as ``file_of`` does. To be called in a child process, which imports TensorFlow.

    Raises:
        RequestError, ConversionError: as ``file_of``; or the model cannot be loaded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return file_of(source.open(), scheme)


def _noise(model: FloatModel) -> list[list[np.ndarray]]:
    generator = np.random.default_rng(0)
    shapes = [each.shape for each in model.inputs]
    if any(side is None for shape in shapes for side in shape[1:]):
        raise RequestError(
            f"{model.name} has inputs of {', '.join(map(str, shapes))}: a side is open. Give the size of the input "
            "(--resolution, resolution=)."
        )
    return [
        [generator.uniform(-1, 1, shape[1:]).astype(np.float32) for shape in shapes]  # type: ignore[arg-type]
        for _ in range(_SAMPLES)
    ]
