"""CIFAR's binary files, loose or in their archive."""

from __future__ import annotations

import gzip
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.data_files import SMALL_CIFAR_10, SMALL_CIFAR_100, cifar_archive, cifar_bytes, cifar_contents
from layerline.data.cifar import CifarLayout, missing_cifar_files, parse_cifar, read_cifar
from layerline.errors import DataError

ONE = replace(SMALL_CIFAR_10, train=("data_batch_1.bin",), train_records=1, test_records=1)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(0, 255))
def test_round_trip(labels: list[int], value: int) -> None:
    rng = np.random.default_rng(value)
    pixels = rng.integers(0, 256, (len(labels), 3072), np.uint8)
    content = np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1).tobytes()
    images, found = parse_cifar(content, SMALL_CIFAR_10, records=len(labels), source="x")
    assert found.tolist() == labels
    assert images.shape == (len(labels), 3, 32, 32)
    assert np.array_equal(images.reshape(len(labels), -1), pixels)


@given(st.lists(st.tuples(st.integers(0, 3073 * 2 - 1), st.integers(0, 255)), max_size=4), st.integers(-2, 2))
def test_any_damage_is_a_valid_set_or_an_error(changes: list[tuple[int, int]], longer: int) -> None:
    content = bytearray(cifar_bytes(SMALL_CIFAR_10, 2))
    for at, value in changes:
        content[at] = value
    content = content[:longer] if longer < 0 else content + b"\0" * longer
    try:
        images, labels = parse_cifar(content, SMALL_CIFAR_10, records=2, source="x")
    except DataError:
        return
    assert longer == 0
    assert images.shape == (2, 3, 32, 32)
    assert labels.max() < 10


@settings(max_examples=60)
@given(data=st.data())
def test_damaged_archives_are_a_valid_set_or_an_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    unpacked = bytearray(gzip.decompress(cifar_archive(ONE, cifar_contents(ONE))))
    headers = [*range(512), *range(1024, 1536), *range(5120, 5632)]  # flips in headers do more than those in pixels
    for _ in range(data.draw(st.integers(1, 4))):
        unpacked[data.draw(st.sampled_from(headers))] = data.draw(st.integers(0, 255))
    del unpacked[data.draw(st.integers(0, len(unpacked))) :]
    packed = gzip.compress(unpacked, 1)
    folder = tmp_path_factory.mktemp("cifar")
    (folder / ONE.archive).write_bytes(packed[: data.draw(st.integers(0, len(packed)))])
    try:
        train, test = read_cifar(folder, ONE)
    except DataError:
        return
    assert (len(train), len(test)) == (1, 1)


@pytest.mark.parametrize("layout", [SMALL_CIFAR_10, SMALL_CIFAR_100], ids=["cifar-10", "cifar-100"])
@pytest.mark.parametrize("place", ["archive", "folder", "inner folder"])
def test_a_set(tmp_path: Path, layout: CifarLayout, place: str) -> None:
    contents = cifar_contents(layout)
    assert missing_cifar_files(tmp_path, layout) == layout.members
    if place == "archive":
        (tmp_path / layout.archive).write_bytes(cifar_archive(layout, contents))
    else:
        folder = tmp_path / layout.folder if place == "inner folder" else tmp_path
        folder.mkdir(exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    assert missing_cifar_files(tmp_path, layout) == ()
    train, test = read_cifar(tmp_path, layout)
    assert tuple(train.inputs.shape) == (4 * len(layout.train), 3, 32, 32)
    assert train.labels.tolist() == [0, 1, 2, 3] * len(layout.train)
    assert tuple(test.inputs.shape) == (3, 3, 32, 32)
    head = len(layout.labels)
    assert test.inputs[0].numpy().tobytes() == contents[layout.test][head : head + 3072]


def test_cifar_100_uses_the_fine_label() -> None:
    record = bytes([19, 99]) + bytes(3072)
    assert parse_cifar(record, SMALL_CIFAR_100, records=1, source="x")[1].tolist() == [99]
    with pytest.raises(DataError, match="label 20"):
        parse_cifar(bytes([20, 99]) + bytes(3072), SMALL_CIFAR_100, records=1, source="x")


GOOD = cifar_contents(SMALL_CIFAR_10)["data_batch_2.bin"]


@pytest.mark.parametrize("loose", [True, False])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD[:-1], "cut off: 12,291 bytes instead of 12,292"),
        (GOOD[:-3073], "cut off: 9,219 bytes"),
        (GOOD + b"\0", "too long"),
        (b"", "cut off: 0 bytes"),
        (b"\x0a" + GOOD[1:], r"label 10 \(record 0\) is outside 0..9"),
    ],
)
def test_damage_is_named_with_the_file(tmp_path: Path, content: bytes, message: str, loose: bool) -> None:
    contents = {**cifar_contents(SMALL_CIFAR_10), "data_batch_2.bin": content}
    if loose:
        for name, each in contents.items():
            (tmp_path / name).write_bytes(each)
    else:
        (tmp_path / SMALL_CIFAR_10.archive).write_bytes(cifar_archive(SMALL_CIFAR_10, contents))
    with pytest.raises(DataError, match=message) as caught:
        read_cifar(tmp_path, SMALL_CIFAR_10)
    assert "data_batch_2.bin" in str(caught.value)
    assert caught.value.hint is not None


ARCHIVE = cifar_archive(SMALL_CIFAR_10, cifar_contents(SMALL_CIFAR_10))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ARCHIVE[: len(ARCHIVE) // 2], "cut off"),
        (ARCHIVE[:-3], "cut off"),
        (ARCHIVE[:1000] + b"#" * 100 + ARCHIVE[1100:], "damaged"),
        (b"<html>not found</html>", "damaged"),
        (gzip.compress(b"no tar at all" * 100, mtime=0), "damaged"),
        (gzip.compress(bytes(1024), mtime=0), "not in the archive"),
        (cifar_archive(SMALL_CIFAR_10, {"data_batch_1.bin": GOOD}), "data_batch_2.bin.*test_batch.bin not in the"),
    ],
)
def test_damaged_archive_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / SMALL_CIFAR_10.archive).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_cifar(tmp_path, SMALL_CIFAR_10)
    assert SMALL_CIFAR_10.archive in str(caught.value)


def test_links_in_the_archive_are_not_followed(tmp_path: Path) -> None:
    unpacked = io.BytesIO()
    with tarfile.open(fileobj=unpacked, mode="w") as archive:
        link = tarfile.TarInfo(f"{SMALL_CIFAR_10.folder}/test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    (tmp_path / SMALL_CIFAR_10.archive).write_bytes(gzip.compress(unpacked.getvalue()))
    with pytest.raises(DataError, match="not in the archive"):
        read_cifar(tmp_path, SMALL_CIFAR_10)


def test_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(GOOD)
    with pytest.raises(DataError, match=r"data_batch_2\.bin.*missing"):
        read_cifar(tmp_path, SMALL_CIFAR_10)
