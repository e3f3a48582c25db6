"""The state of an unfinished search in its checkpoint. The file may be damaged, or made by somebody else."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from mobilenets_tf.errors import RequestError
from mobilenets_tf.search.netadapt import Course
from mobilenets_tf.search.pareto import Trial
from mobilenets_tf.search.score import Score
from mobilenets_tf.training.checkpoints import Checkpoint

_MOST = 1e300
_Saved = tuple[dict[str, np.ndarray], dict] | None


def keep_course(checkpoint: Checkpoint, course: Course) -> None:
    """Write how far the rounds of NetAdapt are."""
    arrays = {f"kept/{name}": stays for name, stays in course.kept.items()}
    arrays |= {f"state/{name}": values for name, values in course.state.items()}
    checkpoint.write(arrays, {"rounds": course.rounds})


def keep_trials(checkpoint: Checkpoint, trials: Sequence[Trial]) -> None:
    """Write the trials that are done."""
    checkpoint.write({}, {"trials": [asdict(trial) for trial in trials]})


def course_of(start: Course, saved: _Saved, checkpoint: Checkpoint) -> Course:
    """Return the course to go on with.

    Args:
        start: the course of the whole network.
        saved: what was read of the checkpoint; None if there is none.
        checkpoint: for messages.

    Raises:
        RequestError: the checkpoint has arrays or rounds that no search has.
    """
    if saved is None:
        return start
    arrays, about = saved
    parts = {}
    for part, own in (("kept", start.kept), ("state", start.state)):
        there = {name: arrays.get(f"{part}/{name}") for name in own}
        if not all(_is_like(there[name], values) for name, values in own.items()):
            raise _damaged(checkpoint)
        parts[part] = there
    if not all(stays.any() for stays in parts["kept"].values()):  # no search takes a whole group away
        raise _damaged(checkpoint)
    rounds = about.get("rounds")
    if not isinstance(rounds, list) or not all(map(_is_round, rounds)):
        raise _damaged(checkpoint)
    return Course(parts["kept"], parts["state"], rounds)


def trials_of(saved: _Saved, checkpoint: Checkpoint) -> list[Trial]:
    """Return the trials that are done. Arguments as of ``course_of``.

    Raises:
        RequestError: the checkpoint has trials that no search has.
    """
    rows = saved[1].get("trials") if saved else []
    if not isinstance(rows, list) or not all(map(_is_trial, rows)):
        raise _damaged(checkpoint)
    return [Trial(row["number"], row["point"], _score(row["score"]), row["ms"]) for row in rows]


def _damaged(checkpoint: Checkpoint) -> RequestError:
    return RequestError(f"{checkpoint.path} is damaged: no search leaves such a file. Remove it to search anew.")


def _is_like(values: np.ndarray | None, own: np.ndarray) -> bool:
    return values is not None and (values.shape, values.dtype) == (own.shape, own.dtype)


def _is_round(row: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("proposals"), list):
        return False
    tried = [row, *(each for each in row["proposals"] if not isinstance(each, dict) or "score" in each)]
    return all(isinstance(each, dict) and _are_numbers(each, "ms", "score") for each in tried)


def _is_trial(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and _are_numbers(row, "number", "ms")
        and isinstance(row.get("point"), dict)
        and all(isinstance(value, (int, float, str)) or value is None for value in row["point"].values())
        and isinstance(row.get("score"), dict)
        and all(value is None or _is_number(value) for value in row["score"].values())
        and row["score"].keys() == {"loss", "score"}
    )


def _are_numbers(row: dict, *names: str) -> bool:
    return all(_is_number(row.get(name)) for name in names)


def _is_number(value: Any) -> bool:
    """Tell whether JSON has a number that a search leaves; it may also have NaN, or one beyond all floats."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_MOST < value < _MOST


def _score(row: dict) -> Score:
    """Read a score. JSON has no NaN: that of a training which diverged is null."""
    return Score(**{name: math.nan if value is None else value for name, value in row.items()})
