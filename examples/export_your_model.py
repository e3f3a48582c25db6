"""A Keras model of your own -> a verified int8 TFLite file, from Python.

    python examples/export_your_model.py PHOTOS/

Here the model is a small untrained network with a rescaling layer, and the photographs are those of the folder given
(without one, the few that scikit-image ships). Put your trained model in its place.
"""

import sys

import keras
from keras import layers

from mobilenets_tf import Preprocessing, export
from mobilenets_tf.images import decode, demo_photos, find_images
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
    # The model rescales by itself, so it wants plain 0-255 pixels: mean 0, std 1.
    preprocessing = Preprocessing(size=96, resize=110, mean=(0.0,) * 3, std=(1.0,) * 3)
    photos = find_images(sys.argv[1]) if len(sys.argv) > 1 else demo_photos()
    calibration = Calibration.from_images(photos, preprocessing)
    result = export.to_tflite(model, "int8", calibration)
    comparison = export.verify(result.path, model, (preprocessing(decode(path)) for path in photos.paths))
    print(f"{result.path}: {result.manifest['bytes']} bytes, ops {result.manifest['operators']}")
    print("\n".join(comparison.lines()))


if __name__ == "__main__":
    main()
