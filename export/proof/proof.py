"""The proof of one converted file: judged as the network gives its answers, then brought into the form that the
application wants, and shown to say the same in that form. The same for every task."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from mobilenets_tf.answers.predictor import LiteRTNetwork, Predictor
from mobilenets_tf.answers.reading import Reading
from mobilenets_tf.data import images
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.export import metadata
from mobilenets_tf.export.forms import forms_of
from mobilenets_tf.export.proof import evidence, judging
from mobilenets_tf.export.proof.evidence import Evidence
from mobilenets_tf.export.proof.judging import AnyComparison, Tally
from mobilenets_tf.export.proof.subject import Subject
from mobilenets_tf.export.tflite import Conversion
from mobilenets_tf.progress import Progress, silent

_FORM_IMAGES = 4  # on which the form is shown to say what the network says


@dataclass(frozen=True)
class ImagesToUse:
    """The images of a request. calibration: None for a scheme without. judge: to compare files on, annotated or not.

    judged_on_calibration: whether they are the same.
    """

    calibration: ImageSet | None = None
    judge: ImageSet = field(default_factory=lambda: ImageSet(()))
    judged_on_calibration: bool = False


@dataclass(frozen=True)
class Produced:
    """What the process with TensorFlow hands back: the file's content and what is known of it.

    files: others that go into the folder, name -> content. failures: checks that failed beside the comparisons.
    """

    content: bytes
    manifest: dict
    parity: AnyComparison
    comparison: AnyComparison | None
    evidence: Evidence
    files: dict[str, str] = field(default_factory=dict)
    failures: tuple[str, ...] = ()


def prove(
    request,
    subject: Subject,
    converted: Conversion,
    images_to_use: ImagesToUse,
    file_name: str,
    progress: Progress = silent,
    others: dict[str, bytes] | None = None,
) -> tuple[Produced, dict[str, AnyComparison]]:
    """Judge a converted file, give it the form that was asked for, and gather everything there is to say of it.

    Args:
        request: with ``source``, ``output``, ``score_threshold``, ``seed`` and ``options()``.
        converted: as the network gives its outputs. file_name: what the file will be called.
        others: name -> content of other files of the network, to compare on the same images.

    Returns:
        What was made of the file; and how each of the other files compares with the float file.

    Raises:
        RequestError: outputs that are NaN or infinite.
    """
    image_set = images_to_use.judge
    # The float file is first shown to equal Keras; it then stands for Keras, ten times as fast.
    parity = judging.parity(subject, converted.float_content, image_set, request.seed)
    tallies: dict[str, Tally] = {}
    if converted.scheme != "float32" or image_set.annotated:
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
    """The part of ``prove`` behind the judging.

    Args:
        parity: of the float file with Keras. tally: of the file with its float file; None where nothing was compared.
        timed, shown: as in ``evidence.gather``.
    """
    image_set, task = images_to_use.judge, subject.task
    comparison = tally and tally.result()
    form = (request.output or task.forms[0]) if task.forms else None
    final = _in_form(converted, form, subject, request.score_threshold) if form else converted
    own_files = {"float32": converted.float_content, converted.scheme: converted.content}
    return Produced(
        content=final.content,
        manifest={
            **_manifest(request, subject, form, final),
            "parity": parity.as_dict(),
            "comparison": comparison and comparison.as_dict(),
            "judged_on_calibration_images": images_to_use.judged_on_calibration,
        },
        parity=parity,
        comparison=comparison,
        evidence=evidence.gather(subject, final, image_set, tally, own_files, request.seed, timed, shown),
        files=forms_of(task).companions(file_name, form, subject) if form else {},
        failures=_failures_of_form(request, subject, converted.content, final.content, form, image_set),
    )


def _in_form(converted: Conversion, form: str, subject: Subject, score_threshold: float | None) -> Conversion:
    """The file, and its float file, in a form; the file with metadata that describe its outputs in it."""
    forms = forms_of(subject.task)
    content, float_content = (
        forms.apply(each, form, subject, score_threshold) for each in (converted.content, converted.float_content)
    )
    described = metadata.describe(subject.model.name, subject.image, subject.class_names, subject.task.name)
    return replace(converted, content=metadata.add(content, described), float_content=float_content)


def _manifest(request, subject: Subject, form: str | None, final: Conversion) -> dict:
    """What was asked for, and what the file is."""
    facts, options = {}, request.options()
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
    """Whether the file in its final form answers what the network's own outputs say, on a few images."""
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
    """The images on which a file in its final form does not answer what its network's outputs say.

    score_threshold: objects with lower scores are not in the file's answer.
    """
    different = []
    for path in image_set.paths:
        photograph = images.decode(path)
        (outputs,) = own(subject.image.given.geometry(photograph)[None])
        (answer,) = predictor([photograph])
        expected = subject.answer(outputs, photograph.height, photograph.width)
        if not subject.task.agree(expected, answer, score_threshold):
            different.append(path.name)
    return different
