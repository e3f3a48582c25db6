"""Images and the files that describe them, one for each: which belong together, and what can be told of them early."""

from pathlib import Path

from mobilenets_tf.data.images import SUFFIXES
from mobilenets_tf.errors import RequestError


def paired(
    root: Path, image_folders: tuple[str, ...], other_folders: tuple[str, ...], suffix: str
) -> list[tuple[Path, Path]]:
    """Each image of a folder's sub-folder for images, with the file of the same name, but for its suffix, in the other.

    image_folders, other_folders: what the two sub-folders may be called.

    Raises:
        RequestError: no such sub-folders, or empty ones; images or files that are alone, or two images of one name.
    """
    image_folder, other_folder = _first(root, image_folders), _first(root, other_folders)
    if not image_folder or not other_folder:
        below = sorted(
            str(path) for path in root.iterdir() if _first(path, image_folders) and _first(path, other_folders)
        )
        hint = f" They are in {', '.join(below[:3])}: name one of these." if below else ""
        raise RequestError(
            f"{root}: expected {'/ or '.join(image_folders)}/ with images in it, and {'/ or '.join(other_folders)}/ "
            f"with a {suffix} for each.{hint}"
        )
    images, others = _files(image_folder, SUFFIXES), _files(other_folder, (suffix,))
    if not images or not others:
        empty, looked_for = (other_folder, [suffix]) if images else (image_folder, SUFFIXES)
        raise RequestError(f"{empty} has none of the files looked for: *{', *'.join(looked_for)}.")
    for name, found in images.items():
        if len(found) > 1:
            raise RequestError(f"{found[0]} and {found[1]} have one name: which is {name}{suffix} about?")
    if alone := sorted(set(images) - set(others)):
        raise RequestError(
            f"{len(alone)} images have no {suffix} of the same name in {other_folder}: {_few(alone)}. Add them (where "
            "nothing is in an image, one that says so), or take the images out."
        )
    if alone := sorted(set(others) - set(images)):
        raise RequestError(
            f"{len(alone)} {suffix} files have no image of the same name in {image_folder}: {_few(alone)}. Add the "
            "images, or take the files out."
        )
    return [(images[name][0], others[name][0]) for name in sorted(images)]


def _first(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    """Files by their path in the folder without the suffix. Hidden ones, such as macOS' ._ files, are none."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file():
            found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    return found


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def upright_size(image: Path) -> tuple[int, int] | None:
    """Width and height as ``images.decode`` gives them, from the file's head alone where the format allows it; None for
    a file that cannot be read, which ``images.broken`` names."""
    from PIL import ExifTags, Image

    try:
        with Image.open(image) as opened:
            turned = opened.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            width, height = opened.size
    except Exception:  # Pillow's decoders raise many kinds
        return None
    return (height, width) if turned else (width, height)


def check_size(image: Path, real: tuple[int, int] | None, file: str, said: tuple[int, int] | None) -> None:
    """Refuse a file about an image of another size, width and height each; None: not known.

    Raises:
        RequestError: names both.
    """
    if not real or not said or real == said:
        return
    hint = " Are width and height swapped, or does its Exif orientation turn it?" if real == said[::-1] else ""
    raise RequestError(
        f"{file} is for an image of {said[0]}x{said[1]}; {image} is {real[0]}x{real[1]}.{hint} Use the image that was "
        "annotated, or annotate this one."
    )


def content(image: Path) -> bytes:
    """The encoded image.

    Raises:
        RequestError: it cannot be read.
    """
    try:
        return image.read_bytes()
    except OSError as error:
        raise RequestError(f"Cannot read {image}: {error.strerror or error}.") from error


def check_names(names: tuple[str, ...]) -> None:
    """Refuse names of classes of which one is there twice.

    Raises:
        RequestError: names it.
    """
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RequestError(f"Two classes are called {twice!r}: {', '.join(names[:10])}. Give each a name of its own.")
