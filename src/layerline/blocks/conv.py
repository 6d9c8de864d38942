"""Convolutional networks without shortcuts: those of the DGL and the DNI paper, and VGG.

All are rows of the same layer: convolution, batch norm, ReLU, with pooling before (DGL) or after (DNI, VGG). Pooling
*before* a convolution that widens costs a quarter of pooling after it; pooling *after* makes what travels to the next
block a quarter of the size.

    DGL   conv64 │ pool conv128 │ conv128 │ pool conv256 │ conv256 │ mlp
    DNI   conv128 pool │ conv128 pool │ conv128 pool │ linear              5×5 convolutions, pooling 3×3
    VGG   conv64 │ conv64 pool │ conv128 │ conv128 pool │ …

Convolutions have no bias: the norm that follows takes away whatever a bias adds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from layerline.blocks.layer import (
    BaseArchitecture,
    Channels,
    Classifier,
    Layer,
    PoolLinear,
    draw_for_relu,
    image_channels,
    scaled,
)
from layerline.blocks.pool import GridMean

_BIG_SIDE = 64
"""Images larger than this get the classifier that VGG had on ImageNet."""


@dataclass(frozen=True)
class Pool:
    """Non-overlapping pooling over size×size pixels, before or after the convolution."""

    size: int = 2
    how: Literal["max", "mean"] = "max"
    before: bool = False

    def module(self) -> nn.Module:
        return nn.MaxPool2d(self.size) if self.how == "max" else nn.AvgPool2d(self.size)


class ConvLayer(Layer):
    """Convolution, batch norm, ReLU, and perhaps pooling. [B, inputs, H, W] -> [B, outputs, H/size, W/size]"""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, pool: Pool | None = None) -> None:
        super().__init__(inputs, outputs, pool.size if pool else 1)
        self._kernel, self._pool = kernel, pool
        self.before = pool.module() if pool and pool.before else None
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.activation = nn.ReLU(inplace=True)
        self.after = pool.module() if pool and not pool.before else None

    def forward(self, x: Tensor) -> Tensor:
        if self.before is not None:
            x = self.before(x)
        h: Tensor = self.activation(self.norm(self.conv(x)))
        return h if self.after is None else self.after(h)

    def anew(self, inputs: int, stride: int) -> ConvLayer:
        pool = replace(self._pool or Pool(), size=stride) if stride > 1 else None
        return ConvLayer(inputs, self.outputs, self._kernel, pool)


class PoolMlp(Classifier):
    """Mean over the four quarters of the image, two hidden layers of 4·inputs units, and the scores; the classifier
    of the DGL authors' network."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        units = 4 * inputs
        hidden = (m for _ in range(2) for m in (nn.Linear(units, units), nn.BatchNorm1d(units), nn.ReLU(inplace=True)))
        self.stack = nn.Sequential(GridMean(2, 2), nn.Flatten(), *hidden, nn.Linear(units, classes))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.stack(x_BCHW)


class VggClassifier(Classifier):
    """VGG's on ImageNet: 7×7 outputs, two hidden layers of 4096 units with dropout, and the scores."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        sizes = (49 * inputs, 4096, 4096)
        hidden = (m for i, o in pairwise(sizes) for m in (nn.Linear(i, o), nn.ReLU(inplace=True), nn.Dropout()))
        self.stack = nn.Sequential(GridMean(7, 7), nn.Flatten(), *hidden, nn.Linear(sizes[-1], classes))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.stack(x_BCHW)


class Conv(BaseArchitecture):
    """The small network of the DGL paper on CIFAR-10 (Belilovsky et al., arXiv 1901.08164): 3×3 convolutions."""

    kind: Literal["conv"] = "conv"
    widths: Channels = Field(default=(64, 128, 128, 256, 256), min_length=1)
    """Channels of each layer. Where they grow, 2×2 max-pooling comes before the convolution (authors' code)."""
    classifier: Literal["mlp", "linear"] = "mlp"
    """"mlp": mean over quarters and two hidden layers (authors' code); "linear": global mean and a linear layer."""

    def layers(self, input_shape: tuple[int, ...], classes: int) -> list[nn.Module]:
        grows = [False, *(later > earlier for earlier, later in pairwise(self.widths))]
        channels = image_channels(self.kind, input_shape, 2 ** sum(grows))
        pools = [Pool(before=True) if grow else None for grow in grows]
        sizes = pairwise((channels, *self.widths))
        layers = [ConvLayer(i, o, pool=pool) for (i, o), pool in zip(sizes, pools, strict=True)]
        return [*layers, (PoolMlp if self.classifier == "mlp" else PoolLinear)(self.widths[-1], classes)]


class Dni(BaseArchitecture):
    """The network of the DNI paper on CIFAR-10 (Jaderberg et al., arXiv 1608.05343) as the DGL authors rebuilt it:
    three 5×5 convolutions, the first with max-pooling over 3×3, the others with mean pooling; 32 → 10 → 3 → 1."""

    kind: Literal["dni"] = "dni"
    width: int = Field(default=128, ge=1)
    """Channels of every layer."""

    def layers(self, input_shape: tuple[int, ...], classes: int) -> list[nn.Module]:
        channels = image_channels(self.kind, input_shape, 27)
        return [
            ConvLayer(channels, self.width, 5, Pool(3)),
            ConvLayer(self.width, self.width, 5, Pool(3, "mean")),
            ConvLayer(self.width, self.width, 5, Pool(3, "mean")),
            PoolLinear(self.width, classes),
        ]


_VGG = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Layers in each of the five stages (Simonyan and Zisserman, arXiv 1409.1556, table 1)."""


class Vgg(BaseArchitecture):
    """VGG with batch norm (Simonyan and Zisserman, arXiv 1409.1556): stages of 3×3 convolutions, each ending in 2×2
    max-pooling. Small images (up to 64 pixels) get a linear classifier, larger ones that of the paper."""

    kind: Literal["vgg"] = "vgg"
    depth: Literal[11, 13, 16, 19] = 16
    """Layers with weights, in the paper's count (convolutions and three linear layers)."""
    width: float = Field(default=1.0, gt=0)
    """Factor on the channels of every layer."""

    def layers(self, input_shape: tuple[int, ...], classes: int) -> list[nn.Module]:
        channels = image_channels(self.kind, input_shape, 32)
        layers: list[nn.Module] = []
        for count, full in zip(_VGG[self.depth], (64, 128, 256, 512, 512), strict=True):
            for last in [False] * (count - 1) + [True]:
                layers.append(ConvLayer(channels, scaled(full, self.width), pool=Pool() if last else None))
                channels = scaled(full, self.width)
        head = VggClassifier if min(input_shape[1:]) > _BIG_SIDE else PoolLinear
        return draw_for_relu([*layers, head(channels, classes)])
