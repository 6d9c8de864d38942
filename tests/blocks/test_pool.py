"""What makes images smaller: PyTorch's numbers, and a gradient that lies as the image does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from layerline.blocks.pool import GridMean, grid_mean
from layerline.blocks.resnet import PaddedShortcut

LAYOUTS = pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["last", "first"])


def images(*shape: int, layout: torch.memory_format) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(shape, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()


@LAYOUTS
@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (3, 2), (6, 8), (4, 3), (12, 16)])
def test_values_and_gradients_are_pytorchs(grid: tuple[int, int], layout: torch.memory_format) -> None:
    """Also where the grid does not divide the image (4, 3), and where it is larger (12, 16)."""
    x = images(3, 5, 6, 8, layout=layout)
    expected = functional.adaptive_avg_pool2d(x, grid)
    found = GridMean(*grid)(x)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    gradient = torch.randn_like(expected)
    own, theirs = (torch.autograd.grad(y, x, gradient)[0] for y in (found, expected))
    assert torch.allclose(own, theirs, rtol=0, atol=1e-12)


@LAYOUTS
@pytest.mark.parametrize("grid", [(1, 1), (2, 4)])
def test_the_gradient_lies_as_the_image_does(grid: tuple[int, int], layout: torch.memory_format) -> None:
    """PyTorch's own, of a mean over the whole image, is channels first whatever the image is."""
    x = images(3, 5, 6, 8, layout=layout)
    y = grid_mean(x, *grid)
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert gradient.stride() == x.stride()


@LAYOUTS
def test_a_shortcut_without_parameters_takes_every_second_pixel(layout: torch.memory_format) -> None:
    """Its gradient lies as the image does; that of a slice is channels first whatever the image is."""
    x = images(3, 5, 6, 8, layout=layout)
    y = PaddedShortcut(5, 7, stride=2)(x)
    assert torch.equal(y[:, :5], x[:, :, ::2, ::2])
    assert not y[:, 5:].any()
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert gradient.sum() == gradient[:, :, ::2, ::2].sum() == y[:, :5].numel()
    assert gradient.stride() == x.stride()
