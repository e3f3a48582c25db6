"""The part of the straight lines that is a detector's or a segmenter's own: judged as the network gives its answers,
then brought into the form that the application wants, and shown to say the same in it.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np

from mobilenets_tf.answers.predictor import LiteRTNetwork, Predictor, Reading
from mobilenets_tf.data import images
from mobilenets_tf.data.boxes import Detections
from mobilenets_tf.data.images import ImageSet
from mobilenets_tf.export import metadata
from mobilenets_tf.export.checks import OUTPUTS
from mobilenets_tf.export.delegates import backends
from mobilenets_tf.export.deployment import DeployRequest, Images, Produced
from mobilenets_tf.export.forms import detector as detector_forms
from mobilenets_tf.export.forms import segmenter as segmenter_forms
from mobilenets_tf.export.page.report import Evidence
from mobilenets_tf.export.proof import dense_judging, judging
from mobilenets_tf.export.tflite import Conversion, check_request, convert_model
from mobilenets_tf.networks import ssd
from mobilenets_tf.networks.anchors import ssd_anchors
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.quantize import schemes
from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.tasks import pictures
from mobilenets_tf.tasks.postprocess import Postprocess
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.worker import Worker

_PARITY_IMAGES = 8
_FORM_IMAGES = 4  # on which the form is shown to say what the network says
_SAME_PIXELS = 0.97
_PICTURES, _WIDEST = 3, 1100  # on the page, and their longer side in pixels
_SHOWN_FROM = 0.5  # detections of a lower score are not drawn


@dataclass(frozen=True)
class Network:
    """A detector or segmenter, and what goes in and comes out.

    names: of its classes. void: of masks, the value of pixels of no class. grids, postprocess: of a detector.
    """

    model: object
    image: ImageInput
    names: list[str]
    void: int
    grids: tuple[tuple[int, int], ...] = ()
    postprocess: Postprocess | None = None

    @property
    def answers(self) -> dense_judging.Answers:
        """What makes answers of outputs."""
        return dense_judging.Answers(self.names, self.void, self.postprocess)

    def formed(self, content: bytes, form: str, score_threshold: float | None = None) -> bytes:
        """A file of it that gives its answers in a form of ``OUTPUTS``."""
        if self.postprocess:
            postprocess = self.postprocess
            if score_threshold is not None:
                postprocess = replace(postprocess, score_threshold=score_threshold)
            return detector_forms.with_form(content, form, postprocess)
        return segmenter_forms.with_form(content, form, self.image.given.size)


def network(request, model, image: ImageInput) -> Network:
    """What is known of the model that a ``DeployRequest`` or ``FineTuneRequest`` is about."""
    source, grids, postprocess, classes = request.source, (), None, model.outputs[0].shape[-1]
    if source.task == "detect":
        grids, classes = ssd.grids(model), model.outputs[1].shape[-1] - 1
        postprocess = Postprocess(ssd_anchors(grids), classes)
    names = source.label_names(classes) or [f"class {index}" for index in range(classes)]
    return Network(model, image, names, source.void if request.void is None else request.void, grids, postprocess)


def produce(request: DeployRequest, chosen: Images, progress: Progress = silent) -> Produced:
    """As ``deployment`` does for a classifier. Runs in the worker; writes nothing."""
    source, scheme = request.source, schemes.get(request.scheme)
    progress("building", 0, 1)
    model = source.build()
    image = ImageInput(source.preprocessing(model), request.input)
    progress("building", 1, 1)
    calibration = Calibration.from_images(chosen.calibration, image.given) if scheme.calibrated else None
    check_request(model, scheme, calibration)
    with Worker() as worker:
        converted = convert_model(model, scheme, calibration, worker, progress, image=image)
    name = f"{source.name}_{scheme.name}.tflite"
    return proven(request, network(request, model, image), converted, chosen, name, progress)


def proven(
    request, network: Network, converted: Conversion, chosen: Images, name: str, progress: Progress = silent
) -> Produced:
    """A network's file, judged and in the form that was asked for, with all that there is to say of it.

    request: a ``DeployRequest`` or ``FineTuneRequest``. converted: as the network gives its outputs, without metadata.
    name: what the file will be called.
    """
    source, image, answers = request.source, network.image, network.answers
    form = request.output or OUTPUTS[source.task][0]
    float_file, file = (dense_judging.of_file(c, image) for c in (converted.float_content, converted.content))
    few = chosen.judge.sample(_PARITY_IMAGES, request.seed)
    parity = dense_judging.compare(dense_judging.of_keras(network.model, image), float_file, few, image, answers)
    comparison = None
    if converted.scheme != "float32" or hasattr(chosen.judge, "read"):
        comparison = dense_judging.compare(float_file, file, chosen.judge, image, answers, progress)
    described = metadata.describe(network.model.name, image, network.names, source.task)
    least = request.score_threshold
    content = metadata.add(network.formed(converted.content, form, least), described)
    final = replace(converted, content=content, float_content=network.formed(converted.float_content, form, least))
    options = {key: value for key, value in asdict(request).items() if key not in ("source", "out", "overwrite")}
    options |= {"output": form, "void": network.void}
    manifest = {
        "task": source.task,
        "form": form,
        "anchors": {"grids": network.grids} if network.grids else None,
        "labels": network.names,
        **judging.facts(source, options, image, final),
        "parity": parity.as_dict(),
        "comparison": comparison and comparison.as_dict(),
        "per_channel": None,
        "judged_on_calibration_images": chosen.judged_on_calibration,
    }
    reading = Reading(source.task, image.given, tuple(network.names), form, network.grids)
    told = Predictor(LiteRTNetwork(content, "the file"), reading)
    wrong = _differing(answers, file, told, few.sample(_FORM_IMAGES, request.seed), image, least or 0)
    failed = (f"In the form {form!r} the file's answer is another one on {', '.join(wrong)}.",) if wrong else ()
    others = {}
    if network.postprocess and form == "raw":
        others[f"{name}.{detector_forms.ANCHORS_FILE}"] = detector_forms.anchors_file(network.postprocess.anchors)
    evidence = Evidence(
        layers=judging.fidelity(converted),
        plan=Runner(content).execution_plan(),
        delegates=backends.verdicts(flatbuffer.read(content)),
        latency=judging.latencies(final),
        pictures=_pictures(request, network, chosen, float_file, file),
    )
    return Produced(content, manifest, parity, comparison, evidence, others, failed)


def _differing(
    answers: dense_judging.Answers, file: Callable, told: Predictor, few: ImageSet, image: ImageInput, least: float
) -> list[str]:
    """The images on which a file in its final form does not answer what its network's outputs say.

    least: what was found with lower scores is not in the file's answer.
    """
    wrong = []
    for path in few.paths:
        photograph = images.decode(path)
        expected = answers.of(file(image.given.geometry(photograph)), photograph.height, photograph.width)
        if isinstance(expected, Detections):
            expected = expected.above(np.nextafter(np.float32(least), np.float32(0)))
        (found,) = told([photograph])
        if not _same(expected, found):
            wrong.append(path.name)
    return wrong


def _same(expected, found) -> bool:
    if isinstance(expected, Detections):
        # Several threads bring equal scores in any order, and of those that share the last place any may be left out.
        last = max(min(each.scores, default=0.0) for each in (expected, found))
        one, other = (_sorted_rows(each.above(last)) for each in (expected, found))
        return one.shape == other.shape and np.allclose(one, other, atol=1e-4)
    # A mask is first made at the network's size, which moves the borders by a pixel or so.
    return (expected == found).mean() > _SAME_PIXELS


def _sorted_rows(found: Detections) -> np.ndarray:
    rows = np.c_[found.boxes, found.classes, found.scores]
    return rows[np.lexsort(rows.round(3).T)]


def _pictures(
    request, network: Network, chosen: Images, float_file: Callable, file: Callable
) -> list[tuple[str, bytes]]:
    """Photographs with the float file's answer beside this file's: (name, JPEG)."""
    files = {"float32": float_file} | ({} if request.scheme == "float32" else {request.scheme: file})
    drawn = []
    for path in chosen.judge.sample(_PICTURES, request.seed).paths:
        photograph = images.decode(path)
        pixels = network.image.given.geometry(photograph)
        sides = []
        for name, answer in files.items():
            found = network.answers.of(answer(pixels), photograph.height, photograph.width)
            draw = pictures.with_boxes if request.source.task == "detect" else pictures.with_mask
            found = found.above(_SHOWN_FROM) if isinstance(found, Detections) else found
            sides.append((name, draw(photograph, found, network.names)))
        sheet = pictures.side_by_side(sides)
        sheet.thumbnail((_WIDEST, _WIDEST))
        drawn.append((path.name, pictures.encoded(sheet, ".jpg")))
    return drawn
