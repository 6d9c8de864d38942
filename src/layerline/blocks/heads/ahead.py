"""Heads made of the layers ahead, so that a block learns what those will need.

    network    [block 1] ► a ► b ► c ► d ► e ► f ► classifier
    auglocal   [block 1] ──────► c'──────────► f'► classifier'     depth = 2: every third layer, fresh weights
    man        [block 1] ► ā + bias ► mean, linear                 ā: a's weights, averaged over the past steps

AugLocal (arXiv 2402.17318): the copies stand at the widths and the resolutions of their originals. The layers are
chosen as in the authors' code, evenly and ending with the last; a copy divides the resolution as all the layers since
the one copied before it do.

MAN (Momentum Auxiliary Network, arXiv 2407.05623): nothing trains ā, whose weights follow those of the next block's
first layer; the bias is learnt, and makes up for the difference between what that layer does for the next block and
what it would have to do here. The rest of the head is our choice: the smallest there is, a mean and a linear layer (on
tokens a norm and a linear layer).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from layerline.blocks.cost import layer_costs
from layerline.blocks.heads.base import BaseHead, flat, plain_classifier
from layerline.blocks.layer import Classifier, Layer
from layerline.errors import UsageError


class AugLocalHead(BaseHead):
    """Fresh copies of a few of the layers ahead, and of the classifier (AugLocal, arXiv 2402.17318)."""

    kind: Literal["auglocal"] = "auglocal"
    depth: int = Field(default=2, ge=0)
    """Layers copied, the classifier not counted; as many as there are, if there are fewer."""

    def build(self, block_output_shape: tuple[int, ...], classes: int, ahead: Sequence[nn.Module]) -> nn.Module:
        layers, classifier = self._renewable(flat(ahead))
        width, behind = _width(block_output_shape), 0
        if layers and layers[0].inputs != width:
            self._refuse(block_output_shape, f"the next layer's width, {layers[0].inputs}", "check the blocks")
        copies: list[nn.Module] = []
        for chosen in evenly(len(layers), self.depth):
            stride = math.prod(layer.stride for layer in layers[behind : chosen + 1])
            copies.append(layers[chosen].anew(width, stride))
            width, behind = layers[chosen].outputs, chosen + 1
        return nn.Sequential(*copies, classifier.anew(width))

    def _renewable(self, ahead: list[nn.Module]) -> tuple[list[Layer], Classifier]:
        layers = [layer for layer in ahead if isinstance(layer, Layer)]
        last = ahead[-1] if ahead else None
        if not isinstance(last, Classifier) or len(layers) != len(ahead) - 1:
            other = [type(layer).__name__ for layer in ahead if not isinstance(layer, Layer | Classifier)]
            raise UsageError(
                f"the head '{self.kind}' copies the layers ahead, and cannot copy "
                f"{other[0] if other else 'a network without a classifier'}",
                hint="choose another head, or a network of the kinds conv, dni, vgg, resnet or transformer",
            )
        return layers, last


def evenly(count: int, wanted: int) -> list[int]:
    """`wanted` of the numbers 0 … count − 1, evenly spread and ending with the last; all, if there are no more."""
    wanted = min(wanted, count)
    return [round(count / wanted * step) - 1 for step in range(1, wanted + 1)]


def _width(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) == 3 else shape[-1]


class ManHead(BaseHead):
    """The next block's first layer, averaged over time, and a learnt bias (MAN, arXiv 2407.05623)."""

    kind: Literal["man"] = "man"
    momentum: float = Field(default=0.995, ge=0, lt=1)
    """Share of the average that stays at each step; the paper: 0.995."""

    def build(self, block_output_shape: tuple[int, ...], classes: int, ahead: Sequence[nn.Module]) -> nn.Module:
        layers = flat(ahead)
        if not layers or isinstance(layers[0], Classifier):
            raise UsageError(
                f"the head '{self.kind}' follows the next layer, and only the classifier is left",
                hint="cut the last block one layer later, or choose another head",
            )
        if not any(True for _ in layers[0].parameters()):
            raise UsageError(
                f"the head '{self.kind}' follows the next layer, and that ({type(layers[0]).__name__}) has no weights",
                hint="let the next block begin with a layer that has, or choose another head",
            )
        if len(block_output_shape) not in (2, 3):
            self._refuse(block_output_shape, "images [C, H, W] or tokens [T, D]", "choose the head 'linear'")
        (cost,) = layer_costs(layers[:1], block_output_shape)
        return MomentumHead(layers[0], cost.output_shape, classes, self.momentum)


class MomentumHead(nn.Module):
    """classifier(layer(x) + bias), where `layer` follows another and is not trained.

    Its running statistics, if it has a batch norm, are its own: they belong to the activities it makes.
    """

    def __init__(self, next_layer: nn.Module, layer_output_shape: tuple[int, ...], classes: int, momentum: float):
        super().__init__()
        self._momentum = momentum
        self.layer = copy.deepcopy(next_layer).requires_grad_(False)
        width, images = _width(layer_output_shape), len(layer_output_shape) == 3
        self.bias = nn.Parameter(torch.zeros((width, 1, 1) if images else (width,)))
        self.classifier = plain_classifier(layer_output_shape, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.layer(x) + self.bias)

    @torch.no_grad()
    def follow(self, weights: Sequence[Tensor]) -> None:
        """One step of the average towards the next layer's parameters; in place, after a backward pass."""
        for mine, theirs in zip(self.layer.parameters(), weights, strict=True):
            mine.lerp_(theirs.to(mine), 1 - self._momentum)
