"""Heads: on which blocks they fit, what they are made of, what they learn, and what they cost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import Tensor, nn

from blocks.test_architectures import CIFAR, FAMILIES, sample
from layerline.blocks.conv import Conv, ConvLayer, Dni
from layerline.blocks.cost import layer_costs
from layerline.blocks.cut import CutAt, CutLayers
from layerline.blocks.heads.ahead import AugLocalHead, ManHead, MomentumHead, evenly
from layerline.blocks.heads.base import BaseHead, flat
from layerline.blocks.heads.heads import Head, build_heads, head_shares
from layerline.blocks.heads.image import CnnHead, ConvHead, MlpHead, MlpSrHead, PooledHead
from layerline.blocks.heads.text import SharedUnembedding, SharedUnembeddingHead, UnembeddingHead
from layerline.blocks.layer import BaseArchitecture, PoolLinear, Unembedding
from layerline.blocks.pool import GridMean
from layerline.blocks.resnet import ResNet
from layerline.blocks.transformer import Transformer
from layerline.errors import UsageError

IMAGE_HEADS: list[BaseHead] = [MlpSrHead(), MlpHead(), CnnHead(), ConvHead(widths=(6, 4)), PooledHead()]
TEXT_HEADS: list[BaseHead] = [UnembeddingHead(), SharedUnembeddingHead()]
AHEAD_HEADS: list[BaseHead] = [AugLocalHead(), AugLocalHead(depth=0), AugLocalHead(depth=99), ManHead()]

PAIRS = [
    (head, network, shape, classes)
    for network, shape, classes in FAMILIES
    for head in [*(IMAGE_HEADS if len(shape) == 3 else TEXT_HEADS), *AHEAD_HEADS]
]


def parts(head: nn.Module) -> str:
    """The layers of a head in a line, to compare with the papers."""
    said = []
    for module in head.modules():
        match module:
            case nn.Conv2d(kernel_size=(kernel, _), in_channels=i, out_channels=o):
                said.append(f"conv{kernel} {i}-{o}")
            case nn.Linear(in_features=i, out_features=o):
                said.append(f"linear {i}-{o}")
            case nn.BatchNorm2d() | nn.BatchNorm1d():
                said.append(f"norm {module.num_features}")
            case nn.ReLU():
                said.append("relu")
            case GridMean(rows=rows, columns=columns):
                said.append(f"pool {rows}×{columns}")
    return ", ".join(said)


@pytest.mark.parametrize(("head", "network", "shape", "classes"), PAIRS, ids=lambda v: getattr(v, "kind", None))
def test_every_head_on_every_family_learns_its_block(
    head: BaseHead, network: BaseArchitecture, shape: tuple[int, ...], classes: int
) -> None:
    """Scores of the classes; the local loss gives every parameter of head and block a gradient, and none ahead."""
    torch.manual_seed(0)
    dtype = torch.int64 if len(shape) == 1 else torch.float32
    blocks = CutLayers().split(network.layers(shape, classes))
    heads = list(build_heads(head, blocks, shape, classes, dtype).values())
    assert len(heads) == len(blocks) - 1
    h = sample(shape, classes, batch=4)
    for block, one in zip(blocks, heads, strict=False):
        h = block(h.detach())
        scores = one(h)
        assert scores.shape == ((4, *shape, classes) if len(shape) == 1 else (4, classes))
        nn.functional.cross_entropy(scores.flatten(0, -2), torch.randint(classes, (scores[..., 0].numel(),))).backward()
        for module in (block, one):
            assert all((p.grad is not None) == p.requires_grad for p in module.parameters())
        assert all(p.grad is None for later in blocks[blocks.index(block) + 1 :] for p in later.parameters())


def test_mlp_sr_and_mlp_as_in_the_paper() -> None:
    convolutions = 3 * "conv1 64-64, norm 64, relu, "
    hidden = 3 * "linear 256-256, norm 256, relu, " + "linear 256-10"
    assert parts(MlpSrHead().build((64, 32, 32), 10, [])) == f"pool 8×8, {convolutions}pool 2×2, {hidden}"
    assert parts(MlpHead().build((64, 32, 32), 10, [])) == f"pool 8×8, pool 2×2, {hidden}"
    assert parts(MlpHead(hidden=0).build((64, 5, 3), 10, [])) == "pool 2×2, pool 2×2, linear 256-10"


def test_cnn_and_conv_as_in_the_papers() -> None:
    assert parts(CnnHead().build((16, 8, 8), 10, [])) == (
        "conv3 16-16, norm 16, relu, conv3 16-16, norm 16, relu, pool 2×2, norm 16, linear 64-10"
    )
    assert parts(ConvHead().build((16, 8, 8), 10, [])) == (
        "conv3 16-128, norm 128, relu, conv3 128-64, norm 64, relu, linear 64-10"
    )


def test_mlp_sr_stays_within_the_papers_budget() -> None:
    """At most 5 % of the primary network for each head (§4). Beside its own layer a head costs more: up to 56 %."""
    blocks = CutLayers().split(Conv().layers(CIFAR, 10))
    heads = list(build_heads(MlpSrHead(), blocks, CIFAR, 10).values())
    costs = layer_costs(blocks, CIFAR)
    whole = sum(cost.macs for cost in costs)
    shares = head_shares(heads, blocks, CIFAR)
    assert [round(share, 3) for share in shares] == [0.557, 0.084, 0.042, 0.209]
    assert all(share * cost.macs < 0.05 * whole for share, cost in zip(shares, costs, strict=False))
    with_two = CutAt(positions=(3,)).split(Conv().layers(CIFAR, 10))
    assert head_shares(list(build_heads(MlpSrHead(), with_two, CIFAR, 10).values()), with_two, CIFAR)[0] < 0.05


def test_a_linear_head_on_vectors() -> None:
    assert PooledHead().build((12,), 5, [])(torch.randn(3, 12)).shape == (3, 5)


@pytest.mark.parametrize(
    ("head", "shape", "what"),
    [
        (MlpSrHead(), (10, 16), r"'mlp-sr' does not fit outputs of the shape \[10, 16\]: it wants images"),
        (CnnHead(), (8, 1, 1), r"'cnn' does not fit outputs of the shape \[8, 1, 1\]: it wants images of at least 2×2"),
        (ConvHead(), (8,), r"'conv' does not fit outputs of the shape \[8\].*\n  choose the head 'linear'"),
        (PooledHead(), (10, 16), r"'linear' does not fit .*\n  choose the head 'unembedding'"),
        (UnembeddingHead(), (8, 4, 4), r"'unembedding' does not fit .*it wants tokens"),
        (SharedUnembeddingHead(), (8, 4, 4), r"'shared-unembedding' does not fit"),
        (SharedUnembeddingHead(), (4, 8), "needs a network that ends in an unembedding of width 8.*ends in nothing"),
        (AugLocalHead(), (8, 4, 4), "cannot copy a network without a classifier"),
        (ManHead(), (8, 4, 4), "only the classifier is left"),
    ],
)
def test_a_head_that_does_not_fit(head: BaseHead, shape: tuple[int, ...], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        head.build(shape, 5, [])


def test_the_block_is_named() -> None:
    blocks = CutAt(positions=(1, 2, 3)).split([*Dni(width=4).layers((3, 27, 27), 5)])
    with pytest.raises(UsageError, match=r"block 3 of 4: the head 'mlp-sr' does not fit .* \[4, 1, 1\]"):
        build_heads(MlpSrHead(), blocks, (3, 27, 27), 5)


def test_nothing_follows_a_layer_without_weights() -> None:
    """It was built, followed nothing, and stayed as it was drawn."""
    with pytest.raises(UsageError, match=r"'man' follows the next layer, and that \(ReLU\) has no weights"):
        ManHead().build((8, 4, 4), 5, [nn.ReLU(), nn.Conv2d(8, 8, 3), PoolLinear(8, 5)])


def test_modules_of_ones_own_cannot_be_copied() -> None:
    with pytest.raises(UsageError, match="'auglocal' copies the layers ahead, and cannot copy Conv2d"):
        AugLocalHead().build((8, 4, 4), 5, [nn.Conv2d(8, 8, 3), PoolLinear(8, 5)])
    with pytest.raises(UsageError, match=r"the next layer's width, 4"):
        AugLocalHead().build((8, 4, 4), 5, [ConvLayer(4, 8), PoolLinear(8, 5)])


@given(st.integers(0, 200), st.integers(0, 200))
def test_evenly_spread_and_ending_with_the_last(count: int, wanted: int) -> None:
    chosen = evenly(count, wanted)
    assert len(chosen) == min(count, wanted)
    assert chosen == sorted(set(chosen))
    if chosen:
        assert chosen[-1] == count - 1
        gaps = [b - a for a, b in zip([-1, *chosen], chosen, strict=False)]
        assert max(gaps) - min(gaps) <= 1


def test_auglocal_copies_stand_at_their_originals_width_and_resolution() -> None:
    layers = ResNet(depth=20).layers((3, 32, 32), 10)
    head = AugLocalHead(depth=3).build((16, 32, 32), 10, layers[1:])
    assert isinstance(head, nn.Sequential)
    shapes = [cost.output_shape for cost in layer_costs(head, (16, 32, 32))]
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8), (10,)]
    one = AugLocalHead(depth=1).build((16, 32, 32), 10, layers[1:])
    assert isinstance(one, nn.Sequential)
    assert [cost.output_shape for cost in layer_costs(one, (16, 32, 32))] == [(64, 8, 8), (10,)]
    originals = {p.data_ptr() for layer in layers for p in layer.parameters()}
    assert not originals & {p.data_ptr() for p in head.parameters()}


def test_man_follows_the_next_layer_and_is_not_trained() -> None:
    torch.manual_seed(0)
    blocks = CutLayers().split(Conv(widths=(4, 8, 8)).layers((3, 8, 8), 5))
    head, _ = build_heads(ManHead(), blocks, (3, 8, 8), 5).values()
    assert isinstance(head, MomentumHead)
    (follower, leader) = (dict(m.named_parameters()) for m in (head.layer, flat(blocks[1:])[0]))
    assert all(torch.equal(follower[name], p) for name, p in leader.items())
    assert {name for name, p in head.named_parameters() if p.requires_grad} == {
        *("bias", "classifier.linear.weight", "classifier.linear.bias")
    }

    before = {name: p.clone() for name, p in follower.items()}
    with torch.no_grad():
        for p in leader.values():
            p.add_(1)
    head.follow(list(leader.values()))
    for name, p in follower.items():
        torch.testing.assert_close(p, before[name] + 0.005)
    for _ in range(3000):
        head.follow(list(leader.values()))
    assert all(torch.allclose(follower[name], p, atol=1e-4) for name, p in leader.items())


def shared_head() -> tuple[SharedUnembedding, Unembedding]:
    torch.manual_seed(0)
    blocks = CutLayers().split(Transformer(depth=2, width=8, context=4).layers((4,), 5))
    (head,) = build_heads(SharedUnembeddingHead(), blocks, (4,), 5, torch.int64).values()
    last = flat(blocks)[-1]
    assert isinstance(head, SharedUnembedding)
    assert isinstance(last, Unembedding)
    return head, last


def test_the_shared_unembedding_is_read_only_and_always_of_now() -> None:
    head, last = shared_head()
    assert {name for name, _ in head.named_parameters()} == {"norm.weight", "norm.bias"} == set(head.state_dict())
    x = torch.randn(2, 4, 8, requires_grad=True)
    head(x).sum().backward()
    assert last.linear.weight.grad is None
    assert x.grad is not None
    with torch.no_grad():
        last.linear.weight.mul_(2)
    assert torch.equal(head(x), nn.functional.linear(head.norm(x), last.linear.weight))


def test_a_shared_unembedding_that_moved_is_brought_up_to_date() -> None:
    head, last = shared_head()
    head.double()
    with torch.no_grad():
        last.linear.weight.mul_(2)

    def same() -> bool:
        return torch.equal(head.shared, last.linear.weight.double())

    assert not same()
    head.follow([last.linear.weight])
    assert same()
    assert head.shared.dtype == torch.float64


def test_told_apart_by_kind() -> None:
    adapter: TypeAdapter[Head] = TypeAdapter(Head)
    for head in [*IMAGE_HEADS, *TEXT_HEADS, *AHEAD_HEADS]:
        assert adapter.validate_python(head.model_dump()) == head


def test_future_tokens_do_not_change_past_scores_of_a_head() -> None:
    torch.manual_seed(0)
    blocks = CutLayers().split(Transformer(depth=2, width=8, context=6).layers((6,), 5))
    for settings in [*TEXT_HEADS, AugLocalHead(), ManHead()]:
        (head,) = build_heads(settings, blocks, (6,), 5, torch.int64).values()
        with torch.no_grad():
            for module in (blocks[0], head):
                module.eval()
            tokens = torch.randint(5, (1, 6))
            others = tokens.clone()
            others[:, 3] = (others[:, 3] + 1) % 5
            scores, after = head(blocks[0](tokens)), head(blocks[0](others))
        assert torch.equal(scores[:, :3], after[:, :3])
        assert not torch.equal(scores[:, 3], after[:, 3])


def test_heads_leave_what_they_are_given_untouched() -> None:
    """The block's output goes on to the next block after the head has seen it."""
    for head in IMAGE_HEADS:
        given: Tensor = torch.randn(3, 4, 8, 8)
        before = given.clone()
        head.build((4, 8, 8), 5, [])(given)
        assert torch.equal(given, before)
