"""A Keras model of your own -> a verified int8 TFLite file that takes a camera's pixels, from Python.

    python examples/export_your_model.py PHOTOS/

Here the model is a small untrained network with a rescaling layer, and the photographs are those of the folder given
(without one, the few that scikit-image ships). Put your trained model in its place.
"""

import sys

import keras
from keras import layers

from mobilenets_tf import ImageInput, Preprocessing, export
from mobilenets_tf.data import decode, demo_photos, find_images
from mobilenets_tf.quantize import Calibration


def your_model():
    """Any functional or sequential model; the input needs a fixed size."""
    return keras.Sequential(
        [
            keras.Input((96, 96, 3), name="photo"),
            layers.Rescaling(1 / 127.5, offset=-1),
            layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.SeparableConv2D(32, 3, strides=2, padding="same", activation="relu6"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5, activation="softmax", name="kind"),
        ],
        name="yours",
    )


def main():
    model = your_model()
    # The model rescales by itself, so it wants 0-255 pixels: mean 0, std 1. In the file that is in the weights.
    preprocessing = Preprocessing(size=96, mean=(0.0,) * 3, std=(1.0,) * 3)
    image, labels = ImageInput(preprocessing, "uint8"), [f"kind {index}" for index in range(5)]
    photos = find_images(sys.argv[1]) if len(sys.argv) > 1 else demo_photos()
    calibration = Calibration.from_images(photos, image.given)
    result = export.to_tflite(model, "int8", calibration, image=image, labels=labels)
    pixels = (preprocessing.geometry(decode(path)) for path in photos.paths)  # uint8, as the file takes them
    comparison = export.verify(result.path, model, pixels, for_model=image.wanted.normalise)
    print(f"{result.path}: {result.manifest['bytes']} bytes, ops {result.manifest['operators']}")
    print("\n".join(comparison.lines()))


if __name__ == "__main__":
    main()
