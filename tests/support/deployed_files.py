"""Files of small networks with every task, form, scheme and preprocessing, and what ``deploy`` would say of them."""

import functools

from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.export.forms import detector as detector_forms
from mobilenets_tf.export.forms import segmenter as segmenter_forms
from mobilenets_tf.networks.heads.anchors import ssd_anchors
from mobilenets_tf.quantize import Calibration
from mobilenets_tf.quantize.post_training import prepare
from mobilenets_tf.tasks.postprocess import Postprocess
from mobilenets_tf.tflite.image_input import ImageInput
from mobilenets_tf.tflite.runtime import Runner, describe_tensor
from tests.conftest import photographs
from tests.support import colour_files

BADGE = {"colour": "green", "headline": "Verified on 9 images.", "remarks": ["They are few."]}
# Name -> task, form of the outputs, scheme, form of the input, preprocessing beside the size.
CROP = {"resize": 9, "crop": "crop_then_resize"}
TORCH = {"resize": 10, "crop": "resize_then_crop"}
CASES = {
    "classify_keras": ("classify", None, "float32", "normalised", {}),
    "classify_crop": ("classify", None, "int8", "uint8", CROP | {"interpolation": "bicubic"}),
    "classify_torch": ("classify", None, "int8", "normalised", TORCH | {"interpolation": "bilinear"}),
    "classify_lanczos": ("classify", None, "int8", "normalised", {"interpolation": "lanczos"}),
    "classify_nearest": ("classify", None, "float32", "normalised", TORCH | {"interpolation": "nearest"}),
    "grey_oblong": ("classify", None, "int8", "normalised", CROP | {"size": (8, 13), "interpolation": "bilinear"}),
    "alpha_oblong": ("classify", None, "float32", "normalised", TORCH | {"size": (13, 8)}),
    "several_labels": ("classify", None, "int8", "uint8", {}),
    "detect_nms": ("detect", "nms", "float32", "normalised", {}),
    "detect_decoded": ("detect", "decoded", "int8", "uint8", {}),
    "detect_raw": ("detect", "raw", "int8", "normalised", {}),
    "segment_full": ("segment", "full", "int8", "uint8", {}),
    "segment_mask": ("segment", "mask", "int8", "uint8", {}),
}  # fmt: skip
VALUES = ("grey_oblong", "alpha_oblong", "several_labels")  # their outputs are shown as they are
POST = Postprocess(ssd_anchors(colour_files.GRIDS), 3, score_threshold=0.01)


@functools.cache
def deployed(name: str) -> tuple[bytes, dict]:
    """A small network's file, and so much of a manifest as ``deploy`` would write of it."""
    task, form, scheme, given, geometry = CASES[name]
    channels = {"grey": 1, "alpha": 4}.get(name.partition("_")[0], 3)
    image = ImageInput(
        Preprocessing(**{"size": 8, "mean": (0,) * channels, "std": (255,) * channels} | geometry), given
    )
    shape = (image.given.height, image.given.width, channels)
    if task == "classify":
        content = colour_files.classifier(shape)
    else:
        content = colour_files.detector() if task == "detect" else colour_files.segmenter()
    if scheme == "int8":
        pixels = (photographs(100, 16)[:, : shape[0], : shape[1], :channels] + 1) / 2
        content = prepare(content, scheme, Calibration(pixels, (0, 1))).write()
    content = image.finish(content)
    if task == "detect":
        content = detector_forms.with_form(content, form, POST)
    elif task == "segment":
        content = segmenter_forms.with_form(content, form, 16 if form == "full" else 8)
    runner = Runner(content)
    manifest = {
        "task": task, "form": form, "labels": colour_files.LABELS, "scheme": scheme, "passed": True, "badge": BADGE,
        "inputs": list(map(describe_tensor, runner.inputs)), "outputs": list(map(describe_tensor, runner.outputs)),
        "preprocessing": vars(image.given), "anchors": {"grids": colour_files.GRIDS},
    }  # fmt: skip
    if task == "classify":
        manifest["outputs"][0]["kind"] = "multi_label" if name in VALUES else "classes"
    return content, manifest
