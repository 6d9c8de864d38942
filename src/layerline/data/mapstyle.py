"""Data sets of other libraries: any map-style PyTorch dataset, and Hugging Face `datasets`.

Both are read once, example by example, into memory; `from_arrays` says which shapes and types are possible. Images that
come as Pillow images become uint8. A transform such as `ToTensor()` makes floats of them, which then stay floats and
take four times the memory: leave it away, or use `PILToTensor()`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from layerline.data.arrays import from_arrays
from layerline.data.dataset import Dataset
from layerline.data.images import image_pixels, stack_images
from layerline.errors import DataError, UsageError, did_you_mean


class MapStyle(Protocol):
    """What `torch.utils.data.Dataset` promises: a length, and example i as (input, label)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def from_map_style(
    train: MapStyle, test: MapStyle | None = None, *, name: str | None = None, classes: Sequence[str] | None = None
) -> Dataset:
    """A data set of map-style datasets whose examples are (input, label): tensors, numpy arrays or Pillow images.

    Without `name`, the name of the dataset's class; without `classes`, its attribute `classes` if it has one (as those
    of torchvision do). Raises `DataError` for content that cannot be used.
    """
    name = name or type(train).__name__.lower()
    if classes is None:
        own = getattr(train, "classes", None)
        classes = [str(c) for c in own] if isinstance(own, list | tuple) and own else None
    test_x, test_y = (None, None) if test is None else _collect(_pairs(test, f"{name}, test set"), f"{name}, test set")
    return from_arrays(*_collect(_pairs(train, name), name), test_x, test_y, name=name, classes=classes)


def from_hugging_face(
    dataset_or_name: Any,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Dataset:
    """A data set of the Hugging Face hub ("ylecun/mnist"), or a `DatasetDict` or a single split of `datasets`.

    The splits "train" and "test" are used. Without column names, the only image column and the only class label column.
    Raises `UsageError` where `datasets` is missing or a column does not exist, and `DataError` where the set cannot be
    fetched or used. Whether that library may use the network is up to its own HF_HUB_OFFLINE.
    """
    name, found = "hugging-face", dataset_or_name
    if isinstance(dataset_or_name, str):
        name = dataset_or_name.removeprefix("hf:")
        found = _fetch(name)
    splits = found if isinstance(found, dict) else {"train": found}
    if "train" not in splits:
        raise DataError(f"{name}: no split 'train'{did_you_mean('train', splits)}", hint="pass the split itself")
    train, test = splits["train"], splits.get("test")
    features = dict(train.features)
    image = _column(image_column, "image_column", "Image", features, name)
    label = _column(label_column, "label_column", "ClassLabel", features, name)
    test_x, test_y = (None, None) if test is None else _collect(_rows(test, image, label), f"{name}, test set")
    return from_arrays(
        *_collect(_rows(train, image, label), name),
        test_x,
        test_y,
        name=name.rsplit("/", 1)[-1],
        classes=getattr(features[label], "names", None),
    )


def _pairs(dataset: MapStyle, what: str) -> Iterable[tuple[Any, Any]]:
    for at in range(len(dataset)):
        example = dataset[at]
        if not isinstance(example, tuple | list) or len(example) != 2:
            raise DataError(f"{what}: example {at:,} is not (input, label)", hint="wrap the dataset so that it is")
        yield example[0], example[1]


def _rows(split: Any, image: str, label: str) -> Iterable[tuple[Any, Any]]:
    for row in split:
        yield row[image], row[label]


def _collect(pairs: Iterable[tuple[Any, Any]], what: str) -> tuple[Tensor, Tensor]:
    """All inputs and all labels as two tensors."""
    inputs: list[Any] = []
    labels: list[int] = []
    for at, (value, label) in enumerate(pairs):
        if hasattr(value, "getbands"):  # a Pillow image, told without importing Pillow
            value = image_pixels(value, f"{what}: example {at:,}")
        elif isinstance(value, Tensor):
            value = value.detach().cpu()
        else:
            value = _array(value, f"{what}: example {at:,}")
        if inputs and type(value) is not type(inputs[0]):
            raise DataError(f"{what}: example {at:,} is of another type than the first", hint="use one type for all")
        inputs.append(value)
        labels.append(_label(label, f"{what}: example {at:,}"))
    if not inputs:
        raise DataError(f"{what}: empty", hint="give at least one example")
    return _stack(inputs, what), torch.tensor(labels)


def _array(value: Any, what: str) -> np.ndarray[Any, Any]:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataError(f"{what}: not an array ({error})", hint="give every example the same shape") from error
    if array.dtype.kind not in "biuf":
        raise DataError(f"{what}: the input is a {type(value).__name__}", hint="give tensors, arrays or images")
    return array


def _stack(inputs: list[Any], what: str) -> Tensor:
    first = inputs[0]
    if all(isinstance(v, np.ndarray) and v.dtype == np.uint8 and v.ndim == 3 for v in inputs):
        return stack_images(inputs, what)
    for at, value in enumerate(inputs):
        if value.shape != first.shape or value.dtype != first.dtype:
            raise DataError(
                f"{what}: example {at:,} is {value.dtype} {list(value.shape)}, "
                f"the first one {first.dtype} {list(first.shape)}",
                hint="give every example the same shape and type",
            )
    stacked = torch.stack(inputs) if isinstance(first, Tensor) else torch.from_numpy(np.stack(inputs))
    return stacked[:, None] if stacked.ndim == 1 else stacked


def _label(label: Any, what: str) -> int:
    """A class number, given as a Python, numpy or tensor integer."""
    try:
        number = label.item() if hasattr(label, "item") else label
    except (ValueError, RuntimeError):  # an array of several numbers
        number = None
    if isinstance(number, bool) or not isinstance(number, int):
        raise DataError(f"{what}: the label {label!r} is not a class number", hint="give integers 0..C-1")
    return number


def _fetch(name: str) -> Any:
    if importlib.util.find_spec("datasets") is None:
        raise UsageError("Hugging Face data sets need the library `datasets`", hint='pip install "layerline[datasets]"')
    datasets = importlib.import_module("datasets")
    try:
        return datasets.load_dataset(name)
    except Exception as error:  # the library's errors, its network stack's and the file systems'
        raise DataError(f"{name}: not loaded from Hugging Face ({error})", hint="check name and network") from error


def _column(chosen: str | None, argument: str, kind: str, features: dict[str, Any], name: str) -> str:
    """The chosen column, or the only one of that kind."""
    if chosen is not None:
        if chosen not in features:
            raise UsageError(f"{name}: no column '{chosen}'{did_you_mean(chosen, features)}", hint=f"see {argument}")
        return chosen
    fitting = [column for column, feature in features.items() if type(feature).__name__ == kind]
    if len(fitting) != 1:
        raise UsageError(
            f"{name}: {len(fitting)} columns of type {kind} among {', '.join(features)}", hint=f"choose by {argument}=…"
        )
    return fitting[0]
