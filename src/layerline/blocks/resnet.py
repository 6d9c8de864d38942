"""Residual networks (He et al., arXiv 1512.03385): the CIFAR forms and the ImageNet forms by the same code.

    form       depths              stages of channels     blocks     shortcut where the shape changes
    CIFAR      20 32 44 56 110     16 32 64               basic      every second pixel, zeros for new channels (A)
    ImageNet   18 34               64 128 256 512         basic      1×1 convolution and norm (B)
    ImageNet   50 101 152          64 128 256 512 (×4)    bottleneck 1×1 convolution and norm (B)

Every stage but the first halves the resolution, in the 3×3 convolution of its first block. The ImageNet forms start
with a 7×7 convolution and pooling; on images of up to 64 pixels, where that would leave next to nothing, with a 3×3
convolution (so did the authors of interlocking backprop on CIFAR-10: their "ResNet-32" is depth 34 here).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from layerline.blocks.layer import (
    BaseArchitecture,
    Layer,
    PoolLinear,
    Stem,
    draw_for_relu,
    image_channels,
    scaled,
)

_SMALL_SIDE = 64
_EXPANSION = 4  # a bottleneck's outputs over its inner channels

_IMAGENET_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks in each stage (table 1)."""


class ImageStem(Stem):
    """How images enter: a 3×3 convolution, or `big`: 7×7 and pooling, which divide the resolution by 4."""

    def __init__(self, inputs: int, outputs: int, *, big: bool) -> None:
        super().__init__()
        kernel, stride = (7, 2) if big else (3, 1)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.activation = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, padding=1) if big else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.activation(self.norm(self.conv(x))))


class PaddedShortcut(nn.Module):
    """Option A of the paper: every stride-th pixel, zeros for the channels there were not; no parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self._extra, self._stride = outputs - inputs, stride

    def forward(self, x: Tensor) -> Tensor:
        chosen = functional.avg_pool2d(x, 1, self._stride)  # as x[:, :, ::stride, ::stride], whose gradient would be
        return functional.pad(chosen, (0, 0, 0, 0, 0, self._extra))  # channels first, however x lies


class Residual(Layer):
    """relu(shortcut(x) + f(x)). [B, inputs, H, W] -> [B, outputs, H/stride, W/stride]

    f is two 3×3 convolutions ("basic") or 1×1, 3×3, 1×1 with a quarter of the channels inside ("bottleneck"), each
    with a norm. `padded`: shortcuts of option A, where they can widen; else of option B.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, bottleneck: bool = False, padded: bool) -> None:
        super().__init__(inputs, outputs, stride)
        self._bottleneck, self._padded = bottleneck, padded
        if bottleneck:
            inner = max(1, outputs // _EXPANSION)
            steps = [(inputs, inner, 1, 1), (inner, inner, 3, stride), (inner, outputs, 1, 1)]
        else:
            steps = [(inputs, outputs, 3, stride), (outputs, outputs, 3, 1)]
        stack: list[nn.Module] = []
        for step in steps:
            stack += [*_conv_norm(*step), nn.ReLU(inplace=True)]
        self.branch = nn.Sequential(*stack[:-1])
        if inputs == outputs and stride == 1:
            self.shortcut: nn.Module = nn.Identity()
        elif padded and outputs >= inputs:
            self.shortcut = PaddedShortcut(inputs, outputs, stride)
        else:
            self.shortcut = nn.Sequential(*_conv_norm(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return (self.branch(x) + self.shortcut(x)).relu_()

    def anew(self, inputs: int, stride: int) -> Residual:
        return Residual(inputs, self.outputs, stride, bottleneck=self._bottleneck, padded=self._padded)


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return conv, nn.BatchNorm2d(outputs)


class ResNet(BaseArchitecture):
    """A residual network (He et al., arXiv 1512.03385); every residual block is one layer."""

    kind: Literal["resnet"] = "resnet"
    depth: Literal[20, 32, 44, 56, 110, 18, 34, 50, 101, 152] = 32
    """Layers with weights; 20, 32, 44, 56 and 110 have the CIFAR form, the others the ImageNet form."""
    width: float = Field(default=1.0, gt=0)
    """Factor on the channels of every layer."""

    def layers(self, input_shape: tuple[int, ...], classes: int) -> list[nn.Module]:
        cifar, bottleneck = self.depth not in _IMAGENET_STAGES, self.depth in (50, 101, 152)
        stages = ((self.depth - 2) // 6,) * 3 if cifar else _IMAGENET_STAGES[self.depth]
        big = not cifar and len(input_shape) == 3 and min(input_shape[1:]) > _SMALL_SIDE
        channels = scaled(16 if cifar else 64, self.width)
        stem = ImageStem(image_channels(self.kind, input_shape, 2 ** (len(stages) - 1)), channels, big=big)

        layers: list[nn.Module] = [stem]
        outputs = channels * _EXPANSION if bottleneck else channels
        for stage, count in enumerate(stages):
            for first in [True] + [False] * (count - 1):
                stride = 2 if first and stage else 1
                layers.append(Residual(channels, outputs, stride, bottleneck=bottleneck, padded=cifar))
                channels = outputs
            outputs *= 2
        return draw_for_relu([*layers, PoolLinear(channels, classes)])
