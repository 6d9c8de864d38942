"""What a head is: settings that build a fresh module for the block it sits on.

images   [C, H, W]   mlp-sr, mlp, cnn, conv, linear        scores [B, classes]
vectors  [F]         linear                                scores [B, classes]
tokens   [T, D]      unembedding, shared-unembedding       scores [B, T, classes]
layers ahead         auglocal, man                         as the network's classifier gives them
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NoReturn

from torch import nn

from layerline.blocks.layer import Classifier, PoolLinear, Unembedding
from layerline.errors import UsageError
from layerline.settings import Settings


class BaseHead(Settings, ABC):
    """An auxiliary head's settings."""

    kind: str

    @abstractmethod
    def build(self, block_output_shape: tuple[int, ...], classes: int, ahead: Sequence[nn.Module]) -> nn.Module:
        """A fresh head, drawn from torch's global generator.

        `block_output_shape`: of one example; `ahead`: the blocks (or layers) that follow, down to the classifier. Most
        heads ignore them. Raises `UsageError` where the head does not fit.
        """

    def _image_channels(self, shape: tuple[int, ...], smallest: int = 1) -> int:
        """The channels of an image shape whose sides have at least `smallest` pixels, else UsageError."""
        if len(shape) != 3:
            self._refuse(shape, f"images [C, H, W] of at least {smallest}×{smallest}", _fitting(shape))
        if min(shape[1:]) < smallest:
            self._refuse(shape, f"images of at least {smallest}×{smallest}", "choose the head 'linear' or 'conv'")
        return shape[0]

    def _token_width(self, shape: tuple[int, ...]) -> int:
        """The width of a token shape, else UsageError."""
        if len(shape) != 2:
            self._refuse(shape, "tokens [T, D]", _fitting(shape))
        return shape[1]

    def _refuse(self, shape: tuple[int, ...], wanted: str, hint: str) -> NoReturn:
        raise UsageError(
            f"the head '{self.kind}' does not fit outputs of the shape {list(shape)}: it wants {wanted}", hint=hint
        )


def _fitting(shape: tuple[int, ...]) -> str:
    kinds = {1: "'linear'", 2: "'unembedding' or 'shared-unembedding'", 3: "'mlp-sr', 'cnn' or 'linear'"}
    return f"choose the head {kinds.get(len(shape), kinds[1])}"


def flat(ahead: Sequence[nn.Module]) -> list[nn.Module]:
    """The layers of blocks, in a row."""
    return [layer for part in ahead for layer in (flat(list(part)) if type(part) is nn.Sequential else [part])]


def plain_classifier(shape: tuple[int, ...], classes: int) -> Classifier:
    """Mean and linear for image shapes, norm and linear for token shapes."""
    return PoolLinear(shape[0], classes) if len(shape) == 3 else Unembedding(shape[-1], classes)
