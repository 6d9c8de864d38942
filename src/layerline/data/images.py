"""Images as numbers, and a folder of images as a data set.

    folder/train/<class>/*.png|jpg      or, without a test set,      folder/<class>/*.png|jpg
    folder/test/<class>/*.png|jpg

Classes are the folders' names in sorted order. All images have the same size; grey ones stay grey unless one of them
has colour. The classes are interleaved evenly, so that any part of the set, such as its last sixth, has all of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from layerline.data.dataset import Dataset, Examples
from layerline.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")

_GREY = ("1", "L", "LA")
_COLOUR = ("RGB", "RGBA", "CMYK", "YCbCr")
_PALETTE = ("P", "PA")


def read_image_folder(folder: Path, *, part: bool = False) -> Dataset:
    """The data set of an image folder; raises `DataError` for a layout or an image that cannot be used.

    `part`: of a larger set, so it may have one class only.
    """
    split = (folder / "train").is_dir()
    train_folder = folder / "train" if split else folder
    found = _list_classes(train_folder)
    classes = tuple(found)
    if len(classes) < (1 if part else 2):
        raise DataError(
            f"{train_folder}: {len(classes)} class folders, at least {'one is' if part else 'two are'} needed",
            hint="put the images into train/<class>/ and test/<class>/, or into <class>/, as .png or .jpg",
        )
    train_images, train_labels = _read(found, classes)
    test_images: list[NDArray[np.uint8]] = []
    test_labels: list[int] = []
    if split and (folder / "test").is_dir():
        of_test = _list_classes(folder / "test")
        for name in of_test:
            if name not in classes:
                raise DataError(
                    f"{folder / 'test' / name}: no such class in training{did_you_mean(name, classes)}",
                    hint=f"add the folder {train_folder / name}, or rename this one",
                )
        test_images, test_labels = _read(of_test, classes)
    inputs = stack_images(train_images + test_images, str(folder))
    n = len(train_labels)
    return Dataset(
        name=folder.resolve().name,
        train=Examples(inputs[:n], torch.tensor(train_labels)),
        test=Examples(inputs[n:], torch.tensor(test_labels)) if test_labels else None,
        classes=classes,
    )


def read_image(path: Path) -> NDArray[np.uint8]:
    """The pixels of an image file, [1, H, W] or [3, H, W], 0..255; raises `DataError` if it is not a usable image."""
    import PIL.Image  # here: only image files need it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(path) as image:
                return image_pixels(image, str(path))
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file", hint="check the path") from error
    except Exception as error:  # Pillow's decoders raise a dozen types for damaged files
        raise DataError(f"{path}: not a readable image ({error})", hint="replace the file, or remove it") from error


def image_pixels(image: Image, source: str) -> NDArray[np.uint8]:
    """The pixels of a Pillow image, [1, H, W] or [3, H, W], 0..255; transparency is dropped."""
    if image.mode in _PALETTE:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns of transparency
    if image.mode in _GREY:
        return np.array(image.convert("L"), np.uint8)[None]
    if image.mode in _COLOUR:
        return np.ascontiguousarray(np.moveaxis(np.array(image.convert("RGB"), np.uint8), 2, 0))
    raise DataError(f"{source}: an image of mode {image.mode}", hint="convert it to 8-bit grey or RGB")


def stack_images(images: Sequence[NDArray[np.uint8]], source: str) -> torch.Tensor:
    """All images as one tensor, `uint8` [n, C, H, W]. Grey ones get three equal channels if others have colour.

    Raises `DataError` for images of different sizes.
    """
    channels = max(image.shape[0] for image in images)
    shape = (channels, *images[0].shape[1:])
    stacked = np.empty((len(images), *shape), np.uint8)
    for at, image in enumerate(images):
        if image.shape[1:] != shape[1:] or image.shape[0] not in (1, channels):
            first, other = _size(images[0]), _size(image)
            raise DataError(
                f"{source}: image number {at:,} is {other}, the first one is {first}",
                hint="bring all images to the same size first",
            )
        stacked[at] = image
    return torch.from_numpy(stacked)


def _size(image: NDArray[np.uint8]) -> str:
    channels, height, width = image.shape
    return f"{width}x{height}" if channels in (1, 3) else f"{width}x{height} with {channels} channels"


def _list_classes(folder: Path) -> dict[str, list[Path]]:
    """The images of every class folder, both in sorted order. Hidden files and files of other kinds are passed over."""
    found: dict[str, list[Path]] = {}
    try:
        for place in sorted(folder.iterdir()):
            if not place.is_dir() or place.name.startswith("."):
                continue
            files = [p for p in place.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
            if not files:
                raise DataError(f"{place}: no .png or .jpg images", hint="put images there, or remove the folder")
            found[place.name] = sorted(files)
    except OSError as error:
        cause = error.strerror or str(error)
        raise DataError(f"{folder}: cannot be read ({cause})", hint="check the path and its permissions") from error
    return found


def _read(found: dict[str, list[Path]], classes: tuple[str, ...]) -> tuple[list[NDArray[np.uint8]], list[int]]:
    """Images and labels, interleaved: an image at half of its class stands at half of the set."""
    order = sorted(
        ((at + 0.5) / len(files), classes.index(name), path)
        for name, files in found.items()
        for at, path in enumerate(files)
    )
    images: list[NDArray[np.uint8]] = []
    for _, _, path in order:
        image = read_image(path)
        if images and image.shape[1:] != images[0].shape[1:]:
            raise DataError(
                f"{path} is {_size(image)}, but {order[0][2]} is {_size(images[0])}",
                hint="bring all images to the same size first",
            )
        images.append(image)
    return images, [label for _, label, _ in order]
