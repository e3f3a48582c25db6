"""``.keras`` files that are written: the same bytes for the same model, in every process."""

import io
import json
import zipfile

import keras
import numpy as np

from mobilenets_tf.weights import saved_models


def shared_ids(node):
    """Every ``shared_object_id`` of a configuration, in the order in which they occur."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from [value] if key == "shared_object_id" else shared_ids(value)
    elif isinstance(node, list):
        for item in node:
            yield from shared_ids(item)


def config_of(file):
    with zipfile.ZipFile(file) as archive:
        return json.loads(archive.read("config.json"))


def test_shared_objects_have_numbers_rather_than_addresses(tmp_path):
    first, second = (keras.layers.ReLU(6.0, name=name) for name in ("first", "second"))
    inputs = x = keras.Input((4,))
    for name, activation in zip("abcd", (first, second, first, second), strict=True):
        x = keras.layers.Dense(3, activation=activation, name=name)(x)
    model = keras.Model(inputs, x)
    model.save(tmp_path / "keras_own.keras")
    addresses = list(shared_ids(config_of(tmp_path / "keras_own.keras")))
    content = saved_models.to_bytes(model)
    places = {address: place for place, address in enumerate(dict.fromkeys(addresses))}
    assert list(shared_ids(config_of(io.BytesIO(content)))) == [places[address] for address in addresses]
    assert len(places) == 3  # the two activations, and the policy of all layers
    loaded = saved_models.of_bytes(content)
    np.testing.assert_array_equal(loaded(np.ones((2, 4))), model(np.ones((2, 4))))
