"""Prove one converted file: judge it with the network's own outputs, give it the form that the application wants, and
check that its answers in that form are the same. The code is the same for every task."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from mobilenets_tf.answers.predictor import LiteRTNetwork, Predictor
from mobilenets_tf.answers.reading import Reading
from mobilenets_tf.data import images
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.export import metadata
from mobilenets_tf.export.forms import forms_of
from mobilenets_tf.export.proof import badge, evidence, judging
from mobilenets_tf.export.proof.badge import Badge
from mobilenets_tf.export.proof.evidence import Evidence
from mobilenets_tf.export.proof.judging import AnyComparison, Tally
from mobilenets_tf.export.proof.subject import Subject
from mobilenets_tf.export.tflite import Conversion
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.tflite.runtime import refused_without_delegates

_FORM_IMAGES = 4  # to check the answers of the form on


@dataclass(frozen=True)
class ImagesToUse:
    """The images of a request.

    calibration: None for a scheme without calibration. judge: to compare files on, annotated or not.
    judged_on_calibration: ``judge`` holds the calibration images. set_aside: how many annotated images ``judge`` lacks,
    since they are used for calibration.
    """

    calibration: ImageSet | None = None
    judge: ImageSet = field(default_factory=lambda: ImageSet(()))
    judged_on_calibration: bool = False
    set_aside: int = 0


@dataclass(frozen=True)
class Produced:
    """The result of the process with TensorFlow: the file's content, and all facts about the file.

    badge: the verdict. files: further files for the folder, name -> content. target_lines: the proof on a target, as
    lines of text.
    """

    content: bytes
    manifest: dict
    parity: AnyComparison
    comparison: AnyComparison | None
    evidence: Evidence
    badge: Badge
    files: dict[str, str] = field(default_factory=dict)
    target_lines: tuple[str, ...] = ()


def prove(
    request,
    subject: Subject,
    converted: Conversion,
    images_to_use: ImagesToUse,
    file_name: str,
    progress: Progress = silent,
    others: dict[str, bytes] | None = None,
) -> tuple[Produced, dict[str, AnyComparison]]:
    """Judge a converted file, give it the form that was asked for, and gather its manifest and evidence.

    Args:
        request: with ``source``, ``output``, ``score_threshold``, ``seed``, ``limits`` and ``options()``.
        converted: the file with the network's own outputs. file_name: the name of the file to be written.
        others: name -> content of other files of the network, to compare on the same images.

    Returns:
        The proven file; and how each of the other files compares with the float file.

    Raises:
        RequestError: outputs are NaN or infinite.
    """
    image_set = images_to_use.judge
    # The float file is first shown to equal the model; it then stands for the model, ten times as fast as Keras.
    parity = judging.parity(subject, converted.float_content, image_set, request.seed)
    tallies: dict[str, Tally] = {}
    if converted.scheme != "float32" or converted.split or image_set.annotated:
        candidates = {"": converted.content} | (others or {})
        tallies = judging.compared_files(subject, converted.float_content, candidates, image_set, progress)
    produced = conclude(request, subject, converted, images_to_use, file_name, parity, tallies.pop("", None))
    return produced, {name: tally.result() for name, tally in tallies.items()}


def conclude(
    request,
    subject: Subject,
    converted: Conversion,
    images_to_use: ImagesToUse,
    file_name: str,
    parity: AnyComparison,
    tally: Tally | None,
    timed: bool = True,
    shown: int = 24,
) -> Produced:
    """Finish what ``prove`` does after judging: apply the form, and gather manifest and evidence.

    Args:
        parity: of the float file with the model. tally: of the file with its float file; None where nothing was
            compared.
        timed, shown: as in ``evidence.gather``.
    """
    image_set, task = images_to_use.judge, subject.task
    comparison = tally and tally.result()
    form = (request.output or task.forms[0]) if task.forms else None
    final = _in_form(converted, form, subject, request.score_threshold) if form else converted
    own_files = {"float32": converted.float_content, converted.scheme: converted.content}
    failures = (
        *_failures_of_form(request, subject, converted.content, final.content, form, image_set),
        *badge.refused(refused_without_delegates(final.content)),
    )
    return Produced(
        content=final.content,
        manifest={
            **_manifest(request, subject, form, final),
            "parity": parity.as_dict(),
            "comparison": comparison and comparison.as_dict(),
            "judged_on_calibration_images": images_to_use.judged_on_calibration,
            "images_set_aside": images_to_use.set_aside,
        },
        parity=parity,
        comparison=comparison,
        evidence=evidence.gather(subject, final, image_set, tally, own_files, request.seed, timed, shown),
        badge=badge.decide(
            request.source, converted.scheme, comparison, parity=parity, limits=request.limits,
            on_calibration=images_to_use.judged_on_calibration, failures=failures,
        ),
        files=forms_of(task).companions(file_name, form, subject) if form else {},
    )  # fmt: skip


def _in_form(converted: Conversion, form: str, subject: Subject, score_threshold: float | None) -> Conversion:
    """Give a form to the file and to its float file, and add metadata to the file that describe its new outputs."""
    forms = forms_of(subject.task)
    content, float_content = (
        forms.apply(each, form, subject, score_threshold) for each in (converted.content, converted.float_content)
    )
    described = metadata.describe(
        subject.model.name, subject.image, subject.class_names, subject.task.name, origin=subject.model.origin
    )
    return replace(converted, content=metadata.add(content, described), float_content=float_content)


def _manifest(request, subject: Subject, form: str | None, final: Conversion) -> dict:
    """Return the manifest: the facts about the file and the options that were asked for."""
    facts, options = {"task": subject.task.name}, request.options()
    if form:
        facts = {
            "task": subject.task.name,
            "form": form,
            "anchors": {"grids": subject.grids} if subject.grids else None,
            "labels": subject.class_names,
        }
        options |= {"output": form, "void": subject.void}
    file_facts = judging.file_facts(final.content, subject)
    return {**facts, "model": request.source.facts(), "options": options, **final.facts(), **file_facts}


def _failures_of_form(
    request, subject: Subject, own: bytes, final: bytes, form: str | None, image_set: ImageSet
) -> tuple[str, ...]:
    """Check on a few images that the file in its final form gives the answers of the network's own outputs."""
    if form is None:
        return ()
    reading = Reading(subject.task.name, subject.image.given, tuple(subject.class_names), form, subject.grids)
    predictor = Predictor(LiteRTNetwork(final, "the file"), reading)
    few = image_set.sample(_FORM_IMAGES, request.seed)
    different = _differing(subject, subject.in_tflite(own), predictor, few, request.score_threshold or 0)
    if not different:
        return ()
    return (f"In the form {form!r} the file's answer is another one on {', '.join(different)}.",)


def _differing(
    subject: Subject, own: Callable, predictor: Predictor, image_set: ImageSet, score_threshold: float
) -> list[str]:
    """List the images to which a file in its final form gives another answer than its network's own outputs.

    score_threshold: the file's answer has no objects with lower scores.
    """
    different = []
    for path in image_set.paths:
        photograph = images.decode(path, alpha=subject.image.given.alpha)
        (outputs,) = own(subject.image.given.geometry(photograph)[None])
        (answer,) = predictor([photograph])
        expected = subject.answer(outputs, photograph.height, photograph.width)
        if not subject.task.agree(expected, answer, score_threshold):
            different.append(path.name)
    return different
