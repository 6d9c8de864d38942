"""Blocks in a row: Linear + ReLU with shared images, normalisers between, modules of one's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from layerline.blocks.head import LinearHead, accuracy_and_loss, cross_entropy_slope
from layerline.blocks.linear import LinearReLU
from layerline.blocks.network import Mlp, Network, apply, predicting
from layerline.blocks.normaliser import L2Norm, NoNorm, RmsNorm, row_norms
from layerline.data.labels import LabelledViews
from layerline.errors import UsageError


@given(
    images=st.integers(1, 6),
    views=st.integers(1, 4),
    classes=st.integers(2, 5),
    extra=st.integers(1, 8),
    first=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_shared_image_is_the_same_product(
    images: int, views: int, classes: int, extra: int, first: bool, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    features = classes + extra
    columns = slice(0, classes) if first else slice(extra, features)
    image = torch.randn(images, features, generator=draw)
    image[:, columns] = 0
    x = LabelledViews(image, torch.randn(views * images, classes, generator=draw), columns, (features,))
    torch.manual_seed(seed)
    block = LinearReLU(features, 7)
    rows = x.full()
    assert rows.shape == (views * images, features)
    for row in range(views * images):
        expected = image[row % images].clone()
        expected[columns] = x.label_RC[row]
        assert torch.equal(rows[row], expected)
    torch.testing.assert_close(block(x), block(rows), rtol=1e-5, atol=1e-5)
    assert torch.equal(apply(nn.Sequential(block), x), block(rows)), "a module that cannot share gets the rows"


def test_linear_relu() -> None:
    block = LinearReLU(4, 3)
    x = torch.randn(5, 4)
    torch.testing.assert_close(block(x), torch.relu(x @ block.weight.t() + block.bias))


def test_initial_weights() -> None:
    torch.manual_seed(0)
    uniform = LinearReLU(100, 400)
    assert uniform.weight.abs().max() <= 0.1
    assert uniform.weight.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)
    assert uniform.bias.abs().max() > 0.05
    normal = LinearReLU(100, 400, "fan-in")
    assert normal.weight.std().item() == pytest.approx(0.1, rel=0.02)
    assert normal.weight.abs().max() > 0.3
    assert not normal.bias.any()


def test_normalisers_by_hand() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-6.0, 8.0]])
    assert row_norms(rows).tolist() == [5.0, 0.0, 10.0]
    torch.testing.assert_close(RmsNorm(eps=0.5)(rows), rows / torch.tensor([[13.0], [0.5], [50.5]]).sqrt())
    torch.testing.assert_close(L2Norm(eps=0.1)(rows), rows / torch.tensor([[5.1], [0.1], [10.1]]))
    assert torch.equal(NoNorm()(rows), rows)
    planes = rows.view(3, 2, 1, 1)
    assert torch.equal(RmsNorm()(planes), RmsNorm()(rows).view(3, 2, 1, 1))
    assert torch.equal(L2Norm()(rows, row_norms(rows)), L2Norm()(rows))
    assert not RmsNorm()(rows)[1].any(), "an all-zero row stays zero"


def test_mlp_activities_by_hand() -> None:
    network = Mlp(widths=(6, 5, 4)).build((12,))
    assert network.units == (6, 5, 4)
    x = torch.randn(7, 12)
    h = x
    for (output, norms), block in zip(network.activities(x), network.blocks, strict=True):
        h = torch.relu(h @ block.weight.t() + block.bias)  # type: ignore[operator]
        torch.testing.assert_close(output, h)
        torch.testing.assert_close(norms, h.norm(dim=1))
        h = h / (h.square().mean(1, keepdim=True) + 1e-6).sqrt()


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_blocks_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="block 2 cannot take its input"):
        Network([nn.Linear(4, 3), nn.Linear(4, 3)], RmsNorm(), (4,))
    with pytest.raises(UsageError, match="block 1 cannot take its input"):
        Network([Pair()], RmsNorm(), (4,))


def test_measuring_leaves_no_trace() -> None:
    block = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
    before = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    network = Network([block], RmsNorm(), (1, 5, 5))
    assert network.units == (18,)
    assert block.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in block.state_dict().items())


def fail_while_predicting(module: nn.Module) -> None:
    with predicting(module):
        assert not any(part.training for part in module.modules())
        raise ZeroDivisionError


def test_predicting_restores_the_mode_after_an_error() -> None:
    module = nn.Sequential(nn.Dropout())
    with pytest.raises(ZeroDivisionError):
        fail_while_predicting(module)
    assert module.training
    assert module[0].training
    module.eval()
    with predicting(module):
        pass
    assert not module.training


def test_head_by_autograd() -> None:
    head = LinearHead(6, 4).double()
    assert not head.weight.any()
    assert not head.bias.any()
    nn.init.normal_(head.weight)
    x = torch.randn(9, 6, dtype=torch.float64)
    labels = torch.randint(0, 4, (9,))
    logits = (x @ head.weight.t() + head.bias).requires_grad_()
    loss = nn.functional.cross_entropy(logits, labels)
    (slope,) = torch.autograd.grad(loss, logits, retain_graph=True)
    torch.testing.assert_close(cross_entropy_slope(logits.detach(), labels), slope)
    expected = torch.autograd.grad(loss, [head.weight, head.bias])
    for actual, gradient in zip(head.gradients(x, slope), expected, strict=True):
        torch.testing.assert_close(actual.double(), gradient, rtol=1e-5, atol=1e-6)
    numbers = accuracy_and_loss([logits[:5].detach(), logits[5:].detach()], [labels[:5], labels[5:]])
    assert numbers["loss"] == pytest.approx(loss.item())
    assert numbers["accuracy"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())
