"""What a training step costs: beside Keras' networks and `fit`, as it grows, with its input, in other precisions.

    python benchmarks/training.py throughput --check     images a second in `fit`, ours and keras.applications' networks
    python benchmarks/training.py growth                 time and memory over the batch and the input's size
    python benchmarks/training.py input --data FOLDER    does the input keep up with the step?
    python benchmarks/training.py modes                  bfloat16, float16 and XLA against float32: losses and time
    python benchmarks/training.py --quick                all four, small. Do they run? Their figures mean little

What is compared takes turns, round by round in one run, so that other programs disturb all of them; printed is the
median of the rounds' ratios and, in brackets, the lowest and the highest. Absolute figures are this machine's.

throughput: the same random batch, optimizer (fine-tuning's), loss, dropout and count of parameters. Also our loop's
    step over `fit`'s, both with our network. BatchNorm is trained. "By processors" is the same ratio from the time of
    all processors, which other programs disturb less. ``--xla`` compiles all of them with XLA, which is what Keras does
    unless it is told compile(jit_compile=False). ``--check`` fails where both ratios are below 0.95.
growth: each configuration in a process of its own; they take turns. Memory is the highest resident set during the
    steps, and what that is above the same process after a step with one image; the exponents are slopes of straight
    lines through the logarithms of time and of that part of the memory, which still has another graph in it: the
    straight line through the memory itself has not. Linux only.
input: images a second of the pipeline alone, of the step alone (always the same batch) and of both, and the share of
    the latter's time in which the step waits. Both use all processors, so together they cannot do more than "at most",
    1 / (1 / pipeline + 1 / step). Fine-tuning's step, with the recipes' augmentation, at 224 pixels.
modes: a network that was trained for a few steps, then in each mode from the same weights on the same batches.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from mobilenets_tf import Preprocessing, create_model
from mobilenets_tf.data import sources
from mobilenets_tf.training import optimizers, recipes
from mobilenets_tf.training.distribution import Distribution
from mobilenets_tf.training.input import pipeline
from mobilenets_tf.training.input.plan import Plan
from mobilenets_tf.training.objectives.classification import ClassificationObjective
from mobilenets_tf.training.recipes import Rate, Recipe
from mobilenets_tf.training.step import Settings, Training

LEAST = 0.95
QUICK = "mobilenet_v1"  # the fewest layers, so the shortest time to build a graph
CLASSES = 1000
# Ours -> keras.applications' name, its options, and the dropout that makes ours the same.
PEERS = {
    "mobilenet_v1": ("MobileNet", {"dropout": 1e-3}, 1e-3),
    "mobilenet_v2": ("MobileNetV2", {}, 0.0),
    "mobilenet_v3_large": ("MobileNetV3Large", {"dropout_rate": 0.2, "include_preprocessing": False}, 0.2),
    "mobilenet_v3_small": ("MobileNetV3Small", {"dropout_rate": 0.2, "include_preprocessing": False}, 0.2),
}
TRAINED = replace(recipes.FINETUNE, frozen_batchnorm=False)
AUGMENTED = ("finetune", "mobilenet_v2", "mobileone_s2", "mobilevit_v3_100")  # recipes of the part "input"
PLAIN = Settings()
MODES = {
    "float32": PLAIN,
    "bfloat16": Settings("bfloat16"),
    "float16": Settings("float16"),
    "XLA": Settings(jit_compile=True),
}


def in_turn(subjects: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each returns in each round; the one that goes first in a round goes last in the next."""
    names, found = list(subjects), {name: [] for name in subjects}
    for _ in range(rounds):
        for name in names:
            found[name].append(subjects[name]())
        names = names[1:] + names[:1]
    return found


def ratios(some: Sequence[float], others: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(some, others, strict=True)]


def shown(values: Sequence[float]) -> str:
    return f"{statistics.median(values):5.2f} ({min(values):.2f} to {max(values):.2f})"


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The exponent of the power law through the points."""
    return float(np.polyfit(np.log(xs), np.log(ys), 1)[0])


def training_of(network: str, size: int, recipe: Recipe, settings: Settings = PLAIN, **options) -> Training:
    keras.utils.set_random_seed(0)
    return Training(
        ClassificationObjective(options.get("classes", CLASSES), recipe),
        lambda pixels: create_model(network, input_shape=(pixels, pixels, 3), **options),
        Plan(recipe, 10 * recipe.batch_size, size),
        size,
        Preprocessing(size=size, resize=size, mean=(0.0,) * 3, std=(1.0,) * 3),
        Distribution(tf.distribute.get_strategy()),
        settings,
    )


def batch_of(count: int, size: int, classes: int = CLASSES) -> tuple[tf.Tensor, tf.Tensor]:
    random = np.random.default_rng(0)
    pixels = random.uniform(-1, 1, (count, size, size, 3)).astype(np.float32)
    return tf.constant(pixels), tf.one_hot(random.integers(classes, size=count), classes)


def _now() -> np.ndarray:
    """Seconds: elapsed, and of all processors that this process had."""
    return np.array([time.perf_counter(), time.process_time()])


def step_times(training: Training, batch: tuple, steps: int = 1) -> np.ndarray:
    """Seconds a step, as ``_now``. As ``loop.run`` takes them, with the learning rate read before each."""
    started = _now()
    for _ in range(steps):
        training.facts(0)
        training.step(batch)
    return (_now() - started) / steps


def step_seconds(training: Training, batch: tuple, steps: int = 1) -> float:
    return float(step_times(training, batch, steps)[0])


class _Clock(keras.callbacks.Callback):
    """From the first batch of a ``fit`` to the end of its last one: without what ``fit`` sets up."""

    def on_train_begin(self, logs=None):
        self._started = self.taken = None

    def on_train_batch_begin(self, batch, logs=None):
        if self._started is None:
            self._started = _now()

    def on_train_batch_end(self, batch, logs=None):
        self.taken = _now() - self._started


def fit_times(model: keras.Model, data: tf.data.Dataset, steps: int) -> np.ndarray:
    """Seconds a step, as ``_now``."""
    clock = _Clock()
    model.fit(data, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[clock])
    return clock.taken / steps


def compiled(model: keras.Model, recipe: Recipe, xla: bool) -> keras.Model:
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing)
    model.compile(optimizers.build(recipe, model, 10), loss, metrics=["accuracy"], jit_compile=xla)
    return model


def throughput(chosen) -> list[str]:
    """Prints the table; the networks that are slower than the gate allows."""
    batch_size, size, rounds, steps = (8, 64, 3, 2) if chosen.quick else (32, chosen.size, chosen.rounds, 2)
    names = chosen.models or ([QUICK] if chosen.quick else list(PEERS))
    recipe, slow = TRAINED.changed(batch_size=batch_size), []
    print(f"\nthroughput: images a second, batch {batch_size}, {size} pixels{', XLA' if chosen.xla else ''}")
    heads = ("ours / Keras", "by processors", "our loop / fit", "by processors")
    print(f"{'':<20} {'Keras':>6} {'ours':>6}  {'  '.join(f'{head:<20}' for head in heads)}", flush=True)
    for name in names:
        keras.backend.clear_session()
        theirs, options, dropout = PEERS[name]
        build = getattr(keras.applications, theirs)
        peer = build((size, size, 3), weights=None, classes=CLASSES, **options)
        ours = create_model(name, input_shape=(size, size, 3), classes=CLASSES, dropout_rate=dropout)
        if ours.count_params() != peer.count_params():
            raise ValueError(f"{name} has {ours.count_params()} parameters, Keras' {peer.count_params()}.")
        own = training_of(name, size, recipe, Settings(jit_compile=chosen.xla), dropout_rate=dropout)
        batch = batch_of(batch_size, size)
        data = tf.data.Dataset.from_tensors(batch).repeat()
        models = {"Keras": compiled(peer, recipe, chosen.xla), "ours": compiled(ours, recipe, chosen.xla)}
        subjects = {kind: partial(fit_times, model, data, steps) for kind, model in models.items()}
        subjects["loop"] = partial(step_times, own, batch, steps)
        in_turn(subjects, 1)  # builds the graphs
        found = {kind: np.transpose(times) for kind, times in in_turn(subjects, rounds).items()}
        speed = {kind: batch_size / statistics.median(times[0]) for kind, times in found.items()}
        beside, lap = (
            [ratios(found[a][i], found[b][i]) for i in (0, 1)] for a, b in (("Keras", "ours"), ("ours", "loop"))
        )
        columns = "  ".join(f"{shown(values):<20}" for values in (*beside, *lap))
        print(f"{name:<20} {speed['Keras']:6.1f} {speed['ours']:6.1f}  {columns}", flush=True)
        if max(medians := [statistics.median(values) for values in beside]) < LEAST:
            slow.append(f"{name}: {medians[0]:.2f} (processors: {medians[1]:.2f}) of the speed of Keras' network")
    return slow


# Part "growth". A child process keeps one training here.
_child: dict = {}


def _memory(field: str) -> float:
    """Of this process, in MB: "VmRSS", the resident set, or "VmHWM", the highest so far."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024 / 1e6


def _begin(network: str, batch_size: int, size: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # TensorFlow's chatter; errors come back as exceptions
    training = training_of(network, size, TRAINED.changed(batch_size=batch_size))
    batch = batch_of(batch_size, size)
    # TensorFlow does not give the memory of a step back, so what a large one takes is seen against a small one's.
    step_seconds(training, batch_of(1, size))
    _child.update(training=training, batch=batch, small=_memory("VmRSS"))
    step_seconds(training, batch)  # builds its graph
    Path("/proc/self/clear_refs").write_text("5")  # the highest begins anew


def _take(steps: int) -> float:
    return step_seconds(_child["training"], _child["batch"], steps)


def _peak() -> tuple[float, float]:
    """The highest resident set, and what that is above the process after a step with one image."""
    return _memory("VmHWM"), _memory("VmHWM") - _child["small"]


def growth(chosen) -> list[str]:
    network = chosen.models[0] if chosen.models else QUICK if chosen.quick else "mobilenet_v2"
    batches, sizes = ((4, 8), (64, 96)) if chosen.quick else ((8, 16, 32, 64), (96, 128, 160, 224))
    rounds = 3 if chosen.quick else 2 * chosen.rounds
    by_batch, by_size = [(n, sizes[1]) for n in batches], [(batches[1], size) for size in sizes]
    cases = sorted({*by_batch, *by_size})
    children = {case: ProcessPoolExecutor(1, get_context("spawn")) for case in cases}
    try:
        with ThreadPoolExecutor(2) as starting:  # not all at once
            list(starting.map(lambda case: children[case].submit(_begin, network, *case).result(), cases))
        subjects = {case: lambda case=case: children[case].submit(_take, 1).result() for case in cases}
        found = in_turn(subjects, rounds)
        memory = {case: children[case].submit(_peak).result() for case in cases}
    finally:
        for child in children.values():
            child.shutdown()
    print(f"\ngrowth: {network}, relative to the first of each block")
    print(f"{'batch':>5} {'pixels':>6} {'ms':>7}  {'time':<22} {'MB':>6} {'above':>6} {'memory':>7}")
    for block, varied in ((by_batch, lambda case: case[0]), (by_size, lambda case: case[1] ** 2)):
        first = block[0]
        for case in block:
            took, (peak, above) = found[case], memory[case]
            milliseconds = 1e3 * statistics.median(took)
            print(
                f"{case[0]:5} {case[1]:6} {milliseconds:7.0f}  {shown(ratios(took, found[first])):<22} "
                f"{peak:6.0f} {above:6.0f} {above / memory[first][1]:7.2f}"
            )
        xs = [varied(case) for case in block]
        seconds, above = [statistics.median(found[case]) for case in block], [memory[case][1] for case in block]
        grown = "the batch" if block is by_batch else "the count of pixels"
        per, constant = np.polyfit([n * size**2 / 1e6 for n, size in block], [memory[case][0] for case in block], 1)
        print(f"      exponents over {grown}: time {slope(xs, seconds):.2f}, memory above {slope(xs, above):.2f}")
        print(
            f"      straight line of the memory: {constant:.0f} MB, and {per:.0f} MB for a million pixels of the batch"
        )
    return []


def photographs(folder: Path, count: int) -> None:
    """JPEGs of 500 x 375 in two sub-folders, smooth with some grain: about as long to decode as photographs."""
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (18, 24, 3), np.uint8))
        pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.float32)
        pixels = (pixels + random.normal(0, 8, (375, 500, 1))).clip(0, 255).astype(np.uint8)
        path = folder / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)


def with_input(chosen, folder: str) -> list[str]:
    batch_size, size, rounds, steps, idle = (8, 96, 2, 4, 2) if chosen.quick else (16, 224, chosen.rounds // 2, 6, 4)
    networks = chosen.models or ([QUICK] if chosen.quick else ["mobilenet_v3_small", "efficientnet_lite0"])
    source = sources.find(folder)
    plain = recipes.FINETUNE.changed(batch_size=batch_size, epochs=10_000)
    place = Distribution(tf.distribute.get_strategy())
    iterators = {}
    for name in AUGMENTED:
        recipe = replace(plain, augment=(recipes.OURS["classify"].get(name) or recipes.paper(name)).augment)
        plan, objective = Plan(recipe, len(source), size), ClassificationObjective(CLASSES, recipe)
        reader = pipeline.Reader(source, objective.problem, pipeline.Broken())
        iterators[name] = partial(pipeline.training_batches, reader, plan, objective, place)
    trainings = {network: training_of(network, size, plain) for network in networks}
    always = batch_of(batch_size, size)

    def alone(name: str) -> float:
        """Seconds a batch of the pipeline, once its buffers are empty."""
        iterator = iter(iterators[name]())
        next(iterator), next(iterator)  # two are under way at once
        started = time.perf_counter()
        for _ in range(steps):
            next(iterator)
        return (time.perf_counter() - started) / steps

    waits = {pair: [] for pair in itertools.product(networks, AUGMENTED)}

    def both(network: str, name: str) -> float:
        iterator, training = iter(iterators[name]()), trainings[network]
        for _ in range(idle):  # as many as may be ready beforehand
            step_seconds(training, next(iterator))
        waited, started = 0.0, time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            batch = next(iterator)
            waited += time.perf_counter() - asked
            step_seconds(training, batch)
        total = time.perf_counter() - started
        waits[network, name].append(waited / total)
        return total / steps

    subjects = {name: lambda name=name: alone(name) for name in AUGMENTED}
    for network in networks:
        subjects[network] = lambda training=trainings[network]: step_seconds(training, always, steps)
        for name in AUGMENTED:
            subjects[network, name] = lambda pair=(network, name): both(*pair)
    for network in networks:  # build the graphs: for bytes, and for floats where images are mixed
        step_seconds(trainings[network], next(iter(iterators["finetune"]())))
        step_seconds(trainings[network], always)
    found = in_turn(subjects, rounds)
    print(
        f"\ninput: images a second at {size} pixels, batch {batch_size}, {os.cpu_count()} processors, "
        f"{len(reader)} images"
    )
    print(
        f"{'':<20} {'recipe':<17} {'pipeline':>8} {'step':>6} {'both':>6} {'at most':>7}  {'both / step':<22} waiting"
    )
    for network, name in waits:
        images = [batch_size / statistics.median(found[key]) for key in (name, network, (network, name))]
        bound = 1 / (1 / images[0] + 1 / images[1])
        print(
            f"{network:<20} {name:<17} {images[0]:8.0f} {images[1]:6.0f} {images[2]:6.0f} {bound:7.0f}  "
            f"{shown(ratios(found[network], found[network, name])):<22} {statistics.median(waits[network, name]):.1%}"
        )
    return []


def learnable(count: int, batch_size: int, size: int, classes: int) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Batches of noisy pictures of a class each."""
    random = np.random.default_rng(0)
    patterns = random.normal(0, 1, (classes, 8, 8, 3)).repeat(size // 8, 1).repeat(size // 8, 2)
    labels = random.integers(classes, size=(count, batch_size))
    return [
        (
            tf.constant(patterns[row] + random.normal(0, 1, (batch_size, size, size, 3)), tf.float32),
            tf.one_hot(row, classes),
        )
        for row in labels
    ]


def modes(chosen) -> list[str]:
    batch_size, size, steps, before, classes = (16, 32, 8, 8, 10) if chosen.quick else (16, 64, 30, 20, 10)
    network, options = (QUICK, {"alpha": 0.25}) if chosen.quick else ("mobilenet_v2", {"alpha": 0.35})
    if chosen.models:
        network, options = chosen.models[0], {}
    options |= {"classes": classes, "dropout_rate": 0.0}
    batches = learnable(before + steps, batch_size, size, classes)
    recipe = replace(TRAINED.changed(batch_size=batch_size), head_rate=1.0)
    fast = training_of(network, size, replace(recipe, rate=Rate("constant", 1e-3)), **options)
    for batch in batches[:before]:
        fast.step(batch)
    slowly, weights = replace(recipe, rate=Rate("constant", chosen.learning_rate)), fast.weights()
    trainings, compiling = {}, {}
    for mode, settings in MODES.items():
        training = trainings[mode] = training_of(network, size, slowly, settings, **options)
        training.model.set_weights(weights)
        state = training.state()
        compiling[mode] = step_seconds(training, batches[before])
        training.restore(state)
    losses, seconds = {mode: [] for mode in MODES}, {mode: [] for mode in MODES}
    for number, batch in enumerate(batches[before:]):
        for mode in list(MODES)[number % len(MODES) :] + list(MODES)[: number % len(MODES)]:
            started = time.perf_counter()
            losses[mode].append(trainings[mode].step(batch)[0])
            seconds[mode].append(time.perf_counter() - started)
    print(f"\nmodes: {network} {options}, {size} pixels, batch {batch_size}, {steps} steps after {before} in float32")
    print(f"{'':<10} {'first loss':>10} {'last':>7} {'largest difference':>18}  {'step / float32':<22} compiling")
    for mode in MODES:
        difference = max(abs(a / b - 1) for a, b in zip(losses[mode], losses["float32"], strict=True))
        print(
            f"{mode:<10} {losses[mode][0]:10.3f} {losses[mode][-1]:7.3f} {difference:18.3%}  "
            f"{shown(ratios(seconds[mode], seconds['float32'])):<22} {compiling[mode]:7.1f} s"
        )
    return []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("throughput", "growth", "input", "modes")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(parts)}; left out, all")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="instead of the part's own networks")
    parser.add_argument("--size", type=int, default=128, help="pixels of the part throughput")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--xla", action="store_true", help="throughput with XLA")
    parser.add_argument("--learning-rate", type=float, default=3e-5, help="of the part modes")
    parser.add_argument("--data", metavar="FOLDER", help="labelled images for the part input; left out, synthetic ones")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true", help="exit 1 if one of our networks is slower than Keras'")
    chosen = parser.parse_args()
    if wrong := [part for part in chosen.parts if part not in parts]:
        parser.error(f"no part is called {wrong[0]}; there are {', '.join(parts)}")
    tf.get_logger().setLevel("ERROR")  # each network has a graph of its own, which it takes for one built too often
    slow = []
    for part in chosen.parts or parts:
        if part == "throughput":
            slow += throughput(chosen)
        elif part == "growth":
            growth(chosen)
        elif part == "modes":
            modes(chosen)
        elif chosen.data:
            with_input(chosen, chosen.data)
        else:
            with tempfile.TemporaryDirectory() as folder:
                photographs(Path(folder), 64)
                with_input(chosen, folder)
    if chosen.check and slow:
        sys.exit("\n".join(slow))


if __name__ == "__main__":
    main()
