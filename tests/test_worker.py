"""A child process ends, warns and fails as a call here would, or better."""

import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.quantize import schemes
from mobilenets_tf.worker import Worker, WorkerError
from tests.support.in_a_worker import abort, warn_and_print

pytestmark = pytest.mark.usefixtures("own_workers")


def test_an_abort_in_native_code_becomes_an_exception():
    with Worker(preload="") as worker, pytest.raises(WorkerError, match="SIGABRT.*LLVM ERROR: the last words"):
        worker.call(abort, "the last words")


def test_the_child_passes_on_results_warnings_and_errors():
    with Worker(preload="") as worker:
        with pytest.warns(UserWarning, match="take care"):
            assert worker.call(warn_and_print, 3) == 3
        with pytest.raises(RequestError, match="Unknown scheme"):
            worker.call(schemes.get, "none")
