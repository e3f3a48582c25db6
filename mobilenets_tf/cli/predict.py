"""mobilenets-tf predict"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilenets_tf import files
from mobilenets_tf.cli.evaluate import add_task, opened, reading_of
from mobilenets_tf.cli.options import add_input, add_json, add_quiet, display, emit
from mobilenets_tf.data import images
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.errors import RequestError
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.progress import track

HELP = "Show what a file says of photographs: classes, boxes or masks, drawn on them too, several files side by side."
EXAMPLE = "mobilenets-tf predict net_int8.tflite photo.jpg --beside net.keras --out picture.png"

_PICTURES = (".png", ".jpg", ".jpeg")


def add_arguments(parser):
    parser.add_argument("file", help="a .tflite, .keras or full-model .h5 file")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--beside", nargs="+", default=[], metavar="FILE", help="more files, to compare with")
    parser.add_argument(
        "--out", metavar="PICTURE_OR_DIR", help="draw it: a .png or .jpg for one image, or a folder for a .png of each"
    )
    parser.add_argument("--threshold", type=float, default=0.5, metavar="SCORE", help="of objects (default 0.5)")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes of a classifier (default 5)")
    add_task(parser)
    add_input(parser)
    parser.add_argument("--labels", metavar="FILE", help="class names, one a line, for a file that does not say")
    parser.add_argument("--overwrite", action="store_true", help="replace pictures in --out")
    add_json(parser)
    add_quiet(parser)


@dataclass(frozen=True)
class _Shown:
    """Which part of the answers is shown.

    threshold: the lowest score of an object. top: how many classes of a classifier. suffix: of the pictures, ".png" or
        a JPEG's; None draws none.
    """

    threshold: float
    top: int
    suffix: str | None


def run(chosen):
    from mobilenets_tf.worker import Worker

    if not 0 <= chosen.threshold <= 1:
        raise RequestError(f"--threshold {chosen.threshold}: expected a score from 0 to 1.")
    if chosen.top < 1:
        raise RequestError(f"--top {chosen.top}: expected at least 1.")
    networks = [_network(chosen, file) for file in (chosen.file, *chosen.beside)]
    photographs = ImageSet(tuple(map(Path, chosen.images)))
    folder, names = _places(chosen, photographs.paths)
    images.check(photographs)
    shown = _Shown(chosen.threshold, chosen.top, Path(names[0]).suffix.lower() if names else None)
    in_keras = any(not source.model.endswith(".tflite") for source, _ in networks)
    with Worker(preload="tensorflow" if in_keras else "") as worker, display(chosen) as progress:
        found = worker.call(_predict, networks, photographs, shown, progress=progress)
    if names:
        files.write_together(folder, {name: picture for name, (_, picture) in zip(names, found, strict=True)})
    records, pictures = [record for record, _ in found], [str(folder / name) for name in names]
    if chosen.json:
        emit(files.to_json({"images": records, "pictures": pictures}))
        return
    for record in records:
        _print(record)
    for picture in pictures:
        emit(f"Picture: {picture}")


def _network(chosen, file: str):
    """A file, and how to read its outputs. The options are for FILE, and for those beside it that do not say."""
    from mobilenets_tf.answers.predictor import Reading, check_file

    told = Reading.of(check_file(file))
    known = Reading() if file == chosen.file else told
    mean, std = (None, None) if known.preprocessing else (chosen.mean, chosen.std)
    source = ModelSource(
        file,
        mean=mean and tuple(mean),
        std=std and tuple(std),
        labels=None if known.labels else chosen.labels,
    )
    return source, reading_of(source, known.task or chosen.task)


def _places(chosen, photographs: Sequence[Path]) -> tuple[Path | None, list[str]]:
    """The folder for the pictures and a name for each photograph's; none where nothing is to be drawn.

    Raises:
        RequestError: one picture for several photographs, another format, or a place that is taken.
    """
    if chosen.out is None:
        return None, []
    out, is_folder = Path(chosen.out), chosen.out.endswith(("/", "\\")) or Path(chosen.out).is_dir()
    if is_folder or not out.suffix:
        folder, names = out, [f"{path.stem}.png" for path in photographs]
    elif out.suffix.lower() not in _PICTURES:
        raise RequestError(f"--out {out}: expected a .png, a .jpg, or a folder (a new one with / at its end).")
    elif len(photographs) > 1:
        raise RequestError(f"--out {out} is one picture, and there are {len(photographs)} images: give a folder.")
    else:
        folder, names = out.parent, [out.name]
    files.check_folder(folder)
    taken: dict[str, Path] = {}
    for path, name in zip(photographs, names, strict=True):
        if name in taken:
            raise RequestError(
                f"The pictures of {taken[name]} and {path} would both be {folder / name}; draw one at a time."
            )
        taken[name] = path
        if any((folder / name).resolve() == each.resolve() for each in photographs):
            raise RequestError(f"{folder / name} is a photograph itself, and would be lost. Choose another --out.")
    files.check_replaceable(folder, names, chosen.overwrite)
    return folder, names


def _predict(networks, photographs: ImageSet, shown: _Shown, progress) -> list[tuple[dict, bytes | None]]:
    """Of each photograph, what the files say as plain data, and its picture. Runs in the worker."""
    predictors = [opened(source, reading) for source, reading in networks]
    names = [source.model for source, _ in networks]
    for name, predictor in zip(names, predictors, strict=True):
        if predictor.task != predictors[0].task:
            raise RequestError(
                f"{names[0]} is for the task {predictors[0].task!r}, {name} for {predictor.task!r}; side by side they "
                "need the same."
            )
    return [_of_photograph(path, names, predictors, shown) for path in track(photographs.paths, "predicting", progress)]


def _of_photograph(path: Path, names, predictors, shown: _Shown) -> tuple[dict, bytes | None]:
    image = images.decode(path)
    answers, drawn = [], []
    for name, predictor in zip(names, predictors, strict=True):
        (answer,) = predictor([image])
        if predictor.task == "detect":
            answer = _best_first(answer, shown.threshold)
        found = _found(predictor, answer, image, shown.top)
        answers.append({"file": name, "task": predictor.task, "found": found})
        if shown.suffix:
            drawn.append(_drawn(predictor, answer, image, found))
    record = {"image": str(path), "width": image.width, "height": image.height, "answers": answers}
    return record, _picture(names, drawn, shown.suffix) if drawn else None


def _best_first(detections, threshold: float):
    """Those with a score of ``threshold`` or more."""
    import numpy as np

    from mobilenets_tf.data.boxes import Detections

    order = np.argsort(-detections.scores, kind="stable")
    order = order[detections.scores[order] >= threshold]
    return Detections(detections.boxes[order], detections.classes[order], detections.scores[order])


def _found(predictor, answer, image, top: int) -> list[dict]:
    """An answer as plain data: the highest scores, objects with their boxes in pixels, or each class' share of the
    pixels, the largest first."""
    import numpy as np

    from mobilenets_tf.answers.predictor import class_name

    def named(index, **more) -> dict:
        return {"class": int(index), "name": class_name(predictor.labels, index), **more}

    if predictor.task == "classify":
        return [named(i, score=float(answer[i])) for i in np.argsort(-answer, kind="stable")[:top]]
    if predictor.task == "segment":
        shares = np.bincount(answer.ravel()) / answer.size
        return [named(i, share=float(shares[i])) for i in np.argsort(-shares, kind="stable") if shares[i]]
    corners = (answer.boxes * ((image.height, image.width) * 2)).round(1).tolist()
    boxes = [dict(zip(("ymin", "xmin", "ymax", "xmax"), each, strict=True)) for each in corners]
    each = zip(answer.classes, answer.scores, boxes, strict=True)
    return [named(index, score=float(score), box=box) for index, score, box in each]


def _drawn(predictor, answer, image, found: list[dict]):
    from mobilenets_tf.tasks import pictures

    if predictor.task == "classify":
        return pictures.with_classes(image, [(each["name"], each["score"]) for each in found])
    draw = pictures.with_boxes if predictor.task == "detect" else pictures.with_mask
    return draw(image, answer, predictor.labels)


def _picture(names: Sequence[str], drawn: Sequence, suffix: str) -> bytes:
    from mobilenets_tf.tasks import pictures

    short = [Path(name).name for name in names]
    captions = short if len(set(short)) == len(short) else names
    picture = drawn[0] if len(drawn) == 1 else pictures.side_by_side(list(zip(captions, drawn, strict=True)))
    return pictures.encoded(picture, suffix)


def _print(record: dict) -> None:
    emit(f"{record['image']}  {record['width']}x{record['height']}")
    several = len(record["answers"]) > 1
    for answer in record["answers"]:
        if several:
            emit(f"  {answer['file']}")
        for line in map(_line, answer["found"]) if answer["found"] else ["  nothing that scores --threshold or more"]:
            emit(f"{'  ' * several}{line}")


def _line(found: dict) -> str:
    from mobilenets_tf.tasks.pictures import score_text

    share = score_text(found["score"] if "score" in found else found["share"])
    box = "  x {xmin:.0f} to {xmax:.0f}, y {ymin:.0f} to {ymax:.0f}".format(**found["box"]) if "box" in found else ""
    return f"  {share:>7}  {found['name']}{box}"
