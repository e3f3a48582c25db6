"""Damaged and hostile files: each is read or refused, in bounded time and memory. benchmarks/hostile.py has more."""

import pytest

from tests.support import hostile_files

HOSTILE = dict(hostile_files.hostile())
# These take long to make, or need a Keras model to be built.
SLOW = ("many-links", "bomb", "empties", "copies", "hard-links", "gzip", "arguments", "linked", "views", "long.keras")
QUICK = [name for name in HOSTILE if not any(part in name for part in SLOW) and not name.startswith("model-")]
GOOD = ("weights-names.pth", "manifest-form-text", "manifest-options-dict")  # strange, but no harm


def outcome_of(name, content, folder):
    path = folder / name
    path.write_bytes(content() if callable(content) else content)
    return hostile_files.read(path)


def test_hostile_files_are_refused(tmp_path):
    outcomes = [outcome_of(name, HOSTILE[name], tmp_path) for name in QUICK]
    assert not [outcome for outcome in outcomes if not outcome.is_fine]
    weights = [outcome for outcome in outcomes if outcome.name.startswith(("weights", "coco", "training", "tflite"))]
    assert not [outcome for outcome in weights if outcome.told == "read"]


@pytest.mark.parametrize("name", ["model-huge.keras", "model-nested.keras", "model-linked.keras", "model-claims.h5"])
def test_hostile_models_are_refused(tmp_path, name):
    outcome = outcome_of(name, HOSTILE[name], tmp_path)
    assert outcome.is_fine and hostile_files.is_refused(outcome), outcome


def test_damaged_files_are_read_or_refused(tmp_path):
    damaged = [(name, content) for name, content in hostile_files.damaged(0, 6) if not name.startswith("model")]
    outcomes = [outcome_of(name, content, tmp_path) for name, content in damaged]
    assert len(outcomes) > 30 and not [outcome for outcome in outcomes if not outcome.is_fine]
