"""mobilenets-tf doctor"""

import importlib.metadata
import importlib.util
import platform
import sys

from mobilenets_tf import registry
from mobilenets_tf.cli.options import emit
from mobilenets_tf.files import cache_folder, sha256_of
from mobilenets_tf.version import __version__
from mobilenets_tf.weights import catalog

HELP = "Show versions, which extras are installed and which weights are on this machine."
EXAMPLE = "mobilenets-tf doctor"

_REQUIRED = (
    "tensorflow", "keras", "ai-edge-litert", "numpy", "pillow", "h5py", "safetensors", "flatbuffers", "rich", "jinja2",
    "matplotlib",
)  # fmt: skip
# extra: (what it is for, {distribution: its module})
_EXTRAS = {
    "photos": ("the demo photographs", {"scikit-image": "skimage"}),
    "qat": ("quantisation-aware training", {"tensorflow-model-optimization": "tensorflow_model_optimization",
                                            "tf_keras": "tf_keras"}),
    "detection": ("average precision of detectors", {"pycocotools": "pycocotools"}),
    "test": ("the tests", {"pytest": "pytest", "ruff": "ruff"}),
}  # fmt: skip


def add_arguments(parser):
    pass


def run(arguments):
    emit(f"mobilenets-tf {__version__}, Python {platform.python_version()} on {platform.platform()} ({sys.executable})")
    broken = []
    for name in _REQUIRED:
        version = _version(name)
        emit(f"  {name:<16} {version or 'MISSING'}")
        broken += [name] if version is None else []
    for extra, (purpose, modules) in _EXTRAS.items():
        missing = [name for name, module in modules.items() if importlib.util.find_spec(module) is None]
        remedy = f"pip install {' '.join(missing)}"
        emit(f"  extra {extra:<10} {'installed' if not missing else f'not installed ({remedy})'}: {purpose}")
    for network in registry.list_models(task="classify"):  # whose weights the others read too
        for record in catalog.weight_sets(network):
            label = network + (f" alpha={record.alpha}" if record.alpha not in (None, 1.0) else "")
            if path := catalog.locate(record):
                intact = not record.sha256 or sha256_of(path) == record.sha256
                broken += [] if intact else [str(path)]
                emit(f"  weights {label} {record.tag}: {path}{'' if intact else '  DAMAGED (sha256 differs)'}")
            elif record.package:
                emit(f"  weights {label} {record.tag}: not installed ({record.install})")
    emit(f"  other weight files are looked for in {cache_folder()}")
    if broken:
        emit(f"Broken: {', '.join(broken)}. Install what is missing or damaged again.")
        return 1
    emit("All good.")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
