"""Images and their annotation files: pair them by name, and check names and sizes before the work begins."""

from pathlib import Path

from mobilenets_tf.data.images import suffixes
from mobilenets_tf.data.listing import entries_of, files_below
from mobilenets_tf.errors import RequestError


def paired(
    root: Path, image_folders: tuple[str, ...], other_folders: tuple[str, ...], suffix: str
) -> list[tuple[Path, Path]]:
    """Pair each image of one sub-folder with the file of the other that has its name and the suffix ``suffix``.

    image_folders, other_folders: possible names of the two sub-folders of ``root``.

    Returns:
        (image, file), sorted by name.

    Raises:
        RequestError: a sub-folder is missing or empty, an image or file has no partner, or two images share a name.
    """
    image_folder, other_folder = _first(root, image_folders), _first(root, other_folders)
    if not image_folder or not other_folder:
        below = sorted(
            str(path) for path in entries_of(root) if _first(path, image_folders) and _first(path, other_folders)
        )
        hint = f" They are in {', '.join(below[:3])}: name one of these." if below else ""
        raise RequestError(
            f"{root}: expected {'/ or '.join(image_folders)}/ with images in it, and {'/ or '.join(other_folders)}/ "
            f"with a {suffix} for each.{hint}"
        )
    images, others = _files(image_folder, suffixes()), _files(other_folder, (suffix,))
    if not images or not others:
        empty, looked_for = (other_folder, [suffix]) if images else (image_folder, suffixes())
        raise RequestError(f"{empty} has none of the files looked for: *{', *'.join(looked_for)}.")
    for name, paths in images.items():
        if len(paths) > 1:
            raise RequestError(f"{paths[0]} and {paths[1]} have one name: which is {name}{suffix} about?")
    if alone := sorted(set(images) - set(others)):
        raise RequestError(
            f"{len(alone)} images have no {suffix} of the same name in {other_folder}: {_few(alone)}. Add them (for "
            "an image without objects, an empty annotation), or remove the images."
        )
    if alone := sorted(set(others) - set(images)):
        raise RequestError(
            f"{len(alone)} {suffix} files have no image of the same name in {image_folder}: {_few(alone)}. Add the "
            "images, or remove the files."
        )
    return [(images[name][0], others[name][0]) for name in sorted(images)]


def _first(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _files(folder: Path, endings: tuple[str, ...]) -> dict[str, list[Path]]:
    """List the files of a folder and its sub-folders by their path in it without the suffix."""
    files: dict[str, list[Path]] = {}
    for path in files_below(folder):
        if path.suffix.lower() in endings:
            files.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    return files


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def upright_size(image: Path) -> tuple[int, int] | None:
    """Read the width and height of the image that ``images.decode`` gives, where possible from the file's header only.

    None for a file that cannot be read, which ``images.broken`` reports.
    """
    from PIL import ExifTags, Image

    try:
        with Image.open(image) as opened:
            turned = opened.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            width, height = opened.size
    except Exception:  # Pillow's decoders raise many kinds
        return None
    return (height, width) if turned else (width, height)


def check_size(image: Path, real: tuple[int, int] | None, file: str, annotated: tuple[int, int] | None) -> None:
    """Refuse an annotation file for an image of another size.

    real, annotated: (width, height) of the image and in the annotation; None where unknown, which passes.

    Raises:
        RequestError: the sizes differ; names both.
    """
    if not real or not annotated or real == annotated:
        return
    hint = " Are width and height swapped, or does its Exif orientation turn it?" if real == annotated[::-1] else ""
    raise RequestError(
        f"{file} is for an image of {annotated[0]}x{annotated[1]}; {image} is {real[0]}x{real[1]}.{hint} Use "
        "the image that was annotated, or annotate this one."
    )


def content(image: Path) -> bytes:
    """Read the encoded image.

    Raises:
        RequestError: the file cannot be read.
    """
    try:
        return image.read_bytes()
    except OSError as error:
        raise RequestError(f"Cannot read {image}: {error.strerror or error}.") from error


def check_names(names: tuple[str, ...]) -> None:
    """Refuse class names with a duplicate.

    Raises:
        RequestError: a name is there twice; gives the name.
    """
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RequestError(f"Two classes are called {twice!r}: {', '.join(names[:10])}. Give each a name of its own.")
