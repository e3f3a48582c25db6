"""``to_tflite``: convert a Keras model to a TFLite file of a scheme, with a manifest beside the file."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mobilenets_tf import files
from mobilenets_tf.conversion.four_axes import in_four_axes
from mobilenets_tf.errors import ConversionError, RequestError
from mobilenets_tf.export import metadata
from mobilenets_tf.export.micro import c_source
from mobilenets_tf.export.micro.operators import check_operators
from mobilenets_tf.export.micro.target import MICRO_SAMPLES, MicroProof, check_target, prove_micro
from mobilenets_tf.manifest import versions
from mobilenets_tf.models.float_model import FloatFile, FloatModel
from mobilenets_tf.modelsource import AnyModel, opened
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.quantize import layers, mixed_precision, schemes
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.quantize.drop import AnswerDrop, DropOf
from mobilenets_tf.quantize.mixed_precision import MixedPrecision
from mobilenets_tf.quantize.post_training import PreparedModel, Recipe, prepare
from mobilenets_tf.tasks.outputs import OutputKind, decided
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.tflite.runtime import Runner, describe_tensor, refused_without_delegates
from mobilenets_tf.tflite.split import Split, check_parts, split_bottlenecks
from mobilenets_tf.worker import Worker

_SPLITTABLE = ("float32", "int8", "int8_float_io")  # schemes


@dataclass(frozen=True)
class Bound:
    """A bound of the score that a quantised file may lose; layers stay in float until the file keeps the bound.

    max_drop: a share; 0.01 is one answer in a hundred.
    drop_of: takes the float file's content, and returns a function that tells a file's loss. None: the loss is how far
        the file's outputs disagree with the float file's on the calibration samples that quantisation keeps.
    """

    max_drop: float
    drop_of: DropOf | None = None


@dataclass(frozen=True)
class Conversion:
    """A converted model.

    content: of the file. float_content: of the float32 file: the same file for float32; the file that a calibrated
    scheme was made from; for float16 and dynamic a second file of the same graph.
    calibration, recipe: of a calibrated scheme. mixed: the result of the search for a ``Bound``.
    equalised: the float file that the integers were written from, to compare layers with. samples: calibration samples
    for that comparison.
    layers: the names of the Keras layers of a calibrated scheme's operators; None where they are not known.
    split: the bottlenecks that were split (``tflite.split``); None where no split was asked for.
    """

    scheme: str
    content: bytes
    float_content: bytes
    calibration: dict | None
    recipe: Recipe | None = None
    mixed: MixedPrecision | None = None
    equalised: bytes | None = None
    samples: Sequence[list[np.ndarray]] = ()
    layers: frozenset[str] | None = None
    split: Split | None = None

    def facts(self) -> dict:
        """Return the manifest's facts about the file: contents, calibration, recipe and versions."""
        tree = flatbuffer.read(self.content)
        return {
            "scheme": self.scheme,
            "bytes": len(self.content),
            "sha256": hashlib.sha256(self.content).hexdigest(),
            "float32_bytes": len(self.float_content),
            "operators": flatbuffer.operator_counts(tree),
            "float_operators": flatbuffer.float_operator_counts(tree) if self.calibration else None,
            "calibration": self.calibration,
            "recipe": self.recipe and asdict(self.recipe),
            "mixed_precision": self.mixed and self.mixed.as_dict(),
            "split": self.split and self.split.as_dict(),
            "versions": versions(),
        }


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    manifest: what ``<path>.json`` holds. target_lines: the proof on the target that was asked for, as lines of text.
    failures: the failed checks on that target, a sentence each.
    """

    path: Path
    manifest: dict
    target_lines: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


def to_tflite(
    model: AnyModel,
    scheme: str | schemes.Scheme = "int8",
    calibration: Calibration | np.ndarray | Mapping | Iterable | Callable | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    recipe: Recipe | None = None,
    max_drop: float | None = None,
    split: int | None = None,
    target: str | None = None,
    image: ImageInput | None = None,
    labels: Sequence[str] = (),
    overwrite: bool = False,
    facts: dict | None = None,
    progress: Progress = silent,
) -> Exported:
    """Convert a model to a TFLite file of builtin ops, batch 1, static shapes: any Keras 3 or Keras 2 model that
    TensorFlow can trace, a SavedModel folder, or anyone's float TFLite file.

    Args:
        model: the ``keras.Model``, of Keras 3 or Keras 2 (tf_keras); nested and subclassed models are fine. Or a
            registry name, a path or a ``ModelSource``; the path may be that of a SavedModel folder or of a float32
            ``.tflite`` file.
        scheme: one of ``quantize.SCHEMES``: float32, float16, dynamic, int8, int8_float_io, int16x8.
        calibration: a ``quantize.Calibration``, or samples in any form that it takes (arrays, ``tf.data``, a
            generator, the converter's ``representative_dataset``, ...; also of several inputs), preprocessed as the
            model wants them; needed for the calibrated schemes.
        path: where to write; left out, ``<model name>_<scheme>.tflite`` in the working directory.
        recipe: the steps of quantisation, a ``quantize.Recipe``; for the calibrated schemes. With
            ``Recipe(per_tensor=True)`` a layer's weights have one scale, for hardware that has no more.
        max_drop: how far the file may disagree with the float model on the calibration samples: of classes the share of
            other answers, of values 1 - R2 of the worst element, of an embedding 1 - the mean cosine
            (``tasks.outputs``); of several outputs the worst. Layers are left in float, as few as that takes; the
            manifest names them ("mixed_precision").
        split: write the bottlenecks that set the peak of the activations' memory in so many parts whose sums are added
            (arXiv 1801.04381, section 5.1; ``tflite.split``); for float32, int8 and int8_float_io. The manifest names
            them ("split").
        target: "micro": TensorFlow Lite Micro, in whose interpreter the file is run on calibration samples and compared
            with LiteRT's reference kernels; C++ sources are written beside the file. For int8 and int8_float_io; needs
            the extra ``micro``. The manifest has the proof ("micro").
        image: for a model of one image: how the file takes it (``ImageInput(preprocessing, "uint8")`` for pixels as
            they are). The file then has metadata that say so. Calibration samples are preprocessed as ``image.given``.
            None: as the model takes its input, without metadata.
        labels: the class names, for the metadata; a linear output of so many elements then holds logits.
        overwrite: replace a file that is there and is not an earlier export.
        facts: a dict of what you know of the model, for the manifest.
        progress: called with (label, done, total) as work goes on.

    Returns:
        The path, and the manifest that was written beside it as ``<path>.json``. Its "refused_by_litert" says why
        LiteRT's own kernels, without XNNPACK, refuse the file; None if they run it.

    Raises:
        RequestError: an argument, the calibration data or the path cannot be used.
        ConversionError: the converter refused the model, or TensorFlow Lite Micro the file.
    """
    scheme, model = schemes.get(scheme), opened(model)
    path = Path(path or f"{model.name}_{scheme.name}.tflite")
    manifest_path = path.with_name(path.name + ".json")
    check_request(model, scheme, calibration)
    check_quantisation(scheme, max_drop, recipe=recipe)
    check_split(scheme, split)
    check_target(target, scheme)
    files.check_folder(path.parent)
    beside = c_source.file_names(path.name) if target else ()

    def check_replaceable():
        files.check_replaceable(path.parent, [path.name, manifest_path.name, *beside], overwrite)

    check_replaceable()
    kinds = decided(model.ends, bool(labels), len(labels) or None)
    with Worker(preload=model.preload) as worker:
        bound = None if max_drop is None else Bound(max_drop)
        converted = convert_model(
            model, scheme, calibration, worker, progress,
            recipe=recipe, bound=bound, image=image, labels=labels, kinds=kinds, split=split,
        )  # fmt: skip
    contents: dict[str, bytes | str] = {path.name: converted.content}
    proof = None
    if target:
        proof, sources = _on_microcontroller(path.name, converted, progress)
        contents |= sources
    manifest = {"files": files.digests(contents), **(facts or {}), **converted.facts()}
    manifest["refused_by_litert"] = refused_without_delegates(converted.content)
    if proof:
        manifest["micro"] = proof.as_dict()
    before = files.own_files(path.parent, manifest_path.name)
    files.write_together(path.parent, {**contents, manifest_path.name: files.to_json(manifest)}, check_replaceable)
    for name in set(before) & set(c_source.file_names(path.name)) - set(contents):  # the sources of an earlier file
        (path.parent / name).unlink()
    return Exported(path, manifest, *((tuple(proof.lines()), proof.failures) if proof else ()))


def _on_microcontroller(file_name: str, converted: Conversion, progress: Progress) -> tuple[MicroProof, dict[str, str]]:
    """Prove a file in TensorFlow Lite Micro, on calibration samples; return the proof and the C++ sources."""
    check_operators(converted.content, converted.layers)
    samples = converted.samples[:MICRO_SAMPLES]
    proof = prove_micro(converted.content, samples, converted.layers, progress)
    runner = Runner(converted.content)
    inputs, outputs = (list(map(describe_tensor, each)) for each in (runner.inputs, runner.outputs))
    return proof, c_source.sources(file_name, converted.content, proof.arena_bytes, inputs, outputs)


def check_request(model: FloatModel, scheme, calibration) -> None:
    """Refuse, before any work, a model that cannot be converted and a calibrated scheme without calibration.

    Raises:
        RequestError: the model cannot become a file (see ``FloatModel.check``), or there is no calibration.
    """
    model.check()
    if scheme.calibrated and calibration is None:
        raise RequestError(
            f"The scheme {scheme.name!r} needs calibration images; schemes without: "
            + ", ".join(s.name for s in schemes.SCHEMES.values() if not s.calibrated)
            + "."
        )


def check_quantisation(scheme, max_drop: float | None, **options) -> None:
    """Refuse options of quantisation that were given (are not None or False) to a scheme that has no use for them.

    Raises:
        RequestError: the scheme has no use for an option, or ``max_drop`` is no share.
    """
    options["max_drop"] = max_drop
    given = [name for name, value in options.items() if value is not None and value is not False]
    if given and not scheme.calibrated:
        calibrated = ", ".join(s.name for s in schemes.SCHEMES.values() if s.calibrated)
        raise RequestError(f"{given[0]} is for the calibrated schemes ({calibrated}); {scheme.name!r} is none of them.")
    if max_drop is not None:
        mixed_precision.check_bound(max_drop)


def check_split(scheme: schemes.Scheme, parts: int | None) -> None:
    """Refuse a split of a scheme whose bottlenecks cannot be split, and a number of parts that makes no sense.

    Raises:
        RequestError: see above.
    """
    if parts is None:
        return
    check_parts(parts)
    if scheme.name not in _SPLITTABLE:
        raise RequestError(f"split is for the schemes {', '.join(_SPLITTABLE)}; {scheme.name!r} is none of them.")


def convert_model(
    model: AnyModel,
    scheme,
    calibration,
    worker: Worker,
    progress: Progress = silent,
    *,
    recipe: Recipe | None = None,
    bound: Bound | None = None,
    image: ImageInput | None = None,
    labels: Sequence[str] = (),
    kinds: Sequence[OutputKind] = (),
    split: int | None = None,
    few_axes: bool = True,
) -> Conversion:
    """Convert a model without writing files: fold, freeze, convert, and for a calibrated scheme quantise.

    The arguments are those of ``to_tflite``. With an ``image`` the result's ``float_content`` takes ``image.given`` as
    float32, whatever its form.

    Args:
        kinds: of the outputs, for metadata and for a bound without ``drop_of``; none of a file that is to get a form,
            which gets its metadata later.
        few_axes: write moves of data with at most four axes, where that costs nothing (``four_axes``). Otherwise the
            channels of a file can be followed through all of its moves.

    Raises:
        RequestError: the calibration data cannot be used, or the bound cannot be kept.
        ConversionError: the converter refused the model, or LiteRT the result.
    """
    model, moved = opened(model), in_four_axes if few_axes else bytes
    if scheme.calibrated:
        if not isinstance(calibration, Calibration):
            calibration = Calibration(calibration)
        recipe = recipe or Recipe()
        prepared, names = prepare_model(model, scheme, calibration, recipe, worker, progress, image)
        mixed = None
        if bound is not None:
            drop_of = bound.drop_of or (lambda reference: AnswerDrop(reference, prepared.samples, kinds))
            drop = drop_of(prepared.original)
            mixed = mixed_precision.search(prepared, names, drop, bound.max_drop, progress)
        content, parts = _split(moved(mixed.content if mixed else prepared.write()), split)
        content = finished(content, model, image, labels, kinds)
        return Conversion(
            scheme.name, content, prepared.original, calibration.manifest(), recipe, mixed,
            prepared.uncorrected, prepared.samples, frozenset(names), parts,
        )  # fmt: skip
    progress("converting", 0, 1)
    float_file, float_content = _float_file(model, worker, image)
    content = float_content
    if scheme.name != "float32":
        content = float_file.stored(scheme.weights)
        content = image.begin(content) if image else content
    content, parts = _split(moved(content), split)
    progress("converting", 1, 1)
    return Conversion(scheme.name, finished(content, model, image, labels, kinds), float_content, None, split=parts)


def _split(content: bytes, parts: int | None) -> tuple[bytes, Split | None]:
    """Split a file's bottlenecks, if that was asked for."""
    if parts is None:
        return content, None
    result = split_bottlenecks(content, parts)
    return result.content, result


def prepare_model(
    model: FloatModel,
    scheme,
    calibration: Calibration,
    recipe: Recipe,
    worker: Worker,
    progress: Progress = silent,
    image: ImageInput | None = None,
) -> tuple[PreparedModel, list[str]]:
    """Prepare a model to be written in integers.

    Returns the prepared model, and for each of its operators the name of its layer.
    """
    progress("converting", 0, 1)
    float_file, float_content = _float_file(model, worker, image, folded=False)
    progress("converting", 1, 1)
    names = float_file.layers
    del float_file  # frees the frozen graph
    prepared = prepare(float_content, scheme, calibration, recipe, progress)
    return prepared, layers.of_operators(prepared.model, names)


def _float_file(
    model: FloatModel, worker: Worker, image: ImageInput | None, folded: bool = True
) -> tuple[FloatFile, bytes]:
    """Return the model's float file, and the content of one that takes ``image.given``."""
    float_file = model.float_file(worker)
    return float_file, image.begin(float_file.content, folded) if image else float_file.content


def finished(
    content: bytes, model: FloatModel, image: ImageInput | None, labels: Sequence[str], kinds: Sequence[OutputKind]
) -> bytes:
    """Finish a file: add the input form that was asked for, and, where the kinds of the outputs are given, metadata.
    What the model's own file says for people, and its associated files, are kept.

    Raises:
        ConversionError: the file has ops that are not TFLite builtins.
    """
    _refuse_foreign_ops(content)
    if image is None:
        return metadata.keep(content, model.origin)
    content = image.finish(content)
    if not kinds:
        return content
    return metadata.add(content, metadata.describe(model.name, image, labels, kinds=kinds, origin=model.origin))


def _refuse_foreign_ops(content: bytes) -> None:
    counts = flatbuffer.operator_counts(flatbuffer.read(content))
    builtin = set(flatbuffer.schema.BuiltinOperator.__dict__)
    if foreign := [name for name in counts if name not in builtin]:
        raise ConversionError(f"The file would need ops that are not TFLite builtins: {', '.join(foreign)}.")
