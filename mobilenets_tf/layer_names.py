"""The naming contract of layers: what a layer's name says of the layer."""

# Every layer of a head that has weights begins with one of these; those whose size is the number of classes end in
# "classifier", as a classifier's own last layer does.
_HEADS = ("ssd_", "aspp_", "lraspp_")


def is_head(layer_name: str) -> bool:
    """Whether a layer is of a detector's or a segmenter's head, and not of its backbone."""
    return layer_name.startswith(_HEADS)
