"""The picture of a training's curves."""

import re

from mobilenets_tf.drawing import ACCENT, FAINT
from mobilenets_tf.training.curves import draw

ROWS = [
    {"epoch": epoch, "step": 9 * epoch, "loss": 2 - 0.1 * epoch, "rate": 1e-3, "val_map50": 0.081 + 0.0003 * epoch}
    for epoch in range(1, 6)
]


def test_a_detectors_curves_have_a_legend_and_ticks_that_differ():
    picture = draw(ROWS, "val_map50", "mine")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", picture)
    assert {"training", "validation", "mAP at IoU 0.5", "mine"} <= set(texts)
    shares = [text for text in texts if text.endswith("%")]
    assert len(shares) == len(set(shares)) > 2
    assert ACCENT in picture and FAINT in picture
    assert picture == draw(ROWS, "val_map50", "mine")
