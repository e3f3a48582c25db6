"""The picture of a training: losses, accuracies and learning rate over the epochs."""

from mobilenets_tf.drawing import drawing, to_svg

_COLOURS = {"training": "#9a9ca0", "validation": "#1f5fa8"}


# What is drawn of each task, by the metric that it is judged with: a panel, and the keys of both of its lines.
_ACCURACIES = {
    "val_top1": ("top-1", "top1"),
    "val_map50": ("mAP at IoU 0.5", None),  # of training batches it is not computed
    "val_miou": ("mIoU", None),
}


def draw(rows: list[dict], metric: str, title: str) -> str:
    """An SVG of the rows that ``loop.run`` makes; the same rows give the same bytes.

    metric: the key of what validation images are judged with.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    name, training = _ACCURACIES[metric]
    panels = {"loss": ("loss", "val_loss"), name: (training, metric), "learning rate": ("rate", None)}
    epochs = [row["epoch"] for row in rows]
    with drawing():
        figure = Figure(figsize=(9, 2.8), layout="constrained")
        for axes, (name, keys) in zip(figure.subplots(1, 3), panels.items(), strict=True):
            for (label, colour), key in zip(_COLOURS.items(), keys, strict=True):
                if values := [row[key] for row in rows if key in row]:
                    axes.plot(epochs[-len(values) :], values, "o-", color=colour, markersize=3, label=label)
            axes.set_title(name, loc="left")
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        loss, accuracy, _ = figure.axes
        accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        loss.legend(frameon=False)
        figure.suptitle(title, x=0.01, ha="left")
        return to_svg(figure)
