"""Make, find and remove the emulated arm64 runtime: QEMU, Debian's Python for arm64, LiteRT's and NumPy's arm64 wheels.

The runtime is one folder (``RuntimeFolder``), by default in the package's cache. The system is not changed
(``debian``).
"""

import importlib.metadata
import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.export.arm64.emulator import Emulator, compare_with_host
from mobilenets_tf.export.targets import debian
from mobilenets_tf.export.targets.child import TargetError
from mobilenets_tf.export.targets.convolution import convolution, convolution_input
from mobilenets_tf.export.targets.folder import RuntimeFolder, stage
from mobilenets_tf.progress import Progress, silent

# Older versions crash on the host's /proc/cpuinfo, and some of their cores compute wrong results.
OLDEST_QEMU = 10
_QEMU_NAMES = ("qemu-aarch64", "qemu-aarch64-static")
# The packages that the emulated Python needs; {python} is "3.11" on Debian 12.
_PACKAGES = (
    "python{python}-minimal", "libpython{python}-minimal", "libpython{python}-stdlib",
    "libc6", "libstdc++6", "libgcc-s1", "zlib1g", "libexpat1", "libffi8",
)  # fmt: skip


def setup(folder: str | Path | None = None, progress: Progress = silent) -> Emulator:
    """Make the runtime, unless the folder has one already for the LiteRT that is installed here.

    This takes about half a minute, downloads 110 MB and keeps 160 MB. If it is interrupted, the folder stays as it was.

    Args:
        folder: folder of the runtime; None: the usual place.

    Returns:
        The emulator, as ``find`` returns it.

    Raises:
        RequestError: this machine is arm64 itself, is not Debian, or lacks a tool; a download fails; the folder has
            other files in it or cannot be written; or the new runtime does not compute what this machine computes.
    """
    try:
        return find(folder)
    except RequestError:
        _check_host()

    def build(runtime: Path, work: Path) -> dict:
        manifest = _build(runtime, work, progress)
        with stage(progress, "testing the runtime"):
            _try(_emulator(runtime, manifest))
        return manifest

    _folder(folder).make(build)
    return find(folder)


def find(folder: str | Path | None = None) -> Emulator:
    """Return the emulator of the runtime that ``setup`` made.

    Args:
        folder: folder of the runtime; None: the usual place.

    Raises:
        RequestError: there is no runtime, it is damaged, or it has another version of LiteRT than this machine. The
            message gives the command that sets the runtime up.
    """
    place = _folder(folder)
    folder, remedy, manifest = place.path, place.remedy, place.manifest()
    if manifest is None:
        what = "None is needed: this machine is arm64, so LiteRT runs without an emulator." if _is_arm64() else remedy
        raise RequestError(f"There is no emulated arm64 runtime in {folder}. {what}")
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
        raise RequestError(f"{qemu} is older than QEMU {OLDEST_QEMU}, or does not run. {remedy}")
    return emulator


def remove(folder: str | Path | None = None) -> int:
    """Remove the runtime, and temporary folders that interrupted runs of ``setup`` left beside it.

    Args:
        folder: folder of the runtime; None: the usual place.

    Returns:
        The number of folders that were removed.

    Raises:
        RequestError: the folder exists and is not such a runtime.
    """
    return _folder(folder).remove()


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


def _folder(path: str | Path | None) -> RuntimeFolder:
    return RuntimeFolder.of("arm64", path, "an arm64 runtime", _is_manifest)


def _is_manifest(manifest: dict) -> bool:
    return isinstance(manifest["versions"], dict) and isinstance(manifest["python"], str) and "qemu" in manifest


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
    debian.check_host("The emulated runtime consists")
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        raise RequestError(f"{sys.executable} has no pip, which downloads the arm64 wheels:  python -m ensurepip")


def _build(runtime: Path, work: Path, progress: Progress) -> dict:
    """Fill the folder ``runtime`` and return its manifest. work: a folder for temporary files."""
    qemu = next((path for name in _QEMU_NAMES if (path := shutil.which(name)) and _new_enough(path)), None)
    with stage(progress, "reading Debian's lists"):
        apt = debian.Apt(work / "apt", "arm64")
        apt.update()
        python = apt.guest_python()
        packages = [f"{name.format(python=python)}:arm64" for name in _PACKAGES]
        packages += [] if qemu else [_qemu_package(apt)]
    with stage(progress, "downloading packages"):
        debs = apt.download(packages)
    with stage(progress, "unpacking"):
        root = runtime / "root"
        for name, deb in debs.items():
            if name == "qemu-user":
                debian.extract(deb, {"qemu-aarch64": runtime / "qemu-aarch64"})  # its other programs have 350 MB
            else:
                debian.run_command(["dpkg-deb", "-x", deb, root], "Cannot unpack")
        if not (root / "lib").exists():  # Debian 13 has all libraries in /usr/lib, and this link in another package
            (root / "lib").symlink_to("usr/lib")
        facts = [debian.package_facts(deb) for deb in debs.values()]
    with stage(progress, "downloading LiteRT"):
        libc = next(entry["version"] for entry in facts if entry["name"] == "libc6")
        wheels = _download_wheels(runtime / "site", python, libc, work / "pip.json")
    program = qemu or runtime / "qemu-aarch64"
    if not _new_enough(program):
        raise RequestError(f"The downloaded QEMU does not run here, or is older than {OLDEST_QEMU}.")
    versions = {"qemu": _qemu_version(program), "python": python}
    versions |= {entry["name"]: entry["version"] for entry in wheels}
    return {"python": python, "qemu": qemu, "versions": versions, "packages": facts, "wheels": wheels}


def _qemu_package(apt: debian.Apt) -> str:
    if not apt.suite_of("qemu-user", OLDEST_QEMU):
        raise RequestError(
            f"Neither this release of Debian nor its backports has QEMU {OLDEST_QEMU} or newer. Put a newer "
            "qemu-aarch64 on PATH and run again."
        )
    return f"qemu-user:{apt.host}"


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
    return int(_qemu_version(program).split(".")[0] or 0) >= OLDEST_QEMU


def _try(emulator: Emulator) -> None:
    """Run one integer convolution on each kind of core; compare its output with this machine's, and check the kernels.

    Raises:
        RequestError: the runtime does not run, or computes another output.
    """
    # The first run writes the modules' bytecode into the folder, so that later runs start faster.
    environment = {name: value for name, value in emulator.environment.items() if name != "PYTHONDONTWRITEBYTECODE"}
    try:
        cores = compare_with_host(Emulator(emulator.command, environment), convolution(), [[convolution_input()]])
    except TargetError as error:
        raise RequestError(f"The new runtime does not run: {error}") from error
    kernels = [core.kernels for core in cores]
    if kernels != ["smlal", "sdot", "smmla"] or not all(core.equal and core.partitions for core in cores):
        lines = "; ".join(core.line() for core in cores)
        raise RequestError(f"The new runtime does not compute what this machine computes: {lines}")
