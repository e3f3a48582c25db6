"""Make tests/support/tf_keras_files.npz: small models in ``.keras`` files of tf.keras 2.12 to 2.14, with their answers.

Each version of TensorFlow needs an environment of its own, with Python 3.11 or earlier; each run adds to the file:

    pip install tensorflow==2.12.0    # 2.13.1, 2.14.1
    python tests/support/make_tf_keras_files.py
"""

import tempfile
import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf

FILE = Path(__file__).with_name("tf_keras_files.npz")
L = tf.keras.layers


def nested():
    """Models inside of a model, with and without weights, at its beginning and at its end; layers of one class."""
    inputs = tf.keras.Input((8, 8, 3))
    turned = tf.keras.Model(inputs, L.RandomFlip()(inputs))
    inputs = x = tf.keras.Input((8, 8, 3))
    for filters in (2, 3):
        x = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(filters, 3, use_bias=False)(x)))
    base = tf.keras.Model(inputs, L.GlobalAveragePooling2D()(L.Dropout(0.5)(x)))
    head = tf.keras.Sequential([tf.keras.Input((3,)), L.Dense(4, activation="relu"), L.Dense(2)])
    inputs = tf.keras.Input((8, 8, 3), name="image")
    return tf.keras.Model(inputs, head(base(turned(L.Rescaling(2.0)(inputs)))))


def calling():
    """Functions of TensorFlow, and an activation that Keras 3 computes otherwise."""
    inputs = tf.keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(2, 3, activation="hard_sigmoid")(inputs)
    x = L.ReLU(6.0)(L.Conv2D(2, 3)(tf.nn.relu6(x)))
    return tf.keras.Model(inputs, L.Dense(2)(tf.reduce_mean(x, (1, 2))))


def main():
    version = ".".join(tf.__version__.split(".")[:2])
    random = np.random.default_rng(0)
    files = dict(np.load(FILE)) if FILE.exists() else {}
    files["image"] = random.uniform(-1, 1, (1, 8, 8, 3)).astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        for make in (nested, calling):
            tf.keras.utils.set_random_seed(0)
            model = make()
            model.set_weights([random.uniform(0.1, 0.6, each.shape) for each in model.get_weights()])
            files[make.__name__] = model(files["image"], training=False).numpy()
            for options in ({}, {"save_format": "keras_v3"}):  # to 2.12, HDF5 and ZIP; later, ZIP
                path = Path(folder, "model.keras")
                model.save(path, **options)
                kind = "zip" if zipfile.is_zipfile(path) else "hdf5"
                files[f"{make.__name__} {version} {kind}"] = np.frombuffer(path.read_bytes(), np.uint8)
    np.savez_compressed(FILE, **files)


if __name__ == "__main__":
    main()
