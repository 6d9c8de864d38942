"""Networks cut into blocks: where, with whose parameters, and what cannot be cut."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from layerline.blocks.split import split_at, split_each, split_into
from layerline.errors import UsageError


def mlp() -> nn.Sequential:
    """Flatten  Linear  ReLU  Linear  ReLU  Dropout  Linear: three units."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 4)
    )


def lengths(blocks: list[nn.Module]) -> list[int]:
    return [len(block) if isinstance(block, nn.Sequential) else 1 for block in blocks]


def test_cut_where_told() -> None:
    assert lengths(split_at(mlp(), [3, 6])) == [3, 3, 1]
    assert lengths(split_at(mlp(), [2, 4])) == [2, 2, 3]
    assert lengths(split_at(mlp(), [])) == [7]


def test_cut_into_units() -> None:
    assert lengths(split_each(mlp())) == [3, 3, 1]


def test_norms_and_activations_with_parameters_stay_with_the_layer_before() -> None:
    """A batch normalisation by itself was a block, and the convolution before it one without its activation."""
    network = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 4, 3), nn.LayerNorm([4, 4, 4]), nn.PReLU(), nn.Flatten()),
        *(nn.Linear(64, 8), nn.ReLU()),
    )
    assert lengths(split_each(network)) == [3, 4, 2]
    assert lengths(split_each(nn.Sequential(nn.BatchNorm1d(4), *network))) == [4, 4, 2]
    assert lengths(split_each(nn.Sequential(nn.Flatten(), nn.LayerNorm(4), nn.ReLU()))) == [3]


def test_cut_into_as_many_as_asked() -> None:
    network = nn.Sequential(*(layer for _ in range(10) for layer in (nn.Linear(4, 4), nn.ReLU())))
    assert lengths(split_into(network, 4)) == [6, 6, 4, 4]
    assert lengths(split_into(network, 10)) == [2] * 10
    assert lengths(split_into(network, 1)) == [20]


def test_the_heaviest_block_is_as_light_as_possible() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 400))
    assert lengths(split_into(network, 2)) == [4, 1]


def test_balanced_by_measured_time() -> None:
    """The wide convolutions have few parameters and take nearly all the time; the wide Linear is the reverse."""
    network = nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.Conv2d(16, 16, 5, padding=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 500),
        nn.Linear(500, 10),
    )
    assert lengths(split_into(network, 2, balance="parameters")) == [4, 2]
    assert lengths(split_into(network, 2, balance="time", sample=torch.randn(64, 1, 48, 48))) == [1, 5]


@pytest.mark.parametrize(
    "cut",
    [split_each, lambda n: split_at(n, [3, 6]), lambda n: split_into(n, 2)],
    ids=["each", "at", "into"],
)
def test_chained_blocks_are_the_network(cut: Callable[[nn.Sequential], list[nn.Module]]) -> None:
    network, images = mlp().eval(), torch.randn(5, 4, 4)
    blocks = cut(network)

    outputs: Tensor = images
    for block in blocks:
        outputs = block(outputs)

    assert torch.equal(outputs, network(images))
    ours = [parameter for block in blocks for parameter in block.parameters()]
    assert all(mine is theirs for mine, theirs in zip(ours, network.parameters(), strict=True))
    assert not any(block.training for block in blocks)
    outputs.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_frozen_layers_count_as_layers_without_parameters() -> None:
    network = mlp()
    network[3].requires_grad_(False)
    assert lengths(split_each(network)) == [6, 1]
    with pytest.raises(UsageError, match=r"block 2 .*Linear, ReLU, Dropout.* has no trainable parameters"):
        split_at(network, [3, 6])


def test_layers_that_share_a_parameter_stay_together() -> None:
    tied = nn.Linear(4, 4)
    network = nn.Sequential(nn.Linear(4, 4), tied, nn.ReLU(), nn.Linear(4, 4), tied, nn.Linear(4, 2))
    assert lengths(split_each(network)) == [1, 4, 1]
    with pytest.raises(UsageError, match="before layer 3 parts the layers 1 and 4, which share a parameter"):
        split_at(network, [1, 3])


@pytest.mark.parametrize(
    ("cuts", "what"),
    [
        ([0], "before layer 0: the network has the layers 0 to 6"),
        ([7], "before layer 7"),
        ([-1], "before layer -1"),
        ([3, 3], "before layer 3 is given twice"),
        ([6, 3], "not in order: 3 comes after 6"),
        ([1], r"block 1 \(layer 0: Flatten\) has no trainable parameters"),
        ([3, 4, 6], r"block 3 \(layers 4-5: ReLU, Dropout\) has no trainable parameters"),
    ],
)
def test_cuts_that_cannot_be(cuts: list[int], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        split_at(mlp(), cuts)


@pytest.mark.parametrize("cut", [split_each, lambda n: split_at(n, [1]), lambda n: split_into(n, 2)])
def test_networks_that_cannot_be_cut(cut: Callable[[nn.Module], list[nn.Module]]) -> None:
    class Residual(nn.Sequential):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs + self[0](inputs)

    with pytest.raises(UsageError, match="cannot cut a Linear into blocks: only an"):
        cut(nn.Linear(2, 2))
    with pytest.raises(UsageError, match="cannot cut a Residual into blocks"):
        cut(Residual(nn.Linear(2, 2), nn.Linear(2, 2)))
    with pytest.raises(UsageError, match="no layers"):
        cut(nn.Sequential())
    with pytest.raises(UsageError, match="no trainable parameters"):
        cut(nn.Sequential(nn.ReLU(), nn.Flatten()))


def test_more_blocks_than_layers_with_parameters() -> None:
    with pytest.raises(UsageError, match=r"into 4 blocks.* there are 3\n  Ask for at most 3 blocks"):
        split_into(mlp(), 4)
    with pytest.raises(UsageError, match="into 0 blocks"):
        split_into(mlp(), 0)


def test_time_needs_a_sample() -> None:
    with pytest.raises(UsageError, match="by time needs a sample"):
        split_into(mlp(), 2, balance="time")


def test_an_unknown_balance_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="did you mean 'parameters'"):
        split_into(mlp(), 2, balance="params")  # type: ignore[arg-type]
