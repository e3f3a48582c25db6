"""Train a small classifier from Keras alone, in some seconds: the "network of your own" of the tutorials.

    python examples/small_network.py shapes/classes/train mine.keras

The folder has one sub-folder a class (examples/draw_shapes.py draws one). The network takes 64x64 pixels in [-1, 1].
With ``--uneven 32`` its channels are made up to 32 times smaller, and what reads them larger by the same factor: it
answers nearly the same, and is as hard to quantise as some networks that were trained for long. Without a folder, the
pictures are drawn, and nothing is kept.
"""

import argparse
import tempfile
from pathlib import Path

import keras
import numpy as np
from draw_shapes import SMALL_SIDE, classes
from keras import layers

from mobilenets_tf import Preprocessing
from mobilenets_tf.data import decode, find_images


def network(number: int) -> keras.Model:
    """A small MobileNetV1 for so many classes."""

    def normalised(x):
        return layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(x))

    inputs = keras.Input((SMALL_SIDE, SMALL_SIDE, 3), name="photo")
    x = normalised(layers.Conv2D(32, 3, 2, padding="same", use_bias=False, name="stem")(inputs))
    for place, filters in enumerate((64, 128, 256), 1):
        x = normalised(layers.DepthwiseConv2D(3, 2, padding="same", use_bias=False, name=f"depthwise{place}")(x))
        x = normalised(layers.Conv2D(filters, 1, use_bias=False, name=f"pointwise{place}")(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(number, activation="softmax", name="kind")(x), name="mine")


def trained(photos: str, epochs: int) -> keras.Model:
    """The network, trained on a folder of photographs."""
    keras.utils.set_random_seed(0)
    found, preprocessing = find_images(photos), Preprocessing(size=SMALL_SIDE)
    pixels = np.stack([preprocessing(decode(path)) for path in found.paths])
    model = network(max(found.labels) + 1)
    steps = epochs * -(-len(pixels) // 32)
    rate = keras.optimizers.schedules.CosineDecay(1e-2, steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(pixels, np.array(found.labels), batch_size=32, epochs=epochs, verbose=0).history
    print(f"{epochs} epochs: {history['accuracy'][-1]:.1%} of the training images right")
    return model


def make_uneven(model: keras.Model, most: float) -> None:
    """Divide the channels of each normalisation by factors of 1 to ``most``, and undo that in what reads them."""
    random, factors = np.random.default_rng(0), None
    for layer in model.layers:
        if hasattr(layer, "kernel") and factors is not None:
            layer.kernel.assign(layer.kernel / factors[:, None])
        if isinstance(layer, layers.BatchNormalization):
            factors = most ** random.uniform(-1, 0, layer.gamma.shape)
            layer.gamma.assign(layer.gamma * factors)
            layer.beta.assign(layer.beta * factors)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="?", help="a folder with one sub-folder a class")
    parser.add_argument("out", nargs="?", default="mine.keras", help="the .keras file to write")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--uneven", type=float, metavar="FACTOR", help="make the network hard to quantise")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = chosen.photos or classes(Path(folder, "drawn"), 40, seed=0)
        model = trained(photos, chosen.epochs)
        if chosen.uneven:
            make_uneven(model, chosen.uneven)
        path = chosen.out if chosen.photos else Path(folder, "mine.keras")
        model.save(path)
        print(f"{path}: {Path(path).stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
