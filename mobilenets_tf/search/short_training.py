"""Short trainings of one network whose channels are switched on and off, all compiled once."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import keras
import numpy as np

from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.search.netadapt import Kept
from mobilenets_tf.search.score import Score
from mobilenets_tf.search.switches import Switches
from mobilenets_tf.tasks import task_of
from mobilenets_tf.training import step
from mobilenets_tf.training.distribution import set_up
from mobilenets_tf.training.input import pipeline
from mobilenets_tf.training.input.plan import Plan
from mobilenets_tf.training.objectives import objective_of
from mobilenets_tf.training.recipes import Rate
from mobilenets_tf.training.request import Job

_MOST_BYTES = 512 << 20  # of decoded images that stay in memory, and as many of batches


class ShortTraining:
    """One network in training, whose channels can be switched off. All candidates share its batches and images.

    metric: the key of its score in the curves of trainings. preprocessing: of its input.

    Args:
        job: a checked training, with images to train with and images to compare candidates on.
        model: the network, trained.
        steps: how many steps may be asked for in all, by their number.
        learning_rate: of all steps.
        by_norm: take the norm of the kernels that make a channel for its importance.

    Raises:
        RequestError: the outputs of the model are not those of the task, or its channels cannot be traced.
    """

    def __init__(self, job: Job, model: keras.Model, steps: int, learning_rate: float, by_norm: bool = False):
        rate = Rate("constant", learning_rate)
        epochs = 2 + steps * job.recipe.batch_size // len(job.training)
        recipe = replace(job.recipe, rate=rate, epochs=epochs, ema=None, clip_norm=None)
        source, request = job.request.source, job.request
        self.preprocessing: Preprocessing = task_of(request.task).framed(source.preprocessing(model))
        self._objective = objective_of(
            request.task, model, recipe=recipe, interpolation=self.preprocessing.interpolation, classes=job.classes,
            class_names=job.class_names, void=request.void, images=[job.training, job.validation],
        )  # fmt: skip
        distribution = set_up("none")
        plan = Plan(recipe, len(job.training), self.preprocessing.size, seed=request.seed)
        self._plan, self._distribution, self._by_norm = plan, distribution, by_norm
        self.metric: str = self._objective.metric
        self._training = step.Training(
            self._objective, lambda pixels: model, plan, self.preprocessing.size, self.preprocessing, distribution
        )
        self.model, self.switches = model, Switches(model)
        self._reader = _Kept(job.training, self._objective.problem, pipeline.Broken(request.broken))
        self._judged = _Kept(job.validation, self._objective.problem, pipeline.Broken(request.broken))
        self._losses = self._training.losses_of(self.switches.read_by)
        self._loss = self._training.losses_of(())  # without gradients, which cost twice as much again
        self._fresh = {name: value for name, value in self.state().items() if name.startswith("optimizer/")}

    def batches(self, first: int, count: int) -> "Batches":
        """Return the batches of some steps, counted from the beginning of the search."""
        arguments = self._reader, self._plan, self._objective, self._distribution
        return Batches(lambda step: pipeline.training_batches(*arguments, first=step), range(first, first + count))

    def state(self) -> dict[str, np.ndarray]:
        """Return the weights and the optimizer's state, by name."""
        return self._training.state()

    def restore(self, state: dict[str, np.ndarray], kept: Kept) -> None:
        """Restore weights, with an optimizer that has not begun, and switch channels."""
        self._training.restore({**state, **self._fresh})
        self.switches.set(kept)

    def train(self, batches: Iterable[Any]) -> None:
        """Take one step for each batch."""
        for batch in batches:
            self._training.step(batch)
            self.switches.switch()

    def loss(self, batches: Iterable[Any]) -> float:
        """Return the mean loss on batches, without training."""
        return float(np.mean([self._loss(batch)[0] for batch in batches]))

    def importance(self, batches: Iterable[Any]) -> dict[str, np.ndarray]:
        """Estimate what taking each slice away costs, (width,) for each group.

        By default the square of the first-order change of the loss, over the batches: (sum of gradient x weight)^2 of
        the weights that read the slice (Molchanov et al. 2019, arXiv 1906.10771, equation 8).
        """
        if self._by_norm:
            return self.switches.norms()
        totals = {name: np.zeros(width) for name, width in self.switches.groups.items()}
        for batch in batches:
            _, gradients = self._losses(batch)
            weights = [np.asarray(variable, np.float64) for variable in self.switches.read_by]
            products = [gradient * weight for gradient, weight in zip(gradients, weights, strict=True)]
            for name, values in self.switches.sums(products).items():
                totals[name] += np.square(values)
        return totals

    def score(self, progress: Progress = silent) -> Score:
        """Judge the network on the images to compare on."""
        values = self._objective.judge(self._training, self._judged, progress)
        score = values[self._objective.metric]
        return Score(values.get("val_loss", -score), score)

    def finished(self) -> keras.Model:
        """Return the model with the present weights, and its layers' attributes as they were."""
        return self._training.finished(self._training.weights())


class Batches:
    """Batches to go through several times, the same ones each time. Those that do not fit into memory are made again.

    Args:
        stream: makes the batches from a step on.
        steps: whose batches they are.
        most_bytes: of batches that stay in memory.
    """

    def __init__(self, stream: Callable[[int], Iterable[Any]], steps: range, most_bytes: int = _MOST_BYTES):
        self._stream, self._steps = stream, steps
        self._kept: list[Any] = []
        self._to_keep = self._fitting(most_bytes)

    def __iter__(self) -> Iterator[Any]:
        for place in range(len(self._steps)):
            if place == len(self._kept):
                self._kept += islice(self._to_keep, 1)
            if place == len(self._kept):
                yield from islice(self._stream(self._steps[place]), len(self._steps) - place)
                break
            yield self._kept[place]

    def _fitting(self, most_bytes: int) -> Iterator[Any]:
        """Make the batches that fit into so many bytes."""
        for batch in islice(self._stream(self._steps.start), len(self._steps)):
            most_bytes -= sum(part.dtype.size * math.prod(part.shape) for part in keras.tree.flatten(batch))
            if most_bytes < 0:
                break
            yield batch


class _Kept(pipeline.Reader):
    """A reader that keeps decoded images while they fit into memory."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._images: dict[int, Any] = {}
        self._bytes = 0

    def read(self, number: int):
        if number in self._images:
            return self._images[number]
        example = super().read(number)
        size = 3 * example[0].width * example[0].height if example else 0
        if self._bytes + size <= _MOST_BYTES:
            self._images[number], self._bytes = example, self._bytes + size
        return example
