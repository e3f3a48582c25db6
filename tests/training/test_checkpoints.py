"""Checkpoints: whole or not at all, and nothing runs in them."""

import errno
import os
import random

import numpy as np
import pytest

from mobilenets_tf import RequestError, files
from mobilenets_tf.training import checkpoints
from mobilenets_tf.training.checkpoints import Checkpoint

ARRAYS = {
    "model/0/stem_conv/kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "optimizer/0/iteration": np.int64(7),
}


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "a.checkpoint.npz"
    Checkpoint(path, {}, "remove it").write(ARRAYS, {"step": 7, "loss": 0.1 + 0.2})
    arrays, about = checkpoints.read(path)
    assert about == {"step": 7, "loss": 0.1 + 0.2, "identity": {}}
    assert arrays.keys() == ARRAYS.keys()
    for name, values in ARRAYS.items():
        assert arrays[name].dtype == values.dtype
        np.testing.assert_array_equal(arrays[name], values)


def test_a_full_disk_leaves_the_earlier_one(tmp_path, monkeypatch):
    path = tmp_path / "a.checkpoint.npz"
    Checkpoint(path, {}, "remove it").write(ARRAYS, {"step": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RequestError, match="No space left on device. Free some space and run again"):
        Checkpoint(path, {}, "remove it").write(ARRAYS, {"step": 2})
    assert checkpoints.read(path)[1]["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_damaged_and_hostile_files_are_refused(tmp_path):
    path = tmp_path / "a.checkpoint.npz"
    Checkpoint(path, {}, "remove it").write(ARRAYS, {"step": 1})
    whole = path.read_bytes()
    generator = random.Random(0)
    for _ in range(200):
        broken = bytearray(whole[: generator.choice([len(whole), generator.randrange(len(whole))])])
        for _ in range(3):
            if broken:
                broken[generator.randrange(len(broken))] ^= 1 << generator.randrange(8)
        path.write_bytes(broken)
        try:
            checkpoints.read(path)
        except RequestError as error:
            assert "damaged or not a checkpoint" in str(error)
    np.savez(path, description=np.array([{"step": 1}], dtype=object))  # a pickle
    with pytest.raises(RequestError, match="damaged or not a checkpoint"):
        checkpoints.read(path)


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    mine = Checkpoint(tmp_path / "a.npz", {"epochs": 3, "share": 0.5}, "remove it")
    assert mine.read() is None
    mine.write(ARRAYS, {"step": 1})
    assert mine.read()[1]["step"] == 1
    with pytest.raises(RequestError, match="a.npz is of an unfinished training with epochs=3, not 4. .*, remove it"):
        Checkpoint(mine.path, {"epochs": 4, "share": 0.5}, "remove it").read()
