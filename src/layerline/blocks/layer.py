"""What the layers of our networks have in common, so that they can be cut into blocks and copied into heads.

A network is a list: a stem or an embedding where it has one, layers, and a classifier as the last.

    Stem        how the input enters; a block that is nothing else would learn little, so cutting in layers joins it
                with the layer that follows
    Layer       the finest piece worth a block: a convolution with its norm and activation, a residual block, a decoder
                block. It knows its width and by how much it divides the resolution, so that it can be built anew for
                other inputs: heads that copy the layers ahead (AugLocal) need that
    Classifier  from the last layer's outputs to class scores
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Self

from pydantic import Field
from torch import Tensor, nn

from layerline.blocks.pool import grid_mean
from layerline.errors import UsageError
from layerline.settings import Settings

Channels = tuple[Annotated[int, Field(ge=1)], ...]
"""Channels of convolutions that follow each other, each 1 at least."""


class Stem(nn.Module):
    """How the input enters a network."""


class Layer(nn.Module, ABC):
    """A layer with fresh copies. Images: [B, inputs, H, W] -> [B, outputs, H/stride, W/stride]; tokens: [B, T, D]."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.inputs, self.outputs, self.stride = inputs, outputs, stride

    @abstractmethod
    def anew(self, inputs: int, stride: int) -> Layer:
        """The same layer with fresh weights, for inputs of another width, dividing the resolution by `stride`."""


class Classifier(nn.Module, ABC):
    """From outputs to class scores: images [B, inputs, H, W] -> [B, classes]; tokens [B, T, D] -> [B, T, classes]."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.inputs, self.classes = inputs, classes

    def anew(self, inputs: int) -> Self:
        """The same classifier with fresh weights, for outputs of another width."""
        return type(self)(inputs, self.classes)


class PoolLinear(Classifier):
    """Mean over the image, then a linear layer. [B, C, H, W] -> [B, classes]"""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.linear(grid_mean(x_BCHW, 1, 1).flatten(1))


class Unembedding(Classifier):
    """Norm, then a linear layer to the vocabulary, without bias. [B, T, D] -> [B, T, classes]"""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.norm = nn.LayerNorm(inputs)
        self.linear = nn.Linear(inputs, classes, bias=False)
        nn.init.normal_(self.linear.weight, std=0.02)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.linear(self.norm(x_BTD))


class BaseArchitecture(Settings, ABC):
    """A family of networks: settings that draw fresh layers."""

    @abstractmethod
    def layers(self, input_shape: tuple[int, ...], classes: int) -> list[nn.Module]:
        """Fresh layers, drawn from torch's global generator; run one after the other they are the network.

        `input_shape` is that of one example; the last layer gives scores of `classes` classes. Raises `UsageError` for
        a shape the network cannot take.
        """


def image_channels(kind: str, input_shape: tuple[int, ...], divisor: int = 1) -> int:
    """The channels of an image shape (C, H, W). UsageError if it is none, or its sides fall below `divisor`."""
    if len(input_shape) != 3:
        raise UsageError(
            f"a {kind} network wants images, and the examples have the shape {list(input_shape)}",
            hint="choose image data, such as --dataset cifar-10, or another network",
        )
    if min(input_shape[1:]) < divisor:
        raise UsageError(
            f"images of {input_shape[1]}×{input_shape[2]} are too small: this {kind} network divides each side by "
            f"{divisor}",
            hint="choose a network that divides them less often, or larger images",
        )
    return input_shape[0]


def scaled(channels: int, width: float) -> int:
    """So many channels times the factor, at least 1."""
    return max(1, round(channels * width))


def draw_for_relu(layers: list[nn.Module]) -> list[nn.Module]:
    """The same layers with convolutions drawn N(0, 2/fan-out) (He et al., arXiv 1502.01852), as ResNet and VGG are."""
    for layer in layers:
        for module in layer.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return layers
