"""Make, find and remove the emulated arm64 runtime: QEMU, Debian's Python for arm64, LiteRT's and NumPy's arm64 wheels.

Everything goes into one folder, by default beside the weights' cache, and nothing of the system is changed: apt works
with lists, cache and status of its own, from the sources that the system has. A folder that has a manifest is whole: it
is built beside its place, tried, and renamed. It can be moved, also to another machine of the same kind.
"""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.export.arm64.emulator import Emulator, EmulatorError, compare_with_host
from mobilenets_tf.files import cache_folder, sha256_of, to_json
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.tflite import flatbuffer

MANIFEST = "arm64.json"
# Older ones crash on the host's /proc/cpuinfo, and some of their cores compute wrong results.
OLDEST_QEMU = 10
_QEMU_NAMES = ("qemu-aarch64", "qemu-aarch64-static")
# What the Python of the guest needs; {python} is "3.11" on Debian 12.
_PACKAGES = (
    "python{python}-minimal", "libpython{python}-minimal", "libpython{python}-stdlib",
    "libc6", "libstdc++6", "libgcc-s1", "zlib1g", "libexpat1", "libffi8",
)  # fmt: skip
_ALIASES = ("oldoldstable", "oldstable", "stable", "testing", "unstable")


def default_folder() -> Path:
    """Where the runtime is, unless another place is asked for."""
    return cache_folder() / "arm64"


def setup(folder=None, progress: Progress = silent) -> Emulator:
    """Make the runtime, or find it if it is there already and fits the LiteRT that is installed here.

    Takes about half a minute, fetches 110 MB and keeps 160. Interrupted at any moment, it leaves the folder as it was.

    Args:
        folder: where; left out, ``default_folder()``.

    Raises:
        RequestError: this machine is arm64 itself, or no Debian, or lacks a tool; packages cannot be had; the folder is
            taken by something else or cannot be written; what was made does not compute as it should.
    """
    folder = Path(folder or default_folder())
    try:
        return find(folder)
    except RequestError:
        _check_host()
    if folder.exists() and not _is_ours(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise RequestError(f"{folder} is there and is no arm64 runtime; choose another --folder.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_unfinished(folder)) as temporary:
            made = Path(temporary, "made")
            made.mkdir()
            manifest = _build(made, Path(temporary), progress)
            with _stage(progress, "trying it"):
                _try(_emulator(made, manifest))
            (made / MANIFEST).write_text(to_json(manifest), encoding="utf-8")
            if folder.exists():
                folder.rename(Path(temporary, "replaced"))
            made.rename(folder)
    except OSError as error:
        raise RequestError(
            f"Cannot write {folder}: {error.strerror or error}. Free some space, or choose another --folder."
        ) from error
    return find(folder)


def find(folder=None) -> Emulator:
    """The runtime that ``setup`` has made.

    Raises:
        RequestError: it is not there, damaged, or of another LiteRT than is installed here; what to type is given.
    """
    folder = Path(folder or default_folder())
    option = "" if folder == default_folder() else f" --folder {folder}"
    remedy = f"Set it up:  mobilenets-tf arm64{option}"
    if not _is_ours(folder):
        what = "the arm64 wheel of LiteRT needs no emulator: this machine is arm64" if _is_arm64() else remedy
        raise RequestError(f"There is no emulated arm64 runtime in {folder}. {what}")
    manifest = _manifest(folder)
    emulator = _emulator(folder, manifest)
    here, there = importlib.metadata.version("ai-edge-litert"), manifest["versions"].get("ai-edge-litert")
    if here != there:
        raise RequestError(f"The arm64 runtime in {folder} has ai-edge-litert {there}, this machine {here}. {remedy}")
    qemu = Path(emulator.command[0])
    if not qemu.is_file() or not Path(emulator.command[-3]).is_file():
        raise RequestError(f"The arm64 runtime in {folder} is damaged. {remedy}")
    if manifest["qemu"] and not _new_enough(qemu):
        raise RequestError(f"{qemu} is older than QEMU {OLDEST_QEMU}, or broken. {remedy}")
    return emulator


def remove(folder=None) -> int:
    """Remove the runtime, and what interrupted processes may have left beside it; the number of folders removed.

    Raises:
        RequestError: the folder is no runtime of ours.
    """
    folder = Path(folder or default_folder())
    leftovers = list(folder.parent.glob(f"{_unfinished(folder)}*")) if folder.parent.is_dir() else []
    if folder.exists() and not _is_ours(folder):
        raise RequestError(f"{folder} is no arm64 runtime, and was left alone.")
    for path in (gone := [path for path in (folder, *leftovers) if path.exists()]):
        shutil.rmtree(path)
    return len(gone)


def cpus(emulator: Emulator) -> list[str]:
    """The cores that the emulator knows, without "max", which is no real one."""
    told = subprocess.run([emulator.command[0], "-cpu", "help"], capture_output=True, text=True, errors="replace")
    return [name for name in re.findall(r"^\s+(\S+)\s*$", told.stdout, re.MULTILINE) if name != "max"]


def check_cpus(emulator: Emulator, names) -> None:
    """Refuse a core that the emulator does not know.

    Raises:
        RequestError: which, and what there is.
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
            "This machine is arm64 itself: no emulator is needed, every command here runs the arm64 kernels already."
        )
    release = _os_release()
    missing = [tool for tool in ("apt-get", "apt-cache", "apt-config", "dpkg-deb", "dpkg") if not shutil.which(tool)]
    if missing or release.get("ID") != "debian":
        what = f"has no {', '.join(missing)}" if missing else f"is {release.get('PRETTY_NAME', 'no Debian')}"
        raise RequestError(
            f"The emulated runtime is made of Debian's packages, and this machine {what}. Set it up on Debian 12 or "
            "newer, or in a container of it (docker run -it debian:12), and bring the folder along: it can be moved to "
            f"any {platform.machine()} Linux (--folder)."
        )
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        raise RequestError(f"{sys.executable} has no pip, which fetches the arm64 wheels:  python -m ensurepip")


def _os_release(path: str = "/etc/os-release") -> dict[str, str]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {name.strip(): value.strip().strip('"') for name, value in pairs}


@contextmanager
def _stage(progress: Progress, label: str):
    progress(label, 0, 1)
    yield
    progress(label, 1, 1)


def _build(made: Path, work: Path, progress: Progress) -> dict:
    """Fill the folder; its manifest."""
    qemu = next((path for name in _QEMU_NAMES if (path := shutil.which(name)) and _new_enough(path)), None)
    with _stage(progress, "reading Debian's lists"):
        apt = _Apt(work / "apt")
        apt.update()
        python = apt.guest_python()
        packages = [f"{name.format(python=python)}:arm64" for name in _PACKAGES]
        packages += [] if qemu else [apt.qemu()]
    with _stage(progress, "fetching packages"):
        debs = apt.download(packages)
    with _stage(progress, "unpacking"):
        root = made / "root"
        for name, deb in debs.items():
            if name == "qemu-user":
                _extract_qemu(deb, made / "qemu-aarch64")
            else:
                _run(["dpkg-deb", "-x", deb, root], "Cannot unpack")
        if not (root / "lib").exists():  # Debian 13 has it all in /usr/lib, and this link in another package
            (root / "lib").symlink_to("usr/lib")
        listed = [_package(deb) for deb in debs.values()]
    with _stage(progress, "fetching LiteRT"):
        libc = next(entry["version"] for entry in listed if entry["name"] == "libc6")
        wheels = _fetch_wheels(made / "site", python, libc, work / "pip.json")
    program = qemu or made / "qemu-aarch64"
    if not _new_enough(program):
        raise RequestError(f"The QEMU that was fetched cannot be run here, or is older than {OLDEST_QEMU}.")
    versions = {"qemu": _qemu_version(program), "python": python}
    versions |= {entry["name"]: entry["version"] for entry in wheels}
    return {"python": python, "qemu": qemu, "versions": versions, "packages": listed, "wheels": wheels}


class _Apt:
    """Debian's apt with lists, cache and status of its own, reading the system's sources alone."""

    def __init__(self, folder: Path):
        self._folder = folder
        for name in ("sources", "state/lists/partial", "cache/archives/partial", "debs"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        self._main, self._codename = _sources()
        self._host = _run(["dpkg", "--print-architecture"], "dpkg fails").strip()
        # Proxies and the like are kept. Hooks are not: some would change the system.
        kept = [line for line in _run(["apt-config", "dump"], "apt-config fails").splitlines() if "Acquire::" in line]
        settings = {
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": folder / "sources",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State": folder / "state",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder / "cache",
            "Dir::Log": folder / "log",
            "APT::Architecture": self._host,
            "APT::Sandbox::User": "root",  # the usual user may not read a folder in root's home
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        lines = [f'{name} "{value}";' for name, value in settings.items()]
        lines.append(f'APT::Architectures {{ "{self._host}"; "arm64"; }};')
        (folder / "apt.conf").write_text("\n".join([*kept, *lines, ""]), encoding="utf-8")
        self._write_sources("guest", "arm64", self._codename)

    def update(self) -> None:
        self._apt("apt-get", "update", "-q", "--error-on=any")

    def guest_python(self) -> str:
        """Such as "3.11"."""
        told = self._apt("apt-cache", "depends", "python3-minimal:arm64")
        found = re.search(r"python(3\.\d+)-minimal", told)
        if not found:
            raise RequestError("Debian's arm64 packages have no python3-minimal; is 'main' among apt's sources?")
        return found[1]

    def qemu(self) -> str:
        """The package to download, its suite made known: the release's own, or its backports where that is too old."""
        for suite in (self._codename, f"{self._codename}-backports"):
            # The version for arm64 tells that of this machine's package without another list to read.
            architecture = "arm64" if suite == self._codename else self._host
            if suite != self._codename:
                self._write_sources("host", self._host, suite)
                self.update()
            if self._newest(architecture) >= OLDEST_QEMU:
                if architecture != self._host:
                    self._write_sources("host", self._host, suite)
                    self.update()
                return f"qemu-user:{self._host}"
        raise RequestError(
            f"Neither {self._codename} nor its backports has QEMU {OLDEST_QEMU} or newer. Put a newer qemu-aarch64 on "
            "PATH and run again."
        )

    def _newest(self, architecture: str) -> int:
        told = self._apt("apt-cache", "madison", f"qemu-user:{architecture}")
        found = re.findall(r"^\s*qemu-user(?::\w+)? \| (?:\d+:)?(\d+)\.", told, re.MULTILINE)
        return max(map(int, found), default=0)

    def download(self, packages: list[str]) -> dict[str, Path]:
        """Name -> the file, its sha256 checked by apt against the signed list."""
        self._apt("apt-get", "download", "-q", *packages, cwd=self._folder / "debs")
        found = {path.name.split("_")[0]: path for path in (self._folder / "debs").glob("*.deb")}
        wanted = [package.split(":")[0] for package in packages]
        if missing := [name for name in wanted if name not in found]:
            raise RequestError(f"apt did not fetch {', '.join(missing)}.")
        return {name: found[name] for name in wanted}

    def _write_sources(self, name: str, architecture: str, suite: str) -> None:
        stanzas = [
            "\n".join(f"{key}: {value}" for key, value in
                      (source | {"Suites": suite, "Architectures": architecture}).items())
            for source in self._main
        ]  # fmt: skip
        path = self._folder / "sources" / f"{name}.sources"
        path.write_text("\n\n".join(stanzas) + "\n", encoding="utf-8")

    def _apt(self, *words, cwd=None) -> str:
        environment = os.environ | {"APT_CONFIG": str(self._folder / "apt.conf"), "LC_ALL": "C"}
        remedy = "Is the network there, and are apt's own sources in order (apt-get update)?"
        return _run(words, "apt cannot fetch Debian's packages", remedy, cwd=cwd, env=environment)


def _sources(etc: Path = Path("/etc/apt"), release: str = "/etc/os-release") -> tuple[list[dict[str, str]], str]:
    """apt's sources of the running release's main suite, as fields of its deb822 format, and that suite's name.

    Raises:
        RequestError: there are none.
    """
    codename = _os_release(release).get("VERSION_CODENAME", "unstable")
    stanzas = []
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if path.is_file() and path.suffix in (".list", ".sources"):
            text = path.read_text(encoding="utf-8", errors="replace")
            stanzas += _deb822(text) if path.suffix == ".sources" else _one_line(text)
    for suite in (codename, *_ALIASES):
        found = []
        for stanza in stanzas:
            fields = {key.lower(): value.split() for key, value in stanza.items()}
            offered = "deb" in fields.get("types", ()) and suite in fields.get("suites", ())
            if offered and "main" in fields.get("components", ()) and fields.get("enabled", ["yes"])[0] != "no":
                left_out = ("types", "suites", "components", "architectures", "enabled")
                kept = {key: value for key, value in stanza.items() if key.lower() not in left_out}
                found.append({"Types": "deb", **kept, "Components": "main"})
        if found:
            return found, suite
    raise RequestError(
        f"apt's sources in {etc} have no suite {codename} with the component main; add it and run again."
    )


def _deb822(text: str) -> list[dict[str, str]]:
    stanzas, stanza, key = [], {}, None
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            stanzas += [stanza] if stanza else []
            stanza, key = {}, None
        elif line[0].isspace():
            if key:  # a value of several lines, such as a key
                stanza[key] += "\n" + line
        elif ":" in line:
            key, value = line.split(":", 1)
            stanza[key] = value.strip()
    return stanzas


def _one_line(text: str) -> list[dict[str, str]]:
    stanzas = []
    for line in text.splitlines():
        found = re.match(r"deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line.strip())
        if found:
            options = dict(pair.split("=", 1) for pair in (found[1] or "").split() if "=" in pair)
            fields = {key.title(): value.replace(",", " ") for key, value in options.items() if key != "arch"}
            stanzas.append({"Types": "deb", "URIs": found[2], "Suites": found[3], "Components": found[4], **fields})
    return stanzas


def _extract_qemu(deb: Path, target: Path) -> None:
    """The one program of the package, which needs no libraries; the others are 350 MB."""
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        for member in archive:
            if member.isfile() and Path(member.name).name in _QEMU_NAMES:
                with open(target, "wb") as stream:
                    shutil.copyfileobj(archive.extractfile(member), stream)
                target.chmod(0o755)
                process.kill()
                return
    raise RequestError(f"{deb.name} has no qemu-aarch64 in it.")


def _package(deb: Path) -> dict:
    fields = _run(["dpkg-deb", "-f", deb, "Package", "Version", "Architecture"], "Cannot read")
    values = {key.lower(): value for key, value in (line.split(": ", 1) for line in fields.splitlines())}
    name = values.pop("package")
    return {"name": name, **values, "sha256": sha256_of(deb)}


def _fetch_wheels(site: Path, python: str, libc: str, record: Path) -> list[dict]:
    """LiteRT in the version of this machine, and NumPy, for the guest's Python and C library."""
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
    _run(words, "pip cannot fetch the arm64 wheels", "Is the network there?")
    return [
        {
            "name": entry["metadata"]["name"],
            "version": entry["metadata"]["version"],
            "sha256": entry["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256"),
        }
        for entry in json.loads(record.read_text(encoding="utf-8"))["install"]
    ]


def _run(words, failure: str, remedy: str = "", **options) -> str:
    """A command's standard output.

    Raises:
        RequestError: it failed; with the last lines that it wrote.
    """
    done = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, **options
    )
    if done.returncode:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        telling = [line for line in lines if line.startswith(("E:", "ERROR")) or "rror:" in line] or lines
        raise RequestError(" ".join(f"{failure}: {' | '.join(telling[-3:])[-500:]}. {remedy}".split()))
    return done.stdout


def _qemu_version(program) -> str:
    """The version of a qemu-aarch64, such as "10.0.2"; "" if it cannot be run."""
    try:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, errors="replace", timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"version (\d+(\.\d+)+)", told.stdout)
    return found[1] if found and told.returncode == 0 else ""


def _new_enough(program) -> bool:
    return int(_qemu_version(program).split(".")[0] or 0) >= OLDEST_QEMU


def _try(emulator: Emulator) -> None:
    """One integer convolution on each kind of core, its result equal to this machine's and its kernels as expected.

    Raises:
        RequestError: the runtime does not work.
    """
    # The first call writes the modules' bytecode into the folder, which makes all later ones start faster.
    environment = {name: value for name, value in emulator.environment.items() if name != "PYTHONDONTWRITEBYTECODE"}
    samples = [[np.random.default_rng(0).normal(0, 1, (1, 16, 16, _CHANNELS))]]
    try:
        found = compare_with_host(Emulator(emulator.command, environment), _convolution(), samples)
    except EmulatorError as error:
        raise RequestError(f"The runtime that was made does not run: {error}") from error
    kernels = [result.kernels for result in found]
    if kernels != ["smlal", "sdot", "smmla"] or not all(result.equal and result.partitions for result in found):
        raise RequestError(
            "The runtime that was made computes something else than this machine: "
            + "; ".join(result.line() for result in found)
        )


_CHANNELS = 32


def _convolution() -> bytes:
    """A file with one int8 3x3 convolution."""
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
    model.operatorCodes[0].version = 3  # the first with int8
    return flatbuffer.write(model)
