"""Compare files with the model that they were made from, on images. The code is the same for every task: a tally of
the task adds up the images, see ``comparison``."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from mobilenets_tf.data import images
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.proof.comparison import Comparison, OutputsTally, ScoreComparison, ScoreTally
from mobilenets_tf.export.proof.subject import Answering, Outputs, Subject
from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.tasks.fidelity import tallies_of
from mobilenets_tf.tasks.outputs import names_of
from mobilenets_tf.tflite.runtime import Runner, describe_tensor
from mobilenets_tf.tflite.threads import in_order

AnyComparison = Comparison | ScoreComparison
Tally = OutputsTally | ScoreTally
_TALLIES: dict[str, Callable[[Subject], Tally]] = {
    "classify": OutputsTally.of, "regress": OutputsTally.of, "detect": ScoreTally, "segment": ScoreTally
}  # fmt: skip
# Few images suffice: a float file that equals Keras on these images equals Keras, and Keras is ten times as slow as the
# file. The outputs of detectors and segmenters are many times larger than those of classifiers.
_PARITY: dict[str, tuple[int, int]] = {
    "classify": (16, 4), "regress": (16, 4), "detect": (8, 1), "segment": (8, 1)
}  # images, at a time  # fmt: skip


def parity(subject: Subject, float_content: bytes, image_set: ImageSet, seed: int) -> AnyComparison:
    """Compare a float file, which takes ``image.given``, with the model itself, on a few of the images.

    Raises:
        RequestError: the outputs differ in shape, or are NaN or infinite.
    """
    count, batch = _PARITY[subject.task.name]
    few = ImageSet(image_set.sample(count, seed).paths)  # without truths, since no scores are needed
    tallies = compared(subject, subject.in_model(), {"file": subject.in_tflite(float_content)}, few, batch=batch)
    return tallies["file"].result()


def compared(
    subject: Subject,
    reference: Answering,
    candidates: dict[str, Answering],
    image_set: ImageSet,
    progress: Progress = silent,
    batch: int = 1,
) -> dict[str, Tally]:
    """Compare each candidate with the reference on images; where the images are annotated, score both.

    Args:
        reference, candidates: functions that return the model's outputs for a batch of images. batch: its size.

    Returns:
        A tally for each candidate. Each image is read once.
    """
    tallies = {name: _TALLIES[subject.task.name](subject) for name in candidates}
    decoded = (_decoded(path, subject) for path in track(image_set.paths, "verifying", progress))
    for first, sizes, pixels in _batches(decoded, batch):
        truths = [_truth(image_set, first + i) for i in range(len(sizes))]
        expected = reference(pixels)
        for name, answering in candidates.items():
            for each in zip(expected, answering(pixels), sizes, truths, strict=True):
                tallies[name].add(*each)
    return tallies


def compared_files(
    subject: Subject, reference: bytes, candidates: dict[str, bytes], image_set: ImageSet, progress: Progress = silent
) -> dict[str, Tally]:
    """Compare TFLite files, given by their contents, as ``compared`` does."""
    tallies = {name: _TALLIES[subject.task.name](subject) for name in candidates}

    def answering() -> Callable[[Path], tuple[tuple[int, int], list[Outputs]]]:
        files = [subject.in_tflite(content, threads=1) for content in (reference, *candidates.values())]

        def answer(path: Path) -> tuple[tuple[int, int], list[Outputs]]:
            size, pixels = _decoded(path, subject)
            return size, [file(pixels[None])[0] for file in files]

        return answer

    answers = track(in_order(answering, image_set.paths), "verifying", progress, len(image_set))
    for index, (size, (expected, *found)) in enumerate(answers):
        for tally, outputs in zip(tallies.values(), found, strict=True):
            tally.add(expected, outputs, size, _truth(image_set, index))
    return tallies


def _truth(image_set: ImageSet, index: int) -> Any:
    return image_set.truth(index) if image_set.annotated else None


def _decoded(path: Path, subject: Subject) -> tuple[tuple[int, int], np.ndarray]:
    """Return height and width of a photograph, and its pixels as the model's input has them, uint8
    (height, width, channels)."""
    photograph = images.decode(path, alpha=subject.image.given.alpha)
    return (photograph.height, photograph.width), subject.image.given.geometry(photograph)


def _batches(decoded, size: int) -> Iterator[tuple[int, list[tuple[int, int]], np.ndarray]]:
    """Yield the number of the first image, the sizes and the pixels of each batch."""
    first, sizes, pixels = 0, [], []
    for each_size, each_pixels in decoded:
        sizes.append(each_size)
        pixels.append(each_pixels)
        if len(sizes) == size:
            yield first, sizes, np.stack(pixels)
            first, sizes, pixels = first + size, [], []
    if sizes:
        yield first, sizes, np.stack(pixels)


class Judge:
    """Measures how much of the task's score files lose against a float file on the same images, or how far an output
    that the score does not tell of disagrees with the float file's, whichever is more. The files take ``image.given``
    as real values and give the network's own outputs: no form was applied to them.

    Args:
        reference: the float file's content.
        image_set: decoded once and kept in memory. With annotations the loss is a loss of score, without annotations a
            loss of agreement with the float file's answers.

    Raises:
        RequestError: nothing can be measured on the images.
    """

    def __init__(self, subject: Subject, reference: bytes, image_set: ImageSet, progress: Progress = silent):
        self._subject, self._images = subject, image_set
        decoded = in_order(lambda: lambda path: _decoded(path, subject), image_set.paths)
        self._decoded = list(track(decoded, "reading images", progress, len(image_set)))
        self._places = subject.task.unscored(subject.ends, subject.kinds)
        answers, self._unscored = [], []
        for outputs, answer in self._run(reference):
            answers.append(answer)
            self._unscored.append([outputs[place] for place in self._places])
        if image_set.annotated:
            self._truths = image_set.truth
            self._reference = self._measured(answers)
        else:
            truths = [subject.task.as_truth(answer) for answer in answers]
            self._truths, self._reference = truths.__getitem__, None
        if np.isnan(self._measured(answers).lost()):
            what = "the annotations hold no object" if image_set.annotated else "the float model is sure of no object"
            raise RequestError(
                f"On the {len(image_set)} images to judge with {what}, so nothing can be lost there: a loss cannot be "
                "bounded or measured. Give other images with --evaluate (evaluate=)."
            )

    def __call__(self, content: bytes) -> float:
        """Return the loss of a file; of the score negative if the file scores higher than the float file."""
        meter = self._subject.meter()
        ends, kinds = ([each[place] for place in self._places] for each in (self._subject.ends, self._subject.kinds))
        tallies = tallies_of(ends, kinds)
        for index, (outputs, answer) in enumerate(self._run(content)):
            meter.add(answer, self._truths(index))
            for place, tally, expected in zip(self._places, tallies, self._unscored[index], strict=True):
                tally.add(expected[None], outputs[place][None])
        return max([meter.lost(self._reference), *(1 - tally.agreement for tally in tallies)])

    def _measured(self, answers):
        meter = self._subject.meter()
        for index, answer in enumerate(answers):
            meter.add(answer, self._truths(index))
        return meter

    def _run(self, content: bytes) -> Iterator[tuple[Outputs, Any]]:
        """Yield a file's outputs for each image, and the answer that they give."""
        runner, given = Runner(content), self._subject.image.given
        for size, pixels in self._decoded:
            outputs = [output[0] for output in runner(given.normalise(pixels))]
            yield outputs, self._subject.answer(outputs, *size)


def file_facts(content: bytes, subject: Subject) -> dict:
    """Return the manifest's facts about a file: how it takes its image, its inputs, and its outputs with their kinds;
    outputs that a form has made have none."""
    runner = Runner(content)
    own = [len(end.shape) + 1 for end in subject.ends] == [len(details["shape"]) for details in runner.outputs]
    kinds = names_of(subject.kinds) if own else []
    return {
        "preprocessing": asdict(subject.image.given),
        "model_preprocessing": asdict(subject.image.wanted),
        "inputs": [describe_tensor(details) for details in runner.inputs],
        "outputs": [
            describe_tensor(details) | ({"kind": kind} if kind else {})
            for details, kind in zip_longest(runner.outputs, kinds)
        ],
    }
