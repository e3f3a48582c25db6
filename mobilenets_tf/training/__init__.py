"""Training: the papers' recipes as data, the input, the optimizers, and the loop that runs them.

>>> from mobilenets_tf.training import TrainRequest, train
>>> train(TrainRequest("efficientnet_lite0", data="photos/", out="trained/"))

What is public stands in ``__init__.pyi``.
"""

from mobilenets_tf.public_api.names import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
