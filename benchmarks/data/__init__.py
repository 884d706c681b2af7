"""Image data sets, whole and verified: `load` reads them, and fetches what is missing."""

from benchmarks.data.catalogue import DATASETS
from benchmarks.data.loading import DataMissingError, Dataset, Split, data_root, load, prepare

__all__ = ["DATASETS", "DataMissingError", "Dataset", "Split", "data_root", "load", "prepare"]
