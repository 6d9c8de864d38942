"""Folders of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layerline.data.images import read_image, read_image_folder
from layerline.errors import DataError


def save(path: Path, value: int = 100, *, size: tuple[int, int] = (6, 5), mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).convert(mode).save(path)
    return path


def make(folder: Path, cats: int = 4, dogs: int = 2) -> Path:
    for k in range(cats):
        save(folder / "cat" / f"{k}.png", k)
    for k in range(dogs):
        save(folder / "dog" / f"{k}.png", 100 + k)
    return folder


def test_with_a_split(tmp_path: Path) -> None:
    make(tmp_path / "pets" / "train")
    make(tmp_path / "pets" / "test", 1, 1)
    data = read_image_folder(tmp_path / "pets")
    assert data.test is not None
    assert (data.name, data.shape, data.classes) == ("pets", (1, 5, 6), ("cat", "dog"))
    assert (len(data.train), len(data.test)) == (6, 2)
    assert data.is_image


def test_without_a_split_classes_are_interleaved(tmp_path: Path) -> None:
    data = read_image_folder(make(tmp_path))
    assert data.test is None
    assert data.train.labels.tolist() == [0, 1, 0, 0, 1, 0]
    assert data.train.inputs[:, 0, 0, 0].tolist() == [0, 100, 1, 2, 101, 3]
    split = data.hold_out(3)
    assert split.test is not None
    assert split.test.labels.tolist() == [0, 1, 0]


def test_grey_stays_grey_unless_one_has_colour(tmp_path: Path) -> None:
    assert read_image_folder(make(tmp_path)).shape == (1, 5, 6)
    Image.new("RGB", (6, 5), (1, 2, 3)).save(tmp_path / "dog" / "colour.png")
    data = read_image_folder(tmp_path)
    assert data.shape == (3, 5, 6)
    assert data.train.inputs[-1].flatten(1)[:, 0].tolist() in ([1, 2, 3], [3, 3, 3])


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3)])
def test_modes(tmp_path: Path, mode: str, channels: int) -> None:
    pixels = read_image(save(tmp_path / "x.png", 255, mode=mode))
    assert pixels.shape == (channels, 5, 6)
    assert pixels.dtype == np.uint8
    assert (pixels == 255).all()


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (6, 5))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "x.png", transparency=bytes([0, 255]))
    assert read_image(tmp_path / "x.png")[:, 0, 0].tolist() == [10, 20, 30]


def test_jpeg_and_capital_suffixes(tmp_path: Path) -> None:
    save(tmp_path / "a" / "x.JPG", mode="RGB")
    save(tmp_path / "b" / "x.jpeg", mode="RGB")
    assert read_image_folder(tmp_path).shape == (3, 5, 6)


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "cat" / "notes.txt").write_text("x")
    (tmp_path / "cat" / "._0.png").write_text("x")
    (tmp_path / ".hidden").mkdir()
    assert len(read_image_folder(tmp_path).train) == 6


def test_other_size_is_named(tmp_path: Path) -> None:
    make(tmp_path)
    odd = save(tmp_path / "dog" / "odd.png", size=(7, 5))
    with pytest.raises(DataError, match=r"odd\.png is 7x5, but .*0\.png is 6x5") as caught:
        read_image_folder(tmp_path)
    assert str(odd) in str(caught.value)


def test_other_size_in_the_test_set(tmp_path: Path) -> None:
    make(tmp_path / "train")
    save(tmp_path / "test" / "cat" / "odd.png", size=(7, 5))
    with pytest.raises(DataError, match="7x5, the first one is 6x5"):
        read_image_folder(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_damaged_image_is_named(tmp_path: Path, content: bytes | None) -> None:
    make(tmp_path)
    path = save(tmp_path / "dog" / "bad.png", size=(60, 50))
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    with pytest.raises(DataError, match=r"bad\.png: not a readable image"):
        read_image_folder(tmp_path)


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((5, 6), 1000, np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"mode I;16(.|\n)*8-bit"):
        read_image(tmp_path / "x.png")


def test_absent_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "x.png")


def test_unknown_class_in_the_test_set(tmp_path: Path) -> None:
    make(tmp_path / "train")
    save(tmp_path / "test" / "cats" / "0.png")
    with pytest.raises(DataError, match="no such class in training; did you mean 'cat'"):
        read_image_folder(tmp_path)


def test_class_without_images(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "cow").mkdir()
    with pytest.raises(DataError, match=r"cow: no \.png or \.jpg images"):
        read_image_folder(tmp_path)


def test_folder_without_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 class folders"):
        read_image_folder(tmp_path)
    save(tmp_path / "only" / "0.png")
    with pytest.raises(DataError, match="1 class folders"):
        read_image_folder(tmp_path)
