"""LiteRT's ``benchmark_model`` on an attached phone, driven by adb, and what it prints.

There are two tools of that name, and both work: TensorFlow Lite's (tflite/tools/benchmark in google-ai-edge/LiteRT),
which can use NNAPI, and LiteRT's (litert/tools/benchmark_litert_model), which cannot. Each ignores flags that only the
other knows; where that changes what is measured, it is an error here.

What a phone prints is text from elsewhere: it is read up to a bound, searched for what the tool is known to print, and
shown without control characters.
"""

import contextlib
import http.client
import math
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.export.speed.op_profile import Op
from mobilenets_tf.files import cache_folder
from mobilenets_tf.progress import Progress, silent, track

_SECONDS = 60  # for what should take no time
_PUSH_SECONDS = 600
_MOST_OUTPUT = 4 << 20  # characters that are read of a command's output
_MOST_LINE = 1000
_MOST_DOWNLOAD = 200 << 20  # bytes; the tools have some 10 MB
_DOWNLOAD_SECONDS = 600
_MOST_ERRORS = 20
_SDK_VARIABLES = ("ANDROID_HOME", "ANDROID_SDK_ROOT")
_STATUS = "mobilenets-tf-status="
_PROFILING = ("--enable_op_profiling=true", "--use_profiler=true")  # TensorFlow Lite's tool's, LiteRT's tool's
_ABIS = {183: "arm64-v8a", 40: "armeabi-v7a", 62: "x86_64", 3: "x86"}  # e_machine in ELF: Android's name
_STATES = {
    "unauthorized": "it has not allowed this computer: unlock it and accept the question for USB debugging",
    "authorizing": "it is being asked to allow this computer: unlock it and accept the question for USB debugging",
    "offline": "it does not answer: plug it in again, or restart adb with 'adb kill-server'",
    "no permissions": "this user may not open the USB device: install your distribution's udev rules for Android",
}


@dataclass(frozen=True)
class Device:
    """An attached device as ``adb devices`` lists it. state: "device" if it can be used."""

    serial: str
    state: str


@dataclass(frozen=True)
class Options:
    """How to run the tool. cores: the mask of the cores to run on, in hexadecimal, as Android's taskset takes it."""

    calls: int = 50
    threads: int = 1
    use_gpu: bool = False
    use_nnapi: bool = False
    cores: str | None = None
    profile: bool = False
    timeout: float = 600.0  # seconds for one file

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            RequestError: the mask is not hexadecimal or empty, or both accelerators are asked for.
        """
        if self.cores is not None and not (re.fullmatch(r"[0-9a-fA-F]{1,16}", self.cores) and int(self.cores, 16)):
            raise RequestError(
                f"--cores takes a mask in hexadecimal, such as f0 for cores 4 to 7; received {self.cores!r}."
            )
        if self.use_gpu and self.use_nnapi:
            raise RequestError("--use-gpu and --use-nnapi are two places to run on; choose one.")


@dataclass(frozen=True)
class Statistics:
    """Of the times of some runs, in ms. None: this version of the tool does not print it."""

    average_ms: float
    count: int | None = None
    first_ms: float | None = None
    least_ms: float | None = None
    most_ms: float | None = None
    deviation_ms: float | None = None
    p5_ms: float | None = None
    median_ms: float | None = None
    p95_ms: float | None = None


@dataclass(frozen=True)
class Delegate:
    """What the tool says of a delegate.

    executes: "completely", "partially" or "not", of the graph; None if it does not say. nodes, of, partitions: how many
    of how many ops it took, in how many parts.
    """

    name: str
    executes: str | None = None
    nodes: int | None = None
    of: int | None = None
    partitions: int | None = None


@dataclass(frozen=True)
class Output:
    """What one run of the tool printed. inference: None if it did not come to that.

    init_ms: to load the file and prepare it. The memory is what was added since the tool's start, in MB, and peak only
    if the tool watched it. ignored: flags that the tool did not know. errors: its error messages, the first few.
    """

    init_ms: float | None
    warm_up: Statistics | None
    inference: Statistics | None
    init_memory_mb: float | None
    memory_mb: float | None
    peak_memory_mb: float | None
    delegates: tuple[Delegate, ...]
    ops: tuple[Op, ...]
    ignored: tuple[str, ...]
    errors: tuple[str, ...]


@dataclass(frozen=True)
class Tool:
    """The ``benchmark_model`` to push. abi: Android's name for the processor that it is for."""

    path: Path
    sha256: str
    abi: str

    def as_dict(self) -> dict:
        """For JSON."""
        return {"path": str(self.path), "sha256": self.sha256, "abi": self.abi}


@dataclass(frozen=True)
class DeviceBenchmark:
    """One file on one device. device: serial, model, Android's version, ABIs. command: what ran there.

    accelerated: whether the tool said that the GPU or NNAPI runs at least a part of the file; None if neither was asked
    for. The tools go on without a word on the CPU where an accelerator refuses.
    """

    file: str
    device: Mapping[str, str]
    command: str
    accelerated: bool | None
    output: Output

    def as_dict(self) -> dict:
        """For JSON."""
        about = {"file": self.file, "device": dict(self.device), "command": self.command}
        return about | {"accelerated": self.accelerated} | asdict(self.output)


def find_adb(path: str | None = None) -> str:
    """The adb to use: ``path``, else that on PATH or in the Android SDK.

    Raises:
        RequestError: there is none.
    """
    if path:
        if found := shutil.which(path):
            return found
        raise RequestError(f"--adb: {path} is not an executable file.")
    folders = [Path(os.environ[name], "platform-tools") for name in _SDK_VARIABLES if os.environ.get(name)]
    for candidate in ("adb", *(str(folder / "adb") for folder in folders)):
        if found := shutil.which(candidate):
            return found
    raise RequestError(
        "adb was not found. Install Android's platform tools (Debian and Ubuntu: apt install adb; elsewhere with "
        "Android Studio's SDK manager), or say where adb is with --adb PATH."
    )


def devices(adb: str) -> list[Device]:
    """The attached devices, usable or not.

    Raises:
        RequestError: adb cannot be run or fails.
    """
    found = []
    for line in _adb(adb, "devices").splitlines():
        serial, _, state = line.strip().partition("\t")
        if state:
            state = next((known for known in _STATES if state.startswith(known)), state.strip())
            found.append(Device(_plain(serial), _plain(state)))
    return found


def choose(found: Sequence[Device], serial: str | None = None) -> Device:
    """The device to use: the one with the serial number, else the only one that can be used.

    Raises:
        RequestError: there is none, or several, or it cannot be used; with what to do.
    """
    if serial is not None and found:
        if serial not in (serials := [device.serial for device in found]):
            raise unknown("device", serial, serials)
        found = [device for device in found if device.serial == serial]
    usable = [device for device in found if device.state == "device"]
    if len(usable) == 1:
        return usable[0]
    if usable:
        serials = ", ".join(device.serial for device in usable)
        raise RequestError(f"Several devices are attached ({serials}); choose one with --serial.")
    if not found:
        raise RequestError(
            "No Android device is attached. Connect a phone by USB, switch on USB debugging (Settings, Developer "
            "options) and accept the question that it shows; 'adb devices' then lists it."
        )
    reasons = (
        f"{device.serial} is {device.state}: {_STATES.get(device.state, 'it has to be up and running Android')}"
        for device in found
    )
    raise RequestError(f"No attached device can be used. {'; '.join(reasons)}.")


def tool(path_or_url: str) -> Tool:
    """The ``benchmark_model`` to push: a file, or an http(s) address, whose file is fetched into the cache and kept.

    Raises:
        RequestError: no such file; another kind of address; it cannot be fetched; it is no executable for Android.
    """
    path = _download(path_or_url) if "://" in path_or_url else Path(path_or_url)
    if not path.is_file():
        raise RequestError(f"--benchmark-model: there is no file {path}.")
    content = path.read_bytes()
    machine = int.from_bytes(content[18:20], "little")
    if content[:4] != b"\x7fELF" or machine not in _ABIS:
        raise RequestError(
            f"{path} is not an executable for Android. Give LiteRT's benchmark_model for the phone's processor, as a "
            "rule arm64 (developers.google.com/edge/litert/next/benchmark has links)."
        )
    return Tool(path, sha256(content).hexdigest(), _ABIS[machine])


def run_on_device(
    adb: str,
    device: Device,
    binary: Tool,
    models: Mapping[str, Path],
    options: Options = Options(),
    progress: Progress = silent,
) -> list[DeviceBenchmark]:
    """Push the tool and the files into a folder of their own, run the tool on each file, remove the folder.

    The files run one after another, so a later one may find the phone warmer.

    Args:
        binary: what ``tool`` gives. models: what to call a file -> its path.

    Raises:
        RequestError: adb fails, the tool does, takes too long, or ignores what was asked for.
    """
    options.check()
    target = [adb, "-s", device.serial]
    names = {"model": "ro.product.model", "android": "ro.build.version.release", "abis": "ro.product.cpu.abilist"}
    about = {name: _plain(_adb(*target, "shell", f"getprop {key}").strip()) for name, key in names.items()}
    if about["abis"] and binary.abi not in about["abis"].split(","):
        raise RequestError(
            f"{binary.path} is for {binary.abi}, and {device.serial} ({about['model']}) runs {about['abis']}; give a "
            "benchmark_model for one of these."
        )
    about = {"serial": device.serial, **about}
    results = []
    with _folder(target) as folder:
        _adb(*target, "push", str(binary.path.resolve()), f"{folder}/benchmark_model", seconds=_PUSH_SECONDS)
        _adb(*target, "shell", f"chmod 755 {folder}/benchmark_model")
        for label, model in track(list(models.items()), f"running on {device.serial}", progress):
            _adb(*target, "push", str(model.resolve()), f"{folder}/model.tflite", seconds=_PUSH_SECONDS)
            command = _command(folder, options)
            output = _run_tool(target, folder, command, options, label)
            asked = options.use_gpu or options.use_nnapi
            accelerated = any(
                "xnnpack" not in delegate.name.lower() and delegate.executes != "not" and delegate.nodes != 0
                for delegate in output.delegates
            )
            results.append(DeviceBenchmark(label, about, command, accelerated if asked else None, output))
    return results


def parse(text: str) -> Output:
    """What ``benchmark_model`` printed, of any version since 2019, on a terminal or in Android's log.

    A number that is not finite counts as not printed.
    """
    lines = [_Line.of(line) for line in text.splitlines()]
    runs = [statistics for line in lines if (statistics := _statistics(line.text))]
    warm_up, inference = (*runs[:2], None, None)[:2]
    figures: dict[str, float] = {}
    for line in lines:
        for pattern, names, scale in _FIGURES:
            if match := pattern.match(line.text):
                figures |= {name: float(value) / scale for name, value in zip(names, match.groups(), strict=True)}
    figures = {name: round(value, 6) for name, value in figures.items() if math.isfinite(value)}
    # Where the lines of all statistics are missing, those of single figures have to do.
    warm_up = warm_up or _gathered("warm_up", figures)
    inference = inference or _gathered("inference", figures)
    return Output(
        init_ms=figures.get("init"),
        warm_up=warm_up,
        inference=inference,
        init_memory_mb=figures.get("init_memory"),
        memory_mb=figures.get("memory"),
        peak_memory_mb=figures.get("peak_memory"),
        delegates=tuple(_delegates(lines)),
        ops=tuple(_ops(lines)),
        ignored=tuple(
            flag
            for line in lines
            if line.text.startswith(_UNCONSUMED)
            for flag in line.text[len(_UNCONSUMED) :].split()
        ),
        errors=tuple(line.text for line in lines if line.is_error)[:_MOST_ERRORS],
    )


_UNCONSUMED = "Unconsumed cmdline flags: "
_NUMBER = r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
# pattern of a line, what its groups are, how many of their unit are one ms or MB
_FIGURES = [
    (re.compile(pattern.replace("#", _NUMBER)), names, scale)
    for pattern, names, scale in (
        (r"Inference timings in us: Init: #, First inference: #, Warmup \(avg\): #, Inference \(avg\): #",
         ("init", "warm_up.first_ms", "warm_up.average_ms", "inference.average_ms"), 1e3),
        (r"Average inference timings in us: Warmup: #, Init: #, (?:no stats|Inference): #",
         ("warm_up.average_ms", "init", "inference.average_ms"), 1e3),
        (r"Initialized session in # ?ms", ("init",), 1),
        (r"(?:Memory footprint delta from the start of the tool|Peak memory footprint) \(MB\): init=# overall=#",
         ("init_memory", "memory"), 1),
        (r"Overall peak memory footprint \(MB\) via periodic monitoring: #", ("peak_memory",), 1),
        (r"Model initialization: +# ms", ("init",), 1),
        (r"Warmup \(first\): +# ms", ("warm_up.first_ms",), 1),
        (r"Warmup \(avg\): +# ms \(# runs\)", ("warm_up.average_ms", "warm_up.count"), 1),
        (r"Inference \(avg\): +# ms \(# runs\)", ("inference.average_ms", "inference.count"), 1),
        (r"Inference \(min\): +# ms", ("inference.least_ms",), 1),
        (r"Inference \(max\): +# ms", ("inference.most_ms",), 1),
        (r"Inference \(std\): +#", ("inference.deviation_ms",), 1),
        (r"Init footprint: +# MB", ("init_memory",), 1),
        (r"Overall footprint: +# MB", ("memory",), 1),
        (r"Peak memory: +# MB", ("peak_memory",), 1),
    )
]  # fmt: skip


@dataclass(frozen=True)
class _Line:
    text: str
    is_error: bool

    # In Android's log: month-day, time, process, thread; level and tag. On a terminal: the level, LiteRT's place.
    PREFIX = re.compile(
        r"(?:\d\d-\d\d [\d:.]+ +\d+ +\d+ )?(?:([VDIWEF]) [\w-]+ *: )?(?:(VERBOSE|INFO|WARN(?:ING)?|ERROR|FATAL): )?"
        r"(?:\[\w+\.(?:h|cc):\d+\] )?"
    )

    @classmethod
    def of(cls, line: str) -> "_Line":
        line = line[:_MOST_LINE]
        match = cls.PREFIX.match(line)
        level = match[2] or match[1] or ""
        return cls(_plain(line[match.end() :].rstrip()), level[:1] in ("E", "F"))


def _statistics(text: str) -> Statistics | None:
    """Of a line such as "count=50 first=90 curr=88 min=87 max=95 avg=88.5 std=2 p5=87 median=88 p95=94", in µs."""
    if not re.match(r"count=\d+ ", text):
        return None
    values = {name: float(value) for name, value in re.findall(rf"(\w+)={_NUMBER}", text)}
    if "avg" not in values and "curr" in values:  # of one run, or of runs that took the same, it prints no more
        values |= dict.fromkeys(("first", "min", "max", "avg"), values["curr"])
    if not all(math.isfinite(values.get(name, math.inf)) for name in ("avg", "count")):
        return None
    names = {
        "average_ms": "avg", "first_ms": "first", "least_ms": "min", "most_ms": "max", "deviation_ms": "std",
        "p5_ms": "p5", "median_ms": "median", "p95_ms": "p95",
    }  # fmt: skip
    found = {
        name: round(values[key] / 1e3, 6) for name, key in names.items() if math.isfinite(values.get(key, math.inf))
    }
    return Statistics(count=int(values["count"]), **found)


def _gathered(runs: str, figures: Mapping[str, float]) -> Statistics | None:
    """Of the figures that are called ``<runs>.<field>``."""
    found = {name.partition(".")[2]: value for name, value in figures.items() if name.startswith(f"{runs}.")}
    if "average_ms" not in found:
        return None
    if "count" in found:
        found["count"] = int(found["count"])
    return Statistics(**found)


_APPLIED = re.compile(
    r"(?:Explicitly applied (\w+) delegate, and|Though (\w+) delegate is explicitly applied,) the model graph will "
    r"(?:be )?(completely|partially|not)(?: be)? executed by the delegate(?: w/ (\d+) delegate kernels)?"
)
_REPLACING = re.compile(
    r"Replacing (\d+)(?: out of (\d+))? node\(s\) with delegate \(([^)]*)\) node, yielding (\d+) partitions"
)
_DELEGATED = re.compile(r"(\w+) delegate: (\d+) nodes delegated out of (\d+) nodes with (\d+) partitions")


def _delegates(lines: Sequence[_Line]) -> Iterator[Delegate]:
    for line in lines:
        if match := _APPLIED.match(line.text):
            kernels = match[4] and int(match[4])
            yield Delegate(match[1] or match[2], executes=match[3], partitions=kernels)
        elif match := _REPLACING.match(line.text):
            yield Delegate(match[3], nodes=int(match[1]), of=match[2] and int(match[2]), partitions=int(match[4]))
        elif match := _DELEGATED.match(line.text):
            yield Delegate(match[1], nodes=int(match[2]), of=int(match[3]), partitions=int(match[4]))


def _ops(lines: Sequence[_Line]) -> list[Op]:
    """The rows of the table "Run Order" of the runs that count; other tables are of the preparation, or of subgraphs.

    Its columns differ between versions.
    """
    ops, expected, row, average = [], False, None, 0
    for line in lines:
        columns = re.findall(r"\[([^\]]*)\]", line.text)
        if line.text.startswith("Operator-wise Profiling Info"):
            ops = []
        elif re.fullmatch(r"=+ Run Order =+", line.text):
            expected, row = not ops, None
        elif expected and columns[:1] == ["node type"] and "avg ms" in columns[1:-1]:
            expected, average = False, columns[1:-1].index("avg ms")
            row = re.compile(rf"\s*(\S.*?)((?:\s+{_NUMBER}%?){{{len(columns) - 2}}})(?:\s|$)")
        elif row and (match := row.match(line.text)):
            ms = float(match[2].split()[average].rstrip("%"))
            if math.isfinite(ms):
                ops.append(Op(match[1].removeprefix("Delegate/"), ms, match[1].startswith("Delegate/")))
        else:
            row = None
    return ops


def _command(folder: str, options: Options) -> str:
    """What runs on the device. Both tools' flags for a profile are given, since each ignores the other's."""
    words = ["taskset", options.cores] if options.cores else []
    words += [
        f"{folder}/benchmark_model",
        f"--graph={folder}/model.tflite",
        f"--num_threads={options.threads}",
        f"--num_runs={options.calls}",
    ]
    words += ["--use_gpu=true"] if options.use_gpu else []
    words += ["--use_nnapi=true"] if options.use_nnapi else []
    words += _PROFILING if options.profile else []
    return shlex.join(words)


def _run_tool(target: Sequence[str], folder: str, command: str, options: Options, label: str) -> Output:
    # The device's shell reports the status itself, since old devices do not pass it on; the process is written down,
    # so that it can be ended if this side gives up.
    script = (
        f"{command} 2>&1 & echo $! > {folder}/pid; wait $!; status=$?; rm -f {folder}/pid; echo; echo {_STATUS}$status"
    )
    text = _adb(*target, "shell", script, seconds=options.timeout)
    output = parse(text)
    status = re.findall(rf"^{_STATUS}(\d+)\s*$", text, re.MULTILINE)
    if unheeded := set(shlex.split(command)).intersection(output.ignored).difference(_PROFILING):
        raise RequestError(
            f"This benchmark_model ignores {', '.join(sorted(unheeded))}, so {label} was not measured as asked. NNAPI "
            "needs TensorFlow Lite's benchmark_model; LiteRT's has none."
        )
    if status[-1:] != ["0"] or output.inference is None:
        said = (
            output.errors or [_plain(line) for line in text.splitlines() if line.strip() and _STATUS not in line][-3:]
        )
        ended = f"exit status {status[-1]}" if status else "no exit status"
        raise RequestError(f"benchmark_model failed on {label} ({ended}): {' | '.join(said)[:_MOST_LINE]}")
    return output


@contextlib.contextmanager
def _folder(target: Sequence[str]) -> Iterator[str]:
    """A folder on the device that is removed again, with all that was put there or still runs from there."""
    folder = f"/data/local/tmp/mobilenets-tf-{secrets.token_hex(8)}"
    _adb(*target, "shell", f"mkdir {folder}")
    try:
        yield folder
    finally:
        try:
            _adb(*target, "shell", f"[ -f {folder}/pid ] && kill $(cat {folder}/pid); rm -rf {folder}")
        except RequestError as error:
            warnings.warn(f"{folder} could not be removed from the device: {error}", stacklevel=3)


def _adb(adb: str, *arguments: str, seconds: float = _SECONDS) -> str:
    """What an adb command prints, errors with it.

    Raises:
        RequestError: it cannot be started, fails, takes longer than ``seconds``, or prints more than the bound.
    """
    what = f"adb {' '.join(arguments)[:100]}"
    try:
        process = subprocess.Popen(
            [adb, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that what it starts can be ended with it
        )
    except OSError as error:
        raise RequestError(f"{adb} cannot be run: {error.strerror or error}.") from error

    def stop():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, stop)
    timer.start()
    started = time.monotonic()
    with process:
        try:
            text = process.stdout.read(_MOST_OUTPUT + 1)
            if len(text) > _MOST_OUTPUT:
                raise RequestError(f"{what} prints without end.")
            process.wait()
        except BaseException:
            stop()
            raise
        finally:
            timer.cancel()
    if process.returncode == -signal.SIGKILL and time.monotonic() - started >= seconds:
        raise RequestError(f"{what} took more than {seconds:g} s.")
    if process.returncode:
        said = " | ".join(_plain(line) for line in text.splitlines()[-3:] if line.strip())
        raise RequestError(f"{what} failed with exit status {process.returncode}: {said[:_MOST_LINE]}")
    return text


def _plain(text: str) -> str:
    """Without what a terminal would take for a command."""
    return "".join(letter if letter.isprintable() or letter == "\t" else "?" for letter in text)


def _download(url: str) -> Path:
    """The file at an address, from the cache if it was fetched before."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise RequestError(f"--benchmark-model takes a path or an http or https address; received {url!r}.")
    path = cache_folder() / "benchmark_model" / f"{sha256(url.encode()).hexdigest()[:16]}-benchmark_model"
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            _opener().open(url, timeout=_SECONDS) as response,
            tempfile.TemporaryDirectory(dir=path.parent, prefix=".unfinished-") as folder,
        ):
            part = Path(folder, path.name)
            with open(part, "wb") as stream:
                size, until = 0, time.monotonic() + _DOWNLOAD_SECONDS
                while block := response.read(1 << 16):
                    size += len(block)
                    if size > _MOST_DOWNLOAD:
                        raise RequestError(f"{url} has more than {_MOST_DOWNLOAD >> 20} MB: no benchmark_model has.")
                    if time.monotonic() > until:
                        raise TimeoutError(f"it takes longer than {_DOWNLOAD_SECONDS} s")
                    stream.write(block)
            announced = response.headers.get("Content-Length")
            if announced is not None and announced != str(size):
                raise ConnectionError(f"{size} bytes came of {announced}")
            os.replace(part, path)
    except (OSError, http.client.HTTPException) as error:
        raise RequestError(f"{url} cannot be fetched: {error}.") from error
    return path


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but from https to https only."""

    def redirect_request(self, request, response, code, message, headers, url):
        if request.type == "https" and not url.startswith("https://"):
            raise urllib.error.URLError(f"it redirects from https to {url}")
        return super().redirect_request(request, response, code, message, headers, url)


def _opener() -> urllib.request.OpenerDirector:
    """Opens http and https, and nothing that a redirect may name besides."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener
