"""Small vision networks in Keras 3, quantised and exported for Android with proof.

>>> import mobilenets_tf
>>> model = mobilenets_tf.create_model("efficientnet_lite0", weights="imagenet")
>>> request = mobilenets_tf.DeployRequest(model, "deployed/", calibration="photos/")
>>> mobilenets_tf.deploy(request).path

Most verbs of the command line are a request (plain data) and a function here; ``list_models``, ``model_info`` and
``inspect`` take a name or a file. What is public stands in ``__init__.pyi``; each name is loaded on first use, so that
importing the package costs nothing.
"""

from mobilenets_tf.public_api.names import attach
from mobilenets_tf.version import __version__ as __version__

__getattr__, __dir__, __all__ = attach(__name__, __file__)
