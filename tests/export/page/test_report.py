"""The report as text: what it says, that it is settled, and that nothing from outside becomes markup."""

import copy
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from mobilenets_tf.export.delegates import gpu
from mobilenets_tf.export.delegates.half_precision import REMEDY, HalfCheck, HalfValue
from mobilenets_tf.export.delegates.rules import Fallback, RuleSource, Verdict
from mobilenets_tf.export.page.charts import Point, front
from mobilenets_tf.export.page.report import Evidence, SchemeReport, SchemeRow, render, render_schemes
from mobilenets_tf.export.proof.badge import Badge, together
from mobilenets_tf.export.proof.evidence import AnswerChange, ChangedAnswer, ChangedAnswers, LayerFidelity

HOSTILE = "<script>alert('x')</script>"
COMPARISON = {
    "images": 372, "largest_difference": 0.39, "relative_difference": 0.39, "snr_db": 21.9, "top1_agreement": 0.989,
    "top5_agreement": 1.0, "ties": 0.013, "reference_top1": 0.879, "reference_top5": 0.968, "top1": 0.876, "top5": 0.97,
    "constant": [], "interval": [-0.011, 0.005],
}  # fmt: skip
MANIFEST = {
    "passed": True,
    "failures": [],
    "badge": {
        "colour": "green", "headline": "Verified on 372 images: top-1 -0.3 points.", "remarks": ["The images are few."],
    },
    "model": {"model": "efficientnet_lite0", "weights": "imagenet", "weights_sha256": "57"},
    "options": {"scheme": "int8", "calibration": "photos/", "max_drop": None, "per_tensor": False},
    "preprocessing": {
        "size": 224, "resize": 256, "interpolation": "bicubic", "mean": [127.0] * 3, "std": [128.0] * 3,
        "crop": "crop_then_resize",
    },
    "scheme": "int8",
    "bytes": 5333456,
    "sha256": "2f85",
    "float32_bytes": 18571376,
    "operators": {"CONV_2D": 33, "SOFTMAX": 2},
    "float_operators": {"SOFTMAX": 1},
    "calibration": {"samples": 128, "low": -0.99, "high": 1.0, "mean": -0.13, "warnings": ["Only 7 samples."]},
    "recipe": {"equalize": True, "ranges": "least_output_error"},
    "mixed_precision": None,
    "versions": {"mobilenets-tf": "0.2.0"},
    "inputs": [{"name": "image", "shape": [1, 224, 224, 3], "dtype": "int8", "scale": 0.0078125, "zero_point": -1}],
    "outputs": [{"name": "scores", "shape": [1, 1000], "dtype": "float32", "scale": 0.0, "zero_point": 0}],
    "parity": COMPARISON | {"images": 16, "relative_difference": 2e-6},
    "comparison": COMPARISON,
    "per_channel": None,
    "judged_on_calibration_images": False,
    "images_set_aside": 0,
}  # fmt: skip


INT8 = SchemeRow("int8", 5333456, 0.989, 0.876, 2.3, interval=(-0.011, 0.005), faster_than=("float32",))
FAILED = Badge("red", "A check failed: do not use this file.", failures=("It is bad.",))
PASSED = Badge("green", "Of 1 files: 1 verified.")


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (128, 128), "green").save(stream, "JPEG")
    return stream.getvalue()


def evidence(name="tabby", layer="block1_conv") -> Evidence:
    """A little of everything, with names from outside."""
    image = ChangedAnswer(picture(), f"{name}.jpg", name, name, 0.53, "lynx", 0.49, True, False)
    changed = ChangedAnswers((image,), 4, 372, 3, 1, (AnswerChange(name, "lynx", 3), AnswerChange("a", "b", 1)), True)
    rows = (
        LayerFidelity(3, layer, 12.3, 0.25),
        LayerFidelity(1, "block2_conv", 25.0, 0.0),
        LayerFidelity(0, "pad", float("inf"), 0.0),
    )
    schemes = (SchemeRow("float32", 18571376, 1.0, 0.879, 5.2), INT8)
    latency = {"float32": (5.2, 5.9), "int8": (2.3, 2.6)}
    source = RuleSource("file.cc", "Function")
    left = tuple(Fallback(0, place, "SOFTMAX", "scores", f"its beta is {name}", source) for place in (3, 5))
    verdict = Verdict("xnnpack", "XNNPACK (CPU)", "the default", 33, 35, (2,), left, 0.125)
    half = HalfCheck(HalfValue(7, "MUL", layer, 1, 1234.5), (), 8)
    plan = {"DELEGATE": 1, "SOFTMAX": 1}
    return Evidence(changed, rows, plan, (verdict,), latency, schemes, half_precision=half)


class Text(HTMLParser):
    """The page's words in one line, and its elements."""

    def __init__(self, page: str):
        super().__init__()
        self.words, self.elements, self._hidden = [], [], None
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._hidden = tag if tag == "style" else None

    def handle_data(self, data):
        if not self._hidden:
            self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_page_says_what_the_manifest_says():
    text = Text(render("file.tflite", MANIFEST, evidence())).text
    for said in (
        "Verified on 372 images: top-1 -0.3 points. The images are few. int8 gives the float model's answer on 98.9%",
        "float32: 87.9%; -0.3 points, 95 % interval -1.1 to +0.5",
        "The file has 5.33 MB instead of 18.57 MB", "float32: 87.9%", "21.9 dB",
        "Only 7 samples.", "0.0078125 x (q + 1)", "the value itself",
        "crop a square of 0.875 times the shorter side",
        "ranges least_output_error", "per_tensor no", "In float: 1 SOFTMAX", "runs it in 1 partition.",
        "LiteRT's own kernels run the other ops: 1 SOFTMAX.", "This is not a phone's latency",
        "int8 2.30 ms 2.60 ms 0.44",
        "tabby 53.0%, right", "On 3 of them only float32 is right, on 1 only int8 is right.",
        "tabby lynx 3", "XNNPACK (CPU) 33 of 35 2 12.5% the default", "XNNPACK (CPU) SOFTMAX 2 its beta is tabby",
        "the largest error is block1_conv : its error is 24.3% of its values' size (12.3 dB).",
        "The error of the model's outputs is 8.0% (21.9 dB). A part of that error does not reach the outputs",
        "block1_conv 4 12.3 dB 25%", "pad 1 exact 0%", '"weights_sha256": "57"', "SHA-256 file.tflite 2f85",
        gpu.ON_INTEGERS,
        "the largest value of this file is 1,234, in block1_conv (MUL). No value passes half precision.",
    ):  # fmt: skip
        assert said in text, said
    assert "max_drop None" not in text


def test_values_that_pass_half_precision_are_named():
    large = HalfValue(3, "SUM", "pool", 3136, 1.5e5)
    page = render("file.tflite", MANIFEST, replace(evidence(), half_precision=HalfCheck(large, (large,), 1)))
    text = Text(page).text
    assert "floats on 1 image, the largest value of this file is 1.5e+05, in pool (SUM)." in text
    assert "their results become infinite" in text and REMEDY in text and "pool SUM 3136 1.5e+05" in text
    assert "No value passes half precision" not in text


def test_a_failed_check_is_the_first_thing_said():
    text = Text(render("file.tflite", MANIFEST | FAILED.facts())).text
    assert text.index("A check failed: do not use this file. It is bad.") < 200
    assert "Verified" not in text.split("The manifest")[0]


def fine_tuning(post_training: dict, fine_tuned: dict) -> dict:
    """What a manifest says of two epochs of training, from the comparisons before and after."""
    return {
        "training_images": 99, "validation_accuracies": [0.5, 0.61], "best_epoch": 1,
        "post_training": post_training, "fine_tuned": fine_tuned, "outcome": "Gained.",
    }  # fmt: skip


def test_what_options_of_quantisation_bring_is_shown():
    layer = {
        "layer": "stem_conv", "operators": {"CONV_2D": 1}, "output_db": 12.0, "bought": 0.01, "bytes": 1200,
        "conversions": 2, "weight_bytes": 5000,
    }  # fmt: skip
    mixed = {"max_drop": 0.005, "left": [layer], "drop": 0.004, "integer_drop": 0.02, "layers": 60, "trials": 12}
    usual = COMPARISON | {"top1": 0.881}
    options = {
        "per_channel": {"bytes": 5333000, "comparison": usual},
        "mixed_precision": mixed,
        "fine_tuning": fine_tuning(usual, COMPARISON),
    }
    text = Text(render("file.tflite", MANIFEST | options)).text
    assert "stem_conv 1 CONV_2D 12.0 dB +1.00% +1.2 kB +2 5.0 kB" in text
    assert "With all layers in integers the loss is 2.00%. With 1 of 60 layers in float the loss is 0.40%." in text
    assert "Top-1 accuracy 88.1% 87.6%" in text  # a scale for each channel, one scale
    assert "Top-1 accuracy 87.9% 88.1% 87.6%" in text  # float32, post-training, fine-tuned
    assert "after each epoch, was 50.0%, 61.0%. Gained." in text
    none_left = render("file.tflite", MANIFEST | {"mixed_precision": mixed | {"left": []}})
    assert "No layer had to stay in float: with all layers in integers the loss is 0.40%." in Text(none_left).text


def test_a_detector_is_judged_by_its_own_score():
    scores = {
        "images": 40, "largest_difference": 0.4, "relative_difference": 0.1, "snr_db": 20.5,
        "measure": "mAP at IoU 0.5", "agreement": 0.91, "reference_score": 0.62, "score": 0.6,
        "reference_classes": {"cat": 0.7, "dog": None}, "interval": [-0.04, 0.0], "constant": [],
        "classes": {"cat": 0.65, "dog": None},
    }  # fmt: skip
    manifest = MANIFEST | PASSED.facts() | {
        "task": "detect", "comparison": scores, "fine_tuning": fine_tuning(scores, scores),
        "per_channel": {"bytes": 5333000, "comparison": scores | {"score": 0.61}},
    }  # fmt: skip
    text = Text(render("file.tflite", manifest, evidence())).text
    for said in (
        "int8 reaches 91.0% mAP at IoU 0.5 on 40 images", "cat 70.0% 65.0%", "mAP at IoU 0.5 61.0% 60.0%",
        "Agreement with float32 91.0% 91.0%", "mAP at IoU 0.5 on the validation images",
    ):  # fmt: skip
        assert said in text, said
    assert "dog" not in text.split("Loss from one scale")[0]
    measure = "mAP at IoU 0.5"
    rows = [
        SchemeRow("float32", 18571376, 1.0, 0.62, 5.2, measure),
        SchemeRow("int8", 5333456, 0.91, 0.6, 2.3, measure, (-0.04, 0.0), ("float32",)),
    ]
    shown = replace(evidence(), pictures=(("street.jpg", picture()),))
    page = render_schemes("m", PASSED, [SchemeReport("m_int8.tflite", manifest, shown)], rows, evidence().latency)
    text = Text(page).text
    assert (
        "Scheme Size mAP at IoU 0.5 Change in points, 95 % interval Agreement Latency" in text
        and "top-1" not in text.lower()
    )
    assert "cat 70.0% 65.0%" in text and "street.jpg" in text
    assert "int8 5.33 MB 60.0% -2.0 (-4.0 to +0.0) 91.0% 2.30 ms" in text
    without = [replace(row, score=None) for row in rows]
    unlabelled = render_schemes("m", PASSED, [SchemeReport("m.tflite", manifest, shown)], without, evidence().latency)
    assert "Scheme Size Agreement Latency" in Text(unlabelled).text


@pytest.mark.parametrize(
    "change",
    [
        {"comparison": None, "scheme": "float32", "calibration": None, "recipe": None, "float_operators": None},
        {"scheme": "float32", "calibration": None, "float_operators": None},
        {"comparison": {**COMPARISON, **dict.fromkeys(("top1", "top5", "reference_top1", "reference_top5"))}},
        {"comparison": COMPARISON | {"snr_db": None}, "judged_on_calibration_images": True, "float_operators": {}},
        {"inputs": [{"name": "i", "shape": [1, 2], "dtype": "uint8", "scale": 0.5, "zero_point": 0}]},
    ],
)
def test_every_kind_of_manifest_makes_a_page(change):
    page = render("file.tflite", MANIFEST | change, Evidence(plan={"CONV_2D": 33}))
    text = Text(page).text
    assert "XNNPACK runs no part of the file" in text and "None" not in text.split("The manifest")[0]


def test_the_same_inputs_give_the_same_bytes():
    assert render("f", MANIFEST, evidence()) == render("f", copy.deepcopy(MANIFEST), evidence())
    arguments = (
        "m",
        PASSED,
        [SchemeReport("m_int8.tflite", MANIFEST, evidence())],
        evidence().schemes,
        evidence().latency,
    )
    assert render_schemes(*arguments) == render_schemes(*arguments)


def test_latency_is_kept_apart():
    def without(seconds):
        given = Evidence(evidence().changed, evidence().layers, latency={"float32": (5.2, 6.0), "int8": (seconds, 7.0)})
        return re.sub(
            r'<section class="chapter" id="latency">.*?</section>', "", render("f", MANIFEST, given), flags=re.S
        )

    assert without(2.3) == without(2.9)


@pytest.mark.parametrize("several", [False, True])
def test_what_comes_from_outside_stays_text(several):
    manifest = copy.deepcopy(MANIFEST)
    manifest["model"]["weights"] = manifest["calibration"]["warnings"][0] = manifest["failures"] = HOSTILE
    badge = Badge("red", HOSTILE, (HOSTILE,), (HOSTILE,))
    manifest |= badge.facts() | {"operators": {HOSTILE: 1}}
    manifest["inputs"][0]["name"] = f'"{HOSTILE}'
    found = evidence(name=HOSTILE, layer=f'" onload="x {HOSTILE} $a_b$')
    if several:
        reports = [SchemeReport(HOSTILE, manifest, found)]
        page = render_schemes(HOSTILE, badge, reports, found.schemes, {HOSTILE: (1.0, 2.0)})
    else:
        page = render(HOSTILE, manifest, found)
    parsed = Text(page)
    assert not parsed.all("script") and not any("onload" in attributes for _, attributes in parsed.elements)
    assert parsed.text.count(HOSTILE) >= 10


def test_the_page_needs_nothing_but_itself():
    page = Text(render("f", MANIFEST, evidence()))
    links = [value for _, a in page.elements for name, value in a.items() if name in ("href", "src", "xlink:href")]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert all(image["alt"] for image in page.all("img")) and len(page.all("img")) == 1
    charts = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(charts) == len(page.all("svg")) == 4 and all(svg["aria-label"] for svg in charts)
    assert "block1_conv 12.3" in charts[2]["aria-label"]


def test_several_files_on_one_page_have_ids_of_their_own():
    other = MANIFEST | {"scheme": "int16x8"} | FAILED.facts()
    reports = [SchemeReport("m_int8.tflite", MANIFEST, evidence()), SchemeReport("m_int16x8.tflite", other, evidence())]
    badge = together({"m_int8.tflite": PASSED, "m_int16x8.tflite": FAILED})
    page = Text(render_schemes("m", badge, reports, evidence().schemes, evidence().latency))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids)) and {"int8", "int16x8"} <= set(ids)
    assert "Of 2 files: 1 failed a check, 1 verified. m_int16x8.tflite: It is bad." in page.text


def test_the_front_has_what_nothing_else_beats():
    best = [Point("a", 1, 0.5), Point("b", 2, 0.7), Point("c", 4, 0.9)]
    beaten = [Point("d", 2, 0.6), Point("e", 5, 0.9), Point("f", 3, 0.7)]
    assert front([*beaten, *reversed(best)]) == best
    twins = [Point("a", 1, 0.5), Point("b", 1, 0.5)]
    assert front(twins) == twins


def test_what_is_faster_by_less_than_timings_scatter_is_no_winner():
    better, worse = Point("a", 2.32, 0.9, ("c",)), Point("b", 2.30, 0.89, ("c",))
    slow = Point("c", 5.0, 0.91, ())
    assert front([worse, better, slow]) == [better, slow]
