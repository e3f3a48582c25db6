"""Float model to low-precision model. Installed as ``mobilenets_tf.quantize``."""

from mobilenets_tf.quantize.calibration import Calibration
from mobilenets_tf.quantize.schemes import SCHEMES

__all__ = ["SCHEMES", "Calibration"]
