"""Photographs on disk, with the index of a class, boxes or a mask each. What is public stands in ``__init__.pyi``.

>>> from mobilenets_tf import data
>>> photographs = data.find_images("photos/")
"""

from mobilenets_tf.public_api.names import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
