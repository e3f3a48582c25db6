"""Benchmark TFLite files on an attached phone: run LiteRT's ``benchmark_model`` there, driven by adb.

There are two tools of that name, and both work: TensorFlow Lite's (tflite/tools/benchmark in google-ai-edge/LiteRT),
which can use NNAPI, and LiteRT's (litert/tools/benchmark_litert_model), which cannot. Each ignores flags that only the
other tool knows. It is an error here if an ignored flag changes what is measured.
"""

import contextlib
import http.client
import os
import re
import secrets
import shlex
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.speed.adb import SECONDS, Device, choose_device, devices, find_adb, run_adb
from mobilenets_tf.export.speed.timing import check_counts, check_files
from mobilenets_tf.export.speed.tool_output import MOST_LINE, ToolOutput, parse, printable
from mobilenets_tf.files import TemporaryFolder, cache_folder
from mobilenets_tf.progress import Progress, silent, track
from mobilenets_tf.public_api.types import check_fields

_PUSH_SECONDS = 600
_MOST_DOWNLOAD = 200 << 20  # bytes; the tools have some 10 MB
_DOWNLOAD_SECONDS = 600
_STATUS = "mobilenets-tf-status="
# The flags for a profile: TensorFlow Lite's tool knows the first, LiteRT's tool the second.
_PROFILING = ("--enable_op_profiling=true", "--use_profiler=true")
_ABIS = {183: "arm64-v8a", 40: "armeabi-v7a", 62: "x86_64", 3: "x86"}  # e_machine in ELF -> Android's name
_WHERE_TO_GET = "developers.google.com/edge/litert/next/benchmark has links"


@dataclass(frozen=True)
class PhoneRequest:
    """What ``benchmark_on_phone`` is to time, and how.

    files: paths of TFLite files. benchmark_model: path or http(s) address of the tool for the phone's processor; a file
        from an address is downloaded once and kept in the cache.
    calls: inferences of each file that count. threads: of LiteRT. profile: also measure each op.
    adb: path of adb; None: the one on PATH or in the Android SDK. serial: serial number of the phone; None: the only
        one that is attached.
    use_gpu, use_nnapi: run on the GPU delegate, or on NNAPI (TensorFlow Lite's tool only).
    cores: hexadecimal mask of the cores to run on, such as "f0" for cores 4 to 7, as Android's taskset takes it.
    timeout: time limit for each file, in seconds.
    """

    files: Sequence[str | Path]
    benchmark_model: str | None
    calls: int = 50
    threads: int = 1
    profile: bool = False
    adb: str | None = None
    serial: str | None = None
    use_gpu: bool = False
    use_nnapi: bool = False
    cores: str | None = None
    timeout: float = 600.0

    def __post_init__(self):
        if isinstance(self.files, (str, os.PathLike)):
            object.__setattr__(self, "files", (self.files,))
        check_fields(self)

    def check(self) -> None:
        """Refuse what cannot work, before the phone is asked.

        Raises:
            RequestError: no files, or a file does not exist; ``benchmark_model`` is empty; ``calls`` or ``threads`` is
                less than 1; ``cores`` is not a hexadecimal mask with at least one core; or both accelerators are set.
        """
        check_files(self.files)
        check_counts(self.calls, self.threads)
        check_phone_options(self.benchmark_model, self.cores)
        if self.use_gpu and self.use_nnapi:
            raise RequestError("use_gpu and use_nnapi (--use-gpu, --use-nnapi) exclude each other; choose one.")


def check_phone_options(benchmark_model: str | None, cores: str | None) -> None:
    """Refuse options with which nothing can run on a phone, before the phone is asked.

    Raises:
        RequestError: ``benchmark_model`` is empty, or ``cores`` is not a hexadecimal mask with at least one core.
    """
    if not benchmark_model:
        raise RequestError(
            "benchmark_model (--benchmark-model) is missing: give the path or the address of LiteRT's "
            f"benchmark_model for the phone's processor ({_WHERE_TO_GET})."
        )
    if cores is not None and not (re.fullmatch(r"[0-9a-fA-F]{1,16}", cores) and int(cores, 16)):
        raise RequestError(f"cores={cores!r}: expected a mask in hexadecimal, such as f0 for cores 4 to 7.")


@dataclass(frozen=True)
class Tool:
    """The ``benchmark_model`` to push to the phone. abi: Android's name for the processor that it is built for."""

    path: Path
    sha256: str
    abi: str

    def as_dict(self) -> dict:
        """Return plain data for JSON."""
        return {"path": str(self.path), "sha256": self.sha256, "abi": self.abi}


@dataclass(frozen=True)
class DeviceBenchmark:
    """One file on one phone.

    device: "serial", "model", "android" (its version) and "abis" of the phone. command: the command that ran there.
    accelerated: whether the tool reports that the GPU or NNAPI runs at least a part of the file; None if neither was
        requested. If an accelerator refuses a file, the tools run it on the CPU without a message.
    """

    file: str
    device: Mapping[str, str]
    command: str
    accelerated: bool | None
    output: ToolOutput

    def as_dict(self) -> dict:
        """Return plain data for JSON."""
        about = {"file": self.file, "device": dict(self.device), "command": self.command}
        return about | {"accelerated": self.accelerated} | asdict(self.output)


@dataclass(frozen=True)
class PhoneBenchmark:
    """The result of ``benchmark_on_phone``: the tool, and each file in the order of the request."""

    tool: Tool
    files: tuple[DeviceBenchmark, ...]

    @property
    def passed(self) -> bool:
        """Whether the requested accelerator, if any, runs at least a part of every file."""
        return all(file.accelerated is not False for file in self.files)

    def as_dict(self) -> dict:
        """Return plain data for JSON."""
        return {"benchmark_model": self.tool.as_dict(), "files": [file.as_dict() for file in self.files]}


def benchmark_on_phone(request: PhoneRequest, progress: Progress = silent) -> PhoneBenchmark:
    """Push the tool and the files into a new folder on the phone, run the tool on each file, remove the folder.

    The files run one after another, so the phone may be warmer, and slower, for later files.

    Raises:
        RequestError: the request is wrong (``PhoneRequest.check``); adb or a usable phone is missing; the tool cannot
            be found, downloaded or used on this phone; or the tool fails, takes too long, or ignores a flag.
    """
    request.check()
    adb = find_adb(request.adb)
    device = choose_device(devices(adb), request.serial)
    tool = find_tool(request.benchmark_model)
    target = [adb, "-s", device.serial]
    about = _about(target, device, tool)
    results = []
    with _folder(target) as folder:
        run_adb(*target, "push", str(tool.path.resolve()), f"{folder}/benchmark_model", seconds=_PUSH_SECONDS)
        run_adb(*target, "shell", f"chmod 755 {folder}/benchmark_model")
        for file in track(list(request.files), f"running on {device.serial}", progress):
            run_adb(*target, "push", str(Path(file).resolve()), f"{folder}/model.tflite", seconds=_PUSH_SECONDS)
            command = _command(folder, request)
            output = _run_tool(target, folder, command, request.timeout, str(file))
            accelerated = None
            if request.use_gpu or request.use_nnapi:
                accelerated = any(
                    "xnnpack" not in delegate.name.lower() and delegate.executes != "not" and delegate.nodes != 0
                    for delegate in output.delegates
                )
            results.append(DeviceBenchmark(str(file), about, command, accelerated, output))
    return PhoneBenchmark(tool, tuple(results))


def find_tool(path_or_url: str) -> Tool:
    """Find the ``benchmark_model`` to push: a file, or an http(s) address, whose file is downloaded once and kept.

    Raises:
        RequestError: the file does not exist, the address is of another kind, the download fails, or the file is not
            an executable for Android.
    """
    path = _download(path_or_url) if "://" in path_or_url else Path(path_or_url)
    if not path.is_file():
        raise RequestError(f"benchmark_model (--benchmark-model): there is no file {path}.")
    content = path.read_bytes()
    machine = int.from_bytes(content[18:20], "little")
    if content[:4] != b"\x7fELF" or machine not in _ABIS:
        raise RequestError(
            f"{path} is not an executable for Android. Give LiteRT's benchmark_model for the phone's processor, "
            f"usually arm64 ({_WHERE_TO_GET})."
        )
    return Tool(path, sha256(content).hexdigest(), _ABIS[machine])


def _about(target: Sequence[str], device: Device, tool: Tool) -> dict[str, str]:
    """Describe the phone. RequestError if the tool is built for another processor."""
    names = {"model": "ro.product.model", "android": "ro.build.version.release", "abis": "ro.product.cpu.abilist"}
    about = {name: printable(run_adb(*target, "shell", f"getprop {key}").strip()) for name, key in names.items()}
    if about["abis"] and tool.abi not in about["abis"].split(","):
        raise RequestError(
            f"{tool.path} is for {tool.abi}, and {device.serial} ({about['model']}) runs {about['abis']}; give a "
            "benchmark_model for one of these."
        )
    return {"serial": device.serial, **about}


def _command(folder: str, request: PhoneRequest) -> str:
    """Return the command to run on the phone. It has both tools' flags for a profile: each ignores the other's flag."""
    words = ["taskset", request.cores] if request.cores else []
    words += [
        f"{folder}/benchmark_model",
        f"--graph={folder}/model.tflite",
        f"--num_threads={request.threads}",
        f"--num_runs={request.calls}",
    ]
    words += ["--use_gpu=true"] if request.use_gpu else []
    words += ["--use_nnapi=true"] if request.use_nnapi else []
    words += _PROFILING if request.profile else []
    return shlex.join(words)


def _run_tool(target: Sequence[str], folder: str, command: str, timeout: float, file: str) -> ToolOutput:
    # The phone's shell prints the exit status, since old phones do not pass it on to adb. The process number is written
    # to a file, so that the process can be ended if this side gives up.
    script = (
        f"{command} 2>&1 & echo $! > {folder}/pid; wait $!; status=$?; rm -f {folder}/pid; echo; echo {_STATUS}$status"
    )
    text = run_adb(*target, "shell", script, seconds=timeout)
    output = parse(text)
    status = re.findall(rf"^{_STATUS}(\d+)\s*$", text, re.MULTILINE)
    if ignored := set(shlex.split(command)).intersection(output.ignored).difference(_PROFILING):
        raise RequestError(
            f"This benchmark_model ignores {', '.join(sorted(ignored))}, so {file} was not measured as requested. "
            "NNAPI needs TensorFlow Lite's benchmark_model; LiteRT's does not support it."
        )
    if status[-1:] != ["0"] or output.inference is None:
        last_lines = [printable(line) for line in text.splitlines() if line.strip() and _STATUS not in line][-3:]
        ending = f"exit status {status[-1]}" if status else "no exit status"
        message = " | ".join(output.errors or last_lines)[:MOST_LINE]
        raise RequestError(f"benchmark_model failed on {file} ({ending}): {message}")
    return output


@contextlib.contextmanager
def _folder(target: Sequence[str]) -> Iterator[str]:
    """Make a folder on the phone. At the end, stop a process that still runs from the folder and remove the folder."""
    folder = f"/data/local/tmp/mobilenets-tf-{secrets.token_hex(8)}"
    run_adb(*target, "shell", f"mkdir {folder}")
    try:
        yield folder
    finally:
        try:
            run_adb(*target, "shell", f"[ -f {folder}/pid ] && kill $(cat {folder}/pid); rm -rf {folder}")
        except RequestError as error:
            warnings.warn(f"{folder} could not be removed from the phone: {error}", stacklevel=3)


def _download(url: str) -> Path:
    """Return the file at an address, from the cache if it was downloaded before."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise RequestError(
            f"benchmark_model={url!r} (--benchmark-model): expected a path, or an http or https address."
        )
    path = cache_folder() / "benchmark_model" / f"{sha256(url.encode()).hexdigest()[:16]}-benchmark_model"
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            _opener().open(url, timeout=SECONDS) as response,
            TemporaryFolder(".unfinished-", path.parent) as folder,
        ):
            part = Path(folder, path.name)
            with open(part, "wb") as stream:
                size, until = 0, time.monotonic() + _DOWNLOAD_SECONDS
                while block := response.read(1 << 16):
                    size += len(block)
                    if size > _MOST_DOWNLOAD:
                        raise RequestError(
                            f"{url} has more than {_MOST_DOWNLOAD >> 20} MB, which is too large for a benchmark_model."
                        )
                    if time.monotonic() > until:
                        raise TimeoutError(f"the download takes longer than {_DOWNLOAD_SECONDS} s")
                    stream.write(block)
            announced = response.headers.get("Content-Length")
            if announced is not None and announced != str(size):
                raise ConnectionError(f"only {size} of {announced} bytes arrived")
            os.replace(part, path)
    except (OSError, http.client.HTTPException) as error:
        raise RequestError(f"{url} cannot be downloaded: {error}.") from error
    return path


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but from https to https only."""

    def redirect_request(self, request, response, code, message, headers, url):
        if request.type == "https" and not url.startswith("https://"):
            raise urllib.error.URLError(f"it redirects from https to {url}")
        return super().redirect_request(request, response, code, message, headers, url)


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener for http and https alone, so that a redirect cannot name a local file."""
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
