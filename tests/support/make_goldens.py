"""Make tests/support/goldens.npz: what the source frameworks answer with weights that anyone can generate.

    pip install torch torchvision timm tensorflow   # 2 GB and more, in an environment of its own
    python -m tests.support.make_goldens

Each network of timm and keras.applications gets the weights of ``generated`` (a seeded function of the tensor's name
and shape; BatchNorm statistics far from trivial), sees ``input_image`` and has its logits and its features at every
stride written down, features as 64 values spread over the tensor. The tests give our networks the same weights, through
the importers, and compare. They need neither torch nor timm.
"""

import zlib
from pathlib import Path

import numpy as np

GOLDENS = Path(__file__).with_name("goldens.npz")
SIZE = 96

# our name, alpha -> (source, the source's name for it)
TIMM = {
    ("mobilenet_v1", 1.0): "mobilenetv1_100",
    ("mobilenet_v2", 1.0): "mobilenetv2_100",
    ("mobilenet_v2", 1.4): "mobilenetv2_140",
    ("efficientnet_lite0", None): "tf_efficientnet_lite0",
    ("efficientnet_lite1", None): "tf_efficientnet_lite1",
    ("efficientnet_lite2", None): "tf_efficientnet_lite2",
    ("efficientnet_lite3", None): "tf_efficientnet_lite3",
    ("efficientnet_lite4", None): "tf_efficientnet_lite4",
    ("mobilenet_v3_large", 1.0): "mobilenetv3_large_100",
    ("mobilenet_v3_large", 0.75): "tf_mobilenetv3_large_075",
    ("mobilenet_v3_small", 1.0): "tf_mobilenetv3_small_100",
    ("mobilenet_v3_small", 0.75): "mobilenetv3_small_075",
    ("mobilenet_v3_large_minimalistic", 1.0): "tf_mobilenetv3_large_minimal_100",
    ("mobilenet_v3_small_minimalistic", 1.0): "tf_mobilenetv3_small_minimal_100",
    **{(f"mobileone_s{size}", None): f"mobileone_s{size}" for size in range(5)},
    **{(f"mobilevit_{size}", None): f"mobilevit_{size}" for size in ("xxs", "xs", "s")},
    **{(f"mobilevit_v2_{size}", None): f"mobilevitv2_{size}" for size in ("050", "075", "100")},
}
# From the published description (tests/mobilevit_v3_reference.py); those on v1 were trained on BGR.
MOBILEVIT_V3 = {f"mobilevit_v3_{size}": size in ("xxs", "xs", "s") for size in ("xxs", "xs", "s", "050", "075", "100")}
TORCHVISION = {
    "mobilenet_v2": "mobilenet_v2",
    "mobilenet_v3_large": "mobilenet_v3_large",
    "mobilenet_v3_small": "mobilenet_v3_small",
}
KERAS = {
    ("mobilenet_v1", 1.0): "MobileNet",
    ("mobilenet_v1", 0.25): "MobileNet",
    ("mobilenet_v2", 1.0): "MobileNetV2",
    ("mobilenet_v2", 0.35): "MobileNetV2",
    ("mobilenet_v3_large", 1.0): "MobileNetV3Large",
    ("mobilenet_v3_small", 0.75): "MobileNetV3Small",
    ("mobilenet_v3_small_minimalistic", 1.0): "MobileNetV3Small",
}


def generated(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights for a tensor, of its name and shape alone; scaled so that activations neither vanish nor explode."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    kind = name.rsplit(".", 1)[-1]
    if kind in ("running_var", "moving_variance"):
        return random.uniform(0.5, 2.0, shape).astype(np.float32)
    if kind in ("running_mean", "moving_mean", "bias", "beta"):
        return random.normal(0, 0.3, shape).astype(np.float32)
    if len(shape) == 1:  # BatchNorm's scale
        return random.uniform(0.7, 1.5, shape).astype(np.float32)
    if kind in ("kernel", "depthwise_kernel"):  # Keras: (H, W, I, O), (I, O) or depthwise (H, W, C, 1)
        fan_in = np.prod(shape[:2]) if kind == "depthwise_kernel" else np.prod(shape[:-1])
    else:  # PyTorch: (O, I, H, W) or (O, I)
        fan_in = np.prod(shape[1:])
    return (random.normal(0, 1, shape) * np.sqrt(1.5 / fan_in)).astype(np.float32)


def input_image() -> np.ndarray:
    """(SIZE, SIZE, 3), values in [-1, 1]."""
    return np.random.default_rng(7).uniform(-1, 1, (SIZE, SIZE, 3)).astype(np.float32)


def spread(feature: np.ndarray) -> np.ndarray:
    """64 values spread evenly over a channels-last feature, without its batch."""
    flat = np.asarray(feature, np.float32).ravel()
    return flat[np.linspace(0, flat.size - 1, 64).astype(int)]


def torch_golden(key: str, model, features: dict, bgr: bool = False) -> dict:
    """What a PyTorch network answers with generated weights; ``features`` maps a stride to the module that gives it."""
    import torch

    state = model.eval().state_dict()
    names = [name for name in state if not name.endswith("num_batches_tracked")]
    model.load_state_dict(
        {name: torch.from_numpy(generated(name, tuple(state[name].shape))) for name in names}, strict=False
    )
    goldens = {}
    for stride, module in features.items():

        def keep(module, inputs, output, stride=stride):
            goldens[f"{key}/stride{stride}"] = spread(output[0].permute(1, 2, 0).numpy())

        model.get_submodule(module).register_forward_hook(keep)
    image = input_image()[..., ::-1].copy() if bgr else input_image()
    with torch.no_grad():
        goldens[f"{key}/logits"] = model(torch.from_numpy(image.transpose(2, 0, 1)[None]))[0].numpy()
    # Names and shapes are all that a checkpoint needs to be made again in the tests.
    goldens[f"{key}/names"] = np.array(names)
    goldens[f"{key}/shapes"] = np.array([" ".join(map(str, state[name].shape)) for name in names])
    return goldens


def timm_goldens() -> dict:
    """Logits and features of timm's networks."""
    import timm

    goldens = {}
    for (name, alpha), source in TIMM.items():
        model = timm.create_model(source)
        features = {entry["reduction"]: entry["module"] for entry in model.feature_info}
        if "mobilevit" in name:
            features[32] = "stages.4"  # timm reports the last convolution, which is part of the head here
        goldens |= torch_golden(f"timm/{name}/{alpha}", model, features)
    return goldens


def torchvision_goldens() -> dict:
    """Logits of torchvision's networks."""
    import torchvision

    models = {name: getattr(torchvision.models, source)() for name, source in TORCHVISION.items()}
    return {k: v for name, model in models.items() for k, v in torch_golden(f"torchvision/{name}", model, {}).items()}


def mobilevit_v3_goldens() -> dict:
    """Logits and features of MobileViTv3."""
    from tests.support import mobilevit_v3_reference

    features = {2**stage: f"layer_{stage}" for stage in range(1, 6)}
    goldens = {}
    for name, bgr in MOBILEVIT_V3.items():
        goldens |= torch_golden(f"cvnets/{name}", mobilevit_v3_reference.build(name), features, bgr)
    return goldens


def keras_goldens() -> dict:
    """Logits of keras.applications' networks."""
    import keras

    goldens = {}
    for (name, alpha), source in KERAS.items():
        builder = getattr(keras.applications, source)
        options = {"minimalistic": "minimalistic" in name, "include_preprocessing": False} if "V3" in source else {}
        model = builder((SIZE, SIZE, 3), alpha=alpha, weights=None, classifier_activation=None, **options)
        names, shapes = [], []
        for layer in model.layers:
            for variable in layer.weights:
                kind = "depthwise_kernel" if "Depthwise" in type(layer).__name__ else variable.name
                kind = kind if variable.name == "kernel" else variable.name
                variable.assign(generated(f"{layer.name}.{kind}", tuple(variable.shape)))
                names.append(f"{layer.name}.{kind}")
                shapes.append(" ".join(map(str, variable.shape)))
        goldens[f"keras/{name}/{alpha}/logits"] = np.ravel(model(input_image()[None], training=False))
        goldens[f"keras/{name}/{alpha}/names"] = np.array(names)
        goldens[f"keras/{name}/{alpha}/shapes"] = np.array(shapes)
    return goldens


if __name__ == "__main__":
    import sys

    makers = {
        "timm": timm_goldens,
        "torchvision": torchvision_goldens,
        "cvnets": mobilevit_v3_goldens,
        "keras": keras_goldens,
    }
    # torch and tensorflow need not be in one environment: "keras", say, renews that part alone.
    wanted = sys.argv[1:] or list(makers)
    goldens = dict(np.load(GOLDENS)) if GOLDENS.is_file() else {}
    goldens = {key: value for key, value in goldens.items() if key.split("/")[0] not in wanted}
    for source, make in makers.items():
        if source in wanted:
            goldens |= make()
    np.savez_compressed(GOLDENS, **dict(sorted(goldens.items())))
    print(f"{GOLDENS}: {len(goldens)} arrays, {GOLDENS.stat().st_size / 1024:.0f} KiB")
