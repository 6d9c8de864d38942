"""Map-style PyTorch datasets and Hugging Face splits."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from layerline.data.mapstyle import from_hugging_face, from_map_style
from layerline.errors import DataError, UsageError


class Pairs:
    """The plainest map-style dataset."""

    def __init__(self, *pairs: Any) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Any:
        return self.pairs[index]


def image(value: int, mode: str = "L", size: tuple[int, int] = (6, 5)) -> Image.Image:
    return Image.new("RGB", size, (value, value, value)).convert(mode)


def test_tensors() -> None:
    data = from_map_style(TensorDataset(torch.ones(4, 3), torch.tensor([0, 1, 0, 1])))
    assert (data.name, data.shape, data.test) == ("tensordataset", (3,), None)
    assert data.train.labels.tolist() == [0, 1, 0, 1]


def test_images_of_pillow() -> None:
    data = from_map_style(Pairs((image(1), 0), (image(2), 1)), Pairs((image(3), 1)), name="p", classes=["a", "b"])
    assert data.test is not None
    assert (data.name, data.shape, data.is_image, data.classes) == ("p", (1, 5, 6), True, ("a", "b"))
    assert data.test.inputs.unique().tolist() == [3]


def test_grey_among_coloured() -> None:
    data = from_map_style(Pairs((image(1), 0), (image(2, "RGB"), 1)))
    assert data.train.inputs[:, :, 0, 0].tolist() == [[1, 1, 1], [2, 2, 2]]


def test_arrays_lists_and_labels_of_all_kinds() -> None:
    rows = Pairs(([1.0, 2.0], 0), ([3.0, 4.0], np.int64(1)), ([5.0, 6.0], torch.tensor(1)))
    assert from_map_style(rows).train.inputs.tolist() == [[1, 2], [3, 4], [5, 6]]
    grey = np.zeros((5, 6), np.uint8)
    assert from_map_style(Pairs((grey, 0), (grey, 1))).shape == (1, 5, 6)
    last = np.zeros((5, 6, 3), np.uint8)
    assert from_map_style(Pairs((last, 0), (last, 1))).shape == (3, 5, 6)
    assert from_map_style(Pairs((1.0, 0), (2.0, 1))).shape == (1,)


def test_classes_of_the_dataset() -> None:
    pairs = Pairs((image(1), 0), (image(2), 1))
    pairs.classes = ["T-shirt", "Coat", "Bag"]  # type: ignore[attr-defined]
    assert from_map_style(pairs).classes == ("T-shirt", "Coat", "Bag")


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "empty"),
        ([image(1)], r"example 0 is not \(input, label\)"),
        ([(image(1), 0, 0)], r"example 0 is not \(input, label\)"),
        ([(image(1), "cat")], "label 'cat' is not a class number"),
        ([(image(1), 1.0)], "is not a class number"),
        ([(image(1), True)], "is not a class number"),
        ([(image(1), torch.zeros(2))], "is not a class number"),
        ([("text", 0)], "the input is a str"),
        ([([[1], [1, 2]], 0)], "not an array"),
        ([(image(1), 0), (image(1, size=(7, 5)), 1)], "number 1 is 7x5, the first one is 6x5"),
        ([(torch.zeros(2), 0), (torch.zeros(3), 1)], r"example 1 is torch.float32 \[3\]"),
        ([(torch.zeros(2), 0), (np.zeros(2), 1)], "example 1 is of another type"),
    ],
)
def test_what_cannot_be_used(pairs: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        from_map_style(Pairs(*pairs))
    assert str(caught.value).startswith("pairs")


class ClassLabel:
    names = ("cat", "dog")


class Split:
    """What of a split of `datasets` is used."""

    def __init__(self, *rows: dict[str, Any], **features: Any) -> None:
        self.rows = rows
        self.features = features or {"image": type("Image", (), {})(), "label": ClassLabel()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


ROWS = ({"image": image(1), "label": 0}, {"image": image(2), "label": 1})


def test_hugging_face_splits() -> None:
    data = from_hugging_face({"train": Split(*ROWS), "test": Split(ROWS[0])})
    assert data.test is not None
    assert (data.shape, data.classes, len(data.test)) == ((1, 5, 6), ("cat", "dog"), 1)
    assert from_hugging_face(Split(*ROWS)).test is None


def test_hugging_face_columns_by_name() -> None:
    split = Split({"x": [1.0, 2.0], "y": 0}, {"x": [3.0, 4.0], "y": 1}, x=None, y=None)
    data = from_hugging_face(split, image_column="x", label_column="y")
    assert (data.shape, data.classes) == ((2,), ("0", "1"))
    with pytest.raises(UsageError, match=r"0 columns of type Image among x, y(.|\n)*image_column"):
        from_hugging_face(split)
    with pytest.raises(UsageError, match=r"no column 'yy'; did you mean 'y'(.|\n)*label_column"):
        from_hugging_face(split, image_column="x", label_column="yy")


def test_hugging_face_without_training_split() -> None:
    with pytest.raises(DataError, match="no split 'train'"):
        from_hugging_face({"test": Split(*ROWS)})


def test_hugging_face_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Any:
        if name == "owner/absent":
            raise FileNotFoundError("not on the hub")
        return {"train": Split(*ROWS)}

    library = SimpleNamespace(load_dataset=load)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(importlib, "import_module", lambda _: library)
    assert from_hugging_face("hf:owner/pets").name == "pets"
    assert from_hugging_face("owner/pets").shape == (1, 5, 6)
    with pytest.raises(DataError, match="owner/absent: not loaded from Hugging Face"):
        from_hugging_face("hf:owner/absent")


def test_hugging_face_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install \"layerline\[datasets\]\""):
        from_hugging_face("hf:owner/pets")
