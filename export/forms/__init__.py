"""The forms in which a file gives its answers, by task: for MediaPipe, or for an app with its own decoding.

``forms_of`` returns the object of a task; all objects have the protocol ``Forms``. A classifier's file has one form.
"""

from typing import Protocol

from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.export.forms import detector, segmenter
from mobilenets_tf.modelsource import ModelSource
from mobilenets_tf.tasks import task_of
from mobilenets_tf.tasks.task import Task


class Forms(Protocol):
    """The forms of one task's files.

    own: the form in which the network itself gives its outputs; None where there is one form only.
    with_threshold: the forms that take a score threshold.
    """

    own: str | None
    with_threshold: tuple[str, ...]

    def apply(self, content: bytes, form: str, network, score_threshold: float | None = None) -> bytes:
        """Give a file another form.

        Args:
            content: a file with the network's own outputs, without metadata.
            network: with ``classes``, ``grids`` and ``size`` of the network.
        """

    def companions(self, file_name: str, form: str, network) -> dict[str, str]:
        """Return the files that an app needs beside a file of this form: name -> content."""


class _OneForm:
    own, with_threshold = None, ()

    def apply(self, content, form, network, score_threshold=None) -> bytes:
        return content

    def companions(self, file_name, form, network) -> dict[str, str]:
        return {}


_FORMS: dict[str, Forms] = {
    "classify": _OneForm(),
    "regress": _OneForm(),
    "detect": detector.DetectorForms(),
    "segment": segmenter.SegmenterForms(),
}


def forms_of(task: Task) -> Forms:
    """Return the forms of a task's files."""
    return _FORMS[task.name]


def check_output(source: ModelSource, output: str | None, score_threshold: float | None) -> None:
    """Refuse a form that the model's file cannot have, and a task that cannot be judged here.

    Raises:
        RequestError: the form is not one of the task's, the threshold is out of range or has no use, or a package that
            judging needs is not installed.
    """
    task = task_of(source.task)
    task.check_installed()
    if output is not None and not task.forms:
        raise RequestError(f"output={output!r} is for detectors and segmenters; {source.model} is neither.")
    if output not in (None, *task.forms):
        raise unknown("output", output, task.forms)
    if score_threshold is None:
        return
    forms = forms_of(task).with_threshold
    if (output or next(iter(task.forms), None)) not in forms:
        form = f"with output={output!r}" if forms else "no detector"
        raise RequestError(
            f"score_threshold={score_threshold} is of a detector's file with output='nms'; {source.model} is {form}."
        )
    if not 0 < score_threshold <= 1:
        raise RequestError(f"score_threshold={score_threshold} must be above 0 and at most 1.")
