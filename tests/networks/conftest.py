import keras
import pytest


@pytest.fixture
def without_values():
    """Networks have shapes alone. Drawing the initial values takes most of the time of building a network."""
    with keras.StatelessScope(initialize_variables=False):
        yield
