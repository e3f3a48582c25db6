"""Gather the evidence of a report: the images whose answer changed, the fidelity of each layer, ops and timings."""

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mobilenets_tf.data import images
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.decibels import signal_to_noise
from mobilenets_tf.export.delegates.half_precision import HalfCheck, check
from mobilenets_tf.export.delegates.rules import Verdict
from mobilenets_tf.export.proof import coverage
from mobilenets_tf.export.proof.judging import AnyComparison, Tally
from mobilenets_tf.export.proof.subject import Subject
from mobilenets_tf.export.speed import timing
from mobilenets_tf.export.tflite import Conversion
from mobilenets_tf.quantize import layers
from mobilenets_tf.tasks.classification import first_answers
from mobilenets_tf.tasks.intervals import Interval
from mobilenets_tf.tasks.task import class_name
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.runtime import Runner

_FIDELITY_SAMPLES = 8  # calibration samples on which layers are compared
_HALF_IMAGES = 8  # on which values are looked at
_CALLS = 30  # of a file, to time it
_PICTURES, _WIDEST = 3, 1100  # on the page, and their longer side in pixels
_SHOWN_FROM = 0.5  # objects of a lower score are not drawn
_PIXELS = 128  # side of a thumbnail; the page shows 96 CSS pixels, and most screens have more pixels than CSS pixels
_QUALITY = 80


@dataclass(frozen=True)
class ChangedAnswer:
    """An image to which the float file and the other file give different answers.

    thumbnail: a square JPEG of the image's middle. file: name of the image, without folders. label: name of the right
    class, if known. float_answer, answer: the class that each file names; float_score, score: the file's output for
    that class. float_is_right, is_right: None without a label.
    """

    thumbnail: bytes
    file: str
    label: str | None
    float_answer: str
    float_score: float
    answer: str
    score: float
    float_is_right: bool | None = None
    is_right: bool | None = None


@dataclass(frozen=True)
class AnswerChange:
    """The number of images for which float's answer ``float_answer`` became ``answer``."""

    float_answer: str
    answer: str
    times: int


@dataclass(frozen=True)
class ChangedAnswers:
    """The images to which two files give different answers.

    shown: the images with the largest margin of the float file's answer over the new answer, the largest first, at
    most as many as were asked for. total: the number of changed answers. images: the number of images.
    lost: the number of images that only the float file has right; won: that only the other file has right; None
    without labels. confusions: all changes, the most frequent first. are_probabilities: each file's outputs sum to 1.
    """

    shown: tuple[ChangedAnswer, ...]
    total: int
    images: int
    lost: int | None
    won: int | None
    confusions: tuple[AnswerChange, ...]
    are_probabilities: bool


def changed_answers(
    paths: Sequence[Path],
    labels: Sequence[int] | None,
    names: Sequence[str],
    reference: np.ndarray,
    candidate: np.ndarray,
    limit: int = 24,
) -> ChangedAnswers:
    """List the images to which two files give different answers.

    Args:
        paths: of the images. labels: the right class of each, or None.
        names: a name for each class; a class without a name is called by its number.
        reference, candidate: the scores of both files, (images, classes), see ``OutputKind.scores``.
        limit: the greatest number of images with a thumbnail.

    Raises:
        RequestError: an image can no longer be read.
    """
    reference, candidate = (outputs.reshape(len(paths), -1).astype(np.float64) for outputs in (reference, candidate))
    before, after = (first_answers(outputs).astype(int) for outputs in (reference, candidate))
    changed = np.flatnonzero(before != after)

    def name(index) -> str:
        return class_name(names, index)

    def margin(row) -> float:
        return reference[row, before[row]] - reference[row, after[row]]

    shown = []
    for row in sorted(changed, key=lambda row: (-margin(row), row))[:limit]:
        right = None if labels is None else int(labels[row])
        shown.append(
            ChangedAnswer(
                _thumbnail(paths[row]),
                paths[row].name.encode(errors="replace").decode(),  # names on disk may be no UTF-8
                None if right is None else name(right),
                name(before[row]),
                float(reference[row, before[row]]),
                name(after[row]),
                float(candidate[row, after[row]]),
                None if right is None else bool(before[row] == right),
                None if right is None else bool(after[row] == right),
            )
        )
    pairs = Counter((int(before[row]), int(after[row])) for row in changed)
    ordered = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
    lost = won = None
    if labels is not None:
        right = np.asarray(labels)
        lost = int(((before == right) & (after != right)).sum())
        won = int(((before != right) & (after == right)).sum())
    return ChangedAnswers(
        tuple(shown),
        len(changed),
        len(paths),
        lost,
        won,
        tuple(AnswerChange(name(old), name(new), times) for (old, new), times in ordered),
        all(_are_probabilities(outputs) for outputs in (reference, candidate)),
    )


def _are_probabilities(outputs: np.ndarray) -> bool:
    # The eight-bit outputs of a thousand classes sum to 1 only within a level each.
    return bool(outputs.min() >= 0 and outputs.max() <= 1 and np.median(np.abs(outputs.sum(-1) - 1)) < 0.1)


def _thumbnail(path: Path) -> bytes:
    from PIL import Image, ImageOps

    image = ImageOps.fit(images.decode(path), (_PIXELS, _PIXELS), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return stream.getvalue()


@dataclass(frozen=True)
class LayerFidelity:
    """The fidelity of one layer's output.

    place: of the layer in the file, from 0. layer: its name. snr_db: power of the float file's values divided by the
    power of the difference, in dB; infinite where there is no difference.
    cut_off: the share of the difference's power in values outside of the quantised file's range. Ranges are chosen by
    their effect on the answer, so that a large share often does little harm.
    """

    place: int
    layer: str
    snr_db: float
    cut_off: float


def layer_fidelity(
    float_content: bytes, quantised_content: bytes, samples: Iterable[Sequence[np.ndarray]], has_layers: bool = True
) -> list[LayerFidelity]:
    """Measure how much of each layer's signal a quantised file keeps. The noise of earlier layers is part of a layer's
    noise.

    Both files run with every tensor as an output, and tensors of the same name are compared. Layers have their Keras
    names, which are derived from the names of the tensors. Of a layer of several operators the last is compared.

    Args:
        float_content: the float file that the integers were written from (``PreparedModel.uncorrected``). The file
            before equalisation does not fit, since equalisation changes the scales of channels.
        quantised_content: the quantised file.
        samples: a few calibration samples, arrays in the order of the files' inputs.
        has_layers: the model has layers by which tensors are named; otherwise each operator counts as a layer.

    Returns:
        The layers, the least faithful first. Tensors that only one file has are left out.
    """
    files = [_Observed(content, has_layers) for content in (float_content, quantised_content)]
    shared = [name for name in files[0].tensors if name in files[1].tensors]
    ends = {files[0].layers[name]: name for name in shared}  # the last tensor of each layer
    powers = {name: np.zeros(3) for name in ends.values()}  # of the signal, the noise, and the noise that is cut off
    for arrays in samples:
        for file in files:
            file.runner.invoke(*arrays)
        for name, power in powers.items():
            values, others = (file.values(name) for file in files)
            difference = others - values
            low, high = files[1].limits(name)
            beyond = difference[(values < low) | (values > high)]
            power += [np.vdot(part, part) for part in (values, difference, beyond)]
    fidelities = []
    for place, (layer, name) in enumerate(ends.items()):
        signal, noise, cut_off = map(float, powers[name])
        snr_db = signal_to_noise(signal, noise)
        fidelities.append(LayerFidelity(place, layer, snr_db, cut_off / noise if noise else 0.0))
    return sorted(fidelities, key=lambda row: row.snr_db)


class _Observed:
    """A file whose outputs are all tensors that its operators compute.

    tensors: name -> index, in the order of the operators. layers: name of a tensor -> its layer.
    """

    def __init__(self, content: bytes, has_layers: bool):
        tree = flatbuffer.read(content)
        graph = tree.subgraphs[0]
        produced = [index for operator in graph.operators for index in operator.outputs]
        names = {index: graph.tensors[index].name.decode() for index in produced}
        of_operators = _layers(content, has_layers)
        self.tensors = {name: index for index, name in names.items()}
        self.layers = {
            names[index]: layer
            for layer, operator in zip(of_operators, graph.operators, strict=True)
            for index in operator.outputs
        }
        self._scales = {index: _scale(graph.tensors[index].quantization) for index in produced}
        self.runner = Runner(flatbuffer.with_outputs(tree, produced), trusted=True)

    def limits(self, name: str) -> tuple[float, float]:
        """Return the lowest and the highest real value that a tensor can hold; infinite for a float tensor."""
        index = self.tensors[name]
        scale, zero_point = self._scales[index]
        if not scale:
            return -np.inf, np.inf
        levels = np.iinfo(self.runner.raw(index).dtype)
        return (levels.min - zero_point) * scale, (levels.max - zero_point) * scale

    def values(self, name: str) -> np.ndarray:
        """Return the real values of a tensor, float32."""
        index = self.tensors[name]
        scale, zero_point = self._scales[index]
        raw = self.runner.raw(index)
        return (raw.astype(np.float32) - zero_point) * scale if scale else raw.astype(np.float32)


def _layers(content: bytes, has_layers: bool) -> list[str]:
    """Name the layer of each operator; of a model without layers its result."""
    return layers.of_operators(content, layers.named_in(content) if has_layers else None)


def _scale(quantization) -> tuple[np.float32, int]:
    """Return an activation's scale and zero point; (0, 0) for a float tensor."""
    if quantization is None or quantization.scale is None or not len(quantization.scale):
        return np.float32(0), 0
    return np.float32(quantization.scale[0]), int(quantization.zeroPoint[0])


@dataclass(frozen=True)
class SchemeRow:
    """One of several files of a model.

    agreement: with float32, see ``DeployRequest``. score: of the task, if the images are annotated; measure: name of
    the score; interval: the 95 % interval of its change from float32's. median_ms: on the machine that made the report.
    faster_than: the schemes whose files were slower in most rounds of the timing (``timing.is_faster``).
    """

    scheme: str
    bytes: int
    agreement: float
    score: float | None = None
    median_ms: float | None = None
    measure: str = "top-1"
    interval: Interval | None = None
    faster_than: tuple[str, ...] = ()

    @staticmethod
    def of(
        scheme: str, size: int, comparison: AnyComparison, median_ms: float, faster_than: tuple[str, ...]
    ) -> "SchemeRow":
        """Make the row of a file of ``size`` bytes."""
        interval = None if scheme == "float32" else comparison.interval
        return SchemeRow(
            scheme, size, comparison.agreement, comparison.score, median_ms, comparison.measure, interval, faster_than
        )

    def as_dict(self) -> dict:
        """Return the fields as plain data; a classifier's score has the key ``top1``."""
        score = {"top1": self.score} if self.measure == "top-1" else {"score": self.score, "measure": self.measure}
        return {
            "scheme": self.scheme, "bytes": self.bytes, "agreement": self.agreement, **score,
            "interval": self.interval, "median_ms": self.median_ms, "faster_than": list(self.faster_than),
        }  # fmt: skip


@dataclass(frozen=True)
class Evidence:
    """The evidence that a report shows beside the manifest. Fields that are left out are not shown.

    changed: the images whose answer changed. layers: how faithful each layer is.
    plan: how often each op runs (``Runner.execution_plan``); "DELEGATE" counts XNNPACK's partitions.
    delegates: the parts of the file that each target runs (``coverage.verdicts``).
    latency: name of a file -> median and 90th percentile in ms, float32 first. Times differ from run to run.
    schemes: several files of the model, for the Pareto picture.
    pictures: of a detector or segmenter, photographs with both files' answers: (name, JPEG).
    half_precision: what the file computes on a GPU in half precision.
    """

    changed: ChangedAnswers | None = None
    layers: Sequence[LayerFidelity] = ()
    plan: Mapping[str, int] | None = None
    delegates: Sequence[Verdict] = ()
    latency: Mapping[str, tuple[float, float]] | None = None
    schemes: Sequence[SchemeRow] = ()
    pictures: Sequence[tuple[str, bytes]] = ()
    half_precision: HalfCheck | None = None


def gather(
    subject: Subject,
    converted: Conversion,
    image_set: ImageSet,
    tally: Tally | None,
    own_files: dict[str, bytes],
    seed: int = 0,
    timed: bool = True,
    shown: int = 24,
) -> Evidence:
    """Gather the evidence that the report on a file shows beside the manifest.

    Args:
        converted: the file in its final form. image_set: the images that the file was judged on.
        tally: how the file compares with its float file; None where there was nothing to compare.
        own_files: the float file and this one as the network gives its outputs, by the scheme's name.
        timed: time the file beside its float file. shown: the greatest number of images with another answer.
    """
    exhibits = _EXHIBITS[subject.task.name](subject, converted, image_set, tally, own_files, seed, shown)
    return Evidence(
        layers=fidelity(converted, own_files[converted.scheme], subject.model.has_layers),
        plan=Runner(converted.content).execution_plan(),
        delegates=coverage.verdicts(converted.content),
        half_precision=half_precision(subject, converted.content, image_set.sample(_HALF_IMAGES, seed)),
        latency=latencies(converted) if timed else None,
        **exhibits,
    )


def fidelity(converted: Conversion, content: bytes, has_layers: bool = True) -> list[LayerFidelity]:
    """Measure the fidelity of each layer of a calibrated file; return [] for a file without calibration.

    content: the file with the network's own outputs. has_layers: as in ``layer_fidelity``.
    """
    if converted.equalised is None:
        return []
    return layer_fidelity(converted.equalised, content, converted.samples[:_FIDELITY_SAMPLES], has_layers)


def half_precision(subject: Subject, content: bytes, image_set: ImageSet) -> HalfCheck | None:
    """Look for values of a file that pass half precision, on images."""
    dtype, samples = Runner(content).inputs[0]["dtype"], []
    for path in image_set.paths:
        pixels = subject.image.given.geometry(images.decode(path, alpha=subject.image.given.alpha))
        samples.append([subject.image.given.for_input(pixels, dtype)])
    return check(content, samples, _layers(content, subject.model.has_layers))


def latencies(converted: Conversion) -> dict[str, tuple[float, float]]:
    """Time the float file and the converted file side by side: name -> median and 90th percentile in ms."""
    contents = {"float32": converted.float_content} | {converted.scheme: converted.content}
    return {name: (t.median_ms, t.p90_ms) for name, t in timing.side_by_side(contents, _CALLS).items()}


def _changes(subject: Subject, converted: Conversion, image_set: ImageSet, tally, own_files, seed, shown) -> dict:
    """Return the evidence on a classifier: the images with another answer."""
    if tally is None or converted.scheme == "float32":
        return {}
    changed = changed_answers(image_set.paths, image_set.labels, subject.labels, *tally.answers, shown)
    return {"changed": changed}


def _nothing(subject: Subject, converted: Conversion, image_set: ImageSet, tally, own_files, seed, shown) -> dict:
    """Return no evidence: the comparison of the outputs says all of a regression."""
    return {}


def _pictures(subject: Subject, converted: Conversion, image_set: ImageSet, tally, own_files, seed, shown) -> dict:
    """Return the evidence on a detector or segmenter: photographs with the answers of both files."""
    from mobilenets_tf.tasks import pictures

    task = subject.task
    answering = {name: subject.in_tflite(content) for name, content in own_files.items()}
    drawings = []
    for path in image_set.sample(_PICTURES, seed).paths:
        decoded = images.decode(path, alpha=subject.image.given.alpha)
        photograph, pixels = decoded.convert("RGB"), subject.image.given.geometry(decoded)[None]
        sides = []
        for name, answers in answering.items():
            answer = subject.answer(answers(pixels)[0], photograph.height, photograph.width)
            sides.append((name, task.draw(photograph, task.shown(answer, _SHOWN_FROM), subject.class_names)))
        sheet = pictures.side_by_side(sides)
        sheet.thumbnail((_WIDEST, _WIDEST))
        drawings.append((path.name, pictures.encoded(sheet, ".jpg")))
    return {"pictures": drawings}


# The evidence about answers, by task.
_EXHIBITS = {"classify": _changes, "regress": _nothing, "detect": _pictures, "segment": _pictures}
