"""Quantisation-aware fine-tuning of a Keras 3 model, from Python: train with int8 rounding in place, write the file.

    python examples/qat_finetune.py PHOTOS/

PHOTOS/ has one sub-folder a class. Without it, the classes are the photographs that scikit-image ships, and the images
are random crops of them. The model, a small one, is trained here for some seconds: put your trained model in its place.
From the command line the same is ``mobilenets-tf qat``.
"""

import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from mobilenets_tf import Preprocessing, Runner
from mobilenets_tf.data import decode, demo_photos, find_images
from mobilenets_tf.quantize import Recipe, fine_tune, quantize_aware

SIZE = 48


def labelled_images(folder: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Pixels in [-1, 1], which is what the model takes, and class indices."""
    preprocessing, pixels, labels = Preprocessing(size=SIZE), [], []
    if folder:
        found = find_images(folder)
        return np.stack([preprocessing(decode(path)) for path in found.paths]), np.array(found.labels)
    random = np.random.default_rng(0)
    for label, path in enumerate(demo_photos().paths):
        photo = decode(path)
        for _ in range(120):
            left, top = (random.integers(side - 4 * SIZE) for side in photo.size)
            pixels.append(preprocessing(photo.crop((left, top, left + 4 * SIZE, top + 4 * SIZE))))
            labels.append(label)
    return np.stack(pixels), np.array(labels)


def your_model(classes: int) -> keras.Model:
    """A small MobileNet."""

    def normalised(x):
        return layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(x))

    inputs = keras.Input((SIZE, SIZE, 3))
    x = normalised(layers.Conv2D(16, 3, 2, padding="same", use_bias=False)(inputs))
    for filters in (32, 64, 96):
        x = normalised(layers.DepthwiseConv2D(3, 2, padding="same", use_bias=False)(x))
        x = normalised(layers.Conv2D(filters, 1, use_bias=False)(x))
    outputs = layers.Dense(classes, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs)


def with_uneven_channels(model: keras.Model) -> None:
    """Make channels up to 32 times smaller, and what reads them larger by the same factor: the model answers nearly the
    same, and is as hard to quantise as networks that were trained for long.
    """
    random, factors = np.random.default_rng(0), None
    for layer in model.layers:
        if hasattr(layer, "kernel") and factors is not None:
            layer.kernel.assign(layer.kernel / factors[:, None])
        if isinstance(layer, layers.BatchNormalization):
            factors = 2 ** random.uniform(-5, 0, layer.gamma.shape)
            layer.gamma.assign(layer.gamma * factors)
            layer.beta.assign(layer.beta * factors)


def accuracy(content: bytes, images: np.ndarray, labels: np.ndarray) -> float:
    answers = np.array([outputs.argmax() for outputs in Runner(content).first_outputs(images)])
    return float((answers == labels).mean())


def main():
    keras.utils.set_random_seed(0)
    images, labels = labelled_images(sys.argv[1] if len(sys.argv) > 1 else None)
    order = np.random.default_rng(0).permutation(len(images))
    # Three parts: to train with, to choose the best epoch with, to judge with.
    training, choosing, judging = (
        (images[part], labels[part]) for part in np.split(order, [len(order) * 5 // 10, len(order) * 7 // 10])
    )

    model = your_model(int(labels.max()) + 1)
    rate = keras.optimizers.schedules.CosineDecay(1e-2, 20 * -(-len(training[0]) // 16))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(*training, batch_size=16, epochs=20, verbose=0)
    with_uneven_channels(model)

    # One scale a layer's weights, and channels as they are: so the tools of some chips do it, at the highest cost.
    aware = quantize_aware(model, training[0][:128], recipe=Recipe(per_tensor=True, equalize=False))
    batches = [tf.data.Dataset.from_tensor_slices(part).batch(16) for part in (training, choosing)]
    tuning = fine_tune(aware, *batches, epochs=6, learning_rate=1e-3, distill=0.5)
    print(tuning.outcome)

    # On the images that neither training nor the choice of the epoch has seen:
    files = {"float32": aware.float_content, "post-training": aware.post_training, "fine-tuned": aware.to_tflite()}
    for name, content in files.items():
        print(f"{name:<14} {accuracy(content, *judging):6.1%}  {len(content) / 1e6:.2f} MB")
    retrained = aware.to_keras()  # in Keras 3 and in float, the weights that were trained for the rounding
    print(f"{'Keras 3 again':<14} {(retrained.predict(judging[0], verbose=0).argmax(-1) == judging[1]).mean():6.1%}")


if __name__ == "__main__":
    main()
