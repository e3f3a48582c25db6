"""Make, find and remove the Vulkan drivers on which LiteRT's GPU accelerator runs here.

The accelerator itself is in the wheel of ai-edge-litert. The drivers come out of Debian's packages: SwiftShader and the
Vulkan loader out of Chromium's, lavapipe out of Mesa's. They are one folder (``RuntimeFolder``), by default in the
package's cache; the system is not changed (``debian``).
"""

import importlib.metadata
import json
import shutil
from pathlib import Path

from mobilenets_tf.errors import RequestError
from mobilenets_tf.export.gpu.accelerator import HALF, SINGLE, Accelerator, compare
from mobilenets_tf.export.targets import debian
from mobilenets_tf.export.targets.convolution import convolution, convolution_input
from mobilenets_tf.export.targets.folder import RuntimeFolder, stage
from mobilenets_tf.export.targets.host import run_on_host
from mobilenets_tf.progress import Progress, silent

# Mesa 22 does not compile the accelerator's shaders; 25 does, and has float16. Those between were not tried.
OLDEST_MESA = 25
_CHROMIUM = ("libvk_swiftshader.so", "libvulkan.so.1")
_MESA = "libvulkan_lvp.so"
# Libraries of the system's own C library and compiler, which the process has loaded already.
_OF_THE_SYSTEM = ("libc6", "libgcc-s1", "libstdc++6")
_FOLDERS = {SINGLE: "swiftshader", HALF: "lavapipe"}


def setup(folder: str | Path | None = None, progress: Progress = silent) -> Accelerator:
    """Make the drivers, unless the folder has them already.

    This downloads about 85 MB and keeps about 190 MB. If it is interrupted, the folder stays as it was.

    Args:
        folder: folder of the drivers; None: the usual place.

    Returns:
        The accelerator, as ``find`` returns it.

    Raises:
        RequestError: this machine is not Debian, or lacks a tool; a download fails; the folder has other files in it or
            cannot be written; or the accelerator does not compute what this machine computes.
    """
    try:
        return find(folder)
    except RequestError:
        debian.check_host("The folder of Vulkan drivers consists")

    def build(runtime: Path, work: Path) -> dict:
        manifest = _build(runtime, work, progress)
        with stage(progress, "testing the accelerator"):
            _try(_accelerator(runtime, manifest))
        return manifest

    _folder(folder).make(build)
    return find(folder)


def find(folder: str | Path | None = None) -> Accelerator:
    """Return the accelerator on the drivers that ``setup`` made.

    Args:
        folder: folder of the drivers; None: the usual place.

    Raises:
        RequestError: there are no drivers, or they are damaged. The message gives the command that makes them.
    """
    place = _folder(folder)
    manifest = place.manifest()
    if manifest is None:
        raise RequestError(f"There are no Vulkan drivers for the GPU accelerator in {place.path}. {place.remedy}")
    accelerator = _accelerator(place.path, manifest)
    files = [Path(each["VK_DRIVER_FILES"]) for each in accelerator.drivers.values()]
    if not all(path.is_file() for path in files):
        raise RequestError(f"The Vulkan drivers in {place.path} are damaged. Remove the folder. {place.remedy}")
    return accelerator


def remove(folder: str | Path | None = None) -> int:
    """Remove the drivers, and temporary folders that interrupted runs of ``setup`` left beside them.

    Args:
        folder: folder of the drivers; None: the usual place.

    Returns:
        The number of folders that were removed.

    Raises:
        RequestError: the folder exists and is not such a folder.
    """
    return _folder(folder).remove()


def _folder(path: str | Path | None) -> RuntimeFolder:
    return RuntimeFolder.of("gpu", path, "a folder of the GPU accelerator's drivers", _is_manifest)


def _is_manifest(manifest: dict) -> bool:
    return isinstance(manifest["drivers"], list) and set(manifest["drivers"]) <= set(_FOLDERS) and manifest["packages"]


def _accelerator(folder: Path, manifest: dict) -> Accelerator:
    folder = folder.resolve()
    drivers = {}
    for precision in manifest["drivers"]:
        own = folder / _FOLDERS[precision]
        # The loader of Vulkan is in SwiftShader's folder; VK_ICD_FILENAMES is what older loaders read.
        libraries = f"{folder / _FOLDERS[SINGLE]}:{own}"
        drivers[precision] = {
            "LD_LIBRARY_PATH": libraries,
            "VK_DRIVER_FILES": str(own / "driver.json"),
            "VK_ICD_FILENAMES": str(own / "driver.json"),
        }
    named = {"chromium-common": "swiftshader of chromium", "mesa-vulkan-drivers": "lavapipe of mesa"}
    versions = {named[each["name"]]: each["version"] for each in manifest["packages"] if each["name"] in named}
    return Accelerator(drivers, {"ai-edge-litert": importlib.metadata.version("ai-edge-litert")} | versions)


def _build(runtime: Path, work: Path, progress: Progress) -> dict:
    """Fill the folder ``runtime`` and return its manifest. work: a folder for temporary files."""
    with stage(progress, "reading Debian's lists"):
        apt = debian.Apt(work / "apt")
        apt.update()
    with stage(progress, "downloading SwiftShader"):
        chromium = apt.download(["chromium-common"])["chromium-common"]
        own = runtime / _FOLDERS[SINGLE]
        own.mkdir()
        debian.extract(chromium, {name: own / name for name in _CHROMIUM})
        _name_driver(own, _CHROMIUM[0])
    drivers, packages = [SINGLE], {"chromium-common": chromium}
    with stage(progress, "downloading lavapipe"):
        suite = apt.suite_of("mesa-vulkan-drivers", OLDEST_MESA)
        if suite:
            packages |= apt.download_with_dependencies("mesa-vulkan-drivers", suite)
    if suite:
        with stage(progress, "unpacking lavapipe"):
            own = runtime / _FOLDERS[HALF]
            own.mkdir()
            for name, deb in packages.items():
                if name not in (*_OF_THE_SYSTEM, "chromium-common"):
                    _unpack_libraries(deb, work / "unpacked", own)
            _name_driver(own, _MESA)
            drivers.append(HALF)
    return {"drivers": drivers, "packages": [debian.package_facts(deb) for deb in packages.values()]}


def _unpack_libraries(deb: Path, work: Path, own: Path) -> None:
    """Unpack a package's shared libraries side by side, without Mesa's drivers for other devices."""
    debian.run_command(["dpkg-deb", "-x", deb, work], "Cannot unpack")
    for path in sorted(work.rglob("lib*.so*")):
        other = path.name.startswith(("libvulkan_", "libVkLayer")) and path.name != _MESA
        if other or not path.is_file():
            continue
        if not path.is_symlink():
            shutil.copyfile(path, own / path.name)
        elif path.readlink().name != path.name:
            (own / path.name).symlink_to(path.readlink().name)
    shutil.rmtree(work)


def _name_driver(own: Path, library: str) -> None:
    """Write the file by which Vulkan's loader finds a driver. The path in it is that of the file's own folder."""
    driver = {"file_format_version": "1.0.0", "ICD": {"library_path": f"./{library}", "api_version": "1.1.0"}}
    (own / "driver.json").write_text(json.dumps(driver), encoding="utf-8")


def _try(accelerator: Accelerator) -> None:
    """Run one convolution in each precision and compare its output with this machine's.

    Raises:
        RequestError: the accelerator does not run, does not take the convolution, or computes another output.
    """
    host = run_on_host(convolution(), [[convolution_input()]], scores=False)
    for precision in accelerator.drivers:
        comparison = compare(accelerator, host, precision)
        if not (comparison.passed and comparison.whole):
            raise RequestError(
                f"The GPU accelerator does not compute what this machine computes: {' '.join(comparison.lines())}"
            )
