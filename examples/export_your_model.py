"""A Keras model of your own -> a verified int8 TFLite file that takes a camera's pixels, from Python.

    python examples/export_your_model.py PHOTOS/

PHOTOS/ has one sub-folder a class. Without it, the classes are the photographs that scikit-image ships, and the images
are random crops of them. The model has what models of one's own often have: a rescaling and an augmentation layer,
residual blocks, squeeze-and-excitation, hard-swish, dropout. It learns for some seconds: put your trained model in its
place.
"""

import sys

import keras
import numpy as np
from keras import layers

from mobilenets_tf import ImageInput, Preprocessing, export
from mobilenets_tf.data import decode, demo_photos, find_images
from mobilenets_tf.quantize import Calibration

SIZE = 64


def your_model(classes: int) -> keras.Model:
    """Any functional or sequential model; the input needs a fixed size."""
    inputs = keras.Input((SIZE, SIZE, 3), name="photo")
    x = layers.RandomFlip("horizontal")(layers.Rescaling(1 / 127.5, offset=-1)(inputs))
    x = convolution(x, 16, strides=2)
    for filters in (24, 32, 48):
        x = residual(convolution(x, filters, strides=2))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(classes, activation="softmax", name="kind")(x), name="yours")


def convolution(x, filters: int, strides: int = 1):
    x = layers.SeparableConv2D(filters, 3, strides, padding="same", use_bias=False)(x)
    return layers.Activation("hard_swish")(layers.BatchNormalization(momentum=0.9)(x))


def residual(x):
    filters = x.shape[-1]
    y = convolution(x, filters)
    weight = layers.GlobalAveragePooling2D(keepdims=True)(y)  # squeeze-and-excitation
    weight = layers.Conv2D(filters // 4, 1, activation="relu")(weight)
    weight = layers.Conv2D(filters, 1, activation="hard_sigmoid")(weight)
    return layers.Add()([x, layers.Multiply()([y, weight])])


def labelled_images(folder: str | None, preprocessing: Preprocessing) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Pixels, uint8 (images, SIZE, SIZE, 3), class indices, and the names of the classes."""
    if folder:
        found = find_images(folder)
        pixels = [preprocessing.geometry(decode(path)) for path in found.paths]
        return np.stack(pixels), np.array(found.labels), sorted({path.parent.name for path in found.paths})
    random, pixels, labels = np.random.default_rng(0), [], []
    paths = demo_photos().paths
    for label, path in enumerate(paths):
        photo = decode(path)
        for _ in range(60):
            left, top = (random.integers(side - 3 * SIZE) for side in photo.size)
            pixels.append(preprocessing.geometry(photo.crop((left, top, left + 3 * SIZE, top + 3 * SIZE))))
            labels.append(label)
    return np.stack(pixels), np.array(labels), [path.stem for path in paths]


def main():
    keras.utils.set_random_seed(0)
    # The model rescales by itself, so it wants 0-255 pixels: mean 0, std 1. In the file that is in the weights.
    preprocessing = Preprocessing(size=SIZE, mean=(0.0,) * 3, std=(1.0,) * 3)
    pixels, labels, names = labelled_images(sys.argv[1] if len(sys.argv) > 1 else None, preprocessing)
    order = np.random.default_rng(0).permutation(len(pixels))
    training, judging = order[len(order) // 5 :], order[: len(order) // 5]

    model = your_model(len(names))
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    model.fit(pixels[training].astype(np.float32), labels[training], batch_size=16, epochs=8, verbose=0)

    image = ImageInput(preprocessing, "uint8")  # the file takes a camera's pixels as they are
    calibration = Calibration(image.given.normalise(pixels[training[:128]]), image.given.value_range)
    result = export.to_tflite(model, "int8", calibration, image=image, labels=names)
    comparison = export.verify(result.path, model, pixels[judging], for_model=image.wanted.normalise)
    print(f"{result.path}: {result.manifest['bytes']} bytes, ops {result.manifest['operators']}")
    print("\n".join(comparison.lines()))


if __name__ == "__main__":
    main()
