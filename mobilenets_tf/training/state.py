"""The state of a training: the checkpoint to resume from, and the weights that will be kept."""

import hashlib
from dataclasses import asdict

import numpy as np

from mobilenets_tf import files
from mobilenets_tf.training.distribution import Distribution
from mobilenets_tf.training.loop import Course
from mobilenets_tf.training.request import Job
from mobilenets_tf.training.step import Training


class State:
    """The state of a job's training, with its checkpoint.

    key: tells trainings of different jobs apart in the same folder.
    course: how far the training is.
    kept_epoch: the epoch whose weights will be kept.
    """

    def __init__(self, job: Job, training: Training, distribution: Distribution):
        self._job, self._training, self._distribution = job, training, distribution
        self._checkpoint = job.checkpoint
        self.key = hashlib.sha256(files.to_json(self._checkpoint.identity).encode()).hexdigest()[:8]
        self.course = Course()
        self.kept_epoch, self._best = job.recipe.epochs, None

    def restore(self) -> None:
        """Restore the checkpoint, if there is one.

        Raises:
            RequestError: the checkpoint was made with other options, or is damaged.
        """
        if not self._job.request.restart and (found := self._checkpoint.read()):
            arrays, about = found
            best = [arrays.pop(f"best/{i}") for i in range(about["best_arrays"])]
            self._best, self.kept_epoch = best or None, about["kept_epoch"]
            self._training.restore(arrays)
            self.course = Course(**about["progress"])
        self._distribution.check_same(
            self.course.step, "step to go on from; --out must be a folder that all workers share"
        )

    def judge(self, row: dict) -> None:
        """Keep the weights after an epoch, given its row, where they are the best and the best are asked for."""
        metric = self._training.objective.metric
        if self._job.request.keep == "best" and metric in row:
            earlier = self.course.epochs[:-1]
            if all(row[metric] > other[metric] for other in earlier):
                self._best, self.kept_epoch = self._training.weights(), row["epoch"]

    def save(self, course: Course) -> None:
        """Write the checkpoint. Every worker must call it; the first one writes."""
        arrays = self._training.state()
        if not self._distribution.writes:
            return
        best = {f"best/{index}": values for index, values in enumerate(self._best or [])}
        about = {
            "progress": asdict(course),
            "kept_epoch": self.kept_epoch,
            "best_arrays": len(best),
        }
        self._checkpoint.write(arrays | best, about)

    def kept_weights(self) -> list[np.ndarray]:
        """Return the weights to write, in the order of ``model.weights``."""
        return self._best or self._training.weights()
