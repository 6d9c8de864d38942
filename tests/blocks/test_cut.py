"""Layers of the papers' networks in blocks: where they are cut, and that the blocks are the network, bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from blocks.test_architectures import CIFAR, FAMILIES, sample
from layerline.blocks.conv import Conv
from layerline.blocks.cut import BaseCut, CutAt, CutCount, CutLayers
from layerline.blocks.layer import BaseArchitecture
from layerline.blocks.resnet import ResNet
from layerline.blocks.transformer import Transformer
from layerline.errors import UsageError


def lengths(blocks: list[nn.Sequential]) -> list[int]:
    return [len(block) for block in blocks]


def run(layers: list[nn.Module] | list[nn.Sequential], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def test_layer_wise() -> None:
    assert lengths(CutLayers().split(Conv(widths=(4, 4, 4)).layers(CIFAR, 5))) == [1, 1, 2]
    assert lengths(CutLayers().split(ResNet(depth=20, width=0.1).layers(CIFAR, 5))) == [2, *[1] * 7, 2]
    assert lengths(CutLayers().split(Transformer(depth=3, width=8).layers((8,), 5))) == [2, 1, 2]
    assert lengths(CutLayers().split(Transformer(depth=1, width=8).layers((8,), 5))) == [3]
    assert lengths(CutLayers().split(Conv(widths=(4,)).layers(CIFAR, 5))) == [2]


def test_the_blocks_of_the_literature() -> None:
    with torch.device("meta"):
        layers = ResNet(depth=110).layers(CIFAR, 10)
        assert lengths(CutCount(blocks=55, balance="parameters").split(layers)) == [1] * 54 + [2]
        assert len(CutLayers().split(layers)) == 54


def test_balanced_by_parameters_or_by_work() -> None:
    """The first half of a ResNet has few parameters and as much work as the second."""
    layers = ResNet(depth=20).layers(CIFAR, 10)
    images = torch.randn(2, *CIFAR)
    assert CutCount(balance="parameters").cuts(layers) == (8,)
    assert CutCount(balance="macs").cuts(layers, images) == (5,)
    (cut,) = CutCount(balance="time").cuts(layers, images)
    assert 1 <= cut <= 9


@pytest.mark.parametrize(("network", "input_shape", "classes"), FAMILIES, ids=lambda v: getattr(v, "kind", None))
def test_blocks_are_the_network_bit_for_bit(
    network: BaseArchitecture, input_shape: tuple[int, ...], classes: int
) -> None:
    """Outputs, gradients and running statistics; a boundary cuts the graph and hands the gradient on by hand."""
    torch.manual_seed(0)
    whole = network.layers(input_shape, classes)
    torch.manual_seed(0)
    blocks = CutCount(balance="parameters").split(network.layers(input_shape, classes))
    assert len(blocks) == 2
    examples = sample(input_shape, classes, batch=4)

    expected = run(whole, examples)
    expected.square().sum().backward()
    middle = blocks[0](examples)
    boundary = middle.detach().requires_grad_()
    outputs = blocks[1](boundary)
    outputs.square().sum().backward()
    middle.backward(boundary.grad)

    assert torch.equal(outputs, expected)
    theirs = [tensor for layer in whole for tensor in (*layer.parameters(), *layer.buffers())]
    ours = [tensor for block in blocks for layer in block for tensor in (*layer.parameters(), *layer.buffers())]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    gradients = [(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True) if a.requires_grad]
    assert gradients
    assert all(a is not None and b is not None and torch.equal(a, b) for a, b in gradients)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.data())
def test_any_cut_keeps_every_layer_in_order(depth: int, data: st.DataObject) -> None:
    with torch.device("meta"):
        layers = Transformer(depth=depth, width=8, context=4).layers((4,), 5)
    tokens = torch.zeros(1, 4, dtype=torch.int64, device="meta")
    cut: BaseCut = data.draw(
        st.one_of(
            st.builds(CutCount, blocks=st.integers(1, depth + 1), balance=st.sampled_from(["parameters", "macs"])),
            st.builds(CutAt, positions=st.sets(st.integers(1, depth + 1)).map(lambda s: tuple(sorted(s)))),
            st.just(CutLayers()),
        )
    )
    blocks = cut.split(layers, tokens)
    assert [layer for block in blocks for layer in block] == layers
    assert all(any(p.requires_grad for p in block.parameters()) for block in blocks)
    if isinstance(cut, CutCount):
        assert len(blocks) == cut.blocks
    assert lengths(CutAt(positions=cut.cuts(layers, tokens)).split(layers)) == lengths(blocks)


@pytest.mark.parametrize(
    ("cut", "what"),
    [
        (CutCount(blocks=4), r"cannot cut the network into 4 blocks.*there are 3"),
        (CutCount(), "balancing blocks by macs needs a sample"),
        (CutAt(positions=(9,)), "before layer 9: the network has the layers 0 to 3"),
        (CutAt(positions=(2, 1)), "not in order"),
    ],
)
def test_cuts_that_cannot_be(cut: BaseCut, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        cut.split(Conv(widths=(4, 4, 4)).layers(CIFAR, 5))


def test_a_block_without_parameters() -> None:
    layers = [nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 3)]
    with pytest.raises(UsageError, match=r"block 2 \(layers 1-2: ReLU, MaxPool2d\) has no trainable parameters"):
        CutAt(positions=(1, 3)).split(layers)
