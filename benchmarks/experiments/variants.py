"""What an experiment is: variants of a network, which differ in one thing each, and what the paper says of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

CLASSES = 20  # of the drawn images
SIDE = 32  # pixels of the small networks' inputs


@dataclass(frozen=True)
class Variant:
    """A network of an experiment.

    key: the name of its results. label: in the table.
    build: takes whether to build the small network, which is trained here, or the paper's, which is counted and timed;
        and the side of the small network's input.
    published: the paper's figure, as the table prints it.
    recipe: fields of the training recipe that differ. side: pixels of the small network's input; crop: of the middle of
        an image, which is resized to the side.
    integers: whether int8 files of the trained networks are judged too.
    sized: whether the paper's network is one of its own, to be counted and timed; False where only the training
        differs.
    without: builds a part of the paper's network that does not count; such a part is not timed.
    passes: how many times the paper's multiply-adds are the network's, where an image runs through it several times.
    """

    key: str
    label: str
    build: "Callable[[bool, int], keras.Model]"
    published: str = ""
    recipe: Mapping = field(default_factory=dict)
    side: int = SIDE
    crop: int = SIDE
    integers: bool = False
    sized: bool = True
    without: "Callable[[bool, int], keras.Model] | None" = None
    passes: float = 1.0


@dataclass(frozen=True)
class Experiment:
    """Variants side by side. The first one is the baseline that the others are compared with.

    claim: what the paper says. source: paper and table. column: what ``published`` is.
    against: key of a variant -> key of another one that it is compared with instead of the baseline.
    trained: whether small networks are trained; False: the paper's networks are counted and timed only.
    memory: whether the table has the largest tensor. note: what a reader has to know of the figures.
    """

    name: str
    title: str
    claim: str
    source: str
    column: str
    variants: tuple[Variant, ...]
    against: Mapping[str, str] = field(default_factory=dict)
    trained: bool = True
    memory: bool = False
    note: str = ""

    def base(self, variant: Variant) -> Variant | None:
        """Give the variant that another one is compared with; None for the baseline."""
        if variant is self.variants[0]:
            return None
        by_key = {each.key: each for each in self.variants}
        return by_key[self.against[variant.key]] if variant.key in self.against else self.variants[0]
