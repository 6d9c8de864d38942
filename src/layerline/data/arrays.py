"""Arrays and tensors of one's own as a data set.

    uint8   [n, H, W] or [n, C, H, W]   grey or colour images; stay uint8, get a channel axis
    uint8   [n, H, W, C], C = 1 or 3    channels last (only where axis 1 is not 1 or 3 itself); turned round
    uint8   [n, F]                      features, become float32
    others  [n, F] or [n, ...]          features, become float32 and keep their shape; no NaN, no infinity

Floats are taken as they are, also where they look like images in 0..1: what a network was trained on is what it will be
asked about. Give images as uint8.

Labels are whole numbers 0..C-1, and every one of them occurs; with `classes` given, some may be absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from layerline.data.dataset import Dataset, Examples
from layerline.data.files import reading
from layerline.errors import DataError, UsageError

Array: TypeAlias = Tensor | ArrayLike

_CHANNELS = (1, 3)
_MOST_CLASSES = 1_000_000
"""Of a part of a set, whose own number of examples says nothing of how many classes there are."""
_KEYS = ("x_train", "y_train", "x_test", "y_test", "x", "y", "classes")


def from_arrays(
    train_x: Array,
    train_y: Array,
    test_x: Array | None = None,
    test_y: Array | None = None,
    *,
    name: str = "arrays",
    classes: Sequence[str] | None = None,
    part: bool = False,
) -> Dataset:
    """A data set of numpy arrays or tensors; see the table above for shapes and types.

    Memory is shared with the arguments where nothing needs converting. `classes` names the classes (else "0", "1" …).
    `part`: these are a part of a larger set, which need not have every class.
    Raises `DataError` for content that cannot be used, `UsageError` for a test set without its other half.
    """
    if (test_x is None) != (test_y is None):
        raise UsageError("a test set needs both its inputs and its labels", hint="give test_x and test_y, or neither")
    train_labels = _labels(train_y, f"{name}: training labels")
    train = _examples(_inputs(train_x, f"{name}: training inputs"), train_labels, f"{name}: training set")
    test = test_labels = None
    if test_x is not None and test_y is not None:
        test_labels = _labels(test_y, f"{name}: test labels")
        test = _examples(_inputs(test_x, f"{name}: test inputs"), test_labels, f"{name}: test set")
    if classes is not None:
        names = tuple(str(c) for c in classes)
    else:
        names = _classes_so_far(train_labels, test_labels) if part else _count_classes(train_labels, name)
    if len(names) < 2 and not part:
        raise DataError(f"{name}: there is one class only", hint="a classifier needs at least two classes")
    return Dataset(name=name, train=train, test=test, classes=names)


def read_npz(path: Path, *, part: bool = False) -> Dataset:
    """The data set of an `.npz` file with `x_train`, `y_train` and perhaps `x_test`, `y_test`; or with `x` and `y`.

    An array `classes` of strings names the classes. Arrays of Python objects are refused: they would be pickles.
    `part`: as for `from_arrays`.
    """
    with reading(path), path.open("rb") as raw:
        try:
            arrays, names = _read_archive(raw)
        except Exception as error:  # numpy's and zipfile's parsers raise a dozen types for damaged files
            raise DataError(
                f"{path}: not a readable .npz file ({error})",
                hint="save it again with numpy.savez; arrays of objects are not read",
            ) from error
    split = ("x_train", "y_train") if "x_train" in arrays else ("x", "y")
    absent = [key for key in split if key not in arrays]
    if absent:
        raise DataError(
            f"{path}: no array {' and '.join(absent)} (the file has {', '.join(names) or 'nothing'})",
            hint="save it with numpy.savez(path, x_train=…, y_train=…, x_test=…, y_test=…), or x=…, y=…",
        )
    classes = arrays.get("classes")
    return from_arrays(
        arrays[split[0]],
        arrays[split[1]],
        arrays.get("x_test"),
        arrays.get("y_test"),
        name=path.stem,
        classes=None if classes is None else [str(c) for c in classes.ravel()],
        part=part,
    )


def _read_archive(raw: IO[bytes]) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """The arrays with names we know, and the names of all."""
    loaded = np.load(raw, allow_pickle=False)
    if not isinstance(loaded, NpzFile):
        raise ValueError("it is one array, not an archive")
    with loaded as archive:
        return {key: archive[key] for key in archive.files if key in _KEYS}, list(archive.files)


def _examples(inputs: Tensor, labels: Tensor, what: str) -> Examples:
    if len(inputs) != len(labels):
        raise DataError(f"{what}: {len(inputs):,} inputs but {len(labels):,} labels", hint="give every input one label")
    return Examples(inputs, labels)


def _count_classes(labels: Tensor, name: str) -> tuple[str, ...]:
    """The names "0" … of the classes 0..C-1, all of which must occur."""
    present = labels.unique().tolist()
    high = present[-1]
    if high >= len(labels):  # more classes than examples: some are absent, and the list of them may be long
        raise DataError(f"{name}: label {high}, but only {len(labels):,} examples", hint="number the classes 0..C-1")
    absent = sorted(set(range(high + 1)) - set(present))
    if absent:
        raise DataError(
            f"{name}: labels go up to {high}, but class {absent[0]} has no training example",
            hint="number the classes 0..C-1 without gaps, or name all of them with classes=…",
        )
    return tuple(str(k) for k in range(high + 1))


def _classes_so_far(*labels: Tensor | None) -> tuple[str, ...]:
    """The names "0" … up to the highest label that occurs."""
    high = max(int(part.max()) for part in labels if part is not None)
    if high >= _MOST_CLASSES:
        raise DataError(f"label {high:,}: a class more than {_MOST_CLASSES:,}", hint="number the classes 0..C-1")
    return tuple(str(k) for k in range(high + 1))


def _tensor(values: Array, what: str) -> Tensor:
    """As a tensor on the CPU; numeric or boolean, else `DataError`."""
    if isinstance(values, Tensor):
        return values.detach().cpu()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(f"{what}: not an array ({error})", hint="give every example the same shape") from error
    if array.dtype.kind not in "biuf":
        raise DataError(f"{what}: {array.dtype} values; numbers are needed", hint="convert them to numbers first")
    if array.dtype.kind == "f" and array.dtype.itemsize != 4:
        with np.errstate(over="ignore"):  # becomes infinity, which is reported with its place
            array = array.astype(np.float32)
    elif array.dtype.kind in "iu" and array.dtype != np.uint8:
        if array.dtype.kind == "u" and array.dtype.itemsize == 8 and array.size and int(array.max()) >= 2**63:
            raise DataError(f"{what}: whole numbers above 2^63", hint="convert them to floats first")
        array = array.astype(np.int64)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    usable = array.flags.writeable and all(stride >= 0 for stride in array.strides)
    return torch.from_numpy(array if usable else array.copy())


def _inputs(values: Array, what: str) -> Tensor:
    inputs = _tensor(values, what)
    if inputs.ndim < 2:
        raise DataError(f"{what}: shape {list(inputs.shape)}", hint="give [n, features], or images [n, C, H, W]")
    if inputs.numel() == 0:
        raise DataError(f"{what}: empty, the shape is {list(inputs.shape)}", hint="give at least one example")
    if inputs.is_complex():
        raise DataError(f"{what}: {inputs.dtype} values", hint="give real numbers")
    if inputs.dtype == torch.uint8 and inputs.ndim == 3:
        inputs = inputs[:, None]
    if inputs.dtype == torch.uint8 and inputs.ndim == 4:
        if inputs.shape[1] not in _CHANNELS and inputs.shape[3] in _CHANNELS:
            inputs = inputs.movedim(3, 1)
        return inputs.contiguous()
    inputs = inputs.to(torch.float32).contiguous()
    bad = ~torch.isfinite(inputs.flatten(1)).all(dim=1)
    if bad.any():
        at = int(bad.nonzero()[0])
        raise DataError(f"{what}: NaN or infinity in example {at:,}", hint="fill in or drop such values first")
    return inputs


def _labels(values: Array, what: str) -> Tensor:
    labels = _tensor(values, what)
    if labels.ndim != 1:
        hint = "for one-hot labels give their argmax" if labels.ndim == 2 else None
        raise DataError(f"{what}: shape {list(labels.shape)}, but one number per example is needed", hint=hint)
    if labels.is_floating_point() or labels.is_complex():
        raise DataError(f"{what}: {labels.dtype} values", hint="give class numbers 0..C-1 as integers")
    if labels.numel() == 0:
        raise DataError(f"{what}: empty", hint="give at least one example")
    labels = labels.to(torch.int64).contiguous()
    if int(labels.min()) < 0:
        at = int(labels.argmin())
        raise DataError(f"{what}: label {int(labels[at])} (number {at:,})", hint="number the classes 0..C-1")
    return labels
