"""The verb ``predict``: answer about photographs, as data and as pictures."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mobilenets_tf import files
from mobilenets_tf.answers.predictor import Predictor, opened
from mobilenets_tf.answers.reading import Reading, check_file, reading_of
from mobilenets_tf.data import images
from mobilenets_tf.data.annotated import photographs_of
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.errors import RequestError
from mobilenets_tf.modelsource import AnyModel, ModelSource
from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.public_api.types import check_fields
from mobilenets_tf.worker import Worker

_PICTURES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class PredictRequest:
    """Everything that decides the result; plain data.

    source: the model file: a ``.tflite``, ``.keras`` or full-model ``.h5`` file; a path or a ``ModelSource``.
    images: paths of photographs; also folders, CSVs and COCO's JSON, of which all photographs are taken.
    beside: more model files, to compare with. What ``source`` says of the input and the labels holds for those that do
        not say it.
    out: a ``.png`` or ``.jpg`` for one photograph, or a folder for a ``.png`` of each; None draws nothing.
    threshold: the lowest score of an object that is shown. top: how many classes of a classifier.
    task: of files that do not say: "classify", "detect" or "segment".
    overwrite: replace files in ``out`` that are no earlier pictures of the same request.
    """

    source: AnyModel
    images: tuple[str, ...]
    beside: tuple[str, ...] = ()
    out: str | None = None
    threshold: float = 0.5
    top: int = 5
    task: str | None = None
    overwrite: bool = False

    def __post_init__(self):
        object.__setattr__(self, "source", ModelSource.of(self.source))
        for name in ("images", "beside"):
            value = getattr(self, name)
            paths = (value,) if isinstance(value, (str, os.PathLike)) else value
            texts = tuple(os.fspath(path) if isinstance(path, os.PathLike) else path for path in paths)
            object.__setattr__(self, name, texts)
        check_fields(self)


@dataclass(frozen=True)
class Prediction:
    """The answers of models about one photograph.

    image: its path. width, height: in pixels.
    answers: of each model a dict with ``file``, ``task``, ``input`` (how the photograph becomes the input, in words)
        and ``found``: for each class or object its ``class``, its ``name``, and its ``score`` (of a segmenter the
        ``share`` of the pixels); of an object also the ``box`` in pixels (xmin, ymin, xmax, ymax).
    picture: the path of the drawing, if one was asked for.
    """

    image: str
    width: int
    height: int
    answers: list[dict]
    picture: str | None = None


def predict(request: PredictRequest, progress: Progress = silent) -> list[Prediction]:
    """Ask models about photographs, and draw their answers. The models run in a child process.

    Args:
        progress: called with (label, done, total) as work goes on.

    Raises:
        RequestError: the request is wrong; raised before any work is done, where that can be known.
    """
    if not 0 <= request.threshold <= 1:
        raise RequestError(f"threshold={request.threshold}: expected a score from 0 to 1.")
    if request.top < 1:
        raise RequestError(f"top={request.top}: expected at least 1.")
    if not request.images:
        raise RequestError("There are no images to ask about: give at least one photograph.")
    models = [_model(request, source) for source in (request.source, *map(ModelSource.of, request.beside))]
    named = _photographs(request.images)
    photographs = ImageSet(tuple(path for path, _ in named))
    folder, names = _places(request, named)
    images.check(photographs)
    suffix = Path(names[0]).suffix.lower() if names else None
    in_keras = any(not source.is_tflite for source, _ in models)
    with Worker(preload="tensorflow" if in_keras else "") as worker:
        pairs = worker.call(_predict, models, photographs, request, suffix, progress=progress)
    if not names:
        return [prediction for prediction, _ in pairs]
    files.write_together(folder, {name: picture for name, (_, picture) in zip(names, pairs, strict=True)})
    return [replace(each, picture=str(folder / name)) for name, (each, _) in zip(names, pairs, strict=True)]


def ask(source: ModelSource, reading: Reading, photograph: Path, top: int = 5, threshold: float = 0.5) -> list[dict]:
    """Return what one model says of one photograph, see ``Prediction.answers``. The model runs in a child process.

    Args:
        reading: how to read the model's outputs. top, threshold: as in ``PredictRequest``.
    """
    request = PredictRequest(source, (os.fspath(photograph),), threshold=threshold, top=top)
    with Worker(preload=source.preload) as worker:
        ((prediction, _),) = worker.call(_predict, [(source, reading)], ImageSet((photograph,)), request, None)
    return prediction.answers[0]["found"]


def _model(request: PredictRequest, source: ModelSource) -> tuple[ModelSource, Reading]:
    """Return the source and the reading of one model. What the request says of the input, the labels and the task
    holds for its first file, and for each further file that does not say it."""
    first = request.source
    if source.content is not None:
        return source, reading_of(source, request.task)
    file, known = source.model, Reading.of(check_file(source.model))
    if file == first.model:
        known = Reading()
    input_of = ModelSource(file) if known.preprocessing else replace(first, model=file, content=None)
    labels = None if known.labels else first.labels
    source = replace(input_of, labels=labels, signature=source.signature, resolution=source.resolution)
    return source, reading_of(source, known.task or request.task)


def _photographs(paths: Sequence[str]) -> list[tuple[Path, str]]:
    """Return the photographs that files, folders and tables name, each with the name that its picture gets, without a
    suffix. In a folder with sub-folders the names of these belong to it.

    Raises:
        RequestError: there is no such folder, or it has no images.
    """
    named: list[tuple[Path, str]] = []
    for path in map(Path, paths):
        if os.path.isdir(path) or path.suffix.lower() in (".csv", ".json"):
            inside = photographs_of(path).paths
            root = path if os.path.isdir(path) else path.parent
            for each in inside:
                inner = each.relative_to(root) if each.is_relative_to(root) else Path(each.name)
                named.append((each, "_".join(inner.with_suffix("").parts)))
        else:
            named.append((path, path.stem))
    return named


def _places(request: PredictRequest, named: Sequence[tuple[Path, str]]) -> tuple[Path, list[str]]:
    """Return the folder for the pictures and a file name for each photograph; no names where nothing is to be drawn.

    Args:
        named: the photographs, each with the name of its picture, without a suffix.

    Raises:
        RequestError: ``out`` is one picture for several photographs, has another format, or is taken.
    """
    if request.out is None:
        return Path(), []
    photographs = [path for path, _ in named]
    out, is_folder = Path(request.out), request.out.endswith(("/", "\\")) or Path(request.out).is_dir()
    if is_folder or not out.suffix:
        folder, names = out, [f"{name}.png" for _, name in named]
    elif out.suffix.lower() not in _PICTURES:
        raise RequestError(f"out={out}: expected a .png, a .jpg, or a folder (a new one with / at its end).")
    elif len(photographs) > 1:
        raise RequestError(f"out={out} is one picture, and there are {len(photographs)} images: give a folder.")
    else:
        folder, names = out.parent, [out.name]
    files.check_folder(folder)
    owners: dict[str, Path] = {}
    for path, name in zip(photographs, names, strict=True):
        if name in owners:
            raise RequestError(
                f"The pictures of {owners[name]} and {path} would both be {folder / name}; draw one at a time."
            )
        owners[name] = path
        if any((folder / name).resolve() == each.resolve() for each in photographs):
            raise RequestError(
                f"{folder / name} is a photograph itself, and would be lost. Choose another --out (out=)."
            )
    there = [pair for pair in zip(photographs, names, strict=True) if (folder / pair[1]).exists()]
    others = [name for photograph, name in there if not _is_same(folder / name, request, photograph)]
    files.check_replaceable(folder, others, request.overwrite)
    return folder, names


def _is_same(path: Path, request: PredictRequest, photograph: Path) -> bool:
    """Tell whether a file is the picture that this request has drawn of this photograph before."""
    from mobilenets_tf.tasks import pictures

    return path.is_file() and pictures.is_sealed(path.read_bytes(), _described(request, photograph))


def _described(request: PredictRequest, photograph: Path) -> dict:
    """Say in plain data of what the picture of a photograph is made."""
    given = {name: getattr(request, name) for name in ("beside", "threshold", "top", "task")}
    return {"model": request.source.described(), "photograph": os.fspath(photograph), **given}


def _predict(models, photographs: ImageSet, request: PredictRequest, suffix: str | None, progress: Progress):
    """Return a ``Prediction`` and a picture (or None) for each photograph. Runs in the worker."""
    predictors = [opened(source, reading) for source, reading in models]
    names = [source.model for source, _ in models]
    for name, predictor in zip(names, predictors, strict=True):
        if predictor.task is not predictors[0].task:
            raise RequestError(
                f"{names[0]} is for the task {predictors[0].task.name!r}, {name} for {predictor.task.name!r}; side by "
                "side they need the same."
            )
    paths = track(photographs.paths, "predicting", progress)
    return [_of_photograph(path, names, predictors, request, suffix) for path in paths]


def _of_photograph(
    path: Path, names: Sequence[str], predictors: Sequence[Predictor], request: PredictRequest, suffix: str | None
) -> tuple[Prediction, bytes | None]:
    decoded = images.decode(path, alpha=any(each.preprocessing.alpha for each in predictors))
    photograph = decoded.convert("RGB")
    answers, drawings = [], []
    for name, predictor in zip(names, predictors, strict=True):
        task, labels = predictor.task, predictor.labels
        (answer,) = predictor([decoded])
        answer = task.shown(answer, request.threshold)
        described = task.described(answer, labels, photograph.height, photograph.width, request.top)
        prepared = predictor.preprocessing.described()
        answers.append({"file": name, "task": task.name, "input": prepared, "found": described})
        if suffix:
            drawings.append(task.draw(photograph, answer, labels, request.top))
    prediction = Prediction(str(path), photograph.width, photograph.height, answers)
    return prediction, _picture(names, drawings, suffix, _described(request, path)) if suffix else None


def _picture(names: Sequence[str], drawings: Sequence, suffix: str, described: dict) -> bytes:
    from mobilenets_tf.tasks import pictures

    short = [Path(name).name for name in names]
    captions = short if len(set(short)) == len(short) else names
    drawing = drawings[0]
    if len(drawings) > 1:
        drawing = pictures.side_by_side(list(zip(captions, drawings, strict=True)))
    return pictures.sealed(drawing, suffix, described)
