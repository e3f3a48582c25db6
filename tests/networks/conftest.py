import pytest

from mobilenets_tf.weights.keras_config import shapes_alone


@pytest.fixture
def without_values():
    """Networks have shapes alone. Drawing the initial values takes most of the time of building a network."""
    with shapes_alone():
        yield
