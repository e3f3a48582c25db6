# What is public. Loaded lazily by __init__.py, which reads this file.
from .job import Trained as Trained
from .job import train as train
from .recipes import Recipe as Recipe
from .request import TrainRequest as TrainRequest
