"""The anchors of an SSD: the boxes to which its predictions are relative. NumPy only."""

from collections.abc import Sequence

import numpy as np

SMALLEST, LARGEST = 0.2, 0.95  # scales: shares of the image's side, on the finest and on the coarsest map
ASPECTS = (1.0, 2.0, 1 / 2, 3.0, 1 / 3)  # width / height


def ssd_anchors(grids: Sequence[tuple[int, int]]) -> np.ndarray:
    """Compute the anchors of an SSD in the order of its outputs: by map, by row, by column, by anchor of a pixel.

    This is TensorFlow's ssd_anchor_generator (object_detection/anchor_generators/multiple_grid_anchor_generator.py,
    create_ssd_anchors) with the settings of the published MobileNets. The scales grow evenly from map to map. Each
    pixel of a map has one anchor of each aspect, with the area scale x scale, and a square whose scale is the geometric
    mean of this map's and the next map's (1 after the last). A pixel of the finest map has three: a square of scale
    0.1, and aspects 2 and 1/2. Anchors at the border reach beyond the image.

    Args:
        grids: (rows, columns) of each map, from the finest on, as ``ssd.grids(model)`` gives them.

    Returns:
        float32 (A, 4): centre y, centre x, height, width, as shares of the image's height and width.
    """
    scales = np.append(np.linspace(SMALLEST, LARGEST, len(grids)), 1.0)
    maps = []
    for level, (rows, columns) in enumerate(grids):
        if level == 0:
            boxes = [(0.1, 1.0), (scales[0], 2.0), (scales[0], 1 / 2)]
        else:
            between = np.sqrt(scales[level] * scales[level + 1])
            boxes = [*((scales[level], aspect) for aspect in ASPECTS), (between, 1.0)]
        scale, aspect = np.array(boxes).T
        y, x = ((np.arange(side) + 0.5) / side for side in (rows, columns))
        place = np.broadcast_arrays(y[:, None, None], x[:, None], scale / np.sqrt(aspect), scale * np.sqrt(aspect))
        maps.append(np.stack(place, axis=-1).reshape(-1, 4))
    return np.concatenate(maps).astype(np.float32)
