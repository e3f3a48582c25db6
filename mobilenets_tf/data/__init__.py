"""Photographs on disk, with the index of a class, boxes or a mask each. What is public stands in ``__init__.pyi``.

>>> from mobilenets_tf import data
>>> photographs = data.find_images("photos/")
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
