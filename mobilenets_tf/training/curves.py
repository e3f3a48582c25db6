"""The curves of a training: a line of text for an epoch, TensorBoard's logs, and the picture at the end.

All are made of the rows of ``loop.run``, a row for each epoch.
"""

from pathlib import Path

from mobilenets_tf.drawing import ACCENT, FAINT, drawing, finish, to_svg

# The shares in a row, for people.
MEASURES = {
    "top1": "top-1",
    "anchors": "classes of anchors",
    "pixels": "pixels",
    "val_top1": "validation top-1",
    "val_top5": "top-5",
    "val_map50": "validation mAP at IoU 0.5",
    "val_map": "mAP",
    "val_miou": "validation mIoU",
    "val_pixels": "pixels",
}
_COLOURS = {"training": FAINT, "validation": ACCENT}
# By the metric that a task is judged with: the name of the second panel, and the key of its line of training batches.
_ACCURACIES = {
    "val_top1": ("top-1", "top1"),
    "val_map50": ("mAP at IoU 0.5", None),  # too slow to compute on training batches
    "val_miou": ("mIoU", None),
}


def summary(row: dict) -> str:
    """Format an epoch's loss and shares as a line of text."""
    shares = (f"{name} {row[key]:.1%}" for key, name in MEASURES.items() if key in row)
    return ", ".join([f"loss {row['loss']:.3f}", *shares])


class Logs:
    """Curves for TensorBoard, which need not be installed; nothing without a folder."""

    def __init__(self, folder: Path | None):
        import tensorflow as tf

        self._writer = tf.summary.create_file_writer(str(folder)) if folder else None
        # tf.summary.scalar needs the package tensorboard for no more than these two values.
        self._scalar = tf.compat.v1.SummaryMetadata(data_class="DATA_CLASS_SCALAR")
        self._scalar.plugin_data.plugin_name = "scalars"

    def write(self, row: dict) -> None:
        """Log the numbers of an epoch's row at its step."""
        import tensorflow as tf

        if self._writer:
            with self._writer.as_default(step=row["step"]):
                for name, value in row.items():
                    if name not in ("epoch", "step"):
                        tf.summary.write(name, tf.constant(value, tf.float32), metadata=self._scalar)
            self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer:
            self._writer.close()


def draw(rows: list[dict], metric: str, title: str) -> str:
    """Draw losses, accuracies and learning rate over the epochs, as an SVG; the same rows give the same bytes.

    metric: the key of the score of validation images.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    name, training = _ACCURACIES[metric]
    panels = {"loss": ("loss", "val_loss"), name: (training, metric), "learning rate": ("rate", None)}
    epochs, lines = [row["epoch"] for row in rows], {}
    with drawing():
        figure = Figure(figsize=(9, 3), layout="constrained")
        for axes, (name, keys) in zip(figure.subplots(1, 3), panels.items(), strict=True):
            for (label, colour), key in zip(_COLOURS.items(), keys, strict=True):
                if values := [row[key] for row in rows if key in row]:
                    (line,) = axes.plot(epochs[-len(values) :], values, "o-", color=colour, markersize=3)
                    lines.setdefault(label, line)
            axes.set_title(name)
            finish(axes, "epoch", " ")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        # As many digits as it takes to tell the ticks apart.
        figure.axes[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        figure.suptitle(title, x=0.01, ha="left")
        figure.legend(lines.values(), lines.keys(), loc="outside upper right", ncols=2)
        return to_svg(figure)
