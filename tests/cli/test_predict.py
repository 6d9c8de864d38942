"""`predict` and `evaluate` in this process: what they print and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from cli.command import Layerline
from layerline import api
from layerline.data.digits import load_digits


def _save(path: Path, width: int, height: int, mode: str = "L") -> None:
    Image.new(mode, (width, height), 200 if mode == "L" else (200, 100, 0)).save(path)


def test_the_classes_are_those_of_the_model(layerline: Layerline, digits_run: Path, tmp_path: Path) -> None:
    test = load_digits().test
    assert test is not None
    np.save(tmp_path / "test.npy", test.inputs.numpy())
    answer = json.loads(layerline("predict", digits_run, "test.npy", "--format", "json").out)
    model = api.load(digits_run)
    assert answer["readout"] == "goodness"
    found = [int(p["class"]) for p in answer["predictions"]]
    assert found == model.predict(test.inputs).tolist()
    assert answer["predictions"][3]["image"] == "test.npy[3]"


def test_a_table_with_a_line_per_image(layerline: Layerline, digits_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("b.png", "a.jpg"):
        _save(folder / name, 8, 8)
    _save(tmp_path / "colour.png", 8, 8, "RGB")
    answer = layerline("predict", digits_run, folder, "colour.png")
    assert (answer.status, answer.err) == (0, "")
    head, *lines = answer.out.splitlines()
    assert head.split() == ["image", "class", "score", "of", "0", *"123456789"]
    assert [line.split()[0] for line in lines] == [f"{folder}/a.jpg", f"{folder}/b.png", "colour.png"]
    assert {len(line.split()) for line in lines} == {12}


def test_flags_may_stand_between_images(layerline: Layerline, digits_run: Path, tmp_path: Path) -> None:
    _save(tmp_path / "a.png", 8, 8)
    answer = layerline("predict", digits_run, "a.png", "--format", "json", "a.png")
    assert len(json.loads(answer.out)["predictions"]) == 2


def test_an_image_of_the_wrong_size(layerline: Layerline, digits_run: Path, tmp_path: Path) -> None:
    _save(tmp_path / "big.png", 28, 20)
    answer = layerline("predict", digits_run, "big.png")
    assert (answer.status, answer.out) == (1, "")
    assert answer.err == ("error: big.png is 28x20, but the model was trained on 8x8\n  let it be resized: --resize\n")
    assert layerline("predict", digits_run, "big.png", "--resize").status == 0


def test_an_image_that_is_none(layerline: Layerline, digits_run: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    answer = layerline("predict", digits_run, "text.png")
    assert answer.status == 1
    assert "text.png: not a readable image" in answer.err


def test_evaluate_prints_every_readout(layerline: Layerline, digits_run: Path) -> None:
    answer = layerline("evaluate", digits_run)
    assert answer.status == 0
    assert answer.out.startswith("digits, 359 test examples\n  goodness")


def test_evaluate_on_a_set_of_another_kind(layerline: Layerline, digits_run: Path, tmp_path: Path) -> None:
    labels = np.arange(20) % 10
    np.savez(
        tmp_path / "other.npz", x_train=np.eye(10)[labels], y_train=labels, x_test=np.eye(10)[labels], y_test=labels
    )
    answer = layerline("evaluate", digits_run, "--dataset", "other.npz")
    assert answer.status == 1
    assert "examples are torch.float32, but the model was trained on uint8 images" in answer.err
