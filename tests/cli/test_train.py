"""`train` in this process: what it promises of every preset and of its result."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cli.command import Layerline
from layerline import api
from layerline.cli.resolve import resolve
from layerline.negatives.labels import Adaptive
from layerline.presets.presets import PRESETS
from layerline.readouts.readouts import Softmax
from layerline.run import Run
from layerline.runtime.model import Model

_SMALL = ("--widths", "20,20", "--epochs", "1", "--chapters", "1", "--threads", "1")

_PROMISED = {
    *("test_accuracy", "readouts", "train_seconds", "epochs", "chapters", "nodes", "threads", "seed", "precision"),
    *("parameters", "weights_sha256", "run_dir", "versions"),
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Grey images of another size than any preset's, in four classes."""
    draw = np.random.default_rng(0)
    labels = np.arange(80) % 4
    pixels = draw.integers(0, 256, (80, 6, 7)).astype(np.uint8)
    np.savez(tmp_path / "images.npz", x_train=pixels[:60], y_train=labels[:60], x_test=pixels[60:], y_test=labels[60:])
    return tmp_path / "images.npz"


@pytest.mark.parametrize("name", [preset.name for preset in PRESETS if "kind" not in preset.settings])
def test_every_preset_takes_another_data_set(layerline: Layerline, images: Path, name: str) -> None:
    words = (*_SMALL, "--nodes", "1", "--out-dir", "run", "--format", "json", "--quiet")
    answer = layerline("train", name, "--dataset", images, *words)
    assert (answer.status, answer.err) == (0, "")
    values = json.loads(answer.out)
    assert values.keys() >= _PROMISED
    assert 0 <= values["test_accuracy"] <= 1
    assert values["test_accuracy"] == values["readouts"][values["readout"]]
    model = api.load("run")
    assert isinstance(model, Model)
    features = 6 * 7 + (4 if model.run.writes_labels and model.run.labels.position == "append" else 0)
    assert next(model.network.parameters()).shape == (20, features), "the input width follows"
    assert values["parameters"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "name", [p.name for p in PRESETS if "kind" in p.settings and "cifar" in p.name and "async" not in p.name]
)
def test_stream_presets_take_another_data_set(layerline: Layerline, images: Path, name: str) -> None:
    small = "--network conv --network.widths 8,8 --classifier linear --threads 1 --shift 1 --batch-size 8"
    small += "" if name == "backprop-cifar10" else " --head linear"
    words = ("--dataset", images, "--max-steps", "2", *small.split())
    answer = layerline("train", name, *words, "--out-dir", "run", "--format", "json", "--quiet")
    assert (answer.status, answer.err) == (0, "")
    values = json.loads(answer.out)
    assert values.keys() >= _PROMISED - {"chapters"} | {"reach", "microbatches"}
    assert values["test_accuracy"] == values["readouts"]["last"]
    assert values["max_steps"] == 2, "or it would read like a training of all its epochs"


@pytest.mark.parametrize("name", [p.name for p in PRESETS if "shakespeare" in p.name])
def test_language_presets_take_another_text(layerline: Layerline, tmp_path: Path, name: str) -> None:
    (tmp_path / "my.txt").write_text("to be or not to be, that is the question. " * 50, encoding="utf-8")
    words = ("--dataset", tmp_path / "my.txt", "--max-steps", "2", "--width", "16", "--context", "16", "--threads", "1")
    answer = layerline("train", name, *words, "--out-dir", "run", "--format", "json", "--quiet")
    assert (answer.status, answer.err) == (0, "")
    assert 0 < json.loads(answer.out)["validation_bits_per_character"] < 8
    assert "bits per character" in layerline("evaluate", "run").out
    asked = layerline("predict", "run", tmp_path / "my.txt")
    assert asked.status == 2
    assert "reads text" in asked.err


def test_bits_are_those_of_a_character_however_many_bytes_it_is(layerline: Layerline, tmp_path: Path) -> None:
    """With bytes they were those of a byte, under the name of the others."""
    (tmp_path / "my.txt").write_text("être ou ne pas être, voilà la question. " * 50, encoding="utf-8")
    words = f"--dataset {tmp_path}/my.txt --tokens bytes --width 16 --context 16 --threads 1 --eval-every 1".split()
    trained = layerline("train", "backprop-shakespeare", *words, "--epochs", "1", "--out-dir", "run")
    assert trained.status == 0
    bits = json.loads((tmp_path / "run/result.json").read_text())["validation_bits_per_character"]
    assert f"validation {bits:.3f} bits per character, accuracy" in trained.out + trained.err
    assert f"last: {bits:.4f} bits per character" in layerline("evaluate", "run").out


def test_a_flag_of_the_other_family_says_whose_it_is(layerline: Layerline) -> None:
    answer = layerline("train", "digits", "--reach", "2")
    assert answer.status == 2
    assert "--reach is for runs that train in a stream, such as backprop-cifar10" in answer.err
    answer = layerline("train", "dgl-cifar10", "--negatives", "random")
    assert answer.status == 2
    assert "--negatives is for runs that train in chapters or side by side, such as digits" in answer.err


@pytest.mark.parametrize(
    "words",
    ["--dataset digits dgl-cifar10 --reach 9", "--validation dgl-cifar10 --reach 9", "dgl-cifar10 --reach=9"],
)
def test_the_family_is_that_of_the_start_wherever_it_stands(layerline: Layerline, words: str) -> None:
    """`digits` is a preset and a data set: as a flag's value it made the flags those of another family."""
    answer = layerline("train", *words.split(), "--threads", "1", "--epochs", "0")
    assert answer.status == 2
    assert "--epochs should be greater" in answer.err


def test_flags_that_would_change_nothing_in_a_stream(layerline: Layerline) -> None:
    for words, said in (("interlocking-shakespeare --flip", "no pixels"), ("dgl-cifar10 --tokens bytes", "no text")):
        answer = layerline("train", *words.split())
        assert answer.status == 2
        assert said in answer.err


def test_a_preset_that_is_no_name(layerline: Layerline, tmp_path: Path) -> None:
    (tmp_path / "odd.toml").write_text('preset = ["x"]', encoding="utf-8")
    answer = layerline("train", tmp_path / "odd.toml")
    assert answer.status == 2
    assert "there is no preset" in answer.err


def test_the_validation_flag_leaves_the_test_set_unread(layerline: Layerline, images: Path) -> None:
    flags = ("--dataset", images, "--validation", "--eval-every", "1", *_SMALL, "--format", "json", "--quiet")
    values = json.loads(layerline("train", "ff-mnist", *flags).out)
    assert values["test_accuracy"] is None
    assert round(10 * values["validation_accuracy"]) == pytest.approx(10 * values["validation_accuracy"]), "of ten"
    assert [point.keys() for point in values["curve"]] == [{"epoch", "seconds", "validation"}]


def test_components_are_chosen_by_flag() -> None:
    flags = {"negatives": "adaptive", "readout": "softmax", "epochs": 20, "chapters": 20, "seed": 3}
    run = resolve("pff-mnist", flags=flags)
    assert isinstance(run, Run)
    assert (run.negatives, run.readout) == (Adaptive(), Softmax())
    assert (run.epochs, run.chapter_count, run.seed) == (20, 20, 3)
