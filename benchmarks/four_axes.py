"""What moves of data over at most four axes bring: the same network written with more axes, and as it is exported.

    python benchmarks/four_axes.py
    python benchmarks/four_axes.py mobilevit_v3_xs --schemes int8 int16x8 --check     exit 1 if anything got worse

For each scheme: how many operators each target takes, in how many parts, and the share of multiply-adds outside; the
size; the time of an inference beside the other file and beside the same file again, on one thread, in turns; and the
largest difference of the outputs. Weights are random.
"""

import argparse
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from arm64 import build
from latency import pictures

from mobilenets_tf.export.proof.coverage import verdicts
from mobilenets_tf.export.tflite import convert_model
from mobilenets_tf.quantize import schemes
from mobilenets_tf.tflite.runtime import Runner
from mobilenets_tf.worker import Worker

ROUNDS, CALLS = 60, 15


def ratios(files, sample):
    """The median over rounds of each file's fastest call, divided by the first file's of the same round."""
    runners = [Runner(content, threads=1) for content in files]
    for runner in runners * 5:
        runner.invoke(sample)
    rounds = np.zeros((ROUNDS, len(files)))
    for number in range(ROUNDS):
        order = range(len(files)) if number % 2 else reversed(range(len(files)))
        for place in order:
            calls = []
            for _ in range(CALLS):
                started = time.perf_counter()
                runners[place].invoke(sample)
                calls.append(time.perf_counter() - started)
            rounds[number, place] = min(calls)
    return np.median(rounds / rounds[:, :1], axis=0)


def rows(name, resolution, scheme, worker):
    """Yield (what, before, now) of a network in a scheme."""
    model, chosen = build(name, None, resolution), schemes.get(scheme)
    before, now = (
        convert_model(model, chosen, pictures(resolution) if chosen.calibrated else None, worker, few_axes=few).content
        for few in (False, True)
    )
    for old, new in zip(verdicts(before), verdicts(now), strict=True):
        yield (
            old.title,
            *(f"{each.taken} of {each.total} in {sum(each.parts)}, {each.outside:.1%} outside" for each in (old, new)),
        )
    yield "bytes", f"{len(before):,}", f"{len(now):,}"
    sample = next(iter(pictures(resolution, 1)))
    _, of_now, again = ratios([before, now, before], sample)
    yield "time", f"1, and {again:.3f} again", f"{of_now:.3f}"
    pairs = zip(Runner(before)(sample), Runner(now)(sample), strict=True)
    yield "largest difference", "", f"{max(float(np.abs(a - b).max()) for a, b in pairs):g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="mobilevit_v3_xxs", metavar="NAME", help="a network")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--schemes", nargs="+", default=["int8", "float32"], choices=list(schemes.SCHEMES))
    parser.add_argument("--check", action="store_true", help="exit 1 if a file is larger or computes something else")
    chosen = parser.parse_args()
    print("| scheme | | five and six axes | as exported |\n|---|---|---|---|")
    worse = False
    with Worker(preload="tensorflow") as worker:
        for scheme in chosen.schemes:
            for what, before, now in rows(chosen.name, chosen.resolution, scheme, worker):
                print(f"| {scheme} | {what} | {before} | {now} |", flush=True)
                worse |= what == "bytes" and int(now.replace(",", "")) > int(before.replace(",", ""))
                worse |= what == "largest difference" and now != "0"
    if worse and chosen.check:
        sys.exit(1)


if __name__ == "__main__":
    main()
