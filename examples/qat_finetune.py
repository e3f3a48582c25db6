"""Quantisation-aware fine-tuning of a Keras 3 model, from Python: train with int8 rounding in place, write the file.

    python examples/qat_finetune.py PHOTOS/

PHOTOS/ has one sub-folder a class. Without it, the classes are the photographs that scikit-image ships, and the images
are random crops of them. The model, a small one, is trained here for a few epochs: put your trained model in its place.
From the command line the same is ``mobilenets-tf qat``.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

from mobilenets_tf import Preprocessing, Runner, create_model
from mobilenets_tf.data import decode, demo_photos, find_images
from mobilenets_tf.quantize import Recipe, fine_tune, quantize_aware

SIZE = 64


def labelled_images(folder: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Pixels in [-1, 1], which is what the model takes, and class indices."""
    if folder:
        found = find_images(folder)
        preprocessing = Preprocessing(size=SIZE, resize=SIZE)
        return np.stack([preprocessing(decode(path)) for path in found.paths]), np.array(found.labels)
    random, crops, labels = np.random.default_rng(0), [], []
    for label, path in enumerate(demo_photos().paths):
        photo = np.asarray(decode(path), np.float32) / 127.5 - 1
        for _ in range(60):
            top, left = (random.integers(side - 2 * SIZE) for side in photo.shape[:2])
            crops.append(photo[top : top + 2 * SIZE : 2, left : left + 2 * SIZE : 2])
            labels.append(label)
    return np.stack(crops), np.array(labels)


def accuracy(content: bytes, images: np.ndarray, labels: np.ndarray) -> float:
    answers = np.array([outputs.argmax() for outputs in Runner(content).first_outputs(images)])
    return float((answers == labels).mean())


def main():
    keras.utils.set_random_seed(0)
    images, labels = labelled_images(sys.argv[1] if len(sys.argv) > 1 else None)
    order = np.random.default_rng(0).permutation(len(images))
    # Three parts: to train with, to choose the best epoch with, to judge with.
    training, choosing, judging = (
        (images[part], labels[part]) for part in np.split(order, [len(order) * 6 // 10, len(order) * 8 // 10])
    )

    model = create_model("mobilenet_v1", alpha=0.25, resolution=SIZE, classes=int(labels.max()) + 1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.8  # there are few steps
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
    model.fit(*training, epochs=40, verbose=0)

    # One scale a layer's weights: what some chips need, and what costs the most accuracy.
    aware = quantize_aware(model, training[0][:128], recipe=Recipe(per_tensor=True))
    batches = [tf.data.Dataset.from_tensor_slices(part).batch(16) for part in (training, choosing)]
    tuning = fine_tune(aware, *batches, epochs=3, learning_rate=1e-3)
    print("accuracy on the images to choose with, before and after each epoch:", np.round(tuning.accuracies, 3))

    files = {"float32": aware.float_content, "post-training": aware.post_training, "fine-tuned": aware.to_tflite()}
    for name, content in files.items():
        print(f"{name:<14} {accuracy(content, *judging):6.1%}  {len(content) / 1e6:.2f} MB")
    retrained = aware.to_keras()  # the trained weights in Keras 3, to go on with
    print(f"{'Keras 3 again':<14} {(retrained.predict(judging[0], verbose=0).argmax(-1) == judging[1]).mean():6.1%}")


if __name__ == "__main__":
    main()
