"""A training in its own process: from a checked job to the content of the ``.keras`` file. Everything here needs
TensorFlow."""

import json
import re
import warnings
from dataclasses import asdict
from pathlib import Path

import keras
import tensorflow as tf

from mobilenets_tf import files
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.errors import RequestError
from mobilenets_tf.manifest import versions
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.tasks import task_of
from mobilenets_tf.training import curves, loop, step
from mobilenets_tf.training.cluster import PeerLostError
from mobilenets_tf.training.distribution import Distribution
from mobilenets_tf.training.input import pipeline
from mobilenets_tf.training.input.plan import Plan
from mobilenets_tf.training.objectives import objective_of
from mobilenets_tf.training.objectives.objective import Objective, Teacher
from mobilenets_tf.training.request import Job
from mobilenets_tf.training.state import State
from mobilenets_tf.weights.saved_models import to_bytes


class Run:
    """One training of a job in this process.

    Raises:
        RequestError: networks or options do not fit each other.
    """

    def __init__(self, job: Job, distribution: Distribution, progress: Progress = silent):
        keras.utils.set_random_seed(job.request.seed)
        step.deterministic()
        warnings.filterwarnings("ignore", message=".* the classifier is fresh")  # as it should be here
        self._job, self._request, self._recipe = job, job.request, job.recipe
        self._distribution, self._progress = distribution, progress
        with distribution.strategy.scope():
            self._build()
        size = self._preprocessing.size
        self._plan = Plan(
            self._recipe, len(job.training), size, replicas=distribution.replicas, seed=self._request.seed
        )
        settings = step.Settings(self._request.precision, self._request.jit_compile, self._request.sync_batchnorm)
        self._training = step.Training(
            self._objective, self._model_at, self._plan, size, self._preprocessing, distribution, settings,
            self._teacher,
        )  # fmt: skip
        self._broken = pipeline.Broken(self._request.broken)
        self._state = State(job, self._training, distribution)

    def _build(self) -> None:
        """Build the network, its objective and its teacher."""
        source, sources = self._request.source, (self._job.training, self._job.validation)
        self._model = source.build(**({} if source.is_file else self._recipe.options))
        # A file from elsewhere does not say its task, and so neither how much of a photograph it has to see.
        self._preprocessing = task_of(self._request.task).framed(source.preprocessing(self._model))
        _check_image(source.model, self._preprocessing)
        self._objective = objective_of(
            self._request.task,
            self._model,
            recipe=self._recipe,
            interpolation=self._preprocessing.interpolation,
            classes=self._job.classes,
            class_names=self._job.class_names,
            void=self._request.void,
            images=[source for source in sources if source],
        )
        self._teacher = _teacher(self._job, self._objective)

    def _model_at(self, pixels: int) -> keras.Model:
        """Build the network for an input size. Only papers' recipes, which are not for files, use several sizes."""
        if pixels == self._preprocessing.size:
            return self._model
        return self._request.source.build(resolution=pixels, **self._recipe.options)

    def train(self) -> tuple[bytes | None, dict, str | None]:
        """Train to the end, from the checkpoint where there is one.

        Returns:
            The content of the ``.keras`` file, its manifest, and the curves as an SVG. Where another worker writes,
            content and curves are None, and the manifest has only the epochs.

        Raises:
            RequestError: the checkpoint is of another training, images are broken, or the loss became NaN.
            PeerLostError: another worker no longer answers.
        """
        if not self._distribution.writes:
            return self._train(None)
        logs = Path(self._request.out) / f"{self._request.name}.logs"
        with files.only_user(logs, "training"):  # which would write the same checkpoint
            return self._train(logs / self._state.key)

    def _train(self, logs: Path | None) -> tuple[bytes | None, dict, str | None]:
        self._state.restore()
        self._logs = curves.Logs(logs)
        try:
            self._run_loop()
        except tf.errors.OpError as error:
            self._raise_cause(error)
        finally:
            self._logs.close()
        if self._broken.names:
            warnings.warn(f"Images that could not be read: {', '.join(sorted(self._broken.names)[:5])}", stacklevel=1)
        return self._result()

    def _run_loop(self) -> None:
        reader = pipeline.Reader(self._job.training, self._objective.problem, self._broken)

        def batches(first: int):
            return self._distribution.spread(
                lambda: pipeline.training_batches(reader, self._plan, self._objective, self._distribution, first=first)
            )

        loop.run(
            self._training, batches, self._state.course, epochs=self._recipe.epochs,
            steps_per_epoch=self._plan.steps_per_epoch, judge=self._judge if self._job.validation is not None else None,
            save=self._state.save, save_every=self._request.save_every, on_epoch=self._on_epoch,
            progress=self._progress,
        )  # fmt: skip

    def _judge(self) -> dict[str, float]:
        reader = pipeline.Reader(self._job.validation, self._objective.problem, self._broken)
        return self._training.judge(reader, self._progress)

    def _on_epoch(self, row: dict) -> None:
        self._logs.write(row)
        self._state.judge(row)
        epoch = f"epoch {row['epoch']}/{self._recipe.epochs}"
        self._progress(f"{epoch}: {curves.summary(row)}, {row['images_per_second']:.0f} images/s", 1, 1)

    def _raise_cause(self, error: tf.errors.OpError) -> None:
        """Raise the cause of TensorFlow's error: a broken image, or a lost worker."""
        if self._broken.error:
            raise self._broken.error from error
        if self._distribution.workers > 1:
            raise PeerLostError(re.sub(r"\{\{.*?\}\} ?", "", str(error).splitlines()[0])[:150]) from error
        raise error

    def _result(self) -> tuple[bytes | None, dict, str | None]:
        weights, epochs = self._state.kept_weights(), self._state.course.epochs
        if not self._distribution.writes:
            return None, {"epochs": epochs}, None
        content = to_bytes(self._training.finished(weights))
        title = f"{self._request.name}: {len(self._job.training)} images, {self._job.classes} classes"
        return content, self._manifest(), curves.draw(epochs, self._objective.metric, title)

    def _manifest(self) -> dict:
        options = {key: value for key, value in self._request.options().items() if key != "source"}
        return {
            "versions": versions(),
            "task": self._request.task,
            "model": self._request.source.facts(),
            **self._plan_of_file(),
            "options": json.loads(files.to_json(options)),
            "recipe": json.loads(files.to_json(asdict(self._recipe))),
            "images": {
                "training": len(self._job.training),
                "validation": len(self._job.validation or ()),
                "broken": sorted(self._broken.names),
            },
            "preprocessing": asdict(self._preprocessing),
            "labels": list(self._job.class_names),
            "kept_epoch": self._state.kept_epoch,
            "epochs": self._state.course.epochs,
        }

    def _plan_of_file(self) -> dict:
        """Hand on the plan of a file's network. Of a registered network the facts about the model say as much."""
        source = self._request.source
        return {"plan": source.plan.plain()} if source.is_file and source.plan else {}


def _check_image(name: str, preprocessing: Preprocessing) -> None:
    """Refuse a network that takes no square RGB image.

    Raises:
        RequestError: the image is grey, has an alpha channel, or is not square.
    """
    if preprocessing.channels != 3 or preprocessing.height != preprocessing.width:
        shape = preprocessing.height, preprocessing.width, preprocessing.channels
        raise RequestError(f"{name} takes images of shape {shape}, and networks are trained on square RGB images.")


def _teacher(job: Job, objective: Objective) -> Teacher | None:
    source = job.request.teacher
    if source is None:
        return None
    model = source.build()
    preprocessing = source.preprocessing(model)
    _check_image(source.model, preprocessing)
    try:
        return Teacher.of(objective, model, preprocessing, job.request.distill, job.request.temperature)
    except RequestError as error:
        raise RequestError(f"{source.model} cannot be the teacher: {error}") from error
