import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest


@pytest.fixture(scope="session")
def worker():
    """One child process for all tests: importing TensorFlow takes seconds."""
    from mobilenets_tf.worker import Worker

    with Worker() as child:
        yield child


@pytest.fixture(scope="session")
def small():
    """A small network whose weights and BatchNorm statistics are far from trivial."""
    from mobilenets_tf import create_model
    from tests.make_goldens import generated

    model = create_model("mobilenet_v2", alpha=0.35, resolution=64, classes=10)
    for layer in model.layers:
        for variable in layer.weights:
            variable.assign(generated(f"{layer.name}.{variable.name}", tuple(variable.shape)))
    return model


def photographs(count, size=64, seed=0):
    """Smooth random pictures in [-1, 1], (count, size, size, 3): neighbours correlate as in photographs."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(-1, 1, (count, 5, 5, 3)).astype(np.float32)
    position = np.linspace(0, 3.999, size)
    cell, part = position.astype(int), (position % 1).astype(np.float32)
    rows = coarse[:, cell] * (1 - part)[:, None, None] + coarse[:, cell + 1] * part[:, None, None]
    part = part[:, None]
    return rows[:, :, cell] * (1 - part) + rows[:, :, cell + 1] * part


@pytest.fixture(scope="session")
def pictures():
    return photographs(100)


@pytest.fixture
def image_folder(tmp_path):
    """Ten labelled pictures on disk: <tmp>/photos/<a|b>/N.png."""
    from PIL import Image

    for index, pixels in enumerate(photographs(10, size=80)):
        folder = tmp_path / "photos" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(((pixels + 1) * 127.5).astype(np.uint8)).save(folder / f"{index}.png")
    return tmp_path / "photos"
