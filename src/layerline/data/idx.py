"""IDX: the format of MNIST and of the sets made after it.

    bytes 0-1   zero
    byte  2     type of the values (8: unsigned byte, the only one used for images)
    byte  3     number of axes: 3 for images (magic 2051), 1 for labels (magic 2049)
    then        one big-endian uint32 per axis: count, rows, columns
    then        the values, and nothing after them

A set is four files in a folder, each packed with gzip or not: images and labels, for training and for test.
Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits", http://yann.lecun.com/exdb/mnist.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray

from layerline.data.dataset import Examples
from layerline.data.files import damaged, open_plain_or_gzip, read_at_most
from layerline.errors import DataError

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
"""The usual names, without `.gz`."""

_IMAGES, _LABELS = 3, 1  # axes
_WHAT = {_IMAGES: "images", _LABELS: "labels"}
_UNSIGNED_BYTE = 8


def missing_idx_files(folder: Path) -> tuple[str, ...]:
    """Which of the four files are not in the folder, as their usual names."""
    return tuple(name for name in IDX_FILES if _find(folder, name) is None)


def read_idx_set(
    folder: Path, *, classes: int, size: tuple[int, int] | None = None
) -> tuple[Examples, Examples | None]:
    """Training and test set of a folder with IDX files; the test set is None if both its files are absent.

    `classes`: labels must be below it. `size`: rows and columns that the images must have.
    Raises `DataError` for a file that is missing, damaged, or does not fit the others.
    """
    missing = missing_idx_files(folder)
    if missing and missing != IDX_FILES[2:]:
        raise DataError(f"{folder}: {' and '.join(missing)} missing", hint="put all four IDX files into the folder")
    train = _read_pair(folder, *IDX_FILES[:2], classes=classes, size=size)
    if missing:
        return train, None
    return train, _read_pair(folder, *IDX_FILES[2:], classes=classes, size=tuple(train.inputs.shape[2:]))


def parse_idx(stream: IO[bytes], *, axes: int, source: object) -> NDArray[np.uint8]:
    """The array of an IDX stream of unsigned bytes with `axes` axes; raises `DataError` unless it is exactly that."""
    head = bytes(read_at_most(stream, 4))
    if len(head) < 4:
        raise damaged(source, "the file is cut off in its header")
    if head[:2] != b"\0\0" or head[3] == 0:
        raise damaged(source, f"not an IDX file (it starts with the bytes {head.hex(' ')})")
    if head[2] != _UNSIGNED_BYTE:
        raise damaged(source, f"IDX values of type {head[2]:#04x}; only unsigned bytes (0x08) are read")
    if head[3] != axes:
        raise damaged(source, f"{_WHAT.get(axes, 'values')} need {axes} axes, the file has {head[3]}")
    sizes = bytes(read_at_most(stream, 4 * axes))
    if len(sizes) < 4 * axes:
        raise damaged(source, "the file is cut off in its header")
    shape = struct.unpack(f">{axes}I", sizes)
    expected = math.prod(shape)
    if expected == 0:
        raise damaged(source, f"the file holds no {_WHAT.get(axes, 'values')}: its shape is {list(shape)}")
    content = read_at_most(stream, expected)
    if len(content) < expected:
        raise damaged(source, f"the file is cut off: {len(content):,} of {expected:,} bytes after the header")
    if stream.read(1):
        raise damaged(source, f"there are more bytes than the {expected:,} that the header announces")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _find(folder: Path, name: str) -> Path | None:
    """The file of that name: with `.gz` or without, and with a dot for the dash (`train-images.idx3-ubyte`)."""
    for stem in (name, name.replace("-idx", ".idx")):
        for candidate in (folder / f"{stem}.gz", folder / stem):
            if candidate.is_file():
                return candidate
    return None


def _read(folder: Path, name: str, axes: int) -> tuple[Path, NDArray[np.uint8]]:
    path = _find(folder, name)
    assert path is not None, name  # read_idx_set has looked
    with open_plain_or_gzip(path) as stream:
        return path, parse_idx(stream, axes=axes, source=path)


def _read_pair(
    folder: Path, images_name: str, labels_name: str, *, classes: int, size: tuple[int, ...] | None
) -> Examples:
    images_path, images = _read(folder, images_name, _IMAGES)
    labels_path, labels = _read(folder, labels_name, _LABELS)
    if len(images) != len(labels):
        raise damaged(labels_path, f"{len(labels):,} labels for the {len(images):,} images of {images_path.name}")
    if size is not None and images.shape[1:] != size:
        found, wanted = "x".join(map(str, images.shape[1:])), "x".join(map(str, size))
        raise damaged(images_path, f"the images are {found}, they must be {wanted}")
    if int(labels.max()) >= classes:
        at = int(np.argmax(labels >= classes))
        raise damaged(labels_path, f"label {labels[at]} (number {at:,}) is outside 0..{classes - 1}")
    return Examples(torch.from_numpy(images[:, None]), torch.from_numpy(labels.astype(np.int64)))
