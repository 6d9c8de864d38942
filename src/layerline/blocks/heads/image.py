"""Heads for images: those of the DGL paper (MLP-SR, MLP, CNN), of interlocking backprop (conv), and the linear one.

For a block with c channels, `pool n` the mean over an n×n grid of patches:

    mlp-sr   pool ⌈side/4⌉ ► 3 × [1×1 conv, norm, ReLU] ► pool 2 ► 3 × [linear 4c, norm, ReLU] ► linear
    mlp      pool ⌈side/4⌉ ────────────────────────────► pool 2 ► 3 × [linear 4c, norm, ReLU] ► linear
    cnn                      2 × [3×3 conv, norm, ReLU] ► pool 2 ► norm ► linear
    conv          [3×3 conv, norm, ReLU] of 128, of 64 ► pool 1 ► linear
    linear                                               pool 1 ► linear

Where ⌈side/4⌉ would be 1, below the pooling to 2×2 that follows, 2 is used: the authors' code copies the one pixel
four times there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Literal

from pydantic import Field
from torch import nn

from layerline.blocks.heads.base import BaseHead
from layerline.blocks.layer import Channels, PoolLinear
from layerline.blocks.pool import GridMean


def _conv(inputs: int, outputs: int, kernel: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


def _linear(units: int) -> tuple[nn.Module, ...]:
    return nn.Linear(units, units), nn.BatchNorm1d(units), nn.ReLU(inplace=True)


def _quarter(side: int) -> int:
    return max(2, math.ceil(side / 4))


class _SpatialAverages(BaseHead):
    """What MLP and MLP-SR have in common."""

    hidden: int = Field(default=3, ge=0)
    """Hidden layers."""

    def build(self, block_output_shape: tuple[int, ...], classes: int, ahead: Sequence[nn.Module]) -> nn.Module:
        channels = self._image_channels(block_output_shape, 2)
        return nn.Sequential(
            GridMean(_quarter(block_output_shape[1]), _quarter(block_output_shape[2])),
            *self._convolutions(channels),
            GridMean(2, 2),
            nn.Flatten(),
            *chain.from_iterable(_linear(4 * channels) for _ in range(self.hidden)),
            nn.Linear(4 * channels, classes),
        )

    def _convolutions(self, channels: int) -> list[nn.Module]:
        return []


class MlpHead(_SpatialAverages):
    """The DGL paper's MLP (arXiv 1901.08164 §4): spatial averages, three hidden layers of four units a channel."""

    kind: Literal["mlp"] = "mlp"


class MlpSrHead(_SpatialAverages):
    """The DGL paper's MLP-SR, its default: the MLP with three 1×1 convolutions on a quarter of the side."""

    kind: Literal["mlp-sr"] = "mlp-sr"
    convolutions: int = Field(default=3, ge=0)
    """1×1 convolutions."""

    def _convolutions(self, channels: int) -> list[nn.Module]:
        return list(chain.from_iterable(_conv(channels, channels, 1) for _ in range(self.convolutions)))


class CnnHead(BaseHead):
    """The DGL paper's CNN: two convolutions at full resolution; much dearer than MLP-SR."""

    kind: Literal["cnn"] = "cnn"
    convolutions: int = Field(default=2, ge=0)
    """3×3 convolutions."""

    def build(self, block_output_shape: tuple[int, ...], classes: int, ahead: Sequence[nn.Module]) -> nn.Module:
        channels = self._image_channels(block_output_shape, 2)
        return nn.Sequential(
            *chain.from_iterable(_conv(channels, channels, 3) for _ in range(self.convolutions)),
            GridMean(2, 2),
            nn.BatchNorm2d(channels),
            nn.Flatten(),
            nn.Linear(4 * channels, classes),
        )


class ConvHead(BaseHead):
    """The head of interlocking backpropagation on ResNets (arXiv 2010.04116): conv, norm, conv, norm, pool, linear."""

    kind: Literal["conv"] = "conv"
    widths: Channels = (128, 64)
    """Channels of the 3×3 convolutions; the authors' example: 128, 64."""

    def build(self, block_output_shape: tuple[int, ...], classes: int, ahead: Sequence[nn.Module]) -> nn.Module:
        sizes = (self._image_channels(block_output_shape), *self.widths)
        convolutions = chain.from_iterable(_conv(i, o, 3) for i, o in pairwise(sizes))
        return nn.Sequential(*convolutions, PoolLinear(sizes[-1], classes))


class PooledHead(BaseHead):
    """Mean over the image and a linear layer; on vectors the linear layer alone."""

    kind: Literal["linear"] = "linear"

    def build(self, block_output_shape: tuple[int, ...], classes: int, ahead: Sequence[nn.Module]) -> nn.Module:
        if len(block_output_shape) == 1:
            return nn.Linear(block_output_shape[0], classes)
        return PoolLinear(self._image_channels(block_output_shape), classes)
