"""docs/experiments.md and its pictures, from the committed results."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rows import as_table

from experiments import pictures, results, spiral, streets
from experiments.results import Interval, Line
from experiments.variants import Experiment
from mobilenets_tf import files

DOCS = Path(__file__).parents[2] / "docs"
COMMAND = "python benchmarks/experiments/run.py"
INTRODUCTION = f"""# Experiments: what the papers claim, tried

Each paper of the family argues by small experiments. This page has them in one place, each run by one command, with the
paper's figure beside ours. The page is written by `{COMMAND} --page` from the results in
`benchmarks/experiments/results/`.

```
{COMMAND} --list                                      the experiments
{COMMAND} v2_bottlenecks --keep DIR                   trains; goes on where it was
{COMMAND} all --counts --latency --keep DIR           the papers' networks
```

* **Two networks a row.** The paper's network, with 1000 classes and the paper's size of input, gives the parameters and
  multiply-adds, and with random weights the latency. A small network with the same change is trained, and gives the
  accuracy. So accuracies do not compare with the paper's; differences do.
* **The small network** has an input of 32 pixels unless the row says otherwise, and is trained from random weights:
  {{settings}}.
  The images are the middle of those that `benchmarks/drawn_surfaces.py` draws, of 20 classes. Hundreds of steps show
  what helps at the beginning of a training; ImageNet's hundreds of thousands may say something else. The trainings run
  in one process with the package's own recipes, input pipeline and step, because `mobilenets_tf.train` takes seconds to
  start.
* **Top-1** is the mean of all seeds, in brackets with the 95 % interval of a bootstrap over test images and seeds. A
  difference is taken image by image and seed by seed. **Not shown** means that the interval of the difference contains
  0: a data set of this size cannot show the effect, which may still exist. **One training** shows nothing: its interval
  is over images alone, and seeds scatter by points. Three trainings give a rough interval, and two a rougher one. Where
  one network has more trainings than the other, the difference is over the seeds that both have.
* **Where ours differs in sign from the paper's,** the paper's claim is not reproduced at this size. That does not
  refute the claim.
* **Latency**, where a table has it, is the median ratio to the row that the row is compared with, float32 and int8, all
  files in turn, one thread, LiteRT with XNNPACK. This is not a phone.
"""
OTHERS = (
    ("Latency of V3 against V2, MobileOne, MobileViT's blocks, activations", "benchmarks/papers.py all", "latency.md"),
    ("Rank correlation of latency with parameters and multiply-adds", "benchmarks/papers.py correlation", "latency.md"),
    ("Our files beside those of other tools", "benchmarks/latency.py", "latency.md"),
    ("NetAdapt against the width multiplier", "benchmarks/netadapt.py --keep DIR", "search.md"),
    ("A front of accuracy and latency", "benchmarks/pareto.py", "search.md"),
    ("Quantisation step by step, beside other quantisers", "benchmarks/post_training.py", "quantisation.md"),
    ("Fine-tuning and transfer to other images", "benchmarks/finetune.py", "training.md"),
)
END = """
## The papers' other experiments

These have commands and pages of their own.

"""


def percent(interval: Interval | None, sign: str = "") -> str:
    """Write an interval in per cent, or a difference in points."""
    if interval is None:
        return ""
    mean, low, high = (100 * value for value in interval)
    return f"{mean:{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"


def verdict(line: Line) -> str:
    """Say whether a difference is shown."""
    if line.difference is None:
        return ""
    if line.pairs == 1:
        return "one training"
    _, low, high = line.difference
    shown = "better" if low > 0 else "worse" if high < 0 else "not shown"
    return shown if line.pairs > 2 else f"{shown} (two trainings)"


def short(count: int) -> str:
    """Write a count with three digits, in thousands (K), millions (M) or billions (B)."""
    unit, letter = next((each for each in ((1e9, "B"), (1e6, "M")) if count >= each[0]), (1e3, "K"))
    return f"{count / unit:#.3g}".rstrip(".") + f" {letter}"


def paragraph(words: str) -> str:
    """Break a paragraph into lines."""
    return textwrap.fill(" ".join(words.split()), 120, break_long_words=False, break_on_hyphens=False)


def _latency(found: Mapping) -> str:
    if not found.keys() & {"float32", "int8"}:
        return ""
    ratios = [f"{found[scheme]['ratio']['median']:.2f}" if scheme in found else "-" for scheme in ("float32", "int8")]
    return ", ".join(ratios)


def table(experiment: Experiment, lines: Sequence[Line], sizes: Mapping[str, Mapping]) -> str:
    """Write the table of an experiment in Markdown. sizes: key -> counts and latency of the paper's network."""
    timed = any("float32" in found for found in sizes.values())
    columns = ["variant"]
    columns += ["parameters", "multiply-adds"] if sizes else []
    columns += ["largest tensor, 16 bits"] if experiment.memory else []
    columns += ["latency float32, int8"] if timed else []
    trained = any(line.top1 for line in lines)
    columns += ["top-1, %", "difference, points", "", "compared with"] if trained else []
    columns.append(f"the paper: {experiment.column}")
    rows = []
    for line in lines:
        found = sizes.get(line.variant.key, {})
        cells = [line.variant.label]
        if sizes:
            cells += [short(found[kind]) if kind in found else "" for kind in ("params", "macs")]
        if experiment.memory:
            cells.append(f"{short(2 * found['largest'])}B" if "largest" in found else "")
        if timed:
            cells.append(_latency(found))
        if trained:
            base = line.base.label if line.difference and line.base else ""
            cells += [percent(line.top1), percent(line.difference, "+"), verdict(line), base]
        rows.append((*cells, line.variant.published))
    return as_table(tuple(columns), rows)


def integer_table(lines: Sequence[Line]) -> str:
    """Write what int8 files lose, in points of top-1: a row for each variant that has some. "Refused" is a kind of file
    that LiteRT does not run, of at least one seed."""
    judged = [line for line in lines if line.integers]
    if not judged:
        return ""
    kinds = list(dict.fromkeys(kind for line in judged for kind in line.integers))
    rows = [
        (line.variant.label, *(percent(line.integers.get(kind), "+") or "refused" for kind in kinds)) for line in judged
    ]
    return "\nThe int8 files against the float network, in points of top-1:\n\n" + as_table(("variant", *kinds), rows)


def section(experiment: Experiment, document: Mapping, folder: str) -> tuple[str, dict[str, str]]:
    """Write an experiment's section, and its picture: the text, and {file name: SVG}."""
    lines = list(results.lines(experiment, document.get("trainings", {})))
    sizes = document.get("paper_size", {})
    drawn = _picture(experiment, lines, sizes)
    seeds = sorted({line.seeds for line in lines})
    parts = [f"\n## {experiment.title}\n", paragraph(f"{experiment.claim} Source: {experiment.source}.") + "\n"]
    trainings = f"trainings of each network: {' or '.join(map(str, seeds))}" if experiment.trained else ""
    trainings = "not trained yet" if seeds == [0] and experiment.trained else trainings
    what = "" if experiment.trained else " --counts --latency"
    parts.append(f"`{COMMAND} {experiment.name}{what}`" + (f"; {trainings}" if trainings else "") + "\n")
    parts.append(table(experiment, lines, sizes))
    parts.append(integer_table(lines))
    if experiment.note:
        parts.append("\n" + paragraph(experiment.note))
    if drawn:
        parts.append(f"\n![{experiment.title}]({folder}/{experiment.name}.svg)")
    return "\n".join(part for part in parts if part) + "\n", {f"{experiment.name}.svg": drawn} if drawn else {}


def _picture(experiment: Experiment, lines: Sequence[Line], sizes: Mapping[str, Mapping]) -> str:
    if judged := [line for line in lines if line.top1]:
        draw = pictures.against_multiply_adds if experiment.name == "multipliers" else pictures.accuracies
        return draw(judged)
    timed = [line.variant for line in lines if "int8" in sizes.get(line.variant.key, {})]
    ratios = {scheme: [sizes[each.key][scheme]["ratio"]["median"] for each in timed] for scheme in ("float32", "int8")}
    return pictures.latencies([each.label for each in timed], ratios) if timed else ""


def spiral_section(document: Mapping, folder: str) -> tuple[str, dict[str, str]]:
    """Write the section of the spiral through ReLU."""
    rows = [
        (str(row["dimensions"]), f"{100 * row['lost']:.2f} %", f"{100 * row['expected']:.2f} %")
        for row in document["rows"]
    ]
    text = f"""
## {spiral.TITLE}

{paragraph((spiral.__doc__ or "").partition(chr(10) * 2)[2])} Source: arXiv 1801.04381, figure 1.

`{COMMAND} spiral`

{as_table(("dimensions", "lost here", "expected"), rows)}

![A spiral through ReLU]({folder}/spiral.svg)
"""
    return text, {"spiral.svg": pictures.spirals()}


def streets_section(document: Mapping) -> str:
    """Write the section of DeepLabv3 on real streets."""
    rows, side, epochs = [], document["side"], document["epochs"]
    for key, row in document["rows"].items():
        variant = streets.VARIANTS[key]
        rows.append((variant.label, percent(row["miou"]), percent(row.get("difference"), "+"), variant.published))
    return f"""
## {streets.TITLE}

CamVid: 120 photographs to train with, 40 to judge with, 11 classes, squeezed into {side} x {side} pixels.
{epochs} epochs from ImageNet's weights of the backbone; trainings of each network: {document["seeds"]}.
As in the paper, a network is trained at output stride 16 and judged at 16, and with the same weights at 8 on several
sizes. Source: arXiv 1801.04381, table 7.

`python benchmarks/experiments/streets.py --data ../shared/camvid-samples --keep DIR`

{as_table(("variant", "mIoU, %", "difference from the first, points", "the paper: mIoU on VOC"), rows)}
"""


def settings(documents: Mapping[str, Mapping]) -> str:
    """Say how large the trainings are, from their records."""
    records = [
        record for document in documents.values() for seeds in document.get("trainings", {}).values()
        for record in seeds.values()
    ]  # fmt: skip
    if not records:
        return "settings that the results will name"
    usual = max(records, key=lambda record: sum(record["steps"] == each["steps"] for each in records))
    judged = usual["right"].partition(":")[0]
    return (
        f"{usual['images']:,} images, {usual['epochs']} epochs, batches of {usual['batch_size']} ({usual['steps']} "
        f"steps) and AdamW; {int(judged):,} other images judge it"
    )


def at_a_glance(experiments: Mapping[str, Experiment], documents: Mapping[str, Mapping]) -> str:
    """Write the differences of all trained experiments in one table."""
    rows = []
    for name, experiment in experiments.items():
        for line in results.lines(experiment, documents.get(name, {}).get("trainings", {})):
            if line.difference and line.base:
                change = f"{line.variant.label}, against {line.base.label}"
                title = experiment.title.partition(":")[0]
                rows.append((title, change, percent(line.difference, "+"), verdict(line)))
    return "\n## At a glance\n\n" + as_table(("paper", "change", "difference, points", ""), rows) + "\n" if rows else ""


def text(experiments: Mapping[str, Experiment], documents: Mapping[str, Mapping]) -> tuple[str, dict[str, str]]:
    """Write the page and its pictures. documents: name of an experiment -> its results; those without are left out."""
    parts = [INTRODUCTION.format(settings=settings(documents)), at_a_glance(experiments, documents)]
    images: dict[str, str] = {}
    for written, drawn in _sections(experiments, documents, "experiments"):
        parts.append(written)
        images |= drawn
    missing = [each for each in experiments.values() if not documents.get(each.name)]
    if missing:
        parts.append("\n## Not run yet\n\n" + "\n".join(f"* {each.title}: `{COMMAND} {each.name}`" for each in missing))
        parts.append("\n")
    lines = [(what, f"`python {command}`", f"[{page}]({page})") for what, command, page in OTHERS]
    parts.append(END + as_table(("what", "command", "page"), lines) + "\n")
    return "".join(parts), images


def _sections(experiments, documents, folder: str) -> Iterator[tuple[str, dict[str, str]]]:
    if documents.get("spiral"):
        yield spiral_section(documents["spiral"], folder)
    for name, experiment in experiments.items():
        if documents.get(name):
            yield section(experiment, documents[name], folder)
    if documents.get(streets.NAME):
        yield streets_section(documents[streets.NAME]), {}


def write(experiments: Mapping[str, Experiment], committed: Path = results.COMMITTED, docs: Path = DOCS) -> None:
    """Write the page and the pictures into a folder of documents."""
    names = (*experiments, "spiral", streets.NAME)
    page, images = text(experiments, {name: results.read(committed / f"{name}.json") for name in names})
    (docs / "experiments").mkdir(parents=True, exist_ok=True)
    files.write_together(docs / "experiments", images)
    files.write_together(docs, {"experiments.md": page})
