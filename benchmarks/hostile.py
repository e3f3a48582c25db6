"""Read some hundred damaged and hostile files of every format: each must be read, or refused with a RequestError, in
bounded time and memory.

    python benchmarks/hostile.py [--seed 0] [--each 30]

The files are those of tests/support/hostile_files.py, the SavedModel folders those of hostile_folders.py. They are read
in a child process, which is ended after a minute without an answer; what was being read then is a failure. Exit status
1 where a file fails.
"""

import argparse
import json
import selectors
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.support import hostile_files, hostile_folders  # noqa: E402
from tests.support.hostile_files import Outcome  # noqa: E402

PATIENCE = 60.0  # seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the damaged files")
    parser.add_argument("--each", type=int, default=30, help="damaged files of each format")
    parser.add_argument("--show", action="store_true", help="what came of each file")
    parser.add_argument("--only", default="", help="files whose names contain this")
    parser.add_argument("--folder", help=argparse.SUPPRESS)  # the child's
    arguments = parser.parse_args()
    if arguments.folder:
        return _serve(Path(arguments.folder))
    with tempfile.TemporaryDirectory() as folder:
        names = _write(Path(folder), arguments)
        outcomes = {}
        for outcome in _read_all(Path(folder), names):
            outcomes[outcome.name] = outcome
            if arguments.show:
                print(
                    f"{outcome.name}: {outcome.told} ({outcome.seconds:.1f} s, {outcome.growth / 1e6:.0f} MB)",
                    flush=True,
                )
    kinds = Counter((name.split("-")[0], "read" if outcome.told == "read" else outcome.told.split(":")[0])
                    for name, outcome in outcomes.items())  # fmt: skip
    for (kind, told), count in sorted(kinds.items()):
        print(f"{kind:10} {told:20} {count:5}")
    slowest, largest = (max(outcomes.values(), key=key) for key in (lambda o: o.seconds, lambda o: o.growth))
    print(f"most time    {slowest.seconds:7.1f} s    {slowest.name}")
    print(f"most memory  {largest.growth / 1e6:7.0f} MB   {largest.name} ({largest.size / 1e6:.1f} MB)")
    failed = [outcome for outcome in outcomes.values() if not outcome.is_fine]
    for outcome in failed:
        print(f"FAILED {outcome.name}: {outcome.told} ({outcome.seconds:.1f} s, {outcome.growth / 1e6:.0f} MB)")
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} files were read or refused as they should be")
    return 1 if failed else 0


def _write(folder: Path, arguments) -> list[str]:
    files = dict(hostile_files.hostile())
    files |= dict(hostile_files.damaged(arguments.seed, arguments.each, {"tflite-small.tflite": _small_tflite()}))
    base = hostile_folders.good()
    files |= dict(hostile_folders.hostile(base)) | dict(hostile_folders.damaged(base, arguments.seed, arguments.each))
    names = [name for name in files if arguments.only in name]
    for name in names:
        content = files[name]
        if isinstance(content, dict):
            hostile_folders.write(content, folder / name)
        else:
            (folder / name).write_bytes(content() if callable(content) else content)
    return names


def _small_tflite() -> bytes:
    import keras

    from mobilenets_tf.export import to_tflite

    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.Flatten()])
    with tempfile.TemporaryDirectory() as folder:
        return to_tflite(model, "float32", path=Path(folder, "small.tflite")).path.read_bytes()


def _read_all(folder: Path, names: list[str]) -> Iterator[Outcome]:
    left = list(names)
    while left:
        command = [sys.executable, __file__, "--folder", str(folder)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as child:
            selector = selectors.DefaultSelector()
            selector.register(child.stdout, selectors.EVENT_READ)
            child.stdout.readline()  # it has imported what it needs, which is no file's time
            while left:
                name = left.pop(0)
                child.stdin.write(f"{name}\n".encode())
                child.stdin.flush()
                line = child.stdout.readline() if selector.select(PATIENCE) else b""
                if not line:
                    child.kill()
                    end = "the process ended" if child.wait() != -9 else f"no answer within {PATIENCE:.0f} s"
                    yield Outcome(name, end, PATIENCE, 0, hostile_files.size_of(folder / name))
                    break
                yield Outcome(**json.loads(line))
            else:
                child.stdin.close()


def _serve(folder: Path) -> int:
    import keras  # noqa: F401 (its memory is not a file's)
    import tensorflow as tf

    tf.function(tf.identity).get_concrete_function(tf.TensorSpec((1,)))  # nor is what TensorFlow takes at first

    answers, sys.stdout = sys.stdout, sys.stderr  # what readers print must not get between the answers
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(asdict(hostile_files.read(folder / line.strip()))), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
