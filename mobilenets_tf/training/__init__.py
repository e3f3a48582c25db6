"""Training: the papers' recipes as data, the input, the optimizers, and the loop that runs them.

>>> from mobilenets_tf.training import TrainRequest, train
>>> train(TrainRequest("efficientnet_lite0", data="photos/", out="trained/"))

What is public stands in ``__init__.pyi``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
