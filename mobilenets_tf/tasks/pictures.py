"""Draw answers on photographs: boxes, masks and classes, and the answers of several files side by side.

The same answers give the same pixels, as long as the version of Pillow is the same.
"""

import functools
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mobilenets_tf.data.boxes import Detections
from mobilenets_tf.tasks.task import class_name

# The seven colours of Okabe and Ito, which people tell apart with any colour vision. Each colour after them is the one
# that is farthest from all earlier colours in OKLab, as seen with normal vision, protanopia and deuteranopia (Machado
# et al. 2009).
PALETTE = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66),
    (102, 0, 51), (0, 0, 170), (238, 221, 255), (102, 17, 255), (85, 85, 34), (68, 221, 153), (136, 119, 255),
    (170, 34, 119), (68, 34, 119), (170, 255, 187), (68, 68, 187), (255, 68, 119), (170, 204, 221), (221, 51, 221),
    (153, 85, 85), (153, 187, 102), (0, 85, 85),
)  # fmt: skip
# Bounds of the longer side of a drawing, in pixels: text is not legible in a smaller drawing, and nobody looks at more
# pixels than the upper bound.
_SMALLEST, _LARGEST = 640, 1600
_PAPER, _INK, _FAINT = (255, 255, 255), (0, 0, 0), (190, 220, 240)
_COVER = 0.5  # how much of the photograph a mask hides


def colour(index: int) -> tuple[int, int, int]:
    """Return the RGB colour of a class. After the last colour of the palette follows the first again."""
    return PALETTE[index % len(PALETTE)]


def with_boxes(image, detections: Detections, labels: Sequence[str] = ()):
    """Draw a box around each object, with its class and score. Photograph and result are ``PIL.Image`` objects."""
    from PIL import ImageDraw

    picture = _sized(image)
    draw, font, line = ImageDraw.Draw(picture), _font(picture), max(2, round(max(picture.size) / 300))
    corners = (np.clip(detections.boxes, 0, 1) * (picture.size[::-1] * 2)).round().astype(int)[:, [1, 0, 3, 2]]
    drawn: list[tuple] = []
    flags: list[tuple] = []
    for place in np.argsort(-detections.scores, kind="stable"):
        box, index, score = corners[place].tolist(), int(detections.classes[place]), f" {detections.scores[place]:.0%}"
        name = _fitted(class_name(labels, index), font, picture.width - font.getlength(score) - 2 * line)
        size = round(font.getlength(name + score)) + 2 * line, sum(font.getmetrics())
        flags.append(_flag(box, size, picture.size, flags))
        drawn.append((box, colour(index), flags[-1], name + score))
    for (left, top, right, bottom), ground, _, _ in reversed(drawn):  # the box with the highest score on top
        # An outline sets the line off from a photograph of its own colour.
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_ink_on(ground))
        draw.rectangle((left, top, right, bottom), outline=ground, width=line)
    for _, ground, flag, text in reversed(drawn):
        draw.rectangle(flag, fill=ground)
        draw.text((flag[0] + line, flag[1]), text, font=font, fill=_ink_on(ground))
    return picture


def with_mask(image, classes: np.ndarray, labels: Sequence[str] = ()):
    """Colour each pixel of a photograph by its class; below it write each class' name and share of the pixels.

    classes: integers (height, width) of the photograph. Pixels of a class that is called "background" stay uncoloured.
    """
    from PIL import Image

    picture = _sized(image)
    counts = np.bincount(classes.ravel())
    shares = counts / classes.size
    classes = np.asarray(Image.fromarray(classes).resize(picture.size, Image.Resampling.NEAREST))
    there = counts.nonzero()[0].tolist()
    plain = [index for index in there if class_name(labels, index).lower() == "background"]
    colours = np.array([colour(index) for index in range(len(counts))], np.float32)
    pixels = np.asarray(picture, np.float32)
    cover = np.where(np.isin(classes, plain), 0, np.where(_edges(classes), 1, _COVER))[..., None]
    picture = Image.fromarray((pixels + cover * (colours[classes] - pixels)).round().astype(np.uint8))
    inks = [_PAPER if index in plain else colour(index) for index in there]
    texts = [f"{class_name(labels, index)} {shares[index]:.1%}" for index in there]
    return _with_key(picture, list(zip(inks, texts, strict=True)))


def with_classes(image, classes: Sequence[tuple[str, float]]):
    """Write names and scores of classes below a photograph, with a bar for each.

    classes: (name, score), in the order of drawing. Logits, which are no shares, are written as plain numbers.
    """
    return _with_rows(image, [(name, score_text(score), min(max(score, 0), 1)) for name, score in classes])


def with_texts(image, rows: Sequence[tuple[str, str]]):
    """Write names and texts below a photograph, a row for each (name, text)."""
    return _with_rows(image, [(name, text, 0) for name, text in rows])


def _with_rows(image, rows: Sequence[tuple[str, str, float]]):
    """Write a name, a text and a bar for each (name, text, share of the width) below a photograph."""
    from PIL import ImageDraw

    picture = _sized(image)
    font = _font(picture)
    row, gap = round(1.5 * sum(font.getmetrics())), round(0.4 * sum(font.getmetrics()))
    width = max(picture.width, 16 * row)
    sheet = _sheet(picture, width, picture.height + row * len(rows) + 2 * gap)
    draw, inner = ImageDraw.Draw(sheet), width - 2 * gap
    for place, (name, text, share) in enumerate(rows):
        top = picture.height + gap + place * row
        length = font.getlength(text)
        bar = gap + round(inner * share)
        draw.rectangle((gap, top, bar, top + row - gap // 2), fill=_FAINT)
        draw.text((2 * gap, top + gap // 2), _fitted(name, font, inner - length - 4 * gap), font=font, fill=_INK)
        draw.text((width - 2 * gap - length, top + gap // 2), text, font=font, fill=_INK)
    return sheet


def side_by_side(pictures: Sequence[tuple[str, Any]]):
    """Join (caption, picture) pairs: up to three in one row, more in about as many rows as columns."""
    from PIL import ImageDraw

    columns = len(pictures) if len(pictures) <= 3 else int(np.ceil(np.sqrt(len(pictures))))
    font = _font(pictures[0][1])
    band = round(1.6 * sum(font.getmetrics()))
    width = max(picture.width for _, picture in pictures)
    height = max(picture.height for _, picture in pictures) + band
    gap, rows = band // 3, -(-len(pictures) // columns)
    sheet = _sheet(None, columns * (width + gap) - gap, rows * (height + gap) - gap)
    draw = ImageDraw.Draw(sheet)
    for place, (caption, picture) in enumerate(pictures):
        left, top = place % columns * (width + gap), place // columns * (height + gap)
        draw.text((left + gap, top + band // 6), _fitted(caption, font, width - 2 * gap), font=font, fill=_INK)
        sheet.paste(picture, (left, top + band))
    return sheet


def encoded(picture, suffix: str = ".png") -> bytes:
    """Encode a picture: as a PNG where ``suffix`` is ".png", else as a JPEG."""
    return _encoded(picture, suffix, "")


def sealed(picture, suffix: str, request: dict) -> bytes:
    """Encode a picture as ``encoded`` does, with a comment by which ``is_sealed`` knows the picture again.

    Args:
        request: plain data that says of what the picture was made.
    """
    return _encoded(picture, suffix, _seal(_encoded(picture, suffix, ""), request))


def is_sealed(content: bytes, request: dict) -> bool:
    """Tell whether the content of a file is a picture that ``sealed`` made for the same request, and that nobody has
    changed since."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as picture:
            comment = picture.info.get("Comment") or picture.info.get("comment")
        seal = _seal(content, request)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # no picture, or a damaged one
        return False
    return comment in (seal, seal.encode())


def _encoded(picture, suffix: str, comment: str) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    stream = io.BytesIO()
    if suffix == ".png":
        text = PngInfo()
        text.add_text("Comment", comment)
        picture.save(stream, "PNG", pnginfo=text if comment else None)
    else:
        picture.save(stream, "JPEG", quality=92, **({"comment": comment} if comment else {}))
    return stream.getvalue()


def _seal(content: bytes, request: dict) -> str:
    """Return the comment of a picture: sha256 of the request and of the pixels, which do not depend on comments."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as picture:
        pixels = hashlib.sha256(picture.convert("RGB").tobytes()).hexdigest()
    text = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    return f"mobilenets-tf {text} {pixels}"


def score_text(score: float) -> str:
    """Format a score from 0 to 1 in percent, and any other score, such as a logit, as a plain number."""
    return f"{score:.1%}" if 0 <= score <= 1 else f"{score:.2f}"


def _sized(image):
    """Scale a photograph to a size for drawing. A small photograph is enlarged by a whole factor."""
    from PIL import Image

    image, longer = image.convert("RGB"), max(image.size)
    if longer <= _LARGEST:
        times = -(-_SMALLEST // longer)
        return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    size = tuple(max(1, round(side * _LARGEST / longer)) for side in image.size)
    return image.resize(size, Image.Resampling.LANCZOS)


def _font(picture):
    return _font_of(max(13, round(max(picture.size) / 50)))


@functools.lru_cache
def _font_of(size: int):
    """Return DejaVu Sans from matplotlib, since Pillow's own font has ASCII characters only."""
    import matplotlib
    from PIL import ImageFont

    file = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)  # RAQM is not on every system


def _sheet(picture, width: int, height: int):
    """Return a white sheet, with a picture in the upper left corner if there is a picture."""
    from PIL import Image

    sheet = Image.new("RGB", (width, height), _PAPER)
    if picture:
        sheet.paste(picture, (0, 0))
    return sheet


def _with_key(picture, entries: Sequence[tuple[tuple[int, int, int], str]]):
    """Write the key below a picture: a field of each colour with its text, in as many rows as needed."""
    from PIL import ImageDraw

    font = _font(picture)
    line = sum(font.getmetrics())
    field, gap, row = line, line // 3, round(1.4 * line)
    texts = [_on_one_line(text) for _, text in entries]
    widths = [field + gap + round(font.getlength(text)) + 3 * gap for text in texts]
    width = max(picture.width, max(widths) + gap)
    places, left, top = [], gap, picture.height + gap
    for each in widths:
        if left + each > width:
            left, top = gap, top + row
        places.append((left, top))
        left += each
    sheet = _sheet(picture, width, top + row)
    draw = ImageDraw.Draw(sheet)
    for (left, top), (fill, _), text in zip(places, entries, texts, strict=True):
        draw.rectangle((left, top, left + field, top + line), fill=fill, outline=_INK)
        draw.text((left + field + gap, top), text, font=font, fill=_INK)
    return sheet


def _edges(classes: np.ndarray) -> np.ndarray:
    """Mark the pixels whose right or lower neighbour has another class."""
    edges = np.zeros(classes.shape, bool)
    edges[:-1] |= classes[:-1] != classes[1:]
    edges[:, :-1] |= classes[:, :-1] != classes[:, 1:]
    return edges


def _flag(box: list[int], size: tuple[int, int], picture: tuple[int, int], others: Sequence[tuple]) -> tuple:
    """Place a box's text: above, within or below the box, at the first place that hides no other text; else above.

    Returns left, top, right and bottom in pixels.
    """
    left = max(0, min(box[0], picture[0] - size[0]))
    tops = (box[1] - size[1], box[1], box[3] - size[1], box[3])
    inside = [top for top in tops if 0 <= top <= picture[1] - size[1]] or [box[1]]
    flags = [(left, top, left + size[0], top + size[1]) for top in inside]
    return next((flag for flag in flags if not any(_overlap(flag, other) for other in others)), flags[0])


def _overlap(one: tuple, other: tuple) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _ink_on(ground: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return black or white, whichever has the higher contrast (WCAG 2.1: black above a luminance of 0.179)."""
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in np.divide(ground, 255)]
    return _INK if np.dot(linear, (0.2126, 0.7152, 0.0722)) > 0.179 else _PAPER


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _fitted(text: str, font, width: float) -> str:
    """Cut a text to a width in pixels."""
    text = _on_one_line(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"
