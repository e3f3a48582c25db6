"""The requests of the verbs that make files of a model: plain data that says what to make."""

from dataclasses import dataclass, fields

from mobilenets_tf.modelsource import AnyModel, ModelSource

# Fields of requests that do not decide the content of a result: where the model comes from is in the manifest's
# "model", and where the result goes does not matter.
_NOT_OPTIONS = ("source", "out", "overwrite")


@dataclass(frozen=True)
class Request:
    """The base of all requests that make files of a model.

    source: the model: a registry name, a path, a ``keras.Model`` or a ``ModelSource``.
    """

    source: AnyModel

    def __post_init__(self):
        object.__setattr__(self, "source", ModelSource.of(self.source))

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
    evaluate: annotated images to judge with, as in ``EvaluateRequest.images``; those used for calibration are left out.
        None judges on the calibration images, without scores.
    min_agreement: the agreement with the float model from which the result passes: of a classifier the share of images
        with the same answer, of a detector or segmenter the score with the float model's answers as the truth.
    max_drop: what the file may lose on the images it is judged with: of the task's score if they are annotated, else of
        the agreement. As few layers as that takes are left in float.
    per_tensor: one scale for all of a layer's weights instead of a scale for each output channel; what that costs is
        measured.
    input: the form in which the file takes its image, one of ``image_input.FORMS``.
    output: of a detector or segmenter, the form in which the file gives its answers, one of ``task.Task.forms``; None
        for the first of them. score_threshold: of "nms", the score from which objects are given; None for
        ``postprocess.Postprocess``'s, low enough to measure average precision with.
    void: of masks to judge with, the value of pixels of no class; None for that of the training.
    """

    out: str
    scheme: str = "int8"
    calibration: str | None = None
    calibration_count: int | None = None
    evaluate: str | None = None
    seed: int = 0
    min_agreement: float = 0.5
    max_drop: float | None = None
    per_tensor: bool = False
    input: str = "normalised"
    output: str | None = None
    score_threshold: float | None = None
    void: int | None = None
    overwrite: bool = False
