"""Arrays and .npz files as data sets: what is taken as what, and what is refused."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerline.data.arrays import from_arrays, read_npz
from layerline.errors import DataError, UsageError

Y = np.array([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("given_shape", "dtype", "shape", "image"),
    [
        ((4, 6), np.float64, (6,), False),
        ((4, 6), np.float16, (6,), False),
        ((4, 6), ">f8", (6,), False),
        ((4, 6), np.uint8, (6,), False),
        ((4, 6), np.int16, (6,), False),
        ((4, 6), np.uint64, (6,), False),
        ((4, 6), bool, (6,), False),
        ((4, 2, 5, 5), np.float32, (2, 5, 5), False),
        ((4, 5, 7), np.uint8, (1, 5, 7), True),
        ((4, 3, 5, 7), np.uint8, (3, 5, 7), True),
        ((4, 5, 7, 3), np.uint8, (3, 5, 7), True),
        ((4, 5, 7, 1), np.uint8, (1, 5, 7), True),
        ((4, 3, 7, 3), np.uint8, (3, 7, 3), True),
        ((4, 5, 7, 6), np.uint8, (5, 7, 6), True),
    ],
)
def test_shapes_and_types(given_shape: tuple[int, ...], dtype: Any, shape: tuple[int, ...], image: bool) -> None:
    values = (np.arange(np.prod(given_shape)) % 2).reshape(given_shape).astype(dtype)
    data = from_arrays(values, Y)
    assert (data.shape, data.is_image, data.num_classes) == (shape, image, 3)
    assert data.train.inputs.is_contiguous()
    assert data.classes == ("0", "1", "2")
    tensors = from_arrays(torch.from_numpy(values.astype(np.dtype(dtype).newbyteorder("="))), torch.from_numpy(Y))
    assert torch.equal(tensors.train.inputs, data.train.inputs)


def test_channels_last_are_turned_round() -> None:
    values = np.arange(4 * 5 * 7 * 3).reshape(4, 5, 7, 3).astype(np.uint8)
    assert np.array_equal(from_arrays(values, Y).train.inputs.numpy(), values.transpose(0, 3, 1, 2))


def test_with_a_test_set_and_names() -> None:
    data = from_arrays(np.zeros((4, 2)), Y, [[1.0, 2.0]], [3], name="mine", classes=["a", "b", "c", "d"])
    assert data.test is not None
    assert data.test.inputs.tolist() == [[1.0, 2.0]]
    assert (data.name, data.classes) == ("mine", ("a", "b", "c", "d"))


def test_views_that_torch_cannot_hold() -> None:
    values = np.arange(8, dtype=np.float32).reshape(4, 2)
    values.setflags(write=False)
    assert from_arrays(values[::-1], Y[::-1]).train.inputs.tolist() == values[::-1].tolist()


def test_images_are_not_copied() -> None:
    values = np.zeros((4, 1, 2, 2), np.uint8)
    assert from_arrays(values, Y).train.inputs.data_ptr() == values.ctypes.data


X = np.zeros((4, 2))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, [0, 1, 2], "4 inputs but 3 labels"),
        (np.array([[0, np.nan]] * 4), Y, "NaN or infinity in example 0"),
        (np.array([[0, 1], [0, 1], [0, np.inf], [0, 1]]), Y, "NaN or infinity in example 2"),
        (np.array([[0, 1e300]] * 4), Y, "NaN or infinity in example 0"),
        (np.array([["a", "b"]] * 4), Y, "numbers are needed"),
        (np.array([[{}, {}]] * 4), Y, "object values"),
        (X.astype(complex), Y, "complex128 values"),
        (torch.zeros(4, 2, dtype=torch.complex64), Y, "complex64"),
        ([[1, 2], [3]], Y, "not an array"),
        (np.zeros(4), Y, r"shape \[4\](.|\n)*\[n, features\]"),
        (np.zeros((0, 2)), Y[:0], "empty"),
        (np.zeros((4, 0)), Y, "empty"),
        (X, Y.astype(float), "class numbers 0..C-1 as integers"),
        (X, np.eye(4, dtype=int), "argmax"),
        (X, np.array(["a", "b", "c", "d"]), "numbers are needed"),
        (X, [0, -1, 1, 2], r"label -1 \(number 1\)"),
        (X, [0, 1, 3, 3], r"class 2 has no training example"),
        (X, [1, 2, 1, 2], r"class 0 has no training example"),
        (X, [0, 1, 2**62, 1], "but only 4 examples"),
        (X, np.array([0, 1, 2**63, 1], np.uint64), r"above 2\^63"),
        (X, [0, 0, 0, 0], "one class only"),
        (X, [], "numbers are needed|as integers|empty"),
    ],
)
def test_what_cannot_be_used(x: Any, y: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        from_arrays(x, y)
    assert caught.value.hint is not None
    assert str(caught.value).startswith("arrays: ")


def test_label_beyond_the_named_classes() -> None:
    with pytest.raises(DataError, match="training labels run from 0 to 2, but 2 classes"):
        from_arrays(X, Y, classes=["a", "b"])
    with pytest.raises(DataError, match="test labels run from 3 to 3"):
        from_arrays(X, Y, X[:1], [3])


def test_test_set_of_another_shape() -> None:
    with pytest.raises(DataError, match=re.escape("training examples are torch.float32 [2]")):
        from_arrays(X, Y, np.zeros((1, 3)), [0])


def test_half_a_test_set() -> None:
    with pytest.raises(UsageError, match="both its inputs and its labels"):
        from_arrays(X, Y, X)


def test_npz_with_a_split(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    images = np.arange(4 * 25).reshape(4, 5, 5).astype(np.uint8)
    np.savez_compressed(path, x_train=images, y_train=Y, x_test=images[:2], y_test=Y[:2], classes=["x", "y", "z"])
    data = read_npz(path)
    assert data.test is not None
    assert (data.name, data.shape, data.classes, len(data.test)) == ("mine", (1, 5, 5), ("x", "y", "z"), 2)


def test_npz_without_a_split(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=X, y=Y)
    data = read_npz(tmp_path / "mine.npz")
    assert data.test is None
    assert data.shape == (2,)


class _Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_npz_with_pickled_objects_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    objects = np.array([_Trap(trap)] * 4, dtype=object)
    np.savez(tmp_path / "bad.npz", x=objects, y=Y)
    with pytest.raises(DataError, match="arrays of objects are not read"):
        read_npz(tmp_path / "bad.npz")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable .npz"),
        (b"PK\x03\x04 rubbish", "not a readable .npz"),
        (b"\x80\x04N.", "not a readable .npz"),
    ],
)
def test_npz_that_is_none(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_npz(tmp_path / "bad.npz")


def test_npz_that_is_one_array(tmp_path: Path) -> None:
    with (tmp_path / "bad.npz").open("wb") as stream:
        np.save(stream, X)
    with pytest.raises(DataError, match="one array, not an archive"):
        read_npz(tmp_path / "bad.npz")


def test_npz_that_is_absent(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_npz(tmp_path / "absent.npz")


def test_npz_with_other_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", images=X, y=Y)
    with pytest.raises(DataError, match=r"no array x \(the file has images, y\)"):
        read_npz(tmp_path / "bad.npz")


@given(data=st.data())
def test_damaged_npz_is_a_valid_set_or_an_error(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("npz") / "set.npz"
    np.savez(path, x=np.zeros((4, 2), np.float32), y=Y)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = read_npz(path)
        except DataError:
            return
    assert len(found.train) > 0
