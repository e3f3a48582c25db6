"""Several processes and replicas: the curve of one process, and a worker that is lost and comes back."""

import json
import os
import signal
import socket

import numpy as np
import pytest

from mobilenets_tf.training import checkpoints
from tests.support.forked import Started
from tests.training.test_job import folder, manifest_of, network, run, wait_for  # noqa: F401 (fixtures)

pytestmark = pytest.mark.slow


def words_of(network, folder, out, *more):  # noqa: F811
    return ["train", network, "--mean", 127.5, "--std", 127.5, "--recipe", "scratch", "--data", folder,
            "--out", out, "--epochs", 4, "--batch-size", 12, "--learning-rate", 0.01, *more]  # fmt: skip


def places(count):
    """TF_CONFIG of each worker, on ports of this machine that are free."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})
        for index in range(count)
    ]


def ended(process):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return errors


def curve(out):
    return np.array(
        [[row[key] for key in ("loss", "top1", "val_loss", "val_top1")] for row in manifest_of(out)["epochs"]]
    )


@pytest.fixture(scope="module")
def alone(network, folder, tmp_path_factory):  # noqa: F811
    """The files of one process, without dropout, whose random numbers would be another worker's too."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = x = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, strides=2, use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.GlobalAveragePooling2D()(x)
    path = tmp_path_factory.mktemp("plain") / "mine.keras"
    keras.Model(inputs, layers.Dense(3, activation="softmax")(x)).save(path)
    out = tmp_path_factory.mktemp("alone")
    done = run(*words_of(path, folder, out, "--quiet"))
    assert done.returncode == 0, done.stderr
    return path, out


def test_workers_follow_the_curve_of_one_process(alone, folder, tmp_path):  # noqa: F811
    path, whole = alone
    words = words_of(path, folder, tmp_path, "--sync-batchnorm")
    for process in [Started(words, TF_CONFIG=place) for place in places(3)]:
        ended(process)
    np.testing.assert_allclose(curve(tmp_path), curve(whole), rtol=1e-4)
    assert (tmp_path / "mine.keras").is_file() and not list(tmp_path.glob("*.npz"))


def test_replicas_in_one_process_too(alone, folder, tmp_path):  # noqa: F811
    path, whole = alone
    done = run(*words_of(path, folder, tmp_path, "--sync-batchnorm", "--distribute", "mirrored", "--replicas", 2))
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(curve(tmp_path), curve(whole), rtol=1e-4)


def test_without_synchronised_batchnorm_the_statistics_are_each_replicas(alone, folder, tmp_path):  # noqa: F811
    path, whole = alone
    done = run(*words_of(path, folder, tmp_path, "--distribute", "mirrored", "--replicas", 2, "--quiet"))
    assert done.returncode == 0, done.stderr
    assert not np.allclose(curve(tmp_path), curve(whole), rtol=1e-4)


def test_a_worker_that_is_killed_and_started_again(alone, folder, tmp_path):  # noqa: F811
    path, _ = alone
    whole, out = tmp_path / "whole", tmp_path / "out"
    more = ["--sync-batchnorm", "--epochs", 20, "--save-every", 3]
    assert run(*words_of(path, folder, whole, *more, "--quiet")).returncode == 0
    first, second = places(2)
    words = words_of(path, folder, out, *more)
    survivor, victim = Started(words, TF_CONFIG=first), Started(words, TF_CONFIG=second)
    checkpoint = out / "mine.checkpoint.npz"
    wait_for(checkpoint.is_file, survivor)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    step = checkpoints.read(checkpoint)[1]["progress"]["step"]
    assert 3 <= step < 20 * 4
    again = Started(words, TF_CONFIG=second)
    errors = ended(survivor)
    ended(again)
    assert "A worker was lost" in errors and "Starting again from the last checkpoint" in errors
    np.testing.assert_allclose(curve(out), curve(whole), rtol=2e-3, atol=1e-4)


def test_workers_that_do_not_share_the_folder_are_told(alone, folder, tmp_path):  # noqa: F811
    """One of them finds a checkpoint, the other none."""
    path, _ = alone
    first, second = places(2)
    words = words_of(path, folder, tmp_path / "one", "--epochs", 20)
    broken_off = Started(words)
    wait_for((tmp_path / "one" / "mine.checkpoint.npz").is_file, broken_off)
    os.kill(broken_off.pid, signal.SIGKILL)
    broken_off.communicate()
    pair = [
        Started(words, TF_CONFIG=first),
        Started(words_of(path, folder, tmp_path / "two", "--epochs", 20), TF_CONFIG=second),
    ]
    for one in pair:
        _, errors = one.communicate(timeout=300)
        assert one.returncode == 2 and "--out must be a folder that all workers share" in errors
