"""MobileViTv3 in PyTorch, the source of the golden values of the Keras networks.

Written from the published block description (Wadekar and Chaurasia, arXiv 2209.15159) and the published code
(github.com/micronDLA/MobileViTv3, which patches github.com/apple/ml-cvnets), independently of the Keras networks.
Only `tests/support/make_goldens.py` uses it, and it needs torch. The keys of `state_dict()` are those of the
checkpoints of that repository. `python tests/support/mobilevit_v3_reference.py` compares the counts with the expected
ones.

In the paths named below, `v1/` is MobileViTv3-v1/cvnets (laid over ml-cvnets d38a116), `v2/` is MobileViTv3-v2/cvnets
(laid over ml-cvnets 84d992f).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 2
HEADS = 4
STRIDES = (2, 4, 8, 16, 32)  # of layer_1 ... layer_5

# name: channels of layer_1 ... layer_5, transformer widths of layer_3 ... layer_5, expansion of the MobileNetV2 blocks
# (v1/models/classification/config/mobilevit.py, modes `*_v3`)
V1_BASE = {
    "mobilevit_v3_xxs": ((16, 24, 64, 80, 128), (64, 80, 96), 2),
    "mobilevit_v3_xs": ((32, 48, 96, 160, 160), (96, 120, 144), 4),
    "mobilevit_v3_s": ((32, 64, 128, 256, 320), (144, 192, 240), 4),
}
# name: width multiplier (v2/models/classification/config/mobilevit_v3.py)
V2_BASE = {"mobilevit_v3_050": 0.5, "mobilevit_v3_075": 0.75, "mobilevit_v3_100": 1.0}


class Conv(nn.Module):
    """Convolution with padding k // 2, then, where asked for, batch norm and SiLU (ml-cvnets layers/conv_layer.py)."""

    def __init__(self, cin: int, cout: int, k: int = 1, s: int = 1, groups: int = 1, norm=True, act=True, bias=False):
        super().__init__()
        self.block = nn.Sequential()
        self.block.add_module("conv", nn.Conv2d(cin, cout, k, s, k // 2, groups=groups, bias=bias))
        if norm:
            self.block.add_module("norm", nn.BatchNorm2d(cout, eps=1e-5))
        if act:
            self.block.add_module("act", nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class InvertedResidual(nn.Module):
    """MobileNetV2 block with SiLU; adds its input at stride 1 and equal widths (ml-cvnets modules/mobilenetv2.py)."""

    def __init__(self, cin: int, cout: int, stride: int, expansion: int):
        super().__init__()
        mid = cin * expansion  # a multiple of 8 in every model here, so the rounding of the original has no effect
        self.block = nn.Sequential()
        self.block.add_module("exp_1x1", Conv(cin, mid))
        self.block.add_module("conv_3x3", Conv(mid, mid, k=3, s=stride, groups=mid))
        self.block.add_module("red_1x1", Conv(mid, cout, act=False))
        self.residual = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        return x + y if self.residual else y


def resize_to_even(x: Tensor, align_corners: bool) -> Tensor:
    """Bilinear resize of height and width up to the next multiple of the patch size; nothing if they are one."""
    h, w = x.shape[-2:]
    size = (-(-h // PATCH) * PATCH, -(-w // PATCH) * PATCH)
    return x if size == (h, w) else F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def unfold(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, C, P, N): pixel positions inside a patch, then patches, both in row-major order."""
    b, c, h, w = x.shape
    return F.pixel_unshuffle(x, PATCH).reshape(b, c, PATCH**2, h * w // PATCH**2)


def fold(x: Tensor, h: int, w: int) -> Tensor:
    """Inverse of `unfold`."""
    return F.pixel_shuffle(x.reshape(x.shape[0], -1, h // PATCH, w // PATCH), PATCH)


class MultiHeadAttention(nn.Module):
    """Self-attention over (B, N, d); the query is scaled by head size ** -0.5 (layers/multi_head_attention.py)."""

    def __init__(self, dim: int):
        super().__init__()
        self.qkv_proj = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv_proj(x).reshape(b, n, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4)
        weights = torch.softmax((q * (d // HEADS) ** -0.5) @ k.transpose(-1, -2), dim=-1)
        return self.out_proj((weights @ v).transpose(1, 2).reshape(b, n, d))


class TransformerEncoder(nn.Module):
    """Pre-norm encoder layer (ml-cvnets modules/transformer.py); identities stand where the original has dropout."""

    def __init__(self, dim: int):
        super().__init__()
        self.pre_norm_mha = nn.Sequential(nn.LayerNorm(dim, eps=1e-5), MultiHeadAttention(dim), nn.Identity())
        ffn = (nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Identity(), nn.Linear(2 * dim, dim))
        self.pre_norm_ffn = nn.Sequential(nn.LayerNorm(dim, eps=1e-5), *ffn, nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pre_norm_mha(x)
        return x + self.pre_norm_ffn(x)


class BlockV1Base(nn.Module):
    """MobileViTv3 block of XXS, XS and S (v1/modules/mobilevit_block.py, MobileViTv3Block).

    Only the map that enters the transformer is resized, and its result is resized back right after folding; the local
    features, the fusion and the residual stay at the size of the input.
    """

    def __init__(self, channels: int, dim: int, depth: int):
        super().__init__()
        self.local_rep = nn.Sequential()
        self.local_rep.add_module("conv_3x3", Conv(channels, channels, k=3, groups=channels))
        self.local_rep.add_module("conv_1x1", Conv(channels, dim, norm=False, act=False))
        self.global_rep = nn.Sequential(*(TransformerEncoder(dim) for _ in range(depth)), nn.LayerNorm(dim, eps=1e-5))
        self.conv_proj = Conv(dim, channels)
        self.fusion = Conv(dim + channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        local = self.local_rep(x)
        even = resize_to_even(local, align_corners=False)
        b, d, h, w = even.shape
        sequences = unfold(even).permute(0, 2, 3, 1).reshape(b * PATCH**2, -1, d)  # one for each pixel position
        out = self.global_rep(sequences)
        out = fold(out.reshape(b, PATCH**2, -1, d).permute(0, 3, 1, 2), h, w)
        if even.shape != local.shape:
            out = F.interpolate(out, size=local.shape[-2:], mode="bilinear", align_corners=False)
        return x + self.fusion(torch.cat((local, self.conv_proj(out)), dim=1))


class LinearSelfAttention(nn.Module):
    """Separable self-attention over (B, d, P, N) (ml-cvnets layers/linear_attention.py)."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim
        self.qkv_proj = Conv(dim, 1 + 2 * dim, norm=False, act=False, bias=True)
        self.out_proj = Conv(dim, dim, norm=False, act=False, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv_proj(x).split((1, self.dim, self.dim), dim=1)
        context = (key * torch.softmax(query, dim=-1)).sum(dim=-1, keepdim=True)
        return self.out_proj(F.relu(value) * context)


class LinearAttnFFN(nn.Module):
    """Pre-norm layer with separable attention (ml-cvnets modules/transformer.py); the norm has one group."""

    def __init__(self, dim: int):
        super().__init__()
        self.pre_norm_attn = nn.Sequential(nn.GroupNorm(1, dim, eps=1e-5), LinearSelfAttention(dim), nn.Identity())
        up, down = Conv(dim, 2 * dim, norm=False, bias=True), Conv(2 * dim, dim, norm=False, act=False, bias=True)
        self.pre_norm_ffn = nn.Sequential(nn.GroupNorm(1, dim, eps=1e-5), up, nn.Identity(), down, nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pre_norm_attn(x)
        return x + self.pre_norm_ffn(x)


class BlockV2Base(nn.Module):
    """MobileViTv3 block of 0.5, 0.75 and 1.0 (v2/modules/mobilevit_block.py, MobileViTBlockv3).

    The input of the whole block is resized, never back: the residual is the resized input and the output is even.
    """

    def __init__(self, channels: int, dim: int, depth: int):
        super().__init__()
        depthwise = Conv(channels, channels, k=3, groups=channels)
        self.local_rep = nn.Sequential(depthwise, Conv(channels, dim, norm=False, act=False))
        self.global_rep = nn.Sequential(*(LinearAttnFFN(dim) for _ in range(depth)), nn.GroupNorm(1, dim, eps=1e-5))
        self.conv_proj = Conv(2 * dim, channels, act=False)

    def forward(self, x: Tensor) -> Tensor:
        x = resize_to_even(x, align_corners=True)
        local = self.local_rep(x)
        out = fold(self.global_rep(unfold(local)), *local.shape[-2:])
        return x + self.conv_proj(torch.cat((out, local), dim=1))


class MobileViTv3(nn.Module):
    """The network (v1/models/classification/mobilevit.py, v2/models/classification/mobilevit_v3.py)."""

    def __init__(self, stem, channels, dims, expansion, block, layer2_blocks, layer4_depth, classes=1000):
        super().__init__()
        self.conv_1 = Conv(3, stem, k=3, s=2)
        self.layer_1 = nn.Sequential(InvertedResidual(stem, channels[0], 1, expansion))
        width = channels[1]
        blocks = [InvertedResidual(width, width, 1, expansion) for _ in range(layer2_blocks - 1)]
        self.layer_2 = nn.Sequential(InvertedResidual(channels[0], width, 2, expansion), *blocks)
        for i, (dim, depth) in enumerate(zip(dims, (2, layer4_depth, 3), strict=True), start=2):
            down = InvertedResidual(channels[i - 1], channels[i], 2, expansion)
            self.add_module(f"layer_{i + 1}", nn.Sequential(down, block(channels[i], dim, depth)))
        if block is BlockV1Base:
            width = min(4 * channels[4], 960)
            self.conv_1x1_exp = Conv(channels[4], width)
            self.classifier = nn.Sequential()
            self.classifier.add_module("fc", nn.Linear(width, classes))
        else:
            self.conv_1x1_exp = nn.Identity()
            self.classifier = nn.Sequential(nn.Identity(), nn.Linear(channels[4], classes))  # 0: pooling

    def features(self, x: Tensor) -> dict[int, Tensor]:
        """Output of the last block at every stride, before the last 1x1 convolution."""
        x, out = self.conv_1(x), {}
        for i, stride in enumerate(STRIDES, start=1):
            x = out[stride] = getattr(self, f"layer_{i}")(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.conv_1x1_exp(self.features(x)[32]).mean(dim=(-2, -1)))


def build(name: str, layer4_depth: int = 4) -> MobileViTv3:
    """The named network with 1000 classes, in eval mode; `layer4_depth=2` gives the low-latency "-L2" variant."""
    if name in V1_BASE:
        return MobileViTv3(16, *V1_BASE[name], BlockV1Base, 3, layer4_depth).eval()
    # At these three widths every product is already a multiple of 16 or 8, as the configuration asks for.
    channels, dims = ([int(V2_BASE[name] * c) for c in row] for row in ((64, 128, 256, 384, 512), (128, 192, 256)))
    return MobileViTv3(channels[0] // 2, channels, dims, 2, BlockV2Base, 2, layer4_depth).eval()


if __name__ == "__main__":
    from torch.utils.flop_counter import FlopCounterMode

    EXPECTED = {  # (name, layer4_depth): trainable parameters, multiply-adds at 256x256
        ("mobilevit_v3_xxs", 4): (1_249_448, 332_163_072),
        ("mobilevit_v3_xs", 4): (2_490_360, 966_618_112),
        ("mobilevit_v3_s", 4): (5_763_912, 1_832_711_680),
        ("mobilevit_v3_xxs", 2): (1_145_288, 300_705_792),
        ("mobilevit_v3_xs", 2): (2_257_320, 899_771_392),
        ("mobilevit_v3_s", 2): (5_169_864, 1_669_133_824),
        ("mobilevit_v3_050", 4): (1_429_985, 479_799_296),
        ("mobilevit_v3_075", 4): (2_999_641, 1_062_190_080),
        ("mobilevit_v3_100", 4): (5_139_409, 1_872_908_288),
    }
    torch.set_num_threads(1)
    wrong = 0
    for (name, layer4_depth), expected in EXPECTED.items():
        net = build(name, layer4_depth)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(torch.zeros(1, 3, 256, 256))
        found = sum(p.numel() for p in net.parameters()), counter.get_total_flops() // 2
        wrong += found != expected
        print(f"{name} L{layer4_depth}: found {found}, expected {expected}, {'ok' if found == expected else 'WRONG'}")
    raise SystemExit(wrong != 0)
