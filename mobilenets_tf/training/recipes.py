"""The training recipes of the papers: a record for each network, data only, with the source of every value.

A value that no source gives is marked as ours. ``paper(name)`` is the recipe of a registered network. The recipes in
``OURS``, for training on a user's images, come from no paper.

Sources: [V1] arXiv 1704.04861; [V2] arXiv 1801.04381, section 6.1; [V3] arXiv 1905.02244, section 6.1.1; [slim]
tensorflow/models, research/slim (train_image_classifier.py, its mobilenet README, inception_preprocessing.py); [tpu]
tensorflow/tpu, models/official/efficientnet (main.py, utils.py, lite); [One] arXiv 2206.04040, section 3.4 and figure
4; [ViT3] micronDLA/MobileViTv3, its configurations of v1 and of v2; [cvnets] apple/ml-cvnets.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mobilenets_tf import registry
from mobilenets_tf.errors import RequestError, unknown


@dataclass(frozen=True)
class RMSprop:
    """TensorFlow's: epsilon under the root, mean squares that begin at ``initial`` (TensorFlow 1: one)."""

    decay: float = 0.9
    momentum: float = 0.9
    epsilon: float = 1.0
    initial: float = 1.0


@dataclass(frozen=True)
class SGD:
    """With momentum."""

    momentum: float = 0.9
    nesterov: bool = False


@dataclass(frozen=True)
class AdamW:
    """Adam whose weight decay is not part of the gradient (arXiv 1711.05101)."""

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8


@dataclass(frozen=True)
class Rate:
    """The learning rate over a training.

    kind: "exponential" (``peak`` times ``factor`` to the power of epochs / ``every``), "cosine" (from ``peak`` to
        ``last``) or "constant".
    peak: at the batch size ``batch``; for another one it is scaled in proportion. None: as it is, whatever the batch.
    warmup_epochs, warmup_steps: a straight line from ``start`` to ``peak`` for so long (give one). The cosine
        comes after it, the exponential counts from the first step.
    staircase: the exponential falls in steps, once every ``every`` epochs.
    by_epoch: the cosine falls once an epoch.
    """

    kind: str
    peak: float
    batch: int | None = None
    start: float = 0.0
    last: float = 0.0
    warmup_epochs: float = 0.0
    warmup_steps: int = 0
    factor: float = 1.0
    every: float = 1.0
    staircase: bool = True
    by_epoch: bool = False


@dataclass(frozen=True)
class Decay:
    """Weight decay.

    value: for a gradient of ``value * weight`` (what L2 loss of half the squares gives, and PyTorch's optimizers
        add), or with ``AdamW`` for what is taken off the weight times the learning rate.
    last: at the end, along a cosine from ``value``; None: constant.
    without: kinds of weights that do not decay: "depthwise", "norm", "bias".
    """

    value: float
    last: float | None = None
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Augment:
    """The augmentation of training images; ``Stage.strength`` scales the policy's magnitudes.

    area: of a random crop, as shares of the image; then resized to the network's input.
    aspect: of the crop, lowest and highest width / height.
    interpolation: as in ``Preprocessing``, or "random" (bilinear or bicubic); None for the one the network is judged
        with.
    flip: whether half of them are mirrored.
    colour: brightness, contrast, saturation and hue as in [slim]'s inception_preprocessing.
    policy: None, "autoaugment" (arXiv 1805.09501, table 9) or "randaugment" (arXiv 1909.13719).
    operations, magnitude: of RandAugment, the latter out of 30.
    erase: the chance that a random rectangle is overwritten (arXiv 1708.04896).
    mixup, cutmix: parameter of their Beta distribution, 0 for none; where both are given, each batch gets one of them.
    """

    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str | None = "bilinear"
    flip: bool = True
    colour: bool = False
    policy: str | None = None
    operations: int = 2
    magnitude: int = 9
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def at(self, interpolation: str) -> "Augment":
        """Return the augmentation with this interpolation, where it names none itself."""
        return replace(self, interpolation=self.interpolation or interpolation)


@dataclass(frozen=True)
class Stage:
    """From the epoch ``begin``: the input's size in pixels (as a share of the network's, 1 for the same) and the
    strength of the augmentation policy."""

    begin: int
    size: float = 1.0
    strength: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """All that decides a training, but for the network and the images.

    epochs: for a training of this length ``stages`` are given; they shrink with it.
    head_rate: times the learning rate for a detector's or segmenter's head, or a classifier's last layer, which are
        fresh where the other layers are not.
    ema: momentum of the moving average of all weights that is validated and kept, less in the first steps: at most
        (1 + steps) / (10 + steps), as [slim] and [tpu] have it; None: the weights themselves.
    clip_norm: of all gradients together; None: not clipped.
    scales: input sizes as shares of the network's, one drawn for each batch; larger ones make smaller batches.
    batchnorm_momentum: None leaves the network's.
    frozen_batchnorm: BatchNormalization outside of a detector's or segmenter's head keeps what it has, statistics and
        weights.
    options: for the network's builder.
    sources: for each field where its value is from.
    """

    optimizer: RMSprop | SGD | AdamW
    rate: Rate
    decay: Decay
    batch_size: int
    epochs: int
    head_rate: float = 1.0
    label_smoothing: float = 0.0
    ema: float | None = None
    clip_norm: float | None = None
    augment: Augment = field(default_factory=Augment)
    stages: tuple[Stage, ...] = (Stage(0),)
    scales: tuple[float, ...] = (1.0,)
    batchnorm_momentum: float | None = None
    frozen_batchnorm: bool = False
    options: Mapping = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if self.rate.kind not in ("exponential", "cosine", "constant"):
            raise unknown("kind of learning rate", self.rate.kind, ("exponential", "cosine", "constant"))
        for name in ("batch_size", "epochs"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name}={getattr(self, name)}: expected at least 1.")
        if not self.rate.peak > 0:
            raise RequestError(f"learning_rate={self.rate.peak}: expected more than 0.")

    def changed(
        self, epochs: int | None = None, batch_size: int | None = None, learning_rate: float | None = None
    ) -> "Recipe":
        """Return the recipe with another length, batch size or peak of the learning rate; None keeps the value.

        Stages and warm-up keep their share of the whole, and an exponential learning rate ends where it would have.

        Raises:
            RequestError: a value is out of range.
        """
        recipe = self if batch_size is None else replace(self, batch_size=batch_size)
        if learning_rate is not None:
            recipe = replace(recipe, rate=replace(recipe.rate, peak=learning_rate, batch=None))
        if epochs is None:
            return recipe
        share = epochs / self.epochs
        rate = replace(
            recipe.rate, every=recipe.rate.every * share, warmup_epochs=recipe.rate.warmup_epochs * share,
            warmup_steps=round(recipe.rate.warmup_steps * share),
        )  # fmt: skip
        stages = tuple(replace(stage, begin=round(stage.begin * share)) for stage in self.stages)
        return replace(recipe, epochs=epochs, rate=rate, stages=stages)


_INCEPTION = Augment(area=(0.05, 1.0), aspect=(3 / 4, 4 / 3), colour=True)
_DEPTHWISE_FREE = ("depthwise", "norm", "bias")
_V2 = Recipe(
    optimizer=RMSprop(0.9, 0.9, 1.0, 1.0),
    rate=Rate("exponential", 0.045, factor=0.98, every=1.0),
    decay=Decay(4e-5, without=_DEPTHWISE_FREE),
    batch_size=96,
    epochs=300,
    label_smoothing=0.1,
    ema=0.9999,
    augment=_INCEPTION,
    options={"dropout_rate": 0.2},
    sources={
        "optimizer": "[V2]: decay and momentum 0.9; epsilon 1.0 and mean squares that begin at one: [slim]'s defaults",
        "rate": "[V2]: 0.045, times 0.98 an epoch",
        "decay": "[V2]: 4e-5; none on depthwise kernels, BatchNorm and biases: [slim]'s mobilenet arg_scope",
        "batch_size": "[V2]: 96 a worker; 16 asynchronous ones cannot be had, and 96 x 16 in a step is something else",
        "epochs": "ours: the paper gives none; [slim]'s README trains 700,000 steps of 8 x 96, 420 epochs",
        "label_smoothing": "[slim], README (the paper names none)",
        "ema": "[slim], README",
        "augment": "[slim], inception_preprocessing, which the paper uses",
        "options": "[slim]: dropout keeps 0.8",
    },
)
_V1 = replace(
    _V2,
    label_smoothing=0.0,
    augment=replace(_INCEPTION, area=(0.25, 1.0)),
    options={"dropout_rate": 0.001},
    sources=_V2.sources
    | {
        "rate": "[V2], of V1 too; [V1] says as Inception V3",
        "decay": "[V1]: very little or none on depthwise kernels; the value is [V2]'s",
        "label_smoothing": "[V1]: none",
        "augment": "[V1]: less augmentation, small crops limited; the limit of 0.25 is ours",
        "options": "keras.applications' default for V1; [V1] names no dropout",
    },
)
_V3 = Recipe(
    optimizer=RMSprop(0.9, 0.9, 1e-3, 1.0),
    rate=Rate("exponential", 0.1, factor=0.99, every=3.0),
    decay=Decay(1e-5),
    batch_size=4096,
    epochs=600,
    ema=0.9999,
    augment=_INCEPTION,
    batchnorm_momentum=0.99,
    options={"dropout_rate": 0.2},
    sources={
        "optimizer": "[V3]: momentum 0.9; decay as [V2], epsilon as [tpu], by the same authors: neither is named",
        "rate": '[V3]: 0.1, "decay rate of 0.01 every 3 epochs", read as times 0.99',
        "decay": "[V3]: L2 1e-5",
        "batch_size": "[V3]: 4096 on a 4x4 TPU pod",
        "epochs": "ours: the paper gives none; torchvision's recipe for it has 600",
        "label_smoothing": "[V3] names none",
        "ema": "[V3]",
        "augment": "[V3]: Inception's",
        "batchnorm_momentum": "[V3]: 0.99",
        "options": "[V3]: dropout of 0.8, which is the share that [slim] keeps",
    },
)
_LITE = Recipe(
    optimizer=RMSprop(0.9, 0.9, 1e-3, 1.0),
    rate=Rate("exponential", 0.016, batch=256, warmup_epochs=5, factor=0.97, every=2.4),
    decay=Decay(1e-5, without=("norm",)),
    batch_size=2048,
    epochs=350,
    label_smoothing=0.1,
    ema=0.9999,
    augment=Augment(interpolation="bicubic"),
    batchnorm_momentum=0.99,
    sources={
        "optimizer": "[tpu], utils.py; mean squares begin at one in TensorFlow 1",
        "rate": "[tpu], main.py: 0.016 for 256 images, times 0.97 every 2.4 epochs, 5 epochs of warm-up",
        "decay": "[tpu], main.py: 1e-5, not on BatchNorm",
        "batch_size": "[tpu], main.py",
        "epochs": "[tpu], main.py: 218,949 steps of 2048",
        "label_smoothing": "[tpu], main.py",
        "ema": "[tpu], main.py",
        "augment": "[tpu]: augment_name is None by default; crops of 8 % and more, bicubic",
        "batchnorm_momentum": "[tpu]",
        "options": "[tpu]: dropout 0.2 (Lite0-2) and 0.3 (Lite3-4), survival 0.8: the builders' own defaults",
    },
)
_ONE = Recipe(
    optimizer=SGD(0.9),
    rate=Rate("cosine", 0.1),
    decay=Decay(1e-4, last=1e-5),
    batch_size=256,
    epochs=300,
    label_smoothing=0.1,
    ema=0.9995,
    augment=Augment(),
    stages=(Stage(0, 160 / 224, 0.3), Stage(39, 192 / 224, 0.6), Stage(114, 1.0, 1.0)),
    sources={
        "optimizer": "[One]: SGD with momentum; 0.9 is ours, the usual one",
        "rate": "[One]: 0.1, cosine",
        "decay": "[One]: 1e-4 to 1e-5 along the same cosine; on all weights, as PyTorch's SGD has it",
        "batch_size": "[One]",
        "epochs": "[One]",
        "label_smoothing": "[One]",
        "ema": "[One]",
        "augment": "[One]: S0 and S1 random resized crops and flips only; S2 to S4 with AutoAugment",
        "stages": "[One], progressive learning: 160, 192 and 224 pixels, AutoAugment's strength 0.3, 0.6 and 1.0",
        "options": "[One] names no dropout",
    },
)
_ONE_LARGE = replace(_ONE, augment=Augment(policy="autoaugment"))
_ONE_MICRO = replace(_ONE, sources=_ONE.sources | {"epochs": "as S0: not published for mu0 to mu2"})
_VIT_V1 = Recipe(
    optimizer=AdamW(0.9, 0.999),
    rate=Rate("cosine", 2e-3, start=2e-4, last=2e-4, warmup_steps=3000, by_epoch=True),
    decay=Decay(0.01),
    batch_size=384,
    epochs=300,
    label_smoothing=0.1,
    ema=0.9995,
    augment=Augment(),
    scales=(160 / 256, 192 / 256, 1.0, 288 / 256, 320 / 256),
    batchnorm_momentum=0.9,
    options={"dropout_rate": 0.1},
    sources={
        "optimizer": "[ViT3], v1: AdamW, 0.9 and 0.999; epsilon is PyTorch's",
        "rate": "[ViT3], v1: 2e-4 to 2e-3 in 3000 steps, then a cosine an epoch to 2e-4",
        "decay": "[ViT3], v1: 0.01, on BatchNorm and biases too (no_decay_bn_filter_bias is false)",
        "batch_size": "[ViT3], v1: 384",
        "epochs": "[ViT3], v1",
        "label_smoothing": "[ViT3], v1",
        "ema": "[ViT3], v1: 0.0005 of the new",
        "augment": "[ViT3], v1: random resized crops, bilinear, and flips",
        "scales": "[ViT3], v1: variable_batch_sampler, 160 to 320 in five multiples of 32 around 256",
        "batchnorm_momentum": "[ViT3], v1: 0.1 of the new",
        "options": "[ViT3], v1: classifier_dropout",
    },
)
_VIT_V2 = Recipe(
    optimizer=AdamW(0.9, 0.999),
    rate=Rate("cosine", 2e-3, start=1e-6, last=2e-4, warmup_steps=20000),
    decay=Decay(0.05, without=("norm", "bias")),
    batch_size=1020,
    epochs=300,
    label_smoothing=0.1,
    ema=0.9995,
    clip_norm=10.0,
    augment=Augment(interpolation="bicubic", policy="randaugment", erase=0.25, mixup=0.2, cutmix=1.0),
    batchnorm_momentum=0.9,
    sources={
        "optimizer": "[ViT3], v2: AdamW, 0.9 and 0.999; epsilon is PyTorch's",
        "rate": "[ViT3], v2: 1e-6 to 2e-3 in 20,000 steps, then a cosine to 2e-4",
        "decay": "[ViT3], v2: 0.05, not on BatchNorm and biases",
        "batch_size": "[ViT3], v2: 85 on each of 12",
        "epochs": "[ViT3], v2",
        "label_smoothing": "[ViT3], v2",
        "ema": "[ViT3], v2",
        "clip_norm": "[ViT3], v2: grad_clip",
        "augment": "[ViT3], v2: bicubic crops, flips, RandAugment (two operations at 9: torchvision's defaults), "
        "random erasing 0.25, mixup 0.2, cutmix 1.0",
        "batchnorm_momentum": "[ViT3], v2: 0.1 of the new",
        "options": "[ViT3], v2: no dropout",
    },
)
# Families by the beginning of the name; the longest that fits.
_PAPER = {
    "mobilenet_v1": _V1,
    "mobilenet_v2": _V2,
    "mobilenet_v3": _V3,
    "efficientnet_lite": _LITE,
    **dict.fromkeys(("mobileone_s0", "mobileone_s1"), _ONE),
    "mobileone_s": _ONE_LARGE,
    "mobileone_mu": _ONE_MICRO,
    "mobilevit": _VIT_V1,
    "mobilevit_v2": _VIT_V2,
    **dict.fromkeys(("mobilevit_v3_050", "mobilevit_v3_075", "mobilevit_v3_100"), _VIT_V2),
}

_FOR = "ours, for a few hundred images a class (benchmarks/finetune.py)"
FINETUNE = Recipe(
    optimizer=AdamW(),
    rate=Rate("cosine", 3e-4, warmup_epochs=0.5),
    decay=Decay(0.02, without=("norm", "bias")),
    batch_size=32,
    epochs=8,
    head_rate=10.0,
    label_smoothing=0.1,
    augment=Augment(area=(0.35, 1.0), interpolation=None),
    frozen_batchnorm=True,
    sources=dict.fromkeys(
        ("optimizer", "rate", "decay", "head_rate", "label_smoothing", "augment", "frozen_batchnorm"), _FOR
    ),
)
SCRATCH = Recipe(
    optimizer=AdamW(),
    rate=Rate("cosine", 2e-3, start=2e-5, warmup_epochs=2),
    decay=Decay(0.02, without=("norm", "bias")),
    batch_size=48,
    epochs=40,
    label_smoothing=0.1,
    augment=Augment(area=(0.5, 1.0), interpolation=None),
    batchnorm_momentum=0.9,
    sources=dict.fromkeys(
        ("optimizer", "rate", "decay", "label_smoothing", "augment", "batchnorm_momentum"),
        "ours, for a few hundred images a class: as benchmarks/cifar10.py trains",
    ),
)
_DENSE = "ours, for a few hundred annotated images (docs/detection.md)"
DETECT = Recipe(
    optimizer=AdamW(),
    rate=Rate("cosine", 3e-4, warmup_epochs=2),
    decay=Decay(0.02, without=("norm", "bias")),
    batch_size=16,
    epochs=24,
    head_rate=5.0,
    ema=0.98,
    augment=Augment(area=(0.3, 1.5), aspect=(3 / 4, 4 / 3), interpolation=None, colour=True),
    frozen_batchnorm=True,
    batchnorm_momentum=0.9,
    sources=dict.fromkeys(
        ("optimizer", "rate", "decay", "head_rate", "ema", "augment", "frozen_batchnorm", "batchnorm_momentum"), _DENSE
    ),
)
SEGMENT = replace(
    DETECT,
    batch_size=8,
    epochs=30,
    augment=Augment(area=(0.25, 1.0), aspect=(3 / 4, 4 / 3), interpolation=None, colour=True),
)
_FRESH = {"rate": Rate("cosine", 2e-3, warmup_epochs=2), "head_rate": 1.0, "frozen_batchnorm": False}
# What is left of a pruned network goes on learning: nothing is fresh, and the statistics of its features have changed.
_PRUNED = {"rate": Rate("cosine", 1e-3, warmup_epochs=0.5), "head_rate": 1.0, "frozen_batchnorm": False}
_PRUNED |= {"batchnorm_momentum": 0.9}
# By task.
OURS = {
    "classify": {"finetune": FINETUNE, "scratch": SCRATCH, "recover": replace(FINETUNE, **_PRUNED)},
    "detect": {
        "finetune": DETECT,
        "scratch": replace(DETECT, epochs=100, **_FRESH),
        "recover": replace(DETECT, **_PRUNED),
    },
    "segment": {
        "finetune": SEGMENT,
        "scratch": replace(SEGMENT, epochs=100, **_FRESH),
        "recover": replace(SEGMENT, **_PRUNED),
    },
}


def paper(name: str) -> Recipe:
    """Return the recipe by which the paper trained a registered classifier on ImageNet.

    Raises:
        RequestError: there is no such network, or no paper's recipe for the network, as for detectors and segmenters.
    """
    task = registry.get(name).task
    families = [family for family in _PAPER if name.startswith(family)]
    if not families:
        raise RequestError(f"No paper's recipe is known for {name}. The recipes to {task} are {', '.join(OURS[task])}.")
    return _PAPER[max(families, key=len)]
