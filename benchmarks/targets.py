"""What the files compute on each target: one float32 and one int8 file of every family, a detector and a segmenter.

    python benchmarks/targets.py
    python benchmarks/targets.py "mobilenet_v3*" "ssd*" --targets gpu gpu_half
    python benchmarks/targets.py --targets arm64 gpu --check      exit 1 if a file differs by more than it may
    python benchmarks/targets.py --targets npu micro browser      the first is compiled and not run

The table has a row for each file and target: whether the file runs there, whether its outputs are equal to those of
this machine's CPU or the largest difference, as a share of the largest output and in levels, and how many operators are
left outside the target. Networks and pictures are those of benchmarks/arm64.py, with random weights. What a target
needs is set up first, in the cache folder or in --folder.

To add a target: a function from a file's content and its run on this machine to a ``Cell``, and a line in ``TARGETS``.
"""

import argparse
import os
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from arm64 import NETWORKS, SCHEMES, build, forms
from latency import pictures

from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.arm64 import emulator
from mobilenets_tf.export.arm64 import setup as arm64_setup
from mobilenets_tf.export.delegates.backends import verdicts
from mobilenets_tf.export.gpu import accelerator
from mobilenets_tf.export.gpu import setup as gpu_setup
from mobilenets_tf.export.micro import interpreter
from mobilenets_tf.export.npu import compiler as npu_compiler
from mobilenets_tf.export.targets.host import Differences, HostRun, differences, run_on_host
from mobilenets_tf.export.tflite import convert_model
from mobilenets_tf.progress import silent
from mobilenets_tf.quantize import schemes
from mobilenets_tf.tflite import flatbuffer
from mobilenets_tf.worker import Worker

CHIP = "SM8750"  # which the NPU's rows are compiled for


class Cell(NamedTuple):
    """What a target does with a file: the texts of a row, and whether it does what it may."""

    runs: str
    difference: str
    outside: str
    passed: bool


class Target(NamedTuple):
    """A target of files. make: from the folder of its runtime (None: the cache) to the function that gives a cell."""

    name: str
    title: str
    make: Callable[[Path | None], Callable[[bytes, HostRun], Cell]]


def show(label, done, total):
    if not done:
        print(label, file=sys.stderr, flush=True)


def on_cpu(folder):
    def cell(content, host):
        verdict = verdicts(flatbuffer.read(content))[0]
        return Cell("yes", "reference", f"{len(verdict.fallbacks)} of {verdict.total}", True)

    return cell


def on_arm64(folder):
    machine = arm64_setup.setup(folder, show)

    def cell(content, host):
        found = emulator.compare_cores(machine, host, emulator.CPUS)
        worst = max(found, key=lambda core: core.relative_difference)
        difference = "equal" if worst.equal else f"{worst.relative_difference:.1e}"
        return Cell("yes", difference, f"{len(found)} cores", all(core.passed for core in found))

    return cell


def on_gpu(precision):
    def make(folder):
        device = gpu_setup.setup(folder, show)
        if precision not in device.drivers:
            sys.exit(accelerator.NO_HALF)

        def cell(content, host):
            found = accelerator.compare(device, host, precision)
            if found.error and any(words in found.error for words in accelerator.TOO_SLOW):
                return Cell("no answer", "", "", False)  # which says nothing of the file
            if found.error:
                print(found.error, file=sys.stderr)
                return Cell("no", found.error.split(".")[0], "", False)
            levels = "" if found.levels is None else f", {found.levels} level{'s' if found.levels != 1 else ''}"
            difference = f"{found.relative_difference:.1e}{levels}" if found.relative_difference else "equal"
            runs = "whole" if found.whole else "in part" if found.outside < found.operators else "no"
            return Cell(runs, difference, f"{found.outside} of {found.operators}", found.passed)

        return cell

    return make


def on_npu(folder):
    npu_compiler.check([CHIP])

    def cell(content, host):
        try:
            (found,), _ = npu_compiler.compile_for(content, [CHIP])
        except RequestError as error:
            return Cell("no", str(error).split(":")[0], "", True)
        runs = "compiled whole" if not found.outside else "compiled in part"
        return Cell(runs, "not run", f"{found.operators - found.taken} of {found.operators}", True)

    return cell


def on_micro(folder):
    interpreter.check_installed()

    def cell(content, host):
        operators = len(flatbuffer.read(content).subgraphs[0].operators)
        try:
            found = differences(host, interpreter.outputs(content, host.inputs), "TensorFlow Lite Micro")
        except RequestError as error:
            return Cell("no", str(error).split(":")[0], "", True)
        return Cell("whole", _difference(found), f"0 of {operators}", True)

    return cell


def on_browser(folder):
    import browser  # needs selenium

    tab = browser.Browser()

    def cell(content, host):
        tree = flatbuffer.read(content)
        try:
            found = differences(host, tab.outputs(content, host), "browser")
        except browser.Refused as error:
            return Cell("no", str(error), "", True)
        return Cell(
            "whole",
            _difference(found),
            f"0 of {len(tree.subgraphs[0].operators)}",
            found.relative <= 0.001 or found.levels in (0, 1),
        )

    return cell


def _difference(found: Differences) -> str:
    levels = "" if found.levels is None else f", {found.levels} level{'s' if found.levels != 1 else ''}"
    return "equal" if found.equal else f"{found.relative:.1e}{levels}"


TARGETS = {
    target.name: target
    for target in (
        Target("cpu", "CPU, x86", on_cpu),
        Target("arm64", "CPU, arm64 (emulated)", on_arm64),
        Target("gpu", "GPU, single precision", on_gpu(accelerator.SINGLE)),
        Target("gpu_half", "GPU, half precision", on_gpu(accelerator.HALF)),
        Target("npu", f"NPU of Qualcomm's {CHIP}", on_npu),
        Target("micro", "TensorFlow Lite Micro", on_micro),
        Target("browser", "browser, LiteRT.js", on_browser),
    )
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["*"], metavar="NAME", help="networks, wildcards allowed")
    parser.add_argument("--schemes", nargs="+", default=SCHEMES, choices=list(schemes.SCHEMES), help="of the files")
    parser.add_argument("--targets", nargs="+", default=["cpu", "gpu", "gpu_half"], choices=list(TARGETS))
    parser.add_argument("--count", type=int, default=2, help="pictures for each file")
    parser.add_argument("--folder", type=Path, help="where the targets' runtimes are; set up if they are not there")
    parser.add_argument("--check", action="store_true", help="exit 1 if a file differs by more than it may")
    chosen = parser.parse_args()
    networks = [row for row in NETWORKS if any(fnmatch(row[0], pattern) for pattern in chosen.names)]
    if not networks:
        parser.error(f"none of {', '.join(name for name, *_ in NETWORKS)} is called {' or '.join(chosen.names)}")
    folders = {name: chosen.folder and chosen.folder / name.removesuffix("_half") for name in chosen.targets}
    targets = [(TARGETS[name].title, TARGETS[name].make(folders[name])) for name in chosen.targets]
    print("| network | pixels | scheme | target | runs | largest difference | operators outside |")
    print("|---|---|---|---|---|---|---|", flush=True)
    failed = []
    with Worker() as worker:
        for name, alpha, resolution in networks:
            model = build(name, alpha, resolution)
            for scheme in chosen.schemes:
                converted = convert_model(model, schemes.get(scheme), pictures(resolution), worker, silent).content
                for form, content in forms(name, model, converted):
                    samples = [[picture] for picture in pictures(resolution, chosen.count)]
                    host = run_on_host(content, samples, scores=False)
                    label = " ".join(filter(None, (name, alpha and str(alpha), form)))
                    for title, on_target in targets:
                        cell = on_target(content, host)
                        row = (label, resolution, scheme, title, cell.runs, cell.difference, cell.outside)
                        print("| " + " | ".join(map(str, row)) + " |", flush=True)
                        failed += [] if cell.passed else [f"{label} {scheme}, {title}: {cell.difference}"]
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    if failed and chosen.check:
        sys.exit(1)


if __name__ == "__main__":
    main()
