"""The report on a deployed file: one HTML page, without links to other files or to the network."""

import base64
import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilenets_tf import files
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.export.delegates import gpu, half_precision
from mobilenets_tf.export.delegates.rules import Verdict
from mobilenets_tf.export.page import charts
from mobilenets_tf.export.proof.badge import Badge
from mobilenets_tf.export.proof.comparison import points
from mobilenets_tf.export.proof.evidence import Evidence, LayerFidelity, SchemeRow
from mobilenets_tf.modelsource import RANDOM
from mobilenets_tf.progress import printable
from mobilenets_tf.tasks.outputs import kind_of

_CHARTED = 12  # layers in the bar chart, those with the largest errors
_NOTHING = Evidence()


@dataclass(frozen=True)
class SchemeReport:
    """One file's part of a page on several files."""

    file_name: str
    manifest: dict
    evidence: Evidence = _NOTHING


def render(file_name: str, manifest: dict, evidence: Evidence = _NOTHING) -> str:
    """Render the page on one deployed file. The same arguments give the same bytes.

    Args:
        file_name: name of the ``.tflite`` file.
        manifest: the manifest that ``deploy`` writes beside the file.
        evidence: what the page shows besides.
    """
    return _environment().get_template("report.html").render(file=SchemeReport(file_name, manifest, evidence))


def render_schemes(
    title: str,
    badge: Badge,
    reports: Sequence[SchemeReport],
    rows: Sequence[SchemeRow],
    latency: Mapping[str, tuple[float, float]],
) -> str:
    """Render the page on several files of one model. The same arguments give the same bytes.

    Args:
        title: name of the model.
        badge: the verdict on all files together.
        reports: one for each file.
        rows: one for each file, for the table and the Pareto charts.
        latency: as in ``Evidence``.
    """
    template = _environment().get_template("schemes.html")
    return template.render(title=title, badge=badge, reports=reports, rows=rows, latency=latency)


def prepare() -> None:
    """Import what draws a page, and compile the templates: two seconds that need not wait for the page's content."""
    from matplotlib.backends import backend_svg  # noqa: F401
    from matplotlib.figure import Figure  # noqa: F401

    _environment().get_template("report.html")


@functools.cache
def _environment():
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "signed_percent": lambda share: f"{share:+.2%}",
        "megabytes": lambda size: f"{size / 1e6:.2f} MB",
        "kilobytes": lambda size: f"{size / 1e3:.1f} kB",
        "signed_kilobytes": lambda size: f"{size / 1e3:+.1f} kB",
        "decibels": _decibels,
        "milliseconds": lambda value: f"{value:.2f} ms" if value < 10 else f"{value:.1f} ms",
        "counts": lambda counts: ", ".join(f"{count} {name}" for name, count in counts.items()),
        "score": lambda value, is_probability: f"{value:.1%}" if is_probability else f"{value:.4g}",
        "model_facts": _model_facts,
        "real_value": _real_value,
        "plain": lambda value: {True: "yes", False: "no"}[value] if isinstance(value, bool) else value,
        "geometry": lambda values: Preprocessing(**values).described(),
        "jpeg": lambda content: f"data:image/jpeg;base64,{base64.b64encode(content).decode()}",
        "manifest_text": files.to_json,
        "view": _view,
        "first_two": lambda row: row[:2],
        "error_share": lambda decibels: f"{10 ** (-decibels / 20):.1%}",
        "worst_layer": lambda layers: next((row for row in layers if math.isfinite(row.snr_db)), None),
        "layer_charts": _layer_charts,
        "pareto_charts": _pareto_charts,
        "change": _change,
        # As many columns as leave no image alone in the last row.
        "columns": lambda count: next((columns for columns in (3, 4, 2) if count % columns != 1), 3),
        "on_front": _on_front,
        "reasons": _reasons,
    }
    environment.globals |= {"on_gpu": gpu.ON_INTEGERS, "remedy": half_precision.REMEDY}
    return environment


def _percent(share: float | None, digits: int = 1) -> str:
    """A share; a class that no image shows has none."""
    return "none" if share is None or math.isnan(share) else f"{share:.{digits}%}"


def _decibels(value: float | None) -> str:
    return "exact" if value is None or math.isinf(value) else f"{value:.1f} dB"


def _model_facts(manifest: dict) -> list[tuple]:
    """Return the rows of the table on the model, without the weights' hash, which is in the table of hashes."""
    facts = dict(manifest["model"])
    if facts.get("weights", RANDOM) == RANDOM and "weights_sha256" not in facts:
        facts["weights"] = "random, not trained"
    return [(name.replace("_", " "), value) for name, value in facts.items() if name != "weights_sha256"]


def _real_value(tensor: dict) -> str:
    """Return the formula from a value stored in a tensor to the real value."""
    if not tensor["scale"]:
        return "the value itself"
    zero_point = tensor["zero_point"]
    shifted = f"(q {'-' if zero_point > 0 else '+'} {abs(zero_point)})" if zero_point else "q"
    return f"{tensor['scale']:.8g} x {shifted}"


def _view(comparison: dict | None) -> dict | None:
    """Describe a comparison of a manifest, of any task, in the words of the page.

    Returns:
        images, snr_db, largest_difference; measure, score and reference_score (None without annotations); with
        annotations also change and points, the change of the score in words and in short; agreement with its name and a
        note; sentence: how the answers compare; scores: (name, float32's, this file's) of each measure and class;
        details: (name, share) of what else is known; outputs: each output of a model that is more than a classifier,
        by_element: those whose elements are values; advice: what to do about their scales.
    """
    if comparison is None:
        return None
    images = comparison["images"]
    if comparison.get("top1_agreement") is not None:  # of classifiers
        details = [
            ("float32's answer in the top 5", comparison["top5_agreement"]),
            ("Images with several classes in first place", comparison["ties"]),
        ]
        view = {
            "measure": "Top-1 accuracy",
            "score": comparison["top1"],
            "reference_score": comparison["reference_top1"],
            "agreement": comparison["top1_agreement"],
            "agreement_name": "Same answer as float32",
            "agreement_note": f"of {images} images",
            "snr_note": "of the outputs",
            "sentence": f"gives the float model's answer on {comparison['top1_agreement']:.1%} of {images} images.",
            "details": [(name, share) for name, share in details if share is not None],
        }
        names = (("Top-1 accuracy", "top1"), ("Top-5 accuracy", "top5"))
        scores = [(name, comparison[f"reference_{key}"], comparison[key]) for name, key in names]
        scores = [row for row in scores if row[2] is not None]
    elif "answer" in comparison:  # of outputs that name no class
        worst = min(comparison["outputs"], key=lambda output: output["agreement"])
        view = {
            "measure": None,
            "score": None,
            "reference_score": None,
            "agreement": comparison["agreement"],
            "agreement_name": "Agreement with float32",
            "agreement_note": f"{worst['measure']}, {worst['name']}, on {images} images",
            "snr_note": "of the worst output",
            "sentence": f"agrees with the float model to {comparison['agreement']:.1%} on {images} images "
            f"({worst['measure']}, {worst['name']}).",
            "details": [],
        }
        scores = []
    else:
        measure = comparison["measure"]
        view = {
            "measure": measure,
            "score": comparison["score"],
            "reference_score": comparison["reference_score"],
            "agreement": comparison["agreement"],
            "agreement_name": "Agreement with float32",
            "agreement_note": f"{measure} with float32's answers as ground truth",
            "snr_note": "of the worst output",
            "sentence": "cannot be judged by the float model's answers: that model is sure of nothing on these images."
            if comparison["agreement"] is None
            else f"reaches {comparison['agreement']:.1%} {measure} on {images} images, judged by the float model's "
            "answers as ground truth.",
            "details": [],
        }
        reference, candidate = comparison["reference_classes"], comparison["classes"]
        scores = [(f"{measure}, all classes", comparison["reference_score"], comparison["score"])]
        in_images = [name for name, score in candidate.items() if score is not None and not math.isnan(score)]
        scores += [(name, reference[name], candidate[name]) for name in in_images]
    scored = view["score"] is not None
    shared = {key: comparison[key] for key in ("images", "snr_db", "largest_difference")}
    outputs = comparison.get("outputs") or []
    shared["outputs"] = outputs if len(outputs) > 1 or view["measure"] is None else []
    shared["by_element"] = [output for output in shared["outputs"] if kind_of(output["kind"]).by_element]
    shared["advice"] = comparison.get("advice") or []
    if scored:
        before, after, interval = view["reference_score"], view["score"], comparison["interval"]
        shared |= {"change": points(before, after, interval), "points": _in_points(after - before, interval)}
    return {**shared, **view, "scores": scores if scored else []}


def _layer_charts(layers: Sequence[LayerFidelity], key: str) -> list:
    """Draw the layers with the largest errors as bars, and all layers as a line in the order in which they run."""
    worst = [(row.layer, row.snr_db) for row in layers[:_CHARTED] if math.isfinite(row.snr_db)]
    ordered = [row.snr_db for row in sorted(layers, key=lambda row: row.place)]
    svgs = []
    if worst:
        values = ", ".join(f"{name} {value:.1f}" for name, value in worst)
        description = f"Bar chart of the layers with the lowest signal-to-noise ratios, in dB: {values}."
        label = "signal-to-noise ratio in dB; shorter is worse"
        svgs.append(charts.bars(worst, label, f"{key}-bars", description))
    if len(worst) > 1:
        description = (
            f"Line chart of the signal-to-noise ratios of all {len(ordered)} layers, first to last, between "
            f"{worst[0][1]:.1f} and {max(filter(math.isfinite, ordered)):.1f} dB. The table has the values."
        )
        labels = ("layer, first to last", "signal-to-noise ratio in dB")
        svgs.append(charts.course(ordered, labels, f"{key}-course", description))
    return _safe(svgs)


def _points(rows: Sequence[SchemeRow], cost: str) -> list[charts.Point]:
    gain = "agreement" if any(row.score is None for row in rows) else "score"
    return [
        charts.Point(row.scheme, row.bytes / 1e6, getattr(row, gain))
        if cost == "bytes"
        else charts.Point(row.scheme, row.median_ms, getattr(row, gain), row.faster_than)
        for row in rows
        if getattr(row, cost) is not None
    ]


def _pareto_charts(rows: Sequence[SchemeRow]) -> list:
    """Draw accuracy (without labels: agreement with float32) against latency, and against size."""
    gain = "agreement with float32" if any(row.score is None for row in rows) else rows[0].measure
    svgs = []
    for cost, label in (("median_ms", "latency in ms, on this machine"), ("bytes", "size in MB")):
        if points := _points(rows, cost):
            values = ", ".join(f"{p.name} {p.x:.2f} and {p.y:.1%}" for p in points)
            best = ", ".join(point.name for point in charts.front(points))
            description = f"Scatter chart of {gain} against {label}: {values}. On the Pareto front: {best}."
            svgs.append(charts.pareto(points, (label, gain), f"pareto-{cost.replace('_', '-')}", description))
    return _safe(svgs)


def _change(row: SchemeRow, reference: SchemeRow) -> str:
    """Return the change of a scheme's score from float32's in points, with its interval."""
    if row is reference or row.score is None or reference.score is None:
        return ""
    return _in_points(row.score - reference.score, row.interval)


def _in_points(change: float, interval: Sequence[float] | None) -> str:
    """A change in points, with its interval, for a column of a table."""
    text = f"{100 * change:+.1f}"
    return text if interval is None else f"{text} ({100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})"


def _on_front(row: SchemeRow, rows: Sequence[SchemeRow]) -> str:
    """Return by which costs a scheme is on the Pareto front: "latency", "size", both or "neither"."""
    costs = (("median_ms", "latency"), ("bytes", "size"))
    names = [name for cost, name in costs if row.scheme in {p.name for p in charts.front(_points(rows, cost))}]
    return " and ".join(names) or "neither"


def _reasons(verdict: Verdict) -> list[tuple[str, int, str]]:
    """Return (operator, count, reason) of the operators that a backend does not run, the most frequent first."""
    return [
        (op, times, why)
        for (op, why), times in Counter((f.operator, f.reason) for f in verdict.fallbacks).most_common()
    ]


def _safe(svgs: list[str]) -> list:
    """Mark charts as HTML, so that the template does not escape them. Their texts are escaped already."""
    from markupsafe import Markup

    return [Markup(svg) for svg in svgs]
