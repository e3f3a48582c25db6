"""Labelled images by number: image folders, CSVs, TFRecords, and datasets of TensorFlow Datasets.

A source is plain data that can be pickled. Reading keeps no state, so any number of threads may read. TensorFlow is
imported only when a record is read.
"""

import difflib
import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mobilenets_tf.data import tfrecords
from mobilenets_tf.data.annotations import content
from mobilenets_tf.data.images import ImageSet, find_images, photographs_folder, suffixes, unread
from mobilenets_tf.data.listing import files_below
from mobilenets_tf.data.tfrecords import IMAGENET, Layout, Part, Records, open_records
from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.progress import Progress, silent

# More classes than any classifier here has: numbers from here on in a CSV are not indices of classes.
_MOST_CLASSES = 100_000


class Source(Protocol):
    """Annotated images, numbered from 0 to ``len(source) - 1``. ``class_names`` is empty where they are not known."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def read(self, i: int) -> tuple[bytes, Any]:
        """Read an encoded image (JPEG, PNG, ...), without decoding it, and its class index, boxes or mask.

        Raises:
            RequestError: the file cannot be read, or the label is none of the classes.
        """

    def name(self, i: int) -> str:
        """Say where an image is, for messages."""

    def class_counts(self) -> list[int] | None:
        """Count the images of each class; None where that takes reading them all."""


@dataclass(frozen=True)
class Files:
    """A ``Source`` of labelled image files."""

    images: ImageSet
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def _labels(self) -> tuple[int, ...]:
        return self.images.labels or ()

    def read(self, i: int) -> tuple[bytes, int]:
        return content(self.images.paths[i]), self._labels[i]

    def name(self, i: int) -> str:
        return str(self.images.paths[i])

    def split(self, share: float, seed: int) -> tuple["Files", "Files"]:
        """As ``ImageSet.split``."""
        first, second = self.images.split(share, seed)
        return replace(self, images=first), replace(self, images=second)

    def class_counts(self) -> list[int]:
        return np.bincount(self._labels, minlength=len(self.class_names)).tolist()


def find(
    spec: str,
    classes: Sequence[str] = (),
    *,
    label_offset: int | None = None,
    progress: Progress = silent,
) -> Source:
    """Find the labelled images that ``spec`` names.

    spec: a folder with a sub-folder a class; a .csv with the columns file and class_index; a folder of TFRecord files,
        one such file, or a pattern ("imagenet/train-*"), their records as TensorFlow's build_imagenet_data.py writes
        them; or "tfds:NAME:SPLIT" for a dataset that TensorFlow Datasets has prepared, such as "tfds:cifar10:train" or
        "tfds:cifar10:train[:80%]".
    classes: the classes' names in the order of their indices; left out, the names of the sub-folders or the dataset's.
    label_offset: of TFRecords, the label of the first class; None for 1, since 0 is the background in that layout.

    Raises:
        RequestError: ``spec`` has no images or no labels; records or shards are missing, damaged or compressed; a
            dataset is not prepared or has other features.
    """
    spec = str(spec)
    path = Path(spec)
    if not spec.startswith("tfds:") and (files := _record_files(spec, path)):
        layout = IMAGENET if label_offset is None else replace(IMAGENET, label_offset=label_offset)
        return open_records([Part(file) for file in files], classes, layout, progress)
    if label_offset is not None:
        raise RequestError(f"label_offset={label_offset} is for TFRecords; in {spec} classes begin at 0.")
    if spec.startswith("tfds:"):
        return _from_tfds(spec, tuple(classes), progress)
    images = find_images(path, classes)
    if images.labels is None:
        raise RequestError(
            f"The images in {spec} have no classes: expected one sub-folder a class, two or more, and no images beside "
            "them; or a .csv with the columns file and class_index."
        )
    if (highest := max(images.labels)) >= _MOST_CLASSES:
        raise RequestError(f"{spec}: class_index {highest} is no index of a class; they count from 0.")
    return Files(images, tuple(classes) or _sub_folders(path, images))


def _record_files(spec: str, path: Path) -> list[str]:
    """The TFRecord files that ``spec`` names; empty where it names images."""
    if path.is_dir():
        files = tfrecords.in_folder(path)
        inside = files_below(path)
        image = next((inner for inner in inside if inner.suffix.lower() in suffixes()), None)
        if files and image:
            raise RequestError(
                f"{spec} has both TFRecord files ({Path(files[0]).name}) and images ({image.relative_to(path)}). Give "
                "a pattern that the records' names match, or a folder of images alone."
            )
        if not files and not image:
            below = sorted({str(inner.parent) for inner in inside if tfrecords.is_records(inner)})
            hint = f"TFRecord files are in {', '.join(below[:3])}: name one of these." if below else unread(inside)
            raise RequestError(f"{spec} has neither images nor TFRecord files in it. {hint}".strip())
        return files
    if path.is_file():
        return tfrecords.matching(glob.escape(spec)) if tfrecords.is_records(path) else []
    return tfrecords.matching(spec) if glob.has_magic(spec) else []


def _sub_folders(source: Path, images: ImageSet) -> tuple[str, ...]:
    """The names of a folder's classes; empty for a CSV."""
    if not source.is_dir():
        return ()
    names, folder = {}, photographs_folder(source)
    for path, label in zip(images.paths, images.labels or (), strict=True):
        if label not in names:
            names[label] = path.relative_to(folder).parts[0]
    return tuple(names[label] for label in sorted(names))


def _from_tfds(spec: str, classes: tuple[str, ...], progress: Progress) -> Records:
    parts = re.fullmatch(r"tfds:([^:\[\]]+(?::[\d.*]+)?):(.+)", spec)
    if not parts:
        raise RequestError(f"{spec!r}: expected tfds:NAME:SPLIT, such as tfds:cifar10:train.")
    name, split = parts.groups()
    try:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.read_only_builder import builder_from_files
    except ModuleNotFoundError as error:
        if error.name != "tensorflow_datasets":
            raise
        raise RequestError(f"{spec} needs TensorFlow Datasets:  pip install tensorflow-datasets") from error
    try:
        # Not tfds.builder, which asks Google's servers for a dataset's description where nothing is prepared.
        info = builder_from_files(name).info
    except Exception as error:  # TFDS raises many kinds
        raise _not_prepared(tfds, spec, name, error) from error
    if info.file_format.value != "tfrecord":
        raise RequestError(
            f"{spec} is prepared as {info.file_format.value}; only tfrecord can be read.{_prepare(name, 'tfrecord')}"
        )
    names = _class_names(tfds, spec, info.features, classes)
    try:
        instructions = info.splits[split].file_instructions
    except Exception as error:
        raise unknown(f"split of {name}", split, sorted(info.splits)) from error
    if not instructions:
        raise RequestError(f"{spec} has no images in it; its splits: {', '.join(sorted(info.splits))}.")
    return open_records(
        [Part(str(one.filename), one.skip, one.take, one.examples_in_shard) for one in instructions],
        names,
        Layout("image", "label", 0),
        progress,
    )


def _class_names(tfds, spec: str, features, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The dataset's names of its classes, or ``classes`` where they are given: other names in the same order."""
    by_name = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = by_name.get("image"), by_name.get("label")
    if not (
        isinstance(image, tfds.features.Image)
        and image.np_dtype == np.uint8
        and isinstance(label, tfds.features.ClassLabel)
    ):
        listed = (
            ", ".join(f"{key} ({type(value).__name__})" for key, value in sorted(by_name.items()))
            or type(features).__name__
        )
        raise RequestError(f"{spec} has the features {listed}; expected image (Image, uint8) and label (ClassLabel).")
    names = tuple(label.names)
    if not classes:
        return names
    if len(classes) != len(names):
        raise RequestError(f"{spec} has {len(names)} classes, {len(classes)} are given.")
    if classes != names and sorted(classes) == sorted(names):
        raise RequestError(f"{spec} has its classes in another order than they are given: {', '.join(names[:5])} ...")
    return classes


def _not_prepared(tfds, spec: str, name: str, error: Exception) -> RequestError:
    if not isinstance(error, tfds.core.DatasetNotFoundError):
        return RequestError(f"{spec}: {str(error).splitlines()[0]} Expected tfds:NAME:SPLIT.")
    known = tfds.list_builders(with_community_datasets=False)
    plain = re.split("[:/]", name)[0]
    if plain not in known and (nearest := difflib.get_close_matches(plain, known, n=1)):
        return RequestError(f"TensorFlow Datasets has no {plain!r}. Did you mean {nearest[0]!r}?")
    folder = tfds.core.constants.DATA_DIR
    return RequestError(f"{spec} is not prepared in {folder} (TFDS_DATA_DIR names another folder).{_prepare(name)}")


def _prepare(name: str, file_format: str = "") -> str:
    option = f", file_format='{file_format}'" if file_format else ""
    call = f"tfds.builder('{name}'{option}).download_and_prepare()"
    return f' Prepare it:  python -c "import tensorflow_datasets as tfds; {call}"'
