"""Make tests/goldens.npz: what the source frameworks answer with weights that anyone can generate.

    pip install torch torchvision timm tensorflow   # 2 GB and more, in an environment of its own
    python tests/make_goldens.py

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
}
KERAS = {
    ("mobilenet_v1", 1.0): "MobileNet",
    ("mobilenet_v1", 0.25): "MobileNet",
    ("mobilenet_v2", 1.0): "MobileNetV2",
    ("mobilenet_v2", 0.35): "MobileNetV2",
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


def timm_goldens() -> dict:
    """Logits and features of timm's networks."""
    import timm
    import torch

    goldens = {}
    for (name, alpha), source in TIMM.items():
        model = timm.create_model(source).eval()
        state = model.state_dict()
        keys = [key for key in state if not key.endswith("num_batches_tracked")]
        model.load_state_dict(
            {key: torch.from_numpy(generated(key, tuple(state[key].shape))) for key in keys}, strict=False
        )
        extractor = timm.create_model(source, features_only=True).eval()
        extractor.load_state_dict(model.state_dict(), strict=False)
        image = torch.from_numpy(input_image().transpose(2, 0, 1)[None])
        with torch.no_grad():
            goldens[f"timm/{name}/{alpha}/logits"] = model(image)[0].numpy()
            for feature, stride in zip(extractor(image), extractor.feature_info.reduction(), strict=True):
                goldens[f"timm/{name}/{alpha}/stride{stride}"] = spread(feature[0].permute(1, 2, 0).numpy())
        # Names and shapes are all that a checkpoint needs to be made again in the tests.
        goldens[f"timm/{name}/{alpha}/names"] = np.array(keys)
        goldens[f"timm/{name}/{alpha}/shapes"] = np.array([" ".join(map(str, state[key].shape)) for key in keys])
    return goldens


def keras_goldens() -> dict:
    """Logits of keras.applications' networks."""
    import keras

    goldens = {}
    for (name, alpha), source in KERAS.items():
        builder = getattr(keras.applications, source)
        model = builder((SIZE, SIZE, 3), alpha=alpha, weights=None, classifier_activation=None)
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

    # torch and tensorflow need not be in one environment: "timm" or "keras" renews that half alone.
    wanted = sys.argv[1:] or ["timm", "keras"]
    goldens = dict(np.load(GOLDENS)) if GOLDENS.is_file() else {}
    goldens = {key: value for key, value in goldens.items() if key.split("/")[0] not in wanted}
    for source, make in (("timm", timm_goldens), ("keras", keras_goldens)):
        if source in wanted:
            goldens |= make()
    np.savez_compressed(GOLDENS, **dict(sorted(goldens.items())))
    print(f"{GOLDENS}: {len(goldens)} arrays, {GOLDENS.stat().st_size / 1024:.0f} KiB")
