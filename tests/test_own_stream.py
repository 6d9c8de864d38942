"""Layers of one's own in a stream: cut as the run says, kept, loaded, gone on with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import layerline
from layerline import StreamRun, UsageError
from layerline.cli.main import main
from layerline.errors import CheckpointError, Stopped
from layerline.events import Event, Minibatch
from layerline.runtime.stop import Stop
from layerline.runtime.stream.model import StreamModel
from layerline.sets import load_set
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


class _Residual(nn.Module):
    """Before its activation, which works in place."""

    def __init__(self, width: int, *, inplace: bool) -> None:
        super().__init__()
        self.first, self.norm = nn.LeakyReLU(0.5, inplace=inplace), nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        found: torch.Tensor = x + self.conv(self.norm(x))
        return found


def blocks_in_place(*, inplace: bool) -> list[nn.Module]:
    torch.manual_seed(1)
    ends = [nn.LeakyReLU(0.5, inplace=inplace), nn.Flatten(), nn.Linear(4 * 8 * 8, 3)]
    return [nn.Conv2d(1, 4, 3, padding=1), _Residual(4, inplace=inplace), nn.Sequential(*ends)]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"nodes": 3},
        {"reach": 2},
        {"reach": "all"},
        {"timing": {"kind": "async", "slowdowns": [3, 1, 1], "buffer": 2}},
    ],
    ids=["local", "nodes", "reach-2", "reach-all", "async"],
)
def test_a_block_may_begin_in_place(settings: dict[str, Any]) -> None:
    """It overwrote what the head of the block before learned from, and what lay in replay buffers; with a longer reach
    PyTorch refused."""
    runs = [
        layerline.train(run_of(**settings), data=DATA, network=blocks_in_place(inplace=inplace))
        for inplace in (False, True)
    ]
    assert runs[0].values["weights_sha256"] == runs[1].values["weights_sha256"]
    model, inputs = runs[1].model, DATA.train.inputs[:4].clone()
    assert torch.equal(model.predict(inputs), runs[0].model.predict(inputs))


class _View(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(len(x), -1)


def test_views_and_convolutions_of_volumes_get_the_layout_they_want() -> None:
    """Images lie channels last for the others, which `view` after a convolution and 5-D weights know nothing of."""
    viewed = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3), _View(), nn.Linear(144, 3))
    for reach in (1, "all"):
        result = layerline.train(run_of(reach=reach), data=DATA, network=viewed)
    assert isinstance(result.model, StreamModel)
    assert result.model.layout == torch.contiguous_format
    volumes = [nn.Unflatten(1, (1, 1)), nn.Conv3d(1, 2, (1, 3, 3)), nn.Flatten(), nn.Linear(72, 3)]
    layerline.train(run_of(), data=DATA, network=nn.Sequential(*volumes))
    result = layerline.train(run_of(), data=DATA, network=network())
    assert isinstance(result.model, StreamModel)
    assert result.model.layout == torch.channels_last


class _Skip(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return found + 1


class _WithState(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 1}

    def set_extra_state(self, state: Any) -> None:
        pass


class _Shift(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.by = torch.ones(64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.by


@pytest.mark.parametrize(
    ("own", "settings", "why"),
    [
        (_Skip(nn.Flatten(), nn.Linear(64, 3)), {}, "its own `forward` may do more than run its layers"),
        (nn.Sequential(), {}, "has no layers"),
        (
            [nn.Sequential(nn.Flatten(), _WithState(64, 3))],
            {},
            "has a _WithState with state besides",
        ),
        ([nn.Linear(8, 8), nn.Linear(8, 3)], {"cut": {"kind": "count"}}, "a list of modules is blocks already"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(9, 3)),
            {},
            r"block 1: layer 2 \(Linear\) does not take(.|\n)*check the shapes",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3).double()), {}, r"float64(.|\n)*network.float\(\)"),
        (
            [nn.Sequential(nn.Flatten(2), nn.Conv1d(1, 4, 3)), nn.Sequential(nn.Flatten(), nn.Linear(4 * 62, 3))],
            {"head": {"kind": "unembedding"}},
            r"block 1 of 2: the head 'unembedding' scores every row of outputs \[4, 62\], and an example has one label",
        ),
        (nn.Sequential(nn.Flatten(), _Shift(), nn.Linear(64, 3)), {}, "keep constants in buffers"),
    ],
)
def test_what_no_stream_can_be_made_of(
    own: nn.Sequential | list[nn.Module], settings: dict[str, Any], why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        layerline.train(run_of(**settings), data=DATA, network=own)


def test_a_text_is_not_for_modules_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question. " * 40)
    run = StreamRun.from_dict(
        {"dataset": str(tmp_path / "text.txt"), "network": {"kind": "transformer", "context": 16}}
    )
    with pytest.raises(UsageError, match="learn from labelled examples, and this is a text"):
        layerline.train(run_of(), data=load_set(run), network=nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 20)))


def test_another_network_than_the_one_that_was_trained_is_named(tmp_path: Path) -> None:
    layerline.train(run_of(epochs=1), data=DATA, network=network(), out_dir=tmp_path / "run")
    other = nn.Sequential(*list(network())[:-1], nn.Linear(6 * 8 * 8, 3, bias=False))
    with pytest.raises(CheckpointError, match=r"does not fit the modules that were handed in: .*bias"):
        layerline.load(tmp_path / "run", network=other)


def test_who_was_stopped_is_told_to_hand_in_the_same_again(tmp_path: Path) -> None:
    """The hint was a command line, which has neither the data nor the modules."""
    stop = Stop()

    def interrupt(event: Event) -> None:
        stop.exit_status = 130

    with pytest.raises(Stopped, match=r'layerline.resume\(".*run", data=…, network=…\)'):
        layerline.train(run_of(), data=DATA, network=network(), out_dir=tmp_path / "run", listener=interrupt, stop=stop)
    stop, found = Stop(), replace(DATA, name="hf:somebody/small")  # which is read again by this name
    run = run_of(network={"kind": "conv", "widths": [4, 4], "classifier": "linear"})
    with pytest.raises(Stopped, match=r"go on with: layerline resume .*hub"):
        layerline.train(run, data=found, out_dir=tmp_path / "hub", listener=interrupt, stop=stop)


def test_a_set_of_ones_own_is_not_taken_for_the_published_one_of_its_name(tmp_path: Path) -> None:
    """Other processes, and who evaluated the run later, read the published set in its place."""
    mine = replace(DATA, name="digits")
    run = run_of(network={"kind": "conv", "widths": [4, 4], "classifier": "linear"}, nodes=2)
    with pytest.raises(UsageError, match="other processes cannot be handed data or modules"):
        layerline.train(run, data=mine, processes=2, out_dir=tmp_path / "processes")
    result = layerline.train(run, data=mine, out_dir=tmp_path / "run")
    assert result.values["dataset"] == "digits (handed in)"
    with pytest.raises(
        UsageError, match=r"no data set 'digits \(handed in\)'(.|\n)*from Python any set, handed in \(again\): data="
    ):
        layerline.evaluate(tmp_path / "run")
    assert layerline.evaluate(tmp_path / "run", data=mine)["test_accuracy"] == result.test_accuracy
    assert DATA.test is not None
    model = layerline.load(tmp_path / "run")
    assert torch.equal(model.predict(DATA.test.inputs.numpy()), model.predict(DATA.test.inputs))  # type: ignore[arg-type]
