"""Means over patches of an image, with a gradient that lies in memory as the image does.

Problem: PyTorch's gradient of a mean over a whole channels-last image lies channels first. The ReLU below it then walks
two layouts at once, thirty times as slowly, and the convolution below that has to rearrange it. Its gradient of
`adaptive_avg_pool2d` lies well, but is added up in zeros. Solution, on CPUs, where the grid divides the image evenly:

    forward    [B, C, rows·h, columns·w] ► avg_pool2d ► [B, C, rows, columns]       the same numbers
    backward   every gradient / (h·w), written h·w times into an empty tensor laid out like the image
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class GridMean(nn.Module):
    """Mean over each cell of a grid. [B, C, H, W] -> [B, C, rows, columns]"""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return grid_mean(x_BCHW, self.rows, self.columns)

    def extra_repr(self) -> str:
        return f"{self.rows}, {self.columns}"


def grid_mean(x_BCHW: Tensor, rows: int, columns: int) -> Tensor:
    """As `adaptive_avg_pool2d`. [B, C, H, W] -> [B, C, rows, columns]"""
    height, width = x_BCHW.shape[2:]
    if x_BCHW.device.type != "cpu" or height % rows or width % columns:
        return functional.adaptive_avg_pool2d(x_BCHW, (rows, columns))
    pooled: Tensor = _EvenMean.apply(x_BCHW, height // rows, width // columns)  # type: ignore[no-untyped-call]
    return pooled


class _EvenMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, h: int, w: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.cell = h, w  # type: ignore[attr-defined]
        return functional.avg_pool2d(x, (h, w))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        h, w = ctx.cell  # type: ignore[attr-defined]
        found = torch.empty_like(x)
        found.unflatten(3, (-1, w)).unflatten(2, (-1, h)).copy_((gradient / (h * w))[:, :, :, None, :, None])
        return found, None, None
