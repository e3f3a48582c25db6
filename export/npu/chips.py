"""The chips whose NPUs LiteRT compiles files for ahead of time, and where their vendors' compilers are.

The names of the chips are those of ``ai_edge_litert.aot.vendors.*.target``, of LiteRT 2.3.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from mobilenets_tf.errors import RequestError, unknown


@dataclass(frozen=True)
class Vendor:
    """A vendor of chips with NPUs.

    name: of LiteRT's folder for the vendor. manufacturer: as LiteRT's tools and phones call the vendor.
    sdk: the package with the vendor's compiler. chips: that LiteRT names. remedy: how the compiler can be had.
    """

    name: str
    manufacturer: str
    sdk: str
    chips: tuple[str, ...]
    remedy: str


_OWN = "Install the vendor's SDK for LiteRT, the package {sdk}."
VENDORS = (
    Vendor(
        "qualcomm", "Qualcomm", "ai_edge_litert_sdk_qualcomm",
        ("SA8255", "SA8295", "SM8350", "SM8450", "SM8475", "SM8550", "SM8650", "SM8750", "SM8845", "SM8850"),
        "The package onnxruntime-qnn has the compiler (95 MB, with a licence of Qualcomm's): "
        "pip install --no-deps onnxruntime-qnn",
    ),
    Vendor(
        "mediatek", "MediaTek", "ai_edge_litert_sdk_mediatek",
        ("MT6853", "MT6877", "MT6878", "MT6879", "MT6886", "MT6893", "MT6895", "MT6897", "MT6983", "MT6985", "MT6989",
         "MT6991", "MT8171", "MT8188", "MT8189", "MT6993"),
        _OWN,
    ),
    Vendor("google_tensor", "Google", "ai_edge_litert_sdk_google_tensor",
           ("Tensor_G3", "Tensor_G4", "Tensor_G5", "Tensor_G6"), _OWN),
    Vendor("intel_openvino", "IntelOpenVINO", "ai_edge_litert_sdk_intel", ("LNL", "PTL"), _OWN),
    Vendor("samsung", "Samsung", "ai_edge_litert_sdk_samsung", ("E9965",), _OWN),
)  # fmt: skip
_VENDOR_OF = {chip: vendor for vendor in VENDORS for chip in vendor.chips}
# Qualcomm's libraries in a package from PyPI, which stand in for the SDK that only Qualcomm's servers give.
_QUALCOMM_PACKAGE = "onnxruntime_qnn"


def vendor_of(chip: str) -> Vendor:
    """Return the vendor of a chip.

    Raises:
        RequestError: LiteRT knows no such chip; the message has the nearest ones.
    """
    if chip in _VENDOR_OF:
        return _VENDOR_OF[chip]
    known = [name for name in _VENDOR_OF if name[:2].lower() == chip[:2].lower()]  # of the same vendor
    raise unknown("chip", chip, known or _VENDOR_OF)


def libraries(vendor: Vendor) -> Path | None:
    """Return the folder with Qualcomm's libraries in the package onnxruntime-qnn; None if the vendor's own SDK is
    installed, which LiteRT finds by itself.

    Raises:
        RequestError: there is no compiler of the vendor on this machine; the message says how to get it.
    """
    if importlib.util.find_spec(vendor.sdk):
        return None
    package = importlib.util.find_spec(_QUALCOMM_PACKAGE) if vendor.name == "qualcomm" else None
    if package and package.origin:
        return Path(package.origin).parent
    raise RequestError(
        f"{vendor.manufacturer}'s compiler is not on this machine. {vendor.remedy.format(sdk=vendor.sdk)}"
    )
