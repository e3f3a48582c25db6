"""The requests of the verbs that make files of a model: plain data that says what to make."""

from dataclasses import dataclass, fields

from mobilenets_tf.errors import RequestError
from mobilenets_tf.modelsource import AnyModel, ModelSource
from mobilenets_tf.public_api.types import check_fields

# Fields of requests that do not decide the content of a result: where the model comes from is in the manifest's
# "model", and where the result goes does not matter.
_NOT_OPTIONS = ("source", "out", "overwrite", "android_app", "web_page", "npu")
# The share of the float model's answers, and of its score, that a file has to keep.
MIN_AGREEMENT = 0.8


@dataclass(frozen=True)
class Limits:
    """What a request asks of a file.

    min_agreement: the share of the float model's answers that the file has to give; None: any, as for a model whose
        weights were trained further. max_drop: the greatest loss of score, or without annotations of answers; None: as
        much as ``min_agreement`` allows.
    """

    min_agreement: float | None = MIN_AGREEMENT
    max_drop: float | None = None

    def check(self) -> None:
        """Refuse a minimum that is no share.

        Raises:
            RequestError: ``min_agreement`` is not from 0 to 1.
        """
        share = self.min_agreement
        if share is None or 0 <= share <= 1:
            return
        hint = f"; for {share:g} % pass {share / 100:g}" if 1 < share <= 100 else ""
        raise RequestError(f"min_agreement={share:g}: expected a share from 0 to 1{hint}.")


@dataclass(frozen=True)
class Request:
    """The base of all requests that make files of a model.

    source: the model: a registry name, a path, a ``keras.Model`` or a ``ModelSource``.
    """

    source: AnyModel

    def __post_init__(self):
        object.__setattr__(self, "source", ModelSource.of(self.source))
        check_fields(self)

    def described(self) -> dict:
        """Return what was asked for, as the manifest has it: the model, and the options."""
        return {"model": self.source.described(), "options": self.options()}

    def options(self) -> dict:
        """Return the options for the manifest: all fields except the model and the place to write to."""
        return {key: value for key, value in _plain(self).items() if key not in _NOT_OPTIONS}


def _plain(request) -> dict:
    """Return the fields as plain data. A model's content is left out, since it may be large."""
    values = {f.name: getattr(request, f.name) for f in fields(request) if f.name not in _NOT_OPTIONS}
    return {key: value.plain() if isinstance(value, ModelSource) else value for key, value in values.items()}


@dataclass(frozen=True)
class DeployRequest(Request):
    """Everything that decides the result; plain data.

    source: the model: a registry name, a path, a ``keras.Model`` or a ``ModelSource``. scheme: a name of
        ``quantize.SCHEMES``. out: the folder to write.
    calibration: a folder or CSV of images, or "demo" for the photographs that scikit-image ships; calibration_count of
        them are used, chosen with ``seed`` (None: all).
    trust_calibration: the calibration images are meant to be as they are, see ``Calibration.trusted``.
    evaluate: annotated images to judge with, as in ``EvaluateRequest.data``; those used for calibration are left out.
        None judges on the calibration images, without scores.
    min_agreement: the agreement with the float model from which the result passes: of a classifier the share of images
        with the same answer, of a detector or segmenter the score with the float model's answers as the truth; and the
        share of the float model's score that the file has to keep, where the images are annotated.
    max_drop: what the file may lose on the images it is judged with: of the task's score if they are annotated, else of
        the agreement. As few layers as that takes are left in float.
    per_tensor: one scale for all of a layer's weights instead of a scale for each output channel; what that costs is
        measured.
    input: the form in which the file takes its image, one of ``image_input.FORMS``.
    output: of a detector or segmenter, the form in which the file gives its answers, one of ``task.Task.forms``; None
        for the first of them. score_threshold: of "nms", the score from which objects are given; None for
        ``postprocess.Postprocess``'s, low enough to measure average precision with.
    target: None: a phone or a computer. "micro": TensorFlow Lite Micro, which then has to give the answers of LiteRT's
        reference kernels; C++ sources are written beside the file (needs the extra ``micro``).
    split: write the bottlenecks that set the peak of the activations' memory in so many parts (``to_tflite``).
    void: of masks to judge with, the value of pixels of no class; None for that of the training.
    android_app: a folder for an Android project that runs the file; None: no project.
    web_page: a folder for a web page that runs the file; None: no page. LiteRT.js is downloaded through npm the first
        time.
    npu: chips whose NPUs the file is compiled for, such as "SM8750" (``npu.chips``), into the folder ``<file>.npu``.
    """

    out: str
    scheme: str = "int8"
    calibration: str | None = None
    calibration_count: int | None = None
    trust_calibration: bool = False
    evaluate: str | None = None
    seed: int = 0
    min_agreement: float = MIN_AGREEMENT
    max_drop: float | None = None
    per_tensor: bool = False
    input: str = "normalised"
    output: str | None = None
    score_threshold: float | None = None
    target: str | None = None
    split: int | None = None
    void: int | None = None
    android_app: str | None = None
    web_page: str | None = None
    npu: tuple[str, ...] = ()
    overwrite: bool = False

    @property
    def limits(self) -> Limits:
        """What is asked of the file."""
        return Limits(self.min_agreement, self.max_drop)
