"""to_tflite: a Keras model to a TFLite file of a scheme, with its manifest beside it."""

import hashlib
import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path

from mobilenets_tf import __version__, files, flatbuffer
from mobilenets_tf.errors import ConversionError, RequestError
from mobilenets_tf.export.convert import check_exportable, convert, freeze
from mobilenets_tf.export.normalization import with_lean_norms
from mobilenets_tf.lean import lean
from mobilenets_tf.progress import Report, silent
from mobilenets_tf.quantize import schemes
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.quantize.post_training import quantize_flatbuffer
from mobilenets_tf.reparameterization import fold
from mobilenets_tf.worker import Worker


@dataclass(frozen=True)
class Conversion:
    """What became of a model: the file's content, and its float32 file: the same, or what a calibrated scheme was made
    from, or (float16, dynamic, whose weights the converter compresses) made of the same graph beside it.
    """

    scheme: str
    content: bytes
    float_content: bytes
    calibration: dict | None

    def facts(self) -> dict:
        """For the manifest: what the file is and what made it."""
        tree = flatbuffer.read(self.content)
        return {
            "scheme": self.scheme,
            "bytes": len(self.content),
            "sha256": hashlib.sha256(self.content).hexdigest(),
            "float32_bytes": len(self.float_content),
            "operators": flatbuffer.operator_counts(tree),
            "float_operators": flatbuffer.float_operator_counts(tree) if self.calibration else None,
            "calibration": self.calibration,
            "versions": versions(),
        }


@dataclass(frozen=True)
class Exported:
    """A file that was written. ``manifest`` is what ``<path>.json`` holds."""

    path: Path
    manifest: dict


def versions() -> dict[str, str]:
    """Of everything that has a say in the bytes of the result."""
    names = ("tensorflow", "keras", "ai-edge-litert", "numpy", "pillow")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"mobilenets-tf": __version__, "python": platform.python_version(), **found}


def to_tflite(
    model,
    scheme="int8",
    calibration=None,
    path=None,
    *,
    overwrite: bool = False,
    facts: dict | None = None,
    report: Report = silent,
) -> Exported:
    """Convert any functional or sequential Keras 3 model to a TFLite file of builtin ops, batch 1, static shapes.

    Args:
        model: the ``keras.Model``; nested models are fine.
        scheme: one of ``quantize.SCHEMES``: float32, float16, dynamic, int8, int8_float_io, int16x8.
        calibration: a ``quantize.Calibration``, an array (N, ...) or an iterable of samples, preprocessed as the model
            wants them; needed for the calibrated schemes.
        path: where to write; left out, ``<model name>_<scheme>.tflite`` in the working directory.
        overwrite: replace a file that is there and is not an earlier export.
        facts: a dict of what you know of the model, for the manifest.
        report: called with (what, done, total) as work goes on.

    Returns:
        The path, and the manifest that was written beside it as ``<path>.json``.

    Raises:
        RequestError: an argument, the calibration data or the path cannot be used.
        ConversionError: the converter refused the model.
    """
    scheme = schemes.get(scheme)
    path = Path(path or f"{model.name}_{scheme.name}.tflite")
    manifest_path = path.with_name(path.name + ".json")
    check_request(model, scheme, calibration)
    files.check_folder(path.parent)
    files.check_replaceable(path.parent, [path.name, manifest_path.name], overwrite)
    with Worker() as worker:
        converted = convert_model(model, scheme, calibration, worker, report)
    manifest = {"files": files.digests({path.name: converted.content}), **(facts or {}), **converted.facts()}
    files.write_together(path.parent, {path.name: converted.content, manifest_path.name: files.to_json(manifest)})
    return Exported(path, manifest)


def check_request(model, scheme, calibration) -> None:
    """Refuse before any work what cannot be converted."""
    check_exportable(model)
    if scheme.calibrated and calibration is None:
        raise RequestError(
            f"The scheme {scheme.name!r} needs calibration images; schemes without: "
            + ", ".join(s.name for s in schemes.SCHEMES.values() if not s.calibrated)
            + "."
        )


def convert_model(model, scheme, calibration, worker: Worker, report: Report = silent) -> Conversion:
    """The conversion itself, nothing written: fold, freeze, convert, and for a calibrated scheme quantise."""
    report("converting", 0, 1)
    graph = freeze(with_lean_norms(fold(model, share=True)))
    float_content = lean(convert(graph, schemes.SCHEMES["float32"], worker))
    if scheme.name == "float32":
        content = float_content
    elif not scheme.calibrated:
        content = convert(graph, scheme, worker)
    report("converting", 1, 1)
    manifest = None
    if scheme.calibrated:
        if not isinstance(calibration, Calibration):
            calibration = Calibration(calibration)
        content = quantize_flatbuffer(float_content, scheme, calibration, report=report)
        manifest = calibration.manifest()
    _refuse_foreign_ops(content)
    return Conversion(scheme.name, content, float_content, manifest)


def _refuse_foreign_ops(content: bytes) -> None:
    counts = flatbuffer.operator_counts(flatbuffer.read(content))
    builtin = set(flatbuffer.schema.BuiltinOperator.__dict__)
    if foreign := [name for name in counts if name not in builtin]:
        raise ConversionError(f"The file would need ops that are not TFLite builtins: {', '.join(foreign)}.")
