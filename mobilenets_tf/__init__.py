"""Small vision networks in Keras 3, quantised and exported for Android with proof.

>>> import mobilenets_tf
>>> model = mobilenets_tf.create_model("efficientnet_lite0", weights="imagenet")
>>> from mobilenets_tf import export
>>> result = export.to_tflite(model, "int8", calibration=images)
"""

import importlib

__version__ = "0.1.0"

# Public name -> the module it lives in. Loaded on first use, so that importing the package costs nothing.
_PUBLIC = {
    "create_model": "mobilenets_tf.factory",
    "model_info": "mobilenets_tf.factory",
    "list_models": "mobilenets_tf.registry",
    "features": "mobilenets_tf.networks.features",
    "load_model": "mobilenets_tf.weights.saved_models",
    "reparameterize": "mobilenets_tf.conversion.reparameterization",
    "Preprocessing": "mobilenets_tf.data.preprocessing",
    "ImageInput": "mobilenets_tf.tflite.image_input",
    "Convention": "mobilenets_tf.conventions",
    "RequestError": "mobilenets_tf.errors",
    "MobileNetV1": "mobilenets_tf.networks.mobilenet_v1",
    "MobileNetV2": "mobilenets_tf.networks.mobilenet_v2",
    **{f"MobileNetV3{size}": "mobilenets_tf.networks.mobilenet_v3" for size in ("Large", "Small")},
    **{f"EfficientNetLite{size}": "mobilenets_tf.networks.efficientnet_lite" for size in range(5)},
    **{
        f"MobileOne{size}": "mobilenets_tf.networks.mobileone"
        for size in ("S0", "S1", "S2", "S3", "S4", "Mu0", "Mu1", "Mu2")
    },
    **{
        f"MobileViT{size}": "mobilenets_tf.networks.mobilevit"
        for size in (
            "XXS",
            "XS",
            "S",
            "V2_050",
            "V2_075",
            "V2_100",
            "V3XXS",
            "V3XS",
            "V3S",
            "V3_050",
            "V3_075",
            "V3_100",
        )
    },
    "SSD": "mobilenets_tf.networks.ssd",
    **dict.fromkeys(("DeepLabV3", "RASPP", "LRASPP"), "mobilenets_tf.networks.segmentation"),
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
