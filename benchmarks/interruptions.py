"""End commands in the middle, fill disks, run two commands on one folder, and check what is left.

    python benchmarks/interruptions.py                          # 20 moments of each verb and signal: hours
    python benchmarks/interruptions.py --moments 2 --verbs train

Each verb that writes runs once undisturbed. Then it is ended at moments that are spread over this time: with SIGINT to
the process group (Ctrl-C), SIGTERM, SIGKILL, and SIGKILL to the child process alone. After each end this is checked:

* the exit status is 130, 143, -9 or 2 (0 where the command was faster; -2 or -15 before Python has begun and after it
  has ended), and there is no traceback;
* after 3 seconds none of the command's processes is left;
* in --out and in the temporary directory nothing is half-written, and (except after SIGKILL) nothing is left over;
* where files are left, the same command again succeeds, gives the same bytes as the undisturbed one, and removes what
  SIGKILL left over. (A table of latencies has other times each time: only its form is looked at.)

Then: a checkpoint with changed bytes, a shortened one, and one of another model are refused by name (the partial table
of ``latency``: a warning, and it begins anew); the good one is gone on from. Small disks (tmpfs; needs root on Linux)
for --out, the temporary directory and the cache: the command succeeds, or ends with 2 and one line with a remedy, and
nothing is half-written. Two commands at the same time on one folder: one set of files, whole.

The exit status is 1 if a check failed.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # the synthetic machine is a support of the tests

from mobilenets_tf.files import sha256_of

COMMAND = [sys.executable, "-c", "import sys; from mobilenets_tf.cli import main; sys.exit(main())"]
MODEL = ["{inputs}/net.keras", "--mean", "127.5", "--std", "127.5"]
VERBS = {
    "deploy": [*MODEL, "--calibration", "{inputs}/photos", "--min-agreement", "0", "--out", "{out}"],
    "train": [
        *MODEL, "--data", "{inputs}/photos", "--epochs", "6", "--batch-size", "8", "--save-every", "2", "--threads",
        "1", "--out", "{out}",
    ],
    "qat": [
        *MODEL, "--data", "{inputs}/photos", "--epochs", "2", "--batch-size", "8", "--threads", "1", "--checkpoint",
        "{out}/checkpoint", "--out", "{out}",
    ],
    "report": [
        *MODEL, "--calibration", "{inputs}/photos", "--schemes", "float16", "int8", "--calls", "3", "--min-agreement",
        "0", "--out", "{out}",
    ],
    "latency": [*MODEL, "--networks", "5", "--minutes", "0", "--out", "{out}/table.json"],
    "search": [
        *MODEL, "--data", "{inputs}/many", "--evaluate", "{inputs}/many", "--table", "{inputs}/table.json",
        "--elsewhere", "--scheme", "float32", "--target", "0.7", "--step", "0.1", "--steps", "2", "--tried", "1",
        "--epochs", "1", "--batch-size", "32", "--train-threads", "1", "--out", "{out}",
    ],
}  # fmt: skip
# Where the checkpoints of a verb are, in --out.
CHECKPOINTS = {
    "train": "net.checkpoint.npz",
    "qat": "checkpoint/fine_tuning.checkpoint.npz",
    "search": "work/net.search.npz",
}
# How a command is ended -> its exit status.
ENDS = {"INT": 130, "TERM": 143, "KILL": -signal.SIGKILL, "CHILD": 2}
_SECONDS_TO_END = 3.0
DONE = (0, 1)
# Files with measured times, which differ from run to run.
_TIMED = (".html", ".json")


@dataclass
class Case:
    """One run of a command: its folders, how it ended, and what is wrong."""

    folder: Path
    status: int | None = None
    errors: str = ""
    wrong: list[str] = field(default_factory=list)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=20, help="of each verb and signal (default 20)")
    parser.add_argument("--verbs", nargs="+", default=list(VERBS), choices=list(VERBS))
    parser.add_argument("--ends", nargs="*", default=list(ENDS), choices=list(ENDS))
    parser.add_argument(
        "--parts", nargs="+", default=["ends", "checkpoints", "disks", "pairs"],
        choices=["ends", "checkpoints", "disks", "pairs"],
    )  # fmt: skip
    arguments = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="interruptions-") as name:
        folder = Path(name)
        make_inputs(folder / "inputs")
        for verb in arguments.verbs:
            whole = undisturbed(folder, verb)
            parts = {
                "ends": lambda verb=verb, whole=whole: ends(folder, verb, whole, arguments.moments, arguments.ends),
                "checkpoints": lambda verb=verb, whole=whole: checkpoints(folder, verb, whole[1]),
                "disks": lambda verb=verb: disks(folder, verb),
                "pairs": lambda verb=verb: pairs(folder, verb),
            }
            for part in arguments.parts:
                for label, case in parts[part]():
                    failed += bool(case.wrong)
                    last = case.errors.strip().splitlines()[-1:] or [""]
                    print(f"{verb:<7} {label:<28} exit {case.status!s:>4}  {last[0][:110]}", flush=True)
                    for text in case.wrong:
                        print(f"        WRONG: {text}", flush=True)
                    shutil.rmtree(case.folder, ignore_errors=True)
    print(f"{failed} cases are wrong")
    return 1 if failed else 0


def make_inputs(folder: Path) -> None:
    """Draw pictures of two classes, build a small model and another one of the same form, and a table of latencies."""
    import keras
    import numpy as np
    from PIL import Image

    from mobilenets_tf.search.latency.base_file import file_of
    from tests.support.synthetic_machine import table_of

    random = np.random.default_rng(0)
    for index in range(24 + 300):
        place = folder / ("photos" if index < 24 else "many") / "ab"[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(90 * (index % 2), 160 + 90 * (index % 2), (6, 6, 3)).astype(np.uint8))
        coarse.resize((40, 40), Image.Resampling.BILINEAR).save(place / f"{index}.png")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = x = keras.Input((32, 32, 3))
    for filters in (16, 32):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(x))
    model.save(folder / "net.keras")
    table_of(file_of(model, "float32"), "float32").write(folder / "table.json")
    model.set_weights([0.5 * values for values in model.get_weights()])
    model.save(folder / "other.keras")


def start(case: Case, verb: str, *more: str, **environment: str) -> subprocess.Popen:
    """Start a command in the folders of a case, as the leader of a process group."""
    case.temporary.mkdir(parents=True, exist_ok=True)
    inputs = case.folder.parent / "inputs"
    words = [word.format(inputs=inputs, out=case.out) for word in VERBS[verb]]
    return subprocess.Popen(
        [*COMMAND, verb, *words, "--quiet", *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(case.temporary)} | environment,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs of a shell ignore it
    )


def finish(case: Case, process: subprocess.Popen) -> None:
    _, case.errors = process.communicate(timeout=1200)
    case.status = process.returncode
    if "Traceback" in case.errors:
        case.wrong.append(f"a traceback: {case.errors[-400:]}")


def undisturbed(folder: Path, verb: str) -> tuple[float, dict[str, str]]:
    """Run a command to its end. Return how long it took, and the sha256 of its files. A file may fail its checks (exit
    status 1): the model is not trained.
    """
    case, started = Case(folder / "whole"), time.monotonic()
    finish(case, start(case, verb))
    seconds, found = time.monotonic() - started, results(case.out)
    if case.status not in DONE:
        sys.exit(f"{verb} fails undisturbed: {case.errors}")
    shutil.rmtree(case.folder)
    print(f"{verb}: undisturbed {seconds:.1f} s, {len(found)} files")
    return seconds, found


def results(out: Path) -> dict[str, str]:
    """The sha256 of each result that has no measured times in it."""
    paths = [path for path in out.glob("*") if path.is_file() and path.suffix not in _TIMED]
    return {path.name: sha256_of(path) for path in paths}


def ends(folder: Path, verb: str, whole: tuple[float, dict], moments: int, how: list[str]):
    """End the command at each moment in each way, and run it again."""
    seconds, expected = whole
    for order, end in enumerate(how):
        for moment in range(moments):
            case = Case(folder / f"{verb}-{end}-{moment}")
            after = seconds * (moment + (order + 0.5) / len(how)) / moments  # no two ways end it at the same moment
            process = start(case, verb)
            children = until(after, process)
            sent = "TERM" if end == "CHILD" and not children else end  # no child yet, or none any more
            send(sent, process, children)
            finish(case, process)
            # Before Python has begun, and after it has ended, the signal itself ends the process.
            outside = () if children else (-getattr(signal, f"SIG{sent}"),)
            if case.status not in (ENDS[sent], *DONE, *outside):
                case.wrong.append(f"exit status {case.status}, expected {ENDS[sent]}: {case.errors[-300:]}")
            if left := still_running(case):
                case.wrong.append(f"processes that run on: {left}")
            check_whole(case, leftovers=end == "KILL")
            if any(path.is_file() for path in case.folder.rglob("*")):  # else the next run is like the first
                run_again(case, verb, expected)
            yield f"{end} after {after:.1f} s", case


def run_again(case: Case, verb: str, expected: dict[str, str]) -> None:
    """Run the command of a case again, and check that this gives the files of the undisturbed one and nothing else."""
    again = Case(case.folder)
    finish(again, start(again, verb))
    case.wrong += again.wrong
    if again.status not in DONE:
        case.wrong.append(f"the next run: exit status {again.status}: {again.errors[-300:]}")
    elif (found := results(case.out)) != expected:
        case.wrong.append(f"the next run has other bytes: {sorted(found.items() ^ expected.items())}")
    check_whole(case, leftovers=False)


def until(seconds: float, process: subprocess.Popen) -> list[int]:
    """Wait, at most until the process ends. Return the processes that it has started by then."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    return []


def send(end: str, process: subprocess.Popen, children: list[int]) -> None:
    with contextlib.suppress(ProcessLookupError):
        if end == "INT":
            os.killpg(process.pid, signal.SIGINT)
        elif end == "CHILD":
            for child in children:
                os.kill(child, signal.SIGKILL)
        else:
            process.send_signal(signal.SIGTERM if end == "TERM" else signal.SIGKILL)


def still_running(case: Case) -> list[str]:
    """Wait for the processes that were started with the case's temporary directory. Return those that do not end."""
    deadline = time.monotonic() + _SECONDS_TO_END
    while True:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(case.temporary).encode() in (entry / "environ").read_bytes():
                    found.append(entry.name)
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def check_whole(case: Case, leftovers: bool) -> None:
    """Check that the files in --out are those that a manifest lists, and that the temporary directory is empty.

    Args:
        leftovers: whether temporary folders may be left.
    """
    for manifest in case.out.glob("*.json"):
        try:
            listed = json.loads(manifest.read_text()).get("files", [])  # a table of latencies lists none
        except ValueError as error:
            case.wrong.append(f"{manifest.name} is damaged: {error}")
            continue
        for entry in listed:
            path = case.out / entry["file"]
            if not path.is_file() or sha256_of(path) != entry["sha256"]:
                case.wrong.append(f"{manifest.name} lists {path.name}, which is not there or another file")
    if leftovers:
        return
    left = [str(path.relative_to(case.folder)) for path in case.temporary.glob("*")]
    left += [str(path.relative_to(case.folder)) for path in case.out.rglob(".*")]
    if left:
        case.wrong.append(f"left over: {left[:5]}")


def checkpoints(folder: Path, verb: str, expected: dict[str, str]):
    """Kill a command at its first checkpoint, give the next runs damaged ones, and go on from the good one."""
    if verb == "latency":
        yield from partial_tables(folder)
    if verb not in CHECKPOINTS:
        return
    case = Case(folder / f"{verb}-checkpoint")
    checkpoint = killed_at_checkpoint(case, verb)
    if checkpoint is None:
        yield "no checkpoint", case
        return
    offer_damaged(case, verb, checkpoint)
    run_again(case, verb, expected)
    yield "checkpoint", case


def partial_tables(folder: Path):
    """Give ``latency`` partial tables that are none: it warns, begins anew, and leaves the table alone."""
    for label, content in (("no JSON", b"{"), ("of something else", b'{"request": 1}')):
        case = Case(folder / f"latency-{label}")
        case.out.mkdir(parents=True)
        (case.out / "table.json.partial").write_bytes(content)
        finish(case, start(case, "latency"))
        if case.status not in DONE or "measuring begins anew" not in case.errors:
            case.wrong.append(f"exit status {case.status}, and not said that measuring begins anew: {case.errors}")
        if [path.name for path in case.out.iterdir()] != ["table.json"]:
            case.wrong.append(f"left: {sorted(path.name for path in case.out.iterdir())}")
        yield f"a partial table, {label}", case


def killed_at_checkpoint(case: Case, verb: str) -> Path | None:
    """Kill a command as soon as there is a checkpoint. Return the checkpoint; None if the command was faster."""
    process, checkpoint = start(case, verb), case.out / CHECKPOINTS[verb]
    while not checkpoint.is_file() and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    finish(case, process)
    if left := still_running(case):
        case.wrong.append(f"processes that run on: {left}")
    check_whole(case, leftovers=True)
    return checkpoint if checkpoint.is_file() else None


def offer_damaged(case: Case, verb: str, checkpoint: Path) -> None:
    """Run the command with a damaged checkpoint, and with that of another model, and check that it refuses them by
    name. Afterwards the checkpoint is as it was."""
    inputs = case.folder.parent / "inputs"
    content, model = checkpoint.read_bytes(), (inputs / "net.keras").read_bytes()
    middle = len(content) // 2
    # More than the header of a ZIP entry, which has bytes that nobody reads.
    changed = bytes(byte ^ 0xFF for byte in content[middle : middle + 256])
    for damaged, said in (
        (content[:middle] + changed + content[middle + 256 :], "is damaged"),
        (content[:middle], "is damaged"),
        (content, "is of an unfinished"),
    ):
        checkpoint.write_bytes(damaged)
        if damaged is content:
            (inputs / "net.keras").write_bytes((inputs / "other.keras").read_bytes())
        finish(case, start(case, verb))
        (inputs / "net.keras").write_bytes(model)
        if case.status != 2 or f"{checkpoint.name} {said}" not in case.errors:
            case.wrong.append(f"exit status {case.status}, and not said that {checkpoint.name} {said}: {case.errors}")
    checkpoint.write_bytes(content)


def disks(folder: Path, verb: str):
    """Give the command small disks, from nothing to almost enough."""
    for what in ("out", "tmp", "cache"):
        for size in (4, 16, 64, 256, 1024):  # kB; Python takes no temporary directory where 4 is all there is
            case = Case(folder / f"{verb}-{what}-{size}")
            place = case.folder / what
            place.mkdir(parents=True)
            mounted = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(place)], capture_output=True, text=True
            )
            if mounted.returncode:
                print(f"{verb}: no small disks here ({mounted.stderr.strip()})")
                return
            try:
                cache = str(case.folder / "cache")
                finish(case, start(case, verb, MOBILENETS_TF_HOME=cache, XDG_CACHE_HOME=cache, MPLCONFIGDIR=cache))
                if case.status not in (*DONE, 2):
                    case.wrong.append(f"exit status {case.status}")
                lines = [line for line in case.errors.splitlines() if line and not line.startswith("warning: ")]
                if case.status == 2 and (len(lines) != 1 or "space" not in lines[0]):
                    case.wrong.append(f"no line with a remedy: {case.errors[-300:]}")
                check_whole(case, leftovers=False)
                yield f"{size} kB for {what}", case
            finally:
                subprocess.run(["umount", "-l", str(place)], capture_output=True)


def pairs(folder: Path, verb: str):
    """Run the command twice at the same time on one folder."""
    case = Case(folder / f"{verb}-pair")
    run_twice(case, verb)
    yield "two at a time", case


def run_twice(case: Case, verb: str) -> None:
    other = Case(case.folder)
    processes = [start(case, verb), start(other, verb)]
    for each, process in zip((case, other), processes, strict=True):
        finish(each, process)
    case.wrong += other.wrong
    if not {case.status, other.status} & set(DONE) or {case.status, other.status} - {*DONE, 2}:
        case.wrong.append(f"exit status {case.status} and {other.status}: {case.errors[-200:]} {other.errors[-200:]}")
    check_whole(case, leftovers=False)
    case.errors += other.errors


if __name__ == "__main__":
    sys.exit(main())
