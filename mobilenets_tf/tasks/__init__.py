"""The tasks: what networks are for. One object a task, behind one protocol (``task.Task``)."""

from mobilenets_tf.errors import unknown
from mobilenets_tf.tasks.classification import Classification
from mobilenets_tf.tasks.detection import Detection
from mobilenets_tf.tasks.regression import Regression
from mobilenets_tf.tasks.segmentation import Segmentation
from mobilenets_tf.tasks.task import Task

_TASKS: dict[str, Task] = {
    task.name: task for task in (Classification(), Detection(), Segmentation(), Regression())
}  # fmt: skip


def task_of(name: str) -> Task:
    """Return the task of a name: "classify", "detect" or "segment"; or "regress", for all other networks.

    Raises:
        RequestError: there is no such task.
    """
    if name not in _TASKS:
        raise unknown("task", name, _TASKS)
    return _TASKS[name]
