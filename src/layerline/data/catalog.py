"""Data sets by name: `load_dataset("mnist")`.

A name is one of the published sets, the bundled digits, a path (`.npz`, a folder of IDX files or of images), or
`hf:owner/name` on the Hugging Face hub. Texts for language models are read by `layerline.data.text`.

Published sets are looked for in `<data folder>/<name>/`; the data folder is the argument, else the environment variable
LAYERLINE_DATA, else the cache. A set that the given folder doesn't have is taken from the cache, and downloaded to it
if need be. A folder with only a part of a set is an error: something went wrong there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from layerline.data.arrays import read_npz
from layerline.data.cifar import CIFAR_10, CIFAR_100, CifarLayout, missing_cifar_files, read_cifar
from layerline.data.class_names import CIFAR_10_CLASSES, CIFAR_100_CLASSES, DIGITS, FASHION_CLASSES, KMNIST_CLASSES
from layerline.data.dataset import Dataset, Examples
from layerline.data.digits import load_digits
from layerline.data.download import Progress, fetch
from layerline.data.idx import IDX_FILES, missing_idx_files, read_idx_set
from layerline.data.images import read_image_folder
from layerline.data.mapstyle import from_hugging_face
from layerline.data.sources import REMOTE_FILES
from layerline.errors import DataError, UsageError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class _Published:
    """How a published set lies in its folder."""

    classes: tuple[str, ...]
    shape: tuple[int, ...]
    """Of an image."""
    examples: int
    """In the training set."""
    files: tuple[str, ...]
    missing: Callable[[Path], tuple[str, ...]]
    """Which of `files` a folder lacks."""
    read: Callable[[Path], tuple[Examples, Examples | None]]


def _idx(classes: tuple[str, ...]) -> _Published:
    return _Published(
        classes=classes,
        shape=(1, 28, 28),
        examples=60_000,
        files=IDX_FILES,
        missing=missing_idx_files,
        read=lambda folder: read_idx_set(folder, classes=len(classes), size=(28, 28)),
    )


def _cifar(classes: tuple[str, ...], layout: CifarLayout) -> _Published:
    return _Published(
        classes=classes,
        shape=(3, 32, 32),
        examples=50_000,
        files=layout.members,
        missing=lambda folder: missing_cifar_files(folder, layout),
        read=lambda folder: read_cifar(folder, layout),
    )


_PUBLISHED: dict[str, _Published] = {
    "mnist": _idx(DIGITS),
    "fashion-mnist": _idx(FASHION_CLASSES),
    "kmnist": _idx(KMNIST_CLASSES),
    "cifar-10": _cifar(CIFAR_10_CLASSES, CIFAR_10),
    "cifar-100": _cifar(CIFAR_100_CLASSES, CIFAR_100),
}


TEXT_NAMES = ("tinyshakespeare",)
"""Published texts: one file, input.txt, each."""


def dataset_names() -> tuple[str, ...]:
    """The names `load_dataset` knows, besides paths and `hf:` names."""
    return tuple(sorted([*_PUBLISHED, "digits"]))


def published_sizes(name: str) -> tuple[tuple[int, ...], int, int] | None:
    """Shape of an image, classes and training examples of a published set, known without reading it; else None."""
    published = _PUBLISHED.get(name)
    return None if published is None else (published.shape, len(published.classes), published.examples)


def load_dataset(
    name: str,
    *,
    data_dir: str | Path | None = None,
    download: bool = True,
    progress: Progress | None = None,
) -> Dataset:
    """The data set of that name; see above for names and places.

    `progress(file, bytes so far, bytes in all or None)` is called while downloading.
    Raises `UsageError` for an unknown name, `DataError` for a set that is missing or damaged.
    """
    if name == "digits":
        return load_digits()
    if name in _PUBLISHED:
        return _load_published(name, data_dir, download, progress)
    if name.startswith("hf:"):
        if not download and os.environ.get("HF_HUB_OFFLINE", "").lower() not in ("1", "on", "yes", "true"):
            raise UsageError(
                f"{name} may need the network, but downloads are off",
                hint="set HF_HUB_OFFLINE=1 in the environment to have it from that library's cache only",
            )
        return from_hugging_face(name)
    if name in TEXT_NAMES or name.endswith(".txt"):
        raise UsageError(
            f"{name} is a text, which language models learn from; this network wants labelled examples",
            hint=f"give a text to a transformer, or choose another data set: {', '.join(dataset_names())}",
        )
    path = Path(name).expanduser()
    if path.exists() or path.suffix == ".npz" or len(path.parts) > 1 or path.is_absolute():
        return _load_path(path)
    raise UsageError(
        f"there is no data set '{name}'{did_you_mean(name, dataset_names())}",
        hint=f"data sets: {', '.join(dataset_names())}; or an .npz file, an image folder, hf:owner/name; "
        "from Python any set, handed in (again): data=…",
    )


def load_part(path: str | Path) -> Dataset:
    """A part of a set that lies in several places: an `.npz` file or a folder, which need not have every class.

    Raises `DataError` for one that is missing or damaged.
    """
    return _load_path(Path(path).expanduser(), part=True)


def cache_folder() -> Path:
    """Where downloaded sets lie: `$XDG_CACHE_HOME/layerline/data`, by default below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "layerline" / "data"


def _load_published(name: str, data_dir: str | Path | None, download: bool, progress: Progress | None) -> Dataset:
    published = _PUBLISHED[name]
    folder = find_published(
        name, published.files, published.missing, data_dir=data_dir, download=download, progress=progress
    )
    return _read(name, published, folder)


def find_published(
    name: str,
    files: tuple[str, ...],
    missing: Callable[[Path], tuple[str, ...]],
    *,
    data_dir: str | Path | None,
    download: bool,
    progress: Progress | None,
) -> Path:
    """The folder that has a published set, downloaded if need be. `missing(folder)`: which of `files` it lacks."""
    given = data_dir or os.environ.get("LAYERLINE_DATA")
    folders = [cache_folder() / name]
    if given:
        root = Path(given).expanduser()
        if not root.is_dir():
            origin = "--data-dir" if data_dir else "LAYERLINE_DATA"
            raise DataError(f"the data folder {root} ({origin}) does not exist", hint="create it, or give another one")
        folders.insert(0, root / name)
        gone = missing(folders[0])
        if gone and gone != files:
            raise DataError(
                f"{folders[0]}: {', '.join(gone)} missing",
                hint=f"put the missing files there, or remove the folder to have {name} downloaded",
            )
    for folder in folders:
        if not missing(folder):
            return folder
    if not download:
        places = " or ".join(str(folder) for folder in folders)
        raise DataError(
            f"{name} is neither in {places}" if given else f"{name} is not in {places}",
            hint="allow the download, or give the folder that has it by --data-dir or LAYERLINE_DATA",
        )
    for file in REMOTE_FILES[name]:
        fetch(file, folders[-1], progress=progress)
    return folders[-1]


def _read(name: str, published: _Published, folder: Path) -> Dataset:
    train, test = published.read(folder)
    return Dataset(name=name, train=train, test=test, classes=published.classes, published=True)


def _load_path(path: Path, *, part: bool = False) -> Dataset:
    if path.is_dir():
        return _load_folder(path, part=part)
    if path.suffix == ".npz":
        return read_npz(path, part=part)
    if path.exists():
        raise UsageError(f"{path}: no kind of file that holds a data set", hint="give an .npz file or a folder")
    raise DataError(f"{path}: there is no such file or folder", hint="check the path")


def _load_folder(folder: Path, *, part: bool) -> Dataset:
    """A folder of IDX files, else of images."""
    if missing_idx_files(folder) == IDX_FILES:
        return read_image_folder(folder, part=part)
    train, test = read_idx_set(folder, classes=256)
    count = 1 + max(int(part.labels.max()) for part in (train, test) if part is not None)
    return Dataset(
        name=folder.resolve().name, train=train, test=test, classes=tuple(str(k) for k in range(max(count, 2)))
    )
