"""The networks that fill a table: one network's file with other widths and kernels, as a search may ask for them."""

import random
from collections.abc import Iterator, Sequence

from mobilenets_tf.search.latency.file_widths import FileWidths

# Of a group's channels. The first networks have one share throughout, the others a mixture around a share of their own.
SHARES = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25)
_AROUND = 0.25
MULTIPLE = 8  # of channels: what searches choose, and what the microkernels compute at once


def variants(content: bytes, count: int, kernels: Sequence[int] = (), seed: int = 0) -> Iterator[bytes]:
    """Yield the contents of files to measure. The same arguments give the same files.

    Args:
        content: of the network's file.
        count: how many files. The first has the network's own widths.
        kernels: sides of the depthwise kernels to choose from, beside a network's own.
        seed: of the mixtures.

    Raises:
        RequestError: the content is no TFLite file.
    """
    file = FileWidths(content)
    generator = random.Random(seed)
    for number in range(count):
        if number < len(SHARES):
            shares = dict.fromkeys(file.groups, SHARES[number])
        else:
            mean = generator.uniform(SHARES[-1], SHARES[0])
            shares = {name: _near(mean, generator) for name in file.groups}
        widths = {name: multiple(file.groups[name] * share) for name, share in shares.items() if share < 1}
        chosen = {}
        if kernels and number:
            for name, own in file.kernels.items():
                fitting = sorted({own[0], *(side for side in kernels if (side - own[0]) % 2 == 0)})
                chosen[name] = (side := generator.choice(fitting), side)
        yield file.with_widths(widths, chosen)


def _near(mean: float, generator: random.Random) -> float:
    share = generator.uniform(mean - _AROUND, mean + _AROUND)
    return min(SHARES, key=lambda each: abs(each - share))


def multiple(channels: float) -> int:
    """Give the nearest multiple of 8 channels, at least 8."""
    return max(MULTIPLE, round(channels / MULTIPLE) * MULTIPLE)
