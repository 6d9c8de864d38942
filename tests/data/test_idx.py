"""IDX files: what is written is read, and damage is named."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from data.data_files import idx_bytes, idx_contents, write_idx_set
from layerline.data.files import open_plain_or_gzip, read_at_most, reading
from layerline.data.idx import IDX_FILES, missing_idx_files, parse_idx, read_idx_set
from layerline.errors import DataError


@given(arrays(np.uint8, array_shapes(min_dims=1, max_dims=3, max_side=6)))
def test_round_trip(array: NDArray[np.uint8]) -> None:
    found = parse_idx(io.BytesIO(idx_bytes(array)), axes=array.ndim, source="x")
    assert found.dtype == np.uint8
    assert np.array_equal(found, array)


@given(st.binary(max_size=40), st.sampled_from([1, 3]))
def test_any_bytes_are_a_valid_array_or_an_error(content: bytes, axes: int) -> None:
    try:
        found = parse_idx(io.BytesIO(content), axes=axes, source="x")
    except DataError:
        return
    assert found.ndim == axes
    assert idx_bytes(found) == content


@given(st.data())
def test_damaged_packed_files_are_a_valid_array_or_an_error(data: st.DataObject) -> None:
    good = gzip.compress(idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4)), mtime=0)
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(bad)))
    content = bytes(bad[:cut]) + data.draw(st.binary(max_size=4))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream, reading("x"):
            found = parse_idx(stream, axes=3, source="x")  # type: ignore[arg-type]
    except DataError:
        return
    assert found.ndim == 3


@pytest.mark.parametrize("packed", [True, False])
def test_a_set(tmp_path: Path, packed: bool) -> None:
    write_idx_set(tmp_path, train=20, test=10, packed=packed)
    train, test = read_idx_set(tmp_path, classes=10, size=(28, 28))
    assert test is not None
    assert (tuple(train.inputs.shape), tuple(test.inputs.shape)) == ((20, 1, 28, 28), (10, 1, 28, 28))
    images, labels = idx_contents()[:2]
    assert train.inputs.numpy().tobytes() == images[16:]
    assert train.labels.tolist() == list(labels[8:])


def test_names_with_a_dot(tmp_path: Path) -> None:
    write_idx_set(tmp_path, packed=False)
    for name in IDX_FILES:
        (tmp_path / name).rename(tmp_path / name.replace("-idx", ".idx"))
    assert missing_idx_files(tmp_path) == ()
    assert len(read_idx_set(tmp_path, classes=10)[0]) == 20


def test_without_test_files(tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    for name in IDX_FILES[2:]:
        (tmp_path / f"{name}.gz").unlink()
    assert read_idx_set(tmp_path, classes=10)[1] is None


def test_missing_file_is_named(tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte missing"):
        read_idx_set(tmp_path, classes=10)


IMAGES = idx_contents()[0]
PACKED_IMAGES = gzip.compress(IMAGES, mtime=0)  # names of tests are made of it: no clock in them
LABELS = idx_contents()[1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IDX_FILES[0], IMAGES[:-1], "cut off: 15,679 of 15,680 bytes"),
        (IDX_FILES[0], IMAGES[:10], "cut off in its header"),
        (IDX_FILES[0], b"", "cut off in its header"),
        (IDX_FILES[0], IMAGES + b"\0", "more bytes than the 15,680"),
        (IDX_FILES[0], PACKED_IMAGES[:-9], "cut off: its gzip data ends too early"),
        (IDX_FILES[0], PACKED_IMAGES + b"rubbish", "gzip data is damaged"),
        (IDX_FILES[0], PACKED_IMAGES[:50] + b"#" * 50 + PACKED_IMAGES[100:], "gzip data is damaged"),
        (IDX_FILES[0], b"<html>not found</html>", "not an IDX file"),
        (IDX_FILES[0], LABELS, "images need 3 axes, the file has 1"),
        (IDX_FILES[0], b"\0\0\x0d\x03" + IMAGES[4:], "type 0x0d"),
        (IDX_FILES[0], struct.pack(">4I", 2051, 0, 28, 28), "no images"),
        (IDX_FILES[0], struct.pack(">4I", 2051, 2**32 - 1, 2**32 - 1, 2**32 - 1), "cut off: 0 of"),
        (IDX_FILES[0], idx_bytes(np.zeros((20, 27, 28), np.uint8)), "images are 27x28, they must be 28x28"),
        (IDX_FILES[2], idx_bytes(np.zeros((10, 14, 14), np.uint8)), "images are 14x14, they must be 28x28"),
        (IDX_FILES[1], idx_bytes(np.zeros(19, np.uint8)), "19 labels for the 20 images"),
        (IDX_FILES[1], LABELS[:-1] + b"\x0a", r"label 10 \(number 19\) is outside 0..9"),
    ],
)
def test_damage_is_named_with_file_and_next_step(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    write_idx_set(tmp_path, packed=False)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx_set(tmp_path, classes=10, size=(28, 28))
    assert name in str(caught.value)
    assert caught.value.hint is not None


def test_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"), open_plain_or_gzip(tmp_path / "absent"):
        pass
    with pytest.raises(DataError, match="cannot be read"), open_plain_or_gzip(tmp_path):
        pass


def test_reading_never_allocates_what_is_not_there() -> None:
    assert read_at_most(io.BytesIO(b"abc"), 1 << 60) == b"abc"
