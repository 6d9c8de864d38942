"""Heads for language models: an unembedding of one's own, or the network's, read only.

    unembedding          norm ► linear to the vocabulary, all learnt by this head
    shared-unembedding   norm ► the network's own unembedding; only the norm is learnt here

A vocabulary of V words and a width of D make V·D weights and V·D multiply-accumulates a token: with a large
vocabulary a head of its own can be dearer than its block. Sharing the weights spares the memory and the update, and
every block learns to speak the language of the last one (SOLO).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from layerline.blocks.heads.base import BaseHead, flat
from layerline.blocks.layer import Unembedding
from layerline.errors import UsageError


class UnembeddingHead(BaseHead):
    """Norm and a linear layer to the vocabulary, of this block alone."""

    kind: Literal["unembedding"] = "unembedding"

    def build(self, block_output_shape: tuple[int, ...], classes: int, ahead: Sequence[nn.Module]) -> nn.Module:
        return Unembedding(self._token_width(block_output_shape), classes)


class SharedUnembeddingHead(BaseHead):
    """Norm, then the network's last layer as it stands, which this head does not train (SOLO)."""

    kind: Literal["shared-unembedding"] = "shared-unembedding"

    def build(self, block_output_shape: tuple[int, ...], classes: int, ahead: Sequence[nn.Module]) -> nn.Module:
        width = self._token_width(block_output_shape)
        last = flat(ahead)[-1] if ahead else None
        if not isinstance(last, Unembedding) or last.inputs != width:
            raise UsageError(
                f"the head '{self.kind}' needs a network that ends in an unembedding of width {width}, "
                f"and this one ends in {'nothing' if last is None else type(last).__name__}",
                hint="choose the head 'unembedding', or a transformer",
            )
        return SharedUnembedding(last)


class SharedUnembedding(nn.Module):
    """Scores by a norm of one's own and the weights of `unembedding`. [B, T, D] -> [B, T, V]

    In one process the weights are the same memory, so they are always those of now. After a move to another device or
    type, or where the unembedding lies in another process, they are a copy: bring it up to date with `follow`. They are
    no parameter here (nothing trains them) and no part of the state that is saved. Between a forward pass of the head
    and its backward pass the unembedding must not be updated; autograd notices.
    """

    shared: Tensor

    def __init__(self, unembedding: Unembedding) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(unembedding.inputs)
        self.register_buffer("shared", unembedding.linear.weight.detach(), persistent=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return functional.linear(self.norm(x_BTD), self.shared)

    @torch.no_grad()
    def follow(self, weights: Sequence[Tensor]) -> None:
        """Takes the one matrix as it is now; shared memory again, if device and type agree."""
        (weight,) = weights
        self.shared = weight.detach().to(self.shared)
