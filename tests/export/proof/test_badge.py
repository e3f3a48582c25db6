"""The verdict on a file: its colour, its words, and the checks that fail."""

from dataclasses import replace

import numpy as np
import pytest

from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.proof.badge import decide, together, unjudged
from mobilenets_tf.export.proof.comparison import Comparison, ScoreComparison, compare
from mobilenets_tf.export.request import Limits
from mobilenets_tf.modelsource import ModelSource

TRAINED = ModelSource("mine.keras")
UNLABELLED = Comparison(372, 0.4, 0.4, 22.0, 0.989, 1.0, 0.013)
PARITY = replace(UNLABELLED, images=16, relative_difference=1e-6)
LABELLED = replace(
    UNLABELLED, reference_top1=0.879, reference_top5=0.97, top1=0.876, top5=0.97, interval=(-0.011, 0.005)
)
DETECTOR = ScoreComparison(
    40, 0.4, 0.1, 20.0, "mAP at IoU 0.5", float("nan"), reference_score=0.077, score=0.003, interval=(-0.12, -0.04)
)
UNSURE = replace(DETECTOR, reference_score=None, score=None, interval=None)


def badge(comparison, source=TRAINED, scheme="int8", parity=PARITY, limits=None, **options):
    return decide(source, scheme, comparison, parity=parity, limits=limits or Limits(), **options)


def test_green_has_the_images_the_change_and_its_interval():
    found = badge(LABELLED)
    assert found.colour == "green" and found.passed and not found.remarks
    assert found.headline == "Verified on 372 images: top-1 -0.3 points, 95 % interval -1.1 to +0.5."
    same = badge(replace(LABELLED, top1=0.879), scheme="float32")
    assert (same.colour, same.headline) == ("green", "Verified on 372 images: top-1 87.9%, as the model.")


def test_amber_is_not_called_verified():
    calibration = badge(UNLABELLED, on_calibration=True)
    assert calibration.headline == "Judged on the calibration images: same answer as float32 on 98.9% of 372 images."
    lossy = badge(replace(LABELLED, top1=0.848, interval=(-0.05, -0.012)))
    assert lossy.headline.startswith("Loses more than 2 points of top-1: -3.1 points, 95 % interval -5.0 to -1.2")
    seen = badge(LABELLED, on_calibration=True)
    assert "images of the calibration" in seen.headline
    for found in (calibration, lossy, seen, badge(UNLABELLED)):
        assert found.colour == "amber" and found.passed and "erified" not in found.headline


def test_images_that_are_too_few_to_rule_out_a_loss_verify_nothing():
    found = badge(replace(LABELLED, images=40, interval=(-0.06, 0.05)))
    assert found.colour == "amber" and found.passed and "erified" not in found.headline
    assert found.headline == (
        "Judged on 40 images, too few to rule out a loss of more than 2 points: top-1 -0.3 points, 95 % interval -6.0 "
        "to +5.0."
    )
    assert badge(replace(DETECTOR, score=0.077, images=1, interval=None)).colour == "amber"
    # Without one changed answer, some 140 images rule out a loss of 2 points.
    for images, colour in ((100, "amber"), (150, "green")):
        scores = np.eye(4, dtype=np.float32)[np.arange(images) % 4]
        same = compare(scores, scores, np.arange(images) % 4)
        assert badge(same).colour == colour


@pytest.mark.parametrize("scheme", ["float32", "int8"])
def test_a_float_model_that_knows_nothing_has_nothing_to_lose(scheme):
    images = 1000
    scores = np.eye(4, dtype=np.float32)[np.arange(images) % 4]
    assert badge(compare(scores, scores, np.arange(images) % 4), scheme=scheme).colour == "green"
    # Labels in another order than the model's classes, but for a fifth of the images.
    labels = np.where(np.arange(images) % 5 == 0, np.arange(images) % 4, (np.arange(images) + 1) % 4)
    found = badge(compare(scores, scores, labels), scheme=scheme)
    assert found.colour == "amber" and found.passed
    assert found.headline == (
        "Judged, but the float model's top-1 is 20.0% on 1000 images, no better than chance (25.0%), so nothing can be "
        "lost."
    )
    assert "Do the images' classes fit the model's" in found.remarks[0]
    low = badge(replace(DETECTOR, reference_score=0.015, score=0.015, interval=(-0.001, 0.001)), scheme=scheme)
    assert low.colour == "amber" and "1.5% on 40 images, so a loss of more than 2 points cannot show" in low.headline


@pytest.mark.parametrize(
    ("comparison", "source", "said"),
    [
        (None, TRAINED, "no annotated images"),
        (LABELLED, ModelSource("mobilenet_v2", weights="random"), "the weights are random"),
        (LABELLED, ModelSource("mobilenet_v2"), "the weights are random"),
        (LABELLED, ModelSource("ssdlite_mobilenet_v2", weights="imagenet"), "the head's weights are random"),
        (LABELLED, ModelSource("mobilenet_v2", weights="imagenet", classes=7), "the head's weights are random"),
        (UNSURE, TRAINED, "sure of nothing on these 40 images"),
        (replace(DETECTOR, reference_score=0.0, score=0.0), TRAINED, "mAP at IoU 0.5 is 0.0% on these 40 images"),
        (replace(DETECTOR, reference_score=np.nan, score=np.nan), TRAINED, "mAP at IoU 0.5 is none"),
    ],
)
def test_grey_is_converted_and_not_judged(comparison, source, said):
    found = badge(comparison, source)
    assert found.colour == "grey" and found.passed
    assert found.headline.startswith("Converted, not judged: ") and said in found.headline


@pytest.mark.parametrize(
    ("comparison", "options", "said"),
    [
        (DETECTOR, {}, "keeps 3.9% of the float model's mAP at IoU 0.5 (7.7% -> 0.3%, -7.4 points"),
        (replace(LABELLED, top1=0.5, interval=(-0.43, -0.33)), {}, "keeps 56.9% of the float model's top-1"),
        (
            replace(UNLABELLED, top1_agreement=0.7),
            {},
            "agrees with the float model to 70.0%; at least 80.0% is the least",
        ),
        (UNLABELLED, {"limits": Limits(0.99)}, "at least 99.0% was asked for"),
        (LABELLED, {"limits": Limits(0, 0.001)}, "loses 0.30% of its score"),
        (replace(UNLABELLED, ties=0.51), {}, "On 51.0% of 372 images several classes share the highest score"),
        (replace(UNLABELLED, ties=1.0, constant=(0,)), {}, "The output of the file is the same for all 372 images."),
        (replace(DETECTOR, constant=(1,)), {"limits": Limits(0)}, "Output 1 of the file is the same for all 40"),
        (None, {"parity": replace(PARITY, constant=(0,))}, "The output of the file is the same for all 16 images."),
        (UNLABELLED, {"parity": replace(PARITY, relative_difference=2e-3)}, "differs from the model by 0.002"),
        (UNLABELLED, {"parity": replace(PARITY, relative_difference=np.nan)}, "differs from the model by nan"),
        (replace(UNSURE, relative_difference=0.1), {"scheme": "float16"}, "differs from the float32 file by 0.1"),
        (replace(UNLABELLED, relative_difference=0.1), {"scheme": "float32", "parity": None}, "differs from the model"),
        (LABELLED, {"failures": ("LiteRT's own kernels refuse the file.",)}, "LiteRT's own kernels refuse the file."),
    ],
)
def test_red_names_each_failed_check(comparison, options, said):
    found = badge(comparison, **options)
    assert found.colour == "red" and not found.passed and "failed: do not use this file" in found.headline
    assert len(found.failures) == 1 and said in found.failures[0]
    assert any(line.strip().startswith("FAILED: ") for line in found.lines())


def test_a_loss_that_may_be_chance_does_not_fail():
    by_chance = replace(LABELLED, images=10, reference_top1=0.5, top1=0.3, interval=(-0.5, 0.1))
    assert badge(by_chance).colour == "amber"


def test_random_weights_that_were_asked_for_fail_no_check_of_their_answers():
    worthless = replace(UNLABELLED, ties=1.0, constant=(0,), top1_agreement=0.1)
    assert badge(worthless, ModelSource("mobilenet_v2", weights="random")).colour == "grey"
    assert len(badge(worthless, ModelSource("mobilenet_v2")).failures) == 2
    unequal = replace(PARITY, relative_difference=1.0)
    assert badge(worthless, ModelSource("mobilenet_v2", weights="random"), parity=unequal).colour == "red"


def test_a_model_that_was_trained_further_may_give_other_answers():
    tuned = replace(LABELLED, top1_agreement=0.6, top1=0.9, interval=(0.0, 0.04))
    assert badge(tuned, limits=Limits(None)).colour == "green" and badge(tuned).colour == "red"


def test_outputs_that_are_the_same_for_every_image_are_found():
    reference, candidate = np.random.default_rng(0).random((2, 9, 4))
    assert compare(reference, candidate).constant == ()
    assert compare(reference, np.tile(candidate[:1], (9, 1))).constant == (0,)
    assert compare(reference[:1], candidate[:1]).constant == ()  # one image shows nothing


@pytest.mark.parametrize(("share", "said"), [(99, "for 99 % pass 0.99"), (1.01, "0 to 1"), (-0.1, "-0.1: expected")])
def test_a_minimum_that_is_no_share_is_refused(share, said):
    with pytest.raises(RequestError, match=said):
        Limits(share).check()


def test_a_file_that_was_compared_with_nothing_is_grey_or_red():
    assert (unjudged(None).colour, unjudged(None).headline) == ("grey", "Converted, not judged.")
    assert "refuse the file" in unjudged("no kernel").failures[0] and not unjudged("no kernel").passed


def test_several_files_have_the_colour_of_the_worst():
    badges = {"a": badge(LABELLED), "b": badge(UNLABELLED), "c": badge(replace(UNLABELLED, ties=1.0))}
    both = together(badges)
    assert both.headline == "Of 3 files: 1 failed a check, 1 judged with reservations, 1 verified."
    assert both.colour == "red" and both.failures == (f"c: {badges['c'].failures[0]}",)
