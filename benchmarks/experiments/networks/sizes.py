"""Tables of the papers without trainings: networks that MobileNetV2 is compared with, memory, heads."""

from typing import TYPE_CHECKING

from experiments.variants import Experiment, Variant

if TYPE_CHECKING:
    import keras

# Of DeepLab's evaluation: six scales, each image and its mirror image.
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
PASSES = 2 * sum(scale**2 for scale in SCALES)


def registered(name: str, **options):
    """Give the builder of a registered network."""

    def build(small: bool, side: int) -> "keras.Model":
        from mobilenets_tf import create_model

        return create_model(name, **options)

    return build


def _heads(name: str, label: str, published: str) -> Variant:
    backbone = registered("mobilenet_v2", include_top=False, resolution=320)
    detector = registered(f"{name}_mobilenet_v2")
    return Variant(f"{name}_heads", f"the heads of {label}", detector, published, without=backbone)


def shufflenet(scale: float):
    """Give the builder of a ShuffleNet with three groups."""

    def build(small: bool, side: int) -> "keras.Model":
        from experiments.networks.shufflenet import ShuffleNet

        return ShuffleNet(scale)

    return build


def nasnet(small: bool, side: int) -> "keras.Model":
    """Build NASNet-A Mobile, keras.applications' one."""
    import keras

    return keras.applications.NASNetMobile(weights=None)


def _deeplab(key: str, label: str, published: str, stride: int, rates: tuple[int, ...], passes: float = 1.0):
    options = {"input_shape": (513, 513, 3), "output_stride": stride, "atrous_rates": rates}
    return Variant(key, label, registered("deeplabv3_mobilenet_v2", **options), published, passes=passes)


_ASPP = (6, 12, 18)
_V1, _V2 = (
    Variant(f"size_v{version}", f"MobileNetV{version}", registered(f"mobilenet_v{version}"), published)
    for version, published in ((1, "4.2 M, 575 M, 70.6 %, 113 ms"), (2, "3.4 M, 300 M, 72.0 %, 75 ms"))
)
_V2_WIDE = registered("mobilenet_v2", alpha=1.4)

EXPERIMENTS = (
    Experiment(
        "v2_compared",
        "MobileNetV2 beside MobileNetV1, ShuffleNet and NASNet-A",
        "MobileNetV2 is more accurate than networks with as many multiply-adds, and faster.",
        "arXiv 1801.04381, table 4, on a Pixel 1; ShuffleNet 0.5x and 1x: arXiv 1707.01083, table 2",
        "parameters, multiply-adds, top-1, latency",
        (
            _V2,
            _V1,
            Variant("shufflenet_0.5", "ShuffleNet 0.5x", shufflenet(0.5), "38 M"),
            Variant("shufflenet_1", "ShuffleNet 1x", shufflenet(1.0), "137 M"),
            Variant("shufflenet_1.5", "ShuffleNet 1.5x", shufflenet(1.5), "3.4 M, 292 M, 71.5 %"),
            Variant("shufflenet_2", "ShuffleNet 2x", shufflenet(2.0), "5.4 M, 524 M, 73.7 %"),
            Variant("nasnet", "NASNet-A Mobile", nasnet, "5.3 M, 564 M, 74.0 %, 183 ms"),
            Variant("size_v2_1.4", "MobileNetV2, width 1.4", _V2_WIDE, "6.9 M, 585 M, 74.7 %, 143 ms"),
        ),
        trained=False,
    ),
    Experiment(
        "v2_memory",
        "Memory: MobileNetV2 beside MobileNetV1 and ShuffleNet",
        "The largest tensor that has to be in memory, with 16 bits a value, is 400 K in MobileNetV2, 1600 K in "
        "MobileNetV1 and 600 K in ShuffleNet 2x, with a bottleneck as one operator.",
        "arXiv 1801.04381, table 3",
        "largest tensor, 16 bits",
        (
            Variant("size_v2", "MobileNetV2", registered("mobilenet_v2"), "400K"),
            Variant("size_v1", "MobileNetV1", registered("mobilenet_v1"), "1600K"),
            Variant("shufflenet_2", "ShuffleNet 2x", shufflenet(2.0), "600K"),
        ),
        trained=False,
        memory=True,
        note="The paper's row of ShuffleNet has 32, 400, 800 and 1600 channels, those of two groups, and its largest "
        "tensor leaves out the first convolution, whose output is the largest tensor of the network with three groups.",
    ),
    Experiment(
        "v2_detectors",
        "SSDLite against SSD",
        "Separable convolutions in the heads have a seventh of the parameters and fewer multiply-adds.",
        "arXiv 1801.04381, table 5: of the heads alone. 320 pixels, 80 classes",
        "parameters, multiply-adds",
        (
            Variant("ssd", "SSD on MobileNetV2", registered("ssd_mobilenet_v2")),
            Variant("ssdlite", "SSDLite on MobileNetV2", registered("ssdlite_mobilenet_v2")),
            _heads("ssd", "SSD", "14.8 M, 1.25 B"),
            _heads("ssdlite", "SSDLite", "2.1 M, 0.35 B"),
        ),
        trained=False,
        note="The paper's 0.35 B for SSDLite are twice the multiply-adds; its 1.25 B for SSD are multiply-adds.",
    ),
    Experiment(
        "v2_segmenters",
        "DeepLabv3 on MobileNetV2: output stride, ASPP, several scales",
        "Without ASPP at output stride 16 the segmenter loses 0.4 points of mIoU and has half of the multiply-adds; "
        "several scales and mirrored images cost fifty times as many.",
        "arXiv 1801.04381, table 7, VOC val. Multi-scale is read as six scales from 0.5 to 1.75, each mirrored too; "
        "latency is that of one pass",
        "mIoU, parameters, multiply-adds",
        (
            _deeplab("deeplab_16", "stride 16", "75.32, 2.11 M, 2.75 B", 16, ()),
            _deeplab("deeplab_16_aspp", "stride 16, ASPP", "75.70, 4.52 M, 5.8 B", 16, _ASPP),
            _deeplab("deeplab_8", "stride 8, multi-scale, mirrored", "77.33, 2.11 M, 152.6 B", 8, (), PASSES),
            _deeplab(
                "deeplab_8_aspp", "stride 8, ASPP, multi-scale, mirrored", "78.42, 4.52 M, 387 B", 8, _ASPP, PASSES
            ),
        ),
        trained=False,
    ),
)  # fmt: skip
