"""Download Debian's arm64 packages and QEMU without any change to this system.

apt works with lists, a cache and a status file of its own in a separate folder. It only reads the system's sources.
"""

import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from mobilenets_tf.errors import RequestError
from mobilenets_tf.files import sha256_of

# Older versions crash on the host's /proc/cpuinfo, and some of their cores compute wrong results.
OLDEST_QEMU = 10
QEMU_NAMES = ("qemu-aarch64", "qemu-aarch64-static")
_ALIASES = ("oldoldstable", "oldstable", "stable", "testing", "unstable")


class Apt:
    """Debian's apt with lists, cache and status file in a folder of its own, and the system's sources."""

    def __init__(self, folder: Path):
        self._folder = folder
        for name in ("sources", "state/lists/partial", "cache/archives/partial", "debs"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        self._main, self._codename = apt_sources()
        self._host = run_command(["dpkg", "--print-architecture"], "dpkg fails").strip()
        # The system's settings for downloads, such as proxies, are kept. Hooks are not: some would change the system.
        system_settings = run_command(["apt-config", "dump"], "apt-config fails").splitlines()
        acquire = [line for line in system_settings if "Acquire::" in line]
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
            "APT::Sandbox::User": "root",  # apt's own user may not be able to read a folder in root's home
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        lines = [f'{name} "{value}";' for name, value in settings.items()]
        lines.append(f'APT::Architectures {{ "{self._host}"; "arm64"; }};')
        (folder / "apt.conf").write_text("\n".join([*acquire, *lines, ""]), encoding="utf-8")
        self._write_sources("guest", "arm64", self._codename)

    def update(self) -> None:
        """Download the lists of packages."""
        self._apt("apt-get", "update", "-q", "--error-on=any")

    def guest_python(self) -> str:
        """Return the version of Debian's arm64 Python, such as "3.11"."""
        text = self._apt("apt-cache", "depends", "python3-minimal:arm64")
        match = re.search(r"python(3\.\d+)-minimal", text)
        if not match:
            raise RequestError("Debian's arm64 packages have no python3-minimal; is 'main' among apt's sources?")
        return match[1]

    def qemu(self) -> str:
        """Choose QEMU from the release, or from its backports if the release's QEMU is too old.

        Adds the suite to the sources and returns the name of the package to download.
        """
        for suite in (self._codename, f"{self._codename}-backports"):
            # The list of arm64 packages is at hand already, and has the same version as this machine's package.
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
        text = self._apt("apt-cache", "madison", f"qemu-user:{architecture}")
        versions = re.findall(r"^\s*qemu-user(?::\w+)? \| (?:\d+:)?(\d+)\.", text, re.MULTILINE)
        return max(map(int, versions), default=0)

    def download(self, packages: list[str]) -> dict[str, Path]:
        """Download packages; return name -> file. apt checks each file's sha256 against the signed list."""
        self._apt("apt-get", "download", "-q", *packages, cwd=self._folder / "debs")
        debs = {path.name.split("_")[0]: path for path in (self._folder / "debs").glob("*.deb")}
        names = [package.split(":")[0] for package in packages]
        if missing := [name for name in names if name not in debs]:
            raise RequestError(f"apt did not download {', '.join(missing)}.")
        return {name: debs[name] for name in names}

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
        remedy = "Is the network reachable, and does 'apt-get update' work?"
        return run_command(words, "apt cannot download Debian's packages", remedy, cwd=cwd, env=environment)


def apt_sources(
    etc: Path = Path("/etc/apt"), release: str | Path = "/etc/os-release"
) -> tuple[list[dict[str, str]], str]:
    """Read which servers apt uses for the running release.

    Returns:
        The sources of the release's suite with the component main, as fields of apt's deb822 format; and the name of
        the suite.

    Raises:
        RequestError: apt has no such source.
    """
    codename = os_release(release).get("VERSION_CODENAME", "unstable")
    stanzas = []
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if path.is_file() and path.suffix in (".list", ".sources"):
            text = path.read_text(encoding="utf-8", errors="replace")
            stanzas += _deb822(text) if path.suffix == ".sources" else _one_line(text)
    for suite in (codename, *_ALIASES):
        sources = []
        for stanza in stanzas:
            fields = {key.lower(): value.split() for key, value in stanza.items()}
            has_suite = "deb" in fields.get("types", ()) and suite in fields.get("suites", ())
            if has_suite and "main" in fields.get("components", ()) and fields.get("enabled", ["yes"])[0] != "no":
                replaced = ("types", "suites", "components", "architectures", "enabled")
                others = {key: value for key, value in stanza.items() if key.lower() not in replaced}
                sources.append({"Types": "deb", **others, "Components": "main"})
        if sources:
            return sources, suite
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
        match = re.match(r"deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line.strip())
        if match:
            options = dict(pair.split("=", 1) for pair in (match[1] or "").split() if "=" in pair)
            fields = {key.title(): value.replace(",", " ") for key, value in options.items() if key != "arch"}
            stanzas.append({"Types": "deb", "URIs": match[2], "Suites": match[3], "Components": match[4], **fields})
    return stanzas


def extract_qemu(deb: Path, target: Path) -> None:
    """Unpack only qemu-aarch64, which needs no libraries. The package's other programs have 350 MB."""
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        for member in archive:
            if member.isfile() and Path(member.name).name in QEMU_NAMES:
                with open(target, "wb") as stream:
                    shutil.copyfileobj(archive.extractfile(member), stream)
                target.chmod(0o755)
                process.kill()
                return
    raise RequestError(f"{deb.name} has no qemu-aarch64 in it.")


def package_facts(deb: Path) -> dict:
    """Return a package's name, version, architecture and sha256."""
    fields = run_command(["dpkg-deb", "-f", deb, "Package", "Version", "Architecture"], "Cannot read")
    values = {key.lower(): value for key, value in (line.split(": ", 1) for line in fields.splitlines())}
    name = values.pop("package")
    return {"name": name, **values, "sha256": sha256_of(deb)}


def os_release(path: str | Path = "/etc/os-release") -> dict[str, str]:
    """Read which release of Linux this machine runs, as the fields of /etc/os-release."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {name.strip(): value.strip().strip('"') for name, value in pairs}


def run_command(words: Sequence, failure: str, remedy: str = "", **options) -> str:
    """Run a command and return its standard output. options: of ``subprocess.run``.

    Raises:
        RequestError: the command failed. The message has ``failure``, the command's last lines and ``remedy``.
    """
    result = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, **options
    )
    if result.returncode:
        lines = [line.strip() for line in (result.stdout + result.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("E:", "ERROR")) or "rror:" in line] or lines
        raise RequestError(" ".join(f"{failure}: {' | '.join(errors[-3:])[-500:]}. {remedy}".split()))
    return result.stdout
