"""Model to a verified ``.tflite`` for Android. Installed as ``mobilenets_tf.export``.

What is public stands in ``__init__.pyi``. No module here may be called like a public name: importing the module would
put it in that name's place.
"""

from mobilenets_tf.public_api.names import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
