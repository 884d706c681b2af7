"""Image data sets and texts, whole and verified: `load` and `load_text` read them, and fetch what is missing."""

from meta_train.data.catalogue import DATASETS, TEXTS
from meta_train.data.loading import Dataset, Split, load, load_text, prepare
from meta_train.data.places import DataMissingError, data_root

__all__ = [
    "DATASETS",
    "TEXTS",
    "DataMissingError",
    "Dataset",
    "Split",
    "data_root",
    "load",
    "load_text",
    "prepare",
]
