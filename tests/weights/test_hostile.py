"""Damaged and hostile files: each is read or refused, in bounded time and memory. benchmarks/hostile.py has more."""

import keras  # noqa: F401 (what its import takes is no file's)
import pytest

from mobilenets_tf import RequestError
from mobilenets_tf.weights import hdf5
from tests.support import hostile_files

HOSTILE = dict(hostile_files.hostile())
# These take long to make, or need a Keras model to be built.
SLOW = ("many-links", "bomb", "empties", "copies", "hard-links", "gzip", "arguments", "linked", "views", "long.keras")
QUICK = [name for name in HOSTILE if not any(part in name for part in SLOW) and not name.startswith("model-")]
RUNS = ("system", "eval", "inst", "object", "extension", "external")  # these ask to run code, or lead out of the file


def outcome_of(name, content, folder):
    path = folder / name
    path.write_bytes(content() if callable(content) else content)
    return hostile_files.read(path)


def test_hostile_files_are_refused(tmp_path):
    calling = [name for name in QUICK if name.split(".")[0].endswith(RUNS)]
    outcomes = [outcome_of(name, HOSTILE[name], tmp_path) for name in dict.fromkeys([*calling, *QUICK[::3]])]
    assert not [outcome for outcome in outcomes if not outcome.is_fine]
    assert len(calling) == len(RUNS) and all(map(hostile_files.is_refused, outcomes[: len(RUNS)]))


@pytest.mark.parametrize("name", ["model-huge.keras", "model-nested.keras", "model-linked.keras", "model-claims.h5"])
def test_hostile_models_are_refused(tmp_path, name):
    outcome = outcome_of(name, HOSTILE[name], tmp_path)
    assert outcome.is_fine and hostile_files.is_refused(outcome), outcome


def test_damaged_files_are_read_or_refused(tmp_path):
    damaged = [(name, content) for name, content in hostile_files.damaged(0, 6) if not name.startswith("model")]
    outcomes = [outcome_of(name, content, tmp_path) for name, content in damaged]
    assert len(outcomes) > 30 and not [outcome for outcome in outcomes if not outcome.is_fine]


@pytest.mark.parametrize("name", ["model-loops.h5", "model-crashes.h5"])
def test_files_that_the_hdf5_library_does_not_survive_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(hdf5, "_SECONDS", 2.0)
    outcome = outcome_of(name, HOSTILE[name], tmp_path)
    assert "RequestError" in outcome.told and "damaged" in outcome.told and "crash or hang" in outcome.told


def test_a_file_that_is_read_too_slowly_is_not_called_damaged_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "_SECONDS", 0.0)
    (tmp_path / "a.h5").write_bytes(dict(hostile_files.good())["weights-k2.h5"])
    told = r"a\.h5 could not be read to its end within 0 s.* slow disk. The child process ended with signal SIGKILL\.$"
    with pytest.raises(RequestError, match=told), hdf5.open_hdf5(tmp_path / "a.h5", tmp_path / "a.h5"):
        pass


def test_what_the_hdf5_library_raises_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "a.h5").write_bytes(dict(hostile_files.good())["weights-k2.h5"])
    refused = pytest.raises(RequestError, match=r"a\.h5 is damaged.*precision is zero")
    with refused, hdf5.open_hdf5(tmp_path / "a.h5", tmp_path / "a.h5"):
        raise RuntimeError("Can't determine if attribute exists (precision is zero)")
