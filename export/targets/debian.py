"""Download Debian's packages without any change to this system.

apt works with lists, a cache and a status file of its own in a separate folder. It only reads the system's sources.
"""

import os
import platform
import re
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from mobilenets_tf.errors import RequestError
from mobilenets_tf.files import sha256_of

_ALIASES = ("oldoldstable", "oldstable", "stable", "testing", "unstable")


class Apt:
    """Debian's apt with lists, cache and status file in a folder of its own, and the system's sources.

    Args:
        folder: an empty folder. architecture: of the packages of the release; None for this machine's.

    host: Debian's name of this machine's architecture.
    """

    def __init__(self, folder: Path, architecture: str | None = None):
        self._folder = folder
        for name in ("sources", "state/lists/partial", "cache/archives/partial", "debs"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        self._main, self._codename = apt_sources()
        self.host = run_command(["dpkg", "--print-architecture"], "dpkg fails").strip()
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
            "APT::Architecture": self.host,
            "APT::Sandbox::User": "root",  # apt's own user may not be able to read a folder in root's home
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        lines = [f'{name} "{value}";' for name, value in settings.items()]
        self._architecture = architecture or self.host
        names = "".join(f'"{name}"; ' for name in dict.fromkeys((self.host, self._architecture)))
        lines.append(f"APT::Architectures {{ {names}}};")
        (folder / "apt.conf").write_text("\n".join([*acquire, *lines, ""]), encoding="utf-8")
        self._write_sources("release", self._architecture, self._codename)

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

    def suite_of(self, package: str, oldest: int) -> str | None:
        """Find the suite that has a package for this machine in a new enough version: the release, or its backports.

        Adds the suite to the sources. oldest: the major version. None if no suite has such a version.
        """
        for suite in (self._codename, f"{self._codename}-backports"):
            # The lists of the release are at hand already, and have the same versions for each architecture.
            architecture = self._architecture if suite == self._codename else self.host
            if suite != self._codename:
                self._write_sources("newer", self.host, suite)
                self.update()
            if self._newest(f"{package}:{architecture}") >= oldest:
                if architecture != self.host:
                    self._write_sources("newer", self.host, suite)
                    self.update()
                return suite
        return None

    def _newest(self, package: str) -> int:
        text = self._apt("apt-cache", "madison", package)
        name = re.escape(package.split(":")[0])
        versions = re.findall(rf"^\s*{name}(?::\w+)? \| (?:\d+:)?(\d+)\.", text, re.MULTILINE)
        return max(map(int, versions), default=0)

    def download(self, packages: list[str]) -> dict[str, Path]:
        """Download packages; return name -> file. apt checks each file's sha256 against the signed list."""
        self._apt("apt-get", "download", "-q", *packages, cwd=self._folder / "debs")
        debs = {path.name.split("_")[0]: path for path in (self._folder / "debs").glob("*.deb")}
        names = [package.split(":")[0] for package in packages]
        if missing := [name for name in names if name not in debs]:
            raise RequestError(f"apt did not download {', '.join(missing)}.")
        return {name: debs[name] for name in names}

    def download_with_dependencies(self, package: str, suite: str) -> dict[str, Path]:
        """Download a package for this machine and everything that it depends on; return name -> file."""
        options = ("--download-only", "--yes", "--no-install-recommends", "-q", "-t", suite)
        self._apt("apt-get", "install", *options, f"{package}:{self.host}")
        return {path.name.split("_")[0]: path for path in (self._folder / "cache" / "archives").glob("*.deb")}

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


def extract(deb: Path, targets: dict[str, Path]) -> None:
    """Unpack some files of a package.

    Args:
        targets: the name of a file, without its folder -> where to write it.

    Raises:
        RequestError: the package has no such file.
    """
    missing = dict(targets)
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        for member in archive:
            target = missing.pop(Path(member.name).name, None) if member.isfile() else None
            if target is not None:
                with open(target, "wb") as stream:
                    shutil.copyfileobj(archive.extractfile(member), stream)
                target.chmod(member.mode & 0o777)
            if not missing:
                process.kill()
                return
    raise RequestError(f"{deb.name} has no {', '.join(missing)} in it.")


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


def check_host(what: str) -> None:
    """Refuse a machine on which apt cannot download packages for a target's runtime.

    Args:
        what: begins the message, such as "The emulated runtime consists".

    Raises:
        RequestError: this machine is not Debian, or lacks a tool.
    """
    release = os_release()
    missing = [tool for tool in ("apt-get", "apt-cache", "apt-config", "dpkg-deb", "dpkg") if not shutil.which(tool)]
    if missing or release.get("ID") != "debian":
        machine = f"has no {', '.join(missing)}" if missing else f"is {release.get('PRETTY_NAME', 'not Debian')}"
        raise RequestError(
            f"{what} of Debian's packages, and this machine {machine}. Set it up on Debian 12 or newer, or in a "
            "container (docker run -it debian:12), and copy its folder to this machine: the folder works on any "
            f"{platform.machine()} Linux (--folder)."
        )


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
