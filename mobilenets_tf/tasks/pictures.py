"""Answers drawn on photographs: boxes, masks and classes, and those of several files side by side.

The same answers give the same pixels, with one version of Pillow.
"""

import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mobilenets_tf.data.boxes import Detections
from mobilenets_tf.tasks.task import class_name

# The seven colours of Okabe and Ito, which people see apart with any colour vision; then each the one farthest from
# those before it in OKLab, as seen with normal vision, protanopia and deuteranopia (Machado et al. 2009).
PALETTE = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66),
    (102, 0, 51), (0, 0, 170), (238, 221, 255), (102, 17, 255), (85, 85, 34), (68, 221, 153), (136, 119, 255),
    (170, 34, 119), (68, 34, 119), (170, 255, 187), (68, 68, 187), (255, 68, 119), (170, 204, 221), (221, 51, 221),
    (153, 85, 85), (153, 187, 102), (0, 85, 85),
)  # fmt: skip
# The longer side of what is drawn on, in pixels: text is legible from the one on, and nobody looks at more than the
# other.
_SMALLEST, _LARGEST = 640, 1600
_PAPER, _INK, _FAINT = (255, 255, 255), (0, 0, 0), (190, 220, 240)
_COVER = 0.5  # how much of the photograph a mask hides


def colour(index: int) -> tuple[int, int, int]:
    """Of a class, RGB; they come again after the last."""
    return PALETTE[index % len(PALETTE)]


def with_boxes(image, detections: Detections, labels: Sequence[str] = ()):
    """A photograph with a box around each object, its class and its score; a ``PIL.Image`` as the photograph is one."""
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
    for (left, top, right, bottom), ground, _, _ in reversed(drawn):  # the surest on top
        # A hem sets the line off from a photograph of its own colour.
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_ink_on(ground))
        draw.rectangle((left, top, right, bottom), outline=ground, width=line)
    for _, ground, flag, text in reversed(drawn):
        draw.rectangle(flag, fill=ground)
        draw.text((flag[0] + line, flag[1]), text, font=font, fill=_ink_on(ground))
    return picture


def with_mask(image, classes: np.ndarray, labels: Sequence[str] = ()):
    """A photograph under the colours of its pixels' classes, and below it what they mean, with each class' share.

    classes: integers (height, width), as the photograph has them. Where the class is called "background", nothing hides
        the photograph.
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
    """A photograph, and below it names of classes with their scores, in the order given, with a bar for each.

    classes: scores above one, of a network that ends in logits, are shown as the numbers they are.
    """
    from PIL import ImageDraw

    picture = _sized(image)
    font = _font(picture)
    row, gap = round(1.5 * sum(font.getmetrics())), round(0.4 * sum(font.getmetrics()))
    width = max(picture.width, 16 * row)
    sheet = _sheet(picture, width, picture.height + row * len(classes) + 2 * gap)
    draw, inner = ImageDraw.Draw(sheet), width - 2 * gap
    for place, (name, score) in enumerate(classes):
        top = picture.height + gap + place * row
        text = score_text(score)
        length = font.getlength(text)
        bar = gap + round(inner * min(max(score, 0), 1))
        draw.rectangle((gap, top, bar, top + row - gap // 2), fill=_FAINT)
        draw.text((2 * gap, top + gap // 2), _fitted(name, font, inner - length - 4 * gap), font=font, fill=_INK)
        draw.text((width - 2 * gap - length, top + gap // 2), text, font=font, fill=_INK)
    return sheet


def side_by_side(pictures: Sequence[tuple[str, Any]]):
    """Pictures with a caption above each: up to three in a row, more in about as many rows as columns."""
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
    """The picture's file, a PNG or a JPEG as ``suffix`` says."""
    stream = io.BytesIO()
    if suffix == ".png":
        picture.save(stream, "PNG")
    else:
        picture.save(stream, "JPEG", quality=92)
    return stream.getvalue()


def score_text(score: float) -> str:
    """A share in percent; what is none, as a logit, as it is."""
    return f"{score:.1%}" if 0 <= score <= 1 else f"{score:.2f}"


def _sized(image):
    """The photograph at a size that can be drawn on; one of few pixels enlarged by a whole number, so that it shows."""
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
    """DejaVu Sans, which comes with matplotlib: Pillow's own font has ASCII alone."""
    import matplotlib
    from PIL import ImageFont

    file = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)  # the other is not everywhere


def _sheet(picture, width: int, height: int):
    """White paper with a picture in its upper left corner, or none."""
    from PIL import Image

    sheet = Image.new("RGB", (width, height), _PAPER)
    if picture:
        sheet.paste(picture, (0, 0))
    return sheet


def _with_key(picture, entries: Sequence[tuple[tuple[int, int, int], str]]):
    """Below the picture, a field of each colour with its text, in as many rows as it takes."""
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
    """Pixels beside one of another class to the right or below."""
    edges = np.zeros(classes.shape, bool)
    edges[:-1] |= classes[:-1] != classes[1:]
    edges[:, :-1] |= classes[:, :-1] != classes[:, 1:]
    return edges


def _flag(box: list[int], size: tuple[int, int], picture: tuple[int, int], others: Sequence[tuple]) -> tuple:
    """Where a box's text goes, as left, top, right, bottom: above, within or below, where it hides no other's; else
    above."""
    left = max(0, min(box[0], picture[0] - size[0]))
    tops = (box[1] - size[1], box[1], box[3] - size[1], box[3])
    inside = [top for top in tops if 0 <= top <= picture[1] - size[1]] or [box[1]]
    flags = [(left, top, left + size[0], top + size[1]) for top in inside]
    return next((flag for flag in flags if not any(_overlap(flag, other) for other in others)), flags[0])


def _overlap(one: tuple, other: tuple) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _ink_on(ground: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever has the higher contrast (WCAG 2.1: at a relative luminance of 0.179)."""
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in np.divide(ground, 255)]
    return _INK if np.dot(linear, (0.2126, 0.7152, 0.0722)) > 0.179 else _PAPER


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _fitted(text: str, font, width: float) -> str:
    """The text, cut to a width in pixels."""
    text = _on_one_line(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"
