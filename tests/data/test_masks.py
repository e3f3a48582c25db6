"""Images with masks, and what may be wrong with them."""

import pickle

import numpy as np
import pytest
from PIL import Image

from mobilenets_tf import RequestError
from mobilenets_tf.data import images
from mobilenets_tf.data.masks import find_masks

PLAIN = np.array([[0, 1, 2], [2, 1, 255]], np.uint8)


@pytest.fixture
def folder(tmp_path):
    """A function: masks by name, arrays or pictures -> a folder that has images of 3x2 too."""

    def make(**masks):
        for kind in ("images", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
        for name, mask in masks.items():
            Image.new("RGB", (3, 2)).save(tmp_path / "images" / f"{name}.jpg")
            picture = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
            picture.save(tmp_path / "masks" / f"{name}.png")
        return tmp_path

    return make


def coloured(mask):
    """The mask as indices of a palette."""
    picture = Image.fromarray(mask)
    picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    return picture


def test_grey_palette_16_bit_and_binary_masks_are_indices(folder):
    root = folder(a=PLAIN, b=coloured(PLAIN), c=PLAIN.astype(np.uint16), d=Image.fromarray(PLAIN == 1))
    source = find_masks(str(root))
    assert source.class_names == ("0", "1", "2") and source.void == 255 and source.class_counts() == [4, 4, 3]
    for i in range(4):
        content, mask = source.read(i)
        assert source.name(i) == str(root / "images" / f"{'abcd'[i]}.jpg")
        assert content == (root / "images" / f"{'abcd'[i]}.jpg").read_bytes()
        assert mask.dtype == np.uint8 and np.array_equal(mask, PLAIN if i < 3 else PLAIN == 1)


def test_names_count_and_void(folder):
    root = folder(a=np.where(PLAIN == 255, 5, PLAIN), b=PLAIN * 0)
    source = find_masks(root, ["x", "y", "z"], void=5)
    assert (source.class_names, source.void, source.class_counts()) == (("x", "y", "z"), 5, [2, 1, 1])
    assert find_masks(root, void=5).class_names == ("0", "1", "2")
    assert find_masks(root, count=6).class_counts() == [2, 1, 1, 0, 0, 1]


def test_parts_keep_their_masks_and_can_be_pickled(folder):
    source = find_masks(folder(**{f"m{n}": np.full((2, 3), n, np.uint8) for n in range(10)}))
    rest, part = source.split(0.3, seed=1)
    assert (len(rest), len(part)) == (7, 3)
    for each in (rest, pickle.loads(pickle.dumps(part)), source.sample(4), source.without(part)):
        numbers = [int(each.read(i)[1][0, 0]) for i in range(len(each))]
        assert [each.name(i)[-6:] for i in range(len(each))] == [f"m{n}.jpg" for n in numbers]
        assert each.class_counts() == [int(n in numbers) for n in range(10)]


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (PLAIN + 1, {"count": 3}, "b.png has pixels of value 3; the classes are 0 to 2, and void is 255. .*--void 3"),
        (PLAIN, {"count": 2, "void": 7}, "b.png has pixels of value 2, 255; the classes are 0 to 1, and void is 7"),
        (PLAIN, {"classes": ["x", "y"]}, "b.png has pixels of value 2; the classes are 0 to 1"),
        (PLAIN, {"classes": ["x", "y"], "count": 3}, "count=3, but 2 classes have names: x, y"),
        (PLAIN, {"count": 3, "void": 0}, "void=0 must be above the classes, 0 to 2, and at most 255"),
        (PLAIN, {"count": 3, "void": 256}, "void=256 must be above the classes"),
        (PLAIN, {"count": 3, "void": -1}, "void=-1 must be above the classes"),
        (
            np.array([[0, 75, 255]] * 2, np.uint8),
            {},
            r"have the values 0, 75 and 255 \(void\); classes are 0, 1 and so on without a gap",
        ),
        (PLAIN // 255, {"count": 256, "void": 255}, "void=255 must be above the classes, 0 to 255"),
        (PLAIN // 255 * 255, {}, r"have the values 0 and 255 \(void\)"),
        (PLAIN // 255 * 255, {"count": 2}, "have only the values 0 and 255, and 255 is void. If 255 is a class, write"),
        (PLAIN[:, :2], {}, "b.png is for an image of 2x2; .*b.jpg is 3x2"),
        (PLAIN.T, {}, "b.png is for an image of 2x3; .*b.jpg is 3x2. Are width and height swapped"),
        (np.dstack([PLAIN] * 3), {}, r"b.png has colours \(RGB\); expected a class index for each pixel"),
        (np.dstack([PLAIN] * 4), {}, r"b.png has colours \(RGBA\)"),
        (PLAIN.astype(np.uint16) * 2, {"count": 3}, "b.png has the value 510; class indices are at most 255"),
    ],
)
def test_bad_masks_are_named(folder, mask, options, message):
    with pytest.raises(RequestError, match=message):
        find_masks(folder(a=PLAIN * 0, b=mask), **options)


def test_masks_and_images_that_cannot_be_read(folder):
    root = folder(a=PLAIN, b=PLAIN)
    (root / "images" / "a.jpg").write_bytes(b"no image")
    (problem,) = images.broken(find_masks(root))
    assert "a.jpg is not a readable image" in problem
    mask = root / "masks" / "b.png"
    mask.write_bytes(mask.read_bytes()[:50])
    with pytest.raises(RequestError, match="b.png is not a readable mask"):
        find_masks(root)
    mask.unlink()
    with pytest.raises(RequestError, match=r"1 images have no .png of the same name in .*masks: b. Add"):
        find_masks(root)
    (root / "masks" / "a.png").unlink()
    with pytest.raises(RequestError, match=r"masks has none of the files looked for: \*.png"):
        find_masks(root)
    with pytest.raises(
        RequestError, match="masks: expected images/ with images in it, and masks/ with a .png for each"
    ):
        find_masks(root / "masks")
    with pytest.raises(RequestError, match="No such folder"):
        find_masks(root / "none")
