"""What a published weight set takes for granted and its tensors do not say."""

from dataclasses import dataclass

from mobilenets_tf.errors import unknown

PADDINGS = ("same", "symmetric")


@dataclass(frozen=True)
class Convention:
    """How the framework that trained a network pads its convolutions and regularises its BatchNorm.

    padding: "same" is TensorFlow's (a stride-2 layer pads one pixel more at the bottom and right of an even input);
        "symmetric" is PyTorch's (kernel // 2 on every side). They differ in stride-2 layers alone.
    batchnorm_epsilon: added to the variance; 1e-3 in TensorFlow's networks, 1e-5 in most of PyTorch's.

    Raises:
        RequestError: ``padding`` is neither.
    """

    padding: str = "same"
    batchnorm_epsilon: float = 1e-3

    def __post_init__(self):
        if self.padding not in PADDINGS:
            raise unknown("padding", self.padding, PADDINGS)


TENSORFLOW = Convention("same", 1e-3)
PYTORCH = Convention("symmetric", 1e-5)
