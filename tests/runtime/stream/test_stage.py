"""What a stage learns from: for every reach the gradients of a network written out by hand, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from layerline.objectives.descent import Sgd
from layerline.runtime.stream.stage import Stage
from layerline.schedules.reach import Reach

BLOCKS, WIDTH, CLASSES = 4, 6, 3
X = torch.randn(10, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(10) % CLASSES


def network() -> tuple[list[nn.Module], list[nn.Module | None]]:
    """Blocks, the last of which ends in scores, and a head on each of the others."""
    torch.manual_seed(0)
    blocks: list[nn.Module] = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(BLOCKS - 1)]
    blocks.append(nn.Linear(WIDTH, CLASSES))
    heads: list[nn.Module | None] = [nn.Linear(WIDTH, CLASSES) for _ in range(BLOCKS - 1)] + [None]
    for module in (*blocks, *heads):
        if module is not None:
            module.double()
    return blocks, heads


def stages(reach: int, blocks: list[nn.Module], heads: list[nn.Module | None], sgd: Sgd | None = None) -> list[Stage]:
    pattern = Reach(BLOCKS, reach)
    return [
        Stage(index, block, head if pattern.has_loss(index) else None, pattern, sgd or Sgd(lr=0.1))
        for index, (block, head) in enumerate(zip(blocks, heads, strict=True))
    ]


def step(made: list[Stage], parts: int = 1) -> list[int]:
    """A minibatch through the stages, in parts; how many gradients crossed each boundary."""
    crossed = []
    for part, (x, labels) in enumerate(zip(X.chunk(parts), LABELS.chunk(parts), strict=True)):
        share = len(x) / len(X)
        for stage in made:
            x = stage.forward(part, x, 0)
        gradients: list[Tensor] = []
        for stage in reversed(made):
            gradients, _ = stage.backward(part, labels, gradients, share)
            crossed.append(len(gradients))
    return crossed


def by_hand(reach: int, blocks: list[nn.Module], heads: list[nn.Module | None]) -> list[Tensor]:
    """Each block's gradient from the loss reach − 1 blocks ahead, through one graph over the whole network; each
    head's from its own loss."""
    losses, x = [], X
    for block, head in zip(blocks, heads, strict=True):
        x = block(x)
        losses.append(functional.cross_entropy(head(x) if head is not None else x, LABELS))
    found: list[Tensor] = []
    pattern = Reach(BLOCKS, reach)
    for index, (block, head) in enumerate(zip(blocks, heads, strict=True)):
        teacher = losses[min(index + reach - 1, BLOCKS - 1)]
        found += torch.autograd.grad(teacher, list(block.parameters()), retain_graph=True)
        if head is not None and pattern.has_loss(index):
            found += torch.autograd.grad(losses[index], list(head.parameters()), retain_graph=True)
    return found


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("reach", [1, 2, 3, 4])
def test_gradients_are_those_of_the_loss_reach_ahead(reach: int, parts: int) -> None:
    blocks, heads = network()
    made = stages(reach, blocks, heads)
    crossed = step(made, parts)
    expected = by_hand(reach, blocks, heads)
    actual = [gradient for stage in made for gradient in stage._gradients]
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    assert max(crossed) == max(len(Reach(BLOCKS, reach).crossing(block)) for block in range(BLOCKS)) <= reach - 1
    assert not any(stage.pending for stage in made), "no graph is left over"


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, True), (0.9, False), (0.0, True)])
def test_all_the_way_is_backprop(momentum: float, nesterov: bool) -> None:
    """Ten steps of SGD: the same weights as PyTorch's own optimizer on the whole network. Without momentum the first
    one ended in an error of PyTorch's."""
    blocks, heads = network()
    sgd = Sgd(lr=0.1, momentum=momentum, nesterov=nesterov)
    made = stages(BLOCKS, blocks, heads, sgd)
    twin = nn.Sequential(*network()[0])
    ahead = nesterov and momentum > 0
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=momentum, nesterov=ahead, weight_decay=5e-4)
    for _ in range(10):
        step(made)
        for stage in made:
            stage.update(0.1)
        optimizer.zero_grad()
        functional.cross_entropy(twin(X), LABELS).backward()
        optimizer.step()
    for ours, theirs in zip(nn.Sequential(*blocks).parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_a_local_stage_never_asks_for_the_gradient_of_its_input() -> None:
    """Reach 1 costs two products a layer, not three: nothing may require a gradient of the input."""
    blocks, heads = network()
    made = stages(1, blocks, heads)
    x = X
    for stage in made:
        x = stage.forward(0, x, 0)
        assert not stage._passed[0].x.requires_grad
        assert not x.requires_grad


def test_modules_draw_the_same_for_the_same_seed() -> None:
    block = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.5)).double()
    stage = Stage(0, block, None, Reach(1, 1), Sgd())
    before = torch.random.get_rng_state()
    first, second, other = (stage.forward(part, X, seed) for part, seed in enumerate((3, 3, 4)))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before), "nobody else's draws are disturbed"


def test_heads_draw_the_same_for_the_same_seed() -> None:
    """Heads that copy decoders drop out, too: they drew from wherever PyTorch's generator stood."""
    block, head = nn.Linear(WIDTH, WIDTH).double(), nn.Sequential(nn.Dropout(0.5), nn.Linear(WIDTH, CLASSES)).double()
    stage = Stage(0, block, head, Reach(2, 1), Sgd())
    before, found = torch.random.get_rng_state(), []
    for part, seed in enumerate((3, 3, 4)):
        stage.forward(part, X, seed)
        found.append(stage.own_loss(part, LABELS)[0])
    first, second, other = found
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before), "nobody else's draws are disturbed"
