"""Networks as data: trained CNNs of one and of many architectures, and how accurate each is.

`load` reads a zoo, ``python -m benchmarks.cnn_zoo`` makes it, `load_published` reads the published small zoo.
"""

from benchmarks.cnn_zoo.architecture import Architecture
from benchmarks.cnn_zoo.bucket import Bucket
from benchmarks.cnn_zoo.dataset import load
from benchmarks.cnn_zoo.images import Images, images_of
from benchmarks.cnn_zoo.plan import SIZES, ZOOS
from benchmarks.cnn_zoo.published import load_published

__all__ = ["SIZES", "ZOOS", "Architecture", "Bucket", "Images", "images_of", "load", "load_published"]
