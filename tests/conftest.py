import fcntl
import gc
import os
import pickle

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:  # one worker a core: threads beyond that wait for each other
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")

import numpy as np
import pytest

from mobilenets_tf.worker import _start
from tests.support import forked


def pytest_collection_finish():
    """The modules that are there by now stay. The garbage collector, which each conversion calls, passes them over."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """What is left after a file of tests stays too: fixtures of the session, and what the libraries remember. Otherwise
    everything takes the longer, the more tests a process has run: at the end of them twice as long as in a new one."""
    result = yield
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()
    return result


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """A function: name, function -> what the function returns, which one process of pytest-xdist makes for all."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # which all processes share

    def made_once(name, make):
        path = folder / f"{name}.pickle"
        with open(folder / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                part = path.with_suffix(".part")
                part.write_bytes(pickle.dumps(make()))
                part.rename(path)
        return pickle.loads(path.read_bytes())

    return made_once


@pytest.fixture(scope="session", autouse=True)
def forked_workers():
    """Tests of what is special to a ``Worker``'s own process ask for ``own_workers``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mobilenets_tf.worker._start", forked.Child)
        yield


@pytest.fixture
def own_workers(monkeypatch, forked_workers):
    """Children that import TensorFlow, as outside of the tests."""
    monkeypatch.setattr("mobilenets_tf.worker._start", _start)


@pytest.fixture(scope="session")
def worker():
    """One child process for all tests: importing TensorFlow takes seconds."""
    from mobilenets_tf.worker import Worker

    with Worker() as child:
        yield child


@pytest.fixture(scope="session")
def float_file(worker):
    """A function: Keras model -> the content of its lean float32 file, what quantisation starts from."""
    from mobilenets_tf.conversion.convert import convert, freeze
    from mobilenets_tf.conversion.lean_norms import with_lean_norms
    from mobilenets_tf.tflite.lean import lean

    return lambda model: lean(convert(freeze(with_lean_norms(model)), worker))


@pytest.fixture(scope="session")
def convolutions(float_file):
    """A file whose every output is one layer's: each kind of convolution, strides, dilations and paddings."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    inputs = keras.Input((13, 10, 6))
    inner = layers.Conv2D(8, 1, activation="relu")(inputs)
    kinds = [
        layers.Conv2D(5, 1),
        layers.Conv2D(5, 3, padding="same"),
        layers.Conv2D(5, (3, 2), strides=2, padding="same"),
        layers.Conv2D(5, 3, strides=2, padding="valid"),
        layers.Conv2D(5, 3, dilation_rate=2, padding="same"),
        layers.DepthwiseConv2D(3, padding="same"),
        layers.DepthwiseConv2D(5, strides=2, padding="same"),
        layers.DepthwiseConv2D(3, dilation_rate=(2, 2), padding="valid"),
    ]
    model = keras.Model(inputs, [layer(inputs) for layer in kinds] + [layers.Conv2D(5, 3, padding="same")(inner)])
    return float_file(model)


@pytest.fixture(scope="session")
def small():
    """A classifier of a few layers, for tests to which it does not matter how many there are."""
    from tests.support import classifiers

    return classifiers.small()


@pytest.fixture(scope="session")
def mobilenet():
    """MobileNetV2 as narrow as it gets, its weights and BatchNorm statistics far from trivial."""
    from mobilenets_tf import create_model
    from tests.support.classifiers import filled

    return filled(create_model("mobilenet_v2", alpha=0.35, resolution=64, classes=10))


@pytest.fixture(scope="session")
def small_files(small, pictures, worker, made_once):
    """Every scheme's file of the small network."""
    from mobilenets_tf.export.tflite import convert_model
    from mobilenets_tf.quantize import SCHEMES, Calibration

    def make():
        calibrations = {scheme: Calibration(pictures) if scheme.calibrated else None for scheme in SCHEMES.values()}
        return {scheme.name: convert_model(small, scheme, given, worker) for scheme, given in calibrations.items()}

    return made_once("small_files", make)


@pytest.fixture(scope="session")
def mobilenet_file(mobilenet, float_file, made_once):
    """The float file of MobileNetV2."""
    return made_once("mobilenet_file", lambda: float_file(mobilenet))


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


def correlated(count, shape=(13, 10, 6), seed=0):
    """Samples for ``convolutions``: smooth, and their channels are mixtures of three."""
    random = np.random.default_rng(seed)
    smooth = photographs(count, 16, seed)[:, : shape[0], : shape[1]]
    mixed = smooth @ np.random.default_rng(9).normal(size=(3, shape[2])) + random.normal(0, 0.05, (count, *shape))
    return [[sample[None].astype(np.float32)] for sample in mixed]


def with_weights(content, rounded):
    """The float file, its weights those that the integers stand for."""
    from mobilenets_tf.quantize.integers import WEIGHTED
    from mobilenets_tf.tflite import flatbuffer

    tree = flatbuffer.read(content)
    for place, weights in rounded.items():
        operator = tree.subgraphs[0].operators[place]
        axis = WEIGHTED[flatbuffer.operator_name(tree, operator)].output_axis
        flatbuffer.replace_constant(tree, operator, 1, weights.values(axis))
    return flatbuffer.write(tree)
