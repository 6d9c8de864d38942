"""The handwritten digits that scikit-learn brings along: 1,797 real 8x8 images, nothing to download.

Problem: the set comes in one piece, with values 0..16, and importing scikit-learn for it takes more than a second.

Solution: its table is read straight from the installed package. The split is fixed: of every class, in file order, the
examples 2, 7, 12, 17 … (counted from 0) are the test set, so all classes and all writers are on both sides: 1,438 for
training and 359 for test, in file order. Values are spread over 0..255 by x * 255 / 16, rounded.

Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from layerline.data.dataset import Dataset, Examples
from layerline.errors import DataError

_EVERY, _FIRST = 5, 2


def load_digits() -> Dataset:
    """The bundled digits, [n, 1, 8, 8]; raises `DataError` where scikit-learn is not installed."""
    values, labels = _table()
    images = torch.from_numpy(np.rint(values * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8))
    targets = torch.from_numpy(labels.astype(np.int64))
    held = torch.from_numpy(_held_out(labels))
    return Dataset(
        name="digits",
        train=Examples(images[~held], targets[~held]),
        test=Examples(images[held], targets[held]),
        classes=tuple("0123456789"),
        published=True,
    )


def _held_out(labels: NDArray[np.float64]) -> NDArray[np.bool_]:
    """True for the examples of the test set."""
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        held[np.flatnonzero(labels == label)[_FIRST::_EVERY]] = True
    return held


def _table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values 0..16, [n, 64], and labels, [n]."""
    spec = importlib.util.find_spec("sklearn")  # finds the package without importing it
    if spec is None:
        raise DataError("the digits come with scikit-learn, which is not installed", hint="pip install scikit-learn")
    for place in spec.submodule_search_locations or ():
        path = Path(place) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            table = np.loadtxt(path, delimiter=",")
            return table[:, :-1], table[:, -1]
    digits = importlib.import_module("sklearn.datasets").load_digits()  # another version may keep it elsewhere
    return digits.data, digits.target
