"""Data sets: readers, downloads with checksums, and arrays of one's own, all as `Dataset` in memory."""

from layerline.data.arrays import from_arrays
from layerline.data.catalog import dataset_names, load_dataset
from layerline.data.dataset import Dataset, Examples
from layerline.data.mapstyle import from_hugging_face, from_map_style

__all__ = [
    "Dataset",
    "Examples",
    "dataset_names",
    "from_arrays",
    "from_hugging_face",
    "from_map_style",
    "load_dataset",
]
