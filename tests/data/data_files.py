"""Small files in the formats of the published sets."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layerline.data.cifar import CIFAR_10, CIFAR_100, CifarLayout
from layerline.data.idx import IDX_FILES

SMALL_CIFAR_10 = replace(CIFAR_10, train_records=4, test_records=3)
SMALL_CIFAR_100 = replace(CIFAR_100, train_records=4, test_records=3)


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def idx_contents(train: int = 20, test: int = 10, size: tuple[int, int] = (28, 28)) -> list[bytes]:
    """The four files of a set of random images."""
    rng = np.random.default_rng(0)
    contents = []
    for count in (train, test):
        contents.append(idx_bytes(rng.integers(0, 256, (count, *size), np.uint8)))
        contents.append(idx_bytes((np.arange(count) % 10).astype(np.uint8)))
    return contents


def write_idx_set(
    folder: Path, *, train: int = 20, test: int = 10, size: tuple[int, int] = (28, 28), packed: bool = True
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(IDX_FILES, idx_contents(train, test, size), strict=True):
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1))
        else:
            (folder / name).write_bytes(content)
    return folder


def cifar_bytes(layout: CifarLayout, records: int, seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    labels = np.stack([np.arange(records) % classes for classes in layout.labels], 1).astype(np.uint8)
    return np.concatenate([labels, rng.integers(0, 256, (records, 3072), np.uint8)], axis=1).tobytes()


def cifar_contents(layout: CifarLayout) -> dict[str, bytes]:
    return {name: cifar_bytes(layout, layout.records(name), seed) for seed, name in enumerate(layout.members)}


def cifar_archive(layout: CifarLayout, contents: dict[str, bytes]) -> bytes:
    unpacked = io.BytesIO()
    with tarfile.open(fileobj=unpacked, mode="w") as archive:
        for name, content in {"batches.meta.txt": b"airplane\n", **contents}.items():
            member = tarfile.TarInfo(f"{layout.folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(unpacked.getvalue(), 1)
