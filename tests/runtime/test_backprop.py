"""Backprop as an objective: the gradients of the unsplit network, and FedAvg where its copies are averaged."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import layerline as ll
from layerline import api
from layerline.data.shards import BaseShards
from layerline.errors import UsageError
from layerline.run import Run
from layerline.runtime.chapters import ChapterTrainer
from layerline.runtime.model import Model, build_model
from layerline.runtime.pipeline import Pipeline
from layerline.runtime.planning import plan_of
from layerline.runtime.saved import load_model, weights_sha256
from layerline.runtime.stop import Stop
from layerline.runtime.training_set import TrainingSet
from small_runs import BACKPROP, largest_error, small_data, small_run, train_through

DATA = small_data(count=61)
FEDAVG: dict[str, Any] = BACKPROP | {
    "order": "chapters",
    "epochs": 4,
    "chapters": 2,
    "nodes": 3,
    "schedule": {"kind": "federated", "average": True},
    "shards": {"kind": "dirichlet", "concentration": 1.0},
    "send_optimizer_state": False,
    "rate": {"kind": "constant"},
}


class Whole(nn.Module):
    """The network of `small_run`, written down as anybody would: RMS norm, Linear, ReLU, three times, then Linear."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        blocks = model.network.blocks[0].blocks
        assert isinstance(blocks, nn.ModuleList)
        self.layers = nn.ModuleList(copied(block) for block in blocks)
        self.head = copied(model.heads[0])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x * (x.square().mean(1, keepdim=True) + 1e-6).rsqrt()).relu()
        scores: Tensor = self.head(x)
        return scores


def copied(ours: nn.Module) -> nn.Linear:
    """A PyTorch layer with the weights of one of ours."""
    weight, bias = ours.parameters()
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


def plain(model: Model, raw: Tensor) -> Tensor:
    return model.encoder.standardise(raw)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_its_gradients_are_those_of_the_whole_network(precision: str) -> None:
    """With beta1 = 0 Adam's first moment after a step is the gradient itself."""
    run = small_run(**BACKPROP, precision=precision, optimizer={"lr": 0.01, "beta1": 0.0})
    model = build_model(run, DATA)
    draw = torch.Generator().manual_seed(1)
    weight, _ = model.heads[0].parameters()
    with torch.no_grad():  # a head of zeros would send no gradient back
        weight.copy_(torch.randn(weight.shape, generator=draw))
    whole = Whole(model).double()
    trainer = ChapterTrainer(model, DATA)
    indices, labels = torch.arange(17), DATA.train.labels[:17]
    (learner,) = trainer.learners
    learner.learn(trainer.first_input(indices, 0, None), labels, 0.01, 0)
    loss = functional.cross_entropy(whole(plain(model, DATA.train.inputs[:17]).double()), labels)
    expected = torch.autograd.grad(loss, list(whole.parameters()))
    assert len(learner.moments.first) == len(expected) == 8
    for ours, theirs in zip(learner.moments.first, expected, strict=True):
        assert largest_error(ours, theirs) < (1e-5 if precision == "32-true" else 0.1)


def test_averaged_it_is_fedavg(tmp_path: Path) -> None:
    """Beside a loop by hand, with autograd and PyTorch's Adam, whose moments stay with their participant."""
    run = small_run(**FEDAVG)
    start = build_model(run, DATA)
    shared = Whole(start)
    assert isinstance(run.shards, BaseShards)
    shards = [torch.from_numpy(part) for part in run.shards.split(DATA.train.labels.numpy(), 3, run.seed)]
    copies = [copy.deepcopy(shared) for _ in shards]
    adams = [torch.optim.Adam(own.parameters(), lr=run.optimizer.lr) for own in copies]
    for chapter in range(2):
        for part, own, adam in zip(shards, copies, adams, strict=True):
            own.load_state_dict(shared.state_dict())
            examples = type(DATA.train)(DATA.train.inputs[part], DATA.train.labels[part])
            mine = TrainingSet(examples, run.augment, run.seed, torch.device("cpu"))
            for epoch in (2 * chapter, 2 * chapter + 1):
                for indices in mine.order(epoch).split(run.batch_size):
                    adam.zero_grad()
                    x = plain(start, examples.inputs[indices])
                    functional.cross_entropy(own(x), examples.labels[indices]).backward()
                    adam.step()
        with torch.no_grad():
            for parameter, *versions in zip(shared.parameters(), *(own.parameters() for own in copies), strict=True):
                weighted = [len(part) * version for part, version in zip(shards, versions, strict=True)]
                parameter.copy_(torch.stack(weighted).sum(0) / 61)
    pipeline = Pipeline(run, plan_of(run, DATA), DATA, tmp_path)
    pipeline.work(lambda event: None, Stop(), pipeline.here())
    found = Whole(pipeline.model())
    for ours, theirs in zip(found.parameters(), shared.parameters(), strict=True):
        assert largest_error(ours.detach(), theirs.detach()) < 1e-3


def test_trained_side_by_side_or_in_chapters_it_is_the_same() -> None:
    """There is one block, so nothing else learns between its minibatches."""
    orders = [small_run(**BACKPROP, order=order) for order in ("simultaneous", "chapters")]
    assert len({train_through(run, DATA, []).sha256 for run in orders}) == 1


def test_modules_of_ones_own_are_joined_and_loaded_again(tmp_path: Path) -> None:
    def blocks() -> list[nn.Module]:
        torch.manual_seed(5)
        return [nn.Sequential(nn.Flatten(), nn.Linear(25, 8), nn.Tanh()), nn.Sequential(nn.Linear(8, 6), nn.ReLU())]

    own = blocks()
    before = own[0][1].weight.detach().clone()  # type: ignore[index]
    found = api.train(small_run(**BACKPROP), data=DATA, network=own, out_dir=tmp_path / "run")
    assert not torch.equal(before, own[0][1].weight)  # type: ignore[index]
    assert weights_sha256(load_model(tmp_path / "run", blocks())) == found.values["weights_sha256"]


def test_the_report_has_every_participant() -> None:
    values = api.train(small_run(**FEDAVG), data=DATA).values
    size = 4 * sum(p.numel() for p in Whole(build_model(small_run(**FEDAVG), DATA)).parameters())
    messages = 2  # a round's mean needs one copy from everybody, and the last round is not handed on
    assert values["bytes_sent"] == sum(values["bytes_up"]) == sum(values["bytes_down"])
    for up, down in zip(values["bytes_up"], values["bytes_down"], strict=True):
        assert messages * size < up == down < messages * (size + 2000)
    assert sum(values["participant_examples"]) == 61
    right = sum(n * a for n, a in zip(values["participant_examples"], values["participant_accuracies"], strict=True))
    assert right == pytest.approx(round(right))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"readout": {"kind": "goodness"}}, "--readout last-head"),
        ({"readout": {"kind": "softmax"}}, "would be a second one choose --readout last-head"),
        ({"readout": {"kind": "softmax", "skip": 0}}, "would be a second one"),
        ({"readout": {"kind": "all-heads", "skip": 1}}, "nothing is left to read"),
        ({"objective": {"kind": "backprop", "hardest": 0.5}}, "all blocks are one"),
    ],
)
def test_what_it_cannot_be_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        api.train(small_run(**(BACKPROP | settings)), data=DATA)
    assert said in f"{refused.value.what} {refused.value.hint}"


def test_it_is_a_public_name() -> None:
    assert Run(objective=ll.Backprop(), readout=ll.LastHead()).block_count == 1
