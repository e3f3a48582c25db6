"""Images with boxes around what is in them: Pascal VOC's XML files and COCO's JSON."""

import json
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath
from xml.etree import ElementTree

import numpy as np

from mobilenets_tf.data.annotations import check_names, check_size, content, paired, upright_size
from mobilenets_tf.data.images import ImageSet, first_few
from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.progress import Progress, silent, track

# Boxes reach over the border by rounding or a careless hand, and are clipped. Further out than this share of the side,
# the numbers are of another image, of another size or in another order.
_OVERHANG = 0.05
_LARGEST = 1e9


@dataclass(frozen=True, eq=False)
class Boxes:
    """What is in an image.

    corners: float32 (k, 4): ymin, xmin, ymax, xmax as shares of the image's height and width.
    classes: int32 (k,), from 0.
    ignored: bool (k,): to be neither learnt nor counted when judging (VOC's difficult, COCO's iscrowd).
    """

    corners: np.ndarray
    classes: np.ndarray
    ignored: np.ndarray

    def __len__(self):
        return len(self.classes)


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector found in an image, in any order.

    boxes: float32 (k, 4): ymin, xmin, ymax, xmax as shares of the image's height and width.
    classes: int32 (k,), from 0.
    scores: float32 (k,).
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray

    def __len__(self):
        return len(self.classes)

    def above(self, score: float) -> "Detections":
        """Those with a higher score."""
        kept = self.scores > score
        return Detections(self.boxes[kept], self.classes[kept], self.scores[kept])


@dataclass(frozen=True, eq=False)
class BoxedImages(ImageSet):
    """A ``training.sources.Source`` whose images have boxes; ``find_boxes`` makes it.

    boxes: of each image.
    """

    boxes: tuple[Boxes, ...] = ()
    class_names: tuple[str, ...] = ()

    def read(self, i: int) -> tuple[bytes, Boxes]:
        """The encoded image and its boxes.

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
        return str(self.paths[i])

    def class_counts(self) -> list[int]:
        """In how many images each class is."""
        counts = np.zeros(len(self.class_names), np.int64)
        for boxes in self.boxes:
            counts[np.unique(boxes.classes[~boxes.ignored])] += 1
        return counts.tolist()

    def _pick(self, indices: Sequence[int]) -> "BoxedImages":
        boxes = tuple(self.boxes[i] for i in indices)
        return replace(self, paths=tuple(self.paths[i] for i in indices), boxes=boxes)


@dataclass
class _Object:
    """As it stands in the file: corners are xmin, ymin, xmax, ymax in pixels."""

    where: str
    name: str
    corners: tuple[float, float, float, float]
    ignored: bool


@dataclass
class _Described:
    """An image, the width and height that its annotation gives it (None: none), and the objects."""

    where: str
    image: Path
    size: tuple[int, int] | None
    objects: list[_Object] = field(default_factory=list)


def find_boxes(spec, classes: Sequence[str] = (), progress: Progress = silent) -> BoxedImages:
    """The images and boxes that ``spec`` names.

    spec: a folder with images/ (or JPEGImages/) and annotations/ (or Annotations/), in which each image has a VOC .xml
        of the same name; or a COCO .json with its images in the folder beside it. Corners are taken as they are, as
        most tools write them: VOC's own, which count pixels from 1, then are up to one pixel off.
    classes: the names in the order of their indices. Without them, those of the .xml files in alphabetical order, or
        COCO's categories in the order of their ids.

    Boxes a little outside of the image are clipped; those without area are left out, with one warning for all of them.

    Raises:
        RequestError: nothing there; images without annotation or the other way round; a file that is not of its form;
            an unknown class; an image of another size than its annotation says; a box that is not in its image.
    """
    path, classes = Path(spec), tuple(classes)
    check_names(classes)
    if path.is_dir():
        described, names = _from_voc(path, progress)
    elif path.is_file() and path.suffix.lower() == ".json":
        described, names = _from_coco(path)
    elif path.is_file():
        raise RequestError(f"{path}: expected a folder with images/ and annotations/ (VOC's .xml), or a COCO .json.")
    else:
        raise RequestError(f"No such folder or COCO .json: {path}")
    names = classes or names
    if not names:
        raise RequestError(f"There is no object in {path}, so nothing to detect.")
    indices = {name: index for index, name in enumerate(names)}
    left_out: list[str] = []
    found = [_boxes(each, indices, left_out) for each in track(described, "checking boxes", progress)]
    if left_out:
        warnings.warn(f"Boxes without area are left out, {len(left_out)}: {first_few(left_out)}", stacklevel=2)
    return BoxedImages(tuple(each.image for each in described), boxes=tuple(found), class_names=names)


def _boxes(described: _Described, indices: dict[str, int], left_out: list[str]) -> Boxes:
    real = upright_size(described.image)
    check_size(described.image, real, described.where, described.size)
    size = real or described.size
    if size is None:
        raise RequestError(f"{described.where} does not give the size of {described.image}, which cannot be read.")
    corners, classes, ignored = [], [], []
    for found in described.objects:
        if found.name not in indices:
            raise RequestError(f"{found.where}: {unknown('class', found.name, indices)}")
        xmin, ymin, xmax, ymax = _inside(found, size)
        if xmin == xmax or ymin == ymax:
            left_out.append(_told(found) + ".")
            continue
        corners.append((ymin, xmin, ymax, xmax))
        classes.append(indices[found.name])
        ignored.append(found.ignored)
    shares = np.array(corners, np.float64).reshape(-1, 4) / (size[::-1] * 2)
    return Boxes(shares.astype(np.float32), np.array(classes, np.int32), np.array(ignored, bool))


def _inside(found: _Object, size: tuple[int, int]) -> list[float]:
    """The corners, clipped to the image.

    Raises:
        RequestError: they are in the wrong order, or too far outside.
    """
    (xmin, ymin, xmax, ymax), (width, height) = found.corners, size
    if xmax < xmin or ymax < ymin:
        raise RequestError(f"{_told(found)}: its end is before its beginning. Put the corners right or take it out.")
    for low, high, length in ((xmin, xmax, width), (ymin, ymax, height)):
        if low < -_OVERHANG * length or high > (1 + _OVERHANG) * length:
            raise RequestError(
                f"{_told(found)} is not in its image of {width}x{height}. Are x and y swapped, or the corners those of "
                "another size?"
            )
    return [min(max(value, 0), length) for value, length in zip(found.corners, size * 2, strict=True)]


def _told(found: _Object) -> str:
    xmin, ymin, xmax, ymax = found.corners
    return f"{found.where}: the box of {found.name!r} from ({xmin:g}, {ymin:g}) to ({xmax:g}, {ymax:g})"


def _from_voc(root: Path, progress: Progress) -> tuple[list[_Described], tuple[str, ...]]:
    pairs = paired(root, ("images", "JPEGImages"), ("annotations", "Annotations"), ".xml")
    described = [_voc(file, image) for image, file in track(pairs, "reading annotations", progress)]
    return described, tuple(sorted({found.name for each in described for found in each.objects}))


def _voc(file: Path, image: Path) -> _Described:
    try:
        text = file.read_text(encoding="utf-8-sig")
        # Entities can only be declared in there; as text and not bytes, the file cannot name an encoding that hides it.
        if "<!DOCTYPE" in text:
            raise RequestError(f"{file} has a DOCTYPE, which VOC's annotations have not. Take it out.")
        root = ElementTree.fromstring(text)
    except OSError as error:
        raise RequestError(f"Cannot read {file}: {error.strerror or error}.") from error
    except (UnicodeDecodeError, ElementTree.ParseError) as error:
        raise RequestError(f"{file} is not an XML file in UTF-8 ({error}).") from error
    if root.tag != "annotation":
        raise RequestError(f"{file} is <{root.tag[:60]}>; expected VOC's <annotation>.")
    width, height = (_number(file, root, f"size/{side}", 0) for side in ("width", "height"))
    described = _Described(str(file), image, (int(width), int(height)) if width > 0 and height > 0 else None)
    for found in root.findall("object"):
        corners = tuple(_number(file, found, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
        difficult = _number(file, found, "difficult", 0)
        name = (found.findtext("name") or "").strip()
        if not name:
            raise RequestError(f"{file}: an <object> has no <name>.")
        described.objects.append(_Object(str(file), name, corners, difficult != 0))
    return described


def _number(file: Path, element: ElementTree.Element, path: str, default: float | None = None) -> float:
    """The number in the element at ``path``, ``default`` where there is none."""
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


def _from_coco(file: Path) -> tuple[list[_Described], tuple[str, ...]]:
    try:
        document = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RequestError(f"Cannot read {file}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{file} is not a JSON file ({error}).") from error
    if not isinstance(document, dict):
        raise RequestError(f"{file} is a {type(document).__name__}; expected COCO's images, annotations, categories.")
    categories = {}
    for where, each in _records(file, document, "categories"):
        identity = _value(where, each, "id", int)
        if identity in categories:
            raise RequestError(f"{where}: the id {identity} is another category's too.")
        categories[identity] = _value(where, each, "name", str)
    check_names(tuple(categories.values()))
    described: dict[int, _Described] = {}
    for where, each in _records(file, document, "images"):
        identity, name = _value(where, each, "id", int), _value(where, each, "file_name", str)
        path = PureWindowsPath(name)  # knows every way to write a path
        if path.anchor or ".." in path.parts:
            raise RequestError(f"{where}: file_name {name[:200]!r} leaves the folder; expected a name within it.")
        if identity in described:
            raise RequestError(f"{where}: the id {identity} is another image's too.")
        width, height = (_value(where, each, side, int, float, default=0) for side in ("width", "height"))
        size = (int(width), int(height)) if 0 < width < _LARGEST and 0 < height < _LARGEST else None
        described[identity] = _Described(where, Path(name), size)
    if not described:
        raise RequestError(f"{file} has no images in it.")
    for where, each in _records(file, document, "annotations"):
        identity, category = _value(where, each, "image_id", int), _value(where, each, "category_id", int)
        for key, value, known in (("image_id", identity, described), ("category_id", category, categories)):
            if value not in known:
                raise RequestError(f"{where}: {key} is {value}, an id that none of the {len(known)} has.")
        box = _value(where, each, "bbox", list)
        if len(box) != 4 or not all(isinstance(value, (int, float)) and abs(value) < _LARGEST for value in box):
            raise RequestError(f"{where}: bbox is {str(box)[:100]}; expected [x, y, width, height] in pixels.")
        x, y, width, height = box
        ignored = _value(where, each, "iscrowd", int, default=0) != 0
        found = _Object(where, categories[category], (x, y, x + width, y + height), ignored)
        described[identity].objects.append(found)
    folder = _image_folder(file, [each.image for each in described.values()])
    for each in described.values():
        each.image = folder / each.image
    return list(described.values()), tuple(categories[identity] for identity in sorted(categories))


def _records(file: Path, document: dict, key: str) -> list[tuple[str, dict]]:
    """Each with where it is, for messages."""
    records = document.get(key)
    if not isinstance(records, list):
        there = ", ".join(map(repr, list(document)[:8]))
        raise RequestError(f"{file} has no list {key!r}, as COCO's files of boxes have; it has {there or 'nothing'}.")
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise RequestError(f"{file}, {key}[{index}]: {str(record)[:60]!r}; expected an object.")
    return [(f"{file}, {key}[{index}]", record) for index, record in enumerate(records)]


def _value(where: str, record: dict, key: str, *kinds: type, default=None):
    value = record.get(key, default)
    if type(value) not in kinds:  # True is an int to isinstance
        raise RequestError(f"{where}: {key} is {str(value)[:60]!r}; expected {kinds[0].__name__}.")
    return value


def _image_folder(file: Path, names: list[Path]) -> Path:
    """Where the images are: COCO's own files stand in annotations/ beside a folder that is called as their split."""
    here, above = file.parent, file.parent.parent
    folders = (here, here / "images", above / file.stem.removeprefix("instances_"), above / "images")
    folder = next((folder for folder in folders if os.path.isfile(folder / names[0])), None)
    missing = [name for name in names if not os.path.isfile(folder / name)] if folder else names
    if missing:
        looked = ", ".join(str(each) for each in ([folder] if folder else folders))
        raise RequestError(
            f"{file}: {len(missing)} of {len(names)} images are not there, such as {str(missing[0])[:200]!r}; looked "
            f"in {looked}."
        )
    return folder
