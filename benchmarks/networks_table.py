"""Write the table of the classifiers in docs/networks.md.

    python benchmarks/networks_table.py             # from benchmarks/networks.json, in a second
    python benchmarks/networks_table.py --measure   # measures what is missing there first: a minute for each network

Parameters, multiply-adds, sizes and ratios of latencies are measured, and kept in benchmarks/networks.json after each
network, so that a run that was interrupted continues. To measure a network anew, delete its entry. Weights are those of
the registry's catalogue. Accuracies are published ones: ``published.TOP1``.

A network's float32 file and int8 file are timed in turn with the float32 file of MobileNetV2, on one thread. Weights
are random, and quantised in the quickest way: neither size nor time depends on that. MobileOne is folded.
"""

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path

from latency import in_child, pictures, settled
from published import TOP1

from mobilenets_tf import files, registry
from mobilenets_tf.weights.catalog import WeightSet, weight_sets

ROOT = Path(__file__).parents[1]
MEASURED, PAGE = ROOT / "benchmarks" / "networks.json", ROOT / "docs" / "networks.md"
BEGIN, END = "<!-- begin: benchmarks/networks_table.py writes this table -->", "<!-- end -->"
BASE = "mobilenet_v2"
CALLS = 100
HEAD = (
    "network", "pixels", "parameters, M", "MAdds, M", "top-1, %", "int8 top-1, %", "float32, MB", "int8, MB",
    "float32 / V2", "int8 / float32", "partitions", "trained by", "licence",
)  # fmt: skip


def counted(names: list[str]) -> dict[str, dict]:
    """Parameters and multiply-adds of the inference form of networks."""
    from mobilenets_tf import counts, create_model, reparameterize

    told = {name: counts(reparameterize(create_model(name))) for name in names}
    return {name: {"parameters": found["params_trainable"], "macs": found["macs"]} for name, found in told.items()}


def written(name: str, folder: Path, schemes: tuple[str, ...]) -> dict[str, Path]:
    """Write a network's files; return their paths by scheme."""
    import keras

    from mobilenets_tf import create_model
    from mobilenets_tf.export.tflite import convert_model
    from mobilenets_tf.quantize import Recipe
    from mobilenets_tf.quantize.schemes import get
    from mobilenets_tf.worker import Worker

    quickest = Recipe(equalize=False, ranges="min_max", rounding="nearest", correct_biases=False)
    keras.utils.set_random_seed(0)
    model = settled(create_model(name))
    samples = pictures(model.input_shape[1], 4)
    paths = {scheme: folder / f"{name}_{scheme}.tflite" for scheme in schemes}
    with Worker() as worker:
        for scheme, path in paths.items():
            path.write_bytes(convert_model(model, get(scheme), samples, worker, recipe=quickest).content)
    return paths


def timed(paths: dict[str, Path]) -> dict:
    """Time a network's files and MobileNetV2's in turn."""
    from mobilenets_tf.export.speed.timing import ratio, side_by_side

    timings = side_by_side(paths, CALLS)
    return {
        "float32_over_base": ratio(timings["float32"], timings["base"]).median,
        "int8_over_float32": ratio(timings["int8"], timings["float32"]).median,
        "partitions": timings["int8"].delegated_partitions,
    }


def measure_missing(found: dict[str, dict]) -> None:
    """Count and time the classifiers that ``found`` lacks, and write it after each that was timed."""
    names = registry.list_models(task="classify")
    found |= in_child(counted, [name for name in names if name not in found])
    keep(found)
    if all("partitions" in found[name] for name in names):
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base = in_child(written, BASE, folder, ("float32",))["float32"].rename(folder / "base.tflite")
        for name in names:
            if "partitions" not in found[name]:
                paths = in_child(written, name, folder, ("float32", "int8"))
                sizes = {f"{scheme}_bytes": path.stat().st_size for scheme, path in paths.items()}
                found[name] |= sizes | in_child(timed, {"base": base, **paths})
                keep(found)
                print(f"{name}: {json.dumps(found[name])}", flush=True)
                for path in paths.values():
                    path.unlink()


def keep(found: dict[str, dict]) -> None:
    write(MEASURED, json.dumps(dict(sorted(found.items())), indent=1) + "\n")


def row(name: str, told: dict) -> tuple[str, ...]:
    """A network's line of the table; cells of what was not measured are empty."""
    records = weight_sets(name)
    exact, integer = TOP1.get(name, (None, None))
    cells = (
        ("{:.2f}", _millions(told.get("parameters"))), ("{:.0f}", _millions(told.get("macs"))), ("{:.1f}", exact),
        ("{:.1f}", integer), ("{:.1f}", _millions(told.get("float32_bytes"))),
        ("{:.1f}", _millions(told.get("int8_bytes"))), ("{:.2f}", told.get("float32_over_base")),
        ("{:.2f}", told.get("int8_over_float32")), ("{}", told.get("partitions")),
    )  # fmt: skip
    return (
        f"`{name}`",
        str(registry.get(name).resolution),
        *("" if value is None else form.format(value) for form, value in cells),
        ", ".join(dict.fromkeys(map(publisher, records))) or "none",
        ", ".join(dict.fromkeys(record.licence.partition(":")[0] for record in records)),
    )


def _millions(number: int | None) -> float | None:
    return None if number is None else number / 1e6


def publisher(record: WeightSet) -> str:
    """Whose training the weights are of: the first words of the record's source."""
    return re.split(r",| \(|[. ]MobileNet", record.source)[0]


def table(found: dict[str, dict]) -> str:
    """Markdown of the table, a line for each classifier in the order of the registry."""
    rows = [row(name, found.get(name, {})) for name in registry.list_models(task="classify")]
    ruler = ("---", *("--:",) * 10, "---", "---")
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (HEAD, ruler, *rows))


def page(text: str, found: dict[str, dict]) -> str:
    """The page with today's table between its two marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{PAGE} lacks the line {BEGIN!r} or, behind it, {END!r}.")
    return f"{before}{BEGIN}\n\n{table(found)}\n\n{END}{after}"


def write(path: Path, text: str) -> None:
    files.write_together(path.parent, {path.name: text})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure what benchmarks/networks.json lacks first")
    chosen = parser.parse_args()
    found = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    if chosen.measure:
        measure_missing(found)
    write(PAGE, page(PAGE.read_text(encoding="utf-8"), found))
    print(f"{PAGE.relative_to(ROOT)}: {len(found)} networks")


if __name__ == "__main__":
    main()
