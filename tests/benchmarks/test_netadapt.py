"""benchmarks/netadapt.py and drawn_surfaces.py: what the comparison is made of."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import drawn_surfaces
import netadapt


def test_the_images_of_a_larger_set_begin_with_those_of_a_smaller_one(tmp_path):
    for folder, count in (("small", 20), ("large", 41)):
        assert list(drawn_surfaces.draw(tmp_path / folder, {"train": count})) == [*range(1, count + 1)]
    small, large = ({path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.png")}
                    for name in ("small", "large"))  # fmt: skip
    assert len(small) == 20 and len(large) == 41
    assert small.items() <= large.items()
    assert {path.parts[1] for path in small} == set(drawn_surfaces.CLASSES)
    with Image.open(tmp_path / "small" / next(iter(small))) as image:
        assert image.size == (64, 64) and image.mode == "RGB"


def test_seed_split_and_number_make_other_images():
    images = [drawn_surfaces.scene(*of)[0].tobytes() for of in ((0, "train", 0), (1, "train", 0), (0, "test", 0))]
    images.append(drawn_surfaces.scene(0, "train", 20)[0].tobytes())
    assert len(set(images)) == 4
    assert drawn_surfaces.scene(0, "train", 20)[1] == drawn_surfaces.scene(0, "train", 0)[1] == 0


@pytest.mark.parametrize("name", [name for name in drawn_surfaces.CLASSES if name != "plain"])
def test_a_pattern_covers_a_part_of_the_surface(name):
    u, v = np.meshgrid(np.linspace(-3, 3, 241), np.linspace(-3, 3, 241))
    assert 0.1 < np.mean(drawn_surfaces.PATTERNS[name](u, v) > 0) < 0.75


def test_uniform_networks_have_one_share_in_multiples_of_8():
    networks = [widths for _, widths in netadapt.uniform_widths({"a": 16, "b": 64, "c": 24})]
    assert networks[0] == {"a": 8, "b": 8, "c": 8}
    assert networks[-1] == {"a": 16, "b": 64, "c": 24}
    assert {"a": 8, "b": 32, "c": 8} in networks
    assert len({tuple(each.values()) for each in networks}) == len(networks)
    assert all(width % 8 == 0 for each in networks[:-1] for width in (each["a"], each["b"]))


def row(method: str, **changes) -> dict:
    return {
        "method": method, "target": 0.5, "latency": {"median": 0.51}, "parts": 1, "outside": {}, "agreement": 0.97,
    } | changes  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "gains", "words"),
    [
        ({}, {}, []),
        ({"latency": {"median": 0.53}}, {}, ["more than 5 % off"]),
        ({"parts": 2}, {}, ["2 parts"]),
        ({"outside": {"MEAN": 1}}, {}, ["MEAN"]),
        ({"agreement": 0.89}, {}, ["agree on 89.0%"]),
        ({}, {"0.5 int8": {"over_uniform": (0.019, 0.01, 0.03)}}, ["gains 1.90 points"]),
        ({}, {"0.5 int8": {"over_uniform": (0.03, -0.01, 0.06)}}, ["from -1.00"]),
        ({}, {"0.5 float32": {"over_uniform": (0.0, 0.0, 0.0)}}, []),
        ({}, {"0.7 int8": {"over_parent": (-0.016, -0.03, 0.0)}}, ["loses 1.60 points"]),
    ],
)
def test_broken_promises(changes, gains, words):
    kept = {"over_uniform": (0.03, 0.01, 0.05), "over_parent": (-0.01, -0.02, 0.0)}
    result = {
        "scheme": "int8",
        "rows": {"parent": row(netadapt.PARENT, target=1.0, agreement=0.5), "ours": row(netadapt.NETADAPT, **changes)},
        "gains": {name: kept | each for name, each in ({"0.5 int8": {}} | gains).items()},
    }
    found = list(netadapt.broken_promises(result))
    assert len(found) == len(words)
    assert all(word in line for word, line in zip(words, found, strict=True))
