"""Make, find and remove the emulated arm64 runtime: QEMU, Debian's Python for arm64, LiteRT's and NumPy's arm64 wheels.

The runtime is one folder, by default in the package's cache. The system is not changed (``debian``). A folder with a
manifest is complete: the runtime is built in a temporary folder, tested, and then renamed. The folder can be moved,
also to another machine with the same processor architecture.
"""

import importlib.metadata
import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.export.arm64 import debian
from mobilenets_tf.export.arm64.emulator import Emulator, EmulatorError, compare_with_host
from mobilenets_tf.files import TemporaryFolder, cache_folder, to_json
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.tflite import flatbuffer

MANIFEST = "arm64.json"
# The packages that the emulated Python needs; {python} is "3.11" on Debian 12.
_PACKAGES = (
    "python{python}-minimal", "libpython{python}-minimal", "libpython{python}-stdlib",
    "libc6", "libstdc++6", "libgcc-s1", "zlib1g", "libexpat1", "libffi8",
)  # fmt: skip


def default_folder() -> Path:
    """Return the folder of the runtime that is used if no other folder is given."""
    return cache_folder() / "arm64"


def setup(folder: str | Path | None = None, progress: Progress = silent) -> Emulator:
    """Make the runtime, unless the folder has one already for the LiteRT that is installed here.

    This takes about half a minute, downloads 110 MB and keeps 160 MB. If it is interrupted, the folder stays as it was.

    Args:
        folder: folder of the runtime; None: ``default_folder()``.

    Returns:
        The emulator, as ``find`` returns it.

    Raises:
        RequestError: this machine is arm64 itself, is not Debian, or lacks a tool; a download fails; the folder has
            other files in it or cannot be written; or the new runtime does not compute what this machine computes.
    """
    folder = Path(folder or default_folder())
    try:
        return find(folder)
    except RequestError:
        _check_host()
    if folder.exists() and not _is_ours(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise RequestError(f"{folder} exists and is not an arm64 runtime; choose another folder (--folder).")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFolder(_unfinished(folder), folder.parent) as temporary:
            runtime = Path(temporary, "runtime")
            runtime.mkdir()
            manifest = _build(runtime, Path(temporary), progress)
            with _stage(progress, "testing the runtime"):
                _try(_emulator(runtime, manifest))
            (runtime / MANIFEST).write_text(to_json(manifest), encoding="utf-8")
            if folder.exists():
                folder.rename(Path(temporary, "replaced"))
            runtime.rename(folder)
    except OSError as error:
        raise RequestError(
            f"Cannot write {folder}: {error.strerror or error}. Free some space, or choose another folder (--folder)."
        ) from error
    return find(folder)


def find(folder: str | Path | None = None) -> Emulator:
    """Return the emulator of the runtime that ``setup`` made.

    Args:
        folder: folder of the runtime; None: ``default_folder()``.

    Raises:
        RequestError: there is no runtime, it is damaged, or it has another version of LiteRT than this machine. The
            message gives the command that sets the runtime up.
    """
    folder = Path(folder or default_folder())
    option = "" if folder == default_folder() else f" --folder {folder}"
    remedy = f"Set it up:  mobilenets-tf arm64{option}"
    if not _is_ours(folder):
        what = "None is needed: this machine is arm64, so LiteRT runs without an emulator." if _is_arm64() else remedy
        raise RequestError(f"There is no emulated arm64 runtime in {folder}. {what}")
    manifest = _manifest(folder)
    emulator = _emulator(folder, manifest)
    here, there = importlib.metadata.version("ai-edge-litert"), manifest["versions"].get("ai-edge-litert")
    if here != there:
        raise RequestError(
            f"The arm64 runtime in {folder} has ai-edge-litert {there}, and this machine has {here}. {remedy}"
        )
    qemu = Path(emulator.command[0])
    if not qemu.is_file() or not Path(emulator.command[-3]).is_file():
        raise RequestError(f"The arm64 runtime in {folder} is damaged. {remedy}")
    if manifest["qemu"] and not _new_enough(qemu):
        raise RequestError(f"{qemu} is older than QEMU {debian.OLDEST_QEMU}, or does not run. {remedy}")
    return emulator


def remove(folder: str | Path | None = None) -> int:
    """Remove the runtime, and temporary folders that interrupted runs of ``setup`` left beside it.

    Args:
        folder: folder of the runtime; None: ``default_folder()``.

    Returns:
        The number of folders that were removed.

    Raises:
        RequestError: the folder exists and is not such a runtime.
    """
    folder = Path(folder or default_folder())
    leftovers = list(folder.parent.glob(f"{_unfinished(folder)}*")) if folder.parent.is_dir() else []
    if folder.exists() and not _is_ours(folder):
        raise RequestError(f"{folder} is not an arm64 runtime, and was not removed.")
    folders = [path for path in (folder, *leftovers) if path.exists()]
    for path in folders:
        shutil.rmtree(path)
    return len(folders)


def cpus(emulator: Emulator) -> list[str]:
    """List the cores that the emulator can emulate, without "max", which is not a real core."""
    process = subprocess.run([emulator.command[0], "-cpu", "help"], capture_output=True, text=True, errors="replace")
    return [name for name in re.findall(r"^\s+(\S+)\s*$", process.stdout, re.MULTILINE) if name != "max"]


def check_cpus(emulator: Emulator, names: Iterable[str]) -> None:
    """Refuse a core that the emulator does not know.

    Raises:
        RequestError: with the unknown name, the nearest right name and all names.
    """
    known = cpus(emulator)
    for name in names:
        if name not in known:
            raise unknown("core", name, known)


def _unfinished(folder: Path) -> str:
    return f".{folder.name}-unfinished-"


def _is_ours(folder: Path) -> bool:
    try:
        manifest = _manifest(folder)
        return isinstance(manifest["versions"], dict) and isinstance(manifest["python"], str) and "qemu" in manifest
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _manifest(folder: Path) -> dict:
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def _emulator(folder: Path, manifest: dict) -> Emulator:
    folder = folder.resolve()
    root = folder / "root"
    environment = {
        "PYTHONHOME": str(root / "usr"),
        "PYTHONPATH": str(folder / "site"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    return Emulator(
        (
            str(manifest["qemu"] or folder / "qemu-aarch64"), "-cpu", "{cpu}", "-L", str(root),
            str(root / "usr" / "bin" / f"python{manifest['python']}"), "-s", "-S",
        ),
        environment,
        manifest["versions"],
    )  # fmt: skip


def _is_arm64() -> bool:
    return platform.machine().lower() in ("aarch64", "arm64")


def _check_host() -> None:
    if _is_arm64():
        raise RequestError(
            "This machine is arm64 itself: no emulator is needed, since every command here runs the arm64 kernels."
        )
    release = debian.os_release()
    missing = [tool for tool in ("apt-get", "apt-cache", "apt-config", "dpkg-deb", "dpkg") if not shutil.which(tool)]
    if missing or release.get("ID") != "debian":
        what = f"has no {', '.join(missing)}" if missing else f"is {release.get('PRETTY_NAME', 'not Debian')}"
        raise RequestError(
            f"The emulated runtime consists of Debian's packages, and this machine {what}. Set it up on Debian 12 or "
            "newer, or in a container (docker run -it debian:12), and copy its folder to this machine: the folder "
            f"works on any {platform.machine()} Linux (--folder)."
        )
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        raise RequestError(f"{sys.executable} has no pip, which downloads the arm64 wheels:  python -m ensurepip")


@contextmanager
def _stage(progress: Progress, label: str):
    progress(label, 0, 1)
    yield
    progress(label, 1, 1)


def _build(runtime: Path, work: Path, progress: Progress) -> dict:
    """Fill the folder ``runtime`` and return its manifest. work: a folder for temporary files."""
    qemu = next((path for name in debian.QEMU_NAMES if (path := shutil.which(name)) and _new_enough(path)), None)
    with _stage(progress, "reading Debian's lists"):
        apt = debian.Apt(work / "apt")
        apt.update()
        python = apt.guest_python()
        packages = [f"{name.format(python=python)}:arm64" for name in _PACKAGES]
        packages += [] if qemu else [apt.qemu()]
    with _stage(progress, "downloading packages"):
        debs = apt.download(packages)
    with _stage(progress, "unpacking"):
        root = runtime / "root"
        for name, deb in debs.items():
            if name == "qemu-user":
                debian.extract_qemu(deb, runtime / "qemu-aarch64")
            else:
                debian.run_command(["dpkg-deb", "-x", deb, root], "Cannot unpack")
        if not (root / "lib").exists():  # Debian 13 has all libraries in /usr/lib, and this link in another package
            (root / "lib").symlink_to("usr/lib")
        facts = [debian.package_facts(deb) for deb in debs.values()]
    with _stage(progress, "downloading LiteRT"):
        libc = next(entry["version"] for entry in facts if entry["name"] == "libc6")
        wheels = _download_wheels(runtime / "site", python, libc, work / "pip.json")
    program = qemu or runtime / "qemu-aarch64"
    if not _new_enough(program):
        raise RequestError(f"The downloaded QEMU does not run here, or is older than {debian.OLDEST_QEMU}.")
    versions = {"qemu": _qemu_version(program), "python": python}
    versions |= {entry["name"]: entry["version"] for entry in wheels}
    return {"python": python, "qemu": qemu, "versions": versions, "packages": facts, "wheels": wheels}


def _download_wheels(site: Path, python: str, libc: str, record: Path) -> list[dict]:
    """Install LiteRT in this machine's version, and NumPy, for the emulated Python and C library; describe them."""
    minor = int(re.match(r"(?:\d+:)?2\.(\d+)", libc)[1])
    platforms = [f"manylinux_2_{n}_aarch64" for n in range(minor, 16, -1)] + ["manylinux2014_aarch64"]
    digits = python.replace(".", "")
    words = [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps",
        "--no-compile", "--ignore-installed", "--only-binary=:all:", "--target", site, "--report", record,
        "--python-version", python, "--implementation", "cp", "--abi", f"cp{digits}", "--abi", "abi3", "--abi", "none",
        *(word for name in platforms for word in ("--platform", name)),
        f"ai-edge-litert=={importlib.metadata.version('ai-edge-litert')}", "numpy",
    ]  # fmt: skip
    debian.run_command(words, "pip cannot download the arm64 wheels", "Is the network reachable?")
    return [
        {
            "name": entry["metadata"]["name"],
            "version": entry["metadata"]["version"],
            "sha256": entry["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256"),
        }
        for entry in json.loads(record.read_text(encoding="utf-8"))["install"]
    ]


def _qemu_version(program) -> str:
    """Return the version of a qemu-aarch64, such as "10.0.2", or "" if the program does not run."""
    try:
        process = subprocess.run([program, "--version"], capture_output=True, text=True, errors="replace", timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = re.search(r"version (\d+(\.\d+)+)", process.stdout)
    return match[1] if match and process.returncode == 0 else ""


def _new_enough(program) -> bool:
    return int(_qemu_version(program).split(".")[0] or 0) >= debian.OLDEST_QEMU


def _try(emulator: Emulator) -> None:
    """Run one integer convolution on each kind of core; compare its output with this machine's, and check the kernels.

    Raises:
        RequestError: the runtime does not run, or computes another output.
    """
    # The first run writes the modules' bytecode into the folder, so that later runs start faster.
    environment = {name: value for name, value in emulator.environment.items() if name != "PYTHONDONTWRITEBYTECODE"}
    samples = [[np.random.default_rng(0).normal(0, 1, (1, 16, 16, _CHANNELS))]]
    try:
        cores = compare_with_host(Emulator(emulator.command, environment), _convolution(), samples)
    except EmulatorError as error:
        raise RequestError(f"The new runtime does not run: {error}") from error
    kernels = [core.kernels for core in cores]
    if kernels != ["smlal", "sdot", "smmla"] or not all(core.equal and core.partitions for core in cores):
        lines = "; ".join(core.line() for core in cores)
        raise RequestError(f"The new runtime does not compute what this machine computes: {lines}")


_CHANNELS = 32


def _convolution() -> bytes:
    """Return the content of a file with one int8 3x3 convolution."""
    random = np.random.default_rng(0)
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [graph], [], [schema.BufferT()]
    graph.tensors, graph.inputs, graph.outputs = [], [0], [3]
    shape = (1, 16, 16, _CHANNELS)
    flatbuffer.add_tensor(model, "input", shape)
    kernel = random.integers(-127, 128, (_CHANNELS, 3, 3, _CHANNELS)).astype(np.int8)
    flatbuffer.add_constant(model, "kernel", kernel)
    flatbuffer.add_constant(model, "bias", random.integers(-5000, 5000, _CHANNELS).astype(np.int32))
    flatbuffer.add_tensor(model, "output", shape)
    scales = ([0.03], random.uniform(0.002, 0.004, _CHANNELS), None, [0.1])
    for tensor, scale in zip(graph.tensors, scales, strict=True):
        scale = 0.03 * scales[1] if scale is None else scale
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = list(map(float, scale)), [0] * len(scale)
    for index in (0, 3):
        graph.tensors[index].type = schema.TensorType.INT8
    options = schema.Conv2DOptionsT()
    options.padding, options.strideH, options.strideW = schema.Padding.SAME, 1, 1
    options.dilationHFactor = options.dilationWFactor = 1
    graph.operators = [flatbuffer.make_operator(model, "CONV_2D", [0, 1, 2], [3], options)]
    model.operatorCodes[0].version = 3  # the first version with int8
    return flatbuffer.write(model)
