"""The naming contract of layers: what the name of a layer tells."""

# The name of each layer of a head that has weights begins with one of these. If the layer's size depends on the number
# of classes, its name ends in "classifier", as that of a classifier's last layer does.
_HEADS = ("ssd_", "aspp_", "lraspp_")


def is_head(layer_name: str) -> bool:
    """Whether a layer belongs to the head of a detector or segmenter, and not to its backbone."""
    return layer_name.startswith(_HEADS)
