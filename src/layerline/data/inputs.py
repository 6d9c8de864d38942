"""Examples without labels, for a trained model to judge: images, folders of them, arrays and tables of numbers.

    .png .jpg .bmp …   one example; grey or colour as the model wants it
    folder             every image in it and below, in sorted order
    .npy               [n, *shape] or [n, F]; images also [n, H, W], [n, H, W, C], or a single one
    .npz               the same, in the array `x`, else `x_test`, else the only one there is
    .csv               one example per line, its pixels or features in order; a first line of names is passed over

A model fits one shape and one type only: pixels, whole numbers 0..255, or floats as they are. A picture of another size
is an error, unless `resize` says that it may be scaled.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray
from torch import Tensor

from layerline.data.files import reading
from layerline.data.images import read_image
from layerline.errors import DataError

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
_KEYS = ("x", "x_test")

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Inputs:
    """Examples [n, *shape], uint8 images or float32 features, and a name for each."""

    names: tuple[str, ...]
    examples: Tensor


def read_inputs(paths: Sequence[Path], shape: tuple[int, ...], *, images: bool, resize: bool = False) -> Inputs:
    """Everything in these files and folders as examples of `shape`: (C, H, W), or (F,).

    `images`: the model was trained on uint8 images, else on floats. Raises `DataError` for what is missing, unreadable,
    of another shape, or no pixel where pixels are wanted.
    """
    found = [one for path in paths for one in _read(path, shape, images, resize)]
    if not found:
        raise DataError("there is no example in what was named", hint="name an image, a folder of images, or arrays")
    arrays = [_pixels(name, array) if images else array for name, array in found]
    return Inputs(tuple(name for name, _ in found), torch.from_numpy(np.stack(arrays)))


def _pixels(name: str, values: Array) -> Array:
    """The values as uint8."""
    wrong = values[(values < 0) | (values > 255) | (values != np.rint(values))]
    if wrong.size:
        raise DataError(
            f"{name}: {wrong[0]:g} is no pixel, but the model was trained on images of whole numbers 0 to 255",
            hint="bring the values to that range: those of 0 to 1 times 255, rounded",
        )
    return values.astype(np.uint8)


def _read(path: Path, shape: tuple[int, ...], images: bool, resize: bool) -> Iterator[tuple[str, Array]]:
    kind = path.suffix.lower()
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in _IMAGES and not p.name.startswith("."))
        if not inside:
            raise DataError(f"{path}: no images in this folder", hint=f"known kinds: {', '.join(_IMAGES)}")
        for file in inside:
            yield str(file), _image(file, shape, images, resize)
    elif kind in (".npy", ".npz"):
        for at, array in enumerate(_shaped(_arrays(path), shape, path)):
            yield f"{path}[{at}]", array
    elif kind == ".csv":
        yield from _table(path, shape)
    else:
        yield str(path), _image(path, shape, images, resize)


def _image(path: Path, shape: tuple[int, ...], images: bool, resize: bool) -> Array:
    """The pixels of an image, float32 of `shape`."""
    from PIL import Image  # here: only image files need it

    if not images or len(shape) != 3 or shape[0] not in (1, 3):
        raise DataError(
            f"{path} is an image, but the model was trained on {_described(shape)}{'' if images else ' as floats'}",
            hint="give examples of that kind as .npy, .npz or .csv",
        )
    pixels = read_image(path)
    channels, height, width = shape
    if pixels.shape[1:] != (height, width) and not resize:
        raise DataError(
            f"{path} is {pixels.shape[2]}x{pixels.shape[1]}, but the model was trained on {width}x{height}",
            hint="let it be resized: --resize",
        )
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(np.moveaxis(pixels, 0, 2)))
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    values = np.asarray(image, np.float32)
    return values[None] if channels == 1 else np.moveaxis(values, 2, 0)


def _arrays(path: Path) -> Array:
    with reading(path), path.open("rb") as raw:
        try:
            loaded = np.load(raw, allow_pickle=False)
            if not isinstance(loaded, NpzFile):
                return np.asarray(loaded)
            with loaded as archive:
                names = archive.files
                key = next((key for key in _KEYS if key in names), names[0] if len(names) == 1 else None)
                if key is not None:
                    return np.asarray(archive[key])
        except Exception as error:  # numpy's and zipfile's parsers raise a dozen types for damaged files
            raise DataError(
                f"{path}: not a readable file of arrays ({error})",
                hint="save it again with numpy.save or numpy.savez; arrays of objects are not read",
            ) from error
    raise DataError(
        f"{path}: which array? It has {', '.join(names) or 'none'}", hint="name the one with the examples 'x'"
    )


def _shaped(array: Array, shape: tuple[int, ...], path: Path) -> Array:
    """The examples in an array, float32 [n, *shape]."""
    if array.dtype.kind not in "biuf":
        raise DataError(f"{path}: {array.dtype} values; numbers are needed", hint="convert them to numbers first")
    if array.shape == shape or (len(shape) == 3 and array.ndim == 2 and (1, *array.shape) == shape):
        array = array.reshape(1, *shape)
    channels_last = (*shape[1:], shape[0])
    if array.shape[1:] == channels_last and array.shape[1:] != shape and len(shape) == 3:
        array = np.moveaxis(array, 3, 1)
    flat, grey = (math.prod(shape),), shape[1:] if shape[0] == 1 else shape
    if array.ndim < 2 or array.shape[1:] not in (shape, flat, grey):
        raise DataError(
            f"{path}: examples of shape {list(array.shape[1:])}, but the model was trained on {_described(shape)}",
            hint=f"give an array of shape {['n', *shape]} or {['n', *flat]}".replace("'", ""),
        )
    values = array.reshape(len(array), *shape).astype(np.float32)
    bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if bad.any():
        raise DataError(f"{path}: NaN or infinity in example {int(bad.argmax()):,}", hint="fill in such values first")
    return values


def _table(path: Path, shape: tuple[int, ...]) -> Iterator[tuple[str, Array]]:
    """The examples of a CSV file, with their line numbers."""
    wanted, header_passed = math.prod(shape), False
    with reading(path), path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        lines = csv.reader(file)
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"{path}:{lines.line_num}"
            try:
                values = np.array(cells, np.float32)
            except ValueError:
                if not header_passed:
                    header_passed = True
                    continue
                raise DataError(
                    f"{where}: not all of it is numbers", hint="one example per line, commas between"
                ) from None
            header_passed = True
            if len(values) != wanted:
                raise DataError(
                    f"{where}: {len(values):,} values, but the model was trained on {wanted:,} ({_described(shape)})",
                    hint="one example per line, without a label",
                )
            if not np.isfinite(values).all():
                raise DataError(f"{where}: NaN or infinity", hint="fill in such values first")
            yield where, values.reshape(shape)


def _described(shape: tuple[int, ...]) -> str:
    if len(shape) == 3 and shape[0] in (1, 3):
        return f"{shape[2]}x{shape[1]} images in {'grey' if shape[0] == 1 else 'colour'}"
    return f"{shape[0]:,} features" if len(shape) == 1 else f"examples of shape {list(shape)}"
