"""Make a trained network of your own faster: 60 % of its latency, with as little loss as possible.

    python examples/reach_a_latency.py PHOTOS/ TEST_PHOTOS/

Both folders have one sub-folder a class. Without them, the classes are the photographs that scikit-image ships, and the
images are random crops of them. The network, a small one, is trained here for some seconds: put your trained network in
its place. From the command line the same is ``mobilenets-tf latency`` and ``mobilenets-tf search``.
"""

import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
from keras import layers

from mobilenets_tf import LatencyRequest, LatencyTable, ModelSource, Preprocessing, SearchRequest, reach_latency
from mobilenets_tf.data import decode, demo_photos, find_images

SIZE = 64


def cropped(folder: Path, per_class: int, seed: int) -> Path:
    """Write random crops of the demo photographs, a sub-folder for each photograph."""
    random = np.random.default_rng(seed)
    for path in demo_photos().paths:
        photo, place = decode(path), folder / Path(path).stem
        place.mkdir(parents=True)
        for number in range(per_class):
            left, top = (random.integers(side - 3 * SIZE) for side in photo.size)
            photo.crop((left, top, left + 3 * SIZE, top + 3 * SIZE)).resize((SIZE, SIZE)).save(
                place / f"{number:03}.png"
            )
    return folder


def your_network(classes: int) -> keras.Model:
    """A small MobileNetV1."""

    def normalised(x):
        return layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(x))

    inputs = keras.Input((SIZE, SIZE, 3))
    x = normalised(layers.Conv2D(32, 3, 2, padding="same", use_bias=False, name="stem")(inputs))
    for number, filters in enumerate((64, 128, 256), 1):
        x = normalised(layers.DepthwiseConv2D(3, 2, padding="same", use_bias=False, name=f"depthwise{number}")(x))
        x = normalised(layers.Conv2D(filters, 1, use_bias=False, name=f"pointwise{number}")(x))
    outputs = layers.Dense(classes, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs, name="mine")


def main(photos: str | None = None, test_photos: str | None = None) -> None:
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(photos) if photos else cropped(Path(folder, "photos"), 40, seed=0)
        test = Path(test_photos) if test_photos else cropped(Path(folder, "test"), 20, seed=1)
        found, preprocessing = find_images(str(data)), Preprocessing(size=SIZE)
        pixels = np.stack([preprocessing(decode(path)) for path in found.paths])
        model = your_network(len(set(found.labels)))
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(pixels, np.array(found.labels), batch_size=32, epochs=8, verbose=0)
        network = Path(folder, "mine.keras")
        model.save(network)

        source = ModelSource(str(network), mean=127.5, std=127.5)
        table = Path(folder, "latencies.json")
        measured = LatencyTable.measure(LatencyRequest(source, str(table), networks=16, minutes=0.1))
        print(f"table: {measured.networks} networks, median error {measured.error.median:.1%}")
        searched = reach_latency(
            SearchRequest(
                source, str(data), str(test), str(Path(folder, "fast")), target=0.6, table=str(table), step=0.2,
                steps=10, tried=2, epochs=4,
            )
        )  # fmt: skip
        for row in searched.found.rows:
            print(f"round {row['round']}: {row['chosen']}, {row['ms'] / searched.found.base_ms:.0%} of the latency")
        for name, (before, after) in searched.found.widths.items():
            print(f"{name}: {before} -> {after} channels")
        print(f"predicted {searched.found.ms / searched.found.base_ms:.0%}, measured {searched.measured[0]:.0%}")
        print("\n".join(searched.deployed.comparison.lines()))
        print(f"was: {searched.found.base_score:.1%} on the images that compared the candidates")


if __name__ == "__main__":
    main(*sys.argv[1:3])
