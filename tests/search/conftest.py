import pytest

from mobilenets_tf.search.latency.base_file import file_of


@pytest.fixture(scope="session")
def contents(small, worker, made_once):
    """Scheme -> the file of the small classifier, made for its latency alone."""
    return made_once(
        "latency_files", lambda: {scheme: file_of(small, scheme, worker) for scheme in ("float32", "int8")}
    )
