"""Quantisation-aware models beside their own int8 files and the float models, on small trained networks.

    python benchmarks/aware.py --data ../shared/cifar10-samples --networks /tmp/cifar [--check]
    python benchmarks/aware.py --data ... --networks trained --check              networks of `mobilenets-tf train`
    python benchmarks/aware.py --data ... --networks /tmp/cifar --tune 3          then fine-tunes each
    python benchmarks/aware.py --data ... --networks /tmp/cifar --names mobilenet_v3_small --damage 8 --tune 16 \\
        --learning-rate 5e-4 --distill 0.5                                       then spoils it first

The networks are the ``.keras`` files in the folder: those that ``benchmarks/cifar10.py --keep`` trains, or others whose
input is within -1 and 1; a network of ``--names`` that is not there is trained first, as cifar10.py does. Printed for
each, before any fine-tuning: top-1 of float, aware model and file on the 1000 test pictures; the share on which aware
model and file give the same answer, and that on which all their outputs are equal to the last bit; what a training step
costs beside the float model's own. Times are the machine's and have no gate (2.5 is what we want to stay under).
``--check`` fails if a network's answers agree on fewer than 99 %, or if fine-tuning leaves a network more than half a
point under float.

``--tune`` fine-tunes on the training pictures. The epoch is chosen on one half of the test pictures; the table float /
post-training / fine-tuned is of the other half. ``--damage`` spoils the quantisation first: channels between a ReLU
and the depthwise convolution behind it are made up to FACTOR times larger or smaller, which in float changes nothing;
then one scale a layer's weights, nothing equalised, ranges at the extremes, weights to the nearest.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from cifar10 import PLANS, Augmented, load
from cifar10 import trained as trained_network

from mobilenets_tf import reparameterize
from mobilenets_tf.quantize import Recipe, fine_tune, quantize_aware
from mobilenets_tf.tflite.runtime import Runner

LEAST_AGREEMENT = 0.99
MOST_LOST = 0.5
BATCH = 32
DAMAGED = Recipe(equalize=False, ranges="min_max", rounding="nearest", correct_biases=False, per_tensor=True)


def damage(model, by: float):
    """A copy that computes the same, whose channels before depthwise convolutions are of very different sizes."""
    random = np.random.default_rng(0)
    damaged = keras.models.clone_model(model)
    damaged.set_weights(model.get_weights())
    layers = {layer.name: layer for layer in damaged.layers}
    for name, norm in layers.items():
        block = name.removesuffix("_expand_bn")
        if block != name and f"{block}_expand_relu" in layers:
            factors = np.exp(random.uniform(-1, 1, norm.gamma.shape) * np.log(by)).astype(np.float32)
            norm.gamma.assign(norm.gamma * factors)
            norm.beta.assign(norm.beta * factors)
            kernel = layers[f"{block}_depthwise_conv"].kernel
            kernel.assign(kernel / factors[:, None])
    return damaged


def answers(content: bytes, pictures: np.ndarray) -> np.ndarray:
    return np.array(list(Runner(content).first_outputs(pictures)))


def step_ratio(aware, model, pictures: np.ndarray, labels: np.ndarray) -> float:
    """Time of a training step of the aware model over the float Keras model's: medians of turns, one by one."""
    loss = "sparse_categorical_crossentropy"
    model = keras.models.clone_model(model)
    model.compile(keras.optimizers.Adam(1e-4), loss)
    before = aware.model.get_weights()
    aware.model.compile(tf_keras.optimizers.Adam(1e-4), loss)
    seconds = {model: [], aware.model: []}
    for turn in range(12):
        for trained, found in seconds.items():
            started = time.perf_counter()
            trained.train_on_batch(pictures[:BATCH], labels[:BATCH])
            if turn >= 2:  # the first ones build the graph
                found.append(time.perf_counter() - started)
    aware.model.set_weights(before)
    return statistics.median(seconds[aware.model]) / statistics.median(seconds[model])


def augmented(pictures: np.ndarray, labels: np.ndarray) -> tf.data.Dataset:
    """The batches of crops that ``cifar10.train`` trains with, other ones each epoch."""
    batches = Augmented(pictures, labels)

    def epoch():
        for place in range(len(batches)):
            crops, targets = batches[place]
            yield crops, targets.argmax(-1)
        batches.on_epoch_end()

    signature = tf.TensorSpec((None, *pictures.shape[1:])), tf.TensorSpec((None,), tf.int64)
    found = tf.data.Dataset.from_generator(epoch, output_signature=signature)
    return found.apply(tf.data.experimental.assert_cardinality(len(batches)))


def tuned(aware, training, validation, epochs: int, rate: float, distill: float) -> bytes:
    judged = tf.data.Dataset.from_tensor_slices(validation).batch(BATCH)
    fine_tune(aware, augmented(*training), judged, epochs, learning_rate=rate, patience=epochs, distill=distill)
    return aware.to_tflite()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--networks", required=True, help="a folder of .keras files, as cifar10.py --keep leaves it")
    parser.add_argument("--names", nargs="+", choices=list(PLANS), help="left out, the networks in the folder")
    parser.add_argument("--damage", type=float, metavar="FACTOR")
    parser.add_argument("--tune", type=int, metavar="EPOCHS")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--distill", type=float, default=0.0)
    parser.add_argument("--check", action="store_true", help="exit 1 if a bound is broken")
    chosen = parser.parse_args()
    keras.utils.set_random_seed(0)
    broken = []
    folder = Path(chosen.networks)
    folder.mkdir(parents=True, exist_ok=True)
    for network in chosen.names or sorted(path.stem for path in folder.glob("*.keras")):
        trained = trained_network(network, chosen.data, folder)
        side = trained.input_shape[1]
        training, (pictures, labels) = load(chosen.data, "train", side), load(chosen.data, "test", side)
        calibration = training[0][np.random.default_rng(0).permutation(len(training[0]))[:128]]
        models = {network: damage(trained, chosen.damage) if chosen.damage else trained}
        if network.startswith("mobileone"):
            models[f"{network}, folded before"] = reparameterize(trained)
        for name, model in models.items():
            aware = quantize_aware(model, calibration, recipe=DAMAGED if chosen.damage else None)
            wanted = model.predict(pictures, verbose=0)
            foretold = aware.model.predict(pictures, verbose=0)
            found = answers(aware.to_tflite(), pictures)
            top1 = [f"{(given.argmax(-1) == labels).mean():6.1%}" for given in (wanted, foretold, found)]
            agreement = (foretold.argmax(-1) == found.argmax(-1)).mean()
            ratio = step_ratio(aware, model, *training)
            print(
                f"{name:<28} float {top1[0]}  aware {top1[1]}  file {top1[2]}  aware = file {agreement:6.1%}, "
                f"to the last bit {(foretold == found).all(-1).mean():6.1%}  step / float step {ratio:.2f}",
                flush=True,
            )
            if agreement < LEAST_AGREEMENT:
                broken.append(f"{name}: aware model and file agree on {agreement:.1%}")
            if chosen.tune:
                chosen_on, judged_on = slice(0, None, 2), slice(1, None, 2)
                validation = pictures[chosen_on], labels[chosen_on]
                usual = answers(aware.post_training, pictures[judged_on])
                options = chosen.tune, chosen.learning_rate, chosen.distill
                trained_file = tuned(aware, training, validation, *options)
                last = answers(trained_file, pictures[judged_on])
                right = [(given.argmax(-1) == labels[judged_on]).mean() for given in (wanted[judged_on], usual, last)]
                cells = zip(("float", "post-training", "fine-tuned"), right, strict=True)
                print("    " + "  ".join(f"{label} {share:6.1%}" for label, share in cells), flush=True)
                if (lost := 100 * (right[0] - right[2])) > MOST_LOST:
                    broken.append(f"{name}: fine-tuned, it loses {lost:.1f} points against float")
    for line in broken:
        print(f"MISSED {line}")
    return 1 if broken and chosen.check else 0


if __name__ == "__main__":
    sys.exit(main())
