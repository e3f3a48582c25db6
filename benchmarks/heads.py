"""Latency of detectors and segmenters side by side, each beside the classifier whose features it reads.

    python benchmarks/heads.py                                                           both tables
    python benchmarks/heads.py 'ssd*' --calls 20                                         some of the registered networks
    python benchmarks/heads.py ssdlite_mobilenet_v3_small lraspp_mobilenet_v3_small --calls 5 --check

Detectors take 320 pixels and tell 80 classes apart, segmenters take 512; R-ASPP is DeepLabv3 without its dilated
convolutions. All files of a table are timed in one run, call by call in turn: LiteRT with XNNPACK, one thread, only the
invocation. Printed are, for each form of the outputs (see ``deploy --output``), megabytes, the median in ms, that over
the classifier's of the same scheme, and int8's over float32's; ratios are the medians of the rounds' ratios. Look at
these; the milliseconds are the machine's.

Weights are random, BatchNorm statistics those of smooth random pictures, and int8 files are made without the searches
of the default recipe: none of that changes an op. Only the time of "nms" depends on what the network says, namely on
how many scores are above the threshold. So that is set, for each file, to the score that lets 1000 of them pass.

--check: exit 1 unless each int8 file's network is one partition of XNNPACK's, with no more ops behind it than its form
takes, and has at most 0.35 of the float32 file's bytes; and unless an SSD is larger than the SSDLite, and DeepLabv3
than R-ASPP.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from latency import SCHEMES, in_child, pictures, settled
from papers import machine

from mobilenets_tf import registry
from mobilenets_tf.export.speed import timing
from mobilenets_tf.export.speed.timing import Timing, ratio, side_by_side

NETWORKS = (
    "ssdlite_mobilenet_v2",
    "ssd_mobilenet_v2",
    "ssdlite_mobilenet_v3_large",
    "ssd_mobilenet_v3_large",
    "ssdlite_mobilenet_v3_small",
    "ssd_mobilenet_v3_small",
    "deeplabv3_mobilenet_v2",
    "raspp_mobilenet_v2",
    "lraspp_mobilenet_v2",
    "raspp_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
    "raspp_mobilenet_v3_small",
    "lraspp_mobilenet_v3_small",
)
TASKS = ("detect", "segment")  # a table each
FORMS = {"classify": ("",), "detect": ("raw", "nms"), "segment": ("stride", "full", "mask")}
# What is compared of two networks on one backbone, the larger first: beginnings of their names.
PAIRS = (("ssd_", "ssdlite_"), ("deeplabv3_", "raspp_"), ("raspp_", "lraspp_"))
SMALLER = PAIRS[:2]  # in which the second one's file is the smaller
CANDIDATES = 1000
# What runs of an int8 file, by its form: a "DELEGATE" is a partition of XNNPACK's. Behind the suppression the numbers
# of the classes are put right, which is the second.
PLANS = {
    "": {"DELEGATE": 1, "SOFTMAX": 1},
    "raw": {"DELEGATE": 1},
    "nms": {"DELEGATE": 2, "TFLite_Detection_PostProcess": 1},
    "stride": {"DELEGATE": 1},
    "full": {"DELEGATE": 1},
    "mask": {"DELEGATE": 1, "ARG_MAX": 1, "CAST": 1},
}
LARGEST_SHARE = 0.35  # of the float32 file's bytes that an int8 file may have


@dataclass(frozen=True)
class Built:
    """A network's files, {(form, scheme): content}, and the parameters and multiply-adds of its inference form."""

    files: dict[tuple[str, str], bytes]
    parameters: int
    multiply_adds: int


def build(names: Sequence[str], resolution: int) -> dict[str, Built]:
    """Every form and scheme of some networks."""
    import keras

    from mobilenets_tf import create_model
    from mobilenets_tf.conversion.reparameterization import reparameterize
    from mobilenets_tf.export.tflite import convert_model
    from mobilenets_tf.networks.costs.complexity import counts
    from mobilenets_tf.quantize import Recipe, schemes
    from mobilenets_tf.worker import Worker

    recipe, built = Recipe(equalize=False, ranges="min_max", rounding="nearest", correct_biases=False), {}
    with Worker() as worker:
        for name in names:
            keras.backend.clear_session()
            keras.utils.set_random_seed(0)
            model, files = settled(create_model(name, resolution=resolution)), {}
            for scheme in map(schemes.get, SCHEMES):
                given = {"recipe": recipe} if scheme.calibrated else {}
                content = convert_model(model, scheme, pictures(resolution), worker, **given).content
                for form in FORMS[registry.get(name).task]:
                    files[form, scheme.name] = with_form(content, form, model, resolution)
            counted = counts(reparameterize(model))
            built[name] = Built(files, counted["params_total"], counted["macs"])
    return built


def build_table(names: Sequence[str]) -> dict[str, Built]:
    """Some networks of one task, behind their classifiers, in a process of its own."""
    classifiers = (registry.get(name).backbone for name in names)
    return in_child(build, list(dict.fromkeys([*classifiers, *names])), registry.get(names[0]).resolution)


def with_form(content: bytes, form: str, model, resolution: int) -> bytes:
    """A network's file that gives its outputs in one of ``FORMS``."""
    from mobilenets_tf.export.forms import detector as detector_forms
    from mobilenets_tf.export.forms import segmenter as segmenter_forms
    from mobilenets_tf.tasks.postprocess import Postprocess

    if form in FORMS["segment"]:
        return segmenter_forms.with_form(content, form, resolution)
    if form == "nms":
        postprocess = replace(Postprocess.of(model), score_threshold=threshold(content))
        return detector_forms.with_form(content, form, postprocess)
    return content


def threshold(content: bytes) -> float:
    """The score that ``CANDIDATES`` of a detector's scores reach on the input that it is timed with."""
    interpreter = timing.load(content)
    interpreter.invoke()
    details = interpreter.get_output_details()[1]
    scale, zero_point = details["quantization"]
    scores = interpreter.get_tensor(details["index"])[0, :, 1:].astype(np.float32)
    return float(np.sort((scores - zero_point) * np.float32(scale or 1), axis=None)[-CANDIDATES])


Files = dict[tuple[str, str, str], Timing]  # by network, form and scheme


def measure(built: dict[str, Built], calls: int) -> Files:
    """The timings of all files, of one run."""
    contents = {(name, *key): content for name, found in built.items() for key, content in found.files.items()}
    return side_by_side(contents, calls)


def print_table(title: str, built: dict[str, Built], timings: Files) -> None:
    of_scheme = "".join(f"{scheme:>9} MB{'ms':>9}{'of classifier':>15}" for scheme in SCHEMES)
    print(f"{title:<44}{'parameters':>12}{'multiply-adds':>15}{of_scheme}{'int8 of float32':>17}")
    for name, found in built.items():
        for form in FORMS[registry.get(name).task]:
            classifier = registry.get(name).backbone or name
            cells = f"  {f'{name} {form}':<42}{found.parameters:>12,}{found.multiply_adds:>15,}"
            for scheme in SCHEMES:
                taken, base = timings[name, form, scheme], timings[classifier, "", scheme]
                size = len(found.files[form, scheme]) / 1e6
                cells += f"{size:12.2f}{taken.median_ms:9.2f}{ratio(taken, base).median:15.2f}"
            floats, integers = (timings[name, form, scheme] for scheme in SCHEMES)
            print(f"{cells}{ratio(integers, floats).median:17.2f}")


def pairs(names: Sequence[str]) -> Iterator[tuple[str, str, tuple[str, str]]]:
    """Two networks on one backbone to be compared, and which of ``PAIRS`` they are."""
    for pair in PAIRS:
        for name in names:
            other = pair[1] + name.removeprefix(pair[0])
            if name.startswith(pair[0]) and other in names:
                yield name, other, pair


def print_pairs(built: dict[str, Built], timings: Files) -> None:
    for name, other, _ in pairs(list(built)):
        one, two = built[name], built[other]
        figures = [
            f"parameters {one.parameters / two.parameters:.2f}",
            f"multiply-adds {one.multiply_adds / two.multiply_adds:.2f}",
        ]
        for form, scheme in one.files:
            over = ratio(timings[name, form, scheme], timings[other, form, scheme]).median
            figures.append(f"{scheme} {form} {over:.2f}")
        print(f"  {name} over {other}: {', '.join(figures)}")


def broken_promises(built: dict[str, Built], timings: Files) -> Iterator[str]:
    """What the files should be, whatever the machine, and are not."""
    for (name, form, scheme), taken in timings.items():
        if scheme != "int8":
            continue
        plan = {"DELEGATE": taken.delegated_partitions, **taken.outside}
        if plan != PLANS[form]:
            yield f"{name} {form}: int8 runs as {plan}, not as {PLANS[form]}"
        integers, floats = (len(built[name].files[form, scheme]) for scheme in ("int8", "float32"))
        if integers > LARGEST_SHARE * floats:
            yield f"{name} {form}: int8 has {integers} bytes, more than {LARGEST_SHARE} of float32's {floats}"
    for name, other, pair in pairs(list(built)):
        if pair in SMALLER:
            for key, content in built[other].files.items():
                if len(content) >= len(built[name].files[key]):
                    yield f"{other} {' '.join(key)}: {len(content)} bytes are not less than {name}'s"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="detectors and segmenters, or wildcards for them")
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--check", action="store_true", help="exit 1 unless the files keep their promises")
    chosen = parser.parse_args()
    names = [name for pattern in chosen.names for name in registry.list_models(pattern)] or NETWORKS
    tables = {task: [name for name in dict.fromkeys(names) if registry.get(name).task == task] for task in TASKS}
    tables = {task: of_task for task, of_task in tables.items() if of_task}
    if not tables:
        parser.error(f"no detector or segmenter is called {' or '.join(chosen.names)}")
    print(f"{machine()}, one thread, median of {chosen.calls} calls; not a phone", flush=True)
    problems = []
    with ThreadPoolExecutor() as pool:  # a process each
        for task, built in zip(tables, list(pool.map(build_table, tables.values())), strict=True):
            timings = measure(built, chosen.calls)
            print_table(f"{task}, {registry.get(tables[task][0]).resolution} pixels", built, timings)
            print_pairs(built, timings)
            problems += broken_promises(built, timings)
    for problem in problems:
        print(problem)
    if problems and chosen.check:
        sys.exit(1)


if __name__ == "__main__":
    main()
