"""The wheel has every module and template, and works where the repository is not."""

import configparser
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mobilenets_tf.cli import VERBS

ROOT = Path(__file__).parents[1]
FOLDERS = {"mobilenets_tf": "mobilenets_tf", "quantize": "mobilenets_tf/quantize", "export": "mobilenets_tf/export"}


def files():
    """Where a file is to be installed -> the file."""
    return {
        f"{installed}/{path.relative_to(ROOT / folder).as_posix()}": path
        for folder, installed in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != "README.md"
    }


def test_setup_lists_every_folder():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    packages = {name.rpartition("/")[0].replace("/", ".") for name in files() if name.endswith("/__init__.py")}
    assert set(setup["options"]["packages"].split()) == packages


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built in a copy: setuptools leaves folders behind."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / "copy" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "copy" / name)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, folder / "copy")
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment's ``bin``: the wheel alone is installed there, and it sees the packages of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    run(sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "-q", "--no-deps", wheel)
    (packages,) = folder.glob("lib/python*/site-packages")
    # As folders: an editable installation's own .pth files are not read.
    others = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "others.pth").write_text("\n".join(others) + "\n")
    return folder / "bin"


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A working directory from which Python does not see the repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return tmp_path


@pytest.mark.slow
def test_the_wheel_carries_every_file(wheel):
    carried = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert carried == files().keys()


@pytest.mark.slow
def test_every_verb_from_the_wheel_outside_of_the_repository(installed, outside):
    where = run(installed / "python", "-c", "import mobilenets_tf.export as e; print(e.__file__)")
    assert Path(where).is_relative_to(installed.parent)
    for verb in VERBS:
        assert run(installed / "mobilenets-tf", verb, "--help").startswith(f"mobilenets-tf {verb}")


@pytest.mark.slow
def test_deploy_from_the_wheel_outside_of_the_repository(installed, outside, small, image_folder):
    small.save("small.keras")
    command = [installed / "mobilenets-tf", "deploy", "small.keras", "--mean", 127.5, "--std", 127.5]
    command += ["--calibration", image_folder, "--min-agreement", 0, "--out", "out", "--quiet"]
    run(*command, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"})
    manifest = json.loads(Path("out", "small_int8.tflite.json").read_text())
    assert manifest["passed"] and Path("out", "small_int8.tflite.html").stat().st_size > 10_000
