# What is public. Loaded lazily by __init__.py, which reads this file.
from .annotated import photographs_of as photographs_of
from .boxes import BoxedImages as BoxedImages
from .boxes import Boxes as Boxes
from .boxes import Detections as Detections
from .boxes import find_boxes as find_boxes
from .images import ImageSet as ImageSet
from .images import decode as decode
from .images import demo_photos as demo_photos
from .images import find_images as find_images
from .masks import MaskedImages as MaskedImages
from .masks import find_masks as find_masks
from .preprocessing import Preprocessing as Preprocessing
