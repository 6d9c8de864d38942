"""Examples for a trained model: every kind of file gives the same tensor, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from layerline.data.inputs import read_inputs
from layerline.errors import DataError

_GREY = (1, 4, 5)
_PIXELS = (np.arange(40, dtype=np.uint8) * 6).reshape(2, 1, 4, 5)


def _write(folder: Path, kind: str) -> Path:
    path = folder / f"two.{kind.split('-')[0]}"
    match kind:
        case "npy":
            np.save(path, _PIXELS)
        case "npy-without-channels":
            np.save(path, _PIXELS[:, 0])
        case "npy-flat":
            np.save(path, _PIXELS.reshape(2, 20).astype(np.float64))
        case "npz":
            np.savez(path, x=_PIXELS, y=np.zeros(2))
        case "npz-one-array":
            np.savez(path, pictures=_PIXELS)
        case "csv":
            np.savetxt(path, _PIXELS.reshape(2, 20), delimiter=",", fmt="%d")
        case "csv-header":
            header = ",".join(f"pixel{i}" for i in range(20))
            np.savetxt(path, _PIXELS.reshape(2, 20), delimiter=",", header=header, comments="")
        case "folder":
            (path / "below").mkdir(parents=True)
            Image.fromarray(_PIXELS[0, 0]).save(path / "a.png")
            Image.fromarray(_PIXELS[1, 0]).save(path / "below" / "b.bmp")
            (path / "notes.txt").write_text("no image")
    return path


@pytest.mark.parametrize(
    "kind",
    ["npy", "npy-without-channels", "npy-flat", "npz", "npz-one-array", "csv", "csv-header", "folder"],
)
def test_every_kind_of_file_gives_the_same_examples(tmp_path: Path, kind: str) -> None:
    inputs = read_inputs([_write(tmp_path, kind)], _GREY, images=True)
    assert len(inputs.names) == 2
    assert inputs.examples.dtype == torch.uint8
    assert torch.equal(inputs.examples, torch.from_numpy(_PIXELS))


def test_names_say_where_an_example_stands(tmp_path: Path) -> None:
    csv, npy, folder = (_write(tmp_path, kind) for kind in ("csv-header", "npy", "folder"))
    names = read_inputs([csv, npy, folder], _GREY, images=True).names
    assert names == (f"{csv}:2", f"{csv}:3", f"{npy}[0]", f"{npy}[1]", f"{folder}/a.png", f"{folder}/below/b.bmp")


def test_a_single_example_needs_no_first_axis(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", _PIXELS[0])
    np.save(tmp_path / "grey.npy", _PIXELS[0, 0])
    inputs = read_inputs([tmp_path / "one.npy", tmp_path / "grey.npy"], _GREY, images=True)
    assert torch.equal(inputs.examples[0], inputs.examples[1])


def test_channels_are_those_the_model_wants(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4), (255, 0, 0)).save(tmp_path / "red.png")
    Image.new("L", (5, 4), 100).save(tmp_path / "grey.png")
    colour = read_inputs([tmp_path / "red.png", tmp_path / "grey.png"], (3, 4, 5), images=True).examples
    assert colour[:, :, 0, 0].tolist() == [[255, 0, 0], [100, 100, 100]]
    grey = read_inputs([tmp_path / "red.png", tmp_path / "grey.png"], _GREY, images=True).examples
    assert grey[:, 0, 0, 0].tolist() == [76, 100]


def test_channels_last_are_turned_round(tmp_path: Path) -> None:
    np.save(tmp_path / "last.npy", np.moveaxis(np.arange(120).reshape(2, 3, 4, 5), 1, 3))
    turned = read_inputs([tmp_path / "last.npy"], (3, 4, 5), images=True).examples
    assert torch.equal(turned, torch.arange(120, dtype=torch.uint8).reshape(2, 3, 4, 5))


def test_resizing_is_opted_in(tmp_path: Path) -> None:
    Image.new("L", (50, 40), 7).save(tmp_path / "big.png")
    with pytest.raises(DataError, match=r"big.png is 50x40, but the model was trained on 5x4"):
        read_inputs([tmp_path / "big.png"], _GREY, images=True)
    examples = read_inputs([tmp_path / "big.png"], _GREY, images=True, resize=True).examples
    assert torch.equal(examples, torch.full((1, *_GREY), 7, dtype=torch.uint8))


def test_features_come_from_tables_not_from_images(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2.5\n\n3,-4e1\n")
    assert read_inputs([tmp_path / "x.csv"], (2,), images=False).examples.tolist() == [[1, 2.5], [3, -40]]
    Image.new("L", (2, 1)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match="is an image, but the model was trained on 2 features"):
        read_inputs([tmp_path / "x.png"], (2,), images=False)


@pytest.mark.parametrize("value", [-1.0, 256.0, 0.5])
def test_what_is_no_pixel_is_refused_for_images_only(tmp_path: Path, value: float) -> None:
    np.save(tmp_path / "x.npy", np.full((1, *_GREY), value))
    with pytest.raises(DataError, match=rf"x.npy\[0\]: {value:g} is no pixel"):
        read_inputs([tmp_path / "x.npy"], _GREY, images=True)
    assert torch.equal(read_inputs([tmp_path / "x.npy"], _GREY, images=False).examples, torch.full((1, *_GREY), value))


def test_a_model_of_floats_is_not_asked_about_a_picture(tmp_path: Path) -> None:
    """Its pixels would have to be brought to a range that nobody knows."""
    Image.new("L", (5, 4)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match="is an image, but the model was trained on 5x4 images in grey as floats"):
        read_inputs([tmp_path / "x.png"], _GREY, images=False)


_BAD_TABLES = [
    ("1,2,3\n", "x.csv:1: 3 values, but the model was trained on 2"),
    ("a,b\n1,2\n1,x\n", "x.csv:3: not all of it is numbers"),
    ("a,b\nc,d\n", "x.csv:2: not all of it is numbers"),
    ("1,nan\n", "x.csv:1: NaN or infinity"),
    ("a,b\n", "there is no example"),
    ("", "there is no example"),
]


@pytest.mark.parametrize(("text", "message"), _BAD_TABLES)
def test_tables_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_inputs([tmp_path / "x.csv"], (2,), images=False)


_BAD_ARRAYS = [
    (np.zeros((2, 3)), r"examples of shape \[3\], but the model was trained on 2 features\n.*\[n, 2\]"),
    (np.float64(3), "but the model was trained on 2 features"),
    (np.array(["a", "b"]), "numbers are needed"),
    (np.array([[1, np.inf]]), "NaN or infinity in example 0"),
    (np.array([{}, {}]), "not a readable file of arrays"),
]


@pytest.mark.parametrize(("array", "message"), _BAD_ARRAYS)
def test_arrays_that_cannot_be_used(tmp_path: Path, array: object, message: str) -> None:
    np.save(tmp_path / "x.npy", array, allow_pickle=True)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        read_inputs([tmp_path / "x.npy"], (2,), images=False)


def test_an_archive_that_does_not_say_which_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros((1, 2)), b=np.zeros((1, 2)))
    with pytest.raises(DataError, match="which array"):
        read_inputs([tmp_path / "x.npz"], (2,), images=False)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for name in ("x.png", "x.csv", "x.npy"):
        with pytest.raises(DataError, match="there is no such file"):
            read_inputs([tmp_path / name], _GREY, images=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images in this folder"):
        read_inputs([tmp_path / "empty"], _GREY, images=True)
