# What is public. Loaded lazily by __init__.py, which reads this file.
from .calibration import Calibration as Calibration
from .post_training import Recipe as Recipe
from .qat.aware import Aware as Aware
from .qat.aware import quantize_aware as quantize_aware
from .qat.fine_tuning import FineTuning as FineTuning
from .qat.fine_tuning import fine_tune as fine_tune
from .schemes import SCHEMES as SCHEMES
from .sensitivity import Sensitivity as Sensitivity
