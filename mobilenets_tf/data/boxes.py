"""Images with boxes around their objects: Pascal VOC's XML files and COCO's JSON."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath
from typing import Any
from xml.etree import ElementTree

import numpy as np

from mobilenets_tf.data.annotations import check_names, check_size, content, paired, upright_size
from mobilenets_tf.data.images import ImageSet, first_few
from mobilenets_tf.data.text_files import read_json, read_text
from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.progress import Progress, silent, track

# A box that reaches this share of the side beyond the image is clipped: rounding and hasty annotation do that. Beyond
# it, the corners are probably those of another image, of another size, or in another order.
_OVERHANG = 0.05
_LARGEST = 1e9

_Corners = tuple[float, float, float, float]  # xmin, ymin, xmax, ymax in pixels


@dataclass(frozen=True, eq=False)
class Boxes:
    """The annotated objects of one image.

    corners: float32 (k, 4): ymin, xmin, ymax, xmax as shares of the image's height and width.
    classes: int32 (k,), from 0.
    ignored: bool (k,): objects that training and metrics leave out (VOC's difficult, COCO's iscrowd).
    """

    corners: np.ndarray
    classes: np.ndarray
    ignored: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects that a detector reports for one image, in any order.

    boxes: float32 (k, 4): ymin, xmin, ymax, xmax as shares of the image's height and width.
    classes: int32 (k,), from 0.
    scores: float32 (k,).
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)

    def above(self, score: float) -> Detections:
        """Keep the detections whose score is above ``score``."""
        kept = self.scores > score
        return Detections(self.boxes[kept], self.classes[kept], self.scores[kept])


@dataclass(frozen=True, eq=False)
class BoxedImages(ImageSet):
    """Images with their boxes, a ``data.sources.Source``; ``find_boxes`` makes it.

    boxes: one ``Boxes`` per image.
    class_names: one name per class index.
    """

    boxes: tuple[Boxes, ...] = ()
    class_names: tuple[str, ...] = ()

    def read(self, i: int) -> tuple[bytes, Boxes]:
        """Read image ``i``: its encoded bytes and its boxes.

        Raises:
            RequestError: the file cannot be read.
        """
        return content(self.paths[i]), self.boxes[i]

    @property
    def annotated(self) -> bool:
        return True

    def truth(self, i: int) -> Boxes:
        return self.boxes[i]

    def name(self, i: int) -> str:
        """Path of image ``i``."""
        return str(self.paths[i])

    def class_counts(self) -> list[int]:
        """Count the images that have an object of each class."""
        counts = np.zeros(len(self.class_names), np.int64)
        for boxes in self.boxes:
            counts[np.unique(boxes.classes[~boxes.ignored])] += 1
        return counts.tolist()

    def _pick(self, indices: Sequence[int]) -> BoxedImages:
        boxes = tuple(self.boxes[i] for i in indices)
        return replace(self, paths=tuple(self.paths[i] for i in indices), boxes=boxes)


@dataclass
class _Object:
    """An object as its annotation file has it. ``where``: the place in the file, for messages."""

    where: str
    name: str
    corners: _Corners
    ignored: bool


@dataclass
class _AnnotatedImage:
    """An image and its objects; ``size``: the (width, height) in its annotation file, None where the file has none."""

    where: str
    image: Path
    size: tuple[int, int] | None
    objects: list[_Object] = field(default_factory=list)


def find_boxes(spec: str | os.PathLike[str], classes: Sequence[str] = (), progress: Progress = silent) -> BoxedImages:
    """Find the images and boxes of a VOC folder or a COCO file.

    Boxes a little outside of the image are clipped. Boxes without area are left out, with one warning for all of them.

    Args:
        spec: a folder with images/ (or JPEGImages/) and annotations/ (or Annotations/), where each image has a VOC .xml
            of the same name; or a COCO .json with its images in the folder beside it. Corners are read as pixels
            counted from 0, as most tools write them; VOC's own files count from 1, and their boxes are up to one pixel
            off.
        classes: class names in the order of their indices. Without them, the names in the .xml files in alphabetical
            order, or COCO's categories in the order of their ids.
        progress: called after each annotation.

    Raises:
        RequestError: the folder or file does not exist; an image has no annotation or an annotation no image; a file is
            not VOC's or COCO's; a class is unknown; an image has another size than its annotation says; a box is
            outside of its image; all boxes are shares of their images rather than pixels.
    """
    path, classes = Path(spec), tuple(classes)
    check_names(classes)
    if path.is_dir():
        annotated, names = _from_voc(path, progress)
    elif path.is_file() and path.suffix.lower() == ".json":
        annotated, names = _from_coco(path)
    elif path.is_file():
        raise RequestError(f"{path}: expected a folder with images/ and annotations/ (VOC's .xml), or a COCO .json.")
    else:
        raise RequestError(f"No such folder or COCO .json: {path}")
    names = classes or names
    if not names:
        raise RequestError(f"There is no object in {path}, so there is nothing to detect.")
    _refuse_shares(path, annotated)
    indices = {name: index for index, name in enumerate(names)}
    left_out: list[str] = []
    boxes = tuple(_boxes(image, indices, left_out) for image in track(annotated, "checking boxes", progress))
    if left_out:
        warnings.warn(f"Boxes without area are left out, {len(left_out)}: {first_few(left_out)}", stacklevel=2)
    return BoxedImages(tuple(image.image for image in annotated), boxes=boxes, class_names=names)


def _refuse_shares(path: Path, annotated: Sequence[_AnnotatedImage]) -> None:
    """Refuse boxes that are given as shares of the image.

    Raises:
        RequestError: every box fits into one pixel.
    """
    objects = [each for image in annotated for each in image.objects]
    if objects and all(-_OVERHANG <= value <= 1 + _OVERHANG for each in objects for value in each.corners):
        raise RequestError(
            f"All {len(objects)} boxes of {path} lie between 0 and 1, such as {_description(objects[0])}. They look "
            "like shares of the image: multiply them by its width and height, corners are in pixels."
        )


def _boxes(annotated: _AnnotatedImage, indices: dict[str, int], left_out: list[str]) -> Boxes:
    """Convert the objects of an image; describe each that has no area in ``left_out``."""
    real = upright_size(annotated.image)
    check_size(annotated.image, real, annotated.where, annotated.size)
    size = real or annotated.size
    if size is None:
        raise RequestError(f"{annotated.where} does not give the size of {annotated.image}, which cannot be read.")
    corners, classes, ignored = [], [], []
    for each in annotated.objects:
        if each.name not in indices:
            raise RequestError(f"{each.where}: {unknown('class', each.name, indices)}")
        xmin, ymin, xmax, ymax = _inside(each, size)
        if xmin == xmax or ymin == ymax:
            left_out.append(_description(each) + ".")
            continue
        corners.append((ymin, xmin, ymax, xmax))
        classes.append(indices[each.name])
        ignored.append(each.ignored)
    shares = np.array(corners, np.float64).reshape(-1, 4) / (size[::-1] * 2)
    return Boxes(shares.astype(np.float32), np.array(classes, np.int32), np.array(ignored, bool))


def _inside(annotated: _Object, size: tuple[int, int]) -> list[float]:
    """Clip the corners of an object to its image of ``size`` (width, height).

    Raises:
        RequestError: the corners are in the wrong order, or too far outside.
    """
    (xmin, ymin, xmax, ymax), (width, height) = annotated.corners, size
    if xmax < xmin or ymax < ymin:
        raise RequestError(
            f"{_description(annotated)}: its end is before its beginning. Correct the corners or remove the box."
        )
    for low, high, length in ((xmin, xmax, width), (ymin, ymax, height)):
        if low < -_OVERHANG * length or high > (1 + _OVERHANG) * length:
            raise RequestError(
                f"{_description(annotated)} is not in its image of {width}x{height}. Are x and y swapped, or the "
                "corners those of another size?"
            )
    return [min(max(value, 0), length) for value, length in zip(annotated.corners, size * 2, strict=True)]


def _description(annotated: _Object) -> str:
    xmin, ymin, xmax, ymax = annotated.corners
    return f"{annotated.where}: the box of {annotated.name!r} from ({xmin:g}, {ymin:g}) to ({xmax:g}, {ymax:g})"


def _from_voc(root: Path, progress: Progress) -> tuple[list[_AnnotatedImage], tuple[str, ...]]:
    pairs = paired(root, ("images", "JPEGImages"), ("annotations", "Annotations"), ".xml")
    annotated = [_voc(file, image) for image, file in track(pairs, "reading annotations", progress)]
    return annotated, tuple(sorted({each.name for image in annotated for each in image.objects}))


def _voc(file: Path, image: Path) -> _AnnotatedImage:
    text = read_text(file)
    try:
        # Entities, which can make a parser use any amount of memory, are declared there. No encoding can hide the word,
        # because the text is decoded already.
        if "<!DOCTYPE" in text:
            raise RequestError(f"{file} has a DOCTYPE, which VOC's annotations do not have. Remove the DOCTYPE.")
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise RequestError(f"{file} is not an XML file ({error}).") from error
    if root.tag != "annotation":
        raise RequestError(f"{file} is <{root.tag[:60]}>; expected VOC's <annotation>.")
    width, height = (_number(file, root, f"size/{side}", 0) for side in ("width", "height"))
    annotated = _AnnotatedImage(str(file), image, (int(width), int(height)) if width > 0 and height > 0 else None)
    for element in root.findall("object"):
        xmin, ymin, xmax, ymax = (_number(file, element, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
        difficult = _number(file, element, "difficult", 0)
        name = (element.findtext("name") or "").strip()
        if not name:
            raise RequestError(f"{file}: an <object> has no <name>.")
        annotated.objects.append(_Object(str(file), name, (xmin, ymin, xmax, ymax), difficult != 0))
    return annotated


def _number(file: Path, element: ElementTree.Element, path: str, default: float | None = None) -> float:
    """Read the number at ``path`` in an element; ``default`` if there is no such element or it is empty."""
    text = (element.findtext(path) or "").strip()
    if not text and default is not None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) < _LARGEST:
        raise RequestError(f"{file}: <{element.tag}> has {text[:60]!r} as {path}; expected a number.")
    return value


def _from_coco(file: Path) -> tuple[list[_AnnotatedImage], tuple[str, ...]]:
    document = read_json(file)
    if not isinstance(document, dict):
        raise RequestError(f"{file} is a {type(document).__name__}; expected COCO's images, annotations, categories.")
    categories = {}
    for where, each in _records(file, document, "categories"):
        identity = _value(where, each, "id", int)
        if identity in categories:
            raise RequestError(f"{where}: another category has the id {identity} too.")
        categories[identity] = _value(where, each, "name", str)
    check_names(tuple(categories.values()))
    annotated: dict[int, _AnnotatedImage] = {}
    for where, each in _records(file, document, "images"):
        identity, name = _value(where, each, "id", int), _value(where, each, "file_name", str)
        path = PureWindowsPath(name)  # takes both kinds of slashes, and drives, for parts of a path
        if path.anchor or ".." in path.parts:
            raise RequestError(f"{where}: file_name {name[:200]!r} leaves the folder; expected a name within it.")
        if identity in annotated:
            raise RequestError(f"{where}: another image has the id {identity} too.")
        width, height = (_value(where, each, side, int, float, default=0) for side in ("width", "height"))
        size = (int(width), int(height)) if 0 < width < _LARGEST and 0 < height < _LARGEST else None
        annotated[identity] = _AnnotatedImage(where, Path(name), size)
    if not annotated:
        raise RequestError(f"{file} has no images in it.")
    for where, each in _records(file, document, "annotations"):
        identity, category = _value(where, each, "image_id", int), _value(where, each, "category_id", int)
        for key, value, known in (("image_id", identity, annotated), ("category_id", category, categories)):
            if value not in known:
                raise RequestError(f"{where}: {key} is {value}, and none of the {len(known)} ids is that.")
        box = _value(where, each, "bbox", list)
        if len(box) != 4 or not all(isinstance(value, (int, float)) and abs(value) < _LARGEST for value in box):
            raise RequestError(f"{where}: bbox is {str(box)[:100]}; expected [x, y, width, height] in pixels.")
        x, y, width, height = box
        ignored = _value(where, each, "iscrowd", int, default=0) != 0
        corners = (x, y, x + width, y + height)
        annotated[identity].objects.append(_Object(where, categories[category], corners, ignored))
    folder = _image_folder(file, [image.image for image in annotated.values()])
    for image in annotated.values():
        image.image = folder / image.image
    return list(annotated.values()), tuple(categories[identity] for identity in sorted(categories))


def _records(file: Path, document: dict[str, Any], key: str) -> list[tuple[str, dict[str, Any]]]:
    """List the records under ``key``, each with its place in the file, for messages."""
    records = document.get(key)
    if not isinstance(records, list):
        keys = ", ".join(map(repr, list(document)[:8]))
        raise RequestError(f"{file} has no list {key!r}, as COCO's files of boxes have; it has {keys or 'nothing'}.")
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise RequestError(f"{file}, {key}[{index}]: {str(record)[:60]!r}; expected an object.")
    return [(f"{file}, {key}[{index}]", record) for index, record in enumerate(records)]


def _value(where: str, record: dict[str, Any], key: str, *kinds: type, default: Any = None) -> Any:
    value = record.get(key, default)
    if type(value) not in kinds:  # True is an int to isinstance
        raise RequestError(f"{where}: {key} is {str(value)[:60]!r}; expected {kinds[0].__name__}.")
    return value


def _image_folder(file: Path, names: list[Path]) -> Path:
    """Find the folder of the images. COCO's own files are in annotations/, beside a folder named after their split."""
    here, above = file.parent, file.parent.parent
    folders = (here, here / "images", above / file.stem.removeprefix("instances_"), above / "images")
    folder = next((folder for folder in folders if os.path.isfile(folder / names[0])), None)
    missing = [name for name in names if folder is None or not os.path.isfile(folder / name)]
    if folder is None or missing:
        looked = ", ".join(map(str, [folder] if folder else folders))
        raise RequestError(
            f"{file}: {len(missing)} of {len(names)} images are not there, such as {str(missing[0])[:200]!r}; looked "
            f"in {looked}."
        )
    return folder
