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
    answer = layerline("train", name, "--dataset", images, *_SMALL, "--out-dir", "run", "--format", "json", "--quiet")
    assert (answer.status, answer.err) == (0, "")
    values = json.loads(answer.out)
    assert values.keys() >= _PROMISED
    assert 0 <= values["test_accuracy"] <= 1
    assert values["test_accuracy"] == values["readouts"][values["readout"]]
    model = api.load("run")
    assert isinstance(model, Model)
    features = 6 * 7 + (4 if model.run.writes_labels and model.run.labels.position == "append" else 0)
    assert model.network.blocks[0].get_parameter("weight").shape == (20, features), "the input width follows"
    assert values["parameters"] == sum(p.numel() for p in model.parameters())


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
