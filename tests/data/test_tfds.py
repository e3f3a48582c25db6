"""Datasets of TensorFlow Datasets (pip install tensorflow-datasets), made here; nothing is downloaded."""

import subprocess
import sys

import numpy as np
import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.data.sources import find

pytestmark = pytest.mark.slow

# Its own process, so that no test sees builders or folders that TFDS has registered.
_MAKE = """
import sys
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets import features

class _Pictures(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    FEATURES = {"image": features.Image(shape=(None, None, 3)), "label": features.ClassLabel(names=["ant", "bee"])}

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=features.FeaturesDict(self.FEATURES))

    def _split_generators(self, manager):
        return {"train": self._generate_examples(20), "test": self._generate_examples(5)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"image": np.full((6, 9, 3), 10 * i, np.uint8), "label": i % 2}

class OurPictures(_Pictures):
    pass

class OurPacked(_Pictures):
    pass

class OurWords(_Pictures):
    FEATURES = {"text": features.Text(), "label": features.ClassLabel(num_classes=2)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"text": "a", "label": 0}

config = tfds.download.DownloadConfig(num_shards=3)
OurPictures(data_dir=sys.argv[1]).download_and_prepare(download_config=config)
OurPacked(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
OurWords(data_dir=sys.argv[1]).download_and_prepare()
"""


@pytest.fixture(scope="session", autouse=True)  # TFDS takes the folder for good, so it is to be one
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    subprocess.run([sys.executable, "-c", _MAKE, str(folder)], check=True, capture_output=True)
    import tensorflow_datasets as tfds

    tfds.core.add_data_dir(folder)
    return folder


def _pictures(spec):
    """What TFDS itself reads: value of the uniform picture, label."""
    import tensorflow_datasets as tfds

    builder = tfds.builder("our_pictures")
    config = tfds.ReadConfig(interleave_cycle_length=1)
    examples = builder.as_dataset(split=spec, read_config=config, shuffle_files=False)
    return [(int(one["image"][0, 0, 0]), int(one["label"])) for one in examples.as_numpy_iterator()]


@pytest.mark.parametrize("split", ["train", "test", "train[:80%]", "train[7:9]", "train[-3:]+test[1:]", "all"])
def test_splits_are_those_of_tfds(split):
    import tensorflow as tf

    source = find(f"tfds:our_pictures:{split}")
    read = [source.read(i) for i in range(len(source))]
    decoded = [(tf.io.decode_png(image).numpy(), label) for image, label in read]
    assert all(np.all(picture == picture[0, 0, 0]) and picture.shape == (6, 9, 3) for picture, _ in decoded)
    assert [(int(picture[0, 0, 0]), label) for picture, label in decoded] == _pictures(split)
    assert source.class_names == ("ant", "bee")


def test_a_version_may_be_named():
    assert len(find("tfds:our_pictures:1.0.0:train")) == 20


def test_given_classes():
    assert find("tfds:our_pictures:test", ["formica", "apis"]).class_names == ("formica", "apis")
    with pytest.raises(RequestError, match="has 2 classes, 3 are given"):
        find("tfds:our_pictures:test", ["a", "b", "c"])
    with pytest.raises(RequestError, match="has its classes in another order than they are given: ant, bee"):
        find("tfds:our_pictures:test", ["bee", "ant"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tfds:our_pictures:tran", "Unknown split of our_pictures 'tran'. Did you mean 'train'?"),
        ("tfds:our_pictures:train[:900%]", "Unknown split of our_pictures 'train[:900%]'"),
        ("tfds:our_pictures:train[:0]", "has no images in it; its splits: test, train."),
        ("tfds:our_words:train", "has the features label (ClassLabel), text (Text); expected image (Image, uint8) and"),
        ("tfds:our_packed:train", "is prepared as array_record; only tfrecord can be read. Prepare it:  python -c"),
        ("tfds:cifr10:train", "TensorFlow Datasets has no 'cifr10'. Did you mean 'cifar10'?"),
        ("tfds:cifar10:train", "tfds.builder('cifar10').download_and_prepare()"),
        ("tfds:our_pictures:9.9.9:train", "is not prepared"),
        ("tfds:../x:train", "Expected tfds:NAME:SPLIT."),
    ],
)
def test_what_cannot_be_had_is_said_and_how_to_have_it(spec, message):
    with pytest.raises(RequestError) as caught:
        find(spec)
    assert message in str(caught.value)


def test_a_missing_shard_and_a_shorter_one(folder):
    first, second = sorted(folder.glob("our_pictures/1.0.0/our_pictures-train.tfrecord-*"))[:2]
    content = first.read_bytes()
    try:
        first.write_bytes(second.read_bytes() + content)
        with pytest.raises(RequestError, match="has 1. records; its dataset says ."):
            find("tfds:our_pictures:train")
        first.unlink()
        with pytest.raises(RequestError, match="Cannot read .*-00000-of-00003: No such file"):
            find("tfds:our_pictures:train")
    finally:
        first.write_bytes(content)
