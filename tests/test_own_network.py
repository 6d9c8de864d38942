"""Networks and tensors of one's own, as a user hands them in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import layerline
from layerline import Adam, AllHeads, Dataset, LabelInput, LocalCrossEntropy, Run, UsageError, from_arrays
from layerline.events import EpochDone, Event, Minibatch
from layerline.runtime.stop import Stop

LOCAL: dict[str, Any] = {"objective": LocalCrossEntropy(), "readout": AllHeads()}
FORWARD: dict[str, Any] = {"labels": LabelInput(strength=5.0)}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return layerline.load_dataset("digits")


def part(digits: Dataset, convert: Callable[[Tensor], Tensor] = lambda x: x, count: int = 400) -> Dataset:
    assert digits.test is not None
    train, test = digits.train[:count], digits.test
    return from_arrays(convert(train.inputs), train.labels, convert(test.inputs), test.labels, name="mine")


def run(epochs: int = 5, **settings: Any) -> Run:
    return Run(epochs=epochs, batch_size=32, optimizer=Adam(lr=0.01), threads=1, precision="32-true", **settings)


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 50),
        nn.ReLU(),
    )


def linears() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 60), nn.ReLU(), nn.Linear(60, 60), nn.ReLU())


def as_vectors(images: Tensor) -> Tensor:
    return images.flatten(1).float() / 255


def as_float_images(images: Tensor) -> Tensor:
    return images.float() / 255


@pytest.mark.parametrize("rule", [LOCAL, FORWARD], ids=["local-cross-entropy", "forward-forward"])
@pytest.mark.parametrize("convert", [lambda x: x, as_float_images], ids=["uint8", "float"])
def test_convolutions_on_images(rule: dict[str, Any], convert: Callable[[Tensor], Tensor], digits: Dataset) -> None:
    result = layerline.train(run(**rule), data=part(digits, convert), network=convolutions())
    assert (result.test_accuracy or 0) > (0.8 if rule is LOCAL else 0.6)


@pytest.mark.parametrize("rule", [LOCAL, FORWARD], ids=["local-cross-entropy", "forward-forward"])
@pytest.mark.parametrize("convert", [lambda x: x, as_vectors], ids=["images", "vectors"])
@pytest.mark.parametrize("first", [nn.Identity, nn.Flatten, lambda: nn.BatchNorm1d(64)], ids=["plain", "flat", "norm"])
def test_linear_layers_take_vectors_and_images(
    rule: dict[str, Any], convert: Callable[[Tensor], Tensor], first: Callable[[], nn.Module], digits: Dataset
) -> None:
    result = layerline.train(run(**rule), data=part(digits, convert), network=nn.Sequential(first(), *linears()))
    assert (result.test_accuracy or 0) > 0.75


def test_a_label_can_be_appended_before_a_flatten(digits: Dataset) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(74, 60), nn.ReLU(), nn.Linear(60, 60), nn.ReLU())
    labels = LabelInput(strength=5.0, position="append")
    assert (layerline.train(run(labels=labels), data=part(digits), network=network).test_accuracy or 0) > 0.6


def test_a_linear_layer_may_run_along_the_last_axis(digits: Dataset) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Flatten(), nn.Linear(128, 60), nn.ReLU())
    rows = part(digits, lambda images: images[:, 0].float() / 255)
    assert (layerline.train(run(**LOCAL), data=rows, network=network).test_accuracy or 0) > 0.75


@pytest.mark.parametrize("order", ["simultaneous", "chapters"])
def test_saved_loaded_stopped_and_resumed(order: str, digits: Dataset, tmp_path: Path) -> None:
    data, settings = part(digits, count=150), run(epochs=2, order=order, **LOCAL)
    straight = layerline.train(settings, data=data, network=convolutions(), out_dir=tmp_path / "straight")
    assert data.test is not None
    loaded = layerline.load(tmp_path / "straight", network=convolutions())
    assert torch.equal(loaded.scores(data.test.inputs), straight.model.scores(data.test.inputs))

    stop, heard = Stop(), 0

    def after_four(event: Event) -> None:
        nonlocal heard
        heard += isinstance(event, Minibatch | EpochDone)
        if heard == 4:
            stop.exit_status = 75

    with pytest.raises(layerline.Stopped):
        layerline.train(
            settings, data=data, network=convolutions(), out_dir=tmp_path / "cut", listener=after_four, stop=stop
        )
    resumed = layerline.resume(tmp_path / "cut", data=data, network=convolutions())
    assert resumed.values["weights_sha256"] == straight.values["weights_sha256"]
    with pytest.raises(UsageError, match="no data set 'mine'"):
        layerline.resume(tmp_path / "cut", network=convolutions())
    with pytest.raises(UsageError, match="modules of your own"):
        layerline.load(tmp_path / "straight")


def test_a_folder_with_the_name_of_a_set_is_not_that_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on `digits` begun beside a folder `digits` could be neither resumed nor evaluated: it named the folder."""
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    network = layerline.Mlp(widths=(10, 10))
    layerline.train(run(1, dataset="digits", network=network, **FORWARD), out_dir="run")
    assert layerline.load("run").run.dataset == "digits"
    assert layerline.evaluate("run")["dataset"] == "digits"


def test_training_leaves_the_callers_random_numbers_alone(digits: Dataset) -> None:
    network = convolutions()
    before = torch.get_rng_state()
    layerline.train(run(epochs=1, **LOCAL), data=part(digits, count=100), network=network)
    assert torch.equal(before, torch.get_rng_state())


def test_a_last_minibatch_too_small_for_batch_normalisation(digits: Dataset) -> None:
    network = nn.Sequential(nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU())
    with pytest.raises(UsageError, match="last minibatch, which has one example"):
        layerline.train(run(**LOCAL), data=part(digits, count=129), network=network)


@pytest.mark.parametrize("network", [nn.Linear(64, 10), "mlp", [], [nn.Linear(64, 10), torch.relu]])
def test_what_is_no_network(network: Any, digits: Dataset) -> None:
    with pytest.raises(UsageError, match="no network of blocks"):
        layerline.train(run(**LOCAL), data=digits, network=network)


def test_a_network_for_other_sizes_is_told_what_it_is_fed(digits: Dataset) -> None:
    with pytest.raises(UsageError, match=r"(?s)block 1 cannot take its input.*examples of shape \[1, 8, 8\]"):
        layerline.train(run(**LOCAL), data=digits, network=nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))
