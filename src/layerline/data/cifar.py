"""CIFAR-10 and CIFAR-100, binary version.

A `.bin` file is records and nothing else: one label byte (CIFAR-100: the coarse label, then the fine one), then 1,024
red, 1,024 green and 1,024 blue bytes, each plane row by row. There is no header, so the number of records is the only
sign of a file that was cut off; it is checked against the published one.

The sets are published as one tar archive packed with gzip. It is read in place, or its files if they were unpacked.
(The other published version, "for Python", consists of pickles. Pickles can run code, so they are not read.)
Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

import gzip
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from layerline.data.dataset import Examples
from layerline.data.files import damaged, read_at_most, reading
from layerline.errors import DataError

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True, kw_only=True)
class CifarLayout:
    """The files of a CIFAR set."""

    archive: str
    folder: str
    """The folder inside the archive."""
    train: tuple[str, ...]
    test: str
    train_records: int
    """Records of each training file."""
    test_records: int
    labels: tuple[int, ...]
    """Number of classes of each label byte; the last one is the label used."""

    @property
    def members(self) -> tuple[str, ...]:
        return (*self.train, self.test)

    def records(self, member: str) -> int:
        """How many records the file of that name must have."""
        return self.test_records if member == self.test else self.train_records


CIFAR_10 = CifarLayout(
    archive="cifar-10-binary.tar.gz",
    folder="cifar-10-batches-bin",
    train=tuple(f"data_batch_{k}.bin" for k in range(1, 6)),
    test="test_batch.bin",
    train_records=10_000,
    test_records=10_000,
    labels=(10,),
)
CIFAR_100 = CifarLayout(
    archive="cifar-100-binary.tar.gz",
    folder="cifar-100-binary",
    train=("train.bin",),
    test="test.bin",
    train_records=50_000,
    test_records=10_000,
    labels=(20, 100),
)


def missing_cifar_files(folder: Path, layout: CifarLayout) -> tuple[str, ...]:
    """Which `.bin` files are not in the folder; none are missing where the archive is."""
    if (folder / layout.archive).is_file():
        return ()
    place = _bin_folder(folder, layout)
    return tuple(name for name in layout.members if not (place / name).is_file())


def read_cifar(folder: Path, layout: CifarLayout) -> tuple[Examples, Examples]:
    """Training and test set from the folder's `.bin` files, else from its archive.

    Raises `DataError` for files that are missing or damaged.
    """
    place, archive = _bin_folder(folder, layout), folder / layout.archive
    if all((place / name).is_file() for name in layout.members):
        contents = {name: _read_bin(place / name, layout) for name in layout.members}
    elif archive.is_file():
        place, contents = archive, _read_archive(archive, layout)
    else:
        missing = ", ".join(missing_cifar_files(folder, layout))
        raise DataError(f"{folder}: {missing} missing", hint=f"put {layout.archive} into the folder")
    parts = {
        name: parse_cifar(content, layout, records=layout.records(name), source=place / name)
        for name, content in contents.items()
    }
    images, labels = zip(*(parts[name] for name in layout.train), strict=True)
    train = Examples(torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels)))
    test_images, test_labels = parts[layout.test]
    return train, Examples(torch.from_numpy(test_images.copy()), torch.from_numpy(test_labels))


def parse_cifar(
    content: bytes | bytearray, layout: CifarLayout, *, records: int, source: object
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images, [n, 3, 32, 32] (a view of `content`), and labels, [n], of one `.bin` file.

    Raises `DataError` unless the file has exactly `records` records with labels in range.
    """
    head = len(layout.labels)
    expected = records * (head + _PIXELS)
    if len(content) != expected:
        state = "the file is cut off" if len(content) < expected else "the file is too long"
        raise damaged(source, f"{state}: {len(content):,} bytes instead of {expected:,} ({records:,} records)")
    table = np.frombuffer(content, np.uint8).reshape(records, head + _PIXELS)
    for column, classes in enumerate(layout.labels):
        wrong = table[:, column] >= classes
        if wrong.any():
            at = int(np.argmax(wrong))
            raise damaged(source, f"label {table[at, column]} (record {at:,}) is outside 0..{classes - 1}")
    return table[:, head:].reshape(records, 3, 32, 32), table[:, head - 1].astype(np.int64)


def _bin_folder(folder: Path, layout: CifarLayout) -> Path:
    inner = folder / layout.folder
    return inner if inner.is_dir() else folder


def _limit(layout: CifarLayout, name: str) -> int:
    """One byte more than the file may have: enough to see that it is too long."""
    return layout.records(name) * (len(layout.labels) + _PIXELS) + 1


def _read_bin(path: Path, layout: CifarLayout) -> bytearray:
    with reading(path), path.open("rb") as stream:
        return read_at_most(stream, _limit(layout, path.name))


def _read_archive(path: Path, layout: CifarLayout) -> dict[str, bytearray]:
    """The `.bin` files of the archive by name. Nothing is unpacked to disk; only the known names are looked at."""
    wanted = {f"{layout.folder}/{name}": name for name in layout.members}
    contents: dict[str, bytearray] = {}
    try:
        with reading(path), gzip.open(path, "rb") as unpacked:
            with tarfile.open(fileobj=unpacked, mode="r|") as archive:
                for member in archive:
                    name = wanted.get(member.name.removeprefix("./"))
                    stream = archive.extractfile(member) if name is not None and member.isreg() else None
                    if name is not None and stream is not None:
                        with stream:
                            contents[name] = read_at_most(stream, _limit(layout, name))
            while unpacked.read(1 << 20):  # to the end: only there gzip checks its sum
                pass
    except (tarfile.TarError, ValueError, OverflowError) as error:  # the last two: nonsense in a header field
        raise damaged(path, f"the tar archive is damaged ({error})") from error
    missing = [name for name in layout.members if name not in contents]
    if missing:
        raise damaged(path, f"{', '.join(missing)} not in the archive")
    return contents
