"""The picture of a training: losses, accuracy and learning rate over the epochs."""

from mobilenets_tf.drawing import drawing, to_svg

_COLOURS = {"training": "#9a9ca0", "validation": "#1f5fa8"}


def draw(rows: list[dict], title: str) -> str:
    """An SVG of the rows that ``loop.run`` makes; the same rows give the same bytes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    panels = {"loss": ("loss", "val_loss"), "top-1": ("top1", "val_top1"), "learning rate": ("rate", None)}
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
        loss, top1, _ = figure.axes
        top1.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        loss.legend(frameon=False)
        figure.suptitle(title, x=0.01, ha="left")
        return to_svg(figure)
