"""Padding and BatchNorm epsilon: what weights depend on and their files do not tell."""

from dataclasses import dataclass

from mobilenets_tf.errors import unknown

PADDINGS = ("same", "symmetric")


@dataclass(frozen=True)
class Convention:
    """Padding of convolutions and epsilon of BatchNorm in the framework that trained a network.

    padding: "same" is TensorFlow's (a layer of stride 2 pads one pixel more at the bottom and right of an even input);
        "symmetric" is PyTorch's (kernel // 2 on every side). They differ only in layers of stride 2.
    batchnorm_epsilon: added to the variance; 1e-3 in TensorFlow's networks, 1e-5 in most of PyTorch's.

    Raises:
        RequestError: ``padding`` is neither of the two.
    """

    padding: str = "same"
    batchnorm_epsilon: float = 1e-3

    def __post_init__(self) -> None:
        if self.padding not in PADDINGS:
            raise unknown("padding", self.padding, PADDINGS)


TENSORFLOW = Convention("same", 1e-3)
PYTORCH = Convention("symmetric", 1e-5)
