"""Layers of one's own in a stream: cut as the run says, kept, loaded, gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import layerline
from layerline import StreamRun, UsageError
from layerline.cli.main import main
from layerline.errors import Stopped
from layerline.events import Event, Minibatch
from layerline.runtime.stop import Stop
from layerline.runtime.stream.model import StreamModel
from small_runs import small_data

DATA = small_data(count=37, classes=3, shape=(1, 8, 8))


def run_of(**settings: Any) -> StreamRun:
    """Of seconds' fractions."""
    base = {"head": {"kind": "linear"}, "optimizer": {"lr": 0.05}, "epochs": 2, "batch_size": 16, "threads": 1}
    return StreamRun.from_dict({"dataset": "small", "precision": "32-true", "device": "cpu"} | base | settings)


def network(classes: int = 3) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2)),
        *(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten()),
        nn.Linear(6 * 8 * 8, classes),
    )


@pytest.mark.parametrize(
    ("cut", "lengths"),
    [
        ({"kind": "layers"}, [3, 4, 5]),
        ({"kind": "at", "positions": [7]}, [7, 5]),
        ({"kind": "count", "blocks": 2}, [7, 5]),
    ],
)
def test_it_is_cut_as_the_run_says_and_trained_in_place(cut: dict[str, Any], lengths: list[int]) -> None:
    own = network()
    before = [p.clone() for p in own.parameters()]
    result = layerline.train(run_of(cut=cut), data=DATA, network=own)
    assert isinstance(result.model, StreamModel)
    assert [len(block) for block in result.model.blocks] == lengths  # type: ignore[arg-type]
    assert result.model.run.network.kind == "own"
    assert not any(torch.equal(p, old) for p, old in zip(own.parameters(), before, strict=True))


def test_a_list_is_blocks_already() -> None:
    layers = list(network())
    blocks = [nn.Sequential(*layers[:7]), nn.Sequential(*layers[7:])]
    listed = layerline.train(run_of(reach=2), data=DATA, network=blocks)
    cut = layerline.train(run_of(reach=2, cut={"kind": "at", "positions": [7]}), data=DATA, network=network())
    assert listed.values["weights_sha256"] == cut.values["weights_sha256"]


@pytest.mark.parametrize("more", [{"nodes": 3}, {"nodes": 2, "reach": 2}, {"timing": {"kind": "async"}}])
def test_over_nodes_and_freely_it_has_the_same_bits(more: dict[str, Any]) -> None:
    alone = run_of(reach=more.get("reach", 1))
    expected = layerline.train(alone, data=DATA, network=network()).values["weights_sha256"]
    assert layerline.train(run_of(**more), data=DATA, network=network()).values["weights_sha256"] == expected


def test_it_is_stopped_gone_on_with_and_loaded(tmp_path: Path) -> None:
    stop, count = Stop(), 0
    run = run_of(checkpoint_seconds=0)

    def interrupt(event: Event) -> None:
        nonlocal count
        count += isinstance(event, Minibatch)
        stop.exit_status = 130 if count == 2 else None

    with pytest.raises(Stopped):
        layerline.train(run, data=DATA, network=network(), out_dir=tmp_path / "run", listener=interrupt, stop=stop)
    with pytest.raises(UsageError, match="modules of your own, which no file describes"):
        layerline.resume(tmp_path / "run", data=DATA)
    last = layerline.resume(tmp_path / "run", data=DATA, network=network())
    whole = layerline.train(run, data=DATA, network=network())
    assert last.values["weights_sha256"] == whole.values["weights_sha256"]
    with pytest.raises(UsageError, match="modules of your own, which no file describes"):
        layerline.load(tmp_path / "run")
    model, examples = layerline.load(tmp_path / "run", network=network()), DATA.test
    assert examples is not None
    assert torch.equal(model.predict(examples.inputs), whole.model.predict(examples.inputs))
    card = (tmp_path / "run/model/README.md").read_text()
    assert "The network: modules of its author's own" in card
    assert "network=blocks" in card
    assert "network.kind" not in card


def test_measuring_where_to_cut_leaves_it_as_it_was() -> None:
    """The statistics of batch norm learned from the minibatches of zeros that times were measured with."""
    cut = {"cut": {"kind": "count", "blocks": 2, "balance": "time"}, "optimizer": {"lr": 1e-12, "momentum": 0.0}}
    run, own = run_of(max_steps=1, **cut), network()
    by_hand = layerline.train(run, data=DATA, network=own).model.run
    assert isinstance(by_hand, StreamRun)
    assert by_hand.cut.kind == "at"
    again = network()
    layerline.train(run.replace(cut=by_hand.cut), data=DATA, network=again)
    assert torch.equal(own[1].running_mean, again[1].running_mean)  # type: ignore[arg-type]


def test_a_layer_that_comes_twice_is_in_one_block() -> None:
    twice = nn.Linear(64, 64)
    own = nn.Sequential(nn.Flatten(), twice, nn.ReLU(), twice, nn.ReLU(), nn.Linear(64, 3))
    before = twice.weight.detach().clone()
    result = layerline.train(run_of(), data=DATA, network=own)
    assert isinstance(result.model, StreamModel)
    assert len(result.model.blocks) == 1
    assert not torch.equal(twice.weight, before)


def test_what_cannot_be_trained_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends with outputs of the shape \[5\], and there are 3 classes"):
        layerline.train(run_of(), data=DATA, network=network(classes=5))
    with pytest.raises(UsageError, match="a Linear is no network of blocks"):
        layerline.train(run_of(), data=DATA, network=nn.Linear(3, 3))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="block 1 of 3: the head 'unembedding' does not fit"):
        layerline.train(run_of(head={"kind": "unembedding"}), data=DATA, network=network())
    shared = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU())
    with pytest.raises(UsageError, match="blocks 1 and 2 share a parameter"):
        layerline.train(run_of(), data=DATA, network=[shared, nn.Sequential(*shared, nn.Linear(64, 3))])
    with pytest.raises(UsageError, match="block 1 has no parameters to train"):
        layerline.train(run_of(), data=DATA, network=[nn.Flatten(), nn.Linear(64, 3)])
    with pytest.raises(UsageError, match="other processes cannot be handed data or modules"):
        layerline.train(run_of(nodes=2), data=DATA, network=network(), processes=2, out_dir=tmp_path / "run")
    plain = {"network": {"kind": "conv", "widths": [4, 4], "classifier": "linear"}}
    layerline.train(run_of(**plain), data=DATA, out_dir=tmp_path / "described")
    with pytest.raises(UsageError, match="this run describes its network itself"):
        layerline.resume(tmp_path / "described", data=DATA, network=network())
    file = tmp_path / "run.toml"
    file.write_text(run_of(dataset="digits").with_own_network().to_toml())
    assert main(["train", str(file), "--out-dir", str(tmp_path / "file")]) == 2
    assert "modules of your own, which no file describes" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"layer 0 .* does not take what reaches it, shape \(1, 1, 8, 8\)"):
        layerline.train(run_of(), data=DATA, network=nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 3)))
