"""The badge of a file: the verdict on the file, decided here and nowhere else.

Terminal, report, Android page, manifest and exit status take their words from a ``Badge``.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mobilenets_tf.export.proof.comparison import change_in_points
from mobilenets_tf.export.request import MIN_AGREEMENT, Limits
from mobilenets_tf.modelsource import RANDOM, ModelSource
from mobilenets_tf.tasks.task import percent

# Largest difference allowed between the model and a float32 file, relative to the largest output.
FLOAT_TOLERANCE = 1e-4
# Half precision keeps 11 bits of each weight.
HALF_TOLERANCE = 2e-2
# A file that loses more of its score, as a share of 1, is not called verified.
MOST_LOST = 0.02
_LOW = 5 * MOST_LOST  # a score that says little of a model that is sure of nothing
_ONE_IN_20 = 1.644854  # the 95th percentile of the normal distribution
# On how many images, as a share, several classes may have the highest score.
MOST_TIES = 0.5


@dataclass(frozen=True)
class Badge:
    """The verdict on a file.

    colour: "green": verified on annotated images that calibration has not used; "amber": judged, but on the calibration
        images or without annotations, or the loss is more than ``MOST_LOST``, or the images are too few to rule out
        such a loss, or the float model's own score is so low that nothing can be lost; "grey": converted, not judged;
        "red": a check failed.
    headline: the verdict in a sentence. remarks: sentences that qualify it. failures: the failed checks, a sentence
        each.
    """

    colour: str
    headline: str
    remarks: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    def facts(self) -> dict:
        """Return the manifest's facts."""
        badge = {"colour": self.colour, "headline": self.headline, "remarks": list(self.remarks)}
        return {"passed": self.passed, "failures": list(self.failures), "badge": badge}

    def lines(self) -> list[str]:
        """Return the badge as lines of text."""
        return [
            f"[{self.colour}] {self.headline}",
            *(f"  {remark}" for remark in self.remarks),
            *(f"  FAILED: {failure}" for failure in self.failures),
        ]


def with_failures(badge: Badge, failures: tuple[str, ...]) -> Badge:
    """Add failed checks to a verdict."""
    return _failed((*badge.failures, *failures)) if failures else badge


def refused(reason: str | None) -> tuple[str, ...]:
    """Return the failed check of a file that LiteRT's own kernels refuse, which run what no delegate takes over.

    reason: of ``runtime.refused_without_delegates``; None if they run the file.
    """
    if reason is None:
        return ()
    return (f"LiteRT's own kernels refuse the file, so it runs only where XNNPACK takes over all of it: {reason}",)


def unjudged(reason: str | None) -> Badge:
    """Return the verdict on a file that was compared with nothing. reason: as in ``refused``."""
    if failed := refused(reason):
        return _failed(failed)
    return Badge("grey", "Converted, not judged.")


# What a colour says of a file, the worst first.
_SAID = {"red": "failed a check", "grey": "not judged", "amber": "judged with reservations", "green": "verified"}


def together(badges: dict[str, Badge]) -> Badge:
    """Return the verdict on several files, by their names: the colour of the worst, and all failed checks."""
    colours = [badge.colour for badge in badges.values()]
    counts = (f"{colours.count(colour)} {said}" for colour, said in _SAID.items() if colour in colours)
    failures = (f"{name}: {text}" for name, badge in badges.items() for text in badge.failures)
    worst = next(colour for colour in _SAID if colour in colours)
    return Badge(worst, f"Of {len(badges)} files: {', '.join(counts)}.", failures=tuple(failures))


def decide(
    source: ModelSource,
    scheme: str,
    comparison,
    *,
    parity=None,
    limits: Limits,
    on_calibration: bool = False,
    failures: tuple[str, ...] = (),
) -> Badge:
    """Decide the verdict on a file.

    Args:
        source: the model that the file was made of.
        comparison: of the file with its reference, the float file or the model itself; None if nothing was compared.
        parity: of the float file with the model; None if ``comparison`` is with the model.
        on_calibration: the images of the comparison are those of the calibration, or some of them are.
        failures: the checks that failed elsewhere.
    """
    if scheme == "float32" and parity is None:
        parity = comparison
    failed = (*_unequal(scheme, parity, comparison), *failures)
    if source.weights != RANDOM:
        failed = (*failed, *_worthless(comparison or parity))
        failed = (*failed, *_too_low(scheme, comparison, limits)) if comparison else failed
    if failed:
        return _failed(failed)
    if source.random_part:
        weights = {"network": "the weights are", "head": "the head's weights are"}[source.random_part]
        return Badge("grey", f"Converted, not judged: {weights} random, so the answers mean nothing.")
    if comparison is None:
        equal = f"The file computes what the model computes on {parity.images} images."
        return Badge("grey", "Converted, not judged: no annotated images were given.", (equal,))
    if comparison.score is not None:
        return _by_score(scheme, comparison, on_calibration)
    if comparison.agreement is not None and np.isnan(comparison.agreement):
        return Badge(
            "grey", f"Converted, not judged: the float model is sure of nothing on these {comparison.images} images."
        )
    where = "Judged on the calibration images" if on_calibration else "Judged without annotations"
    return Badge(
        "amber", f"{where}: {comparison.summary()}.",
        ("How right the answers are is not known: give annotated images that calibration does not use.",),
    )  # fmt: skip


def _failed(failures: tuple[str, ...]) -> Badge:
    count = "A check" if len(failures) == 1 else f"{len(failures)} checks"
    return Badge("red", f"{count} failed: do not use this file.", failures=failures)


def _by_score(scheme: str, comparison, on_calibration: bool) -> Badge:
    """Decide by the scores on annotated images."""
    images, measure, before = comparison.images, comparison.measure, comparison.reference_score
    if np.isnan(before) or before == 0:
        why = f"the float model's {measure} is {percent(before)} on these {images} images, so nothing can be lost"
        return Badge("grey", f"Converted, not judged: {why}.")
    if low := _too_low_to_judge(comparison):
        return Badge(
            "amber", low,
            ("Do the images' classes fit the model's, and is its input prepared as in its training?",),
        )  # fmt: skip
    if scheme == "float32":
        return Badge("green", f"Verified on {images} images: {measure} {percent(comparison.score)}, as the model.")
    change, bound = change_in_points(comparison), f"{100 * MOST_LOST:g} points"
    if comparison.score_drop > MOST_LOST:
        return Badge("amber", f"Loses more than {bound} of {measure}: {change}, on {images} images.")
    if comparison.drop > MOST_LOST:  # of several outputs, one of which the score tells nothing
        return Badge("amber", f"{measure} {change}, but another output disagrees: {comparison.summary()}.")
    if on_calibration:
        return Badge("amber", f"Judged on images of the calibration: {measure} {change}, on {images} images.")
    if comparison.interval is None or comparison.interval[0] < -MOST_LOST:
        return Badge(
            "amber", f"Judged on {images} images, too few to rule out a loss of more than {bound}: {measure} {change}.",
            ("Give more annotated images.",),
        )  # fmt: skip
    return Badge("green", f"Verified on {images} images: {measure} {change}.")


def _too_low_to_judge(comparison) -> str | None:
    """Say why the float model's own score shows no loss: answers by chance, in one case of 20, would score as high, or
    the whole score is less than the loss that is looked for."""
    images, measure, before, chance = (
        comparison.images, comparison.measure, comparison.reference_score, comparison.chance,
    )  # fmt: skip
    scored = f"Judged, but the float model's {measure} is {percent(before)} on {images} images"
    if chance is not None and before <= chance + _ONE_IN_20 * np.sqrt(chance * (1 - chance) / images):
        return f"{scored}, no better than chance ({percent(chance)}), so nothing can be lost."
    if before <= MOST_LOST:
        return f"{scored}, so a loss of more than {100 * MOST_LOST:g} points cannot show."
    if before <= _LOW and comparison.agreement is not None and np.isnan(comparison.agreement):
        return f"{scored}, and the model is sure of nothing there, so the figures say little."
    return None


def _unequal(scheme: str, parity, comparison) -> Iterator[str]:
    """Yield a sentence for each pair of files that should be equal and are not."""
    if parity is not None and not parity.relative_difference <= FLOAT_TOLERANCE:
        yield (
            f"The float32 file differs from the model by {parity.relative_difference:.2g} of the largest output; "
            f"allowed is {FLOAT_TOLERANCE:.0e}."
        )
    # Where the answers are compared, they judge: probabilities may differ by more and the answers be the same.
    unanswered = comparison is not None and (comparison.agreement is None or np.isnan(comparison.agreement))
    if scheme == "float16" and unanswered and comparison.relative_difference > HALF_TOLERANCE:
        yield (
            f"The float16 file differs from the float32 file by {comparison.relative_difference:.2g} of the largest "
            f"output; allowed is {HALF_TOLERANCE:.0e}."
        )


def _worthless(comparison) -> Iterator[str]:
    """Yield a sentence for each sign that the file's outputs say nothing about the images."""
    for place in comparison.constant:
        which = f"Output {place}" if place else "The output"
        yield f"{which} of the file is the same for all {comparison.images} images."
    ties = getattr(comparison, "ties", None) or 0.0  # of classifiers
    if ties > MOST_TIES and (comparison.answer or 0) not in comparison.constant:
        yield (
            f"On {ties:.1%} of {comparison.images} images several classes share the highest score, so that the answer "
            "is the first of them."
        )


def _too_low(scheme: str, comparison, limits: Limits) -> Iterator[str]:
    """Yield a sentence for each share that is lower than the limits allow."""
    agreement, least = comparison.agreement, limits.min_agreement
    if agreement is not None and least is not None and agreement < least:
        yield (
            f"The {scheme} file agrees with the float model to {agreement:.1%}; at least {least:.1%} {_asked(least)}."
        )
    least = MIN_AGREEMENT if least is None else least
    before, after = comparison.reference_score, comparison.score
    beyond_chance = comparison.interval is None or comparison.interval[1] < 0
    if after is not None and before > 0 and beyond_chance and not after >= least * before:
        yield (
            f"The {scheme} file keeps {percent(after / before)} of the float model's {comparison.measure} "
            f"({percent(before)} -> {percent(after)}, {change_in_points(comparison)}); at least {least:.1%} "
            f"{_asked(least)}."
        )
    # The search judged on a part of many images; this check uses all of them.
    if limits.max_drop is not None and comparison.drop > limits.max_drop + 1e-9:
        yield (
            f"The {scheme} file loses {comparison.drop:.2%} of its score, or of its answers, on all "
            f"{comparison.images} images; at most {limits.max_drop:.2%} was asked for."
        )


def _asked(least: float) -> str:
    return "is the least without --min-agreement" if least == MIN_AGREEMENT else "was asked for"
