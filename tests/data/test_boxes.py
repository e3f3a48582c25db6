"""Images with boxes: VOC's folders, COCO's JSON, and what may be wrong with them."""

import json
import pickle
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from mobilenets_tf import RequestError
from mobilenets_tf.data import images
from mobilenets_tf.data.boxes import find_boxes

CAT, DOG = ("cat", 10, 20, 50, 40), ("dog", 0, 0, 100, 80)  # in an image of 100x80
CAT_SHARES, DOG_SHARES = (0.25, 0.1, 0.5, 0.5), (0, 0, 1, 1)


def voc(*objects, size=(100, 80), more=""):
    width, height = size
    boxes = "".join(
        f"<object><name>{name}</name>{more}<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax>"
        f"<ymax>{ymax}</ymax></bndbox></object>"
        for name, xmin, ymin, xmax, ymax in objects
    )
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{boxes}</annotation>"


@pytest.fixture
def folder(tmp_path):
    """A function: annotations by name -> a VOC folder with an image of 100x80 for each."""

    def make(**annotations):
        for name, text in annotations.items():
            for kind in ("images", "annotations"):
                (tmp_path / kind).mkdir(exist_ok=True)
            Image.new("RGB", (100, 80)).save(tmp_path / "images" / f"{name}.png")
            (tmp_path / "annotations" / f"{name}.xml").write_text(text)
        return tmp_path

    return make


@pytest.fixture
def coco(tmp_path):
    """A function: changes to a COCO file of two images -> its path."""
    document = {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 100, "height": 80},
            {"id": 3, "file_name": "b.png", "width": 100, "height": 80},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 4, "name": "cat"}, {"id": 90, "name": "brush"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 4, "bbox": [10, 20, 40, 20], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 18, "bbox": [0, 0, 100, 80.0], "iscrowd": 1},
        ],
    }
    for name in "ab":
        Image.new("RGB", (100, 80)).save(tmp_path / f"{name}.png")

    def make(key=None, index=0, **changes):
        if key:
            document[key][index].update(changes)
        file = tmp_path / "boxes.json"
        file.write_text(json.dumps(document))
        return file

    return make


def test_a_voc_folder(folder):
    root = folder(a=voc(DOG, CAT), b=voc(), c=voc(CAT, more="<difficult>1</difficult>"))
    source = find_boxes(str(root))
    assert source.class_names == ("cat", "dog") and source.class_counts() == [1, 1]
    assert [source.name(i) for i in range(len(source))] == [str(root / "images" / f"{name}.png") for name in "abc"]
    content, boxes = source.read(0)
    assert content == (root / "images" / "a.png").read_bytes()
    assert boxes.corners.dtype == np.float32 and boxes.classes.dtype == np.int32
    assert np.allclose(boxes.corners, [DOG_SHARES, CAT_SHARES]) and boxes.classes.tolist() == [1, 0]
    nothing = source.read(1)[1]
    assert nothing.corners.shape == (0, 4) and nothing.classes.shape == nothing.ignored.shape == (0,)
    assert source.read(2)[1].ignored.tolist() == [True] and boxes.ignored.tolist() == [False, False]


def test_vocs_own_names_of_folders_and_given_classes(folder):
    root = folder(a=voc(DOG, CAT))
    (root / "images").rename(root / "JPEGImages")
    (root / "annotations").rename(root / "Annotations")
    source = find_boxes(root, ["dog", "none", "cat"])
    assert source.boxes[0].classes.tolist() == [0, 2] and source.class_counts() == [1, 0, 1]


def test_parts_keep_their_boxes_and_can_be_pickled(folder):
    objects = {f"i{n}": voc(("cat", n, 0, 50, 40)) for n in range(10)}
    source = find_boxes(folder(**objects))
    rest, part = source.split(0.3, seed=1)
    assert (len(rest), len(part)) == (7, 3) and part.class_names == ("cat",)
    for each in (rest, pickle.loads(pickle.dumps(part)), source.sample(4), source.without(part)):
        for i in range(len(each)):
            assert each.name(i).endswith(f"i{round(each.read(i)[1].corners[0, 1] * 100)}.png")
    assert source.without(part).paths == rest.paths


def test_coco(coco):
    source = find_boxes(coco())
    assert source.class_names == ("cat", "dog", "brush")  # by id
    assert [path.name for path in source.paths] == ["a.png", "b.png"]
    boxes = source.read(0)[1]
    assert np.allclose(boxes.corners, [CAT_SHARES, DOG_SHARES]) and boxes.classes.tolist() == [0, 1]
    assert boxes.ignored.tolist() == [False, True] and len(source.read(1)[1]) == 0
    assert find_boxes(coco(), ["dog", "cat"]).read(0)[1].classes.tolist() == [1, 0]


@pytest.mark.parametrize("place", ["images", "../train2017", "../images"])
def test_where_cocos_images_may_be(coco, tmp_path, place):
    (tmp_path / "annotations").mkdir()
    file = coco().rename(tmp_path / "annotations" / "instances_train2017.json")
    target = file.parent / place
    target.mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / name).rename(target / name)
    assert len(find_boxes(file)) == 2


def test_boxes_a_little_outside_are_clipped_and_those_without_area_left_out_with_one_warning(folder):
    flat, outside = ("cat", 30, 30, 30, 50), ("cat", 100, 2, 103, 9)
    root = folder(a=voc(("dog", -3, -2, 104, 82), flat), b=voc(*[outside] * 4))
    with pytest.warns(UserWarning) as caught:
        source = find_boxes(root)
    assert np.allclose(source.read(0)[1].corners, [DOG_SHARES]) and len(source.read(1)[1]) == 0
    assert len(caught) == 1
    assert "area are left out, 5: " in str(caught[0].message) and "And 2 more." in str(caught[0].message)
    assert "a.xml: the box of 'cat' from (30, 30) to (30, 50)" in str(caught[0].message)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (("cat", 0, 0, 80, 100), r"a.xml: the box of 'cat' from \(0, 0\) to \(80, 100\) is not in its image of 100x80"),
        (("cat", -6, 0, 80, 40), "is not in its image of 100x80. Are x and y swapped"),
        (("cat", 300, 0, 301, 40), "is not in its image"),
        (("cat", 50, 0, 40, 40), r"a.xml: the box of 'cat' from \(50, 0\) to \(40, 40\): its end is before its beg"),
        (("cat", "nan", 0, 40, 40), "a.xml: <object> has 'nan' as bndbox/xmin; expected a number"),
        (("cat", "1e999", 0, 40, 40), "'1e999' as bndbox/xmin"),
        (("cat", "", 0, 40, 40), "'' as bndbox/xmin"),
        (("", 0, 0, 40, 40), "a.xml: an <object> has no <name>"),
        (("dgo", 0, 0, 40, 40), "a.xml: Unknown class 'dgo'. Did you mean 'dog'"),
    ],
)
def test_bad_boxes_are_named(folder, box, message):
    with pytest.raises(RequestError, match=message):
        find_boxes(folder(a=voc(box)), ["cat", "dog"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!DOCTYPE a [<!ENTITY x 'y'>]><annotation>&x;</annotation>", "a.xml has a DOCTYPE"),
        ("<annotation>", "a.xml is not an XML file"),
        ("<html></html>", "a.xml is <html>; expected VOC's <annotation>"),
        ("<annotation><size><width>x</width></size></annotation>", "a.xml: <annotation> has 'x' as size/width"),
        ("<annotation><object><name>a</name></object></annotation>", "'' as bndbox/xmin; expected a number"),
        (voc(CAT, more="<difficult>yes</difficult>"), "'yes' as difficult"),
        (voc(), "There is no object in"),
        (voc(CAT, size=(80, 100)), "a.xml is for an image of 80x100; .*a.png is 100x80. Are width and height swapped"),
    ],
)
def test_bad_annotations_are_named(folder, text, message):
    with pytest.raises(RequestError, match=message):
        find_boxes(folder(a=text))


def test_a_hidden_encoding_hides_no_entities(folder):
    root = folder(a=voc(CAT))
    text = "<?xml version='1.0' encoding='utf-16'?><!DOCTYPE a [<!ENTITY x 'y'>]><annotation>&x;</annotation>"
    for encoding in ("utf-16", "utf-8"):
        (root / "annotations" / "a.xml").write_text(text, encoding=encoding)
        with pytest.raises(RequestError, match="a.xml (is not a text file in UTF-8|has a DOCTYPE)"):
            find_boxes(root)


def test_an_annotation_without_size_takes_the_images(folder):
    root = folder(a=voc(CAT, size=(0, 0)))
    assert np.allclose(find_boxes(root).read(0)[1].corners, [CAT_SHARES])
    (root / "images" / "a.png").write_bytes(b"no image")
    with pytest.raises(RequestError, match=r"a.xml does not give the size of .*a.png, which cannot be read"):
        find_boxes(root)


def test_a_broken_image_is_left_to_the_check_of_images(folder):
    root = folder(a=voc(CAT))
    (root / "images" / "a.png").write_bytes(b"no image")
    (problem,) = images.broken(find_boxes(root))
    assert "a.png is not a readable image" in problem


def test_a_huge_image_is_named_and_not_decoded(folder):
    root = folder(a=voc(CAT, size=(60000, 60000)))
    head = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    png = (
        signature + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + struct.pack(">I", 9) + b"IDAT"
    )
    (root / "images" / "a.png").write_bytes(png)
    (problem,) = images.broken(find_boxes(root))
    assert "a.png is not a readable image" in problem and "decompression bomb" in problem


def test_a_photograph_turned_by_its_exif_orientation(folder):
    root = folder(a=voc(CAT, size=(80, 100)))
    (root / "images" / "a.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 6
    file = root / "images" / "a.jpg"
    Image.new("RGB", (100, 80)).save(file, exif=exif)
    assert images.decode(file).size == (80, 100)
    assert np.allclose(find_boxes(root).read(0)[1].corners, [[0.2, 0.125, 0.4, 0.625]])
    (root / "annotations" / "a.xml").write_text(voc(CAT))
    with pytest.raises(RequestError, match="a.jpg is 80x100. Are width and height swapped, or does its Exif orient"):
        find_boxes(root)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "RGBA", "LA"])
def test_images_of_any_mode_come_out_in_rgb(folder, mode):
    root = folder(a=voc(CAT))
    (root / "images" / "a.png").unlink()
    ramp = Image.linear_gradient("L").resize((100, 80)).convert("RGB")
    ramp.convert(mode).save(root / "images" / "a.tif")
    image = images.decode(find_boxes(root).paths[0])
    assert image.mode == "RGB" and image.size == (100, 80)
    assert np.asarray(image).mean() == pytest.approx(np.asarray(ramp).mean(), abs=3)


def test_images_and_annotations_that_are_alone_or_doubled(folder):
    root = folder(a=voc(CAT), b=voc(CAT))
    (root / "annotations" / "a.xml").rename(root / "annotations" / "c.xml")
    with pytest.raises(RequestError, match=r"1 images have no .xml of the same name in .*annotations: a. Add"):
        find_boxes(root)
    (root / "images" / "a.png").unlink()
    with pytest.raises(RequestError, match=r"1 .xml files have no image of the same name in .*images: c. Add"):
        find_boxes(root)
    (root / "annotations" / "c.xml").unlink()
    Image.new("RGB", (100, 80)).save(root / "images" / "b.jpg")
    with pytest.raises(RequestError, match=r"b.jpg and .*b.png have one name: which is b.xml about"):
        find_boxes(root)


def test_folders_that_are_empty_or_something_else(tmp_path, folder):
    with pytest.raises(RequestError, match="No such folder or COCO .json"):
        find_boxes(tmp_path / "none")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(RequestError, match=r"a.txt: expected a folder with images/ and annotations/ \(VOC's .xml\)"):
        find_boxes(tmp_path / "a.txt")
    root = folder(a=voc(CAT))
    (root / "train").mkdir()
    for kind in ("images", "annotations"):
        (root / kind).rename(root / "train" / kind)
    with pytest.raises(RequestError, match=f"They are in {root}/train: name one of these"):
        find_boxes(root)
    root = root / "train"
    (root / "images" / "a.png").unlink()
    with pytest.raises(RequestError, match=r"images has none of the files looked for: \*.jpg"):
        find_boxes(root)
    with pytest.raises(RequestError, match="Two classes are called 'a'"):
        find_boxes(root, ["a", "b", "a"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "images", "file_name": "../a.png"}, r"images\[0\]: file_name '../a.png' leaves the folder"),
        ({"key": "images", "file_name": "/etc/a.png"}, "leaves the folder"),
        ({"key": "images", "file_name": "b\\..\\..\\a.png"}, "leaves the folder"),
        ({"key": "images", "file_name": "C:a.png"}, "leaves the folder"),
        ({"key": "images", "file_name": ["a"]}, r"images\[0\]: file_name is \"\['a'\]\"; expected str"),
        ({"key": "images", "index": 1, "file_name": "x" * 999}, "1 of 2 images are not there, such as 'xxx"),
        ({"key": "images", "index": 1, "file_name": "c\0.png"}, "1 of 2 images are not there"),
        ({"key": "images", "file_name": "c.png"}, "2 of 2 images are not there, such as 'c.png'; looked in"),
        ({"key": "images", "id": 3}, r"images\[1\]: another image has the id 3 too"),
        ({"key": "images", "id": True}, "id is 'True'; expected int"),
        ({"key": "images", "width": 50}, r"images\[0\] is for an image of 50x80; .*a.png is 100x80"),
        ({"key": "images", "width": "100"}, "width is '100'; expected int"),
        ({"key": "categories", "id": 90}, r"categories\[2\]: another category has the id 90 too"),
        ({"key": "categories", "name": "cat"}, "Two classes are called 'cat'"),
        ({"key": "annotations", "image_id": 5}, r"annotations\[0\]: image_id is 5, and none of the 2 ids is that"),
        ({"key": "annotations", "category_id": 1}, "category_id is 1, and none of the 3 ids is that"),
        ({"key": "annotations", "bbox": [0, 0, 5]}, r"annotations\[0\]: bbox is \[0, 0, 5\]; expected \[x, y"),
        ({"key": "annotations", "bbox": [0, 0, 5, float("nan")]}, "nan"),
        ({"key": "annotations", "bbox": [0, 0, 5, 10**400]}, "bbox is"),
        ({"key": "annotations", "bbox": "all"}, "bbox is 'all'; expected list"),
        ({"key": "annotations", "bbox": [50, 0, -5, 5]}, "its end is before its beginning"),
        ({"key": "annotations", "bbox": [500, 0, 5, 5]}, r"annotations\[0\]: the box of 'cat' from \(500, 0\)"),
    ],
)
def test_bad_coco_files_are_told_where(coco, change, message):
    with pytest.raises(RequestError, match=message):
        find_boxes(coco(**change))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "boxes.json is (not JSON|refused: its JSON is nested)"),
        ("\xff", "boxes.json is not a text file in UTF-8"),
        ("[]", "is a list; expected COCO's images, annotations, categories"),
        ('{"images": [], "info": 1}', "no list 'categories', as COCO's files of boxes have; it has 'images', 'info'"),
        ('{"images": [], "annotations": [], "categories": []}', "has no images in it"),
        ('{"images": [3], "annotations": [], "categories": []}', r"images\[0\]: '3'; expected an object"),
    ],
)
def test_files_that_are_no_coco(tmp_path, text, message):
    (tmp_path / "boxes.json").write_text(text, encoding="latin-1")
    with pytest.raises(RequestError, match=message):
        find_boxes(tmp_path / "boxes.json")


def test_finding_needs_no_tensorflow(folder):
    root = str(folder(a=voc(CAT)))
    code = f"import sys\nfrom mobilenets_tf.data.boxes import find_boxes\nassert len(find_boxes({root!r})) == 1\n"
    code += "sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_boxes_given_as_shares_are_not_taken_for_pixels(folder, tmp_path):
    shares = [("cat", 0.1, 0.25, 0.5, 0.5), ("dog", 0, 0, 1, 1)]
    root = folder(a=voc(shares[0]), b=voc(shares[1]))
    with pytest.raises(RequestError, match="All 2 boxes of .* lie between 0 and 1.* multiply them by its width"):
        find_boxes(root)
    document = {
        "images": [{"id": 1, "file_name": "images/a.png", "width": 100, "height": 80}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0.1, 0.25, 0.4, 0.25]}],
    }
    (root / "boxes.json").write_text(json.dumps(document))
    with pytest.raises(RequestError, match="All 1 boxes of .*boxes.json lie between 0 and 1"):
        find_boxes(root / "boxes.json")
    assert len(find_boxes(folder(a=voc(shares[0], CAT), b=voc(shares[1])))) == 2  # a small object among others
