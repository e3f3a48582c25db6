"""Compare a TFLite file with its model on real images."""

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.proof.comparison import Comparison, OutputsTally
from mobilenets_tf.manifest import manifest_of
from mobilenets_tf.models.float_model import FloatModel
from mobilenets_tf.modelsource import OWN_FORMS, AnyModel, opened
from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.quantize.samples import count_of, samples_of
from mobilenets_tf.tasks.outputs import OutputKind, decided
from mobilenets_tf.tflite.runtime import Runner


def _as_it_is(sample: np.ndarray) -> np.ndarray:
    return sample


def verify(
    file,
    model: AnyModel,
    images: Any,
    labels=None,
    *,
    for_model: Callable[[np.ndarray], np.ndarray] = _as_it_is,
    for_file: Callable[[np.ndarray], np.ndarray] = _as_it_is,
    kinds: Sequence[OutputKind] = (),
    threads: int = 2,
    progress: Progress = silent,
) -> Comparison:
    """Compare a TFLite file with the model that it was made from.

    Args:
        file: path or content of the ``.tflite`` file.
        model: a ``keras.Model``, or a registry name, a path or a ``ModelSource``. All outputs of the model are
            compared, each by its kind (``tasks.outputs``).
        images: preprocessed samples in any form that calibration takes, or a ``Calibration``. A generator that
            calibration has consumed gives no images here.
        labels: the right class of each image, for a classifier's accuracies; a linear output then holds logits.
        for_model, for_file: functions that turn a batch of ``images`` (of each input, where the model has several)
            into the input of the model and of the file. For uint8 pixels and a file that takes pixels:
            ``ImageInput.wanted.normalise``, and the default.
        kinds: of the model's outputs; empty: as their shapes and last activations show.
        threads: for LiteRT.

    Raises:
        RequestError: the file cannot be run, there are no images, the shapes do not fit, or the file's outputs are not
            those of its network (see ``check_form``).
    """
    model = opened(model)
    if not isinstance(file, bytes):
        check_form(Path(file))
    runner = Runner(file, threads)
    check_outputs(runner, model)
    ends = model.ends
    tally = OutputsTally(ends, kinds or decided(ends, labels is not None))
    images = images.samples if isinstance(images, Calibration) else images
    samples = samples_of(images, {tensor.name: tensor.shape for tensor in model.inputs})
    truths = iter(() if labels is None else labels)
    for batch in in_batches(track(samples, "verifying", progress, count_of(images))):
        of_file = zip(*map(for_file, batch), strict=True)
        for expected, sample in zip(_by_image(model, list(map(for_model, batch))), of_file, strict=True):
            outputs = [output[0] for output in runner(*sample)]
            tally.add(expected, outputs, (), next(truths, None))
    return tally.result()


def check_form(file: Path) -> None:
    """Refuse a file whose outputs are not its network's own, as the manifest beside it says.

    Raises:
        RequestError: the file has another form than its network's; the message says what to do.
    """
    form = manifest_of(file).get("form")
    if form not in (None, *OWN_FORMS):
        own = "stride" if form in ("full", "mask") else "raw"
        raise RequestError(
            f"{file} gives its answers in the form {form!r}, and the model gives {own!r} outputs: they cannot be "
            "compared. deploy did compare this file before it took that form, and its answers after (see its report). "
            f"Judge it with:  mobilenets-tf evaluate {shlex.quote(str(file))} --data DATA  Or deploy with --output "
            f"{own}, and verify that file."
        )


def check_outputs(runner: Runner, model: FloatModel) -> None:
    """Refuse a file whose outputs are not the model's.

    Raises:
        RequestError: number or shapes of the outputs differ, or the file's boxes are decoded.
    """
    model_shapes = [end.shape for end in model.ends]
    file_shapes = runner.output_shapes
    decoded = runner.outputs[0]["name"] == "decoded_boxes"  # decoded boxes have the shape of encoded boxes
    if decoded or len(model_shapes) != len(file_shapes) or not all(map(_fits, model_shapes, file_shapes)):
        shown = (", ".join(map(str, shapes)) for shapes in (model_shapes, file_shapes))
        raise RequestError(
            "The model's outputs are {}, the file's are {}. Is it another model's? Or does the file give what a "
            "detector has found, or a segmenter's logits or classes at the image's size: then judge it with "
            "mobilenets-tf evaluate.".format(*shown)
        )


def _fits(model_shape: tuple[int | None, ...], file_shape: tuple[int, ...]) -> bool:
    if len(model_shape) != len(file_shape):
        return False
    return all(expected in (None, side) for expected, side in zip(model_shape, file_shape, strict=True))


def _by_image(model: FloatModel, batch: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Return, for each image of a batch (an array for each input), the list of the model's outputs."""
    return map(list, zip(*model.answers(batch), strict=True))


def in_batches(samples: Iterable[list[np.ndarray]], size: int = 16) -> Iterator[list[np.ndarray]]:
    """Stack samples, which have an array for each input, to batches of at most ``size``. uint8 stays; other types
    become float32."""
    batch: list[list[np.ndarray]] = []
    for sample in samples:
        batch.append([array if array.dtype == np.uint8 else array.astype(np.float32) for array in sample])
        if len(batch) == size:
            yield list(map(np.stack, zip(*batch, strict=True)))
            batch = []
    if batch:
        yield list(map(np.stack, zip(*batch, strict=True)))
