"""Photographs on disk: find, label, decode and check them."""

from __future__ import annotations

import functools
import importlib.util
import os
import random
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from mobilenets_tf.data.listing import entries_of, files_below, left_out
from mobilenets_tf.data.text_files import read_rows, shown
from mobilenets_tf.errors import RequestError
from mobilenets_tf.progress import Progress, silent, track

if TYPE_CHECKING:
    from PIL import Image

_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
_HEIF = (".heic", ".heif")
_HEIF_REMEDY = " HEIC is read where pillow-heif is installed:  pip install pillow-heif"
# Where the photographs of a data set with boxes or masks are, and where its annotations are.
_PHOTOGRAPHS = ("images", "JPEGImages")
_ANNOTATIONS = ("masks", "annotations", "Annotations", "labels", "SegmentationClass")


@functools.cache
def suffixes() -> tuple[str, ...]:
    """Return the suffixes of the files that are read as images: those that Pillow decodes, and of HEIC where the
    package pillow-heif is installed."""
    return _SUFFIXES + (_HEIF if _has_heif_decoder() else ())


@functools.cache
def _has_heif_decoder() -> bool:
    """Let Pillow decode HEIC, if pillow-heif is installed, and tell whether it is."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


@dataclass(frozen=True)
class ImageSet:
    """Image files, and the class index of each; ``labels`` is None for unlabelled images."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def annotated(self) -> bool:
        """Whether each image's truth is known."""
        return self.labels is not None

    def truth(self, i: int):
        """What is known of an image: the index of its class; None if nothing is known."""
        return None if self.labels is None else self.labels[i]

    def sample(self, count: int | None, seed: int = 0) -> ImageSet:
        """Draw ``count`` images with the random ``seed``, in their original order. None, or more than there are: all.

        Raises:
            RequestError: ``count`` is below 1.
        """
        if count is not None and count < 1:
            raise RequestError(f"Cannot take {count} images; expected at least 1.")
        if count is None or count >= len(self):
            return self
        return self._pick(sorted(random.Random(seed).sample(range(len(self)), count)))

    def split(self, share: float, seed: int = 0) -> tuple[ImageSet, ImageSet]:
        """Split into two sets, the second with about ``share`` of each class, drawn with the random ``seed``.

        Both sets have an image of each class that has at least two; a class with one image is in the first set only.
        """
        generator, second = random.Random(seed), set()
        of_class: dict[int | None, list[int]] = {}
        for index in range(len(self)):
            of_class.setdefault(self.labels[index] if self.labels else None, []).append(index)
        for indices in of_class.values():
            count = min(max(1, round(share * len(indices))), len(indices) - 1)
            second |= set(generator.sample(indices, count))
        return self._pick([i for i in range(len(self)) if i not in second]), self._pick(sorted(second))

    def without(self, other: ImageSet) -> ImageSet:
        """Leave out the images whose file is in ``other``."""
        used = {path.resolve() for path in other.paths}
        return self._pick([i for i, path in enumerate(self.paths) if path.resolve() not in used])

    def _pick(self, indices: Sequence[int]) -> ImageSet:
        labels = None if self.labels is None else tuple(self.labels[i] for i in indices)
        return ImageSet(tuple(self.paths[i] for i in indices), labels)


def find_images(source: str | os.PathLike[str], class_names: Sequence[str] = ()) -> ImageSet:
    """Find the images of a folder or a CSV.

    A CSV has the columns ``file`` (relative to the CSV) and ``class_index``. A folder holds either images (unlabelled)
    or one sub-folder per class. If all sub-folders are named in ``class_names``, their places in it are the class
    indices; otherwise their alphabetical order gives them, provided that ``class_names`` is empty or has as many names.
    A data set with boxes or masks (images/ beside annotations/ or masks/) stands for its folder of images.

    Hidden files and folders, and those that tools leave behind (``listing``), are passed over. A warning counts the
    files that cannot be read, such as HEIC without pillow-heif.

    Raises:
        RequestError: the source does not exist or has no image in it, a sub-folder is empty or not a class, or the CSV
            is not of this form.
    """
    if os.path.isdir(source):
        return _from_folder(Path(source), class_names)
    if not os.path.isfile(source):
        raise RequestError(f"No such folder or CSV of images: {shown(source)}")
    if Path(source).suffix.lower() != ".csv":
        raise RequestError(f"{source}: expected a folder of images or a .csv with the columns file and class_index.")
    images = _from_csv(Path(source), len(class_names))
    if not images.paths:
        raise RequestError(f"{source} has no rows.")
    return images


def find_photographs(source: str | os.PathLike[str]) -> ImageSet:
    """Find the images of a folder or a CSV as ``find_images`` does, without labels: sub-folders need not be classes.

    Raises:
        RequestError: the source does not exist or has no image in it, or the CSV is not of this form.
    """
    if os.path.isdir(source):
        return ImageSet(tuple(_readable(photographs_folder(Path(source)))))
    return ImageSet(find_images(source).paths)


def photographs_folder(folder: Path) -> Path:
    """Return the folder with the photographs of a data set with boxes or masks; any other folder as it is."""
    if any((folder / name).is_dir() for name in _ANNOTATIONS):
        return next((folder / name for name in _PHOTOGRAPHS if (folder / name).is_dir()), folder)
    return folder


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in suffixes()


def unread(files: Sequence[Path]) -> str:
    """Count and name, in a sentence, the files that cannot be read as images; empty without such files."""
    return left_out(files, suffixes()) + (_HEIF_REMEDY if any(map(_needs_heif_decoder, files)) else "")


def _needs_heif_decoder(path: str | os.PathLike[str]) -> bool:
    return Path(path).suffix.lower() in _HEIF and not _has_heif_decoder()


def _readable(folder: Path) -> list[Path]:
    """List the images below a folder, and warn of files that cannot be read.

    Raises:
        RequestError: there is no image.
    """
    files = files_below(folder)
    images, others = [path for path in files if _is_image(path)], unread(files)
    if not images:
        looked_for = f"{folder} has no images in it (looked for {', '.join(suffixes())})."
        raise RequestError(f"{looked_for} {others}".strip())
    if others:
        warnings.warn(f"{folder}: {others}", stacklevel=3)
    return images


def _from_folder(folder: Path, class_names: Sequence[str]) -> ImageSet:
    folder = photographs_folder(folder)
    images = _readable(folder)
    folders = [path for path in entries_of(folder) if path.is_dir()]
    # The images of a sub-folder, which may be a link to another place.
    of_class = {path: [image for image in files_below(path) if _is_image(image)] for path in folders}
    classes = [path for path in folders if of_class[path]]
    if len(classes) < 2 or any(path.parent == folder for path in images):
        return ImageSet(tuple(images))
    names = [path.name for path in classes]
    known = {name: index for index, name in enumerate(class_names)}
    if empty := sorted({path.name for path in folders} - set(names) - set(known)):
        raise RequestError(
            f"{folder}: the sub-folder {empty[0]!r} has no images in it. Without it the class indices of the "
            "sub-folders after it would change: put images into it, or remove it if it is not a class."
        )
    if unknown_names := sorted(set(names) - set(known)):
        if class_names and len(names) != len(class_names):
            raise RequestError(
                f"{folder}: the sub-folders {', '.join(map(repr, unknown_names[:5]))} are none of the model's "
                f"{len(class_names)} classes; name them as in its labels, or give a CSV with file and class_index."
            )
        known = {name: index for index, name in enumerate(names)}
    pairs = [(path, known[folder.name]) for folder in classes for path in of_class[folder]]
    return ImageSet(tuple(path for path, _ in pairs), tuple(label for _, label in pairs))


def check_classes(images: ImageSet, classes: int | None) -> None:
    """Refuse images of a class that a model of so many classes does not have; None or 0 if not known.

    Raises:
        RequestError: a label is not below the number of classes.
    """
    last = max(images.labels or (0,))
    if classes and last >= classes:
        raise RequestError(
            f"The annotations have the class {last}, so at least {last + 1} classes; the model has {classes}. Remove "
            "sub-folders that are no class, or give a CSV with file and class_index."
        )


def _from_csv(table: Path, classes: int) -> ImageSet:
    columns, rows = read_rows(table)
    if "file" not in columns or "class_index" not in columns:
        found = ", ".join(name[:60] for name in columns[:10]) or "none"
        raise RequestError(f"{table} has the columns {found}; expected file and class_index.")
    paths, labels = [], []
    for line, row in enumerate(rows, 2):
        path = table.parent / (row["file"] or "")
        if not os.path.isfile(path):
            raise RequestError(f"{table}, line {line}: no such image: {shown(path)}")
        text = row["class_index"] or ""
        try:
            label = int(text)
        except ValueError:
            raise RequestError(f"{table}, line {line}: class_index {text[:60]!r} is not a number.") from None
        if label < 0 or (classes and label >= classes):
            raise RequestError(
                f"{table}, line {line}: class_index {label} is not one of the model's {classes} classes."
            )
        paths.append(path)
        labels.append(label)
    return ImageSet(tuple(paths), tuple(labels))


def decode(file: str | os.PathLike[str] | BinaryIO, name: str | None = None, *, alpha: bool = False) -> Image.Image:
    """Decode an image to a ``PIL.Image`` in RGB, turned upright as its Exif orientation says.

    Args:
        file: a path or a binary stream.
        name: what to call a stream in an error message.
        alpha: decode to RGBA: an image without transparency is opaque.

    Raises:
        RequestError: the file does not exist, is not an image, or is damaged.
    """
    return _open(file, None, name, "RGBA" if alpha else "RGB")


def check(images: ImageSet) -> None:
    """Read every file to its end, so that a damaged file is reported before long work begins.

    Raises:
        RequestError: files are damaged; names the first few.
    """
    if problems := broken(images):
        what = "it" if len(problems) == 1 else "them"
        raise RequestError(f"{first_few(problems)} Remove or replace {what} and run again.")


def broken(images: ImageSet, progress: Progress = silent) -> list[str]:
    """Read every file to its end, and describe each damaged file in a sentence."""

    def problem(path: Path) -> str | None:
        try:
            _open(path, (32, 32))
        except RequestError as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as pool:
        problems = track(pool.map(problem, images.paths), "checking images", progress, len(images))
        return [text for text in problems if text]


def first_few(problems: Sequence[str]) -> str:
    """Join the first three sentences, and say how many more there are."""
    more = f" And {len(problems) - 3} more." if len(problems) > 3 else ""
    return " ".join(problems[:3]) + more


def _open(
    path: str | os.PathLike[str] | BinaryIO,
    draft: tuple[int, int] | None,
    name: str | None = None,
    mode: str = "RGB",
) -> Image.Image:
    from PIL import Image, ImageOps

    _has_heif_decoder()
    if isinstance(path, (str, os.PathLike)) and os.path.exists(path) and not os.path.isfile(path):
        raise RequestError(f"{name or path} is no file: expected an image.")  # a pipe would be waited for
    try:
        with Image.open(path) as image:
            if draft:
                image.draft("RGB", draft)  # a JPEG is then decoded at an eighth of its size, but still to its end
            return _converted(ImageOps.exif_transpose(image), mode)
    except FileNotFoundError as error:
        raise RequestError(f"No such image: {path}") from error
    except Exception as error:  # Pillow's decoders raise many kinds
        remedy = _HEIF_REMEDY if isinstance(path, (str, os.PathLike)) and _needs_heif_decoder(path) else ""
        raise RequestError(f"{name or path} is not a readable image ({error}).{remedy}") from error


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """Convert to a mode of 8 bits per channel. Pillow clips values of 16 bits, so they are scaled here.

    Raises:
        ValueError: the image has 32 bits per pixel, and nothing says which value is white.
    """
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert(mode)
    if image.mode in ("I", "F"):
        raise ValueError("it has 32 bits a pixel: convert it to 8 or 16")
    return image.convert(mode)


# The photographs among the sample images of scikit-image's wheel; the rest are textures, drawings, microscope slides.
_DEMO = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "motorcycle_left.png", "rocket.jpg")


def demo_photos() -> ImageSet:
    """Find the photographs that scikit-image's package contains, for a first try without own images.

    Raises:
        RequestError: scikit-image is not installed.
    """
    spec = importlib.util.find_spec("skimage")
    folder = Path(spec.origin).parent / "data" if spec and spec.origin else None
    paths = tuple(folder / name for name in _DEMO if (folder / name).is_file()) if folder else ()
    if not paths:
        raise RequestError("The demo photographs come with scikit-image:  pip install scikit-image")
    return ImageSet(paths)
