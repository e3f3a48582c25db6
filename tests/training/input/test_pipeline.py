"""Batches: pure functions of the step, shared out exactly, broken images named."""

from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mobilenets_tf import Preprocessing, RequestError
from mobilenets_tf.data.images import find_images
from mobilenets_tf.data.sources import Files
from mobilenets_tf.training import recipes
from mobilenets_tf.training.input import pipeline
from mobilenets_tf.training.input.plan import Plan
from mobilenets_tf.training.objectives.classification import ClassificationObjective
from mobilenets_tf.training.recipes import Augment
from tests.conftest import photographs


@dataclass
class Place:
    """Of a process among several; what a ``Distribution`` says of it."""

    replicas: int = 1
    worker: int = 0
    workers: int = 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for index, pixels in enumerate(photographs(22, size=50)):
        (folder / "ab"[index % 2]).mkdir(exist_ok=True)
        Image.fromarray(((pixels + 1) * 127.5).astype(np.uint8)).save(folder / "ab"[index % 2] / f"{index:02}.png")
    return folder


def reader_of(folder, rule="fail", classes=2):
    broken, objective = pipeline.Broken(rule), ClassificationObjective(classes, recipes.FINETUNE)
    return pipeline.Reader(Files(find_images(folder), ("a", "b")), objective.problem, broken), broken


def training_batches(reader, plan, place=Place(), first=0):  # noqa: B008
    return pipeline.training_batches(reader, plan, ClassificationObjective(2, plan.recipe), place, first=first)


def batches(folder, place=Place(), first=0, seed=3, replicas=None, augment=Augment(mixup=0.2, cutmix=1.0, erase=0.25)):  # noqa: B008
    recipe = recipes.replace(recipes.FINETUNE.changed(2, 8), augment=augment)
    plan = Plan(recipe, 22, 40, replicas=place.replicas, seed=seed)
    reader, _ = reader_of(folder)
    return [(p.numpy(), t.numpy()) for p, t in training_batches(reader, plan, place, first)]


def assert_same(some, others):
    assert len(some) == len(others) > 0
    for (pixels, targets), (other_pixels, other_targets) in zip(some, others, strict=True):
        np.testing.assert_array_equal(pixels, other_pixels)
        np.testing.assert_array_equal(targets, other_targets)


def test_the_same_seed_gives_the_same_batches_from_any_step_on(folder):
    whole = batches(folder)
    assert len(whole) == 6 and whole[0][0].shape == (8, 40, 40, 3) and whole[0][0].dtype == np.float32
    assert_same(whole, batches(folder))
    assert_same(whole[4:], batches(folder, first=4))
    assert np.any(whole[0][0] != batches(folder, seed=4)[0][0])


def test_workers_share_the_batch_of_one_process(folder):
    plain = Augment()
    whole = batches(folder, augment=plain)
    parts = [batches(folder, Place(2, worker, 2), augment=plain) for worker in (0, 1)]
    joined = [tuple(np.concatenate(halves) for halves in zip(*step, strict=True)) for step in zip(*parts, strict=True)]
    assert_same(whole, joined)
    # Two replicas in one process get one element after the other.
    elements = batches(folder, Place(2, 0, 1), augment=plain)
    assert_same(
        whole, [tuple(np.concatenate(e) for e in zip(*elements[i : i + 2], strict=True)) for i in range(0, 12, 2)]
    )


def test_without_mixing_pixels_stay_bytes(folder):
    (pixels, targets), *_ = batches(folder, augment=Augment())
    assert pixels.dtype == np.uint8
    assert set(targets.ravel()) == {0.0, 1.0} and np.all(targets.sum(-1) == 1)


def test_sizes_change_from_batch_to_batch(folder):
    recipe = recipes.replace(recipes.FINETUNE.changed(3, 4), scales=(1.0, 1.5, 2.0))
    plan = Plan(recipe, 22, 64)
    reader, _ = reader_of(folder)
    for step, (pixels, targets) in enumerate(training_batches(reader, plan)):
        assert pixels.shape == (plan[step].count, plan[step].size, plan[step].size, 3)
        assert len(targets) == plan[step].count
    assert step == plan.steps - 1


def test_judging_prepares_as_the_phone_does(folder):
    preprocessing = Preprocessing(size=32, resize=36, crop="crop_then_resize")
    reader, _ = reader_of(folder)
    found = find_images(folder)
    for place in (Place(), Place(3, 0, 1), Place(2, 1, 2)):
        shares = [Place(place.replicas, worker, place.workers) for worker in range(place.workers)]
        elements = [list(pipeline.judging_batches(reader, preprocessing, 4, share)) for share in shares]
        assert len({len(of_worker) for of_worker in elements}) == 1
        pixels = np.concatenate([p for of_worker in elements for p, _ in of_worker])
        labels = np.concatenate([t for of_worker in elements for _, t in of_worker])
        assert sorted(labels[labels >= 0]) == sorted(found.labels)
        expected = {preprocessing.geometry(Image.open(path)).tobytes() for path in found.paths}
        assert {image.tobytes() for image, label in zip(pixels, labels, strict=True) if label >= 0} == expected


@pytest.fixture
def broken_folder(folder, tmp_path):
    for path in folder.rglob("*.png"):
        target = tmp_path / path.relative_to(folder)
        target.parent.mkdir(exist_ok=True)
        content = path.read_bytes()
        target.write_bytes(content[: len(content) // 2] if path.name in ("03.png", "10.png") else content)
    return tmp_path


def test_a_broken_image_is_named(broken_folder):
    plan = Plan(recipes.FINETUNE.changed(1, 22), 22, 40)
    reader, broken = reader_of(broken_folder)
    with pytest.raises(tf.errors.OpError):
        list(training_batches(reader, plan))
    assert isinstance(broken.error, RequestError)
    assert any(f"{name} is not a readable image" in str(broken.error) for name in ("03.png", "10.png"))


def test_broken_images_are_skipped_when_asked(broken_folder):
    plan = Plan(recipes.FINETUNE.changed(1, 22), 22, 40)
    reader, broken = reader_of(broken_folder, "skip")
    ((pixels, _),) = training_batches(reader, plan)
    assert len(pixels) == 22
    assert sorted(name[-6:] for name in broken.names) == ["03.png", "10.png"]
    judged = [
        label
        for _, labels in pipeline.judging_batches(reader, Preprocessing(32, 32), 5, Place())
        for label in labels.numpy()
    ]
    assert sum(label >= 0 for label in judged) == 20


def test_labels_beyond_the_classes(folder):
    reader, _ = reader_of(folder, classes=1)
    with pytest.raises(RequestError, match=r"b/01.png is of class 1; there are 1 classes, 0 the first"):
        [reader.read(number) for number in range(22)]
